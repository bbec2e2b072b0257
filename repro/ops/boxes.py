"""Arithmetic of boxes (x1,y1,x2,y2): areas, IoU, regression deltas, clipping, mirroring. `keras.ops` only.

Boxes are 0-based, half-open, in float pixels: (x1,y1,x2,y2) covers x2 - x1 columns. The released code of the R-CNN
family counts both corners as inside, so that its box (x1,y1,x2,y2) is our (x1,y1,x2+1,y2+1). Its widths x2 - x1 + 1
are then our x2 - x1, and areas, IoU, centres and deltas are the same numbers. `decode_boxes` and `clip_boxes` say
where the released code differs by a pixel.

Every function takes arrays of any number type, NumPy's too, computes in float32 under every precision policy
(bfloat16 cannot tell 1000 from 1003) and returns tensors. Boxes are finite; one whose x2 <= x1 or y2 <= y1 (such as
the zeros of a padding) has no area, and every gradient is finite for it.
"""

import math
from typing import Any

import numpy as np
from keras import ops

MIN_SIDE = 1e-3  # pixels; the least side of a box that deltas are measured from or to
MAX_LOG_SCALE = math.log(1000 / 16)  # `BBOX_XFORM_CLIP` of Detectron


def side_lengths(boxes: Any) -> tuple[Any, Any]:
    """Widths [...] and heights [...] of boxes [...,4], in pixels, 0 where a box is inverted.

    Raises ValueError where the last axis is not 4 long."""
    boxes = as_boxes(boxes)
    sides = ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    return sides[..., 0], sides[..., 1]


def box_area(boxes: Any) -> Any:
    """Areas [...] of boxes [...,4], in square pixels, 0 where a box is inverted. Raises as `side_lengths`."""
    width, height = side_lengths(boxes)
    return width * height


def pairwise_iou(a: Any, b: Any) -> Any:
    """Intersection over union [...,N,M] of every box of a [...,N,4] with every box of b [...,M,4].

    Leading axes broadcast: anchors [N,4] and boxes [B,M,4] give [B,N,M]. In [0,1]; 0, never NaN, for boxes without
    area. Everingham et al. 2010 (PASCAL VOC), Eq. 3. Raises as `side_lengths`.

    >>> iou = pairwise_iou([[0, 0, 2, 2]], [[0, 0, 2, 1], [2, 0, 4, 2]])  # half of it; beside it
    >>> ops.convert_to_numpy(iou).tolist()
    [[0.5, 0.0]]
    """
    a, b = as_boxes(a)[..., :, None, :], as_boxes(b)[..., None, :, :]
    low, high = ops.maximum(a[..., :2], b[..., :2]), ops.minimum(a[..., 2:], b[..., 2:])
    intersection = box_area(ops.concatenate([low, high], axis=-1))
    union = box_area(a) + box_area(b) - intersection
    overlap = ops.greater(intersection, 0.0)
    # both operands of the division are safe, or its gradient is NaN where it is not used; a compiler that fuses
    # the products and sums above rounds otherwise, and equal boxes would have an IoU just above 1
    return ops.minimum(ops.where(overlap, intersection / ops.where(overlap, union, 1.0), 0.0), 1.0)


def encode_boxes(boxes: Any, references: Any, mean: Any = (0, 0, 0, 0), std: Any = (1, 1, 1, 1)) -> Any:
    """Deltas (tx,ty,tw,th) [...,4] that move `references` [...,4] (anchors, proposals) onto `boxes` [...,4].

    tx = (x - xr) / wr, ty = (y - yr) / hr, tw = log(w / wr), th = log(h / hr) of centres (x,y) and sides (w,h), then
    (t - mean) / std, where the released detectors have mean 0 and std (0.1, 0.1, 0.2, 0.2). Girshick et al. 2014
    (R-CNN), Appendix C; Ren et al. 2015 (Faster R-CNN), Eq. 2. All arguments broadcast: [B,R,1,4] and [K,4]
    serve statistics per class.

    Sides below `MIN_SIDE` count as that, so that padding gives finite deltas, to be masked. Raises as
    `side_lengths`.

    >>> ops.convert_to_numpy(encode_boxes([[5, 0, 15, 20]], [[0, 0, 10, 20]])).tolist()  # half a width to the right
    [[0.5, 0.0, 0.0, 0.0]]
    """
    (centre, sides), (start, units) = _centres_and_sides(boxes), _centres_and_sides(references)
    deltas = ops.concatenate([(centre - start) / units, ops.log(sides / units)], axis=-1)
    return (deltas - as_boxes(mean)) / as_boxes(std)


