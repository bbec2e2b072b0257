"""Training under XLA, with checkpoints from which a killed run goes on to the same numbers, bit for bit."""

import hashlib
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np

from repro import backend, registry
from repro.data.base import open_dataset
from repro.data.cache import decoded
from repro.data.frequency import median_frequency_weights
from repro.data.loader import stream
from repro.errors import ReproError
from repro.harness import checkpoint
from repro.harness.config import Evaluate, Train
from repro.harness.evaluate import score, tiles_of, write_samples
from repro.harness.inspection import flops_of, parameter_count, parameters
from repro.harness.learner import Learner, build_network, inference_of, make_learner
from repro.harness.logs import EventWriter, write_csv
from repro.harness.protocol import class_names_of, protocol
from repro.harness.record import Init, Result, Timing, Xla
from repro.harness.run import Job, Run, checkpoint_path, dataset_of, find, results_of, weights_path
from repro.harness.timing import bind, measure, summary

Progress = Callable[[float, str], None]
# Keras' epoch is our checkpoint interval: at most this many steps, so that huge epochs resume too.
SEGMENT_STEPS = 500


class _Segment(keras.utils.PyDataset):
    """Steps [first, last) of the stream, as Keras wants them."""

    def __init__(self, batches: Any, first: int, last: int) -> None:
        super().__init__(workers=1)
        self._batches, self._first, self._last = batches, first, last

    def __len__(self) -> int:
        return self._last - self._first

    def __getitem__(self, index: int):
        return (self._batches[self._first + index],)


class _Guard(keras.callbacks.Callback):
    """Stop at the first loss that is not finite; report progress."""

    def __init__(self, first: int, total: int, report: Callable[[int, float], None]) -> None:
        super().__init__()
        self._first, self._total, self._report = first, total, report

    def on_train_batch_end(self, batch, logs=None):
        loss, step = float(logs["loss"]), self._first + batch + 1
        if not math.isfinite(loss):
            rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
            raise FloatingPointError(
                f"the loss is {loss} at step {step} of {self._total}, learning rate {rate:g}; lower the learning "
                "rate or clip the gradient"
            )
        self._report(step, loss)


def train(job: Job, progress: Progress) -> None:
    """Run every seed of a job; the step compiles once. Writes one result a seed."""
    config: Train = job.config
    tf32 = backend.set_precision(config.precision)
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    entry = registry.architecture(config.network.name)
    size = kept_size_of(config)
    records = {
        split: decoded(dataset, split, size, entry.task, limit=limit)
        for split, limit in (
            (config.data.train, config.data.train_limit),
            (config.data.val, None),
            (config.data.test, None),  # now, so that a damaged file is found before the work and not after it
        )
    }
    names = class_names_of(dataset, entry.task)
    config, measured = with_measured_options(config, dataset, len(names))
    steps = max(1, round(config.epochs * len(records[config.data.train]) / config.batch_size))
    learner = None
    for done, seed in enumerate(job.seeds):
        run = Run(job, seed)
        fresh = make_learner(config, len(names), seed, steps, dataset.info.channels)
        init = initialise(fresh.network, job, seed, results_of(job.parent.experiment) if job.parent else [])
        if learner is None:
            learner = fresh
        else:  # the compiled step belongs to the first learner: give it the new start
            for mine, new in zip(variables_of(learner), variables_of(fresh), strict=True):
                mine.assign(new.value)

        def report(fraction: float, note: str, done: int = done, seed: int = seed) -> None:
            progress((done + fraction) / len(job.seeds), f"seed {seed} {note}")

        def validate(learner: Learner = learner) -> dict[str, float]:
            return validation_score(learner, records[config.data.val], config, names)

        history = fit(learner, config, run, seed, records[config.data.train], validate, steps, report)
        finish(learner, run, dataset, names, history, init, steps, tf32, measured)
        report(1.0, "scored")


def kept_size_of(config: Train) -> tuple[int, int]:
    """(height, width) images are fitted into and kept at."""
    entry = registry.architecture(config.network.name)
    return tuple(config.data.size or config.network.input_size or entry.input_size)


def with_measured_options(config: Train, dataset: Any, num_classes: int) -> tuple[Train, dict[str, Any]]:
    """The configuration with its loss options as numbers, and what of them was measured on the training split."""
    if config.loss_options.get("class_weights") != "median_frequency":
        return config, {}
    weights = median_frequency_weights(dataset, config.data.train, num_classes)
    options = {**config.loss_options, "class_weights": weights}
    shown = ", ".join(f"{weight:.3g}" for weight in weights)
    return msgspec.structs.replace(config, loss_options=options), {"class_weights": f"median frequency: {shown}"}


def variables_of(learner: Learner) -> list[Any]:
    """Everything that changes in training: weights, seed generators, the optimizer and its step count."""
    return [*learner.variables, *learner.optimizer.variables]


