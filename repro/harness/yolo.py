"""Training the YOLO line: jittered images, images of changing size, a rate that grows at first, and a start from the
backbones that the authors trained on ImageNet."""

import fcntl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import msgspec
import numpy as np
from keras import ops

from repro import backend, paths, registry
from repro.darknet_format import read_weights
from repro.data.detection import Mirror
from repro.data.download import Archive, fetch
from repro.data.jitter import Jitter
from repro.errors import NoDataError, ReproError
from repro.harness import detect, learner
from repro.harness.checkpoint import sha256_of
from repro.harness.config import TrainYolo
from repro.harness.detect import DetectorLearner, train_detector
from repro.harness.record import Init
from repro.harness.run import Job
from repro.harness.train import kept_size_of

STRIDE = 32  # pixels of the coarsest cell, which every size is a multiple of
# the others end in fully connected layers
ANY_SIZE = ("yolo_v2", "yolo_v3")
GROWTH = 4  # the power of Darknet's burn-in
_SITE = "https://pjreddie.com/media/files"


def _backbone(filename: str, size: int = 0, checksum: str = "") -> Archive:
    return Archive("darknet", f"{_SITE}/{filename}", size, size, checksum)


# by detector: its backbone's file, and how many convolutions that has. The authors publish no checksums: these are of
# copies of the files, whose sizes are those the layers give. Of extraction's no whole copy was found.
BACKBONES = {
    "yolo_v1": (_backbone("extraction.conv.weights"), 20),
    "yolo_v2": (
        _backbone(
            "darknet19_448.conv.23",
            79_327_120,
            "sha256:9b8b4d2e15200d7be487c85d70e18c6be6fffbd1401e9b4eb48e8e0f585d1a1a",
        ),
        18,
    ),
    "yolo_v3": (
        _backbone(
            "darknet53.conv.74",
            162_482_580,
            "sha256:2495c2690283e4e0bc2050cbd4660b77a8074e14e9c11150c6412fd63db496a7",
        ),
        52,
    ),
}


def train_yolo(job: Job, progress: Callable[[float, str], None]) -> None:
    """Run every seed of a job, whose steps compile once for each size of image. Writes one result a seed.

    Raises ReproError for sizes that the network cannot take."""
    check(job.config)
    train_detector(job, progress, make=make_learner, start=start_of)


def check(config: TrainYolo) -> None:
    """Raises ReproError for settings of changing sizes or a growing rate that cannot be."""
    name, canvas = config.network.name, kept_size_of(config)
    if not 0 <= config.burn_in < 1:
        raise ReproError(f"burn_in {config.burn_in:g} is impossible", "give a share of the run, from 0 to below 1")
    if config.burn_in and config.schedule not in ("constant", "step"):
        raise ReproError(f"schedule {config.schedule} takes no burn_in", "use warmup with it")
    if not config.sizes:
        return
    if name not in ANY_SIZE:
        raise ReproError(f"{name} takes images of one size", f"leave sizes out, or use {' or '.join(ANY_SIZE)}")
    if config.size_steps < 1:
        raise ReproError(f"size_steps {config.size_steps} is impossible", "give at least 1 step")
    if any(side < STRIDE or side % STRIDE for side in config.sizes):
        raise ReproError(f"sizes {', '.join(map(str, config.sizes))} are impossible", f"give multiples of {STRIDE}")
    if canvas[0] != canvas[1]:
        raise ReproError(f"images on a canvas of {canvas[0]}x{canvas[1]} cannot become square", "give a square size")


