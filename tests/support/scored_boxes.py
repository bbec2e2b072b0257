"""Detections and truths that tests of detection scores share."""

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
