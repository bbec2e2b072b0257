"""Greedy non-maximum suppression with fixed shapes: of one list of boxes, and class by class for detectors.

`keras.ops` only; one XLA program, and the same boxes on every backend, eager and compiled.
"""

from typing import Any

from keras import ops

from repro.ops.boxes import pairwise_iou, same_shape

# sorted boxes looked at together, and pairs of them over all lists: faster on two cores than larger ones, and as fast
# as smaller ones, which take more rounds; for RPN's proposals as for the classes of a detector
_TILE = 256
_PAIRS = 2**20


def nms(
    boxes: Any, scores: Any, iou_threshold: float, max_output: int, valid: Any = None, tile: int | None = None
) -> tuple[Any, Any]:
    """Exact greedy NMS: the indices of the boxes that are kept, best first, int32 and bool [...,max_output].

    boxes [N,4] or [B,N,4] and scores [N] or [B,N] of any float type, computed in float32; `valid` bool, shaped as
    scores, or None for all. Boxes are taken from the highest score down, of equal scores the lower index first, and
    one is dropped when its IoU with a box kept before is above `iou_threshold` (not equal to it). Boxes without area
    have IoU 0 with everything: they drop none and none drops them. Entries that are not valid or whose score is not
    finite never appear. The second array says which indices count; the others, at the end, are 0. No gradient flows.

    `tile` is how many sorted boxes are looked at together: it changes memory and time, not the result. Time grows
    with the boxes that must be looked at until there are `max_output`, in the list that needs most.

    An IoU that differs from the threshold by float32 rounding alone may fall on either side, otherwise in eager mode
    than compiled. Source: Girshick et al. 2014 (R-CNN), Sec 2.2; py-faster-rcnn, lib/nms/py_cpu_nms.py. Raises
    ValueError for shapes that do not fit, no boxes, an `iou_threshold` outside [0, 1] and for `max_output` or `tile`
    below 1.

    >>> boxes = ops.convert_to_tensor([[0.0, 0, 4, 4], [0, 0, 4, 3], [6, 0, 9, 4]])  # the first two share 3/4
    >>> index, kept = nms(boxes, ops.convert_to_tensor([0.9, 0.8, 0.7]), iou_threshold=0.5, max_output=3)
    >>> ops.convert_to_numpy(index).tolist(), ops.convert_to_numpy(kept).tolist()
    ([0, 2, 0], [True, True, False])
    """
    if len(boxes.shape) not in (2, 3):
        raise ValueError(f"boxes have shape {tuple(boxes.shape)}, not [N,4] or [B,N,4]")
    same_shape("boxes", boxes.shape, (*boxes.shape[:-1], 4))
    same_shape("scores", scores.shape, boxes.shape[:-1])
    if valid is not None:
        same_shape("valid", valid.shape, boxes.shape[:-1])
    if len(boxes.shape) == 2:
        valid = None if valid is None else valid[None]
        indices, kept = nms(boxes[None], scores[None], iou_threshold, max_output, valid, tile)
        return indices[0], kept[0]
    order, count = _ranking(_sortable(scores), valid)
    tile = _tile_size(boxes.shape[0]) if tile is None else tile
    return _greedy(boxes, order, count, iou_threshold, max_output, tile)


