"""One training loop, with checkpoints from which a killed run goes on to the same numbers, bit for bit."""

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import msgspec

from repro import backend, registry
from repro.data.catalog import open_dataset
from repro.data.loader import stream
from repro.engine import checkpoint, starts
from repro.engine.evaluate import evaluate
from repro.engine.logs import EventWriter, write_csv
from repro.engine.timing import bind, measure, summary
from repro.files import sha256_of
from repro.records.result import Init, Timing, Xla
from repro.records.run import Outcome, Progress, Run, dataset_of
from repro.records.settings import Data
from repro.tasks import AnyTask
from repro.tasks.base import Phase, Training, input_size_of
from repro.tasks.learners import adopt, state_variables

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
SELECTION = "last weights; the validation split only draws the curve"
# Keras' epoch is our checkpoint interval: at most this many steps, so that huge epochs resume too.
SEGMENT_STEPS = 500
# how often losses are read: reading one waits for the device
READ_STEPS, READ_SECONDS = 20, 1.0


def train(settings: Training, task: AnyTask, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
    """Train and score every run; the step compiles once. Yields an outcome a run.

    Raises ReproError for settings that cannot be, and FloatingPointError when a loss is not finite."""
    task.check(settings)
    tf32 = backend.set_precision(settings.precision)
    data, dataset = settings.data, open_dataset(settings.data.name, **settings.data.options)
    dataset.prepare()
    # all of them now, so that a damaged file is found before the work and not after it
    limits = {data.train: data.train_limit, data.test: data.test_limit}
    limits |= {data.val: data.test_limit} if task.CURVE else {}
    records = {split: task.records(settings.network, data, dataset, split, limit) for split, limit in limits.items()}
    names = task.class_names(dataset.info)
    settings, words = task.measured(settings, dataset)
    learner, predictor, phases = None, None, task.phase_names()
    for done, run in enumerate(runs):

        def part(low: float, high: float, done: int = done, seed: int = run.seed) -> Progress:
            def report(fraction: float, note: str) -> None:
                progress((done + low + fraction * (high - low)) / len(runs), f"seed {seed} {note}")

            return report

        shown = task.training_records(records[data.train], run.seed)
        steps = max(1, round(settings.epochs * len(shown) / settings.batch_size))
        fresh = task.learner(settings, len(names), run.seed, steps, shown)
        init, seen = starts.initialise(fresh.network, settings.network.name, settings.init, run)
        if learner is None or len(phases) > 1:  # phases compile steps of their own, and freeze layers
            learner = fresh
        else:
            adopt(learner, fresh)
        if predictor is None:
            predictor = task.predictor(settings.network, data, len(names), dataset.info.channels, learner.network)

        def validate(learner: Any = learner, predictor: Any = predictor) -> dict[str, float]:
            predictor.load(learner.network)
            evaluator = task.evaluator(dataset, data.val, len(records[data.val]), curve=True)
            found = evaluate(predictor, records[data.val], evaluator)
            return {name: found[name] for name in task.CURVE if found.get(name) is not None}

        history: dict[str, list[float]] = {}
        for number, phase in enumerate(task.phases(settings, learner, shown, run.seed, steps, len(names))):
            curve = validate if task.CURVE and len(phases) == 1 else None
            share = part(0.8 * number / len(phases), 0.8 * (number + 1) / len(phases))
            _append(history, fit(phase, settings, run, steps, curve, share))
        predictor.load(learner.network)
        more = task.complete(predictor, records[data.train], run.folder, sum(history["seconds"]), part(0.8, 0.9))

        started, test = time.perf_counter(), records[data.test]
        evaluator = task.evaluator(dataset, data.test, len(test))
        metrics = evaluate(predictor, test, evaluator, part(0.9, 1.0))
        scoring = (time.perf_counter() - started) / len(test)
        images = round(sum(history["images"]))
        del history["images"]
        metrics |= more | predictor.cost()
        metrics |= {"train_images": len(records[data.train]), "chain_images_seen": images + seen}
        weights = run.folder / "weights.safetensors"
        arrays = checkpoint.weights_of(predictor.network) | task.extra_weights(predictor, names)
        checkpoint.save_arrays(weights, arrays, card_of(settings, task, run, len(names), dataset.info))
        yield Outcome(
            scale=scale_of(settings, dataset, init),
            metrics=metrics,
            protocol={
                **task.protocol(settings.network, data, dataset.info),
                **words,
                **({"selection": SELECTION} if task.CURVE else {}),
                **({"latency": task.LATENCY} if task.LATENCY else {}),
            },
            dataset=dataset_of(dataset, data.test),
            init=init,
            weights_sha256=sha256_of(weights),
            tf32=tf32,
            xla=Xla(requested=settings.compile == "xla", used=bool(learner.jit_compile)),
            deterministic=backend.accelerator_count() == 0,
            epochs=images / len(shown),
            images_seen=images,
            timings={
                "epoch": summary(history["seconds"][1:] or history["seconds"], "s"),  # the first compiles
                "scoring": summary([scoring], "ms"),
                **latency_of(predictor, test),
                **{name: summary(values, "ms") for name, values in evaluator.seconds().items()},
            },
            peak_memory_mib=round(backend.peak_memory_mib(), 1),
            history={key: value for key, value in history.items() if value},
            artifacts=evaluator.samples(run, predictor, test),
        )
        for name in phases:
            run.checkpoint(name).unlink(missing_ok=True)


def _append(history: dict[str, list[float]], more: dict[str, list[float]]) -> None:
    """Put the history of a phase behind that of the ones before."""
    offset = history.get("epoch", [0.0])[-1]
    for key, values in more.items():
        history.setdefault(key, []).extend(
            value + offset if key in ("epoch", "val_epoch") else value for value in values
        )


class _Steps(keras.utils.PyDataset):
    """Steps [first, last) of the stream, as Keras wants them."""

    def __init__(self, batches: Any, first: int, last: int) -> None:
        super().__init__(workers=1)
        self._batches, self._first, self._last = batches, first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int):
        return (self._batches[self._first + index],)


