"""YOLO v2's arithmetic on one backend, eager and compiled, for test_yolo_v2.py."""

import functools
from typing import Any

import numpy as np

from repro import backend
from tests.parity.networks import values_and_gradients
from tests.parity.nms import in_mode

MODES = ("eager", "xla")
GRID, CLASSES = (3, 4), 4
CANVAS = (96, 128)  # of 32 pixels a cell
ANCHORS = ((0.6, 0.8), (1.4, 1.1), (2.2, 0.9))
SCORE, NMS, MOST = 0.25, 0.3, 18  # thresholds of the detections, and how many there are at most
VALID = np.array([CANVAS, (70, 128), (96, 90), CANVAS, CANVAS], "int32")
SCALES = {"default": {}, "other": dict(
    object_scale=3.0, noobject_scale=0.5, class_scale=2.0, coord_scale=1.5, ignore_iou=0.3,
)}  # fmt: skip


@functools.cache
def images():
    """Boxes [5,6,4], classes [5,6] and the raw answers to them [5,3,4,27]."""
    rng = np.random.default_rng(0)
    sides = rng.uniform(8, 60, (5, 6, 2))
    corner = rng.uniform(0, 1, (5, 6, 2)) * (np.array(CANVAS[::-1]) - sides)
    boxes, classes = np.concatenate([corner, corner + sides], axis=-1), rng.integers(0, CLASSES, (5, 6))
    # three objects in one cell, the first and the last of one shape; padding and a box without area before the last
    boxes[0, :3] = [(33, 34, 53, 60), (30, 36, 76, 62), (33, 33, 53, 60)]
    classes[0, 3], boxes[0, 4] = -1, (34, 35, 34, 60)
    # centred on the right edge, on the bottom edge by rounding, on the right one by rounding; outside; inverted
    boxes[1, :3] = [(112, 8, 144, 40), (20, np.nextafter(np.float32(96), 0), 50, 96), (127.99999, 40, 128, 70)]
    boxes[1, 3:5] = [(130, 10, 160, 40), (60, 60, 40, 40)]
    classes[2] = -1  # nothing but padding
    boxes[3, :], classes[3, 1:] = 0, -1  # padding, and an object without area
    raw = rng.normal(0, 0.8, (5, *GRID, len(ANCHORS), 5 + CLASSES))
    # boxes of other anchors that lie on an object all the same, or almost
    for number, (x1, y1, x2, y2) in enumerate(boxes[4] / 32):
        x, y, anchor = (x1 + x2) / 2, (y1 + y2) / 2, ANCHORS[number % 3]
        answer = raw[4, int(y), int(x), number % 3]
        fraction = np.array([x % 1, y % 1])
        answer[:2] = np.log(fraction / (1 - fraction))
        answer[2:4] = np.log(np.array([x2 - x1, y2 - y1]) / anchor) + 0.05 * number
    return boxes.astype("float32"), classes.astype("int32"), raw.reshape(5, *GRID, -1).astype("float32")


def pixels():
    """Maps of the Reorg layer by stride; sides that are no powers of two, and neither square."""
    rng = np.random.default_rng(1)
    return {2: rng.normal(size=(2, 6, 10, 8)).astype("float32"), 3: rng.normal(size=(1, 3, 6, 9)).astype("float32")}


def outputs_of(grid: Any) -> dict[str, Any]:
    """Raw answers as a network would give them."""
    from keras import ops

    return {"grid": grid, "anchors": ops.broadcast_to(np.asarray(ANCHORS, "float32"), (5, len(ANCHORS), 2))}


def compute_in(mode: str) -> dict[str, np.ndarray]:
    """Everything, here and now."""
    from repro.models import yolo_v2 as yolo

    boxes, classes, grid = images()
    batch = {"boxes": boxes, "classes": classes, "valid_size": VALID}
    found = {}
    for name, scales in SCALES.items():
        values, gradients = values_and_gradients(
            lambda grid, scales=scales: [yolo.loss(outputs_of(grid), batch, **scales)], [grid], mode
        )
        found |= {f"loss/{name}": values[0], f"gradient/{name}": gradients[0]}
    for stride, x in pixels().items():
        values, gradients = values_and_gradients(lambda x, s=stride: [yolo.Reorg(s)(x)], [x], mode)
        found |= {f"reorg/{stride}": values[0], f"reorg-gradient/{stride}": gradients[0]}

    def rest(grid, boxes, classes):
        raw, anchors = yolo.unpack(outputs_of(grid))
        answers = {f"target/{key}": value for key, value in yolo.targets(boxes, classes, anchors, GRID).items()}
        detections = yolo.detect(outputs_of(grid), batch, SCORE, NMS, MOST)
        return {"boxes": yolo.decode(raw, anchors)} | answers | {f"detect/{k}": v for k, v in detections.items()}

    answers = in_mode(rest, mode)(*map(backend.to_device, (grid, boxes, classes)))
    return found | {name: np.asarray(value) for name, value in answers.items()}


def compute(_: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Everything in every mode: {mode/quantity: array}."""
    return {f"{mode}/{key}": value for mode in MODES for key, value in compute_in(mode).items()}
