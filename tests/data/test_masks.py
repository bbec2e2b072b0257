"""Masks relative to boxes and run lengths: plain loops, pycocotools, polygons, borders, there and back, bad input."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco_mask
from scipy import ndimage

from repro.data.masks import crop_mask, decode_rle, encode_rle, paste_mask, run_lengths
from repro.errors import ReproError
from tests.reference.masks import loop_crop, loop_grid_sample
from tests.support.messages import one_line

SEEDS = st.integers(0, 10**6)


def random_box(rng, height, width):
    """Anywhere near an image, from half a pixel to beyond its borders."""
    x, y = rng.uniform(-0.3, 0.9, 2) * (width, height)
    return [x, y, x + rng.uniform(0.5, 1.3 * width), y + rng.uniform(0.5, 1.3 * height)]


def random_polygon(rng, centre, radius, corners=9):
    """A star-shaped polygon [corners,2] as (x, y)."""
    angles = np.sort(rng.uniform(0, 2 * math.pi, corners)) + 0.1
    reach = radius * rng.uniform(0.6, 1, corners)
    return np.stack([centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)], axis=1)


def filled(polygon, height, width):
    """As COCO fills polygons."""
    return coco_mask.decode(coco_mask.frPyObjects([polygon.ravel().tolist()], height, width))[..., 0].astype(bool)


def outline(mask, reach=1):
    """Pixels within `reach` of the border between inside and outside; beyond the picture it is as at its edge."""
    padded = np.pad(mask, reach, mode="edge")
    near = ndimage.maximum_filter(padded, 2 * reach + 1) ^ ndimage.minimum_filter(padded, 2 * reach + 1)
    return near[reach:-reach, reach:-reach]


@given(SEEDS)
def test_crop_equals_loops(seed):
    rng = np.random.default_rng(seed)
    height, width, size = (int(n) for n in rng.integers(1, 9, 3))
    mask = rng.random((height, width)) < 0.6
    box = random_box(rng, height, width)
    found = crop_mask(mask, box, size)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, loop_crop(mask, box, size), atol=1e-6)
    assert found.max() <= 1


@given(SEEDS, st.sampled_from([0.05, 0.3, 0.5, 0.8]))
def test_paste_equals_grid_sample(seed, threshold):
    rng = np.random.default_rng(seed)
    shape, image_size = tuple(rng.integers(1, 6, 2)), tuple(int(n) for n in rng.integers(1, 14, 2))
    mask, box = rng.random(shape), random_box(rng, *image_size)
    found, values = paste_mask(mask, box, image_size, threshold), loop_grid_sample(mask, box, image_size)
    assert (found.dtype, found.shape) == (bool, image_size)
    clear = np.abs(values - threshold) > 1e-6
    np.testing.assert_array_equal(found[clear], (values >= threshold)[clear])


@given(SEEDS)
def test_crop_agrees_with_a_polygon_drawn_into_the_box(seed):
    """What Detectron2 does with polygons: move and scale them into the box, and fill them there."""
    rng = np.random.default_rng(seed)
    size, polygon = 28, random_polygon(rng, (70, 60), 50)
    box = np.array([20, 10, 120, 110]) + rng.uniform(-15, 15, 4)
    inside = (polygon - box[:2]) / (box[2:] - box[:2]) * size
    expected = filled(inside, size, size)
    found = crop_mask(filled(polygon, 120, 140), box, size)
    far = ~outline(expected) & ~outline(found >= 0.5)
    np.testing.assert_array_equal((found >= 0.5)[far], expected[far])
    assert np.abs(found - expected).mean() < 0.05
    assert far.mean() > 0.1


@given(SEEDS)
def test_paste_agrees_with_a_polygon_drawn_into_the_image(seed):
    rng = np.random.default_rng(seed)
    size, polygon = 28, random_polygon(rng, (14, 14), 13)
    box = np.array([20, 10, 120, 110]) + rng.uniform(-15, 15, 4)
    scale = (box[2:] - box[:2]) / size
    expected = filled(box[:2] + polygon * scale, 130, 140)
    found = paste_mask(filled(polygon, size, size), box, (130, 140))
    far = ~outline(expected, reach=math.ceil(1.5 * scale.max()))
    np.testing.assert_array_equal(found[far], expected[far])
    assert (found & expected).sum() / (found | expected).sum() > 0.8


def tight(mask):
    """The box around a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


