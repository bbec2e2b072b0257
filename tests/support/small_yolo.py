"""YOLO v2 as small as can be."""

from repro.experiments.train import Train
from repro.models import darknet
from repro.models.darknet import Conv, MaxPool
from repro.records.settings import Data, Network
from repro.tasks import Yolo

SIZES, SIZE_STEPS, STEPS = (32, 64), 2, 8


def settings(**fields):
    """YOLO v2 as small as can be, on four generated pictures of 64x64: 8 steps of 2."""
    shapes = {"image_size": 64, "min_scale": 0.4, "max_scale": 0.7, "max_objects": 2, "train_size": 4, "val_size": 1,
              "test_size": 1}  # fmt: skip
    network = Network(name="yolo_v2", input_size=(64, 64), width=1 / 32)
    common = {
        "network": network, "data": Data(name="shapes", options=shapes), "recipe": "suite", "optimizer": "sgd",
        "epochs": 4, "batch_size": 2, "learning_rate": 1e-3, "val_every": 4, "augment": {"flip": True}, "burn_in": 0.25,
        "schedule": "step", "drops": (0.75,),
    }  # fmt: skip
    sizes = {name: fields.pop(name, value) for name, value in (("sizes", SIZES), ("size_steps", SIZE_STEPS))}
    return Train(**{**common, **fields}, task=Yolo(**sizes))


def shorten(patch):
    """Three convolutions in place of Darknet-19's eighteen: what takes time here is to compile them."""
    rows = [Conv(32), *[MaxPool()] * 4, Conv(512, label="stride16"), MaxPool(), Conv(1024, label="stride32")]
    patch.setattr(darknet, "darknet19_rows", lambda depth: rows)
