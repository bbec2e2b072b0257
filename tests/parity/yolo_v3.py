"""What one backend computes of `repro.models.yolo_v3`, for test_yolo_v3.py."""

from typing import Any

import numpy as np

from repro import backend

MODES = ("eager", "xla")
SCALES = ("stride32", "stride16", "stride8")
# (width, height), for images of 64x96; the paper's are for larger ones
SMALL = ((6, 8), (10, 7), (9, 14), (18, 12), (16, 26), (30, 24), (34, 50), (60, 30), (70, 60))
# case -> options of `loss` and `detect`
CASES: dict[str, dict[str, Any]] = {
    "small": {"anchors": SMALL},
    "strict": {"anchors": SMALL, "ignore": 0.2},
    "paper": {},
}
# run eagerly JAX compiles every op by itself, which takes longer than the whole
EAGER_CASES = ("small",)


def computed(arrays: dict[str, np.ndarray], options: dict[str, Any], mode: str) -> dict[str, np.ndarray]:
    """Everything the file computes of one batch, and the gradients of the loss by the raw answers."""
    from keras import ops

    from repro.models import yolo_v3

    anchors = options.get("anchors")

    def loss(answers, batch):
        return yolo_v3.loss(answers, batch, **options)

    def rest(answers, batch):
        raw, size = yolo_v3.flatten(answers), yolo_v3.size_of(answers)
        truth = yolo_v3.targets(batch["boxes"], batch["classes"], size, raw.shape[-1] - 5, anchors)
        found = yolo_v3.detect(answers, batch, anchors=anchors, score_threshold=0.1, max_detections=30, candidates=60)
        return {
            **{f"truth/{name}": value for name, value in truth.items()},
            **{f"found/{name}": value for name, value in found.items()},
            "decoded": yolo_v3.decode(raw, size, anchors),
        }

    tensors = {name: ops.convert_to_tensor(values) for name, values in arrays.items()}
    answers = {name: tensors.pop(name) for name in SCALES}
    if backend.name() == "tensorflow":
        import tensorflow as tf

        def step(answers, batch):
            with tf.GradientTape() as tape:
                tape.watch(answers)
                value = loss(answers, batch)
            gradients = {name: tf.convert_to_tensor(g) for name, g in tape.gradient(value, answers).items()}
            return {"loss": value, **gradients, **rest(answers, batch)}

        step = step if mode == "eager" else tf.function(step, jit_compile=True)
    else:
        import jax

        def step(answers, batch):
            value, gradients = jax.value_and_grad(loss)(answers, batch)
            return {"loss": value, **gradients, **rest(answers, batch)}

        step = step if mode == "eager" else jax.jit(step)
    return {name: ops.convert_to_numpy(values) for name, values in step(answers, tensors).items()}


def compute(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of `case/NAME`, the raw answers of three strides, boxes, classes and valid_size: `case/mode/NAME`, the loss, its
    gradients by the answers, the targets, the decoded boxes and the detections."""
    found = {}
    for case, options in CASES.items():
        arrays = {name.removeprefix(f"{case}/"): x for name, x in given.items() if name.startswith(f"{case}/")}
        for mode in MODES if case in EAGER_CASES else MODES[1:]:
            for name, values in computed(arrays, options, mode).items():
                found[f"{case}/{mode}/{name}"] = values
    return found
