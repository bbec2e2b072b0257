"""Mask targets against a plain loop and pycocotools."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from repro.data.instance import MASK_SIDE
from repro.data.masks import crop_mask
from repro.ops.masks import mask_targets
from tests.reference.masks import loop_target


def numpy(x):
    return keras.ops.convert_to_numpy(x)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31))
def test_targets_equal_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    masks = rng.random((2, 3, 8, 8)).astype("float32")
    low = rng.uniform(0, 30, (2, 3, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 30, (2, 3, 2))], axis=-1).astype("float32")
    index = rng.integers(0, 3, (2, 4)).astype("int32")
    rois = np.take_along_axis(boxes, index[..., None], axis=1) + rng.uniform(-0.4, 0.4, (2, 4, 4)).astype("float32")
    found = numpy(mask_targets(masks, boxes, index, rois, 7))
    for b in range(2):
        for r in range(4):
            wanted = loop_target(
                masks[b, index[b, r]], boxes[b, index[b, r]].astype(float), rois[b, r].astype(float), 7
            )
            assert (found[b, r] != wanted).sum() <= 1  # a value within rounding of one half


def polygon_of(rng, size):
    angle = np.sort(rng.uniform(0, 2 * np.pi, 7))
    radius = rng.uniform(0.25, 0.45, 7) * size
    return np.stack([size / 2 + radius * np.cos(angle), size / 2 + radius * np.sin(angle)], axis=-1)


@pytest.mark.parametrize("seed", range(12))
def test_targets_are_what_pycocotools_draws_in_the_region(seed):
    """Detectron draws the polygon anew in each region; here its pixels are seen through it: but for the outline, the
    same."""
    rng, size = np.random.default_rng(seed), 160
    points = polygon_of(rng, size)
    rle = coco_mask.frPyObjects([points.ravel().tolist()], size, size)
    mask = coco_mask.decode(coco_mask.merge(rle)).astype(bool)
    box = np.concatenate([points.min(axis=0), points.max(axis=0)])
    roi = box + rng.uniform(-8, 8, 4)
    shifted = (points - roi[:2]) / (roi[2:] - roi[:2]) * 28
    wanted = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects([shifted.ravel().tolist()], 28, 28))).astype(bool)
    kept = np.rint(255 * crop_mask(mask, box, MASK_SIDE)).astype("uint8")
    found = numpy(
        mask_targets(kept[None, None], box[None, None].astype("float32"), np.zeros((1, 1), "int32"),
                     roi[None, None].astype("float32"), 28)
    )[0, 0] > 0  # fmt: skip
    assert (found & wanted).sum() / (found | wanted).sum() > 0.88
    grown = np.zeros((30, 30), bool)
    for dy in range(3):
        for dx in range(3):
            grown[dy : dy + 28, dx : dx + 28] |= wanted
    assert not (found & ~grown[1:-1, 1:-1]).any()  # nowhere more than a cell beside the outline


def test_a_mask_of_one_pixel_fills_its_region_and_no_box_gives_zeros():
    masks = np.zeros((1, 2, MASK_SIDE, MASK_SIDE), "uint8")
    masks[0, 0] = 255
    boxes = np.array([[[10, 10, 11, 11], [0, 0, 0, 0]]], "float32")
    rois = np.array([[[10, 10, 11, 11], [9, 10, 11, 11], [0, 0, 0, 0]]], "float32")
    found = numpy(mask_targets(masks, boxes, np.array([[0, 0, 1]], "int32"), rois, 4))[0]
    assert found[0].all()
    assert not found[1][:, :2].any()
    assert found[1][:, 2:].all()
    assert np.isfinite(found).all()
    assert not found[2].any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="masks have shape"):
        mask_targets(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 4)), np.zeros((1, 1), "int32"), np.zeros((1, 1, 4)), 7)
