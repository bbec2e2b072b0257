"""Records of instance segmentation: those of detection with each object's mask relative to its box, mirrored on the
device."""

import functools
from typing import Any

import numpy as np
from keras import ops

from repro.data.base import Sample
from repro.data.cache import Fit
from repro.data.detection import Mirror, fit_boxes
from repro.data.masks import crop_mask
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
MASK_SIDE = 56  # cells of a mask in each direction


def fit_instances(sample: Sample, size: tuple[int, int], max_boxes: int) -> dict[str, np.ndarray]:
    """What `fit_boxes` gives, and masks uint8 [M,56,56]: the share of each cell of its box that an object covers, 255
    for all of it, 0 in the padding. Raises as `fit_boxes`, and where a data set has no masks."""
    if sample.masks is None:
        raise ReproError(f"{sample.image_id} has no masks", "give a data set for instances, see `repro list datasets`")
    record = fit_boxes(sample, size, max_boxes)
    boxes = sample.truth()["boxes"]
    masks = np.zeros((max_boxes, MASK_SIDE, MASK_SIDE), "uint8")
    for slot, index in enumerate(np.flatnonzero(sample.learned())):
        masks[slot] = np.rint(255 * crop_mask(sample.masks[index], boxes[index], MASK_SIDE))
    return record | {"masks": masks}


def fitting(max_boxes: int) -> tuple[str, Fit]:
    """The task's name for the cache, and `fit_instances` for that many objects."""
    return f"instance-{max_boxes}", functools.partial(fit_instances, max_boxes=max_boxes)


class MirrorInstances(Mirror):
    """Turn half of the images left to right, with their boxes and masks (Mask R-CNN, Section 3.1, has this alone)."""

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        # a box at the left edge tells which images were turned: there it ends up at the right edge
        probe = ops.zeros_like(batch["boxes"][:, :1]) + np.array([0, 0, 1, 1], "float32")
        probe = ops.where(ops.cast(batch["valid_size"], "int32")[:, None, 1:] > 1, probe, 0.0)
        mirrored = super().__call__(batch | {"proposals": probe})
        turned = mirrored.pop("proposals")[:, :1, :1] > 0.0  # [B,1,1]
        masks = batch["masks"]
        mirrored["masks"] = ops.where(turned[..., None], ops.flip(masks, axis=-1), masks)
        return mirrored
