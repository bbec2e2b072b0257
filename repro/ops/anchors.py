"""The anchors of a region proposal network: reference boxes of several scales and ratios at every position.

Ren et al. 2015 (Faster R-CNN), Sections 3.1.1 and 3.3; `lib/rpn/generate_anchors.py` of py-faster-rcnn. Boxes are
(x1,y1,x2,y2), 0-based and half-open (see `repro.ops.boxes`).
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from repro.errors import ReproError
from repro.ops.boxes import as_boxes


def base_anchors(
    scales: Sequence[float] = (8, 16, 32), ratios: Sequence[float] = (0.5, 1, 2), base: int = 16
) -> np.ndarray:
    """Anchors of the first position, float32 [k,4], k = len(ratios) * len(scales); for each ratio, each scale.

    All are centred on (base/2, base/2), the middle of the first cell. A ratio is height / width. As in the released
    code the sides of a base x base square of that ratio are rounded to whole pixels first (23x12, 16x16 and 11x22)
    and multiplied by the scale then, so that an anchor's area is only about (base * scale)^2. Its table of nine
    counts from 1 with both corners inside: its (-83, -39, 100, 56) is (-84, -40, 100, 56) here.

    COCO's twelve have scales (4, 8, 16, 32) (Section 4.2). Raises ReproError unless scales, ratios and base are
    above 0, and where a side rounds to 0.

    >>> base_anchors(scales=(8,)).tolist()  # 184x96, 128x128 and 88x176 around (8, 8)
    [[-84.0, -40.0, 100.0, 56.0], [-56.0, -56.0, 72.0, 72.0], [-36.0, -80.0, 52.0, 96.0]]
    """
    if not (scales and ratios and min(*scales, *ratios, base) > 0):
        raise ReproError(f"anchors of scales {scales}, ratios {ratios} and base {base}", "give numbers above 0")
    sides = []
    for ratio in ratios:
        width = np.round(math.sqrt(base * base / ratio))
        sides.append((width, np.round(width * ratio)))
    if np.min(sides) < 1:
        raise ReproError(f"anchors of ratios {ratios} and base {base} have no area", "give a larger base")
    half = 0.5 * np.array([[width * scale, height * scale] for width, height in sides for scale in scales])
    return (base / 2 + np.hstack([-half, half])).astype("float32")


def grid_anchors(base: np.ndarray, grid: tuple[int, int], stride: int) -> np.ndarray:
    """Anchors of every position of a feature map, float32 [h*w*k,4], from those of the first, `base` [k,4].

    `grid` is (h, w), `stride` the pixels from one position to the next. Rows first, then columns, the k anchors of
    a position together: the order of a head's output [B,h,w,k*4] reshaped to [B,h*w*k,4].
    Raises ReproError for a grid or stride below 1."""
    height, width = grid
    if min(height, width, stride) < 1:
        raise ReproError(f"anchors on a grid of {height}x{width} with stride {stride}", "give sizes of 1 and more")
    y, x = np.meshgrid(np.arange(height) * stride, np.arange(width) * stride, indexing="ij")
    shifts = np.stack([x, y, x, y], axis=-1)  # [h,w,4]
    return (shifts[:, :, None, :] + np.asarray(base)).reshape(-1, 4).astype("float32")


def inside_image(anchors: Any, size: Any, border: float = 0) -> Any:
    """Bool [B,N]: which anchors [N,4] (or [B,N,4]) lie wholly inside images of `size` [B,2] (height, width).

    They may reach `border` pixels over the edge. Training leaves the others out (Section 3.3); inference keeps
    them, and clips what they predict. Raises ValueError where an anchor has not 4 numbers."""
    anchors, size = as_boxes(anchors), ops.cast(size, "float32")[..., None, :] + border
    low = ops.all(ops.greater_equal(anchors[..., :2], -border), axis=-1)
    high = ops.logical_and(ops.less_equal(anchors[..., 2], size[..., 1]), ops.less_equal(anchors[..., 3], size[..., 0]))
    return ops.logical_and(low, high)
