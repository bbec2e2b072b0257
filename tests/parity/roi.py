"""What one backend computes of `repro.ops.roi`, for test_roi.py."""

from typing import Any

import numpy as np

from repro import backend

MODES = ("eager", "xla")
# Run eagerly JAX compiles every op by itself, which takes longer than the whole
EAGER_CASES = ("pool-ties", "align-published")
# case -> (op, its options)
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "pool": ("roi_max_pool", {}),
    "pool-ties": ("roi_max_pool", {"size": (3, 2), "spatial_scale": 1 / 8}),
    "align": ("roi_align", {"size": (7, 7), "spatial_scale": 1 / 16}),
    "align-published": (
        "roi_align",
        {"size": (3, 2), "spatial_scale": 1 / 8, "sampling_ratio": 3, "aligned": False},
    ),
}


def values_and_gradient(
    op: str, options: dict[str, Any], features: np.ndarray, rois: np.ndarray, upstream: np.ndarray, mode: str
) -> tuple[np.ndarray, np.ndarray]:
    """The output of an op, and the gradient by its features for one by its output."""
    from keras import ops

    from repro.ops import roi

    def call(features, rois):
        # RoIs that depend on what is differentiated, as proposals do; a gradient through them would be added
        rois = rois + ops.mean(features - ops.stop_gradient(features))
        return getattr(roi, op)(features, rois, **options)

    arrays = features, rois, upstream
    if backend.name() == "tensorflow":
        import tensorflow as tf

        def step(features, rois, upstream):
            with tf.GradientTape() as tape:
                tape.watch(features)
                values = call(features, rois)
            return values, tf.convert_to_tensor(tape.gradient(values, features, upstream))

        step = step if mode == "eager" else tf.function(step, jit_compile=True)
        found = step(*map(tf.constant, arrays))
    else:
        import jax

        def step(features, rois, upstream):
            values, pull = jax.vjp(lambda features: call(features, rois), features)
            return values, pull(upstream)[0]

        found = (step if mode == "eager" else jax.jit(step))(*map(jax.numpy.asarray, arrays))
    return tuple(map(ops.convert_to_numpy, found))


def compute(given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Of `case/features`, `case/rois` and `case/upstream`, the gradient by the output: `case/mode/values`, and
    `case/mode/gradient`, that by the features."""
    found = {}
    for case, (op, options) in CASES.items():
        arrays = [given[f"{case}/{name}"] for name in ("features", "rois", "upstream")]
        for mode in MODES if case in EAGER_CASES else MODES[1:]:
            values, gradient = values_and_gradient(op, options, *arrays, mode)
            found |= {f"{case}/{mode}/values": values, f"{case}/{mode}/gradient": gradient}
    return found
