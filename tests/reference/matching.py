"""Matching boxes to objects and sampling them, one image and one box at a time."""

import numpy as np

from tests.reference.boxes import loop_area, loop_iou


def loop_match(references, boxes, valid):
    """The definition, read slowly, for one image: IoU and index of the best valid box (Faster R-CNN, Section 3.1.2)."""
    found = []
    for reference in references:
        best, index = -1.0, 0
        for m, box in enumerate(boxes):
            if valid[m] and loop_iou(reference, box) > best:
                best, index = loop_iou(reference, box), m
        found.append((max(best, 0.0), index))
    return [np.array(column) for column in zip(*found, strict=True)]


def loop_labels(anchors, boxes, valid, usable, high=0.7, low=0.3):
    """The definition, read slowly, for one image: labels of anchors by Faster R-CNN, Section 3.1.2."""
    iou, index = loop_match(anchors, boxes, valid)
    labels = np.where(iou >= high, 1, np.where(iou < low, 0, -1))
    for m in np.flatnonzero(valid):
        overlaps = [loop_iou(anchor, boxes[m]) if ok else 0.0 for anchor, ok in zip(anchors, usable, strict=True)]
        if max(overlaps) > 0:
            labels[np.equal(overlaps, max(overlaps))] = 1
    return np.where(usable, labels, -1), index


def loop_draw(candidates, noise, count):
    """The definition, read slowly, for one image: the indices of `count` candidates, of least noise first."""
    return sorted(np.flatnonzero(candidates), key=lambda n: (noise[n], n))[:count]


def loop_sample(labels, noise, count, fraction):
    """The definition, read slowly, for one image: a mini-batch of anchors by Faster R-CNN, Section 3.1.3."""
    positives = loop_draw(labels == 1, noise, int(count * fraction))
    sample = np.full(labels.shape, -1)
    sample[loop_draw(labels == 0, noise, count - len(positives))] = 0
    sample[positives] = 1
    return sample


def loop_rois(x, b, excluded, count, positive_fraction=0.25, positive_iou=0.5, negative_iou=(0.1, 0.5), truth=True):
    """The definition, read slowly, for image b: a mini-batch of regions by Fast R-CNN, Section 2.3. Rois, labels,
    matched boxes, positive."""
    boxes, valid = x["boxes"][b], x["valid"][b] & ~(x["excluded"][b] & excluded)
    candidates, usable, noise = x["proposals"][b], x["proposal_valid"][b], x["proposal_noise"][b]
    if truth:
        candidates, usable = np.concatenate([candidates, boxes]), np.concatenate([usable, valid])
        noise = x["roi_noise"][b]
    usable = usable & [loop_area(box) > 0 for box in candidates]
    iou, index = loop_match(candidates, boxes, valid)
    positives = loop_draw(usable & (iou >= positive_iou), noise, round(count * positive_fraction))
    interval = (iou >= negative_iou[0]) & (iou < negative_iou[1])
    chosen = positives + loop_draw(usable & interval, noise, count - len(positives))
    rois, matched = np.zeros((count, 4)), np.zeros((count, 4))
    labels, positive = np.full(count, -1), np.arange(count) < len(positives)
    for slot, n in enumerate(chosen):
        rois[slot] = candidates[n]
        labels[slot] = x["classes"][b][index[n]] + 1 if positive[slot] else 0
        matched[slot] = boxes[index[n]] if positive[slot] else candidates[n]
    return rois, labels, matched, positive