def initialise(network: keras.Model, job: Job, seed: int, results: list[Result]) -> tuple[Init, list[str], int]:
    """Give a fresh network the start its configuration names. Returns (init, depends_on, images seen before)."""
    source = job.config.init
    if source == "random":
        return Init(source="random"), [], 0
    if source == "imagenet":
        return _imagenet(network, job.config.network.name), [], 0
    parent = find(job.parent, seed, results)
    if parent is None:
        raise ReproError(f"{job.experiment} starts from {source}, which has no result here", f"run {source} first")
    arrays, _ = checkpoint.load_arrays(weights_path(parent.run_id, parent.experiment))
    copied = checkpoint.load_weights(network, arrays, parent.run_id, partial=True)
    note = f"{copied} of {len(network.weights)} variables"
    origin = Init(source=source, sha256=parent.weights_sha256, note=note)
    seen = int(parent.metrics["chain_images_seen"])
    return origin, [f"{parent.experiment}/{parent.run_id}"], seen


def _imagenet(network: keras.Model, name: str) -> Init:
    """VGG-16 weights of keras.applications, where they can be downloaded; else random, and it says so."""
    from repro.models.vgg import from_keras_applications

    if registry.architecture(name).backbone != "vgg16":
        return Init(source="random", note=f"keras.applications has no ImageNet weights for {name}")
    try:
        source = keras.applications.VGG16(weights="imagenet")
    except Exception as error:  # Keras raises bare Exception when a download fails
        return Init(source="random", note=f"no ImageNet weights: {str(error).splitlines()[0][:100]}")
    copied = from_keras_applications(network, source)
    digest = hashlib.sha256()
    for array in source.get_weights():
        digest.update(np.ascontiguousarray(array))
    return Init(source="imagenet", sha256=digest.hexdigest(), note=f"{copied} layers of keras.applications.VGG16")


