"""RoI max pooling and RoIAlign against plain loops and torchvision: values and gradients, eager and compiled, on both
backends."""

import keras
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import ops

from repro import backend
from repro.errors import ReproError
from repro.ops.roi import roi_align, roi_max_pool
from tests.parity.roi import CASES, EAGER_CASES, MODES, values_and_gradient
from tests.reference.roi import loop_align, loop_max_pool

# Cells of 16 px: 160 x 208 px. Not powers of two, and tables of running maxima of several levels.
SHAPE = (2, 10, 13, 3)


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")


def some_rois(scale):
    """RoIs [2,16,4] of every kind; `scale` in cells per pixel."""
    height, width = SHAPE[1] / scale, SHAPE[2] / scale
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 1, (2, 6, 2, 2)) * (width, height)
    rois = np.concatenate([corners.min(2), corners.max(2)], axis=-1)
    special = [
        (0, 0, width, height),  # the whole image
        (-0.4 * width, -0.7 * height, 0.5 * width, 0.3 * height),  # partly outside
        (0.6 * width, 0.5 * height, 1.6 * width, 2.5 * height),
        (2 * width, 3 * height, 3 * width, 4 * height),  # outside
        (-3 * width, -2 * height, -2 * width, -height),
        (-5 * width, -4 * height, 6 * width, 7 * height),  # far larger than the image
        (33.3, 20.2, 34.1, 21.9),  # within one cell
        (0.3 * width, 0.2 * height, 0.3 * width, 0.2 * height),  # no area
        (60.5, 70.5, 40.25, 30.75),  # corners exchanged
        (0, 0, 0, 0),  # padding
    ]
    return np.concatenate([rois, np.broadcast_to(special, (2, len(special), 4))], axis=1).astype("float32")


def arrays_of(case):
    """Features, RoIs and the gradient by the output; for ties, whole numbers from -1 to 1."""
    rng = np.random.default_rng(1)
    _, options = CASES[case]
    features = rng.normal(size=SHAPE) if case != "pool-ties" else rng.integers(-1, 2, SHAPE)
    rois = some_rois(options.get("spatial_scale", 1 / 16))
    upstream = rng.normal(size=(*rois.shape[:2], *options.get("size", (7, 7)), SHAPE[-1]))
    return features.astype("float32"), rois, upstream.astype("float32")


