"""Upsampling and patches as layers of Keras have them: values and gradients."""

import keras
import numpy as np
import pytest

from repro import backend
from repro.ops.image import PatchConv2D, Upscore
from tests.parity.networks import (
    layer_call,
    values_and_gradients,
)


@pytest.fixture(autouse=True)
def precision():
    """Full float32, on accelerators too; what it yields sets another precision for one test."""
    backend.set_precision("float32")
    yield backend.set_precision
    backend.set_precision("float32")


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, "float64") - np.asarray(b))) / np.max(np.abs(b))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("factor", [2, 8, 16])
@pytest.mark.parametrize("use_bias", [False, True])
def test_upscore_is_conv2d_transpose(factor, padding, use_bias):
    settings = dict(strides=factor, padding=padding, use_bias=use_bias, name="upscore")
    assert_same_layer(
        Upscore(3, 2 * factor, **settings), keras.layers.Conv2DTranspose(3, 2 * factor, **settings), (2, 3, 5, 4)
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_patch_conv2d_is_conv2d(size, padding):
    settings = dict(padding=padding, activation="relu", name="patches")
    assert_same_layer(PatchConv2D(3, size, **settings), keras.layers.Conv2D(3, size, **settings), (2, 7, 9, 4))


def assert_same_layer(ours, reference, shape):
    """Equal variables, outputs, and gradients by the input and every variable."""
    function, arrays = layer_call(ours, shape)
    expected_function, expected_arrays = layer_call(reference, shape)
    assert [a.shape for a in arrays] == [a.shape for a in expected_arrays]
    assert ours.compute_output_shape(shape) == reference.compute_output_shape(shape)
    values, gradients = values_and_gradients(function, arrays)
    expected_values, expected_gradients = values_and_gradients(expected_function, expected_arrays)
    for found, expected in zip([*values, *gradients], [*expected_values, *expected_gradients], strict=True):
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-5
