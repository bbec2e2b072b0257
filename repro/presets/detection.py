"""Detection presets: R-CNN, Fast R-CNN and Faster R-CNN on one data set, with the same proposals and images seen.

shapes-*          smoke  generated pictures, narrow networks: about a minute each on 2 cores
voc-narrow-*      cpu    VOC 2007 at 192x192, an eighth of the width, half the depth, 600 images, from Tiny-ImageNet:
                         minutes a seed on 2 cores
voc2007-*, bccd-* gpu    full width: tens of minutes a seed on one GPU
voc2007-*         paper  the papers' own recipes: hours on one GPU
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from repro.experiments.lineage import Lineage
from repro.experiments.train import Train
from repro.presets.base import ADAMW, Preset, both, family
from repro.records.settings import Data, Network
from repro.tasks import AnyTask
from repro.tasks.detection import Detection
from repro.tasks.rcnn import RCNN

SHAPES = Data(
    name="shapes",
    options={
        "image_size": 96, "min_objects": 1, "max_objects": 2, "min_scale": 0.3, "max_scale": 0.6, "train_size": 256,
        "val_size": 32, "test_size": 96,
    },
)  # fmt: skip
VOC = Data(name="voc2007")
VOC_NARROW = Data(name="voc2007", train_limit=600, test_limit=300)


def _family(
    prefix: str,
    about: str,
    profile: str,
    data: Data,
    networks: Mapping[str, dict[str, Any]],
    recipes: Mapping[str, dict[str, Any]],
    seconds: Mapping[str, float],
    value: int,
    tasks: Mapping[str, AnyTask],
    papers: Mapping[str, dict[str, Any]] = MappingProxyType({}),
    seeds: int = 1,
) -> list[Preset]:
    """The three generations on one data set. `networks`: settings of each; `recipes`, `papers`: of each training."""

    def trained(name: str, data: Data, recipe: dict[str, Any]) -> Train:
        return Train(network=Network(name=name, **networks[name]), task=tasks[name], data=data, **recipe)

    whole = msgspec.structs.replace(data, train="trainval")
    kinds = {name: trained(name, data, recipe) for name, recipe in recipes.items()}
    paper: dict[str, Any] = {"papers": {name: trained(name, whole, recipe) for name, recipe in papers.items()}}
    paper["paper_seconds"] = {name: 10 * cost for name, cost in seconds.items()}
    return family(prefix, about, profile, kinds, seconds, value, **paper, seeds=seeds)


def _tasks(search: Mapping[str, Any] = MappingProxyType({}), **regions: Any) -> dict[str, AnyTask]:
    """The task of each network, with the same proposals for those that have none of their own; `regions`: R-CNN's."""
    searched: dict[str, Any] = {"proposals": "fast", "search": dict(search)}
    itself = dict.fromkeys(("faster_rcnn", "faster_rcnn_resnet101"), Detection())
    return {"rcnn": RCNN(**searched, **regions), "fast_rcnn": Detection(**searched), **itself}


def _networks(
    width: float,
    depth: float,
    canvas: tuple[int, int],
    region: int,
    proposals: int,
    faster: dict[str, Any],
    max_boxes: int = 64,
) -> dict[str, dict[str, Any]]:
    """Settings of the three networks; from random weights, no block of VGG-16 is frozen."""
    shared: dict[str, Any] = {"width": width, "depth": depth}
    free = {"frozen_blocks": 0, "max_boxes": max_boxes}
    return {
        "rcnn": {**shared, "input_size": (region, region)},
        "fast_rcnn": {**shared, "input_size": canvas, "options": {**free, "proposals": proposals}},
        "faster_rcnn": {**shared, "input_size": canvas, "options": {**free, **faster}},
    }


_SMOKE = dict(ADAMW, learning_rate=1e-3, augment={"flip": True}, val_every=100)
_NARROW = dict(_SMOKE, init="tiny-imagenet-narrow-vgg16")
_TUNED: dict[str, Any] = dict(
    recipe="suite", optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4, schedule="cosine", warmup=0.05,
    clip_norm=10.0, augment={"flip": True}, val_every=2, init="imagenet",
)  # fmt: skip
_SGD: dict[str, Any] = dict(
    recipe="paper", optimizer="sgd", momentum=0.9, learning_rate=1e-3, weight_decay=5e-4, schedule="step",
    augment={"flip": True}, val_every=4, init="imagenet",
)  # fmt: skip
# as `recipe` of each model's file gives them
_PAPER = {
    "rcnn": dict(_SGD, drops=(2 / 7, 4 / 7, 6 / 7), epochs=16, batch_size=128),
    "fast_rcnn": dict(_SGD, drops=(0.75,), epochs=16, batch_size=2),
    "faster_rcnn": dict(_SGD, drops=(5 / 7,), epochs=28, batch_size=2),
}
_LARGE: dict[str, Any] = {"input_size": (800, 800)}

