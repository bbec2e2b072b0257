"""R-CNN's regions: warped, through the network, and from its features to SVMs, box regressions and detections."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro import backend
from repro.metrics.detection import box_iou
from repro.models import rcnn, vgg
from repro.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from repro.ops.nms import class_nms
from repro.proposals.cache import proposals_of
from repro.proposals.warp import warp
from repro.records.run import Progress
from repro.solvers import ridge_boxes, train_svms
from repro.tasks.predictors import Predictor, to_numpy

REGIONS = 128  # that go through the network at once
BOX_SAMPLES = 4000  # regions of a class that teach its box regression: 25,088 features each at full width
SVM_THRESHOLD = -1.0  # the margin of the negatives
SOFTMAX_THRESHOLD = 0.05


class Images:
    """The images of a split with their proposals and objects, decoded once: warped regions come from all of them in
    any order. `images[i]`: number, image uint8 [H,W,C] and proposals [P,4]. Objects that are difficult or a crowd are
    left out."""

    def __init__(
        self,
        dataset: Any,
        split: str,
        size: tuple[int, int],
        mode: str,
        num_proposals: int,
        *,
        limit: int | None,
        search: dict[str, Any],
    ) -> None:
        self.size, count = size, min(limit or dataset.size(split), dataset.size(split))
        self.num_classes = len(dataset.info.classes)
        self.proposals = proposals_of(dataset, split, mode, num_proposals, limit=limit, **search)
        self.samples = [dataset.sample(split, index) for index in range(count)]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        seconds, size = np.asarray(self.proposals.seconds(index)), np.asarray(self.size)
        image, proposals = self.samples[index].image, self.proposals[index]
        return {"image": image, "proposals": proposals, "search_seconds": seconds, "size": size}

    def objects(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Boxes [M,4] and classes [M] to learn from."""
        sample = self.samples[index]
        kept = sample.learned()
        return sample.boxes[kept], sample.classes[kept]

    def regions(self, index: int, boxes: np.ndarray) -> np.ndarray:
        """Warped regions uint8 [N,h,w,C] of boxes [N,4]."""
        return warp_regions(self.samples[index].image, boxes, self.size)


