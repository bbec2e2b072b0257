"""Segmentation presets: a majority baseline, FCN-32s/16s/8s, FCN-GoogLeNet, SegNet and U-Net on one data set.

Rows that are compared share one budget: SegNet, U-Net and FCN-GoogLeNet train for as many epochs as FCN-8s and the two
nets it starts from together (Long et al., Section 4.2), with the same optimizer, schedule, augmentation and loss.
Learning rates are a net's own where the validation split asked for it in short runs: SegNet, whose batch normalisation
bears it, learns at five times the rate of the others, and hardly at theirs.

shapes-*         smoke  generated pictures, narrow networks: about 25 s each on 2 cores
camvid-narrow-*  cpu    CamVid at 120x160, an eighth of the width: minutes a seed on 2 cores
isbi-narrow-*    cpu    ISBI 2012, windows of 192x192, an eighth of the width: minutes a seed on 2 cores
dubai-narrow-*   cpu    Dubai, windows of 192x192, an eighth of the width: minutes a seed on 2 cores
camvid-*, isbi-*, dubai-*, pets-*, voc2012-*   gpu    full width: minutes a seed on one GPU
voc2012-fcn*, camvid-segnet, isbi-unet   paper  the papers' own recipes (FCN on VOC's own training set, without
                 SBD's): hours to days on one GPU
"""

from typing import Any

from repro.experiments.majority import Majority
from repro.experiments.train import Train
from repro.presets.base import ADAMW, Preset, family
from repro.records.settings import Data, Network
from repro.tasks.segmentation import Segmentation

