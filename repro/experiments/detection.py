"""Detection presets: R-CNN, Fast R-CNN and Faster R-CNN on one data set, with the same proposals and images seen.

shapes-*          smoke  generated pictures, narrow networks: about a minute each on 2 cores
voc-narrow-*      lab    VOC 2007 at 192x192, an eighth of the width, half the depth, 600 images, from Tiny-ImageNet:
                         minutes a seed on 2 cores, run by name
voc2007-*, bccd-* lab    full width: tens of minutes a seed on one GPU
voc2007-*         paper  the papers' own recipes: hours on one GPU
"""

from typing import Any

import msgspec

from repro.experiments.base import ADAMW, Experiment
from repro.harness.config import Data, Lineage, Network, TrainDetector, TrainRCNN

SHAPES = Data(
    name="shapes",
    options={
        "image_size": 96, "min_objects": 1, "max_objects": 2, "min_scale": 0.3, "max_scale": 0.6, "train_size": 256,
        "val_size": 32, "test_size": 96,
    },
)  # fmt: skip
VOC = Data(name="voc2007")
VOC_NARROW = Data(name="voc2007", train_limit=600)
_TITLES = {
    "rcnn": "R-CNN",
    "fast_rcnn": "Fast R-CNN",
    "faster_rcnn": "Faster R-CNN",
    "faster_rcnn_resnet101": "Faster R-CNN on ResNet-101",
}


def _family(
    prefix: str, about: str, profile: str, data: Data, settings: dict[str, dict[str, Any]],
    recipes: dict[str, dict[str, Any]], seconds: dict[str, float], value: int,
    search: dict[str, Any], common: dict[str, Any], papers: dict[str, dict[str, Any]] | None = None, **fields: Any,
) -> list[Experiment]:  # fmt: skip
    """The three generations on one data set. `settings`: of each network; `recipes`: of each training."""
    presets = []
    for name, recipe in recipes.items():
        kind = TrainRCNN if name == "rcnn" else TrainDetector
        searched = {} if name.startswith("faster") else {"proposals": "fast", "search": search}
        network = Network(name=name, **settings[name])
        configs = {profile: kind(network=network, data=data, **searched, **common, **recipe)}
        costs = {profile: seconds[name]}
        if name in (papers or {}):
            trainval = msgspec.structs.replace(data, train="trainval")
            configs["paper"] = kind(network=network, data=trainval, **searched, **common, **papers[name])
            costs["paper"] = 10 * seconds[name]
        presets.append(
            Experiment(
                name=f"{prefix}-{name.replace('_', '-')}", about=f"{_TITLES[name]} {about}", configs=configs,
                value=value, seconds=costs, **fields,
            )
        )  # fmt: skip
    return presets


