"""What one backend computes of Mask R-CNN, for test_mask_rcnn.py: `mask_worker.py BACKEND OUT.npz`.

Keys are `case/mode/quantity`; weights, images and draws are NumPy's, so that differences are of arithmetic."""

import math
import sys
from typing import Any

import numpy as np

from repro import backend, registry
from tests.parity.parity_worker import STEP_RATE, fill

SIZE, NUM_CLASSES, MAX_BOXES, SIDE = (64, 96), 3, 4, 56
VALID = np.array([[64, 96], [56, 80]], "int32")
SMALL = {"width": 1 / 16, "depth": 0.1, "input_size": SIZE, "num_classes": NUM_CLASSES}
_FREE = {"frozen_stages": 0, "frozen_bn": False, "max_boxes": MAX_BOXES, "rois": 8, "rpn_sample": 16,
         "max_detections": 6, "before_nms": (40, 30), "after_nms": (20, 10), "score_threshold": 0.01}  # fmt: skip
OPTIONS = {
    "mask_rcnn": {**_FREE, "anchor_scales": (1, 2), "min_size": 4},
    "mask_rcnn_fpn": {**_FREE, "anchor_scale": 4.0, "canonical_size": 56.0},
}


def batch_of() -> dict[str, np.ndarray]:
    """Two images of noise, the second smaller than the canvas, with boxes, classes and masks of ellipses."""
    rng = np.random.default_rng(0)
    sides = rng.uniform(12, 40, (2, MAX_BOXES, 2))
    low = rng.uniform(0, 1, sides.shape) * (VALID[:, None, ::-1] - sides)
    classes = rng.integers(0, NUM_CLASSES, (2, MAX_BOXES)).astype("int32")
    classes[1, 2:] = -1
    boxes = np.concatenate([low, low + sides], axis=-1).astype("float32") * (classes >= 0)[..., None]
    y, x = (np.indices((SIDE, SIDE)) + 0.5) / SIDE - 0.5
    round_ = (x * x + y * y <= rng.uniform(0.1, 0.25, (2, MAX_BOXES))[..., None, None]) & (classes >= 0)[
        ..., None, None
    ]
    image = rng.integers(0, 256, (2, *SIZE, 3)).astype("uint8")
    masks = (255 * round_).astype("uint8")
    return {"image": image, "valid_size": VALID, "boxes": boxes, "classes": classes, "masks": masks}


def learner_of(case: str, **settings: Any) -> Any:
    """A small learner as training makes it; settings as for `Training`."""
    from repro.records.settings import Data, Network
    from repro.tasks import Instance
    from repro.tasks.base import Training

    network = Network(name=case, options=OPTIONS[case], **{key: SMALL[key] for key in ("width", "depth", "input_size")})
    training = Training(network=network, data=Data(name="shapes"), recipe="suite", epochs=1, batch_size=2, **settings)
    records = [{key: values[0] for key, values in batch_of().items()}]
    return Instance().learner(training, NUM_CLASSES, 0, 100, records)


def train_step(case: str) -> dict[str, np.ndarray]:
    """Loss of one compiled step of SGD, and by how much it moves every weight; what is drawn is NumPy's."""
    import keras

    keras.random.uniform = lambda shape, *args, **kwargs: keras.ops.convert_to_tensor(
        np.random.default_rng(math.prod(shape)).uniform(size=shape).astype("float32")
    )
    learner = learner_of(case, optimizer="sgd", learning_rate=STEP_RATE)
    fill(learner.network)
    before = {v.path: keras.ops.convert_to_numpy(v) for v in learner.network.trainable_variables}
    found = {"loss": np.asarray(learner.train_on_batch(batch_of()))}
    for variable in learner.network.trainable_variables:
        found[f"update/{variable.path}"] = keras.ops.convert_to_numpy(variable) - before[variable.path]
    return found


def main() -> None:
    """Compute everything on one backend and write it."""
    backend.select(sys.argv[1])
    import keras

    backend.set_precision("float32")
    found: dict[str, np.ndarray] = {}
    for case, options in OPTIONS.items():
        model = registry.build(case, channels=3, heads="infer", **SMALL, **options)
        fill(model)
        batch = batch_of()
        given = {tensor.name: batch[tensor.name].astype(tensor.dtype) for tensor in model.inputs}
        inputs = keras.tree.map_structure(backend.to_device, given)
        for mode in ("eager", "xla"):
            outputs = backend.forward(model, mode)(inputs)
            found |= {f"{case}/{mode}/{key}": np.asarray(value) for key, value in outputs.items()}
        found |= {f"{case}-step/xla/{key}": value for key, value in train_step(case).items()}
    np.savez(sys.argv[2], **found)


if __name__ == "__main__":
    main()
