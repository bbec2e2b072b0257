"""Max pooling with indices and unpooling against plain loops and TensorFlow, eager and compiled, with gradients."""

import numpy as np
import pytest
from keras import KerasTensor, ops
from keras.backend import standardize_dtype

from repro import backend
from repro.ops.unpool import MaxPoolWithIndices, MaxUnpool
from tests.parity.networks import values_and_gradients
from tests.reference.pooling import chosen, pooled

MODES = pytest.mark.parametrize("mode", ["eager", "xla"])
SHAPES = pytest.mark.parametrize(
    "shape", [(2, 6, 8, 3), (2, 5, 7, 3), (3, 4, 1, 2), (1, 5, 6, 1), (2, 1, 1, 2)], ids=str
)


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")


def example(shape, seed=0):
    """Whole numbers from -4 to 1: two of a window are often equal, and most are below the zeros of a padding."""
    return np.random.default_rng(seed).integers(-4, 2, shape).astype("float32")


def cosines(shape):
    """The gradient by an output that `values_and_gradients` sends back."""
    return np.cos(np.arange(np.prod(shape), dtype="float32")).reshape(shape)


@MODES
@SHAPES
def test_pooling_is_that_of_a_loop(shape, mode):
    x = example(shape)
    expected, expected_indices = pooled(x)
    (values, indices), (gradient,) = values_and_gradients(lambda x: [*MaxPoolWithIndices()(x)], [x], mode)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(indices, expected_indices)
    assert (values.dtype, indices.dtype) == ("float32", "int8")

    upstream, expected_gradient = cosines(values.shape), np.zeros(shape, "float32")
    for window, position in chosen(x):
        expected_gradient[position] += upstream[window]
    np.testing.assert_array_equal(gradient, expected_gradient)


@MODES
@SHAPES
def test_unpooling_is_that_of_a_loop(shape, mode):
    _, indices = pooled(example(shape))
    values = np.random.default_rng(1).normal(size=indices.shape).astype("float32")  # not the values that were pooled
    expected, upstream, expected_gradient = np.zeros(shape, "float32"), cosines(shape), np.zeros_like(values)
    for window in np.ndindex(*indices.shape):
        row, column = divmod(int(indices[window]), 2)
        position = (window[0], 2 * window[1] + row, 2 * window[2] + column, window[3])
        expected[position] = values[window]
        expected_gradient[window] = upstream[position]
    unpool = MaxUnpool(shape[1:3])
    (found,), (gradient,) = values_and_gradients(
        lambda v: [unpool([v, ops.convert_to_tensor(indices)])], [values], mode
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(gradient, expected_gradient)


@SHAPES
def test_what_is_pooled_returns_to_its_place(shape):
    x = np.random.default_rng(2).normal(size=shape).astype("float32")
    back = np.asarray(MaxUnpool(shape[1:3])(MaxPoolWithIndices()(x)))
    assert back.shape == shape
    assert ((back == x) | (back == 0)).all()
    assert np.count_nonzero(back) == np.prod([shape[0], -(-shape[1] // 2), -(-shape[2] // 2), shape[3]])


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (2, 5, 7, 3)], ids=str)
def test_pooling_is_tensorflows(shape):
    if backend.name() != "tensorflow":
        pytest.skip("max_pool_with_argmax is TensorFlow's")
    import tensorflow as tf

    x = tf.constant(example(shape, seed=3))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        values, flat = tf.nn.max_pool_with_argmax(x, 2, 2, "SAME")  # flat: (row * W + column) * C + channel
        ours, indices = MaxPoolWithIndices()(x)
        sums = [tf.reduce_sum(v * cosines(v.shape)) for v in (values, ours)]
    np.testing.assert_array_equal(ours, values)
    pixel = flat.numpy() // shape[3]
    rows, columns = np.divmod(pixel, shape[2])
    np.testing.assert_array_equal(indices, 2 * (rows % 2) + columns % 2)
    np.testing.assert_array_equal(tape.gradient(sums[1], x), tape.gradient(sums[0], x))


@MODES
def test_a_border_of_the_lowest_value_is_chosen_inside_the_image(mode):
    x = np.full((1, 3, 3, 1), -np.inf, "float32")
    (values, indices), (gradient,) = values_and_gradients(lambda x: [*MaxPoolWithIndices()(x)], [x], mode)
    assert (values == -np.inf).all()
    assert not indices.any()
    np.testing.assert_array_equal(gradient[0, ::2, ::2, 0].ravel(), cosines((4,)))
    assert np.count_nonzero(gradient) == 4


@pytest.mark.parametrize("precision", ["float32", "mixed_bfloat16"])
def test_symbolic_outputs_are_the_real_ones(precision):
    backend.set_precision(precision)
    pool, unpool = MaxPoolWithIndices(), MaxUnpool((5, 8))
    backend.set_precision("float32")
    real = pool(np.zeros((2, 5, 8, 3), "float32"))
    symbolic = pool(KerasTensor((None, 5, 8, 3), pool.compute_dtype))
    for a, b in zip([*real, unpool(real)], [*symbolic, unpool(symbolic)], strict=True):
        assert (tuple(a.shape[1:]), standardize_dtype(a.dtype)) == (b.shape[1:], b.dtype)
    assert symbolic[0].dtype == ("float32" if precision == "float32" else "bfloat16")


@pytest.mark.parametrize("size", [(4, 8), (7, 8), (5, 9), (5, 6)])
def test_unpooling_to_a_size_that_pools_otherwise_is_refused(size):
    values = np.zeros((1, 3, 4, 2), "float32")
    with pytest.raises(ValueError, match=f"3x4, not what {size[0]}x{size[1]}"):
        MaxUnpool(size)([values, values.astype("int8")])
