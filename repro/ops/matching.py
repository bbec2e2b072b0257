"""Which boxes anchors and proposals stand for in training, and which of them a step is trained on.

Ren et al. 2015 (Faster R-CNN), Section 3.1.2 and 3.1.3, for anchors; Girshick 2015 (Fast R-CNN), Section 2.3, for
regions of interest; `lib/rpn/anchor_target_layer.py` and `proposal_target_layer.py` of py-faster-rcnn.

Shapes are fixed: ground truth is padded to M >= 1 boxes, of which some are valid; what is drawn at random has a fixed
number of slots, of which some stay empty. The noise that draws is an argument, uniform in [0,1), so that the
same numbers give the same sample on every backend. Nothing here passes a gradient: assignments are piecewise
constant, and the coordinates of proposals count as constants (Faster R-CNN, Section 3.2, "approximate joint training").
"""

from typing import Any

from keras import ops

from repro.ops.boxes import as_boxes, box_area, pairwise_iou

# Relative. IoUs of anchors that mirror each other about a box differ in the last bits, and a compiler may round the
# IoU that it compares otherwise than the one it took the maximum of; then not even the best would be the best.
_TIE = 1e-6


def match(references: Any, boxes: Any, valid: Any) -> tuple[Any, Any]:
    """For every reference its IoU with the best valid box, float32 [B,N], and the index of that box, int32 [B,N].

    references [N,4] or [B,N,4], boxes [B,M,4], valid bool [B,M]. Of equal IoUs the first box counts; the index
    is that of a valid box wherever the image has one, even at an IoU of 0. Without any: IoU 0, index 0. Raises
    ValueError where a box has not 4 numbers."""
    iou = _valid_iou(references, boxes, valid)
    return ops.maximum(ops.max(iou, axis=-1), 0.0), ops.cast(ops.argmax(iou, axis=-1), "int32")


def label_anchors(
    anchors: Any, boxes: Any, valid: Any, usable: Any, high: float = 0.7, low: float = 0.3
) -> tuple[Any, Any]:
    """Labels int32 [B,N], 1 object, 0 background, -1 ignored, and each anchor's box, int32 [B,N] as of `match`.

    anchors [N,4] or [B,N,4], boxes [B,M,4], valid bool [B,M], usable bool [B,N] (inside the image). Faster R-CNN,
    Section 3.1.2: positive from an IoU of `high`, and the usable anchor with the highest IoU of each valid box,
    however low, with all that tie with it; else negative below `low` with all; else ignored. Anchors that
    are not usable are ignored and are nobody's best. As in the released code a box's best anchor is regressed to
    the box it overlaps most itself, which may be another. Unlike there, a box that no usable anchor overlaps
    has no best one (there, all that do not overlap it would be positive), and an image without boxes
    is all background. Raises as `match`."""
    iou, usable = _valid_iou(anchors, boxes, valid), ops.cast(usable, "bool")
    best, index = ops.max(iou, axis=-1), ops.cast(ops.argmax(iou, axis=-1), "int32")
    candidates = ops.where(usable[..., None], iou, -1.0)
    best_of_box = ops.max(candidates, axis=1, keepdims=True)  # [B,1,M]
    is_best = ops.logical_and(ops.greater(best_of_box, 0.0), ops.greater_equal(candidates, best_of_box * (1.0 - _TIE)))
    positive = ops.logical_or(ops.greater_equal(best, high), ops.any(is_best, axis=-1))
    labels = ops.where(positive, 1, ops.where(ops.less(best, low), 0, -1))
    return ops.cast(ops.where(usable, labels, -1), "int32"), index


def sample_labels(labels: Any, noise: Any, count: int = 256, positive_fraction: float = 0.5) -> Any:
    """Labels [B,N] of a random sample of at most `count` an image: int32 [B,N], -1 for all that is not drawn.

    labels int [B,N] as of `label_anchors`, noise float [B,N], of which the least are drawn. At most
    int(count * positive_fraction) positives, and as many negatives as are then missing (Faster R-CNN, Section
    3.1.3: fewer positives are padded with negatives). Raises ValueError for noise of another shape and for a
    fraction outside [0,1]."""
    labels, noise = ops.cast(labels, "int32"), _noise(noise, labels.shape)
    most = int(count * _fraction(positive_fraction))
    positives = _least(ops.equal(labels, 1), noise, most, most)
    missing = count - ops.sum(ops.cast(positives, "int32"), axis=-1, keepdims=True)
    negatives = _least(ops.equal(labels, 0), noise, missing, count)
    return ops.where(positives, 1, ops.where(negatives, 0, -1))


