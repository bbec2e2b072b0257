"""YOLO v1's targets, loss and decoding on one backend, for test_yolo_v1.py: `yolo_v1_worker.py BACKEND IN.npz OUT.npz`.

In: `grid` (what a network says of its cells) and a batch's `boxes`, `classes` and `valid_size`. Keys of the output are
`mode/quantity`."""

import sys
from typing import Any

import numpy as np

from repro import backend
from tests.parity.nms_worker import MODES, in_mode
from tests.parity.parity_worker import values_and_gradients


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


def main() -> None:
    """Compute everything on one backend and write it."""
    backend.select(sys.argv[1])
    backend.set_precision("float32")
    given = dict(np.load(sys.argv[2]))
    grid = given.pop("grid")
    found = {f"{mode}/{key}": value for mode in MODES for key, value in quantities(mode, grid, given).items()}
    np.savez(sys.argv[3], **found)


if __name__ == "__main__":
    main()