@given(SEEDS)
def test_crop_then_paste_gives_big_masks_back(seed):
    rng = np.random.default_rng(seed)
    mask = filled(random_polygon(rng, rng.uniform(60, 140, 2), 100, corners=12), 200, 200)
    box = tight(mask)
    found = paste_mask(crop_mask(mask, box, 28), box, mask.shape)
    assert (found & mask).sum() / (found | mask).sum() > 0.9
    # at a cell a pixel nothing is lost
    box = [0, 0, 200, 200]
    np.testing.assert_array_equal(paste_mask(crop_mask(mask, box, 200), box, mask.shape), mask)


@pytest.mark.parametrize("box", [(0, 0, 30, 20), (5, 0, 11, 20), (-7, 3, 9, 26), (29, 19, 30, 20), (-10, -10, 40, 40)])
def test_full_masks_of_boxes_at_and_over_the_border(box):
    """A full box covers its pixels inside the image and no other, and of its cells what lies inside."""
    x1, y1, x2, y2 = box
    expected = np.zeros((20, 30), bool)
    expected[max(y1, 0) : y2, max(x1, 0) : x2] = True
    np.testing.assert_array_equal(paste_mask(np.ones((14, 14)), box, (20, 30)), expected)
    found = crop_mask(np.ones((20, 30), bool), box, 14)
    area = (x2 - x1) * (y2 - y1)
    assert found.mean() * area == pytest.approx(expected.sum(), rel=1e-5)


def test_one_pixel():
    mask = np.zeros((9, 7), bool)
    mask[4, 2] = True
    found = crop_mask(mask, (2, 4, 3, 5), 3)
    np.testing.assert_array_equal(found, np.ones((3, 3)))
    np.testing.assert_array_equal(paste_mask(found, (2, 4, 3, 5), (9, 7)), mask)
    # a box of four pixels, one of them covered
    np.testing.assert_array_equal(crop_mask(mask, (1, 3, 3, 5), 2), [[0, 0], [0, 1]])
    assert crop_mask(mask, (1, 3, 3, 5), 1) == 0.25
    # its neighbours, whose centres are a whole cell away, see nothing of the only cell
    np.testing.assert_array_equal(paste_mask(np.ones((1, 1)), (2, 4, 3, 5), (9, 7)), mask)


def test_boxes_without_area_and_beyond_the_image_are_empty():
    mask = np.ones((6, 8), bool)
    for box in ((2, 2, 2, 5), (2, 2, 5, 2), (5, 5, 2, 2), (2, 2, 2 + 1e-9, 5), (20, 2, 25, 5), (-9, -9, -2, -2)):
        assert not crop_mask(mask, box, 4).any()
        assert not paste_mask(np.ones((4, 4)), box, (6, 8)).any()
    assert paste_mask(np.ones((4, 4)), (-1e30, -1e30, 1e30, 1e30), (6, 8)).all()
    assert not paste_mask(np.zeros((4, 4)), (0, 0, 8, 6), (6, 8)).any()
    assert paste_mask(np.full((4, 4), 0.5, np.float32), (1.1, 0.7, 7.3, 5.9), (6, 8))[1:5, 2:7].all()


@given(SEEDS)
def test_run_lengths_there_and_back(seed):
    rng = np.random.default_rng(seed)
    mask = rng.random(rng.integers(1, 60, 2)) < rng.choice([0, 0.02, 0.5, 0.98, 1])
    rle = json.loads(json.dumps(encode_rle(mask)))
    assert rle["size"] == list(mask.shape)
    assert rle["counts"] == coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    found = decode_rle(rle)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)
    runs = run_lengths(rle)
    np.testing.assert_array_equal(np.repeat(np.arange(len(runs)) % 2, runs).reshape(mask.shape[::-1]).T, mask)


