"""A network as it is trained: with augmentation, its paper's loss and an optimizer, in one compiled step."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from repro import backend, registry
from repro.data.augment import Augment
from repro.harness.config import Network, Train


class Learner(keras.Model):
    """A network with its augmentation and its paper's loss: what `fit` trains. Batches are dicts of arrays."""

    def __init__(self, network: keras.Model, loss: Callable[..., Any], loss_options: dict, augment: Any) -> None:
        super().__init__(name="learner")
        self.network, self._loss, self._loss_options, self._augment = network, loss, loss_options, augment
        # an attribute of the model, or Keras would neither save its state nor carry it through a JAX step
        self._augment_seed = augment.generator if augment else None

    def call(self, batch, training=False):
        """Outputs of the network, and the batch they must be compared with (augmented in training)."""
        if training and self._augment is not None:
            batch = self._augment(batch)
        outputs = self.network(keras.ops.cast(batch["image"], "float32"), training=training)
        return {"outputs": outputs, "batch": batch}

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        """The loss of the paper's file."""
        return self._loss(y_pred["outputs"], y_pred["batch"], **self._loss_options)


def build_network(network: Network, num_classes: int, channels: int | None = None, heads: str = "infer") -> keras.Model:
    """The network of a configuration for a data set of so many classes and channels."""
    return registry.build(
        network.name,
        num_classes=network.num_classes or num_classes,
        input_size=network.input_size,
        channels=network.channels or channels,
        heads=heads,
        variant=network.variant,
        width=network.width,
        depth=network.depth,
        **network.options,
    )


@functools.lru_cache(maxsize=4)
def inference_of(network: keras.Model) -> keras.Model:
    """The part of a network that inference needs: without heads that only training has."""
    if set(network.output) == {"scores"}:
        return network
    return keras.Model(network.inputs[0], {"scores": network.output["scores"]}, name=network.name)


def make_optimizer(config: Train, total_steps: int) -> keras.optimizers.Optimizer:
    """The optimizer with its schedule over `total_steps`."""
    schedules, rate = keras.optimizers.schedules, config.learning_rate
    if config.schedule == "step":
        boundaries = [max(1, round(total_steps * drop)) for drop in config.drops]
        rate = schedules.PiecewiseConstantDecay(boundaries, [rate / 10**i for i in range(len(boundaries) + 1)])
    elif config.schedule == "cosine":
        warmup = round(total_steps * config.warmup)
        rate = schedules.CosineDecay(
            0.0 if warmup else rate,
            max(1, total_steps - warmup),
            warmup_target=rate if warmup else None,
            warmup_steps=warmup,
        )
    common = {"weight_decay": config.weight_decay or None, "clipnorm": config.clip_norm}
    if config.optimizer == "adamw":
        return keras.optimizers.AdamW(rate, **{**common, "weight_decay": config.weight_decay})
    return keras.optimizers.SGD(rate, momentum=config.momentum, **common)


def make_learner(config: Train, num_classes: int, seed: int, total_steps: int, channels: int | None = None) -> Learner:
    """A learner with fresh weights that are a function of the seed. Images larger than its network are cropped."""
    backend.set_seed(seed)
    entry = registry.architecture(config.network.name)
    network = build_network(config.network, num_classes, channels, heads="train")
    size = tuple(config.network.input_size or entry.input_size)
    kept = tuple(config.data.size or size)
    options = config.augment if kept == size else {"crop": size, **config.augment}
    augment = Augment(seed, **options) if options else None
    learner = Learner(network, registry.module_of(entry.name).loss, config.loss_options, augment)
    learner.compile(optimizer=make_optimizer(config, total_steps), jit_compile=True)
    blank = {"image": np.zeros((1, *size, network.input_shape[-1]), "uint8")}
    blank |= {"semantic": np.zeros((1, *size), "uint8")} if entry.task == "segmentation" else {}
    learner(blank)
    learner.optimizer.build(learner.trainable_variables)
    return learner
