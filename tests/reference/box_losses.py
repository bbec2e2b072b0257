"""Losses of box regression, one number at a time."""

import numpy as np


def loop_smooth_l1(difference, sigma=1.0):
    """The definition, read slowly: Fast R-CNN, Eq. 3, stretched as in smooth_l1_loss_layer.cpp."""
    size = abs(float(difference))
    return 0.5 * (sigma * size) ** 2 if size < 1 / sigma**2 else size - 0.5 / sigma**2


def loop_box_loss(deltas, targets, positive, sampled, sigma=1.0):
    """The definition, read slowly: Fast R-CNN, Eq. 1 and 2, the second term, of the boxes of a mini-batch one after
    the other."""
    total, count = 0.0, 0
    for index in np.ndindex(positive.shape):
        count += bool(sampled[index])
        if positive[index]:
            total += sum(loop_smooth_l1(d - t, sigma) for d, t in zip(deltas[index], targets[index], strict=True))
    return total / count
