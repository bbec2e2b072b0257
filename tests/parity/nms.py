"""Non-maximum suppression of the same boxes on one backend, eager and compiled, for test_nms.py."""

import functools
from typing import Any

import numpy as np

from repro import backend

MODES = ("eager", "xla")
# how many lists, of how many boxes; the settings of `nms`
NMS_CASES: dict[str, tuple[tuple[int, int], dict[str, Any]]] = {
    "one-tile": ((512, 24), dict(iou_threshold=0.5, max_output=30)),
    "tiles": ((512, 24), dict(iou_threshold=0.3, max_output=6, tile=5)),
    "long": ((2, 1500), dict(iou_threshold=0.5, max_output=400)),
}
# images, boxes and classes; whether the classes share the boxes; the settings of `class_nms`
CLASS_CASES: dict[str, tuple[tuple[int, int, int], bool, dict[str, Any]]] = {
    "shared": ((48, 16, 4), True, dict(iou_threshold=0.3, score_threshold=0.75, max_output=9)),
    "own": ((48, 16, 4), False, dict(iou_threshold=0.5, score_threshold=-1.0, max_output=70, per_class_pool=7)),
    "long-shared": ((2, 600, 3), True, dict(iou_threshold=0.3, score_threshold=0.05, max_output=100)),
}
# JAX compiles every operation by itself when eager, so that it takes longer than compiled
EAGER_ON_JAX = ("one-tile", "tiles", "shared")
ODD_SCORES = (float("nan"), float("inf"), float("-inf"), -0.0)


def crowd(rng, shape, number):
    """Boxes [*shape,4] on a grid of half pixels, full of duplicates, equal overlaps, and boxes without area."""
    side = 4 if number < 100 else 64
    size = rng.integers(1, 2 * side, (*shape, 2))
    corner = rng.integers(0, 2 * side, (*shape, 2))
    boxes = np.concatenate([corner, corner + size], axis=-1) / 2
    flat = rng.random(shape)
    boxes[flat < 0.1, 2] = boxes[flat < 0.1, 0]  # no width
    boxes[flat < 0.03] = boxes[flat < 0.03][:, [2, 1, 0, 3]]
    inverted = flat > 0.95
    boxes[inverted] = boxes[inverted][:, [2, 3, 0, 1]]
    return boxes.astype("float32")


@functools.cache
def inputs():
    """{case: {name: array}} for every case."""
    found = {}
    for seed, (case, ((lists, number), _)) in enumerate(NMS_CASES.items()):
        rng = np.random.default_rng(seed)
        boxes = crowd(rng, (lists, number), number)
        twins = rng.integers(0, number, (lists, number // 4))
        boxes[np.arange(lists)[:, None], twins] = boxes[np.arange(lists)[:, None], twins[:, ::-1]]
        levels = rng.choice([3, 10, 1000], (lists, 1))
        scores = (rng.integers(0, levels, (lists, number)) - 1).astype("float32") / 8
        odd = rng.random(scores.shape) < 0.08
        scores[odd] = rng.choice(ODD_SCORES, odd.sum())
        valid = rng.random((lists, number)) < rng.choice([0.0, 0.3, 0.9, 1.0], (lists, 1), p=[0.05, 0.15, 0.4, 0.4])
        found[case] = {"boxes": boxes, "scores": scores, "valid": valid}
    for seed, (case, ((images, number, classes), shared, _)) in enumerate(CLASS_CASES.items(), 100):
        rng = np.random.default_rng(seed)
        boxes = crowd(rng, (images, number, 1 if shared else classes), number)
        scores = rng.integers(0, 9, (images, number, classes)).astype("float32") / 8
        scores *= rng.random((images, 1, 1)) > 0.1  # images without a detection
        odd = rng.random(scores.shape) < 0.05
        scores[odd] = rng.choice(ODD_SCORES, odd.sum())
        found[case] = {"boxes": boxes, "scores": scores}
    return found


def call(case: str, mode: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What the op of a case returns of its arrays, here and now."""
    from repro.ops.nms import class_nms, nms

    if case in NMS_CASES:
        settings = NMS_CASES[case][1]

        def function(boxes, scores, valid):
            return dict(zip(("indices", "kept"), nms(boxes, scores, valid=valid, **settings), strict=True))
    else:
        settings = CLASS_CASES[case][2]

        def function(boxes, scores):
            return class_nms(boxes, scores, **settings)

    found = in_mode(function, mode)(
        *(backend.to_device(arrays[name]) for name in ("boxes", "scores", "valid") if name in arrays)
    )
    return {name: np.asarray(value) for name, value in found.items()}


def in_mode(function: Any, mode: str) -> Any:
    """The function itself, or compiled by XLA."""
    if mode == "eager":
        return function
    if backend.name() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True)
    import jax

    return jax.jit(function)


def gradient(mode: str) -> np.ndarray:
    """By boxes [6,4], of the boxes that NMS chooses among them: through the choice there must be none."""
    from keras import ops

    from repro.ops.nms import class_nms, nms
    from tests.parity.networks import values_and_gradients

    corners = np.array([[0, 0], [1, 0], [9, 9], [0, 9], [1, 9], [30, 30]], "float32")
    boxes = np.concatenate([corners, corners + 8], axis=1)
    scores = np.array([0.9, 0.8, 0.7, 0.3, 0.6, 0.5], "float32")

    def chosen(boxes):
        indices, kept = nms(boxes, scores * ops.mean(boxes), 0.5, 5, tile=2)
        best = class_nms(boxes[None, :, None], ops.ones((1, 6, 2)) * ops.mean(boxes), 0.5, 0.0, 3)
        return [ops.where(kept[:, None], ops.take(boxes, indices, axis=0), 0.0), best["boxes"], best["scores"]]

    return values_and_gradients(chosen, [boxes], mode)[1][0]


def scratch_bytes() -> dict[str, int]:
    """What JAX's compiler sets aside besides arguments and results, for lists whose pairwise IoU would be too much."""
    import jax
    import jax.numpy as jnp

    from repro.ops.nms import class_nms, nms

    def of(function, *shapes):
        arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes

    return {
        "proposals": of(lambda b, s: nms(b, s, 0.7, 2000), (1, 12000, 4), (1, 12000)),
        "classes80": of(lambda b, s: class_nms(b, s, 0.3, 0.05, 100), (1, 2000, 1, 4), (1, 2000, 80)),
    }


def compute(_: dict[str, np.ndarray]) -> dict[str, Any]:
    """Every case: {case/mode/name: array}; and on JAX the memory of the compiled."""
    chosen, found = backend.name(), {}
    for case, arrays in inputs().items():
        for mode in MODES if chosen != "jax" or case in EAGER_ON_JAX else ("xla",):
            found |= {f"{case}/{mode}/{key}": value for key, value in call(case, mode, arrays).items()}
    found["gradient"] = gradient("xla")
    if chosen == "jax":
        found |= {f"scratch/{key}": value for key, value in scratch_bytes().items()}
    return found