def _networks(
    width: float, depth: float, canvas: tuple[int, int], region: int, proposals: int, faster: dict[str, Any],
    max_boxes: int = 64,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Settings of the three networks; from random weights, no block of VGG-16 is frozen."""
    shared: dict[str, Any] = {"width": width, "depth": depth}
    free = {"frozen_blocks": 0, "max_boxes": max_boxes}
    return {
        "rcnn": {**shared, "input_size": (region, region)},
        "fast_rcnn": {**shared, "input_size": canvas, "options": {**free, "proposals": proposals}},
        "faster_rcnn": {**shared, "input_size": canvas, "options": {**free, **faster}},
    }


_SMOKE = dict(ADAMW, learning_rate=1e-3, augment={"flip": True}, val_every=100)
_TUNED = dict(
    recipe="suite", optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4, schedule="cosine", warmup=0.05,
    clip_norm=10.0, augment={"flip": True}, val_every=2,
)  # fmt: skip
_SGD = dict(
    recipe="paper", optimizer="sgd", momentum=0.9, learning_rate=1e-3, weight_decay=5e-4, schedule="step",
    augment={"flip": True}, val_every=4,
)  # fmt: skip
# as `recipe` of each model's file gives them
_PAPER = {
    "rcnn": dict(_SGD, drops=(2 / 7, 4 / 7, 6 / 7), epochs=16, batch_size=128),
    "fast_rcnn": dict(_SGD, drops=(0.75,), epochs=16, batch_size=2),
    "faster_rcnn": dict(_SGD, drops=(5 / 7,), epochs=28, batch_size=2),
}
_NARROW = dict(ADAMW, learning_rate=1e-3, augment={"flip": True}, val_every=100)

PRESETS = (
    *_family(
        "shapes", "on generated pictures, narrow", "smoke", SHAPES,
        _networks(
            1 / 8, 0.5, (96, 96), 64, 100,
            {"anchor_scales": (2, 4), "min_size": 4, "before_nms": (300, 300), "after_nms": (100, 50), "rois": 32,
             "rpn_sample": 64}, 8,
        ),
        {
            "rcnn": dict(_SMOKE, epochs=2, batch_size=64, num_proposals=100),
            "fast_rcnn": dict(_SMOKE, epochs=16, batch_size=8),
            "faster_rcnn": dict(_SMOKE, epochs=24, batch_size=8),
        },
        {"rcnn": 60, "fast_rcnn": 50, "faster_rcnn": 50}, 55, {"width": None, "min_side": 8}, {},
    ),
    *_family(
        "voc-narrow", "on VOC 2007 at 192x192, an eighth of the width, half the depth", "lab", VOC_NARROW,
        _networks(
            1 / 8, 0.5, (192, 192), 64, 300,
            {"anchor_scales": (2, 4, 8), "min_size": 8, "before_nms": (1000, 1000), "after_nms": (300, 300),
             "rois": 64},
        ),
        {
            "rcnn": dict(_NARROW, epochs=2, batch_size=128, num_proposals=300, svm_cache=2000),
            "fast_rcnn": dict(_NARROW, epochs=14, batch_size=4),
            "faster_rcnn": dict(_NARROW, epochs=14, batch_size=4),
        },
        {"rcnn": 300, "fast_rcnn": 120, "faster_rcnn": 120}, 24, {"width": None, "min_side": 13},
        {"test_limit": 300, "init": "tiny-imagenet-narrow-vgg16"}, seeds=3, by_name=True,
    ),
    *_family(
        "voc2007", "on VOC 2007 at 800x800", "lab", VOC,
        {
            "rcnn": {},
            "fast_rcnn": {"input_size": (800, 800)},
            "faster_rcnn": {"input_size": (800, 800)},
            "faster_rcnn_resnet101": {"input_size": (800, 800)},
        },
        {
            "rcnn": dict(_TUNED, epochs=2, batch_size=128),
            "fast_rcnn": dict(_TUNED, epochs=8, batch_size=4),
            "faster_rcnn": dict(_TUNED, epochs=8, batch_size=4),
            "faster_rcnn_resnet101": dict(_TUNED, epochs=8, batch_size=4),
        },
        {"rcnn": 7200, "fast_rcnn": 2400, "faster_rcnn": 2400, "faster_rcnn_resnet101": 3600}, 66, {},
        {"init": "imagenet"}, papers=_PAPER,
    ),
    *_family(
        "bccd", "on blood cells at 480x640", "lab", Data(name="bccd"),
        {
            "fast_rcnn": {"input_size": (480, 640)},
            "faster_rcnn": {"input_size": (480, 640)},
        },
        {
            "fast_rcnn": dict(_TUNED, epochs=30, batch_size=4),
            "faster_rcnn": dict(_TUNED, epochs=30, batch_size=4),
        },
        {"fast_rcnn": 900, "faster_rcnn": 900}, 44, {}, {"init": "imagenet"},
    ),
    Experiment(
        name="voc2007-faster-rcnn-alternating",
        about="Faster R-CNN on VOC 2007 at 800x800 by the four steps of alternating training",
        configs={
            "lab": TrainDetector(
                network=Network(name="faster_rcnn", input_size=(800, 800)), data=VOC, phases="alternating",
                label="alternating", init="imagenet", **dict(_TUNED, epochs=4, batch_size=4),
            ),
        },
        value=30, seconds={"lab": 4800},
    ),
    Experiment(
        name="lineage",
        about="R-CNN, Fast R-CNN and Faster R-CNN on VGG-16, stage by stage, image by image",
        configs={
            "smoke": Lineage(
                data=SHAPES, images=2, canvas=(96, 160), region=64, search={"width": None, "min_side": 8},
                num_proposals=100, width=1 / 8, depth=0.5,
                svd=(64, 32), warmup=3, repetitions=10, seconds=6,
            ),
            "lab": Lineage(data=VOC, images=1),
        },
        value=50, seconds={"smoke": 40, "lab": 900},
    ),
)  # fmt: skip
