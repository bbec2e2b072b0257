"""Training the YOLO line: images of changing size, resumption, the growing rate."""

import dataclasses
import itertools
import os
import subprocess
import sys
from pathlib import Path

import keras
import msgspec
import numpy as np
import pytest

from repro import backend, registry
from repro.data.catalog import open_dataset
from repro.data.detection import Mirror
from repro.data.jitter import Jitter
from repro.data.loader import stream
from repro.engine import train as training
from repro.engine.checkpoint import read_card, state_of, weights_of
from repro.engine.train import fit
from repro.errors import ReproError
from repro.ops.boxes import flip_boxes
from repro.records.run import Run, weights_path
from repro.records.settings import Network
from repro.tasks import Yolo
from repro.tasks.base import Phase
from repro.tasks.learners import MultiScaleLearner, make_optimizer, side_at, state_variables
from tests.support.kinds import run_kind
from tests.support.small_yolo import SIZE_STEPS, SIZES, STEPS, settings, shorten

INNER = bool(os.environ.get("REPRO_YOLO_INNER"))
SEEDS = (1, 7)  # both draw both sizes, in other orders
STILL = {"scale": 0.0, "shift": 0.0, "saturation": 1.0, "exposure": 1.0}
NAMES = ("disc", "ring", "square", "bar", "triangle", "star", "cross")


