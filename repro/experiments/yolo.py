"""YOLO presets: v1, Fast YOLO, v2 and v3, beside the R-CNN line of `detection.py` on the same data.

shapes-yolo-*, shapes-fast-yolo  smoke  generated pictures, narrow networks: about a minute each on 2 cores
voc-narrow-*                     lab    VOC 2007, an eighth of the width, half the depth, 600 images, from
                                        Tiny-ImageNet: minutes a seed on 2 cores, run by name
voc2007-*                        lab    full width; tens of minutes a seed on one GPU
voc2007-*, coco2017-yolo-v3      paper  the papers' own recipes: days on one GPU
detector-speed                   lab    every version and Faster R-CNN at full size, in one run
anchors-*                        seconds
"""

from typing import Any

import msgspec

from repro.experiments.base import ADAMW, Experiment
from repro.experiments.detection import SHAPES, VOC, VOC_NARROW
from repro.harness.config import Anchors, Data, DetectorSpeed, Network, TrainYolo

_TITLES = {"yolo_v1": "YOLO v1", "fast_yolo": "Fast YOLO", "yolo_v2": "YOLO v2", "yolo_v3": "YOLO v3"}
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
    prefix: str, about: str, profile: str, data: Data, networks: dict[str, dict[str, Any]],
    recipes: dict[str, dict[str, Any]], seconds: float, value: int, papers: dict[str, dict[str, Any]] | None = None,
    **fields: Any,
) -> list[Experiment]:  # fmt: skip
    """Every version on one data set. `networks`: settings of each; `recipes`, `papers`: of each training."""
    presets = []
    for name, recipe in recipes.items():
        network = Network(name=name, **networks.get(name, {}))
        configs = {profile: TrainYolo(network=network, data=data, **recipe)}
        costs = {profile: seconds}
        if name in (papers or {}):
            trainval = msgspec.structs.replace(data, train="trainval")
            configs["paper"] = TrainYolo(network=Network(name=name), data=trainval, init="imagenet", **papers[name])
            costs["paper"] = 30 * seconds
        presets.append(
            Experiment(
                name=f"{prefix}-{name.replace('_', '-')}", about=f"{_TITLES[name]} {about}", configs=configs,
                value=value, seconds=costs, **fields,
            )
        )  # fmt: skip
    return presets


def _shrunk(anchors: tuple[tuple[float, float], ...], side: int) -> list[list[float]]:
    """Anchors for images of another side."""
    return [[round(length * side / 416, 4) for length in anchor] for anchor in anchors]


def _small(recipe: dict[str, Any], side: int) -> dict[str, dict[str, Any]]:
    """A recipe for every version; YOLO v3's loss and decoding must know its anchors."""
    anchors = {"anchors": _shrunk(_ANCHORS_V3, side)}
    return dict.fromkeys(_TITLES, recipe) | {"yolo_v3": dict(recipe, loss_options=anchors, test=anchors)}


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
_NARROW = dict(ADAMW, learning_rate=1e-3, augment={"flip": True}, val_every=100, batch_size=4, epochs=14,
               test_limit=300)  # fmt: skip
_TUNED = dict(
    recipe="suite", optimizer="sgd", learning_rate=1e-3, weight_decay=5e-4, schedule="cosine", warmup=0.05,
    clip_norm=10.0, val_every=10, batch_size=16, epochs=40, init="imagenet",
)  # fmt: skip
_SGD = dict(
    recipe="paper", optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="step", batch_size=64, val_every=10
)
_PAPER = {
    "yolo_v1": dict(_SGD, epochs=135, learning_rate=1e-2, drops=(75 / 135, 105 / 135), burn_in=0.01,
                    augment=_V1_AUGMENT),
    "yolo_v2": dict(_SGD, epochs=160, learning_rate=1e-3, drops=(60 / 160, 90 / 160), burn_in=1000 / 80200,
                    augment=_AUGMENT, sizes=_SIDES),
}  # fmt: skip

PRESETS = (
    *_family(
        "shapes", "on generated pictures, narrow", "smoke", SHAPES, _small_networks(96, 192, 1 / 8, (0.5, 0.25)),
        _small(_SMOKE, 96), 60, 54,
    ),
    *_family(
        "voc-narrow", "on VOC 2007, an eighth of the width, half the depth", "lab", VOC_NARROW,
        _small_networks(192, 256, 1 / 8, (0.5, 0.5)),
        {
            name: dict(recipe, init=_STARTS.get(name, "random"))
            for name, recipe in _small(_NARROW, 192).items()
        },
        150, 23, seeds=3, by_name=True,
    ),
    *_family(
        "voc2007", "on VOC 2007", "lab", VOC, {},
        {
            "yolo_v1": dict(_TUNED, augment=_V1_AUGMENT),
            "fast_yolo": dict(_TUNED, augment=_V1_AUGMENT),
            "yolo_v2": dict(_TUNED, augment=_AUGMENT),
            "yolo_v3": dict(_TUNED, augment=_AUGMENT),
        },
        1500, 65, papers=_PAPER,
    ),
    Experiment(
        name="coco2017-yolo-v3", about="YOLO v3 on COCO 2017 with the paper's recipe",
        configs={
            "paper": TrainYolo(
                network=Network(name="yolo_v3"), data=_COCO, init="imagenet", epochs=273, learning_rate=1e-3,
                drops=(4000 / 5002, 4500 / 5002), burn_in=10 / 5002, augment=_AUGMENT, sizes=_SIDES,
                max_boxes=128, **_SGD,
            )
        },
        value=50, seconds={"paper": 600_000},
    ),
    Experiment(
        name="detector-speed", about="the YOLO line and Faster R-CNN, image to final boxes, in one run",
        configs={
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
            "lab": DetectorSpeed(
                networks=(
                    Network(name="fast_yolo"),
                    Network(name="yolo_v1"),
                    *(Network(name="yolo_v2", variant="released", input_size=(side, side))
                      for side in (288, 352, 416, 480, 544)),
                    *(Network(name="yolo_v3", input_size=(side, side)) for side in (320, 416, 608)),
                    Network(name="faster_rcnn"),
                ),
            ),
        },
        value=56, seconds={"smoke": 45, "lab": 600},
    ),
    Experiment(
        name="anchors-shapes", about="k-means of box sizes under 1 - IoU, generated pictures",
        configs={"smoke": Anchors(data=SHAPES, size=(96, 96), ks=(1, 2, 3, 5, 9), restarts=3)},
        value=20, seconds={"smoke": 5},
    ),
    *(
        Experiment(
            name=f"anchors-{name}", about=f"k-means of box sizes under 1 - IoU, {name}",
            configs={"lab": Anchors(data=Data(name=name), size=(416, 416))}, value=30, seconds={"lab": 60},
        )
        for name in ("voc2007", "coco2017", "bccd")
    ),
)  # fmt: skip
