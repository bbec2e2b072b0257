"""Regions of a pyramid against Equation 1 and against one level at a time."""

import keras
import numpy as np

from repro.models.fpn import PyramidPool, levels_of
from repro.ops.roi import roi_align


def numpy(x):
    return keras.ops.convert_to_numpy(x)


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
