"""Made-up boxes."""

import numpy as np

# a point, a line, an inverted box, a padding: boxes without area
EMPTY = np.array([[5, 5, 5, 5], [2, 3, 9, 3], [9, 9, 4, 4], [0, 0, 0, 0], [9, 1, 4, 8]], "float32")


def random_boxes(rng, *shape):
    """Boxes of whole coordinates between 0 and 20, float32 [*shape,4]; one in five has no area."""
    corner, side = rng.integers(0, 16, (*shape, 2)), rng.integers(1, 9, (*shape, 2))
    boxes = np.concatenate([corner, np.minimum(corner + side, 20)], axis=-1).astype("float32")
    boxes[rng.random(shape) < 0.2] = EMPTY[rng.integers(len(EMPTY))]
    return boxes