SHAPES = Data(
    name="shapes", options={"image_size": 64, "max_objects": 2, "min_scale": 0.5, "max_scale": 0.9, "train_size": 512}
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
ALL, NARROW = tuple(_STARTS), (*_STAGES, "segnet", "unet")

_DRIVING = {"flip": True, "jitter": 8, "zoom": (0.9, 1.4)}
_MICROSCOPY = {"flip": True, "rotate": 20, "elastic": 4, "grey": 0.1}
_AERIAL = {"flip": True, "rotate": 180, "zoom": (0.8, 1.25), "grey": 0.1}
_SMOKE = dict(ADAMW, batch_size=16, learning_rate=2e-3, augment={"flip": True})
_NARROW_CAMVID = dict(ADAMW, batch_size=8, learning_rate=1e-3, augment=_DRIVING)
_NARROW_ISBI = dict(ADAMW, batch_size=8, learning_rate=2e-3, augment=_MICROSCOPY)
_FULL = dict(ADAMW, learning_rate=1e-4, precision="mixed_bfloat16")
_WHOLE, _TILED = Segmentation(), Segmentation(tile_margin=32)
_WINDOWS = {"width": 1 / 8, "input_size": (192, 192)}


def _network(net: str, **settings: Any) -> Network:
    """All nets of a comparison pad their convolutions, so that one input size means one amount of work. SegNet is the
    one without dropout, which is the authors' choice for CamVid: half of few channels, six times over, teach it
    nothing."""
    if net == "segnet":
        return Network(name=net, variant="released", **settings)
    return Network(name=net, options={"padding": "same"}, **settings)


def _family(
    prefix: str,
    about: str,
    profile: str,
    data: Data,
    network: dict[str, Any],
    recipe: dict[str, Any],
    epochs: float,
    seconds: float,
    value: int,
    nets: tuple[str, ...] = ALL,
    start: str = "random",
    task: Segmentation = _WHOLE,
    **fields: Any,
) -> list[Preset]:
    """The majority baseline and the nets on one data set, for `epochs` in all; each stage of FCN has a third.

    `start`: init of the nets whose backbone has ImageNet weights, VGG-16's."""
    majority, title = Majority(task=Segmentation(), data=data), f"the most frequent class, {about}"
    baseline = Preset(f"{prefix}-majority", title, {profile: majority}, value + 1, {profile: 5})
    kinds, costs = {}, {}
    for net in nets:
        before, share = _STARTS[net], 3 if net in _STAGES else 1
        plain = start if net in ("fcn32s", "segnet") else "random"
        costs[net] = seconds / share
        built = _network(net, **network | (_DEEPER if net == "unet" and "depth" in network else {}))
        own = recipe | {"learning_rate": recipe["learning_rate"] * _RATES.get(net, 1.0), "epochs": epochs / share}
        own |= {"init": f"{prefix}-{before}" if before else plain, "val_every": max(1, round(epochs / share / 4))}
        kinds[net] = Train(task=task, network=built, data=data, **own)
    return [baseline, *family(prefix, about, profile, kinds, costs, value, dash="_", **fields)]


# The papers' recipes, as `recipe` of each model's file gives them for `repro train --recipe paper`
_SGD: dict[str, Any] = dict(recipe="paper", optimizer="sgd", schedule="constant")
_FCN_PAPER = dict(
    _SGD, task=_WHOLE, momentum=0.9, learning_rate=1e-4, weight_decay=5e-4, batch_size=20, epochs=175, val_every=25,
    data=VOC,
)  # fmt: skip
_SEGNET_PAPER = Train(
    network=Network(name="segnet"), task=_WHOLE, data=CAMVID, momentum=0.9, learning_rate=1e-3, weight_decay=5e-4,
    batch_size=5, epochs=545, val_every=50, init="imagenet", loss_options={"class_weights": "median_frequency"}, **_SGD,
)  # fmt: skip
_UNET_PAPER = Train(
    network=Network(name="unet"), task=Segmentation(tile_margin=0),
    data=Data(name="isbi2012", size=(572, 572), options={"weight_map": True}), momentum=0.99, learning_rate=1e-4,
    batch_size=1, epochs=1000, val_every=100, augment={"jitter": 16, "rotate": 180, "elastic": 10, "grey": 0.1}, **_SGD,
)  # fmt: skip

PRESETS = (
    *_family(
        "shapes", "on generated pictures, narrow", "smoke", SHAPES,
        {"width": 1 / 8, "depth": 0.5, "input_size": (64, 64)}, _SMOKE, epochs=15, seconds=60, value=70,
    ),
    *_family(
        "camvid-narrow", "on CamVid at 120x160, an eighth of the width", "cpu", CAMVID,
        {"width": 1 / 8, "input_size": (120, 160)}, _NARROW_CAMVID, epochs=18, seconds=180, value=30,
        nets=NARROW, seeds=3,
    ),
    Preset(
        "camvid-narrow-segnet-balanced", "SegNet with the paper's class weights on CamVid at 120x160",
        {"cpu": Train(
            network=_network("segnet", width=1 / 8, input_size=(120, 160)), task=_WHOLE, data=CAMVID, epochs=18,
            val_every=5, loss_options={"class_weights": "median_frequency"}, label="median-frequency loss",
            **_NARROW_CAMVID | {"learning_rate": 5e-3},
        )},
        29, {"cpu": 180}, seeds=3,
    ),
    *_family(
        "isbi-narrow", "on ISBI 2012 in windows of 192x192, an eighth of the width", "cpu", ISBI, _WINDOWS,
        _NARROW_ISBI, epochs=120, seconds=120, value=28, nets=NARROW, task=_TILED, seeds=3,
    ),
    Preset(
        "isbi-narrow-unet-paper", "U-Net as published (unpadded, border weights) on ISBI 2012, an eighth of the width",
        {"cpu": Train(
            network=Network(name="unet", width=1 / 8, input_size=(284, 284)), task=Segmentation(tile_margin=0),
            data=Data(name="isbi2012", size=(512, 512), options={"weight_map": True}),
            epochs=120, val_every=30, label="unpadded, border weights", **_NARROW_ISBI,
        )},
        27, {"cpu": 200}, seeds=3,
    ),
    *_family(
        "dubai-narrow", "on Dubai in windows of 192x192, an eighth of the width", "cpu", DUBAI, _WINDOWS,
        dict(ADAMW, batch_size=4, learning_rate=2e-3, augment=_AERIAL),
        epochs=24, seconds=120, value=26, nets=NARROW, task=_TILED, seeds=3,
    ),
    *_family(
        "camvid", "on CamVid at 360x480", "gpu", CAMVID, {"input_size": (360, 480)},
        dict(_FULL, batch_size=8, augment=_DRIVING | {"jitter": 16}),
        epochs=180, seconds=1200, value=80, start="imagenet", seeds=3,
        papers={"segnet": _SEGNET_PAPER}, paper_seconds=40_000,
    ),
    *_family(
        "isbi", "on ISBI 2012 in windows of 256x256", "gpu", ISBI, {"input_size": (256, 256)},
        dict(_FULL, batch_size=8, augment=_MICROSCOPY),
        epochs=600, seconds=400, value=78, task=_TILED, seeds=3,
        papers={"unet": _UNET_PAPER}, paper_seconds=30_000,
    ),
    *_family(
        "dubai", "on Dubai in windows of 256x256", "gpu", Data(name="dubai", size=(768, 768)),
        {"input_size": (256, 256)}, dict(_FULL, batch_size=8, augment=_AERIAL),
        epochs=600, seconds=600, value=76, start="imagenet", task=_TILED, seeds=3,
    ),
    *_family(
        "pets", "on Oxford-IIIT pets at 256x256", "gpu", PETS, {"input_size": (256, 256)},
        dict(_FULL, batch_size=16, augment=_DRIVING), epochs=30, seconds=900, value=40, start="imagenet",
    ),
    *_family(
        "voc2012", "on VOC 2012 at 320x320", "gpu", VOC, {"input_size": (320, 320)},
        dict(_FULL, batch_size=16, augment=_DRIVING | {"jitter": 16}),
        epochs=90, seconds=1500, value=60, start="imagenet",
        papers={
            "fcn32s": Train(network=Network(name="fcn32s"), init="imagenet", **_FCN_PAPER),
            "fcn16s": Train(network=Network(name="fcn16s"), init="voc2012-fcn32s", **_FCN_PAPER),
            "fcn8s": Train(network=Network(name="fcn8s"), init="voc2012-fcn16s", **_FCN_PAPER),
        },
        paper_seconds=90_000,
    ),
)  # fmt: skip
