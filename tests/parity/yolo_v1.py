"""YOLO v1's targets, loss and decoding on one backend, for test_yolo_v1.py."""

from typing import Any

import numpy as np

from tests.parity.networks import values_and_gradients
from tests.parity.nms import MODES, in_mode


def quantities(mode: str, grid: np.ndarray, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """Targets, which box answers, loss and its gradient by the grid, detections."""
    from keras import ops

    from repro.models import yolo_v1

    def everything(grid, batch):
        wanted = yolo_v1.targets(batch["boxes"], batch["classes"], tuple(grid.shape[1:3]))
        answers, _ = yolo_v1.responsible(yolo_v1.parts(grid)["boxes"], wanted)
        found = yolo_v1.detect({"grid": grid}, batch, max_detections=30)
        found = {f"detect/{name}": values for name, values in found.items()}
        return {f"targets/{name}": values for name, values in wanted.items()} | {"answers": answers} | found

    tensors = {name: ops.convert_to_tensor(values) for name, values in batch.items()}
    found = in_mode(everything, mode)(ops.convert_to_tensor(grid), tensors)
    (loss,), (gradient,) = values_and_gradients(lambda grid: [yolo_v1.loss({"grid": grid}, batch)], [grid], mode)
    return {name: ops.convert_to_numpy(v) for name, v in found.items()} | {"loss": loss, "gradient": gradient}


def compute(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Of `grid` (what a network says of its cells) and a batch's `boxes`, `classes` and `valid_size`:
    {mode/quantity: array}."""
    batch = {name: values for name, values in given.items() if name != "grid"}
    return {f"{mode}/{key}": value for mode in MODES for key, value in quantities(mode, given["grid"], batch).items()}
