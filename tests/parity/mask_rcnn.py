"""What one backend computes of Mask R-CNN, for test_mask_rcnn.py: weights, images and draws are NumPy's, so that
differences are of arithmetic."""

from typing import Any

import numpy as np

from repro import backend, registry
from tests.parity.networks import NETWORK_MODES, STEP_RATE, drawn_by_numpy, fill

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

    learner = learner_of(case, optimizer="sgd", learning_rate=STEP_RATE)
    fill(learner.network)
    before = {v.path: keras.ops.convert_to_numpy(v) for v in learner.network.trainable_variables}
    with drawn_by_numpy():
        found = {"loss": np.asarray(learner.train_on_batch(batch_of()))}
    for variable in learner.network.trainable_variables:
        found[f"update/{variable.path}"] = keras.ops.convert_to_numpy(variable) - before[variable.path]
    return found


def compute(_: dict[str, np.ndarray], case: str) -> dict[str, np.ndarray]:
    """Answers of a case, or its compiled train step (`CASE-step`): {mode/quantity: array}."""
    import keras

    if case.endswith("-step"):
        return {f"xla/{key}": value for key, value in train_step(case.removesuffix("-step")).items()}
    model = registry.build(case, channels=3, heads="infer", **SMALL, **OPTIONS[case])
    fill(model)
    batch = batch_of()
    given = {tensor.name: batch[tensor.name].astype(tensor.dtype) for tensor in model.inputs}
    inputs, found = keras.tree.map_structure(backend.to_device, given), {}
    for mode in NETWORK_MODES[backend.name()]:
        outputs = backend.forward(model, mode)(inputs)
        found |= {f"{mode}/{key}": np.asarray(value) for key, value in outputs.items()}
    return found