def class_nms(
    boxes: Any,
    scores: Any,
    iou_threshold: float,
    score_threshold: float,
    max_output: int,
    per_class_pool: int | None = None,
) -> dict[str, Any]:
    """A detector's last step: greedy NMS in every class on its own, then the best of all classes of an image.

    boxes [B,N,C,4], one for each class, or [B,N,1,4], shared by all; scores [B,N,C], foreground classes alone; of any
    float type, computed in float32. Only finite scores above `score_threshold` (not equal to it) take part, and with
    `per_class_pool` only so many of the best of a class. Returns D = `max_output` detections an image, best first:
    `boxes` float32 [B,D,4], `scores` float32 [B,D], `classes` int32 [B,D], and `count` int32 [B], how many there
    are; the others, at the end, have boxes and scores 0 and class -1. `candidates` int32 [B] counts the scores that
    took part. No gradient flows.

    Of equal scores the lower class comes first, then the lower index. There are at most D, where Fast R-CNN's code
    returns all that tie with the last. Memory is that of the inputs, sorted, and a small part beside it.

    Source: Fast R-CNN, lib/fast_rcnn/test.py, `test_net`: IoU 0.3, score 0.05, 100 an image. Raises ValueError for
    shapes that do not fit, no boxes, an `iou_threshold` outside [0, 1] and counts below 1."""
    if len(scores.shape) != 3:
        raise ValueError(f"scores have shape {tuple(scores.shape)}, not [B,N,C]")
    batch, number, classes = scores.shape
    shared = len(boxes.shape) == 4 and boxes.shape[2] == 1
    same_shape("boxes", boxes.shape, (batch, number, 1 if shared else classes, 4))
    if per_class_pool is not None and per_class_pool < 1:
        raise ValueError(f"per_class_pool is {per_class_pool}, not 1 or more")
    boxes, scores = ops.cast(ops.stop_gradient(boxes), "float32"), _sortable(scores)
    boxes = ops.reshape(ops.transpose(boxes, (0, 2, 1, 3)), (-1, number, 4))  # [B,N,4] or [B*C,N,4]
    scores = ops.reshape(ops.transpose(scores, (0, 2, 1)), (-1, number))  # [B*C,N]

    order, count = _ranking(scores, ops.greater(scores, score_threshold))
    if per_class_pool is not None:
        count = ops.minimum(count, per_class_pool)
    each = min(max_output, number)  # no class can give more than all classes together
    indices, kept = _greedy(boxes, order, count, iou_threshold, each, _tile_size((batch or 1) * classes))
    scores = ops.where(kept, ops.take_along_axis(scores, indices, axis=1), float("-inf"))  # [B*C,each]
    boxes = _rows(boxes, indices)  # [B*C,each,4]

    pool = classes * each
    scores, places = ops.top_k(ops.reshape(scores, (-1, pool)), min(max_output, pool))
    boxes = _rows(ops.reshape(boxes, (-1, pool, 4)), places)
    found = ops.isfinite(scores)
    padding = (0, max_output - scores.shape[1])
    return {
        "boxes": ops.pad(ops.where(found[..., None], boxes, 0.0), ((0, 0), padding, (0, 0))),
        "scores": ops.pad(ops.where(found, scores, 0.0), ((0, 0), padding)),
        "classes": ops.pad(ops.where(found, places // each, -1), ((0, 0), padding), constant_values=-1),
        "count": ops.sum(ops.cast(found, "int32"), axis=1),
        "candidates": ops.sum(ops.reshape(count, (-1, classes)), axis=1),
    }


def _sortable(scores: Any) -> Any:
    """In float32, with 0.0 for -0.0: XLA sorts them as if they differed."""
    scores = ops.cast(ops.stop_gradient(scores), "float32")
    return ops.where(ops.equal(scores, 0.0), 0.0, scores)


def _ranking(scores: Any, valid: Any) -> tuple[Any, Any]:
    """Indices [L,N] from the best score to the worst, those that take part first, and their number [L]."""
    takes_part = ops.isfinite(scores) if valid is None else ops.logical_and(ops.isfinite(scores), valid)
    order = ops.argsort(ops.where(takes_part, -scores, float("inf")), axis=-1)  # stable on both backends
    return ops.cast(order, "int32"), ops.sum(ops.cast(takes_part, "int32"), axis=-1)


def _greedy(boxes: Any, order: Any, count: Any, iou_threshold: float, max_output: int, tile: int) -> tuple[Any, Any]:
    """Greedy NMS of L lists: indices and bool [L,max_output], as of `nms`.

    `order` [L,N] are the indices of every list's boxes, the best first, of which `count` [L] take part. boxes
    [S,N,4] are S sets of boxes, each shared by L/S neighbouring lists.

    Tile by tile, boxes that overlap one kept from an earlier tile are dropped, and `_survivors` decides among the
    others; until every list has its `max_output` or is at its end."""
    if not 0 <= iou_threshold <= 1:
        raise ValueError(f"iou_threshold is {iou_threshold}, not in [0, 1]")
    number = order.shape[1]
    if min(number, max_output, tile) < 1:
        raise ValueError(f"{number} boxes, max_output {max_output} and tile {tile} must all be 1 or more")
    boxes = ops.cast(ops.stop_gradient(boxes), "float32")
    slots, tile = min(max_output, number), min(tile, number)
    tiles = -(-number // tile)
    order = ops.reshape(ops.pad(order, ((0, 0), (0, tiles * tile - number))), (-1, tiles, tile))
    lists = ops.shape(order)[0]
    first = ops.arange(lists, dtype="int32")[:, None] * (slots + 1)  # slot of each list; its last takes the dropped

    def unfinished(t, kept, found):
        return ops.any(ops.logical_and(found < slots, t * tile < count))

    def step(t, kept, found):
        indices = ops.take(order, t, axis=1)  # [L,T]
        candidates = _rows(boxes, indices)  # [L,T,4]
        alive = t * tile + ops.arange(tile, dtype="int32") < count[:, None]  # [L,T]
        filled = ops.arange(slots, dtype="int32") < found[:, None]  # [L,slots]
        overlap = pairwise_iou(candidates, _rows(boxes, kept[:, :slots])) > iou_threshold
        dropped = ops.any(ops.logical_and(overlap, filled[:, None]), axis=2)
        alive = ops.logical_and(alive, ops.logical_not(dropped))
        alive = _survivors(pairwise_iou(candidates, candidates) > iou_threshold, alive)
        rank = found[:, None] + ops.cumsum(ops.cast(alive, "int32"), axis=1)  # from 1
        slot = ops.where(alive, ops.minimum(rank - 1, slots), slots)
        flat = ops.reshape(first + slot, (-1, 1))
        kept = ops.scatter_update(ops.reshape(kept, (-1,)), flat, ops.reshape(indices, (-1,)))
        return t + 1, ops.reshape(kept, (-1, slots + 1)), ops.minimum(rank[:, -1], slots)

    start = (ops.zeros((), "int32"), ops.zeros((lists, slots + 1), "int32"), ops.zeros_like(count))
    _, kept, found = ops.while_loop(unfinished, step, start)
    real = ops.arange(max_output, dtype="int32") < found[:, None]
    kept = ops.pad(kept[:, :slots], ((0, 0), (0, max_output - slots)))
    return ops.where(real, kept, 0), real


def _survivors(overlap: Any, alive: Any) -> Any:
    """Which of T sorted boxes greedy NMS keeps, bool [L,T]; overlap bool [L,T,T], of those that are `alive` [L,T].

    A box is kept when no better one that is kept overlaps it. That has one solution, and iterating it from any start
    ends there: after n rounds the first n boxes of every chain of overlaps are decided for good. It takes as many
    rounds as the longest chain has boxes, at most T, and one to see that nothing changes."""
    place = ops.arange(overlap.shape[1], dtype="int32")
    overlap = ops.logical_and(overlap, place[:, None] > place)  # [L,T,T], by the better ones alone

    def changed(kept, before):
        return ops.any(ops.not_equal(kept, before))

    def step(kept, _):
        dropped = ops.any(ops.logical_and(overlap, kept[:, None]), axis=2)
        return ops.logical_and(alive, ops.logical_not(dropped)), kept

    return ops.while_loop(changed, step, (alive, ops.zeros_like(alive)))[0]


def _rows(boxes: Any, indices: Any) -> Any:
    """Boxes [L,K,4] at indices [L,K] of S sets of boxes [S,N,4], each shared by L/S neighbouring lists."""
    sets, lists = ops.shape(boxes)[0], ops.shape(indices)[0]
    offsets = ops.arange(lists, dtype="int32") // (lists // sets) * boxes.shape[1]
    return ops.take(ops.reshape(boxes, (-1, 4)), indices + offsets[:, None], axis=0)


def _tile_size(lists: int | None) -> int:
    """`_TILE`, halved (down to 16) until a tile of every list has at most `_PAIRS` pairs."""
    tile = _TILE
    while tile > 16 and (lists or 1) * tile * tile > _PAIRS:
        tile //= 2
    return tile
