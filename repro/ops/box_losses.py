"""Losses of box regression, shared by the detectors. `keras.ops` only, static shapes."""

from typing import Any

from keras import ops


def smooth_l1(difference: Any, sigma: float = 1.0) -> Any:
    """0.5 (s d)^2 where |d| < 1/s^2, else |d| - 0.5/s^2, element by element; float32 of the same shape.

    Fast R-CNN, Eq. 3, has s = 1; the released RPN has s = 3, a knee at 1/9.

    >>> ops.convert_to_numpy(smooth_l1([0.5, -2.0])).tolist()
    [0.125, 1.5]
    """
    size = ops.abs(ops.cast(difference, "float32"))
    knee = 1.0 / sigma**2
    # the smaller arm alone gets a gradient; the square of the larger one could overflow
    inside = ops.minimum(size, knee)
    return ops.where(size < knee, 0.5 * sigma**2 * inside * inside, size - 0.5 * knee)


def box_loss(deltas: Any, targets: Any, positive: Any, sampled: Any, sigma: float = 1.0) -> Any:
    """Smooth L1 of the positive boxes, summed over their four deltas and divided by the number of sampled ones
    (Fast R-CNN, Eq. 1, averaged over the mini-batch as in the released nets); a float32 scalar, 0 without positives.

    deltas and targets [...,4]; positive and sampled bool [...]. Where not positive, targets may be anything."""
    targets = ops.stop_gradient(ops.where(positive[..., None], targets, 0.0))
    loss = ops.sum(smooth_l1(deltas - targets, sigma), axis=-1)
    total = ops.sum(ops.where(positive, loss, 0.0))
    return total / ops.maximum(ops.sum(ops.cast(sampled, "float32")), 1.0)
