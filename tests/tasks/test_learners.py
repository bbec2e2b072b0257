"""The suite's own learners, compiled, learn a handful of pictures by heart."""

import keras
import pytest

from repro.data.cache import OnDemand
from repro.data.catalog import open_dataset
from repro.data.loader import collate
from repro.engine.evaluate import evaluate
from repro.records.settings import Data, Network
from repro.tasks import Classification, Segmentation
from repro.tasks.base import Training

SIDE = 48
# one large shape a picture: a net whose last step is a fixed 8x interpolation cannot follow fine outlines
DATA = Data(name="shapes", options={"image_size": SIDE, "max_objects": 1, "min_scale": 0.6, "max_scale": 0.9})


def overfit(name, task, count, steps, rate, side=SIDE, depth=0.3, **network):
    """Train on the first `count` pictures, all in one batch; returns (their records, the scores on them)."""
    dataset = open_dataset(DATA.name, **DATA.options | {"image_size": side})
    source, names = OnDemand(dataset, "train", (side, side), task.name), task.class_names(dataset.info)
    records = [source[index] for index in range(count)]
    settings = Training(
        network=Network(name=name, width=1 / 8, depth=depth, input_size=(side, side), channels=3, **network), data=DATA,
        recipe="suite", epochs=steps, batch_size=count, optimizer="adamw", learning_rate=rate, schedule="cosine",
        warmup=0.05,
    )  # fmt: skip
    learner = task.learner(settings, len(names), 0, steps, records)
    assert learner.jit_compile
    for layer in learner.network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0  # a few channels, half of them dropped, learn nothing by heart
    batch = collate(records)
    for _ in range(steps):
        learner.train_on_batch(batch)
    predictor = task.predictor(settings.network, settings.data, len(names), 3, learner.network)
    return batch, evaluate(predictor, records, task.evaluator(dataset, "train", count, curve=True))


@pytest.mark.parametrize(
    ("name", "steps", "rate", "settings", "mean_iou"),
    [
        ("fcn8s", 120, 5e-3, {"options": {"padding": "same"}}, 0.85),
        ("segnet", 450, 1e-2, {}, 0.7),
        # deep enough to see a whole shape
        ("unet", 300, 2e-3, {"depth": 0.6, "options": {"padding": "same"}}, 0.85),
        # its 32x interpolation follows the outlines of larger pictures only
        ("fcn_googlenet", 100, 5e-3, {"side": 128}, 0.6),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_segments_four_pictures(name, steps, rate, settings, mean_iou):
    batch, scores = overfit(name, Segmentation(), 4, steps, rate, **settings)
    assert (batch["semantic"] == 0).mean() < 0.8  # of the pixels are right where all is called background
    assert scores["pixel_accuracy"] > (0.88 if name == "fcn_googlenet" else 0.95)
    assert scores["mean_iou"] > mean_iou


@pytest.mark.parametrize(("name", "rate"), [("vgg16", 1e-3), ("googlenet", 3e-3)])
def test_names_eight_pictures(name, rate):
    batch, scores = overfit(name, Classification(), 8, 80, rate)
    assert len(set(batch["label"])) >= 4
    assert scores["top1"] == 1.0
