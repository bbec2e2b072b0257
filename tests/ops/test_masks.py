"""Mask targets against a plain loop and pycocotools; regions of a pyramid against one level at a time."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from repro.data.base import Sample
from repro.data.instance import MASK_SIDE, MirrorInstances, fit_instances
from repro.data.masks import crop_mask
from repro.errors import ReproError
from repro.models.fpn import PyramidPool, levels_of
from repro.ops.masks import mask_targets
from repro.ops.roi import roi_align


def numpy(x):
    return keras.ops.convert_to_numpy(x)


def looped(mask, box, roi, size):
    """One target by the definition: bilinear between cell centres, clamped within the box, 0 outside."""
    side, target = len(mask), np.zeros((size, size), np.float32)
    for i in range(size):
        for j in range(size):
            y = roi[1] + (roi[3] - roi[1]) * (i + 0.5) / size
            x = roi[0] + (roi[2] - roi[0]) * (j + 0.5) / size
            v = (y - box[1]) / (box[3] - box[1]) * side - 0.5
            u = (x - box[0]) / (box[2] - box[0]) * side - 0.5
            if min(u, v) < -0.5 or max(u, v) > side - 0.5:
                continue
            u, v = np.clip([u, v], 0, side - 1)
            r, c = min(int(v), side - 2), min(int(u), side - 2)
            a, b = v - r, u - c
            value = (1 - a) * ((1 - b) * mask[r, c] + b * mask[r, c + 1])
            value += a * ((1 - b) * mask[r + 1, c] + b * mask[r + 1, c + 1])
            target[i, j] = value >= 0.5 - 1e-3
    return target


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
            wanted = looped(masks[b, index[b, r]], boxes[b, index[b, r]].astype(float), rois[b, r].astype(float), 7)
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


def test_regions_go_to_the_level_of_their_size():
    sides = np.array([10, 111.9, 112, 223.9, 224, 447, 448, 5000], "float32")
    rois = np.stack([np.zeros(8), np.zeros(8), sides, sides], axis=-1)[None].astype("float32")
    assert numpy(levels_of(rois, 224.0, 4)).tolist() == [[0, 0, 1, 1, 2, 2, 3, 3]]
    wanted = np.clip(np.floor(4 + np.log2(sides / 224 + 1e-6)), 2, 5) - 2  # Equation 1, as Detectron has it
    assert numpy(levels_of(rois, 224.0, 4))[0].tolist() == wanted.tolist()


def test_a_pyramid_is_pooled_from_one_level_each():
    rng = np.random.default_rng(0)
    levels = [rng.normal(size=(1, 64 >> k, 64 >> k, 3)).astype("float32") for k in range(4)]
    rois = np.array([[[3, 4, 40, 60], [0, 0, 200, 180], [5, 5, 250, 250]]], "float32")
    found = numpy(PyramidPool((7, 7), 112.0)(levels, rois))
    for number, level in enumerate((0, 2, 3)):
        wanted = numpy(roi_align(levels[level], rois[:, number : number + 1], (7, 7), 1 / (4 << level)))
        np.testing.assert_allclose(found[:, number], wanted[:, 0], atol=1e-6)


def sample(**changes):
    masks = np.zeros((2, 20, 30), bool)
    masks[0, 5:10, 10:20] = True
    masks[1, 0:8, 0:4] = True
    masks[1, 2, 2] = False
    fields = dict(
        boxes=np.array([[10, 5, 20, 10], [0, 0, 4, 8]], np.float32), classes=np.array([1, 0], np.int32), masks=masks
    )
    return Sample("one", np.zeros((20, 30, 3), np.uint8), **fields | changes)


def test_masks_travel_relative_to_their_boxes():
    record = fit_instances(sample(), (40, 60), 4)
    assert record["masks"].shape == (4, MASK_SIDE, MASK_SIDE)
    assert (record["masks"][0] == 255).all()
    assert record["boxes"][0].tolist() == [20, 10, 40, 20]
    share = record["masks"][1] / 255
    assert share.mean() == pytest.approx(31 / 32, abs=1e-3)
    assert not share[14:21, 28:42].any()  # pixel (2, 2) of 8 x 4
    assert not record["masks"][2:].any()


def test_crowds_are_left_out_with_their_masks():
    record = fit_instances(sample(crowd=np.array([True, False])), (40, 60), 4)
    assert record["classes"].tolist() == [0, -1, -1, -1]
    assert 0 < record["masks"][0].mean() < 255


def test_data_without_masks_are_refused():
    with pytest.raises(ReproError, match="has no masks"):
        fit_instances(sample(masks=None), (40, 60), 4)


def test_a_mirrored_image_has_its_masks_mirrored_and_another_has_not():
    keras.utils.set_random_seed(0)
    record = fit_instances(sample(), (40, 60), 4)
    batch = {name: np.stack([value] * 16) for name, value in record.items()}
    batch["image"] = np.random.default_rng(0).integers(0, 255, batch["image"].shape, np.uint8)
    found = {name: numpy(value) for name, value in MirrorInstances(3)(batch).items()}
    turned = (found["image"] != batch["image"]).any(axis=(1, 2, 3))
    assert 0 < turned.sum() < 16
    for number in range(16):
        wanted = batch["masks"][number][..., ::-1] if turned[number] else batch["masks"][number]
        assert (found["masks"][number] == wanted).all()
        assert found["boxes"][number, 1].tolist() == ([52, 0, 60, 16] if turned[number] else [0, 0, 8, 16])
    assert "proposals" not in found