def decode_boxes(deltas: Any, references: Any, mean: Any = (0, 0, 0, 0), std: Any = (1, 1, 1, 1)) -> Any:
    """Boxes [...,4] that `deltas` [...,4] make of `references` [...,4]: the inverse of `encode_boxes`.

    tw and th, after the normalisation is undone, are at most log(1000/16), as in Detectron, so that exp cannot
    overflow early in training: no box is more than 62.5 times as wide as its reference. py-faster-rcnn has no such
    limit, and takes x + w/2 for the inclusive x2, which makes each of its boxes a pixel wider and higher than
    what was encoded; these are not, as Detectron's. Boxes may reach outside the image (`clip_boxes`).
    Raises as `side_lengths`."""
    deltas = as_boxes(deltas) * as_boxes(std) + as_boxes(mean)
    start, units = _centres_and_sides(references)
    centre = deltas[..., :2] * units + start
    half = 0.5 * ops.exp(ops.minimum(deltas[..., 2:], MAX_LOG_SCALE)) * units
    return ops.concatenate([centre - half, centre + half], axis=-1)


def clip_boxes(boxes: Any, size: Any) -> Any:
    """Boxes [B,N,4] cut to their images of `size` [B,2] (height, width), in pixels; leading axes broadcast.

    A box wholly outside is left with no area. The released code clips inclusive corners to width - 1, which
    leaves such a box one pixel. Raises as `side_lengths`.

    >>> ops.convert_to_numpy(clip_boxes([[[-5, 0, 90, 20]]], [[50, 80]])).tolist()
    [[[0.0, 0.0, 80.0, 20.0]]]
    """
    size = ops.cast(size, "float32")[..., None, :]
    limit = ops.stack([size[..., 1], size[..., 0]] * 2, axis=-1)  # [B,1,4] of width, height, width, height
    return ops.minimum(ops.maximum(as_boxes(boxes), 0.0), limit)


def flip_boxes(boxes: Any, width: Any) -> Any:
    """Boxes [...,N,4] of images mirrored left to right. `width` in pixels is one number, or [...,1] for one each.

    A padding of zeros turns into (width, 0, width, 0), still without area. Raises as `side_lengths`.

    >>> ops.convert_to_numpy(flip_boxes([[0, 0, 10, 20]], 100)).tolist()
    [[90.0, 0.0, 100.0, 20.0]]
    """
    boxes, width = as_boxes(boxes), ops.cast(width, "float32")
    return ops.stack([width - boxes[..., 2], boxes[..., 1], width - boxes[..., 0], boxes[..., 3]], axis=-1)


def as_boxes(boxes: Any) -> Any:
    """Boxes, deltas or statistics [...,4] as a float32 tensor. Raises ValueError where the last axis is not 4 long."""
    if not hasattr(boxes, "shape"):
        boxes = np.asarray(boxes, "float32")
    if not boxes.shape or boxes.shape[-1] != 4:
        raise ValueError(f"boxes have shape {tuple(boxes.shape)}, whose last axis is not 4 long")
    return ops.cast(boxes, "float32")


def same_shape(name: str, shape: Any, expected: Any) -> None:
    """Raise ValueError, calling it `name`, for another shape than expected, None being any length: broadcasting would
    turn one that is slightly wrong into numbers that are silently wrong."""
    shape, expected = tuple(shape), tuple(expected)
    if len(shape) != len(expected) or any(None not in (a, b) and a != b for a, b in zip(shape, expected, strict=True)):
        raise ValueError(f"{name} have shape {shape}, not {expected}")


def _centres_and_sides(boxes: Any) -> tuple[Any, Any]:
    """Centres (x,y) [...,2] and sides (w,h) [...,2], which are at least MIN_SIDE."""
    boxes = as_boxes(boxes)
    low, high = boxes[..., :2], boxes[..., 2:]
    return 0.5 * (low + high), ops.maximum(high - low, MIN_SIDE)
