"""Finding objects as boxes: scored in the coordinates of the original images."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
from PIL import Image

from repro import backend, registry
from repro.data.base import Info, Sample
from repro.data.cache import OnDemand, decoded, letterbox
from repro.drawing.overlays import draw_boxes
from repro.errors import ReproError
from repro.files import sha256_of, write_lines
from repro.metrics.coco import coco_protocol
from repro.metrics.detection import detection_protocol, proposal_recall
from repro.records.result import Artifact
from repro.records.run import Run
from repro.records.samples import sample_indices
from repro.records.settings import Data, Network
from repro.tasks.base import Evaluator, Phase, Task, Training, canvas_of
from repro.tasks.objects import Objects, objects_of, scores_of

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
MAX_BOXES = 64  # of a record to learn from
PROPOSALS = 20  # the best, of an image of a picture
LEAST_SCORE = 0.3  # of a box in a picture
ALTERNATING = ("1-rpn", "2-fast-rcnn", "3-rpn", "4-fast-rcnn")


class Boxes(Evaluator):
    """VOC's and COCO's average precisions, `map` being VOC's (all points, IoU 0.5); of masks too where they are asked
    for; the recall of proposals at `counts`."""

    def __init__(self, dataset: Any, split: str, counts: tuple[int, ...], masks: bool = False) -> None:
        self._dataset, self._split, self._counts, self._masks = dataset, split, counts, masks
        self.predictions: list[dict[str, Any]] = []

    def add(self, index: int, prediction: dict[str, Any], record: dict[str, np.ndarray]) -> None:
        """prediction: as `DetectorPredictor` gives it."""
        self.predictions.append(prediction)

    def metrics(self) -> dict[str, Any]:
        """The scores against the objects of as many images as there are predictions."""
        return self.scores(objects_of(self._dataset, self._split, len(self.predictions), masks=self._masks))

    def scores(self, objects: Objects) -> dict[str, Any]:
        """The scores against the objects of the images."""
        found = self.predictions
        masks = self._masks and "masks" in found[0]
        metrics = scores_of(found, objects, self._dataset.info.classes, masks=masks)
        if self._counts and "proposals" in found[0]:
            proposals = [prediction["proposals"] for prediction in found]
            metrics["recall"] = proposal_recall(proposals, objects.truths, counts=self._counts)
        return metrics

    def samples(self, run: Run, predictor: Any, records: Any) -> dict[str, Artifact]:
        """The stages of some test images, a line of JSON each; boxes are in pixels of the original image. Anchors are
        those of an RPN, if there is one, that its training would call positive for the image's objects."""
        from repro.tasks.networks import positive_anchors

        kept = []
        for index in sample_indices(len(self.predictions)):
            found = self.predictions[index]
            entry = chosen_objects(found, np.flatnonzero(found["scores"] >= LEAST_SCORE))
            entry.pop("masks", None)
            if "proposals" in found:
                entry["proposals"] = rounded_boxes(found["proposals"][:PROPOSALS])
            anchors = positive_anchors(predictor.network, records[index])
            if anchors is not None:
                entry["anchors"] = rounded_boxes(anchors)
            kept.append(entry)
        path = run.artifact("stages.jsonl")
        write_lines(path, kept)
        return {"stages": Artifact(file=path.name, sha256=sha256_of(path))}


def rounded_boxes(boxes: np.ndarray) -> list[list[float]]:
    """Boxes to a tenth of a pixel, ready for JSON."""
    return np.round(np.asarray(boxes, "float64"), 1).tolist()


def chosen_objects(found: dict[str, Any], chosen: np.ndarray) -> dict[str, Any]:
    """`boxes`, `scores`, `classes` and, where there are any, `masks` of some of the objects found, ready for JSON."""
    entry = {
        "boxes": rounded_boxes(found["boxes"][chosen]),
        "scores": [round(float(found["scores"][k]), 3) for k in chosen],
        "classes": [int(found["classes"][k]) for k in chosen],
    }
    return entry | ({"masks": [found["masks"][k] for k in chosen]} if "masks" in found else {})


