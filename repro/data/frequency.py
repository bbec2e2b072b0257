"""Class weights that make rare classes count in a loss: median frequency balancing."""

from typing import Any

import numpy as np

from repro.data.base import VOID
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


def median_frequency_weights(dataset: Any, split: str, num_classes: int) -> tuple[float, ...]:
    """Weight of every class in the loss: the median of all classes' frequencies over its own frequency.

    A frequency is the number of pixels of a class over the number of pixels, void left out, of the images in which
    the class is present (Eigen & Fergus 2015, Section 6.3.2; SegNet, Section 3.2). The class of median frequency
    weighs 1. A class without a pixel in the split has no frequency: it is left out of the median and weighs 0.

    `dataset` is a loader whose samples have `semantic`; every sample of the split is decoded once. Raises ReproError
    for labels that are neither class nor void, and for a split without a labelled pixel."""
    pixels, around = np.zeros(num_classes, "int64"), np.zeros(num_classes, "int64")
    for index in range(dataset.size(split)):
        sample = dataset.sample(split, index)
        counts = np.bincount(sample.semantic[sample.semantic != VOID], minlength=num_classes)
        if len(counts) > num_classes:
            problem = f"{sample.image_id} of {split} has label {len(counts) - 1}"
            raise ReproError(problem, f"{num_classes} classes are 0..{num_classes - 1}")
        pixels += counts
        around[counts > 0] += counts.sum()
    present = pixels > 0
    if not present.any():
        raise ReproError(f"no pixel of {split} has a label", "choose a split with labels")
    frequency = pixels[present] / around[present]
    weights = np.zeros(num_classes)
    weights[present] = np.median(frequency) / frequency
    return tuple(float(weight) for weight in weights)
