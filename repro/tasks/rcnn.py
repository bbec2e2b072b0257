"""R-CNN as its paper trains it: warped regions, fine-tuning, features to disk, linear SVMs, box regression."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import numpy as np

from repro.data.base import Info
from repro.errors import ReproError
from repro.metrics.coco import coco_protocol
from repro.metrics.detection import detection_protocol, voc_ap
from repro.records.run import Progress
from repro.records.settings import Data, Network
from repro.tasks.base import Evaluator, canvas_of
from repro.tasks.classification import Dense
from repro.tasks.detection import Boxes
from repro.tasks.objects import Objects

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class Variants(Boxes):
    """Average precisions of the detections with the SVMs and box regression, and of two lesser forms; how long each
    stage took."""

    def __init__(self, dataset: Any, split: str) -> None:
        super().__init__(dataset, split, ())
        self._lesser: dict[str, list[dict[str, Any]]] = {"unrefined": [], "softmax": []}
        self._seconds: dict[str, list[float]] = {}

    def add(self, index: int, prediction: dict[str, Any], record: dict[str, np.ndarray]) -> None:
        """prediction: as `RegionPredictor` gives it."""
        super().add(index, prediction["full"], record)
        for name, found in self._lesser.items():
            found.append(prediction[name])
        for name, value in prediction["seconds"].items():
            self._seconds.setdefault(name, []).append(value)

    def scores(self, objects: Objects) -> dict[str, Any]:
        """`map_unrefined`: without box regression; `map_softmax`: fine-tuning's softmax in place of the SVMs."""
        count = len(self._dataset.info.classes)
        lesser = {f"map_{name}": voc_ap(found, objects.truths, count)["mean"] for name, found in self._lesser.items()}
        return super().scores(objects) | lesser

    def seconds(self) -> dict[str, list[float]]:
        """The seconds of each stage, `stage.<name>`, without the first image where there are more: it compiles."""
        return {f"stage.{name}": values[1:] or values for name, values in self._seconds.items()}


class RCNN(Dense, tag="rcnn", frozen=True):
    """proposals: mode of selective search and `search` its other options; num_proposals: what it gives; svm_cache: the
    negatives that an SVM keeps at most (None: no limit, as released)."""

    TABLE: ClassVar[str] = "detection"
    LATENCY: ClassVar[str] = ""  # it is no single program

    proposals: str = "fast"
    search: dict[str, Any] = msgspec.field(default_factory=dict)
    num_proposals: int = 2000
    svm_cache: int | None = None

    def records(self, network: Network, data: Data, dataset: Any, split: str, limit: int | None = None) -> Any:
        """Whole images with their proposals, `repro.tasks.regions.Images`."""
        from repro.tasks.regions import Images

        size, count = canvas_of(network, data), self.num_proposals
        return Images(dataset, split, size, self.proposals, count, limit=limit, search=self.search)

    def training_records(self, records: Any, seed: int) -> Any:
        """Warped regions with their labels, `repro.tasks.regions.RegionRecords`."""
        from repro.tasks.regions import RegionRecords

        return RegionRecords(records, seed)

    def predictor(self, network: Network, data: Data, num_classes: int, channels: int, trained: Any = None) -> Any:
        """A `RegionPredictor` with weights of its own; `complete` gives it SVMs and regressions."""
        from repro.tasks.networks import build
        from repro.tasks.regions import RegionPredictor

        return RegionPredictor(build(network, num_classes, channels), self.num_proposals)

    def complete(self, predictor: Any, records: Any, folder: Path, seconds: float, report: Progress) -> dict[str, Any]:
        """SVMs and box regressions of the fine-tuned network. Returns what they took and what they learned from."""
        from repro.tasks.regions import solve

        solved, parts = solve(predictor, records, folder / "features", report, self.svm_cache)
        predictor.solved = solved
        parts = {"fine-tuning": seconds, **parts}
        return {
            "feature_bytes": round(solved["bytes"]),
            "training_seconds": {name: round(value, 2) for name, value in parts.items()},
            "svm_positives": [entry["positives"] for entry in solved["stats"]],
        }

    def extra_weights(self, predictor: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
        """The SVMs, their scales, and the regressions there are."""
        solved = predictor.solved
        scales = np.array([solved["scale"], solved["box_scale"]], "float32")
        found = {
            f"boxes/{name}": value for name, value in zip(names, solved["boxes"], strict=True) if value is not None
        }
        return {"svm/weights": solved["weights"], "svm/bias": solved["bias"], "svm/scales": scales, **found}

    def evaluator(self, dataset: Any, split: str, count: int, curve: bool = False) -> Evaluator:
        """Average precisions of the three forms, `Variants`."""
        return Variants(dataset, split)

    def protocol(self, network: Network, data: Data, info: Info) -> dict[str, Any]:
        """The metrics, what becomes a detection, and what the lesser forms leave out."""
        from repro.models.rcnn import NMS_IOU
        from repro.tasks.regions import SVM_THRESHOLD

        side = "x".join(map(str, canvas_of(network, data)))
        return {
            **detection_protocol(),
            **coco_protocol(),
            **({"images": f"the first {data.test_limit} of the split"} if data.test_limit else {}),
            "proposals": f"selective search, {self.proposals} mode",
            "inference": f"{self.num_proposals} proposals warped to {side}",
            "detections": f"SVM scores above {SVM_THRESHOLD:g} (0.05 of the softmax), non-maximum suppression at IoU "
            f"{NMS_IOU:g} in each class, the best 100 of an image",
            **({"svm_cache": f"at most {self.svm_cache} negatives a class"} if self.svm_cache else {}),
            "feature_bytes": "fc7 of the proposals and their overlaps with the objects, float16, an image on the disk",
            "map_unrefined": "without box regression",
            "map_softmax": "fine-tuning's softmax in place of the SVMs, without box regression",
        }

    def scored_records(self, network: Network, data: Data, dataset: Any, split: str) -> Any:
        """Raise ReproError: a weight file alone is no R-CNN."""
        raise ReproError("the SVMs that R-CNN detects with are not in its network", "`repro run` trains and scores it")

    def picture_records(self, images: Sequence[np.ndarray], network: Network, data: Data) -> list[dict]:
        """Raise ReproError: a picture has no proposals."""
        raise ReproError("repro predict has no proposals, which rcnn needs", "use faster_rcnn")