def side_at(step: int, seed: int, sizes: Sequence[int], size_steps: int) -> int:
    """The side of the images in a step (from 0 on): drawn anew every `size_steps` steps (YOLO v2, Section 2,
    "Multi-Scale Training"), from the seed and the step alone, so that a run that is resumed draws the same."""
    return int(np.random.default_rng([seed, step // size_steps]).choice(sizes))


class MultiScaleLearner(DetectorLearner):
    """A detector that trains on images of changing size. Batches come on one canvas; `augment`, a `Jitter`, brings them
    to the size of the step. One program is compiled for each size."""

    def __init__(self, *settings: Any, batch_size: int, seed: int, sizes: Sequence[int], size_steps: int) -> None:
        super().__init__(*settings, batch_size=batch_size)
        self.sizes, self.size_steps = tuple(sizes), size_steps
        # a variable: a learner that is given the start of another seed then draws that seed's sizes
        self.size_seed = keras.Variable(seed, dtype="int32", trainable=False, name="size_seed")
        self._next, self._drawn_from = 0, seed

    def fit(self, *arguments: Any, **options: Any) -> Any:
        """As Keras' `fit`; its first step is the one that the optimizer is at."""
        self._next, self._drawn_from = (
            int(ops.convert_to_numpy(variable)) for variable in (self.optimizer.iterations, self.size_seed)
        )
        return super().fit(*arguments, **options)

    def make_train_function(self, force: bool = False) -> None:
        """What `fit` calls for every step: the program of the step's size."""
        if self.train_function is not None and not force:
            return
        programs = {side: self._program(side) for side in sorted(set(self.sizes))}

        def step(*arguments: Any) -> Any:
            side = side_at(self._next, self._drawn_from, self.sizes, self.size_steps)
            self._next += 1
            return programs[side](*arguments)

        self.train_function = step

    def _program(self, side: int) -> Callable[..., Any]:
        """Keras' train function for one size. It is traced, and the size fixed in it, when it first runs."""
        step = super().train_step

        def train_step(*arguments: Any) -> Any:
            self._augment.size = side
            return step(*arguments)

        # a function of its own for each size: JAX takes two compilations of one method for the same
        self.train_step = train_step
        try:
            super().make_train_function(force=True)
        finally:
            del self.train_step
        return self.train_function


class BurnIn(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that grows with the fourth power of the step for `steps` steps (Darknet's get_current_rate, src/network.c;
    the first step is number 1), and is that of `after` from then on: a number, or a schedule, which has gone on all
    the while."""

    def __init__(self, after: Any, peak: float, steps: int) -> None:
        super().__init__()
        self.after, self.peak, self.steps = after, peak, steps

    def __call__(self, step: Any) -> Any:
        number = ops.cast(step, "float32") + 1
        growing = self.peak * ops.minimum(number / self.steps, 1.0) ** GROWTH
        after = self.after(step) if callable(self.after) else self.after
        return ops.where(number < self.steps, growing, ops.cast(after, "float32"))

    def get_config(self) -> dict[str, Any]:
        return {"after": self.after, "peak": self.peak, "steps": self.steps}


def make_optimizer(config: TrainYolo, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer of `repro.harness.learner.make_optimizer`, whose rate grows at first where `burn_in` says so."""
    optimizer, grown = learner.make_optimizer(config, total_steps), round(total_steps * config.burn_in)
    if grown:
        rate = config.learning_rate
        if config.schedule == "step":
            ends = [max(1, round(total_steps * drop)) for drop in config.drops]
            rates = [rate / 10**i for i in range(len(ends) + 1)]
            rate = keras.optimizers.schedules.PiecewiseConstantDecay(ends, rates)
        optimizer.learning_rate = BurnIn(rate, config.learning_rate, grown)
    return optimizer


def make_augment(config: TrainYolo, seed: int) -> Mirror | Jitter | None:
    """`Mirror` where `augment` names nothing but flip, else `Jitter` with its options; images whose size changes need
    one that at least resizes. Raises ReproError for an unknown option."""
    options = config.augment
    still = {"scale": 0.0, "shift": 0.0, "saturation": 1.0, "exposure": 1.0}
    if not set(options) - {"flip"}:
        if config.sizes:
            return Jitter(seed, **still, **options)
        return Mirror(seed) if options.get("flip") else None
    unknown = sorted(set(options) - {"flip", "hue", *still})
    if unknown:
        raise ReproError(f"augmentation: there is no {unknown[0]}", f"known: flip, hue, {', '.join(still)}")
    return Jitter(seed, **options)


def make_learner(
    config: TrainYolo, names: tuple[str, ...], seed: int, steps: int, records: Any
) -> DetectorLearner:  # fmt: skip
    """A learner with fresh weights that are a function of the seed. Its network leaves the size of images open where
    that changes."""
    backend.set_seed(seed)
    network = config.network
    if config.sizes:
        network = msgspec.structs.replace(network, options=network.options | {"multi_scale": True})
    built = detect.build(network, len(names), records[0]["image"].shape[-1], "train")
    settings = built, registry.module_of(network.name).loss, config.loss_options, make_augment(config, seed)
    if config.sizes:
        found: DetectorLearner = MultiScaleLearner(
            *settings, batch_size=config.batch_size, seed=seed, sizes=config.sizes, size_steps=config.size_steps
        )
    else:
        found = DetectorLearner(*settings, batch_size=config.batch_size)
    found.compile(optimizer=make_optimizer(config, steps), jit_compile=True)
    found({name: value[None] for name, value in records[0].items()})
    found.optimizer.build(found.trainable_variables)
    return found


def start_of(network: keras.Model, job: Job, seed: int) -> tuple[Init, list[str], int]:
    """Give a fresh network the start its configuration names, as `repro.harness.detect.start_of`; "imagenet" is the
    authors' own backbone."""
    if job.config.init == "imagenet":
        return imagenet(network, job.config.network.name), [], 0
    return detect.start_of(network, job, seed)


def imagenet(network: keras.Model, name: str) -> Init:
    """Fill a detector's backbone from the authors' file, `darknet/<file>` of the data folder, downloaded where it is
    not there; without it the network stays as it is, and the note says so.

    Raises ReproError when the file does not fit: a network of another width or depth, or half a file."""
    if name not in BACKBONES:
        return Init(source="random", note=f"no ImageNet weights are known for {name}")
    archive, layers = BACKBONES[name]
    path = paths.data_dir() / "darknet" / archive.filename
    problem = _missing(archive, path)
    if problem:
        return Init(source="random", note=f"no ImageNet weights: {problem[:120]}")
    filled = read_weights(path, network, partial=True)
    if filled != layers:
        raise ReproError(f"{path} fills {filled} layers of {name}, its backbone has {layers}", "give the whole file")
    return Init(source="imagenet", sha256=sha256_of(path), note=f"{filled} layers of {archive.filename}")


def _missing(archive: Archive, path: Path) -> str:
    """Fetch a file unless it is there. Returns what stands in the way, "" for nothing.

    Raises NoDataError when a file put there by hand is not the published one."""
    present = path.exists()
    if not archive.checksum:
        return "" if present else f"{archive.url} has no known checksum, put it into darknet/ of the data folder"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_name(f".{path.name}.lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here and then finds the file
            fetch(archive, path)
    except (NoDataError, OSError) as error:
        if present:
            raise
        return " ".join(str(error).split())
    return ""
