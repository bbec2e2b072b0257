"""Classification presets.

shapes-*               smoke  15 to 30 s each on 2 cores
tiny-imagenet-narrow-* lab    Tiny-ImageNet, an eighth of the width, half the depth: minutes a seed on 2 cores, run by
                              name
tiny-imagenet-*        lab    Tiny-ImageNet at full width: the start that `--init tiny` means; minutes on one GPU
imagenette-*           lab    some minutes each on one GPU
imagenet2012-*         paper  days on one GPU; the paper's centre crop of VGG-16 reaches 71.5 % top-1
"""

from collections.abc import Iterable
from typing import Any

from repro.experiments.base import ADAMW, Experiment
from repro.harness.config import Data, Majority, Network, Train

# one object a picture, so that its class is the label
SHAPES = Data(
    name="shapes",
    options={"image_size": 64, "max_objects": 1, "min_scale": 0.4, "max_scale": 0.8, "train_size": 768},
)
TINY = Data(name="tiny_imagenet", test="val")
IMAGENETTE = Data(name="imagenette", test="val")
IMAGENET = Data(name="imagenet2012", test="val")
_TITLES = {
    "vgg16": "VGG-16", "googlenet": "GoogLeNet", "resnet101": "ResNet-101", "extraction": "YOLO v1's classifier",
    "darknet19": "Darknet-19", "darknet53": "Darknet-53",
}  # fmt: skip

_SMOKE = dict(
    ADAMW, epochs=10, batch_size=32, learning_rate=2e-3, augment={"flip": True, "jitter": 4}, val_every=4
)  # fmt: skip
_NARROW = dict(
    ADAMW, epochs=12, batch_size=64, learning_rate=1.5e-3, augment={"flip": True, "jitter": 6}, val_every=6
)  # fmt: skip
_TINY = dict(
    ADAMW, epochs=60, batch_size=256, learning_rate=1e-3, augment={"flip": True, "jitter": 6}, val_every=10,
    precision="mixed_bfloat16",
)  # fmt: skip
_IMAGENETTE = dict(
    recipe="suite", epochs=20, batch_size=64, optimizer="sgd", learning_rate=2e-3, weight_decay=5e-4,
    schedule="cosine", warmup=0.05, clip_norm=5.0, augment={"flip": True, "jitter": 16}, precision="mixed_bfloat16",
)  # fmt: skip
_PAPER = {
    "vgg16": dict(
        recipe="paper", epochs=74, batch_size=256, optimizer="sgd", learning_rate=1e-2, momentum=0.9,
        weight_decay=5e-4, schedule="step", drops=(0.5, 0.75, 0.9), augment={"flip": True, "jitter": 16},
    ),
    "googlenet": dict(
        recipe="paper", epochs=60, batch_size=32, optimizer="sgd", learning_rate=1e-2, momentum=0.9,
        weight_decay=2e-4, schedule="cosine", augment={"flip": True},
    ),
    "resnet101": dict(
        recipe="paper", epochs=120, batch_size=256, optimizer="sgd", learning_rate=0.1, momentum=0.9,
        weight_decay=1e-4, schedule="step", drops=(1 / 3, 2 / 3), augment={"flip": True},
    ),
    "darknet19": dict(
        recipe="paper", epochs=160, batch_size=128, optimizer="sgd", learning_rate=0.1, momentum=0.9,
        weight_decay=5e-4, schedule="cosine", augment={"flip": True},
    ),
    "darknet53": dict(
        recipe="paper", epochs=80, batch_size=128, optimizer="sgd", learning_rate=0.1, momentum=0.9,
        weight_decay=5e-4, schedule="cosine", augment={"flip": True},
    ),
}  # fmt: skip


def _family(
    prefix: str, about: str, profile: str, data: Data, network: dict[str, Any], recipes: dict[str, dict[str, Any]],
    seconds: float, value: int, inits: dict[str, str] | None = None, **fields: Any,
) -> list[Experiment]:  # fmt: skip
    """The most frequent class and the classifiers on one data set."""
    baseline = Experiment(
        name=f"{prefix}-majority-label",
        about=f"the most frequent class, {about}",
        configs={profile: Majority(task="classification", data=data)},
        value=value - 10,
        seconds={profile: 5},
        by_name=fields.get("by_name", False),
    )
    nets = [
        Experiment(
            name=f"{prefix}-{name}",
            about=f"{_TITLES[name]} {about}",
            configs={
                profile: Train(
                    network=Network(name=name, **network), data=data, init=(inits or {}).get(name, "random"), **recipe
                )
            },
            value=value,
            seconds={profile: seconds},
            **fields,
        )
        for name, recipe in recipes.items()
    ]
    return [baseline, *nets]


def _alike(recipe: dict[str, Any], names: Iterable[str] = _TITLES) -> dict[str, dict[str, Any]]:
    return dict.fromkeys(names, recipe)


PRESETS = (
    *_family(
        "shapes", "on generated pictures of one object, narrow", "smoke", SHAPES,
        {"width": 1 / 8, "depth": 0.5, "input_size": (64, 64)}, _alike(_SMOKE, ("vgg16", "googlenet")), seconds=30,
        value=60,
    ),
    *_family(
        "tiny-imagenet-narrow", "on Tiny-ImageNet, an eighth of the width, half the depth", "lab", TINY,
        {"width": 1 / 8, "depth": 0.5, "input_size": (64, 64)},
        _alike(_NARROW, [name for name in _TITLES if name != "extraction"]), seconds=300, value=26, seeds=3,
        by_name=True,
    ),
    *_family(
        "tiny-imagenet", "on Tiny-ImageNet", "lab", TINY, {"input_size": (64, 64)}, _alike(_TINY),
        seconds=900, value=90,
    ),
    *_family(
        "imagenette", "on Imagenette, from ImageNet weights where they can be had", "lab", IMAGENETTE, {},
        _alike(_IMAGENETTE, ("vgg16", "googlenet")), seconds=600, value=60, inits={"vgg16": "imagenet"},
    ),
    *_family(
        "imagenet2012", "with the paper's recipe on ImageNet", "paper", IMAGENET, {}, _PAPER, seconds=400_000, value=60,
    )[1:],
)  # fmt: skip
