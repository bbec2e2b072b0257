"""The harness's own learners, compiled, learn a handful of pictures by heart."""

from repro.data.base import open_dataset
from repro.data.cache import OnDemand
from repro.data.loader import collate
from repro.harness.config import Data, Network, Train
from repro.harness.evaluate import score
from repro.harness.learner import make_learner
from repro.harness.protocol import class_names_of

SIDE = 48
# one large shape a picture: a net whose last step is a fixed 8x interpolation cannot follow fine outlines
DATA = Data(name="shapes", options={"image_size": SIDE, "max_objects": 1, "min_scale": 0.6, "max_scale": 0.9})


def overfit(name, task, count, steps, rate, **network):
    """Train on the first `count` pictures, all in one batch; returns (their records, the scores on them)."""
    dataset = open_dataset(DATA.name, **DATA.options)
    source, names = OnDemand(dataset, "train", (SIDE, SIDE), task), class_names_of(dataset, task)
    records = [source[index] for index in range(count)]
    config = Train(
        network=Network(name=name, width=1 / 8, depth=0.3, input_size=(SIDE, SIDE), **network), data=DATA,
        recipe="suite", epochs=steps, batch_size=count, optimizer="adamw", learning_rate=rate, schedule="cosine",
        warmup=0.05,
    )  # fmt: skip
    learner = make_learner(config, len(names), seed=0, total_steps=steps)
    assert learner.jit_compile
    batch = collate(records)
    for _ in range(steps):
        learner.train_on_batch(batch)
    return batch, score(learner.network, records, names)


def test_fcn8s_segments_four_pictures():
    batch, scores = overfit("fcn8s", "segmentation", 4, 120, 5e-3, options={"padding": "same"})
    assert (batch["semantic"] == 0).mean() < 0.8  # of the pixels are right where all is called background
    assert scores["pixel_accuracy"] > 0.95
    assert scores["mean_iou"] > 0.85


def test_vgg16_names_eight_pictures():
    batch, scores = overfit("vgg16", "classification", 8, 80, 1e-3)
    assert len(set(batch["label"])) >= 4
    assert scores["top1"] == 1.0
