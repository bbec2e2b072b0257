"""Losses of segmentation, one pixel and one class at a time."""

import numpy as np

VOID = 255


def cross_entropy_reference(logits, labels, class_weights=None, pixel_weight=None, reduction="mean"):
    """The definition, read slowly: softmax cross-entropy (FCN, Section 3.4; U-Net, Eq. 1), loss and gradient by a
    loop over the pixels in float64."""
    total, count, gradient = 0.0, 0, np.zeros(logits.shape)
    for at in np.ndindex(labels.shape):
        if labels[at] == VOID:
            continue
        x, y = logits[at].astype(np.float64), labels[at]
        p = np.exp(x - x.max()) / np.exp(x - x.max()).sum()
        w = (1.0 if class_weights is None else class_weights[y]) * (1.0 if pixel_weight is None else pixel_weight[at])
        total, count = total - w * np.log(p[y]), count + 1
        gradient[at] = w * (p - np.eye(len(x))[y])
    scale = 1 / max(count, 1) if reduction == "mean" else 1.0
    return total * scale, gradient * scale


def dice_reference(logits, labels, smooth):
    """The definition, read slowly: the soft Dice loss (V-Net, Section 3) of each class, by a loop in float64."""
    x = logits[labels != VOID].astype(np.float64)
    y = labels[labels != VOID]
    p = np.exp(x - x.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    scores = [(2 * p[y == k, k].sum() + smooth) / (p[:, k].sum() + (y == k).sum() + smooth) for k in range(x.shape[-1])]
    return 1 - sum(scores) / len(scores)