def warp_regions(image: np.ndarray, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Regions uint8 [N,h,w,C] of boxes [N,4], with their context, the mean colour outside the image."""
    fill = vgg.MEAN_RGB if image.shape[2] == 3 else (127.5,) * image.shape[2]
    parts = [warp(image, part, size, fill) for part in rcnn.context_boxes(boxes)]
    return np.stack(parts) if parts else np.zeros((0, *size, image.shape[2]), "uint8")


class RegionRecords:
    """Fine-tuning's regions (Section 2.3): all proposals and objects of IoU 0.5 and more with an object, and three
    times as many of the others, drawn by the seed. `records[i]`: image uint8 [h,w,C], label (0 = background)."""

    def __init__(self, images: Images, seed: int) -> None:
        self._images, table = images, []
        for index in range(len(images)):
            truth, classes = images.objects(index)
            boxes = np.concatenate([truth, images.proposals[index]])
            overlap = box_iou(boxes, truth) if len(truth) else np.zeros((len(boxes), 1))
            classes = classes if len(truth) else np.zeros(1, "int32")
            labels = np.where(overlap.max(axis=1) >= rcnn.POSITIVE_IOU, classes[overlap.argmax(axis=1)] + 1, 0)
            table += [(index, box, int(label)) for box, label in zip(boxes, labels, strict=True)]
        positives, others = ([row for row in table if bool(row[2]) == wanted] for wanted in (True, False))
        wanted = round(len(positives) * (1 / rcnn.POSITIVE_SHARE - 1))
        chosen = np.random.default_rng(seed).permutation(len(others))[:wanted]
        self._table = [*positives, *(others[number] for number in chosen)]

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, number: int) -> dict[str, np.ndarray]:
        index, box, label = self._table[number]
        image = self._images.regions(index, box[None])[0]
        return {"image": image, "valid_size": np.asarray(image.shape[:2], "int32"), "label": np.asarray(label, "int32")}


class Decode(keras.Model):
    """SVM scores and box deltas of one image's proposals to its detections."""

    def __init__(self, threshold: float, max_detections: int = 100) -> None:
        super().__init__(name="decode", autocast=False)
        self.max_detections, self.threshold = max_detections, threshold
        self.built = True  # it has no weights, and JAX asks

    def call(self, inputs, training=False):
        """proposals [1,P,4], deltas [1,P,K,4], scores [1,P,K] (-inf = padding), size [1,2] (height, width)."""
        boxes = decode_boxes(inputs["deltas"], inputs["proposals"][:, :, None])
        flat = keras.ops.reshape(boxes, (1, -1, 4))
        boxes = keras.ops.reshape(clip_boxes(flat, inputs["size"]), boxes.shape)
        return class_nms(boxes, inputs["scores"], rcnn.NMS_IOU, self.threshold, self.max_detections)


class RegionPredictor(Predictor):
    """R-CNN as it detects: an image's proposals through the network, the SVMs and box regressions, suppression.

    `solved`: what `solve` learned. A prediction has the detections of three variants, `full`, `unrefined` (without box
    regression) and `softmax` (fine-tuning's, in place of the SVMs), and the `seconds` of its stages."""

    batch_size = 1  # images differ in size

    def __init__(self, network: keras.Model, num_proposals: int) -> None:
        super().__init__(network)
        self.num_proposals = num_proposals
        self.solved: dict[str, Any] = {}
        self._programs = {
            name: backend.forward(Decode(threshold), "xla")
            for name, threshold in (("svm", SVM_THRESHOLD), ("softmax", SOFTMAX_THRESHOLD))
        }

    def features(self, regions: np.ndarray) -> dict[str, np.ndarray]:
        """The network's outputs for regions uint8 [N,h,w,C], as NumPy [N,...]; REGIONS at a time, under XLA."""
        program = backend.forward(self.network, "xla")
        parts: list[dict[str, np.ndarray]] = []
        for first in range(0, max(1, len(regions)), REGIONS):
            part = regions[first : first + REGIONS]
            padded = np.zeros((REGIONS, *regions.shape[1:]), "float32")
            padded[: len(part)] = part
            found = to_numpy(program(keras.ops.convert_to_tensor(padded)))
            parts.append({name: values[: len(part)] for name, values in found.items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def outputs(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """The three variants of one image, and the seconds of its stages."""
        (image,), (proposals,), (side,) = batch["image"], batch["proposals"], batch["size"]
        clock = time.perf_counter
        marks = [clock()]
        regions = warp_regions(image, proposals, (int(side[0]), int(side[1])))
        marks.append(clock())
        outputs = self.features(regions)
        marks.append(clock())
        scores, deltas = self.classify(outputs)
        marks.append(clock())
        found: dict[str, Any] = {"full": self.decode("svm", proposals, deltas, scores, image.shape[:2])}
        marks.append(clock())
        stages = ("warp", "network", "SVMs and boxes", "NMS")
        seconds = dict(zip(stages, map(float, np.diff(marks)), strict=True))
        found["seconds"] = {"proposals": float(batch["search_seconds"][0]), **seconds}
        found["unrefined"] = self.decode("svm", proposals, 0 * deltas, scores, image.shape[:2])
        shares = np.exp(outputs["scores"] - outputs["scores"].max(axis=1, keepdims=True))
        shares = (shares / shares.sum(axis=1, keepdims=True))[:, 1:]
        found["softmax"] = self.decode("softmax", proposals, 0 * deltas, shares, image.shape[:2])
        return found

    def prediction(self, outputs: dict[str, Any], record: dict[str, np.ndarray], index: int) -> dict[str, Any]:
        """What `outputs` gives: a batch is one image."""
        return outputs

    def classify(self, outputs: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """SVM scores [P,K] and deltas float32 [P,K,4] of regions; 0 for classes without a regression."""
        solved = self.solved
        scores = (outputs["features"] * solved["scale"]) @ solved["weights"] + solved["bias"]
        deltas = np.zeros((len(scores), len(solved["boxes"]), 4), "float32")
        for kind, weights in enumerate(solved["boxes"]):
            if weights is not None:
                deltas[:, kind] = (outputs["pool5"] * solved["box_scale"]) @ weights[:-1] + weights[-1]
        return scores, deltas

    def decode(
        self, name: str, proposals: np.ndarray, deltas: np.ndarray, scores: np.ndarray, size: tuple[int, int]
    ) -> dict[str, np.ndarray]:
        """Detections of one image by "svm" or "softmax": boxes [n,4], scores [n], classes [n]."""
        count, (number, kinds) = self.num_proposals, scores.shape
        padded = {
            "proposals": np.zeros((1, count, 4), "float32"),
            "deltas": np.zeros((1, count, kinds, 4), "float32"),
            "scores": np.full((1, count, kinds), -np.inf, "float32"),
            "size": np.asarray([size], "float32"),
        }
        for key, values in (("proposals", proposals), ("deltas", deltas), ("scores", scores)):
            padded[key][0, :number] = values
        found = to_numpy(
            self._programs[name]({key: keras.ops.convert_to_tensor(value) for key, value in padded.items()})
        )
        return {key: found[key][0, : int(found["count"][0])] for key in ("boxes", "scores", "classes")}

    def cost(self) -> dict[str, int]:
        """Parameters of the network, and its operations for all proposals of an image."""
        cost = super().cost()
        return cost | {"flops": self.num_proposals * cost["flops"]}


def solve(
    predictor: RegionPredictor, images: Images, folder: Path, report: Progress, cache: int | None = None
) -> tuple[dict[str, Any], dict[str, float]]:
    """SVMs (Section 2.3) and box regressions (Appendix C) of a fine-tuned network, from features on the disk.

    Returns what `train_svms` does, with `boxes`, for each class the regression's weights or None, `box_scale`, and
    `bytes`, what the features of an image take on average; and the seconds of the parts."""
    seconds, started, kinds = {}, time.perf_counter(), images.num_classes
    folder.mkdir(parents=True, exist_ok=True)
    positives: list[list[np.ndarray]] = [[] for _ in range(kinds)]
    examples: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(kinds)]
    size, norms = 0, []

    def kept_features() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for index in range(len(images)):
            with np.load(folder / f"{index}.npz") as arrays:
                yield arrays["features"], arrays["overlap"]

    try:
        for index in range(len(images)):
            truth, classes = images.objects(index)
            proposals = images.proposals[index]
            boxes = np.concatenate([proposals, truth]).astype("float32")
            found = predictor.features(images.regions(index, boxes))
            features = found["features"].astype("float16")
            overlap = class_overlaps(proposals, truth, classes, kinds)
            path = folder / f"{index}.npz"
            np.savez(path, features=features[: len(proposals)], overlap=overlap)
            size += path.stat().st_size
            for box, kind in enumerate(classes):
                positives[kind].append(features[len(proposals) + box])
            norms.append(np.linalg.norm(found["pool5"][: len(proposals)], axis=1))
            regions = np.concatenate([proposals, truth])
            collect_box_examples(examples, found["pool5"], regions, truth, classes)
            report((index + 1) / len(images), f"features {index + 1}/{len(images)}")
        seconds["features"] = time.perf_counter() - started

        started = time.perf_counter()
        width = predictor.network.output["features"].shape[-1]
        objects = [np.array(rows, "float16").reshape(-1, width) for rows in positives]
        solved = train_svms(objects, kept_features, kinds, negative_iou=rcnn.NEGATIVE_IOU, cache=cache)
        seconds["SVMs"] = time.perf_counter() - started
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    started = time.perf_counter()
    scale = 20.0 / float(np.concatenate(norms).mean())
    regressions: list[np.ndarray | None] = []
    for rows in examples:
        columns = [np.stack(column) for column in zip(*rows[:BOX_SAMPLES], strict=True)]
        regressions.append(ridge_boxes(columns[0], columns[1], scale=scale) if rows else None)
    seconds["box regression"] = time.perf_counter() - started
    return {**solved, "boxes": regressions, "box_scale": scale, "bytes": size / len(images)}, seconds


def class_overlaps(proposals: np.ndarray, truth: np.ndarray, classes: np.ndarray, num_classes: int) -> np.ndarray:
    """The highest IoU of each proposal with an object of each class, float32 [P,K]."""
    overlap = np.zeros((len(proposals), num_classes), "float32")
    iou = box_iou(proposals, truth)
    for column, kind in enumerate(classes):
        overlap[:, kind] = np.maximum(overlap[:, kind], iou[:, column])
    return overlap


def collect_box_examples(
    examples: list[list], features: np.ndarray, regions: np.ndarray, truth: np.ndarray, classes: np.ndarray
) -> None:
    """Add (pool5, deltas to the nearest object) of the regions close to an object, class by class."""
    if not len(truth):
        return
    iou = box_iou(regions, truth)
    nearest = iou.argmax(axis=1)
    targets = np.asarray(keras.ops.convert_to_numpy(encode_boxes(truth[nearest], regions)))
    for row in np.flatnonzero(iou.max(axis=1) > rcnn.BOX_IOU):
        kind = classes[nearest[row]]
        if len(examples[kind]) < BOX_SAMPLES:
            examples[kind].append((features[row].astype("float32"), targets[row]))
