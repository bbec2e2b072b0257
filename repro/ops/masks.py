"""Masks that travel relative to their boxes. `keras.ops` only, static shapes.

He et al. 2017 (Mask R-CNN), Section 3: the target of a region is the object's mask seen through the region.
"""

from typing import Any

import numpy as np
from keras import ops

from repro.ops.boxes import MIN_SIDE, as_boxes
from repro.ops.matching import gather

# half a cell is common where a region is its object's box, and rounds to either side, in eager mode otherwise than
# compiled; positions are right to about 1e-5 cells
_TIE = 1e-3


def mask_targets(masks: Any, boxes: Any, index: Any, rois: Any, size: int) -> Any:
    """What the mask branch is to predict for each region: float32 [B,R,size,size] of 0 and 1.

    masks [B,M,S,S] of any type, 0 where an object is not and 1 (255 for integers) where it is, each relative to its
    box of boxes [B,M,4]; index int [B,R] says which object a region of rois [B,R,4] stands for. A cell of the target
    is 1 where the mask, bilinear between the centres of its cells, is at least one half (to 0.001) at the cell's
    centre; beyond the object's box it is 0. Passes no gradient.

    Raises ValueError for shapes that do not fit and a `size` below 1."""
    if len(masks.shape) != 4 or masks.shape[2] != masks.shape[3] or size < 1:
        raise ValueError(f"masks have shape {tuple(masks.shape)}, not [B,M,S,S], or size {size} is below 1")
    side = masks.shape[2]
    full = 255.0 if "int" in str(masks.dtype) else 1.0
    values = ops.reshape(ops.cast(masks, "float32") / full, (-1, masks.shape[1], side * side))
    chosen = ops.reshape(gather(values, index), (-1, rois.shape[1], side, side))
    box, roi = gather(as_boxes(boxes), index), as_boxes(rois)
    rows = _cell_weights(roi[..., 1], roi[..., 3], box[..., 1], box[..., 3], size, side)
    columns = _cell_weights(roi[..., 0], roi[..., 2], box[..., 0], box[..., 2], size, side)
    seen = ops.einsum("bryx,brkx->bryk", ops.einsum("brjy,bryx->brjx", rows, chosen), columns)
    return ops.stop_gradient(ops.cast(seen >= 0.5 - _TIE, "float32"))


def _cell_weights(start: Any, end: Any, low: Any, high: Any, size: int, side: int) -> Any:
    """By what weights [B,R,size,side] the centres of `size` cells from `start` to `end` [B,R] see `side` cells that lie
    from `low` to `high`; 0 for a centre outside."""
    fractions = (np.arange(size, dtype="float32") + 0.5) / size
    centre = start[..., None] + (end - start)[..., None] * fractions  # [B,R,size]
    position = (centre - low[..., None]) / ops.maximum(high - low, MIN_SIDE)[..., None] * side - 0.5
    inside = ops.logical_and(position >= -0.5, position <= side - 0.5)
    position = ops.clip(position, 0.0, side - 1.0)
    weights = ops.relu(1.0 - ops.abs(position[..., None] - np.arange(side, dtype="float32")))
    return ops.where(inside[..., None], weights, 0.0)