def fit(
    learner: Learner,
    config: Train,
    run: Run,
    seed: int,
    records: Any,
    validate: Callable[[], dict[str, float]],
    steps: int,
    report: Progress,
) -> dict[str, list[float]]:
    """Train on records to the last step, from the run's checkpoint if it has one. Returns the history by epoch.

    `validate` gives the scores of the curve, every `val_every` epochs and at the end."""
    epoch_steps = max(1, math.ceil(len(records) / config.batch_size))
    interval = min(epoch_steps, SEGMENT_STEPS)
    path = checkpoint_path(run.job, seed)
    step, history = 0, {"epoch": [], "loss": [], "seconds": [], "images_per_s": [], "val_epoch": []}
    if path.exists():
        state, card = checkpoint.load_arrays(path)
        checkpoint.restore(variables_of(learner), state, str(path))
        step, history = card["step"], card["history"]
    batches = stream(records, config.batch_size, seed)
    events = EventWriter(run.folder / "tensorboard")
    saved = time.monotonic()
    while step < steps:
        last = min(step + interval, steps)
        started = time.perf_counter()
        guard = _Guard(step, steps, lambda at, loss: report(at / steps, f"step {at}/{steps} loss {loss:.3f}"))
        loss = learner.fit(_Segment(batches, step, last), verbose=0, shuffle=False, callbacks=[guard]).history["loss"]
        seconds = time.perf_counter() - started
        entry = {
            "epoch": last * config.batch_size / len(records),
            "loss": float(loss[-1]),
            "seconds": seconds,
            "images_per_s": (last - step) * config.batch_size / seconds,
        }
        step = last
        if step == steps or (step // epoch_steps % config.val_every == 0 and step % epoch_steps == 0):
            entry |= {f"val_{key}": value for key, value in validate().items()}
            entry["val_epoch"] = entry["epoch"]
        for key, value in entry.items():
            history.setdefault(key, []).append(value)
        events.write(step, {key: value for key, value in entry.items() if key not in ("epoch", "val_epoch")})
        if step == steps or time.monotonic() - saved >= float(os.environ.get("REPRO_CHECKPOINT_SECONDS", 30)):
            card = {"step": step, "history": history}
            checkpoint.save_arrays(path, checkpoint.state_of(variables_of(learner)), card)
            saved = time.monotonic()
    events.close()
    write_csv(run.folder / "log.csv", history)
    return history


def validation_score(learner: Learner, records: Any, config: Train, names: tuple[str, ...]) -> dict[str, float]:
    """The headline score on the validation split at the network's input size, for the curve."""
    scores = score(inference_of(learner.network), records, names, tile_margin=config.tile_margin)
    key = "mean_iou" if "mean_iou" in scores else "top1"
    return {key: scores[key] if scores[key] is not None else 0.0}


def finish(
    learner: Learner,
    run: Run,
    dataset: Any,
    names: tuple[str, ...],
    history: dict,
    start: tuple,
    steps: int,
    tf32: bool,
    measured: dict[str, Any],
) -> Result:
    """Score the last weights once on the test split, keep them, time one image, and write the result."""
    config, network = run.job.config, inference_of(learner.network)
    init, depends_on, seen_before = start
    size, kept = network.input_shape[1:3], kept_size_of(config)
    task = registry.architecture(config.network.name).task
    records = decoded(dataset, config.data.test, kept, task)
    margin = config.tile_margin
    metrics = score(network, records, names, dataset=dataset, split=config.data.test, tile_margin=margin)
    metrics |= {"params": parameter_count(parameters(network)[0]), "flops": sum(map(flops_of, network.layers))}
    metrics |= {"tiles": tiles_of(network, kept, margin)} if task == "segmentation" else {}
    weights = run.folder / "weights.safetensors"
    card = {
        "model": config.network.name,
        "variant": config.network.variant,
        "width": config.network.width,
        "depth": config.network.depth,
        "input_size": list(size),
        "num_classes": config.network.num_classes or len(names),
        "channels": network.input_shape[-1],
        "data_size": list(kept),
        "tile_margin": margin,
        "options": config.network.options,
        "dataset": config.data.name,
        "dataset_options": config.data.options,
        "run": f"{run.job.experiment}/{run.run_id}",
    }
    checkpoint.save_arrays(weights, checkpoint.weights_of(network), card)
    images = steps * config.batch_size
    result = run.finish(
        scale=scale_of(config, dataset, init, size),
        metrics={**metrics, "chain_images_seen": images + seen_before},
        protocol={
            **protocol(task, config.data.size, margin, dataset.info.segments_class is not None),
            **measured,
            "selection": "last weights; the validation split only draws the curve",
            "latency": "one image or tile of the network's input size, XLA, batch 1, after training",
        },
        dataset=dataset_of(dataset, config.data.test),
        init=init,
        depends_on=depends_on,
        weights_sha256=checkpoint.sha256_of(weights),
        tf32=tf32,
        xla=Xla(requested=True, used=bool(learner.jit_compile)),
        deterministic=backend.accelerator_count() == 0,
        epochs=images / _train_size(dataset, config),
        images_seen=images,
        timings={
            "epoch": summary(history["seconds"][1:] or history["seconds"], "s"),  # the first compiles
            "latency.xla": latency_of(network),
        },
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
        history={key: value for key, value in history.items() if value},
        artifacts=write_samples(network, records, run, margin),
    )
    checkpoint_path(run.job, run.seed).unlink(missing_ok=True)
    return result


def latency_of(network: keras.Model) -> Timing:
    """How long one image takes, on the device to class scores."""
    shape = (1, *network.input_shape[1:])
    images = backend.to_device(np.random.default_rng(0).uniform(0, 255, shape).astype("float32"))
    call = bind(backend.forward(network, "xla"), images)
    return measure({"xla": call}, warmup=10, repetitions=50, seconds=10)[1]["xla"]


def evaluate_weights(job: Job, progress: Progress) -> None:
    """Score a weight file on a split of a data set. Writes one result."""
    config: Evaluate = job.config
    run = Run(job, job.seeds[0])
    tf32 = backend.set_precision(config.precision)
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    task = registry.architecture(config.network.name).task
    names = class_names_of(dataset, task)
    if config.network.num_classes != len(names) and (config.network.num_classes, len(names)) != (1, 2):
        raise ReproError(
            f"{config.weights} tells {config.network.num_classes} classes apart, {config.data.name} has {len(names)}",
            "score it on the data set it was trained for",
        )
    network = build_network(config.network, len(names))
    arrays, _ = checkpoint.load_arrays(Path(config.weights))
    checkpoint.load_weights(network, arrays, config.weights)
    records = decoded(dataset, config.data.test, config.data.size or config.network.input_size, task)
    margin, split = config.tile_margin, config.data.test
    metrics = score(network, records, names, dataset=dataset, split=split, tile_margin=margin, progress=progress)
    run.finish(
        scale="smoke" if dataset.info.name == "shapes" else "reduced",
        metrics=metrics,
        protocol=protocol(task, config.data.size, margin, dataset.info.segments_class is not None),
        dataset=dataset_of(dataset, config.data.test),
        init=Init(source="file", sha256=config.weights_sha256),
        weights_sha256=config.weights_sha256,
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
        artifacts=write_samples(network, records, run, margin),
    )


def _train_size(dataset: Any, config: Train) -> int:
    available = dataset.size(config.data.train)
    return min(available, config.data.train_limit or available)


def scale_of(config: Train, dataset: Any, init: Init, size: tuple[int, int]) -> str:
    """The scale that ran: paper only for the paper's recipe on the whole network and published data; generated data
    is smoke; all else is reduced."""
    if dataset.info.name == "shapes":
        return "smoke"
    entry = registry.architecture(config.network.name)
    whole = config.network.width == config.network.depth == 1 and tuple(size) == entry.input_size
    published = dataset.official(config.data.train)[0] and dataset.official(config.data.test)[0]
    start = init.source == "random" if entry.task == "classification" else init.source != "random"
    full = config.data.train_limit is None and config.recipe == "paper"
    return "paper" if whole and published and start and full else "reduced"
