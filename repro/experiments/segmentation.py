"""Segmentation presets: a majority baseline, FCN-32s/16s/8s, FCN-GoogLeNet, SegNet and U-Net on one data set.

Rows that are compared share one budget: SegNet, U-Net and FCN-GoogLeNet train for as many epochs as FCN-8s and the two
nets it starts from together (Long et al., Section 4.2), with the same optimizer, schedule, augmentation and loss.
Learning rates are a net's own where the validation split asked for it in short runs: SegNet, whose batch normalisation
bears it, learns at five times the rate of the others, and hardly at theirs.

shapes-*         smoke  generated pictures, narrow networks: about 25 s each on 2 cores
camvid-narrow-*  lab    CamVid at 120x160, an eighth of the width: minutes a seed on 2 cores, run by name
isbi-narrow-*    lab    ISBI 2012, windows of 192x192, an eighth of the width: minutes a seed on 2 cores, run by name
dubai-narrow-*   lab    Dubai, windows of 192x192, an eighth of the width: minutes a seed on 2 cores, run by name
camvid-*, isbi-*, dubai-*, pets-*, voc2012-*   lab    full width: minutes a seed on one GPU
voc2012-fcn*, camvid-segnet, isbi-unet   paper  the papers' own recipes (FCN on VOC's own training set, without
                 SBD's): hours to days on one GPU
"""

import dataclasses
from typing import Any

from repro.experiments.base import ADAMW, Experiment
from repro.harness.config import Data, Majority, Network, Train

SHAPES = Data(
    name="shapes",
    options={
        "image_size": 64,
        "max_objects": 2,
        "min_scale": 0.5,
        "max_scale": 0.9,
        "train_size": 512,
    },
)
CAMVID = Data(name="camvid")
ISBI = Data(name="isbi2012", size=(512, 512))
DUBAI = Data(name="dubai", size=(512, 512))
PETS = Data(name="oxford_iiit_pet")
VOC = Data(name="voc2012_seg", test="val")

# FCN-16s starts from FCN-32s, FCN-8s from FCN-16s; the others from nothing of the suite's
_STARTS = {"fcn32s": None, "fcn16s": "fcn32s", "fcn8s": "fcn16s", "fcn_googlenet": None, "segnet": None, "unet": None}
_STAGES = ("fcn32s", "fcn16s", "fcn8s")
_RATES = {"segnet": 5.0}
_DEEPER = {"depth": 0.75}  # with two of its four levels U-Net would see too little of the image
_TITLES = {"fcn_googlenet": "FCN-GoogLeNet", "segnet": "SegNet", "unet": "U-Net"}
ALL, NARROW = tuple(_STARTS), (*_STAGES, "segnet", "unet")

_SMOKE = dict(ADAMW, batch_size=16, learning_rate=2e-3, augment={"flip": True})
_DRIVING = {"flip": True, "jitter": 8, "zoom": (0.9, 1.4)}
_MICROSCOPY = {"flip": True, "rotate": 20, "elastic": 4, "grey": 0.1}
_AERIAL = {"flip": True, "rotate": 180, "zoom": (0.8, 1.25), "grey": 0.1}


def _title(net: str) -> str:
    return _TITLES.get(net, net.replace("fcn", "FCN-"))


def _network(net: str, **settings: Any) -> Network:
    """All nets of a comparison pad their convolutions, so that one input size means one amount of work. SegNet is the
    one without dropout, which is the authors' choice for CamVid: half of few channels, six times over, teach it
    nothing."""
    if net == "segnet":
        return Network(name=net, variant="released", **settings)
    return Network(name=net, options={"padding": "same"}, **settings)


