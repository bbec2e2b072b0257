"""YOLO presets: v1, Fast YOLO, v2 and v3, beside the R-CNN line of `detection.py` on the same data.

shapes-yolo-*, shapes-fast-yolo  smoke  generated pictures, narrow networks: about a minute each on 2 cores
voc-narrow-*                     cpu    VOC 2007, an eighth of the width, half the depth, 600 images, from
                                        Tiny-ImageNet: minutes a seed on 2 cores
voc2007-*                        gpu    full width; tens of minutes a seed on one GPU
voc2007-*, coco2017-yolo-v3      paper  the papers' own recipes: days on one GPU
detector-speed                   every version and Faster R-CNN at full size, in one run
anchors-*                        seconds
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from repro.experiments.anchors import Anchors
from repro.experiments.detector_speed import DetectorSpeed
from repro.experiments.train import Train
from repro.presets.base import ADAMW, Preset, both, family
from repro.presets.detection import SHAPES, VOC, VOC_NARROW
from repro.records.settings import Data, Network
from repro.tasks.yolo import Yolo

_VERSIONS = ("yolo_v1", "fast_yolo", "yolo_v2", "yolo_v3")
_COCO = Data(name="coco2017", test="val")
# what the narrow networks start from; without batch normalisation YOLO v1's classifier learns too little in minutes
_STARTS = {"yolo_v2": "tiny-imagenet-narrow-darknet19", "yolo_v3": "tiny-imagenet-narrow-darknet53"}
# every 10 steps another side (YOLO v2, Section 2; examples/detector.c)
_SIDES = tuple(range(320, 609, 32))
_COLOURS = {"saturation": 1.5, "exposure": 1.5}
# anchors of VOC (cfg/yolov2-voc.cfg, in cells) and of YOLO v3 (in pixels) are those of 416x416 images
_ANCHORS_V2 = ((1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071))
_ANCHORS_V3 = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
_V1_AUGMENT = {"flip": True, "scale": 0.2, "shift": 0.2, **_COLOURS}
_AUGMENT = {"flip": True, "scale": 0.3, "shift": 0.3, "hue": 0.1, **_COLOURS}


def _family(
    prefix: str,
    about: str,
    profile: str,
    data: Data,
    networks: dict[str, dict[str, Any]],
    recipes: dict[str, dict[str, Any]],
    seconds: float,
    value: int,
    tasks: Mapping[str, Yolo] = MappingProxyType({}),
    **fields: Any,
) -> list[Preset]:
    """Every version on one data set. `networks`: settings of each; `recipes`: of each training; fields of `family`."""
    kinds = {
        name: Train(
            network=Network(name=name, **networks.get(name, {})), task=tasks.get(name, Yolo()), data=data, **recipe
        )
        for name, recipe in recipes.items()
    }
    return family(prefix, about, profile, kinds, seconds, value, paper_seconds=30 * seconds, **fields)


def _shrunk(anchors: tuple[tuple[float, float], ...], side: int) -> list[list[float]]:
    """Anchors for images of another side."""
    return [[round(length * side / 416, 4) for length in anchor] for anchor in anchors]


def _small(recipe: dict[str, Any], side: int) -> tuple[dict[str, dict[str, Any]], dict[str, Yolo]]:
    """A recipe for every version, and tasks: YOLO v3's loss and decoding must know its anchors."""
    anchors = {"anchors": _shrunk(_ANCHORS_V3, side)}
    recipes = dict.fromkeys(_VERSIONS, recipe) | {"yolo_v3": dict(recipe, loss_options=anchors)}
    return recipes, {"yolo_v3": Yolo(decoding=anchors)}


def _small_networks(
    side: int, coarse_side: int, width: float, depths: tuple[float, float]
) -> dict[str, dict[str, Any]]:
    """YOLO v1 looks at stride 64, so its images are larger. `depths`: of v1 and v2, and of v3."""
    coarse = {"width": width, "depth": depths[0], "input_size": (coarse_side, coarse_side)}
    fine = {"width": width, "input_size": (side, side)}
    return {
        "yolo_v1": coarse,
        "fast_yolo": coarse,
        "yolo_v2": {**fine, "depth": depths[0], "options": {"anchors": _shrunk(_ANCHORS_V2, side)}},
        "yolo_v3": {**fine, "depth": depths[1], "options": {"anchors": _shrunk(_ANCHORS_V3, side)}},
    }


