"""Anchors against the released code's own table, plain loops and the counts of the paper."""

import numpy as np
import pytest

from repro.errors import ReproError
from repro.ops.anchors import base_anchors, grid_anchors, inside_image

# comment block of lib/rpn/generate_anchors.py: MATLAB's, counted from 1, both corners inside
TABLE = [
    [-83, -39, 100, 56], [-175, -87, 192, 104], [-359, -183, 376, 200],
    [-55, -55, 72, 72], [-119, -119, 136, 136], [-247, -247, 264, 264],
    [-35, -79, 52, 96], [-79, -167, 96, 184], [-167, -343, 184, 360],
]  # fmt: skip


def released(scales, ratios, base):
    """lib/rpn/generate_anchors.py by its arithmetic: inclusive corners of a window (0, 0, base-1, base-1), turned
    into each ratio, then scaled about its centre."""
    anchors = []
    for ratio in ratios:
        middle = 0.5 * (base - 1)
        width = np.round(np.sqrt(base * base / ratio))
        height = np.round(width * ratio)
        for scale in scales:
            across, down = 0.5 * (width * scale - 1), 0.5 * (height * scale - 1)
            anchors.append([middle - across, middle - down, middle + across, middle + down])
    return np.array(anchors)


def half_open(inclusive):
    return inclusive + np.array([0, 0, 1, 1])


def test_the_nine_anchors_are_those_of_the_table():
    anchors = base_anchors()
    assert anchors.dtype == "float32"
    np.testing.assert_array_equal(anchors, np.array(TABLE) - [1, 1, 0, 0])
    np.testing.assert_array_equal(anchors, half_open(released((8, 16, 32), (0.5, 1, 2), 16)))


@pytest.mark.parametrize(
    ("scales", "ratios", "base"),
    [((4, 8, 16, 32), (0.5, 1, 2), 16), ((1, 2.5), (0.3, 1.7), 10), ((8,), (1,), 4), ((2, 3), (0.5, 2, 3), 7)],
)
def test_other_anchors_are_those_of_the_released_arithmetic(scales, ratios, base):
    anchors = base_anchors(scales, ratios, base)
    np.testing.assert_allclose(anchors, half_open(released(scales, ratios, base)), rtol=1e-6)
    assert len(anchors) == len(scales) * len(ratios)


def test_anchors_have_about_the_areas_and_ratios_they_are_named_by():
    sides = base_anchors()[:, 2:] - base_anchors()[:, :2]
    for (width, height), ratio, area in zip(
        sides, np.repeat([0.5, 1, 2], 3), np.tile([128**2, 256**2, 512**2], 3), strict=True
    ):
        assert height / width == pytest.approx(ratio, rel=0.05)
        assert width * height == pytest.approx(area, rel=0.08)


def test_the_grid_is_that_of_the_loop_and_of_a_reshaped_head_output():
    base, (height, width), stride = base_anchors((1, 2), (0.5, 1, 2), 8), (3, 5), 4
    anchors = grid_anchors(base, (height, width), stride)
    assert (anchors.shape, anchors.dtype) == ((height * width * len(base), 4), "float32")
    head = np.zeros((1, height, width, len(base) * 4), "float32")
    for row, column, k in np.ndindex(height, width, len(base)):
        x, y = column * stride, row * stride
        head[0, row, column, 4 * k : 4 * k + 4] = base[k] + [x, y, x, y]
    np.testing.assert_array_equal(anchors, head.reshape(-1, 4))


@pytest.mark.parametrize(
    ("size", "grid", "number", "inside"),
    # Faster R-CNN, Section 3.3: "roughly 20000 (60 x 40 x 9) anchors", of which about 6000 stay
    [((600, 1000), (38, 63), 21546, 8151), ((600, 800), (38, 50), 17100, 5944)],
    ids=["600x1000", "600x800"],
)
def test_how_many_anchors_there_are_and_stay(size, grid, number, inside):
    base = base_anchors()
    anchors = grid_anchors(base, grid, 16)
    assert len(anchors) == number
    expected = 0
    for x1, y1, x2, y2 in base:
        columns = sum(x1 + 16 * column >= 0 and x2 + 16 * column <= size[1] for column in range(grid[1]))
        expected += columns * sum(y1 + 16 * row >= 0 and y2 + 16 * row <= size[0] for row in range(grid[0]))
    assert int(np.sum(inside_image(anchors, np.array([size])))) == expected == inside


def test_inside_is_as_in_the_loop_and_in_the_released_code():
    rng = np.random.default_rng(0)
    low = rng.integers(-3, 20, (300, 2))
    anchors = np.concatenate([low, low + rng.integers(1, 12, low.shape)], axis=1).astype("float32")
    size = np.array([[20, 26], [14, 9], [1, 1]])
    for border in (0, 3):
        found = np.asarray(inside_image(anchors, size, border))
        assert found.dtype == bool
        for b, n in np.ndindex(3, 300):
            x1, y1, x2, y2 = anchors[n] - [0, 0, 1, 1]  # inclusive
            height, width = size[b]
            expected = x1 >= -border and y1 >= -border and x2 < width + border and y2 < height + border
            assert found[b, n] == expected, (border, size[b], anchors[n])
        assert 0 < found[0].sum() < 300
        np.testing.assert_array_equal(inside_image(np.stack([anchors] * 3), size, border), found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(scales=()), "above 0"),
        (dict(scales=(8, 0)), "above 0"),
        (dict(ratios=(1, -2)), "above 0"),
        (dict(base=0), "above 0"),
        (dict(ratios=(0.01,), base=2), "have no area"),
    ],
)
def test_impossible_anchors_are_refused(options, message):
    with pytest.raises(ReproError, match=message):
        base_anchors(**options)


@pytest.mark.parametrize(("grid", "stride"), [((0, 5), 16), ((5, 0), 16), ((5, 5), 0)])
def test_impossible_grids_are_refused(grid, stride):
    with pytest.raises(ReproError, match="sizes of 1 and more"):
        grid_anchors(base_anchors(), grid, stride)