class _Watch(keras.callbacks.CallbackList):
    """Stops at a loss that is not finite, and reports progress. Keras' own list reads the loss at every step, for which
    the host waits for the device; here losses are kept on the device and read some at a time."""

    def __init__(self, learner: keras.Model, first: int, total: int, report: Progress) -> None:
        super().__init__(add_history=True, model=learner)
        self._async_train = False
        self._first, self._total, self._report = first, total, report
        self._unread: list[tuple[int, Any]] = []
        self._read_at = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        """Keep the loss; it is the mean since the interval began."""
        self._unread.append((self._first + batch + 1, logs["loss"]))
        if len(self._unread) >= READ_STEPS or time.monotonic() - self._read_at >= READ_SECONDS:
            self._read()

    def on_epoch_end(self, epoch, logs=None):
        """Read what is left."""
        self._read()
        super().on_epoch_end(epoch, logs)

    def _read(self) -> None:
        for step, value in self._unread:
            loss = float(value)
            if not math.isfinite(loss):
                optimizer = self.model.optimizer
                optimizer.iterations.assign(step)  # some more were taken, maybe at another rate
                rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
                raise FloatingPointError(
                    f"the loss is {loss} at step {step} of {self._total}, learning rate {rate:g}; lower the learning "
                    "rate or clip the gradient"
                )
        if self._unread:
            self._report(step / self._total, f"step {step}/{self._total} loss {loss:.3f}")
        self._unread, self._read_at = [], time.monotonic()


