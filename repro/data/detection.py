"""Records of detection: one canvas, boxes padded to one number, proposals beside them, mirrored on the device."""

import dataclasses
import functools
from typing import Any

import keras
import numpy as np
from keras import ops

from repro.data.base import Sample
from repro.data.cache import Fit, letterbox
from repro.errors import ReproError
from repro.ops.boxes import flip_boxes

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


def fit_boxes(sample: Sample, size: tuple[int, int], max_boxes: int) -> dict[str, np.ndarray]:
    """An image in `size`, padded at the bottom and the right, with the objects that may be learned from.

    image uint8 [h,w,C], valid_size and original_size int32 [2], boxes float32 [M,4] in pixels of the canvas, classes
    int32 [M], -1 = padding. Difficult and crowd objects are left out. Raises ReproError for more than M objects,
    and where a data set has none at all."""
    if sample.boxes is None or sample.classes is None:
        raise ReproError(f"{sample.image_id} has no boxes", "give a data set for detection, see `repro list datasets`")
    record = letterbox(dataclasses.replace(sample, semantic=None, pixel_weight=None), size)
    original = np.asarray(sample.image.shape[:2], "int32")
    kept = sample.learned()
    count = int(kept.sum())
    if count > max_boxes:
        problem = f"{sample.image_id} has {count} objects, more than the {max_boxes} boxes of a record"
        raise ReproError(problem, f"set the network's option max_boxes to {count} or more")
    boxes, classes = np.zeros((max_boxes, 4), "float32"), np.full(max_boxes, -1, "int32")
    boxes[:count] = rescale(sample.boxes[kept], original, record["valid_size"])
    classes[:count] = sample.classes[kept]
    return record | {"original_size": original, "boxes": boxes, "classes": classes}


def fitting(max_boxes: int) -> tuple[str, Fit]:
    """The task's name for the cache, and `fit_boxes` for that many boxes."""
    return f"detection-{max_boxes}", functools.partial(fit_boxes, max_boxes=max_boxes)


def rescale(boxes: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Boxes [N,4] of an image of size `source` (height, width) in the same image at size `target`, inside it."""
    factor = np.tile((np.asarray(target) / np.asarray(source))[::-1], 2)
    limit = np.tile(np.asarray(target)[::-1], 2)
    return np.clip(boxes * factor, 0, limit).astype("float32")


class WithProposals:
    """Records with their images' proposals: `proposals` float32 [P,4] in pixels of the canvas, the best P, and
    `proposal_valid` bool [P]."""

    def __init__(self, records: Any, proposals: Any, count: int) -> None:
        self._records, self._proposals, self._count = records, proposals, count

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        record = dict(self._records[index])
        found = self._proposals[index][: self._count]
        record["proposals"] = np.zeros((self._count, 4), "float32")
        record["proposals"][: len(found)] = rescale(found, record["original_size"], record["valid_size"])
        record["proposal_valid"] = np.arange(self._count) < len(found)
        return record


class Mirror:
    """Turn half of the images left to right within their valid part, with their boxes (Fast R-CNN, Section 2.3)."""

    def __init__(self, seed: int) -> None:
        self.generator = keras.random.SeedGenerator(seed)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        image = ops.cast(batch["image"], "float32")
        width = ops.cast(batch["valid_size"], "int32")[:, 1:]  # [B,1]
        turned = keras.random.uniform((ops.shape(image)[0], 1), seed=self.generator) < 0.5
        column = ops.arange(image.shape[2], dtype="int32")[None]
        source = ops.where(ops.logical_and(turned, column < width), width - 1 - column, column)
        # a product with a permutation matrix: quicker than a gather of single pixels
        chosen = ops.cast(ops.equal(source[:, :, None], column[:, None, :]), "float32")
        batch = batch | {"image": ops.einsum("bwv,bhvc->bhwc", chosen, image)}
        for name in ("boxes", "proposals"):
            if name in batch:
                mirrored = flip_boxes(batch[name], ops.cast(width, "float32"))
                batch[name] = ops.where(turned[:, :, None], mirrored, batch[name])
        return batch