PRESETS = (
    *_family(
        "shapes", "on generated pictures, narrow", "smoke", SHAPES,
        _networks(
            1 / 8, 0.5, (96, 96), 64, 100,
            {"anchor_scales": (2, 4), "min_size": 4, "before_nms": (300, 300), "after_nms": (100, 50), "rois": 32,
             "rpn_sample": 64}, 8,
        ),
        {
            "rcnn": dict(_SMOKE, epochs=2, batch_size=64), "fast_rcnn": dict(_SMOKE, epochs=16, batch_size=8),
            "faster_rcnn": dict(_SMOKE, epochs=24, batch_size=8),
        },
        {"rcnn": 60, "fast_rcnn": 50, "faster_rcnn": 50}, 55,
        _tasks({"width": None, "min_side": 8}, num_proposals=100),
    ),
    *_family(
        "voc-narrow", "on VOC 2007 at 192x192, an eighth of the width, half the depth", "cpu", VOC_NARROW,
        _networks(
            1 / 8, 0.5, (192, 192), 64, 300,
            {"anchor_scales": (2, 4, 8), "min_size": 8, "before_nms": (1000, 1000), "after_nms": (300, 300),
             "rois": 64},
        ),
        {
            "rcnn": dict(_NARROW, epochs=2, batch_size=128), "fast_rcnn": dict(_NARROW, epochs=14, batch_size=4),
            "faster_rcnn": dict(_NARROW, epochs=14, batch_size=4),
        },
        {"rcnn": 300, "fast_rcnn": 120, "faster_rcnn": 120}, 24,
        _tasks({"width": None, "min_side": 13}, num_proposals=300, svm_cache=2000), seeds=3,
    ),
    *_family(
        "voc2007", "on VOC 2007 at 800x800", "gpu", VOC,
        {"rcnn": {}, "fast_rcnn": _LARGE, "faster_rcnn": _LARGE, "faster_rcnn_resnet101": _LARGE},
        {
            "rcnn": dict(_TUNED, epochs=2, batch_size=128),
            "fast_rcnn": dict(_TUNED, epochs=8, batch_size=4),
            "faster_rcnn": dict(_TUNED, epochs=8, batch_size=4),
            "faster_rcnn_resnet101": dict(_TUNED, epochs=8, batch_size=4),
        },
        {"rcnn": 7200, "fast_rcnn": 2400, "faster_rcnn": 2400, "faster_rcnn_resnet101": 3600}, 66, _tasks(),
        papers=_PAPER,
    ),
    *_family(
        "bccd", "on blood cells at 480x640", "gpu", Data(name="bccd"),
        {name: {"input_size": (480, 640)} for name in ("fast_rcnn", "faster_rcnn")},
        {name: dict(_TUNED, epochs=30, batch_size=4) for name in ("fast_rcnn", "faster_rcnn")},
        {"fast_rcnn": 900, "faster_rcnn": 900}, 44, _tasks(),
    ),
    Preset(
        "voc2007-faster-rcnn-alternating",
        "Faster R-CNN on VOC 2007 at 800x800 by the four steps of alternating training",
        {"gpu": Train(
            network=Network(name="faster_rcnn", **_LARGE), task=Detection(training="alternating"), data=VOC,
            label="alternating", **dict(_TUNED, epochs=4, batch_size=4),
        )},
        30, {"gpu": 4800},
    ),
    Preset(
        "lineage", "R-CNN, Fast R-CNN and Faster R-CNN on VGG-16, stage by stage, image by image",
        {
            "smoke": Lineage(
                data=SHAPES, images=2, canvas=(96, 160), region=64, search={"width": None, "min_side": 8},
                num_proposals=100, width=1 / 8, depth=0.5,
                svd=(64, 32), warmup=3, repetitions=10, seconds=6,
            ),
            **both(Lineage(data=VOC, images=1)),
        },
        50, {"smoke": 40, **both(900)},
    ),
)  # fmt: skip
