"""Areas, IoU and deltas of boxes, one at a time."""

import math

from repro.ops.boxes import (
    MIN_SIDE,
)


def loop_area(box):
    """The definition, read slowly: sides (x2 - x1) and (y2 - y1), of which none is below 0."""
    x1, y1, x2, y2 = (float(number) for number in box)
    return max(x2 - x1, 0) * max(y2 - y1, 0)


def loop_iou(a, b):
    """The definition, read slowly: the intersection over the union of two boxes (VOC 2007, Section 4.2), in
    half-open pixels; 0 where they share nothing."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    intersection = float(width) * float(height)
    return intersection / (loop_area(a) + loop_area(b) - intersection)


def loop_encode(box, reference, mean=(0, 0, 0, 0), std=(1, 1, 1, 1)):
    """The definition, read slowly: deltas of one box (R-CNN, Appendix C), normalised as in the code of
    Fast R-CNN."""
    deltas = [0.0] * 4
    for axis in (0, 1):
        side = max(float(box[axis + 2]) - float(box[axis]), MIN_SIDE)
        unit = max(float(reference[axis + 2]) - float(reference[axis]), MIN_SIDE)
        deltas[axis] = (float(box[axis] + box[axis + 2]) - float(reference[axis] + reference[axis + 2])) / 2 / unit
        deltas[axis + 2] = math.log(side / unit)
    return [(delta - m) / s for delta, m, s in zip(deltas, mean, std, strict=True)]


def loop_decode(deltas, reference, mean=(0, 0, 0, 0), std=(1, 1, 1, 1)):
    """The definition, read slowly: the inverse of `loop_encode` (R-CNN, Appendix C). Growth is bounded by 1000/16, as
    in Detectron."""
    deltas = [float(delta) * s + m for delta, m, s in zip(deltas, mean, std, strict=True)]
    box = [0.0] * 4
    for axis in (0, 1):
        unit = max(float(reference[axis + 2]) - float(reference[axis]), MIN_SIDE)
        centre = float(reference[axis] + reference[axis + 2]) / 2 + deltas[axis] * unit
        side = unit * math.exp(min(deltas[axis + 2], math.log(1000 / 16)))
        box[axis], box[axis + 2] = centre - side / 2, centre + side / 2
    return box


def loop_shape_iou(a, b):
    """The definition, read slowly: the IoU of two boxes (width, height) of one centre (YOLO9000, Section 2)."""
    shared = min(a[0], b[0]) * min(a[1], b[1])
    return shared / (a[0] * a[1] + b[0] * b[1] - shared)