LOOPS = {"roi_max_pool": loop_max_pool, "roi_align": loop_align}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_is_that_of_a_loop(case, mode):
    op, options = CASES[case]
    arrays = arrays_of(case)
    values, gradient = values_and_gradient(op, options, *arrays, mode)
    expected, expected_gradient = LOOPS[op](*arrays, **options)
    assert (values.shape, values.dtype) == (expected.shape, "float32")
    assert np.count_nonzero(expected)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    if case == "pool-ties":  # the loop chooses others of equal maxima
        _, expected_gradient = values_and_gradient(op, options, *arrays, "eager")
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in backend.installed() if name != backend.default()])
def test_backends_agree_also_on_ties(computed, name):
    names = "features", "rois", "upstream"
    inputs = {f"{case}/{key}": x for case in CASES for key, x in zip(names, arrays_of(case), strict=True)}
    found = computed(name, "roi", inputs)
    for case, (op, options) in CASES.items():
        expected = values_and_gradient(op, options, *arrays_of(case), "eager")
        for mode in MODES if case in EAGER_CASES else MODES[1:]:
            for key, array in zip(("values", "gradient"), expected, strict=True):
                np.testing.assert_allclose(found[f"{case}/{mode}/{key}"], array, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", LOOPS)
def test_is_that_of_torchvision(op):
    torch, vision = pytest.importorskip("torch"), pytest.importorskip("torchvision.ops")
    case = {"roi_max_pool": "pool", "roi_align": "align"}[op]
    features, rois, upstream = arrays_of(case)
    theirs = torch.tensor(features).permute(0, 3, 1, 2).requires_grad_()
    inclusive = rois - np.float32([0, 0, 1, 1]) if case == "pool" else rois
    boxes = [torch.tensor(boxes) for boxes in inclusive]
    if case == "pool":
        pooled = vision.roi_pool(theirs, boxes, (7, 7), 1 / 16)
    else:
        pooled = vision.roi_align(theirs, boxes, (7, 7), 1 / 16, sampling_ratio=2, aligned=True)
    pooled = pooled.permute(0, 2, 3, 1).reshape(upstream.shape)
    pooled.backward(torch.tensor(upstream))
    values, gradient = values_and_gradient(*CASES[case], features, rois, upstream, "eager")
    np.testing.assert_allclose(values, pooled.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(gradient, theirs.grad.permute(0, 2, 3, 1).numpy(), rtol=1e-5, atol=1e-5)


def test_among_ties_one_position_takes_the_gradient():
    rng = np.random.default_rng(2)
    features = rng.integers(0, 2, (6, 8, 9, 5)).astype("float32")
    rois = np.float32([[16, 32, 128, 112]] * 6)[:, None]  # columns 1 to 7, rows 2 to 6
    ones = np.ones((6, 1, 1, 1, 5), "float32")
    _, gradient = values_and_gradient("roi_max_pool", {"size": (1, 1)}, features, rois, ones, "eager")
    inside = np.zeros_like(features)
    inside[:, 2:7, 1:8] = 1
    assert (features * inside).sum(axis=(1, 2)).min() > 1  # ties everywhere
    np.testing.assert_array_equal((gradient * inside * features).sum(axis=(1, 2)), 1)
    assert np.count_nonzero(gradient) == 6 * 5


coordinate = st.one_of(st.floats(-400, 600, width=32), st.sampled_from([-24.0, -8.0, 0.0, 8.0, 9.0, 24.0, 25.0, 41.0]))


@settings(max_examples=20)
@given(st.lists(st.tuples(*[coordinate] * 4), min_size=4, max_size=4))
def test_any_roi_is_pooled_as_by_a_loop(rois):
    features = np.random.default_rng(3).normal(size=(1, 7, 9, 2)).astype("float32")
    rois = np.float32([rois])
    zeros = np.zeros((1, 4, 3, 2, 2), "float32")
    expected, _ = loop_max_pool(features, rois, zeros, size=(3, 2))
    np.testing.assert_array_equal(roi_max_pool(features, rois, size=(3, 2)), expected)
    expected, _ = loop_align(features, rois, zeros, (3, 2), 1 / 16)
    found = ops.convert_to_numpy(roi_align(features, rois, (3, 2), 1 / 16))
    assert found.shape == expected.shape
    assert np.abs(found).max() <= np.abs(features).max() + 1e-5
    # where rounding decides whether a sample is inside, both answers are right
    assume(not any(on_a_border(*roi) for roi in rois[0].astype("float64") / 16 - 0.5))
    np.testing.assert_allclose(found, expected, atol=1e-4)


def on_a_border(x1, y1, x2, y2):
    """Whether a sample of a RoI in cells, of 3 x 2 bins, is at -1 or at the end of a map of 7 x 9."""
    for start, end, bins, cells in ((y1, y2, 3, 7), (x1, x2, 2, 9)):
        samples = start + (end - start) * (np.arange(2 * bins) + 0.5) / (2 * bins)
        if min(abs(samples + 1).min(), abs(samples - cells).min()) < 1e-3:
            return True
    return False


def ramp(width):
    """A row of cells [1,1,width,1] that hold their own column."""
    return np.arange(width, dtype="float32").reshape(1, 1, width, 1)


@pytest.mark.parametrize(
    ("x1", "x2", "bins", "expected"),
    [
        (8, 41, 3, [1, 2, 3]),  # 0.5 is rounded to 1, and 40 / 16 = 2.5 to 3: not to the even number
        (24, 25, 1, [2]),  # 1.5 to 2
        (-8, 9, 3, [0, 0, 1]),  # -0.5 to -1: the first bin is outside, and empty
        (0, 16, 2, [0, 1]),  # the last pixel, 15, is nearer to column 1: two cells
        (0, 8, 2, [0, 0]),  # bins overlap in a RoI of fewer cells
        (0, 56 * 16 + 1, 7, [8, 16, 24, 32, 40, 48, 57]),  # 57 cells: float32 takes one more, 57 instead of 56
        (16, 58 * 16 + 1, 7, [9, 17, 25, 34, 42, 50, 58]),  # 58 cells: it does not
    ],
)
def test_bins_are_those_of_the_released_layer(x1, x2, bins, expected):
    found = roi_max_pool(ramp(64), np.float32([[[x1, 0, x2, 1]]]), size=(1, bins))
    np.testing.assert_array_equal(ops.convert_to_numpy(found).ravel(), expected)


def test_aligned_samples_a_ramp_where_the_bins_are():
    features = (ramp(20) + 0.5) * 16  # every cell holds the pixel of its centre
    roi = np.float32([[[37.0, 0.0, 205.0, 16.0]]])
    centres = 37 + 168 * (np.arange(7) + 0.5) / 7
    found = ops.convert_to_numpy(roi_align(features, roi, (1, 7), 1 / 16)).ravel()
    np.testing.assert_allclose(found, centres, rtol=1e-6)
    published = ops.convert_to_numpy(roi_align(features, roi, (1, 7), 1 / 16, aligned=False)).ravel()
    np.testing.assert_allclose(published, centres + 8, rtol=1e-6)  # half a cell too far


@pytest.mark.parametrize("bad", [1e9, 1e30, np.inf, np.nan], ids=str)
def test_rois_of_a_diverged_network_stay_within_the_map(bad):
    features = np.random.default_rng(4).normal(size=SHAPE).astype("float32")
    rois = np.float32([[[bad, 0, bad, 50], [-bad, -bad, bad, bad], [0, bad, 10, -bad]]] * 2)
    for found in (roi_max_pool(features, rois), roi_align(features, rois, (7, 7), 1 / 16)):
        found = ops.convert_to_numpy(found)
        assert np.isfinite(found).all()
        assert np.abs(found).max() <= np.abs(features).max()


@pytest.mark.parametrize("shape", [(2, 1, 1, 3), (2, 1, 5, 3), (2, 2, 16, 3)], ids=str)
def test_small_maps(shape):
    features = np.random.default_rng(5).normal(size=shape).astype("float32")
    rois = some_rois(1 / 16)
    zeros = np.zeros((*rois.shape[:2], 2, 2, 3), "float32")
    expected, _ = loop_max_pool(features, rois, zeros, size=(2, 2))
    np.testing.assert_array_equal(roi_max_pool(features, rois, size=(2, 2)), expected)
    expected, _ = loop_align(features, rois, zeros, (2, 2), 1 / 16)
    np.testing.assert_allclose(roi_align(features, rois, (2, 2), 1 / 16), expected, atol=1e-5)


class Pool(keras.layers.Layer):
    """Both ops, as a detector's layer calls them."""

    def call(self, features, rois):
        return roi_max_pool(features, rois), roi_align(features, rois, (14, 14), 1 / 16)


def test_batch_of_unknown_size_and_half_precision():
    symbolic = Pool()(keras.KerasTensor((None, 10, 13, 3)), keras.KerasTensor((None, 16, 4)))
    assert [x.shape for x in symbolic] == [(None, 16, 7, 7, 3), (None, 16, 14, 14, 3)]
    features, rois, _ = arrays_of("pool")
    half = ops.cast(features, "bfloat16")
    whole = ops.cast(half, "float32")
    for op, options in CASES.values():
        op = {"roi_max_pool": roi_max_pool, "roi_align": roi_align}[op]
        found = op(half, rois, **options)
        assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
        expected = ops.cast(op(whole, rois, **options), "bfloat16")  # computed in float32
        np.testing.assert_array_equal(ops.cast(found, "float32"), ops.cast(expected, "float32"))


@pytest.mark.parametrize(
    ("features", "rois", "options", "message"),
    [
        ((10, 13, 3), (2, 5, 4), {}, r"features have shape \(10, 13, 3\)"),
        (SHAPE, (5, 4), {}, r"rois have shape \(5, 4\)"),
        (SHAPE, (2, 5, 5), {}, r"rois have shape \(2, 5, 5\)"),
        (SHAPE, (1, 5, 4), {}, "features are of 2 images, rois of 1"),
        (SHAPE, (2, 5, 4), {"size": (0, 7)}, r"size \(0, 7\)"),
        (SHAPE, (2, 5, 4), {"spatial_scale": 0}, "spatial scale 0 "),
    ],
)
def test_what_does_not_fit_is_refused(features, rois, options, message):
    for op in (roi_max_pool, roi_align):
        with pytest.raises(ValueError, match=message):
            op(
                np.zeros(features, "float32"),
                np.zeros(rois, "float32"),
                **{"size": (7, 7), "spatial_scale": 1} | options,
            )


def test_adaptive_sampling_is_refused():
    with pytest.raises(ReproError, match="sampling ratio 0"):
        roi_align(np.zeros(SHAPE, "float32"), np.zeros((2, 5, 4), "float32"), (7, 7), 1 / 16, sampling_ratio=0)
