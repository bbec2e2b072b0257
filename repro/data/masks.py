"""Masks of objects on the host: seen through a box, pasted back into an image, and as COCO's run lengths.

He et al. 2017 (Mask R-CNN), Section 3: a mask is predicted relative to its box, then resized to it and cut at 0.5.
Boxes are (x1,y1,x2,y2), 0-based, half-open, float pixels. The same work on the device is in `repro.ops.masks`.
"""

import math
from collections.abc import Sequence
from typing import Any, TypeGuard

import numpy as np
from pycocotools import mask as coco_mask

from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
MIN_SIDE = 1e-6  # pixels: a box below it in width or height has no area
_TIE = 1e-9  # weights that should give the threshold itself may round below it
_MAX_PIXELS = 2**31  # pycocotools counts pixels in 32 bits
_CURE = "give dict(size=[height, width], counts=text) as pycocotools and `encode_rle` write it"


def crop_mask(mask: np.ndarray, box: Sequence[float] | np.ndarray, size: int) -> np.ndarray:
    """A mask seen through a box: float32 [size,size], the share of each of size x size equal cells that it covers.

    mask bool [H,W] over the image; box [4] may reach beyond the image, where nothing is covered. The share is exact:
    a pixel counts by the part of it that lies in the cell. A box without area gives zeros. Raises ReproError for a
    mask that is not [H,W], a box that is not four finite numbers and a `size` below 1."""
    mask = np.asarray(mask, bool)
    if mask.ndim != 2 or size < 1:
        raise ReproError(f"mask has shape {mask.shape}, to be cropped to {size} cells", "give [H,W] and 1 or more")
    (x1, y1, x2, y2), solid = _box(box)
    if not solid:
        return np.zeros((size, size), np.float32)
    top, rows = _overlaps(y1, y2, size, mask.shape[0])
    left, columns = _overlaps(x1, x2, size, mask.shape[1])
    inside = mask[top : top + rows.shape[1], left : left + columns.shape[1]]
    # the shares of a row add up to 1 but for rounding
    return np.minimum(rows @ inside @ columns.T, 1).astype(np.float32)


def paste_mask(
    mask: np.ndarray, box: Sequence[float] | np.ndarray, image_size: tuple[int, int], threshold: float = 0.5
) -> np.ndarray:
    """The pixels of an image that a mask relative to a box covers: bool [H,W], image_size being (height, width).

    mask float [h,w], probabilities of the box's cells. A pixel is covered if the mask, bilinear between the centres of
    its cells and 0 beyond them, reaches `threshold` at the pixel's centre: `grid_sample` without aligned corners and
    padded with zeros, as in Detectron2's `paste_masks_in_image`. Box [4] may reach beyond the image; one without area
    gives an empty mask. Raises ReproError for a mask that is not [h,w], a box that is not four finite numbers and a
    threshold outside (0, 1]."""
    mask = np.asarray(mask, np.float64)
    if mask.ndim != 2 or not mask.size:
        raise ReproError(f"mask has shape {mask.shape}", "give [h,w]")
    if not 0 < threshold <= 1:
        raise ReproError(f"mask threshold is {threshold}", "give one above 0, up to 1")
    pasted = np.zeros(image_size, bool)
    (x1, y1, x2, y2), solid = _box(box)
    if solid:
        top, rows = _hats(y1, y2, mask.shape[0], image_size[0])
        left, columns = _hats(x1, x2, mask.shape[1], image_size[1])
        covered = rows @ mask @ columns.T >= threshold - _TIE
        pasted[top : top + len(rows), left : left + len(columns)] = covered
    return pasted