class Detection(Task, tag="detection", frozen=True):
    """proposals: mode of selective search ("fast" or "quality") for networks that do not propose regions themselves,
    and `search` its other options. training: "joint", or "alternating" for the four steps of Faster R-CNN's Section
    3.2. decoding: options of the model file's `detect`. recall_counts: how many proposals their recall is measured at.
    max_boxes: objects a record has room for, by default what the network has."""

    TABLE: ClassVar[str] = "detection"
    CURVE: ClassVar[tuple[str, ...]] = ("map",)
    LATENCY: ClassVar[str] = "one image to final boxes as one program, XLA, batch 1; without selective search"

    proposals: str = ""
    search: dict[str, Any] = msgspec.field(default_factory=dict)
    training: Literal["joint", "alternating"] = "joint"
    decoding: dict[str, Any] = msgspec.field(default_factory=dict)
    recall_counts: tuple[int, ...] = (10, 30, 100, 300)
    max_boxes: int | None = None

    def check(self, settings: Training) -> None:
        """Raise ReproError for alternating training of a network other than faster_rcnn on VGG-16."""
        if self.training == "alternating" and settings.network.name != "faster_rcnn":
            name = settings.network.name
            raise ReproError(f"{name} cannot train in alternation", 'use faster_rcnn, or training "joint"')

    def records(self, network: Network, data: Data, dataset: Any, split: str, limit: int | None = None) -> Any:
        """Images fitted into the canvas with their objects, and selective search's proposals where they are needed."""
        room = self.max_boxes or network.options.get("max_boxes", MAX_BOXES)
        kind, fit = self._fitting(room)
        records = decoded(dataset, split, canvas_of(network, data), kind, fit=fit, limit=limit)
        return self._with_proposals(records, network, dataset, split, limit)

    def scored_records(self, network: Network, data: Data, dataset: Any, split: str) -> Any:
        """The records of a split that are looked at once, decoded when they are asked for, with room for more objects
        than any image of COCO has: they are not learned from."""
        kind, fit = self._fitting(max(256, network.options.get("max_boxes", 0)))
        records = OnDemand(dataset, split, canvas_of(network, data), kind, fit=fit, limit=data.test_limit)
        return self._with_proposals(records, network, dataset, split, data.test_limit)

    def _fitting(self, max_boxes: int) -> tuple[str, Any]:
        from repro.data.detection import fitting

        return fitting(max_boxes)

    def _with_proposals(self, records: Any, network: Network, dataset: Any, split: str, limit: int | None) -> Any:
        if not self.proposals:
            return records
        from repro.data.detection import WithProposals
        from repro.proposals.cache import proposals_of

        count = network.options.get("proposals", 2000)
        found = proposals_of(dataset, split, self.proposals, count, limit=limit, **self.search)
        return WithProposals(records, found, count)

    def augmentation(self, settings: Training, seed: int) -> Any:
        """What changes the images in training, or None."""
        from repro.data.detection import Mirror

        return Mirror(seed) if settings.augment.get("flip") else None

    def learner(self, settings: Training, num_classes: int, seed: int, steps: int, records: Any) -> Any:
        """As `Task.learner`: the network and the learner of `trained`, built on the first record."""
        from repro.tasks.learners import compiled
        from repro.tasks.networks import build

        backend.set_seed(seed)
        wanted, make = self.trained(settings.network, seed)
        network = build(wanted, num_classes, records[0]["image"].shape[-1], "train")
        loss, augment = registry.module_of(wanted.name).loss, self.augmentation(settings, seed)
        learner = make(network, loss, settings.loss_options, augment, batch_size=settings.batch_size)
        return compiled(learner, settings, steps, records[0])

    def trained(self, network: Network, seed: int) -> tuple[Network, Callable[..., Any]]:
        """The network as it is built to be trained, and the class of its learner."""
        from repro.tasks.learners import DetectorLearner

        return network, DetectorLearner

    def phase_names(self) -> tuple[str, ...]:
        """One without a name, or the four steps of alternating training."""
        return ALTERNATING if self.training == "alternating" else super().phase_names()

    def phases(
        self, settings: Training, learner: Any, records: Any, seed: int, steps: int, num_classes: int
    ) -> Iterator[Phase]:
        """All layers at once, or the four steps of `repro.tasks.alternating`."""
        if self.training == "joint":
            return super().phases(settings, learner, records, seed, steps, num_classes)
        from repro.tasks.alternating import alternate

        own: dict[str, Any] = {"names": ALTERNATING, "augmentation": self.augmentation, "max_boxes": MAX_BOXES}
        return alternate(settings, learner, records, seed, steps, num_classes, **own)

    def predictor(self, network: Network, data: Data, num_classes: int, channels: int, trained: Any = None) -> Any:
        """As `Task.predictor`, with weights of its own: training heads are not those of inference."""
        from repro.tasks.networks import build
        from repro.tasks.predictors import DetectorPredictor

        model = build(network, num_classes, channels)
        return DetectorPredictor(model, registry.module_of(network.name).detect, self.decoding)

    def evaluator(self, dataset: Any, split: str, count: int, curve: bool = False) -> Evaluator:
        """Average precisions, `Boxes`; for curves without the recall of proposals."""
        return Boxes(dataset, split, () if curve else self.recall_counts)

    def protocol(self, network: Network, data: Data, info: Info) -> dict[str, Any]:
        """The metrics, and what of a network's boxes becomes a detection."""
        canvas = "x".join(map(str, canvas_of(network, data)))
        return {
            **detection_protocol(),
            **coco_protocol(),
            "inference": f"images fitted into {canvas}; boxes mapped back and scored in the original image; one scale, "
            "no flip at test time",
            **({"images": f"the first {data.test_limit} of the split"} if data.test_limit else {}),
            **({"proposals": f"selective search, {self.proposals} mode"} if self.proposals else {}),
            "detections": detections_text(self._thresholds(network)),
        }

    def _thresholds(self, network: Network) -> dict[str, Any]:
        signature = inspect.signature(registry.module_of(network.name).detect)
        return {key: parameter.default for key, parameter in signature.parameters.items()} | self.decoding

    def picture_records(self, images: Sequence[np.ndarray], network: Network, data: Data) -> list[dict]:
        """Images fitted into the canvas. Raises ReproError for networks that need proposals."""
        if self.proposals:
            raise ReproError(
                f"repro predict has no proposals, which {network.name} needs",
                "use faster_rcnn, or score it with repro eval",
            )
        size = canvas_of(network, data)
        return [
            letterbox(Sample("", image), size) | {"original_size": np.asarray(image.shape[:2], "int32")}
            for image in images
        ]

    def show(
        self, image: np.ndarray, answer: dict[str, Any], name: str, loader: Any
    ) -> tuple[str, Any, dict[str, Any]]:
        """How many objects of each class score 0.3 or more, COCO's results, and `objects.png`.

        `image_id` is the number that a file is named by, as COCO's are, else the file's name; `category_id` is COCO's
        for its classes, else the class counted from 1."""
        names, chosen = loader.info.classes, np.flatnonzero(answer["scores"] >= LEAST_SCORE)
        categories = getattr(loader, "category_ids", None) or tuple(range(1, len(names) + 1))
        stem = PurePath(name).stem
        results = coco_results(int(stem) if stem.isdecimal() else name, answer, categories)
        counts = Counter(names[int(kind)] for kind in answer["classes"][chosen])
        listed = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
        drawn = Image.fromarray(self._drawn(image, answer, chosen, names))
        line = f"{name}: {listed or f'nothing scores {LEAST_SCORE:g} or more'}"
        return line, results, {"objects.png": drawn}

    def _drawn(self, image: np.ndarray, answer: dict[str, Any], chosen: np.ndarray, names: Sequence[str]) -> np.ndarray:
        boxes, classes, scores = (answer[name][chosen] for name in ("boxes", "classes", "scores"))
        return draw_boxes(image, boxes, classes, names, scores=scores)


def detections_text(options: dict[str, Any]) -> str:
    """What of a network's boxes becomes a detection, in words."""
    return (
        f"scores above {options['score_threshold']:g}, non-maximum suppression at IoU {options['nms_threshold']:g} in "
        f"each class, the best {options['max_detections']} of an image"
    )


def coco_results(image_id: int | str, objects: dict[str, Any], categories: Sequence[int]) -> list[dict[str, Any]]:
    """COCO's results of an image: bbox as x, y, width, height; segmentation as compressed run lengths.

    >>> coco_results(7, {"boxes": [[1, 2, 4, 8]], "scores": [0.5], "classes": [0]}, categories=(18,))
    [{'image_id': 7, 'category_id': 18, 'bbox': [1.0, 2.0, 3.0, 6.0], 'score': 0.5}]
    """
    answers = []
    for index, (x1, y1, x2, y2) in enumerate(np.asarray(objects["boxes"], float).round(2).tolist()):
        entry = {
            "image_id": image_id,
            "category_id": categories[int(objects["classes"][index])],
            "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
            "score": round(float(objects["scores"][index]), 5),
        }
        answers.append(entry | ({"segmentation": objects["masks"][index]} if "masks" in objects else {}))
    return answers
