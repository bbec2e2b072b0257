"""Segmentation presets: FCN-32s, then 16s from its weights, then 8s from those (Long et al., Section 4.2).

shapes-*         smoke  generated pictures, narrow networks: about 30 s each on 2 cores
camvid-narrow-*  lab    CamVid at 180x240, an eighth of the width: minutes a seed on 2 cores, run by name
camvid-*         lab    CamVid at 360x480, full width: minutes a seed on one GPU
"""

from typing import Any

from repro.experiments.base import Experiment
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
# FCN-16s starts from FCN-32s, FCN-8s from FCN-16s
_STARTS = {"fcn32s": None, "fcn16s": "fcn32s", "fcn8s": "fcn16s"}

# One budget for all three nets of a chain; the tables show the images seen along the chain.
_SMOKE = dict(
    recipe="suite", epochs=9, batch_size=16, optimizer="adamw", learning_rate=2e-3, weight_decay=1e-4,
    schedule="cosine", warmup=0.05, clip_norm=1.0, augment={"flip": True}, val_every=3,
)  # fmt: skip
_NARROW = dict(
    recipe="suite", epochs=16, batch_size=8, optimizer="adamw", learning_rate=1e-3, weight_decay=1e-4,
    schedule="cosine", warmup=0.05, clip_norm=1.0, augment={"flip": True, "jitter": 8, "zoom": (0.9, 1.4)},
    val_every=4,
)  # fmt: skip
_FULL = dict(
    recipe="suite", epochs=60, batch_size=8, optimizer="adamw", learning_rate=1e-4, weight_decay=1e-4,
    schedule="cosine", warmup=0.05, clip_norm=1.0, augment={"flip": True, "jitter": 16, "zoom": (0.9, 1.4)},
    val_every=10, precision="mixed_bfloat16",
)  # fmt: skip


def _chain(
    prefix: str, about: str, profile: str, data: Data, network: dict[str, Any], recipe: dict[str, Any],
    seconds: float, value: int, first_init: str = "random", **fields: Any,
) -> list[Experiment]:  # fmt: skip
    """The majority baseline and the three nets on one data set."""
    baseline = Experiment(
        name=f"{prefix}-majority",
        about=f"the most frequent class, {about}",
        configs={profile: Majority(task="segmentation", data=data)},
        value=value + 1,
        seconds={profile: 5},
        by_name=fields.get("by_name", False),
    )
    nets = [
        Experiment(
            name=f"{prefix}-{net}",
            about=f"{net.replace('fcn', 'FCN-')} {about}",
            configs={
                profile: Train(
                    network=Network(name=net, **network),
                    data=data,
                    init=f"{prefix}-{start}" if start else first_init,
                    **recipe,
                )
            },
            value=value,
            seconds={profile: seconds},
            **fields,
        )
        for net, start in _STARTS.items()
    ]
    return [baseline, *nets]


PRESETS = (
    *_chain(
        "shapes", "on generated pictures, narrow", "smoke", SHAPES,
        {"width": 1 / 8, "depth": 0.5, "input_size": (64, 64), "options": {"padding": "same"}},
        _SMOKE, seconds=25, value=70,
    ),
    *_chain(
        "camvid-narrow", "on CamVid at 180x240, an eighth of the width", "lab", CAMVID,
        {"width": 1 / 8, "input_size": (180, 240), "options": {"padding": "same"}},
        _NARROW, seconds=160, value=30, seeds=3, by_name=True,
    ),
    *_chain(
        "camvid", "on CamVid at 360x480", "lab", CAMVID,
        {"input_size": (360, 480), "options": {"padding": "same"}},
        _FULL, seconds=400, value=80, first_init="imagenet", seeds=3,
    ),
)  # fmt: skip