def cut(numbers: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The objects `wanted` [M] of a map [H,W] that numbers its objects, each with a pixel: masks bool [M,H,W] and
    their `tight_boxes`."""
    masks = numbers[None] == np.asarray(wanted).reshape(-1, 1, 1)
    return masks, tight_boxes(masks)


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """float32 [M,4] (x1,y1,x2,y2), 0-based, half-open, around the pixels of masks bool [M,H,W], none of them empty."""
    sides = []
    for axis in (1, 2):  # over the rows, what is left is columns, and the other way round
        taken = np.any(masks, axis)
        sides.append((taken.argmax(1), taken.shape[1] - taken[:, ::-1].argmax(1)))
    (x1, x2), (y1, y2) = sides
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)


def encode_rle(mask: np.ndarray) -> dict[str, Any]:
    """COCO's compressed run lengths of a mask bool [H,W]: dict(size=[H,W], counts=text), ready for JSON.

    Raises ReproError for a mask of another shape or without pixels."""
    mask = np.asarray(mask, bool)
    if mask.ndim != 2 or not mask.size:
        raise ReproError(f"mask has shape {mask.shape}", "give [H,W]")
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"]
    return {"size": list(mask.shape), "counts": counts.decode("ascii")}


def decode_rle(rle: dict[str, Any]) -> np.ndarray:
    """The mask bool [H,W] of COCO's compressed run lengths. Raises ReproError as `run_lengths` does."""
    run_lengths(rle)  # pycocotools reads beyond its memory where runs do not fill the image
    return coco_mask.decode({"size": list(rle["size"]), "counts": rle["counts"]}).astype(bool)


def run_lengths(rle: dict[str, Any], name: str = "RLE") -> np.ndarray:
    """The run lengths int64 [R] of a mask down its columns, background first; they add up to its pixels.

    Each is written in digits of 5 bits, the lowest first, from the character "0" on: bit 6 says that another digit
    follows, bit 5 of the last is the sign. From the fourth run on it is the difference to the last but one
    (`rleFrString` of COCO's maskApi.c). Raises ReproError, calling the mask `name`, for anything else and for runs
    that are negative or do not fill the image."""
    size, counts = (rle.get(key) if isinstance(rle, dict) else None for key in ("size", "counts"))
    if not _is_size(size) or not isinstance(counts, str):
        raise ReproError(f"{name} has size {size!r:.60} and counts {counts!r:.60}", _CURE)
    digits = np.frombuffer(counts.encode("ascii", "replace"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero(digits & 32 == 0)
    lengths = np.diff(ends, prepend=-1)
    whole = counts.isascii() and len(ends) and ends[-1] == len(digits) - 1
    if not whole or not ((digits >= 0) & (digits < 64)).all() or lengths.max() > 7:
        raise ReproError(f"{name} has counts {counts!r:.60}, which are no compressed run lengths", _CURE)
    starts = ends - lengths + 1
    place = np.arange(len(digits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & 31) << 5 * place, starts)
    values -= np.where(digits[ends] & 16, np.int64(1) << 5 * lengths, 0)
    for first in (1, 2):
        values[first::2] = np.cumsum(values[first::2])
    height, width = size
    if (values < 0).any() or values.sum() != height * width:
        problem = f"{name} has runs of {values.sum()} pixels in all, its image is {height}x{width} (height x width)"
        raise ReproError(problem, "encode the mask again at the size of its image")
    return values


def _is_size(size: Any) -> TypeGuard[Sequence[int]]:
    sides = size if isinstance(size, list | tuple) and len(size) == 2 else (0,)
    whole = all(isinstance(side, int | np.integer) and not isinstance(side, bool) and side > 0 for side in sides)
    return whole and math.prod(map(int, sides)) < _MAX_PIXELS


def _box(box: Sequence[float] | np.ndarray) -> tuple[list[float], bool]:
    """Corners, and whether they enclose an area."""
    corners = np.asarray(box, np.float64)
    if corners.shape != (4,) or not np.isfinite(corners).all():
        raise ReproError(f"box is {corners.tolist()}", "give finite x1, y1, x2, y2")
    return corners.tolist(), bool((corners[2:] - corners[:2] >= MIN_SIDE).all())


def _pixels(low: float, high: float, limit: int) -> np.ndarray:
    """The indices of the pixels from `low` to `high` that an image with `limit` of them has."""
    first, last = (int(min(max(end, 0), limit)) for end in (math.floor(low), math.ceil(high)))
    return np.arange(first, last)


def _overlaps(low: float, high: float, cells: int, limit: int) -> tuple[int, np.ndarray]:
    """The first pixel in reach, and the share [cells,P] of each cell that each pixel from there on covers."""
    pixels, side = _pixels(low, high, limit), (high - low) / cells
    start = low + side * np.arange(cells)[:, None]
    overlap = np.minimum(start + side, pixels + 1) - np.maximum(start, pixels)
    return _first(pixels), np.maximum(overlap, 0) / side


def _hats(low: float, high: float, cells: int, limit: int) -> tuple[int, np.ndarray]:
    """The first pixel in reach, and the weights [P,cells] by which each pixel from there on sees the cells."""
    side = (high - low) / cells
    pixels = _pixels(low - side / 2, high + side / 2, limit)  # as far as the outermost cells can be seen
    position = (pixels + 0.5 - low) / side - 0.5
    return _first(pixels), np.maximum(1 - np.abs(position[:, None] - np.arange(cells)), 0)


def _first(pixels: np.ndarray) -> int:
    return int(pixels[0]) if pixels.size else 0
