"""Smooth L1 and the loss of box regression against plain loops, Keras' Huber loss and the derivative on paper."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.facts import paper_value
from repro.ops.box_losses import box_loss, smooth_l1
from tests.parity.networks import values_and_gradients
from tests.reference.box_losses import loop_box_loss, loop_smooth_l1

MODES = pytest.mark.parametrize("mode", ["eager", "xla"])
SIGMAS = pytest.mark.parametrize("sigma", [1.0, 3.0])
SIGMA = st.sampled_from([0.5, 1.0, 3.0])
HUGE = np.array([-3e38, -1e20, 1e20, 3e38], "float32")


def slope(difference, sigma):
    return np.clip(sigma**2 * np.asarray(difference, "float64"), -1, 1)


def slope_of(function, arrays, mode="eager"):
    """Derivatives of each number an elementwise function returns by its own argument."""
    gradients = values_and_gradients(lambda *inputs: [function(*inputs)], arrays, mode)[1][0]
    return gradients / np.cos(np.arange(gradients.size, dtype="float32")).reshape(gradients.shape)


@pytest.fixture
def boxes():
    """deltas, targets [2,5,4], positive and sampled [2,5]: all positives are sampled, and some others."""
    rng = np.random.default_rng(0)
    sampled = np.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]], bool)
    positive = np.array([[1, 1, 0, 0, 0], [1, 0, 0, 0, 0]], bool)
    return *rng.normal(0, 0.6, (2, 2, 5, 4)).astype("float32"), positive, sampled


@SIGMAS
def test_smooth_l1_is_that_of_the_loop(sigma):
    difference = np.linspace(-2, 2, 201).astype("float32")
    found = smooth_l1(difference, sigma)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, [loop_smooth_l1(d, sigma) for d in difference], rtol=1e-6)
    np.testing.assert_array_equal(smooth_l1(np.array([-2, 0, 1]), sigma), smooth_l1(np.array([-2.0, 0, 1]), sigma))


@SIGMAS
def test_smooth_l1_is_a_huber_loss(sigma):
    rng = np.random.default_rng(0)
    difference = rng.normal(0, 1 / sigma**2, (7, 6)).astype("float32")
    huber = keras.losses.huber(np.zeros_like(difference), difference, delta=1 / sigma**2)
    np.testing.assert_allclose(np.mean(smooth_l1(difference, sigma), axis=-1), sigma**2 * huber, rtol=1e-5)


def test_the_released_rpn_has_its_knee_at_a_ninth():
    sigma = paper_value("faster_rcnn", "faster_rcnn.released.rpn_loss").value["sigma"]
    below, above = (np.array([1 / 9 + step, 1 / 9 + 2 * step, 1 / 9 + 3 * step], "float32") for step in (-1e-2, 1e-2))
    bends = [np.diff(np.asarray(smooth_l1(part, sigma), "float64"), 2)[0] for part in (below, above)]
    assert bends[0] == pytest.approx(9 * 1e-4, rel=1e-2)
    assert abs(bends[1]) < 1e-7


@given(SIGMA, st.floats(1e-4, 0.05))
def test_smooth_l1_and_its_slope_have_no_jump_at_the_knee(sigma, step):
    knee = 1 / sigma**2
    around = np.array([knee - step * knee, knee, knee + step * knee], "float32")
    values = np.asarray(smooth_l1(around, sigma), "float64")
    assert values[1] == pytest.approx(0.5 * knee, rel=1e-6)
    assert np.abs(np.diff(values)).max() <= 1.001 * step * knee + 1e-6
    slopes = slope_of(lambda d: smooth_l1(d, sigma), [around])
    np.testing.assert_allclose(slopes, [1 - step, 1, 1], rtol=1e-5)


@given(SIGMA, st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=8))
def test_smooth_l1_is_even_and_below_the_distance(sigma, numbers):
    difference = np.array(numbers, "float32")
    found = np.asarray(smooth_l1(difference, sigma))
    np.testing.assert_array_equal(found, smooth_l1(-difference, sigma))
    assert (found >= 0).all()
    assert (found <= np.abs(difference) + 1e-6).all()


@MODES
@SIGMAS
def test_slope_is_the_derivative(sigma, mode):
    difference = np.concatenate([[0.0, 1 / sigma**2, -1 / sigma**2], np.linspace(-2, 2, 50)]).astype("float32")
    found = slope_of(lambda d: smooth_l1(d, sigma), [difference], mode)
    np.testing.assert_allclose(found, slope(difference, sigma), atol=1e-5)


@MODES
@SIGMAS
def test_huge_differences_do_not_overflow(sigma, mode):
    """Their squares are infinite, and infinity times 0 would make the gradient of everything NaN."""
    values, gradients = values_and_gradients(lambda d: [smooth_l1(d, sigma)], [HUGE], mode)
    np.testing.assert_allclose(values[0], np.abs(HUGE))
    np.testing.assert_allclose(gradients[0], np.sign(HUGE) * np.cos(np.arange(4)), rtol=1e-6)


@MODES
@SIGMAS
def test_box_loss_and_its_gradient_are_those_of_the_loop(boxes, sigma, mode):
    deltas, targets, positive, sampled = boxes
    (value,), (gradient,) = values_and_gradients(
        lambda d: [box_loss(d, targets, positive, sampled, sigma)], [deltas], mode
    )
    assert value.shape == ()
    assert value == pytest.approx(loop_box_loss(deltas, targets, positive, sampled, sigma), rel=1e-5)
    expected = np.where(positive[..., None], slope(deltas - targets, sigma), 0) / sampled.sum()
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.count_nonzero(expected) == 4 * positive.sum()


@MODES
def test_targets_of_what_is_not_positive_may_be_anything(boxes, mode):
    deltas, targets, positive, sampled = boxes

    def run(deltas, targets):
        return values_and_gradients(lambda d: [box_loss(d, targets, positive, sampled)], [deltas], mode)

    (expected,), (expected_gradient,) = run(deltas, targets)
    for nonsense in (np.nan, np.inf, 3e38):
        (value,), (gradient,) = run(
            np.where(positive[..., None], deltas, np.float32(1e30)),
            np.where(positive[..., None], targets, np.float32(nonsense)),
        )
        assert value == expected
        np.testing.assert_array_equal(gradient, expected_gradient)


@pytest.mark.parametrize("sampled", [True, False])
def test_without_positives_it_is_zero(boxes, sampled):
    deltas, targets, positive, _ = boxes
    none = np.zeros_like(positive)
    (value,), (gradient,) = values_and_gradients(
        lambda d: [box_loss(d, targets, none, np.full_like(none, sampled))], [deltas]
    )
    assert value == 0
    assert not gradient.any()


def test_targets_get_no_gradient(boxes):
    deltas, targets, positive, sampled = boxes
    (_,), (gradient,) = values_and_gradients(lambda x: [box_loss(x, x + targets, positive, sampled)], [deltas])
    expected = np.where(positive[..., None], slope(-targets, 1.0), 0) / sampled.sum()
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.abs(expected).max() > 0.1


@given(st.integers(0, 10**6), SIGMA)
def test_other_batches_are_those_of_the_loop(seed, sigma):
    rng = np.random.default_rng(seed)
    deltas, targets = rng.normal(0, rng.uniform(0.05, 3), (2, 3, 6, 4)).astype("float32")
    sampled = rng.random((3, 6)) < 0.7
    sampled[0, 0] = True
    positive = sampled & (rng.random((3, 6)) < 0.5)
    found = float(box_loss(deltas, targets, positive, sampled, sigma))
    assert found == pytest.approx(loop_box_loss(deltas, targets, positive, sampled, sigma), rel=1e-5)
