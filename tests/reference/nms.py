"""Non-maximum suppression, one box after the other."""

import numpy as np


def iou(a, b):
    """The definition, read slowly, in float32 as the ops compute it: with corners on a grid, all but the division is
    exact."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return np.float32(0)
    intersection = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return np.float32(intersection / union)


def sequential_nms(boxes, scores, valid, iou_threshold, max_output, tile=None):
    """The definition, read slowly: one box after the other, from the best, as nms.m of the released R-CNN. Indices of
    those kept."""
    boxes, scores, threshold = boxes.tolist(), scores.tolist(), np.float32(iou_threshold)
    kept = []
    for i in sorted(np.flatnonzero(valid & np.isfinite(scores)), key=lambda i: (-scores[i], i)):
        if len(kept) == max_output:
            break
        if all(iou(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(int(i))
    return kept


def sequential_class_nms(boxes, scores, iou_threshold, score_threshold, max_output, per_class_pool=None):
    """The definition, read slowly: `sequential_nms` of each class by itself, as Fast R-CNN's test.py. Of one image,
    boxes [N,C or 1,4] and scores [N,C]: (-score, class, index) of every detection, the best first."""
    found = []
    for c in range(scores.shape[1]):
        own, mine = boxes[:, c % boxes.shape[1]], scores[:, c]
        valid = mine > np.float32(score_threshold)
        best = sorted(np.flatnonzero(valid & np.isfinite(mine)), key=lambda i: (-mine[i], i))[:per_class_pool]
        valid = np.isin(np.arange(len(mine)), best)
        found += [(-mine[i], c, i) for i in sequential_nms(own, mine, valid, iou_threshold, len(mine))]
    return sorted(found)[:max_output]
