"""A network as it is trained: with augmentation, its paper's loss and an optimizer, in one compiled step."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from repro.errors import ReproError
from repro.tasks.base import Training

GROWTH = 4  # the power of Darknet's burn-in


class Learner(keras.Model):
    """A classifier or segmenter with its augmentation and its paper's loss: what `fit` trains. Batches are dicts."""

    def __init__(self, network: keras.Model, loss: Callable[..., Any], loss_options: dict, augment: Any) -> None:
        super().__init__(name="learner")
        self.network, self._loss, self._loss_options, self._augment = network, loss, loss_options, augment
        # an attribute of the model, or Keras would neither save its state nor carry it through a JAX step
        self._augment_seed = augment.generator if augment else None

    def call(self, batch, training=False):
        """Outputs of the network, and the batch they must be compared with (augmented in training)."""
        if training and self._augment is not None:
            batch = self._augment(batch)
        outputs = self.network(ops.cast(batch["image"], "float32"), training=training)
        return {"outputs": outputs, "batch": batch}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of the paper's file."""
        return self._loss(y_pred["outputs"], y_pred["batch"], **self._loss_options)


class DetectorLearner(Learner):
    """A detector with its augmentation and its paper's loss. Its network takes a dict of inputs."""

    def __init__(self, *settings: Any, batch_size: int) -> None:
        super().__init__(*settings)
        self.batch_size, self.autocast = batch_size, False  # boxes in bfloat16 would be off by pixels

    def call(self, batch, training=False):
        """Outputs of the network, and the batch as it was augmented."""
        if training:  # Keras leaves the number of images open, which sampling and suppression need
            batch = {name: ops.reshape(values, (self.batch_size, *values.shape[1:])) for name, values in batch.items()}
        if training and self._augment is not None:
            batch = self._augment(batch)
        return {"outputs": self.network(network_inputs(self.network, batch), training=training), "batch": batch}


class MultiScaleLearner(DetectorLearner):
    """A detector that trains on images of changing size. Batches come on one canvas; `augment`, a `Jitter`, brings them
    to the size of the step. One program is compiled for each size."""

    train_function: Any  # Keras' attribute, which its code leaves untyped

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


def side_at(step: int, seed: int, sizes: Sequence[int], size_steps: int) -> int:
    """The side of the images in a step (from 0 on): drawn anew every `size_steps` steps (YOLO v2, Section 2,
    "Multi-Scale Training"), from the seed and the step alone, so that a run that is resumed draws the same."""
    return int(np.random.default_rng([seed, step // size_steps]).choice(sizes))


def network_inputs(network: keras.Model, batch: dict[str, Any]) -> dict[str, Any]:
    """What a network takes of a batch, images as float32."""
    taken = {tensor.name: batch[tensor.name] for tensor in network.inputs}
    return taken | {"image": ops.cast(batch["image"], "float32")}


def compiled(learner: Learner, settings: Training, steps: int, record: dict[str, np.ndarray]) -> Learner:
    """A learner ready to train for `steps` steps, built on one record."""
    learner.compile(optimizer=make_optimizer(settings, steps), jit_compile=settings.compile == "xla")
    learner({name: value[None] for name, value in record.items()})
    learner.optimizer.build(learner.trainable_variables)
    return learner


def state_variables(learner: Learner) -> list[Any]:
    """Everything that changes in training: weights, seed generators, the optimizer and its step count."""
    return [*learner.variables, *learner.optimizer.variables]


def adopt(learner: Learner, fresh: Learner) -> None:
    """Give a learner, whose step is compiled, the start of another."""
    for mine, new in zip(state_variables(learner), state_variables(fresh), strict=True):
        mine.assign(new.value)


class BurnIn(keras.optimizers.schedules.LearningRateSchedule):
    """A rate that grows with the fourth power of the step for `steps` steps (Darknet's get_current_rate, src/network.c;
    the first step is number 1), and is that of `after` from then on: a number, or a schedule, which has gone on all
    the while.

    >>> rate = BurnIn(0.1, peak=0.1, steps=2)
    >>> [round(float(rate(step)), 5) for step in range(3)]
    [0.00625, 0.1, 0.1]
    """

    def __init__(self, after: Any, peak: float, steps: int) -> None:
        super().__init__()
        self.after, self.peak, self.steps = after, peak, steps

    def __call__(self, step: Any) -> Any:
        number = ops.cast(step, "float32") + 1
        growing = self.peak * ops.minimum(number / self.steps, 1.0) ** GROWTH
        after = self.after(step) if callable(self.after) else self.after
        return ops.where(number < self.steps, growing, ops.cast(after, "float32"))

    def get_config(self) -> dict[str, Any]:
        """The arguments it was made with."""
        return {"after": self.after, "peak": self.peak, "steps": self.steps}


def make_schedule(settings: Training, steps: int) -> Any:
    """The learning rate over `steps` steps: a number or a schedule. Raises ReproError for a burn-in that cannot be."""
    if not 0 <= settings.burn_in < 1:
        raise ReproError(f"burn_in {settings.burn_in:g} is impossible", "give a share of the run, from 0 to below 1")
    schedules, peak = keras.optimizers.schedules, settings.learning_rate
    rate: Any = peak
    if settings.schedule == "step":
        ends = [max(1, round(steps * drop)) for drop in settings.drops]
        rate = schedules.PiecewiseConstantDecay(ends, [peak / 10**i for i in range(len(ends) + 1)])
    elif settings.schedule == "cosine":
        if settings.burn_in:
            raise ReproError("schedule cosine takes no burn_in", "use warmup with it")
        warmup = round(steps * settings.warmup)
        start, target = (0.0, peak) if warmup else (peak, None)
        rate = schedules.CosineDecay(start, max(1, steps - warmup), warmup_target=target, warmup_steps=warmup)
    grown = round(steps * settings.burn_in)
    return BurnIn(rate, peak, grown) if grown else rate


def make_optimizer(settings: Training, steps: int) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule over `steps` steps."""
    rate = make_schedule(settings, steps)
    if settings.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, weight_decay=settings.weight_decay, clipnorm=settings.clip_norm)
    return keras.optimizers.SGD(
        rate, momentum=settings.momentum, weight_decay=settings.weight_decay or None, clipnorm=settings.clip_norm
    )