def _family(
    prefix: str, about: str, profile: str, data: Data, network: dict[str, Any], recipe: dict[str, Any],
    epochs: float, seconds: float, value: int, nets: tuple[str, ...] = ALL, start: str = "random", **fields: Any,
) -> list[Experiment]:  # fmt: skip
    """The majority baseline and the nets on one data set, for `epochs` in all; each stage of FCN has a third.

    `start`: init of the nets whose backbone has ImageNet weights, VGG-16's."""
    baseline = Experiment(
        name=f"{prefix}-majority",
        about=f"the most frequent class, {about}",
        configs={profile: Majority(task="segmentation", data=data)},
        value=value + 1,
        seconds={profile: 5},
        by_name=fields.get("by_name", False),
    )
    presets = [baseline]
    for net in nets:
        before, share = _STARTS[net], 3 if net in _STAGES else 1
        plain = start if net in ("fcn32s", "segnet") else "random"
        config = Train(
            network=_network(net, **network | (_DEEPER if net == "unet" and "depth" in network else {})),
            data=data,
            init=f"{prefix}-{before}" if before else plain,
            epochs=epochs / share,
            val_every=max(1, round(epochs / share / 4)),
            **recipe | {"learning_rate": recipe["learning_rate"] * _RATES.get(net, 1.0)},
        )
        presets.append(
            _preset(f"{prefix}-{net}", f"{_title(net)} {about}", profile, config, seconds / share, value, fields)
        )
    return presets


def _preset(
    name: str, about: str, profile: str, config: Train, seconds: float, value: int, fields: dict[str, Any]
) -> Experiment:
    return Experiment(
        name=name, about=about, configs={profile: config}, seconds={profile: seconds}, value=value, **fields
    )


_BY_NAME = {"seeds": 3, "by_name": True}
_WINDOWS = {"width": 1 / 8, "input_size": (192, 192)}
_NARROW_ISBI = dict(ADAMW, batch_size=8, learning_rate=2e-3, augment=_MICROSCOPY, tile_margin=32)
_NARROW_CAMVID = dict(ADAMW, batch_size=8, learning_rate=1e-3, augment=_DRIVING)

_LAB = (
    *_family(
        "shapes", "on generated pictures, narrow", "smoke", SHAPES,
        {"width": 1 / 8, "depth": 0.5, "input_size": (64, 64)}, _SMOKE, epochs=15, seconds=60, value=70,
    ),
    *_family(
        "camvid-narrow", "on CamVid at 120x160, an eighth of the width", "lab", CAMVID,
        {"width": 1 / 8, "input_size": (120, 160)}, _NARROW_CAMVID, epochs=18, seconds=180, value=30,
        nets=NARROW, **_BY_NAME,
    ),
    _preset(
        "camvid-narrow-segnet-balanced", "SegNet with the paper's class weights on CamVid at 120x160", "lab",
        Train(
            network=_network("segnet", width=1 / 8, input_size=(120, 160)), data=CAMVID, epochs=18, val_every=5,
            loss_options={"class_weights": "median_frequency"}, label="median-frequency loss",
            **_NARROW_CAMVID | {"learning_rate": 5e-3},
        ),
        180, 29, _BY_NAME,
    ),
    *_family(
        "isbi-narrow", "on ISBI 2012 in windows of 192x192, an eighth of the width", "lab", ISBI, _WINDOWS,
        _NARROW_ISBI, epochs=120, seconds=120, value=28, nets=NARROW, **_BY_NAME,
    ),
    _preset(
        "isbi-narrow-unet-paper", "U-Net as published (unpadded, border weights) on ISBI 2012, an eighth of the width",
        "lab",
        Train(
            network=Network(name="unet", width=1 / 8, input_size=(284, 284)),
            data=Data(name="isbi2012", size=(512, 512), options={"weight_map": True}),
            epochs=120, val_every=30, label="unpadded, border weights", **_NARROW_ISBI | {"tile_margin": 0},
        ),
        200, 27, _BY_NAME,
    ),
    *_family(
        "dubai-narrow", "on Dubai in windows of 192x192, an eighth of the width", "lab", DUBAI, _WINDOWS,
        dict(ADAMW, batch_size=4, learning_rate=2e-3, augment=_AERIAL, tile_margin=32),
        epochs=24, seconds=120, value=26, nets=NARROW, **_BY_NAME,
    ),
    *_family(
        "camvid", "on CamVid at 360x480", "lab", CAMVID, {"input_size": (360, 480)},
        dict(
            ADAMW, batch_size=8, learning_rate=1e-4, augment=_DRIVING | {"jitter": 16}, precision="mixed_bfloat16"
        ),
        epochs=180, seconds=1200, value=80, start="imagenet", seeds=3,
    ),
    *_family(
        "isbi", "on ISBI 2012 in windows of 256x256", "lab", ISBI, {"input_size": (256, 256)},
        dict(ADAMW, batch_size=8, learning_rate=1e-4, augment=_MICROSCOPY, tile_margin=32, precision="mixed_bfloat16"),
        epochs=600, seconds=400, value=78, seeds=3,
    ),
    *_family(
        "dubai", "on Dubai in windows of 256x256", "lab", Data(name="dubai", size=(768, 768)),
        {"input_size": (256, 256)},
        dict(ADAMW, batch_size=8, learning_rate=1e-4, augment=_AERIAL, tile_margin=32, precision="mixed_bfloat16"),
        epochs=600, seconds=600, value=76, start="imagenet", seeds=3,
    ),
    *_family(
        "pets", "on Oxford-IIIT pets at 256x256", "lab", PETS, {"input_size": (256, 256)},
        dict(ADAMW, batch_size=16, learning_rate=1e-4, augment=_DRIVING, precision="mixed_bfloat16"),
        epochs=30, seconds=900, value=40, start="imagenet",
    ),
    *_family(
        "voc2012", "on VOC 2012 at 320x320", "lab", VOC, {"input_size": (320, 320)},
        dict(ADAMW, batch_size=16, learning_rate=1e-4, augment=_DRIVING | {"jitter": 16}, precision="mixed_bfloat16"),
        epochs=90, seconds=1500, value=60, start="imagenet",
    ),
)  # fmt: skip