@dataclasses.dataclass
class Compiled:
    """A learner whose programs are compiled once for all tests, the state that it starts from, and the sizes traced."""

    learner: MultiScaleLearner
    records: object
    state: list
    traced: list

    def start(self, seed):
        for variable, value in zip(state_variables(self.learner), self.state, strict=True):
            variable.assign(value)
        self.learner.size_seed.assign(seed)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    folder, config = tmp_path_factory.mktemp("compiled"), settings()
    traced, own = [], []

    def call(self, batch, jitter=Jitter.__call__):
        if self in own:
            traced.append(self.size)
        return jitter(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        dataset = open_dataset("shapes", **config.data.options)
        records = config.task.records(config.network, config.data, dataset, "train")
        patch.setattr(Jitter, "__call__", call)
        with pytest.MonkeyPatch.context() as inner:
            shorten(inner)
            learner = config.task.learner(config, len(NAMES), SEEDS[0], STEPS, records)
        own.append(learner._augment)
        yield Compiled(learner, records, [*state_of(state_variables(learner)).values()], traced)


def sides(seed, steps=STEPS):
    return [side_at(step, seed, SIZES, SIZE_STEPS) for step in range(steps)]


def test_sizes_change_every_few_steps_and_depend_on_nothing_else():
    found = sides(0, 400)
    assert set(found) == set(SIZES)
    assert all(found[step] == found[step + 1] for step in range(0, 400, 2))
    assert 0.35 < np.mean(np.array(found) == 32) < 0.65
    assert sides(0, 400) == found != sides(1, 400)
    assert {side_at(step, 0, range(320, 609, 32), 10) for step in range(0, 2000, 10)} == {*range(320, 609, 32)}
    assert sides(SEEDS[0]) != sides(SEEDS[1])
    assert all(set(sides(seed)) == set(SIZES) for seed in SEEDS)


class OneStep(keras.utils.PyDataset):
    """A single batch, as an epoch."""

    def __init__(self, batch):
        super().__init__(workers=1)
        self._batch = batch

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return (self._batch,)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_step_has_the_size_that_was_drawn(compiled, seed):
    """Its loss is that of its pictures at that size, each as it is or mirrored."""
    learner, batches = compiled.learner, stream(compiled.records, 2, seed)
    losses = registry.module_of("yolo_v2").loss
    drawn = sides(seed)
    for step in sorted({drawn.index(side) for side in SIZES}):
        compiled.start(seed)
        possible = {}
        for side in SIZES:
            still = Jitter(0, size=side, **STILL)(batches[step])
            mirrored = {"image": still["image"][:, :, ::-1], "boxes": flip_boxes(still["boxes"], float(side))}
            for turned in itertools.product((False, True), repeat=2):
                pick = np.array(turned)[:, None, None]
                batch = still | {"image": keras.ops.where(pick[..., None], mirrored["image"], still["image"])}
                batch["boxes"] = keras.ops.where(pick, mirrored["boxes"], still["boxes"])
                outputs = learner.network({"image": batch["image"]}, training=True)
                possible.setdefault(side, []).append(float(losses(outputs, batch)))
        compiled.start(seed)
        learner.optimizer.iterations.assign(step)
        found = learner.fit(OneStep(batches[step]), verbose=0, shuffle=False).history["loss"][0]
        nearest = {side: min(abs(np.array(values) / found - 1)) for side, values in possible.items()}
        other = next(side for side in SIZES if side != drawn[step])
        assert nearest[drawn[step]] < 1e-3 < nearest[other]


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_numbers(compiled, monkeypatch):
    """Two steps an epoch; the fifth step is the last that was begun, and the size changes afterwards."""
    monkeypatch.setenv("REPRO_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(training, "READ_STEPS", 1)
    seed = SEEDS[0]
    assert len(set(sides(seed)[4:])) == 2
    seen, dying = [], [False]

    def told(fraction, note):
        seen.append(round(STEPS * fraction))
        if dying[0] and len(seen) == 5:
            raise KeyboardInterrupt

    def train(name):
        seen.clear()
        run = Run(name, settings(), seed, profile="smoke", backend=backend.name())
        history = fit(Phase("", compiled.learner, compiled.records, seed), run.kind, run, STEPS, None, told)
        return history["loss"], weights_of(compiled.learner.network)

    compiled.start(seed)
    losses, weights = train("whole")
    assert seen == [1, 2, 3, 4, 5, 6, 7, 8]
    assert sorted(compiled.traced) == [*SIZES]
    compiled.start(seed)
    dying[0] = True
    with pytest.raises(KeyboardInterrupt):
        train("killed")
    dying[0] = False
    # whatever is not restored will be wrong, the seed of the sizes too
    for variable in state_variables(compiled.learner):
        variable.assign(keras.ops.zeros_like(variable.value))
    losses_again, weights_again = train("killed")
    assert seen == [5, 6, 7, 8]
    assert losses_again == losses
    for name, values in weights.items():
        np.testing.assert_array_equal(weights_again[name], values, err_msg=name)


def test_a_whole_run_has_one_program_a_size_and_a_network_of_one_size_at_test(compiled, monkeypatch):
    def learner(task, settings, num_classes, seed, steps, records, make=Yolo.learner):
        assert (num_classes, steps) == (len(NAMES), STEPS)
        if seed != SEEDS[0]:
            return make(task, settings, num_classes, seed, steps, records)
        compiled.start(seed)
        return compiled.learner

    shorten(monkeypatch)
    monkeypatch.setattr(Yolo, "learner", learner)
    heard = []
    results = run_kind(settings(), SEEDS, "whole", progress=lambda fraction, note: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[-1] == 1
    assert [(result.seed, result.status) for result in results] == [(seed, "ok") for seed in SEEDS]
    for result in results:
        assert np.isfinite(result.history["loss"]).all()
        assert len(result.history["loss"]) == 4
        assert 0 <= result.metrics["map"] <= 1
        assert result.images_seen == 16
        card = read_card(weights_path(result))
        assert card.network.input_size == (64, 64)
        assert "multi_scale" not in card.network.options
    assert results[0].history["loss"] != results[1].history["loss"]
    assert compiled.learner.network.inputs[0].shape == (None, None, None, 3)
    assert compiled.learner.jit_compile
    assert sorted(compiled.traced) == [*SIZES]


# --- what needs no training


def augmentation(**fields):
    config = settings(**fields)
    config.task.check(config)
    return config.task.augmentation(config, 0)


def test_augmentation_is_a_mirror_where_no_more_is_asked_for():
    assert augmentation(sizes=(), augment={}) is None
    assert isinstance(augmentation(sizes=(), augment={"flip": True}), Mirror)
    jitter = augmentation(sizes=(), augment={"hue": 0.1})
    assert (jitter.flip, jitter.scale, jitter.saturation, jitter.hue, jitter.size) == (False, 0.2, 1.5, 0.1, None)
    still = augmentation(augment={"flip": True})
    assert isinstance(still, Jitter)
    assert (still.flip, still.scale, still.shift, still.saturation, still.exposure) == (True, 0, 0, 1, 1)
    with pytest.raises(ReproError, match="there is no crop"):
        augmentation(augment={"crop": 3})


@pytest.mark.parametrize("schedule", ["constant", "step"])
def test_the_rate_grows_with_the_fourth_power_and_then_follows_its_schedule(schedule):
    config = settings(schedule=schedule, burn_in=0.1, drops=(0.5, 0.8), learning_rate=0.02)
    optimizer = make_optimizer(config, 100)
    rates = []
    for step in (0, 4, 8, 9, 10, 50, 51, 80, 81, 99):
        optimizer.iterations.assign(step)
        rates.append(float(optimizer.learning_rate))
    after = [1, 1, 1, *([0.1, 0.1, 0.01, 0.01] if schedule == "step" else [1] * 4)]
    np.testing.assert_allclose(rates, 0.02 * np.array([0.1**4, 0.5**4, 0.9**4, *after]), rtol=1e-5)
    plain = make_optimizer(settings(burn_in=0.0, learning_rate=0.02, schedule="constant"), 100)
    assert float(plain.learning_rate) == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"size_steps": 0}, "size_steps"),
        ({"sizes": (32, 40)}, "multiples of 32"), ({"sizes": (0,)}, "multiples of 32"),
        ({"network": Network(name="yolo_v1")}, "images of one size"),
        ({"network": Network(name="yolo_v2", input_size=(64, 96))}, "cannot become square"),
    ],
)  # fmt: skip
def test_impossible_settings_are_named(fields, named):
    settings().task.check(settings())
    with pytest.raises(ReproError, match=named):
        settings(**fields).task.check(settings(**fields))


@pytest.mark.parametrize("fields", [{"burn_in": 1.0}, {"schedule": "cosine"}])
def test_an_impossible_burn_in_is_named(fields):
    with pytest.raises(ReproError, match="burn_in"):
        make_optimizer(settings(**fields), 100)


def test_no_network_of_the_line_trains_in_alternation():
    config = msgspec.structs.replace(settings(), task=Yolo(training="alternating"))
    with pytest.raises(ReproError, match="yolo_v2 cannot train in alternation"):
        config.task.check(config)


@pytest.mark.parametrize("name", [name for name in backend.installed() if name != backend.default()])
def test_so_on_the_other_backend(name):
    """Of augmentation (tests/data/test_jitter.py) what is compiled, too: a process for each would take longer."""
    if INNER:
        pytest.skip("this is the other backend")
    files, chosen = (
        [__file__, str(Path(__file__).parents[1] / "data" / "test_jitter.py")],
        "killed or compiled_as_eager",
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-vv", "-p", "no:cacheprovider", *files, "-k", chosen],
        env=os.environ | {"KERAS_BACKEND": name, "REPRO_YOLO_INNER": "1", "JAX_PLATFORMS": "cpu",
                          "CUDA_VISIBLE_DEVICES": "-1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count("PASSED") == 2
