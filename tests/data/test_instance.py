"""Records of instances: masks on the canvas relative to their boxes, crowds, mirror images."""

import keras
import numpy as np
import pytest

from repro.data.base import Sample
from repro.data.instance import MASK_SIDE, MirrorInstances, fit_instances
from repro.errors import ReproError


def numpy(x):
    return keras.ops.convert_to_numpy(x)


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
