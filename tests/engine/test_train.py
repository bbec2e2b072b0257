"""The one training loop: losses that are not finite, how the step is compiled, phases with checkpoints of their own."""

import keras
import msgspec
import numpy as np
import pytest

from repro import backend
from repro.data.loader import stream
from repro.engine import train as training
from repro.engine.checkpoint import load_arrays
from repro.engine.train import fit
from repro.experiments.train import Train
from repro.records.result import Xla
from repro.records.run import Run, weights_path
from repro.records.settings import Data, Network
from repro.tasks import Detection, Segmentation
from repro.tasks.base import Phase
from repro.tasks.detection import ALTERNATING
from repro.tasks.learners import Learner, compiled
from tests.support.kinds import run_kind

SEGMENTER = Train(
    network=Network(name="fcn32s", width=1 / 32, depth=0.3, input_size=(32, 32), options={"padding": "same"}),
    data=Data(
        name="shapes",
        options={
            "image_size": 32, "max_objects": 1, "min_scale": 0.5, "train_size": 8, "val_size": 2, "test_size": 2,
        },
    ),
    recipe="suite", epochs=3, batch_size=4, optimizer="sgd", learning_rate=1e-2, schedule="cosine", val_every=2,
    task=Segmentation(),  # without augmentation, for which XLA draws other numbers
)  # fmt: skip


# --- losses that are not finite


def one_weight():
    """A learner of one weight, to whose loss the poison of the records is added."""
    image = keras.Input((2, 2, 1), name="image")
    network = keras.Model(image, {"scores": keras.layers.Dense(1)(keras.layers.Flatten()(image))})

    def loss(outputs, batch):
        return keras.ops.mean(outputs["scores"]) + keras.ops.mean(batch["poison"])

    return Learner(network, loss, {}, None)


@pytest.mark.parametrize("drops", [(), (0.5,)], ids=["constant", "falling"])
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(monkeypatch, drops):
    """Though losses are read in windows, the message is that of reading each: the exact step, and its rate, which has
    fallen when the window is read."""
    monkeypatch.setattr(training, "READ_SECONDS", 1000.0)
    steps, window = 90, training.READ_STEPS
    records = [{"image": np.ones((2, 2, 1), "uint8"), "poison": np.float32(0)} for _ in range(steps)]
    poison = next(iter(stream([{"index": np.array(i)} for i in range(steps)], 1, 5)[43]["index"]))
    records[poison] = records[poison] | {"poison": np.float32(np.inf)}
    settings = Train(
        network=Network(name="fcn32s"), data=Data(name="shapes"), recipe="suite", epochs=1, batch_size=1,
        optimizer="sgd", learning_rate=1e-3, schedule="step" if drops else "constant", drops=drops, task=Segmentation(),
    )  # fmt: skip

    def message_of(reading):
        monkeypatch.setattr(training, "READ_STEPS", reading)
        learner, heard = compiled(one_weight(), settings, steps, records[0]), []
        run = Run(f"reading-{reading}", settings, 5, profile="smoke", backend=backend.name())
        with pytest.raises(FloatingPointError) as error:
            fit(Phase("", learner, records, 5), settings, run, steps, None, lambda at, note: heard.append(at))
        assert not run.checkpoint().exists()
        return str(error.value), round(steps * heard[-1])

    (message, last), (same, read) = message_of(1), message_of(window)
    assert (last, read) == (43, 40)  # the next would be read at step 60
    assert message == same
    assert message.startswith("the loss is inf at step 44 of 90, learning rate 0.001;")


# --- how the step is compiled


def test_steps_of_xla_and_of_a_graph_are_recorded_and_equal():
    found = {}
    for how in ("xla", "graph"):
        (found[how],) = run_kind(msgspec.structs.replace(SEGMENTER, compile=how), experiment=how)
    assert found["xla"].xla == Xla(requested=True, used=True)
    assert found["graph"].xla == Xla(requested=False, used=False)
    assert found["xla"].config_hash != found["graph"].config_hash
    losses = [result.history["loss"] for result in found.values()]
    assert len(losses[0]) == 3
    assert losses[0][0] != losses[0][-1]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


# --- phases


def alternating():
    options = {
        "frozen_blocks": 0, "max_boxes": 2, "rois": 8, "rpn_sample": 16, "anchor_scales": (2,), "min_size": 4,
        "before_nms": (40, 30), "after_nms": (16, 8),
    }  # fmt: skip
    shapes = {"image_size": 64, "max_objects": 2, "min_scale": 0.4, "max_scale": 0.7, "train_size": 4, "val_size": 1,
              "test_size": 1}  # fmt: skip
    return Train(
        network=Network(name="faster_rcnn", width=1 / 32, depth=0.3, input_size=(64, 64), options=options),
        data=Data(name="shapes", options=shapes), recipe="suite", epochs=2, batch_size=2, optimizer="adamw",
        learning_rate=1e-3, augment={"flip": True}, compile="graph", task=Detection(training="alternating"),
    )  # fmt: skip


def phases_kept(folder):
    """The phases that have a checkpoint below a folder."""
    return sorted(path.name.split(".")[-3] for path in folder.rglob("*.checkpoint.safetensors"))


@pytest.mark.slow
def test_alternating_training_goes_on_in_the_phase_where_it_was_killed(tmp_path, monkeypatch):
    """Two epochs of two steps a phase; the third phase's second epoch is begun and not ended."""
    monkeypatch.setenv("REPRO_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(training, "READ_STEPS", 1)
    monkeypatch.setattr(training, "latency_of", lambda predictor, records: {})
    kept, heard = [], []

    def run_into(folder, progress):
        monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / folder / "results"))
        (result,) = run_kind(alternating(), progress=progress)
        return result, load_arrays(weights_path(result))[0]

    def watch(fraction, note):
        heard.append((fraction, note))
        if "scored" in note:
            kept.append(phases_kept(tmp_path / "whole"))

    def kill(fraction, note):
        if "3-rpn, step 3/4" in note:
            raise KeyboardInterrupt

    result, weights = run_into("whole", watch)
    assert kept[-1] == list(ALTERNATING) == ["1-rpn", "2-fast-rcnn", "3-rpn", "4-fast-rcnn"]
    assert not phases_kept(tmp_path)
    assert [fraction for fraction, _ in heard] == sorted(fraction for fraction, _ in heard)
    assert result.history["epoch"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert (result.images_seen, result.metrics["chain_images_seen"]) == (32, 32)

    with pytest.raises(KeyboardInterrupt):
        run_into("killed", kill)
    assert phases_kept(tmp_path) == ["1-rpn", "2-fast-rcnn", "3-rpn"]
    seen = []
    again, same = run_into("killed", lambda fraction, note: seen.append(note.removeprefix("seed 0 ")))
    assert seen[0].startswith("3-rpn, step 3/4")
    assert not phases_kept(tmp_path)
    assert again.history["loss"] == result.history["loss"]
    assert same.keys() == weights.keys()
    for name, values in weights.items():
        np.testing.assert_array_equal(same[name], values, err_msg=name)
    assert again.metrics["map"] == result.metrics["map"]
