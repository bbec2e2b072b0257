"""Classification presets.

shapes-*               smoke  15 to 30 s each on 2 cores
tiny-imagenet-narrow-* cpu    Tiny-ImageNet, an eighth of the width, half the depth: minutes a seed on 2 cores
tiny-imagenet-*        gpu    Tiny-ImageNet at full width: the start that `--init tiny` means; minutes on one GPU
imagenette-*           gpu    some minutes each on one GPU
imagenet2012-*         paper  days on one GPU; the paper's centre crop of VGG-16 reaches 71.5 % top-1
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from repro.experiments.majority import Majority
from repro.experiments.train import Train
from repro.presets.base import ADAMW, Preset, family
from repro.records.settings import Data, Network
from repro.tasks.classification import Classification

# one object a picture, so that its class is the label
SHAPES = Data(
    name="shapes", options={"image_size": 64, "max_objects": 1, "min_scale": 0.4, "max_scale": 0.8, "train_size": 768}
)
TINY = Data(name="tiny_imagenet", test="val")
IMAGENETTE = Data(name="imagenette", test="val")
IMAGENET = Data(name="imagenet2012", test="val")

_SMOKE = dict(ADAMW, epochs=10, batch_size=32, learning_rate=2e-3, augment={"flip": True, "jitter": 4}, val_every=4)
_NARROW = dict(ADAMW, epochs=12, batch_size=64, learning_rate=1.5e-3, augment={"flip": True, "jitter": 6}, val_every=6)
_TINY = dict(
    ADAMW, epochs=60, batch_size=256, learning_rate=1e-3, augment={"flip": True, "jitter": 6}, val_every=10,
    precision="mixed_bfloat16",
)  # fmt: skip
_IMAGENETTE = dict(
    recipe="suite", epochs=20, batch_size=64, optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4,
    schedule="cosine", warmup=0.05, clip_norm=5.0, augment={"flip": True, "jitter": 16}, precision="mixed_bfloat16",
)  # fmt: skip
_SGD: dict[str, Any] = dict(
    recipe="paper", optimizer="sgd", momentum=0.9, weight_decay=5e-4, schedule="cosine", augment={"flip": True}
)
_PAPER = {
    "vgg16": _SGD | dict(
        epochs=74, batch_size=256, learning_rate=1e-2, schedule="step", drops=(0.5, 0.75, 0.9),
        augment={"flip": True, "jitter": 16},
    ),
    "googlenet": _SGD | dict(epochs=60, batch_size=32, learning_rate=1e-2, weight_decay=2e-4),
    "resnet101": _SGD | dict(
        epochs=120, batch_size=256, learning_rate=0.1, weight_decay=1e-4, schedule="step", drops=(1 / 3, 2 / 3)
    ),
    "darknet19": _SGD | dict(epochs=160, batch_size=128, learning_rate=0.1),
    "darknet53": _SGD | dict(epochs=80, batch_size=128, learning_rate=0.1),
}  # fmt: skip
_NETS = ("vgg16", "googlenet", "resnet101", "extraction", "darknet19", "darknet53")
_SMALL = {"width": 1 / 8, "depth": 0.5, "input_size": (64, 64)}


def _family(
    prefix: str,
    about: str,
    profile: str,
    data: Data,
    network: dict[str, Any],
    recipes: dict[str, dict[str, Any]],
    seconds: float,
    value: int,
    inits: Mapping[str, str] = MappingProxyType({}),
    seeds: int = 1,
) -> list[Preset]:
    """The most frequent class and the classifiers on one data set."""

    def trained(name: str, recipe: dict[str, Any]) -> Train:
        built, init = Network(name=name, **network), inits.get(name, "random")
        return Train(task=Classification(), network=built, data=data, init=init, **recipe)

    majority, title = Majority(task=Classification(), data=data), f"the most frequent class, {about}"
    baseline = Preset(f"{prefix}-majority-label", title, {profile: majority}, value - 10, {profile: 5})
    kinds = {name: trained(name, recipe) for name, recipe in recipes.items()}
    return [baseline, *family(prefix, about, profile, kinds, seconds, value, seeds=seeds)]


def _alike(recipe: dict[str, Any], names: Iterable[str] = _NETS) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(names, recipe)


PRESETS = (
    *_family(
        "shapes", "on generated pictures of one object, narrow", "smoke", SHAPES, _SMALL,
        _alike(_SMOKE, ("vgg16", "googlenet")), seconds=30, value=60,
    ),
    *_family(
        "tiny-imagenet-narrow", "on Tiny-ImageNet, an eighth of the width, half the depth", "cpu", TINY, _SMALL,
        _alike(_NARROW, [name for name in _NETS if name != "extraction"]), seconds=300, value=26, seeds=3,
    ),
    *_family(
        "tiny-imagenet", "on Tiny-ImageNet", "gpu", TINY, {"input_size": (64, 64)}, _alike(_TINY),
        seconds=900, value=90,
    ),
    *_family(
        "imagenette", "on Imagenette, from ImageNet weights where they can be had", "gpu", IMAGENETTE, {},
        _alike(_IMAGENETTE, ("vgg16", "googlenet")), seconds=600, value=60, inits={"vgg16": "imagenet"},
    ),
    *_family(
        "imagenet2012", "with the paper's recipe on ImageNet", "paper", IMAGENET, {}, _PAPER, seconds=400_000, value=60,
    )[1:],
)  # fmt: skip
