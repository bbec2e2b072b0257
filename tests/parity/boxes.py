"""Boxes, anchors and matching on one backend, for test_matching.py."""

from collections.abc import Callable
from typing import Any

import numpy as np

from repro import backend

MODES = ("eager", "xla")
MEAN, STD = (0.1, -0.2, 0.0, 0.05), (0.1, 0.1, 0.2, 0.2)
SAMPLES = {"half": (8, 0.5), "third": (5, 0.34), "all": (100, 1.0), "no-negative": (4, 1.0)}
# without `excluded` boxes, then with
ROIS = {
    "paper": dict(count=15),
    "proposals-only": dict(count=15, positive_iou=0.6, negative_iou=(0.2, 0.4), append_truth=False),
    "end-to-end-excluded": dict(count=15, positive_fraction=0.5, negative_iou=(0.0, 0.5)),
    "more-than-there-are-excluded": dict(count=60, positive_fraction=1.0, negative_iou=(0.0, 0.5)),
}


def _rois(x: dict[str, Any], name: str) -> list[Any]:
    from repro.ops.matching import sample_rois

    excluded, options = x["excluded"] if name.endswith("excluded") else None, ROIS[name]
    noise = x["roi_noise"] if options.get("append_truth", True) else x["proposal_noise"]
    inputs = [x[key] for key in ("proposals", "proposal_valid", "boxes", "classes")]
    sample = sample_rois(*inputs, noise, excluded=excluded, **options)
    return [sample[key] for key in ("rois", "labels", "matched_boxes", "positive")]


def cases() -> dict[str, Callable[[dict[str, Any]], list[Any]]]:
    """Every function under test, by name: from the arrays of the input file to its outputs."""
    from repro.ops import anchors, boxes, matching

    return {
        "iou": lambda x: [boxes.pairwise_iou(x["anchors"], x["boxes"])],
        "area": lambda x: [boxes.box_area(x["boxes"]), *boxes.side_lengths(x["boxes"])],
        "encode": lambda x: [boxes.encode_boxes(x["boxes"], x["references"], MEAN, STD)],
        "decode": lambda x: [boxes.decode_boxes(x["deltas"], x["references"], MEAN, STD)],
        "clip": lambda x: [boxes.clip_boxes(x["proposals"], x["size"])],
        "flip": lambda x: [boxes.flip_boxes(x["proposals"], 20), boxes.flip_boxes(x["boxes"], x["size"][:, 1:])],
        "inside": lambda x: [anchors.inside_image(x["anchors"], x["size"], border) for border in (0, 2)],
        "match": lambda x: [*matching.match(x["anchors"], x["boxes"], x["valid"])],
        "match-own": lambda x: [*matching.match(x["proposals"], x["boxes"], x["valid"])],
        "label": lambda x: [*matching.label_anchors(x["anchors"], x["boxes"], x["valid"], x["usable"])],
        "label-half": lambda x: [*matching.label_anchors(x["anchors"], x["boxes"], x["valid"], x["usable"], 0.5, 0.2)],
        **{
            f"sample-{name}": lambda x, options=options: [matching.sample_labels(x["labels"], x["noise"], *options)]
            for name, options in SAMPLES.items()
        },
        **{f"rois-{name}": lambda x, name=name: _rois(x, name) for name in ROIS},
    }


def outputs(mode: str, arrays: dict[str, np.ndarray]) -> dict[str, list[np.ndarray]]:
    """What every case makes of the arrays, eager or all in one program of XLA."""
    from keras import ops

    def function(x):
        return {case: function(x) for case, function in cases().items()}

    if mode == "xla" and backend.name() == "tensorflow":
        import tensorflow as tf

        function = tf.function(function, jit_compile=True, autograph=False)
    elif mode == "xla":
        import jax

        function = jax.jit(function)
    found = function({key: ops.convert_to_tensor(array) for key, array in arrays.items()})
    return {case: [ops.convert_to_numpy(value) for value in values] for case, values in found.items()}


def compute(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every case in every mode: {case/mode/number: array}."""
    return {
        f"{case}/{mode}/{number}": value
        for mode in MODES
        for case, values in outputs(mode, arrays).items()
        for number, value in enumerate(values)
    }