@pytest.mark.parametrize("runs", [[480000], [0, 480000], [1, 300000, 100000, 79999], [5, 9, 479986 - 7, 7]])
def test_long_runs(runs):
    """Runs of several digits, and differences to the last but one that are negative."""
    compressed = coco_mask.frPyObjects({"size": [600, 800], "counts": runs}, 600, 800)
    rle = {"size": [600, 800], "counts": compressed["counts"].decode()}
    assert run_lengths(rle).tolist() == runs
    np.testing.assert_array_equal(decode_rle(rle), coco_mask.decode(compressed))


GOOD = encode_rle(np.eye(4, 5))


@pytest.mark.parametrize(
    ("rle", "part"),
    [
        (GOOD | {"size": [4, 6]}, "20 pixels in all, its image is 4x6"),
        (GOOD | {"size": [5, 3]}, "20 pixels in all, its image is 5x3"),
        (GOOD | {"counts": GOOD["counts"] + "1"}, "pixels in all"),
        (GOOD | {"counts": GOOD["counts"] + "o"}, "no compressed run lengths"),
        (GOOD | {"counts": ""}, "no compressed run lengths"),
        (GOOD | {"counts": "0 41"}, "no compressed run lengths"),
        (GOOD | {"counts": "é"}, "no compressed run lengths"),
        (GOOD | {"counts": "p" * 4}, "no compressed run lengths"),
        (GOOD | {"counts": "o" * 9 + "0"}, "no compressed run lengths"),
        (GOOD | {"counts": "M9"}, "pixels in all"),  # -3 and 9
        (GOOD | {"counts": [0, 20]}, "counts [0, 20]"),
        ({"size": [4, 5]}, "counts None"),
        ({"counts": "0d0"}, "size None"),
        (GOOD | {"size": [4]}, "size [4]"),
        (GOOD | {"size": [4.0, 5.0]}, "size [4.0, 5.0]"),
        (GOOD | {"size": [0, 5]}, "size [0, 5]"),
        (GOOD | {"size": [2**20, 2**20]}, "size [1048576, 1048576]"),
        ([[1, 2, 3, 4, 5, 6]], "size None"),
        (None, "size None"),
    ],
)
def test_bad_run_lengths_are_refused(rle, part):
    with pytest.raises(ReproError) as error:
        decode_rle(rle)
    one_line(error, "RLE", part)


@given(st.text(alphabet=[chr(code) for code in range(48, 112)], max_size=12))
def test_any_counts_are_decoded_or_refused(counts):
    """Never handed to pycocotools unless they fill the image."""
    try:
        mask = decode_rle({"size": [6, 5], "counts": counts})
    except ReproError:
        return
    assert decode_rle(encode_rle(mask)).tolist() == mask.tolist()


@pytest.mark.parametrize(
    ("call", "part"),
    [
        (lambda: crop_mask(np.ones(4, bool), (0, 0, 1, 1), 2), "shape (4,)"),
        (lambda: crop_mask(np.ones((4, 4), bool), (0, 0, 1, 1), 0), "0 cells"),
        (lambda: crop_mask(np.ones((4, 4), bool), (0, 0, 1), 2), "box is [0.0, 0.0, 1.0]"),
        (lambda: crop_mask(np.ones((4, 4), bool), (0, 0, math.nan, 1), 2), "nan"),
        (lambda: paste_mask(np.ones((1, 4, 4)), (0, 0, 1, 1), (4, 4)), "shape (1, 4, 4)"),
        (lambda: paste_mask(np.ones((4, 0)), (0, 0, 1, 1), (4, 4)), "shape (4, 0)"),
        (lambda: paste_mask(np.ones((4, 4)), (0, 0, math.inf, 1), (4, 4)), "inf"),
        (lambda: paste_mask(np.ones((4, 4)), (0, 0, 1, 1), (4, 4), threshold=0), "threshold is 0"),
        (lambda: encode_rle(np.ones((2, 2, 2))), "shape (2, 2, 2)"),
        (lambda: encode_rle(np.ones((0, 2))), "shape (0, 2)"),
    ],
)
def test_bad_input_is_refused(call, part):
    with pytest.raises(ReproError) as error:
        call()
    one_line(error, part)
