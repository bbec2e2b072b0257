"""Detections and truths that tests of detection scores share, and the development kit's loops."""

import numpy as np
from hypothesis import strategies as st

SEEDS = st.integers(0, 10**6)


A, B, C, D = ([x, 0, x + 10, 10] for x in (0, 20, 40, 60))
MISS = [200, 200, 210, 210]
# 10x10 boxes shifted by 2: 8 * 10 / (200 - 80) = 2/3
NEAR_A = [2, 0, 12, 10]


def prediction(*rows):
    """Rows (class, score, box)."""
    return {
        "boxes": np.array([row[2] for row in rows], "float32").reshape(-1, 4),
        "scores": np.array([row[1] for row in rows], "float32"),
        "classes": np.array([row[0] for row in rows], "int32"),
    }


def truth(*rows):
    """Rows (class, box) or (class, box, "difficult" or "crowd")."""
    return {
        "boxes": np.array([row[1] for row in rows], "float32").reshape(-1, 4),
        "classes": np.array([row[0] for row in rows], "int32"),
        "difficult": np.array([row[2:] == ("difficult",) for row in rows], bool),
        "crowd": np.array([row[2:] == ("crowd",) for row in rows], bool),
    }


def random_scene(seed, classes=3, images=12, objects=4, flags=True):
    """Boxes with whole corners, detections near objects or anywhere, no two scores equal."""
    rng = np.random.default_rng(seed)
    predictions, truths = [], []
    for _ in range(images):
        count = rng.integers(0, objects + 1)
        corners = rng.integers(0, 40, (count, 2))
        boxes = np.concatenate([corners, corners + rng.integers(5, 30, (count, 2))], axis=1)
        kinds = rng.integers(0, classes, count)
        truths.append(
            {
                "boxes": boxes.astype(float),
                "classes": kinds,
                "difficult": (rng.random(count) < 0.25) & flags,
                "crowd": np.zeros(count, bool),
            }
        )
        copies = np.repeat(boxes, 3, axis=0)
        shaken = copies + np.round(rng.normal(size=copies.shape) * 2)
        corners = rng.integers(0, 40, (4, 2))
        anywhere = np.concatenate([corners, corners + rng.integers(5, 30, (4, 2))], axis=1)
        found = np.concatenate([shaken, anywhere])
        found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 1)
        predictions.append(
            {
                "boxes": found,
                "scores": np.zeros(len(found)),
                "classes": np.concatenate([np.repeat(kinds, 3), rng.integers(0, classes, 4)]),
            }
        )
    order = iter(rng.permutation(sum(len(p["scores"]) for p in predictions)))
    for image in predictions:
        image["scores"] = np.array([next(order) for _ in image["scores"]], float)
    return predictions, truths


def development_kit(predictions, truths, k, threshold, eleven_point):
    """VOCevaldet.m and VOCap.m, line by line: inclusive corners, areas with + 1, one detection at a time."""
    detections = [
        (score, n, [*box[:2], *(box[2:] - 1)])
        for n, image in enumerate(predictions)
        for score, box, c in zip(image["scores"], image["boxes"], image["classes"], strict=True)
        if c == k
    ]
    detections.sort(key=lambda row: -row[0])
    objects = [
        [
            {"box": [*box[:2], *(box[2:] - 1)], "difficult": difficult, "found": False}
            for box, c, difficult in zip(image["boxes"], image["classes"], image["difficult"], strict=True)
            if c == k
        ]
        for image in truths
    ]
    positives = sum(not o["difficult"] for image in objects for o in image)
    if not positives:
        return None
    right, wrong, recall, precision = 0, 0, [], []
    for _, n, box in detections:
        best, chosen = -np.inf, None
        for candidate in objects[n]:
            other = candidate["box"]
            width = min(box[2], other[2]) - max(box[0], other[0]) + 1
            height = min(box[3], other[3]) - max(box[1], other[1]) + 1
            if width > 0 and height > 0:
                area = (box[2] - box[0] + 1) * (box[3] - box[1] + 1)
                area += (other[2] - other[0] + 1) * (other[3] - other[1] + 1)
                overlap = width * height / (area - width * height)
                if overlap > best:
                    best, chosen = overlap, candidate
        if best >= threshold:
            if not chosen["difficult"]:
                right += not chosen["found"]
                wrong += chosen["found"]
                chosen["found"] = True
        else:
            wrong += 1
        if right + wrong:
            recall.append(right / positives)
            precision.append(right / (right + wrong))
    if eleven_point:
        levels = [tenth / 10 for tenth in range(11)]
        return sum(max((p for r, p in zip(recall, precision, strict=True) if r >= t), default=0) / 11 for t in levels)
    recall, precision = [0, *recall, 1], [0, *precision, 0]
    for i in range(len(precision) - 2, -1, -1):
        precision[i] = max(precision[i], precision[i + 1])
    return sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))


def loop_iou(a, b):
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    intersection = max(width, 0) * max(height, 0)
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - intersection
    return intersection / union if union else 0