# The papers' recipes, as `recipe` of each model's file gives them for `repro train --recipe paper`
_FCN_PAPER = dict(
    recipe="paper", optimizer="sgd", momentum=0.9, learning_rate=1e-4, weight_decay=5e-4, schedule="constant",
    batch_size=20, epochs=175, val_every=25, data=VOC,
)  # fmt: skip
_PAPER = {
    "voc2012-fcn32s": Train(network=Network(name="fcn32s"), init="imagenet", **_FCN_PAPER),
    "voc2012-fcn16s": Train(network=Network(name="fcn16s"), init="voc2012-fcn32s", **_FCN_PAPER),
    "voc2012-fcn8s": Train(network=Network(name="fcn8s"), init="voc2012-fcn16s", **_FCN_PAPER),
    "camvid-segnet": Train(
        network=Network(name="segnet"), data=CAMVID, recipe="paper", optimizer="sgd", momentum=0.9,
        learning_rate=1e-3, weight_decay=5e-4, schedule="constant", batch_size=5, epochs=545, val_every=50,
        init="imagenet", loss_options={"class_weights": "median_frequency"},
    ),
    "isbi-unet": Train(
        network=Network(name="unet"), data=Data(name="isbi2012", size=(572, 572), options={"weight_map": True}),
        recipe="paper", optimizer="sgd", momentum=0.99, learning_rate=1e-4, schedule="constant", batch_size=1,
        epochs=1000, val_every=100, tile_margin=0,
        augment={"jitter": 16, "rotate": 180, "elastic": 10, "grey": 0.1},
    ),
}  # fmt: skip
_DAYS = {"voc2012": 90_000, "camvid": 40_000, "isbi": 30_000}


def _with_paper(preset: Experiment) -> Experiment:
    if preset.name not in _PAPER:
        return preset
    seconds = {**preset.seconds, "paper": _DAYS[preset.name.partition("-")[0]]}
    return dataclasses.replace(preset, configs={**preset.configs, "paper": _PAPER[preset.name]}, seconds=seconds)


PRESETS = tuple(map(_with_paper, _LAB))