def fit(
    phase: Phase,
    settings: Training,
    run: Run,
    steps: int,
    validate: Callable[[], dict[str, float]] | None,
    report: Progress,
) -> dict[str, list[float]]:
    """Train a phase to its last step, from the run's checkpoint if it has one. Returns the history by epoch.

    `validate` gives the scores of the curve, every `val_every` epochs and at the end."""
    _, learner, records, seed = phase
    epoch_steps = max(1, math.ceil(len(records) / settings.batch_size))
    interval = min(epoch_steps, SEGMENT_STEPS)
    path = run.checkpoint(phase.name)
    step, names = 0, ("epoch", "loss", "seconds", "images", "images_per_s", "val_epoch")
    history: dict[str, list[float]] = {name: [] for name in names}
    if path.exists():
        state, card = checkpoint.load_arrays(path)
        checkpoint.restore(state_variables(learner), state, str(path))
        step, history = card["step"], card["history"]
    batches = stream(records, settings.batch_size, seed)
    events = EventWriter(run.folder / "tensorboard" / phase.name)
    saved = time.monotonic()
    note = f"{phase.name}, " if phase.name else ""
    while step < steps:
        last = min(step + interval, steps)
        started = time.perf_counter()
        watch = _Watch(learner, step, steps, lambda at, text: report(at, note + text))
        loss = learner.fit(_Steps(batches, step, last), verbose=0, shuffle=False, callbacks=watch).history["loss"]
        seconds, images = time.perf_counter() - started, (last - step) * settings.batch_size
        entry = {
            "epoch": last * settings.batch_size / len(records),
            "loss": float(loss[-1]),
            "seconds": seconds,
            "images": images,
            "images_per_s": images / seconds,
        }
        step = last
        due = step == steps or (step // epoch_steps % settings.val_every == 0 and step % epoch_steps == 0)
        scores = validate() if validate and due else {}
        if scores:
            entry |= {f"val_{key}": value for key, value in scores.items()} | {"val_epoch": entry["epoch"]}
        for key, value in entry.items():
            history.setdefault(key, []).append(value)
        events.write(step, {key: value for key, value in entry.items() if key not in ("epoch", "val_epoch", "images")})
        if step == steps or time.monotonic() - saved >= float(os.environ.get("REPRO_CHECKPOINT_SECONDS", 30)):
            card = {"step": step, "history": history}
            checkpoint.save_arrays(path, checkpoint.state_of(state_variables(learner)), card)
            saved = time.monotonic()
    events.close()
    write_csv(run.folder / f"{phase.name or 'log'}.csv", history)
    return history


def latency_of(predictor: Any, records: Any) -> dict[str, Timing]:
    """How long one image takes, on the device to its answer; nothing of a predictor that is no single program."""
    example = predictor.example(records)
    if example is None:
        return {}
    timings = measure({"xla": bind(*example)}, warmup=10, repetitions=50, seconds=10)[1]
    return {"latency.xla": timings["xla"]}


def card_of(settings: Training, task: AnyTask, run: Run, num_classes: int, info: Any) -> dict[str, Any]:
    """What weights say of themselves."""
    network, data = settings.network, settings.data
    classes, channels = network.num_classes or num_classes, network.channels or info.channels
    size = input_size_of(network)
    whole = msgspec.structs.replace(network, input_size=size, num_classes=classes, channels=channels)
    shown = Data(name=data.name, options=data.options, size=data.size)
    card = checkpoint.Card(network=whole, task=task, data=shown, run=f"{run.experiment}/{run.run_id}")
    return msgspec.to_builtins(card)


def scale_of(settings: Training, dataset: Any, init: Init) -> str:
    """The scale that ran: paper only for the paper's recipe on the whole network and published data; generated data
    is smoke; all else is reduced."""
    if dataset.info.name == "shapes":
        return "smoke"
    network, data = settings.network, settings.data
    entry = registry.architecture(network.name)
    whole = network.width == network.depth == 1 and input_size_of(network) == entry.input_size
    published = dataset.official(data.train)[0] and dataset.official(data.test)[0]
    start = init.source == "random" if entry.task == "classification" else init.source != "random"
    full = data.train_limit is None and data.test_limit is None and settings.recipe == "paper"
    return "paper" if whole and published and start and full else "reduced"
