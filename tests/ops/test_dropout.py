"""Dropout of one random bit a unit: what it keeps, how often, and that no two units share their fate."""

import keras
import numpy as np
import pytest

from repro import backend
from repro.ops.dropout import HalfDropout
from tests.parity.networks import values_and_gradients

MODES = pytest.mark.parametrize("mode", ["eager", "xla"])


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")


@MODES
def test_units_and_gradients_are_doubled_or_dropped(mode):
    x = np.random.default_rng(0).normal(size=(3, 5, 7, 2)).astype("float32")
    layer = HalfDropout(seed=1)
    (values,), (gradient,) = values_and_gradients(lambda x: [layer(x, training=True)], [x], mode)
    kept = values != 0
    assert 0.3 < kept.mean() < 0.7
    np.testing.assert_array_equal(values, np.where(kept, 2 * x, 0))
    upstream = np.cos(np.arange(x.size, dtype="float32")).reshape(x.shape)
    np.testing.assert_array_equal(gradient, np.where(kept, 2 * upstream, 0))


def test_units_are_dropped_half_of_the_time_and_independently():
    """95 units are more than three words of bits. Each line allows five standard deviations."""
    count, units = 4000, 95
    layer = HalfDropout(seed=2)
    kept = np.asarray(layer(np.ones((count, units), "float32"), training=True)) > 0
    assert np.abs(kept.mean(axis=0) - 0.5).max() < 5 * 0.5 / np.sqrt(count)
    signs = 2.0 * kept - 1
    together = signs.T @ signs / count
    assert np.abs(together - np.eye(units)).max() < 5 / np.sqrt(count)
    assert abs((signs[1:] * signs[:-1]).mean()) < 5 / np.sqrt(count * units)
    again = np.asarray(layer(np.ones((count, units), "float32"), training=True)) > 0
    assert abs((kept == again).mean() - 0.5) < 5 * 0.5 / np.sqrt(count * units)


def test_evaluation_and_a_rate_of_0_change_nothing_and_a_seed_repeats():
    x = np.random.default_rng(0).normal(size=(2, 40)).astype("float32")
    first, second = (HalfDropout(seed=3) for _ in range(2))
    np.testing.assert_array_equal(first(x), x)
    np.testing.assert_array_equal(first(x, training=True), second(x, training=True))
    first.rate = 0
    np.testing.assert_array_equal(first(x, training=True), x)


def test_precision_stays():
    layer = HalfDropout(seed=4, dtype="mixed_bfloat16")
    assert keras.backend.standardize_dtype(layer(np.ones((2, 9), "float32"), training=True).dtype) == "bfloat16"