_SMOKE = dict(ADAMW, learning_rate=2e-3, augment={"flip": True}, val_every=100, batch_size=8, epochs=24)
_NARROW = dict(ADAMW, learning_rate=1e-3, augment={"flip": True}, val_every=100, batch_size=4, epochs=14)
_TUNED: dict[str, Any] = dict(
    recipe="suite", optimizer="sgd", learning_rate=1e-3, weight_decay=5e-4, schedule="cosine", warmup=0.05,
    clip_norm=10.0, val_every=10, batch_size=16, epochs=40, init="imagenet",
)  # fmt: skip
_SGD: dict[str, Any] = dict(
    recipe="paper", optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="step", batch_size=64, val_every=10,
    init="imagenet",
)  # fmt: skip
_TRAINVAL = msgspec.structs.replace(VOC, train="trainval")
_PAPER = {
    "yolo_v1": Train(
        network=Network(name="yolo_v1"), task=Yolo(), data=_TRAINVAL, epochs=135, learning_rate=1e-2,
        drops=(75 / 135, 105 / 135), burn_in=0.01, augment=_V1_AUGMENT, **_SGD,
    ),
    "yolo_v2": Train(
        network=Network(name="yolo_v2"), task=Yolo(sizes=_SIDES), data=_TRAINVAL, epochs=160, learning_rate=1e-3,
        drops=(60 / 160, 90 / 160), burn_in=1000 / 80200, augment=_AUGMENT, **_SGD,
    ),
}  # fmt: skip
_SMOKE_RECIPES, _SMOKE_TASKS = _small(_SMOKE, 96)
_NARROW_RECIPES, _NARROW_TASKS = _small(_NARROW, 192)

PRESETS = (
    *_family(
        "shapes", "on generated pictures, narrow", "smoke", SHAPES, _small_networks(96, 192, 1 / 8, (0.5, 0.25)),
        _SMOKE_RECIPES, 60, 54, _SMOKE_TASKS,
    ),
    *_family(
        "voc-narrow", "on VOC 2007, an eighth of the width, half the depth", "cpu", VOC_NARROW,
        _small_networks(192, 256, 1 / 8, (0.5, 0.5)),
        {name: dict(recipe, init=_STARTS.get(name, "random")) for name, recipe in _NARROW_RECIPES.items()},
        150, 23, _NARROW_TASKS, seeds=3,
    ),
    *_family(
        "voc2007", "on VOC 2007", "gpu", VOC, {},
        {name: dict(_TUNED, augment=_AUGMENT if name in _STARTS else _V1_AUGMENT) for name in _VERSIONS}, 1500, 65,
        papers=_PAPER,
    ),
    Preset(
        "coco2017-yolo-v3", "YOLO v3 on COCO 2017 with the paper's recipe",
        {"paper": Train(
            network=Network(name="yolo_v3"), task=Yolo(sizes=_SIDES, max_boxes=128), data=_COCO, epochs=273,
            learning_rate=1e-3, drops=(4000 / 5002, 4500 / 5002), burn_in=10 / 5002, augment=_AUGMENT, **_SGD,
        )},
        50, {"paper": 600_000},
    ),
    Preset(
        "detector-speed", "the YOLO line and Faster R-CNN, image to final boxes, in one run",
        {
            "smoke": DetectorSpeed(
                networks=(
                    Network(name="fast_yolo", width=1 / 8, input_size=(128, 128)),
                    Network(name="yolo_v1", width=1 / 8, depth=0.5, input_size=(128, 128)),
                    Network(name="yolo_v2", width=1 / 8, depth=0.5, input_size=(96, 96)),
                    Network(name="yolo_v3", width=1 / 8, depth=0.25, input_size=(96, 96)),
                    Network(name="faster_rcnn", width=1 / 8, depth=0.5, input_size=(96, 160)),
                ),
                batches=(1, 4), warmup=3, repetitions=10, seconds=2,
            ),
            **both(DetectorSpeed(
                networks=(
                    Network(name="fast_yolo"),
                    Network(name="yolo_v1"),
                    *(Network(name="yolo_v2", variant="released", input_size=(side, side))
                      for side in (288, 352, 416, 480, 544)),
                    *(Network(name="yolo_v3", input_size=(side, side)) for side in (320, 416, 608)),
                    Network(name="faster_rcnn"),
                ),
            )),
        },
        56, {"smoke": 45, **both(600)},
    ),
    Preset(
        "anchors-shapes", "k-means of box sizes under 1 - IoU, generated pictures",
        {"smoke": Anchors(data=SHAPES, size=(96, 96), ks=(1, 2, 3, 5, 9), restarts=3)}, 20, {"smoke": 5},
    ),
    *(
        Preset(
            f"anchors-{name}", f"k-means of box sizes under 1 - IoU, {name}",
            both(Anchors(data=Data(name=name), size=(416, 416))), 30, both(60),
        )
        for name in ("voc2007", "coco2017", "bccd")
    ),
)  # fmt: skip
