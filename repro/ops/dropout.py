"""Dropout that is cheap to draw."""

import math

import keras
from keras import ops


class HalfDropout(keras.layers.Dropout):
    """Dropout of rate 0.5 that reads one random bit for each unit, not one random number; [B,...] to [B,...].

    The same distribution as Dropout's. XLA draws random numbers so slowly on a CPU under TensorFlow (half a microsecond
    each, measured) that a narrow FCN, SegNet or U-Net would spend much of its train step on them. A rate of 0, set
    afterwards, switches it off."""

    BITS = 30  # a span of 2**30 is drawn without bias

    def __init__(self, **kwargs) -> None:
        super().__init__(0.5, **kwargs)

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        units = math.prod(inputs.shape[1:])
        words = (ops.shape(inputs)[0], -(-units // self.BITS), 1)
        drawn = keras.random.randint(words, 0, 2**self.BITS, seed=self.seed_generator)
        bits = ops.bitwise_and(ops.right_shift(drawn, ops.arange(self.BITS, dtype="int32")), 1)
        bits = ops.reshape(bits, (-1, words[1] * self.BITS))[:, :units]
        return ops.where(ops.equal(ops.reshape(bits, (-1, *inputs.shape[1:])), 1), 2 * inputs, 0)