def sample_rois(
    proposals: Any, proposal_valid: Any, boxes: Any, classes: Any, noise: Any, count: int = 64,
    positive_fraction: float = 0.25, positive_iou: float = 0.5, negative_iou: tuple[float, float] = (0.1, 0.5),
    append_truth: bool = True, excluded: Any = None,
) -> dict[str, Any]:  # fmt: skip
    """A random sample of `count` regions of interest an image, with what each is trained to be.

    proposals [B,P,4], proposal_valid bool [B,P], boxes [B,M,4], classes int [B,M], -1 = padding; noise float
    [B,P], with `append_truth` [B,P+M], of which the least are drawn. Returns, positives first, then
    negatives, then empty slots:

    - `rois` float32 [B,count,4], 0 where empty;
    - `labels` int32 [B,count]: class + 1, 0 background, -1 empty;
    - `matched_boxes` float32 [B,count,4]: a positive's box; elsewhere the RoI itself, whose deltas are 0;
    - `positive` bool [B,count].

    Fast R-CNN, Section 2.3: positives have an IoU of `positive_iou` and more with a box, negatives one in
    [negative_iou), the released Faster R-CNN's being (0, 0.5) end to end and on COCO. At most
    round(count * positive_fraction) are positive, the rest negative; where the interval has too few, slots stay empty.
    As in the released code the boxes themselves join the proposals (`append_truth`). Regions without area are
    never drawn.

    `excluded` bool [B,M] marks boxes that count as absent: nobody's target, and not appended. Released Faster R-CNN
    leaves out VOC's difficult objects so (Fast R-CNN's Table 1 has both). Proposals in a COCO crowd are to be neither
    positive nor negative: make them invalid.

    Raises ValueError where noise has another shape, a fraction lies outside [0,1], or the intervals overlap."""
    low, high = negative_iou
    if not low <= high <= positive_iou:
        raise ValueError(f"negative_iou {negative_iou} is not an interval below positive_iou {positive_iou}")
    candidates, usable = as_boxes(proposals), ops.cast(proposal_valid, "bool")
    boxes, classes = as_boxes(boxes), ops.cast(classes, "int32")
    valid = ops.greater_equal(classes, 0)
    if excluded is not None:
        valid = ops.logical_and(valid, ops.logical_not(ops.cast(excluded, "bool")))
    if append_truth:
        candidates, usable = ops.concatenate([candidates, boxes], axis=1), ops.concatenate([usable, valid], axis=1)
    candidates, boxes = ops.stop_gradient(candidates), ops.stop_gradient(boxes)
    usable = ops.logical_and(usable, ops.greater(box_area(candidates), 0.0))
    noise = _noise(noise, usable.shape)

    iou, index = match(candidates, boxes, valid)
    negative = ops.logical_and(ops.greater_equal(iou, low), ops.less(iou, high))
    most = round(count * _fraction(positive_fraction))
    positives, is_positive = _draw(ops.logical_and(usable, ops.greater_equal(iou, positive_iou)), noise, most)
    negatives, is_negative = _draw(ops.logical_and(usable, negative), noise, count)

    # slot s holds positive s, or behind the last of them the negatives from the first on
    taken = ops.sum(ops.cast(is_positive, "int32"), axis=-1, keepdims=True)
    found = ops.sum(ops.cast(is_negative, "int32"), axis=-1, keepdims=True)
    slot = ops.arange(count, dtype="int32")[None]
    positive, used = ops.less(slot, taken), ops.less(slot, taken + found)
    chosen = gather(ops.concatenate([positives, negatives], axis=1), ops.where(positive, slot, most + slot - taken))
    target = gather(index, chosen)
    rois = ops.where(used[..., None], gather(candidates, chosen), 0.0)
    return {
        "rois": rois,
        "labels": ops.where(positive, gather(classes, target) + 1, ops.where(used, 0, -1)),
        "matched_boxes": ops.where(positive[..., None], gather(boxes, target), rois),
        "positive": positive,
    }


def gather(values: Any, index: Any) -> Any:
    """values [B,M] or [B,M,D] at index int [B,N], each image's in its own: [B,N] or [B,N,D]."""
    index = index[..., None] if len(values.shape) == 3 else index
    return ops.take_along_axis(values, index, axis=1)


def _valid_iou(references: Any, boxes: Any, valid: Any) -> Any:
    """IoU [B,N,M], -1 with boxes that are not valid."""
    iou = ops.stop_gradient(pairwise_iou(references, boxes))
    return ops.where(ops.cast(valid, "bool")[:, None, :], iou, -1.0)


def _draw(candidates: Any, noise: Any, slots: int) -> tuple[Any, Any]:
    """The candidates (bool [B,N]) of least noise, by noise and then by index: int32 [B,slots], and bool [B,slots]
    which slots hold one; these come first."""
    some = min(slots, candidates.shape[1])
    values, index = ops.top_k(ops.where(candidates, -noise, float("-inf")), some)
    empty = ((0, 0), (0, slots - some))
    return ops.pad(ops.cast(index, "int32"), empty), ops.pad(ops.greater(values, float("-inf")), empty)


def _least(candidates: Any, noise: Any, limit: Any, slots: int) -> Any:
    """Bool [B,N]: the `limit` (int, or int [B,1]; at most `slots`) candidates of least noise, or all where fewer."""
    if slots == 0:
        return ops.zeros_like(candidates)
    index, found = _draw(candidates, noise, slots)
    number = ops.minimum(ops.sum(ops.cast(found, "int32"), axis=-1, keepdims=True), limit)
    last = gather(index, ops.maximum(number - 1, 0))  # [B,1]
    # the drawn are those up to the last drawn in the order of `_draw`, which needs no scatter
    threshold, position = gather(noise, last), ops.arange(candidates.shape[1], dtype="int32")[None]
    tied = ops.logical_and(ops.equal(noise, threshold), ops.less_equal(position, last))
    drawn = ops.logical_and(candidates, ops.logical_or(ops.less(noise, threshold), tied))
    return ops.logical_and(drawn, ops.greater(number, 0))


def _noise(noise: Any, shape: Any) -> Any:
    """Noise as float32. Broadcasting would give all images, or all anchors, the same."""
    if tuple(noise.shape) != tuple(shape):
        raise ValueError(f"noise has shape {tuple(noise.shape)}, not {tuple(shape)}")
    return ops.stop_gradient(ops.cast(noise, "float32"))


def _fraction(fraction: float) -> float:
    if not 0 <= fraction <= 1:
        raise ValueError(f"positive_fraction is {fraction}, not in [0,1]")
    return fraction
