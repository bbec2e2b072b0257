"""Warped regions against a plain bilinear loop: places, the colour outside the image, boxes without area."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.models.vgg import MEAN_RGB
from repro.proposals.warp import warp

HEIGHT, WIDTH = 24, 30
FILL = (200.0, 10.0, 90.0)


def picture(channels=3, seed=0):
    """Noise: a place that is wrong by a pixel shows everywhere."""
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, channels), dtype=np.uint8)


def bilinear(image, box, size, fill):
    """The loop, float [h,w,C], and how far the four pixels of each place are apart. The centre of output pixel (0, 0)
    lies half a pixel of its own inside the box, and pixel (0, 0) of the image reaches from 0 to 1."""
    height, width, channels = image.shape
    x1, y1, x2, y2 = box
    across, down = max(x2 - x1, 1) / size[1], max(y2 - y1, 1) / size[0]
    out, spread = np.zeros((*size, channels)), np.zeros((*size, channels))
    for row, column in np.ndindex(*size):
        x, y = x1 + (column + 0.5) * across - 0.5, y1 + (row + 0.5) * down - 0.5
        seen = []
        for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
            inside = 0 <= i < height and 0 <= j < width
            seen.append(image[i, j].astype(float) if inside else np.array(fill[:channels]))
            out[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * seen[-1]
        spread[row, column] = np.ptp(seen, axis=0)
    return out, spread


# places that are whole 32nds of a pixel, which every OpenCV computes without rounding them
@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((4, 3, 12, 11), (16, 16)),  # twice as large
        ((2, 1, 26, 21), (5, 6)),  # four times as small: four pixels each, no average
        ((1, 2, 29, 10), (8, 7)),  # narrower, as high
        ((3, 0, 11, 24), (8, 8)),  # as wide, lower
        ((4.25, 2.5, 12.25, 22.5), (10, 8)),
        ((-8, -6, 8, 10), (8, 8)),  # beyond the upper left corner
        ((20, 14, 44, 38), (12, 12)),  # beyond the lower right one
        ((-16, -20, 48, 44), (16, 16)),  # around the whole image
    ],
    ids=str,
)
@pytest.mark.parametrize("channels", [3, 1], ids=["rgb", "grey"])
def test_is_that_of_the_loop(box, size, channels):
    image = picture(channels)
    before, fill = image.copy(), FILL[:channels]
    found = warp(image, np.array(box, "float32"), size, fill)
    assert (found.dtype, found.shape) == (np.uint8, (*size, channels))
    assert np.abs(found - bilinear(image, box, size, fill)[0]).max() < 1
    np.testing.assert_array_equal(image, before)


edges = st.floats(-15, 45, width=32)


@given(edges, edges, edges, edges, st.integers(1, 12), st.integers(1, 12))
def test_any_box_is_that_of_the_loop(x1, y1, x2, y2, height, width):
    box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
    found = warp(picture(), np.array(box), (height, width), FILL)
    expected, spread = bilinear(picture(), box, (height, width), FILL)
    # some releases of OpenCV round places to a 32nd of a pixel in each direction
    assert (np.abs(found - expected) <= 1 + spread / 16).all()


@pytest.mark.parametrize("place", [(0, 0), (5, 9), (WIDTH - 8, HEIGHT - 6)])
def test_a_box_of_the_outputs_size_is_that_part_of_the_image(place):
    x, y = place
    found = warp(picture(), np.array([x, y, x + 8, y + 6], "float32"), (6, 8), FILL)
    np.testing.assert_array_equal(found, picture()[y : y + 6, x : x + 8])


def test_outside_the_image_is_the_mean_colour():
    image, mean = picture(), [124, 117, 104]  # rounded
    found = warp(image, np.array([-4, -3, 4, 5]), (8, 8), MEAN_RGB)
    np.testing.assert_array_equal(found[3:, 4:], image[:5, :4])
    np.testing.assert_array_equal(found[:3], np.broadcast_to(mean, (3, 8, 3)))
    np.testing.assert_array_equal(found[:, :4], np.broadcast_to(mean, (8, 4, 3)))
    for box in ((-60, 0, -40, 20), (40, 0, 60, 20), (0, -60, 20, -40), (0, 40, 20, 60)):
        np.testing.assert_array_equal(warp(image, np.array(box), (4, 5), MEAN_RGB), np.broadcast_to(mean, (4, 5, 3)))


@pytest.mark.parametrize(
    ("box", "as_wide"),
    [((7, 4, 7, 12), (7, 4, 8, 12)), ((7, 4, 15, 4), (7, 4, 15, 5)), ((7, 4, 3, 2), (7, 4, 8, 5))],
    ids=["no width", "no height", "inverted"],
)
def test_a_box_without_area_is_one_pixel_wide_or_high(box, as_wide):
    found = warp(picture(), np.array(box, "float32"), (8, 8), FILL)
    np.testing.assert_array_equal(found, warp(picture(), np.array(as_wide, "float32"), (8, 8), FILL))
    assert np.abs(found - bilinear(picture(), box, (8, 8), FILL)[0]).max() < 1
