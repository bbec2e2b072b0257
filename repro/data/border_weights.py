"""The weight map that makes U-Net learn the thin borders between touching cells (Ronneberger et al. 2015, Eq. 2)."""

import math

import numpy as np
from scipy import ndimage

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_NEGLIGIBLE = 1e-7  # what the border term may lack; float32 cannot tell 1 from 1 plus half of it


def border_weights(
    instances: np.ndarray, w0: float = 10.0, sigma: float = 5.0, class_balance: bool = True
) -> np.ndarray:
    """w(x) = w_c(x) + w0 exp(-(d1(x) + d2(x))^2 / (2 sigma^2)), float32 [H,W].

    instances int [H,W]: 0 = border or background, one number above 0 for each cell. d1 and d2 are the distances of a
    background pixel, centre to centre in pixels, to the nearest and the second nearest cell. Cells' own pixels have no
    second term, nor has a map with fewer than two cells.

    w_c, which the paper only says balances "the different frequency of pixels from a certain class", is here
    N / (2 N_class) with the N pixels of this map and the N_class of cells or of background: each of the two weighs N/2
    in all, the mean is 1. It is 1 everywhere in a map of one class, and without `class_balance`.

    Raises ValueError for maps that are no instance maps and for w0 below 0 or sigma of 0 or below."""
    instances = np.asarray(instances)
    if instances.ndim != 2 or not np.issubdtype(instances.dtype, np.integer) or instances.min() < 0:
        raise ValueError(f"instances must be integers of at least 0 and [H,W], not {instances.dtype} {instances.shape}")
    if w0 < 0 or sigma <= 0:
        raise ValueError(f"w0 is {w0} and sigma {sigma}, not at least 0 and above 0")
    background = instances == 0
    weights = _class_weights(background) if class_balance else np.ones(instances.shape)
    # d1 and d2 matter no further than this: beyond, the term is negligible whatever the other one is
    reach = math.ceil(sigma * math.sqrt(2 * math.log(max(w0 / _NEGLIGIBLE, 1.0))))
    nearest, second = _two_nearest(instances, reach)
    border = w0 * np.exp(-((nearest + second) ** 2) / (2 * sigma**2))
    return (weights + np.where(background, border, 0.0)).astype("float32")


def _class_weights(background: np.ndarray) -> np.ndarray:
    count = np.count_nonzero(background)
    if count in (0, background.size):
        return np.ones(background.shape)
    return np.where(background, background.size / (2 * count), background.size / (2 * (background.size - count)))


def _two_nearest(instances: np.ndarray, reach: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances of every pixel to the nearest and the second nearest cell, exact up to `reach`, infinite or exact
    beyond."""
    nearest, second = np.full(instances.shape, np.inf), np.full(instances.shape, np.inf)
    numbers, ranks = np.unique(instances, return_inverse=True)
    ranks = ranks.reshape(instances.shape) + int(numbers[0] != 0)  # background 0, cells 1, 2, ... without gaps
    for rank, box in enumerate(ndimage.find_objects(ranks), 1):
        around = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in box)
        distance = ndimage.distance_transform_edt(ranks[around] != rank)
        second[around] = np.minimum(second[around], np.maximum(nearest[around], distance))
        nearest[around] = np.minimum(nearest[around], distance)
    return nearest, second
