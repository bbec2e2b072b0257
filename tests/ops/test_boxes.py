"""Areas, IoU, deltas, clipping and mirroring against plain loops, the released formulas and pycocotools."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from keras import ops
from pycocotools import mask as coco

from repro.ops.boxes import (
    box_area,
    clip_boxes,
    decode_boxes,
    encode_boxes,
    flip_boxes,
    pairwise_iou,
    side_lengths,
)
from tests.parity.networks import values_and_gradients
from tests.reference.boxes import loop_area, loop_decode, loop_encode, loop_iou
from tests.support.boxes import EMPTY, random_boxes

# TensorFlow flushes subnormal numbers to zero once it has trained something in the same process
COORDINATE = st.floats(-200, 1200, width=32, allow_subnormal=False)
BOXES = st.lists(st.tuples(*[COORDINATE] * 4), min_size=1, max_size=6).map(lambda boxes: np.array(boxes, "float32"))
PROPER = st.tuples(COORDINATE, COORDINATE, st.floats(2, 100, width=32), st.floats(2, 100, width=32)).map(
    lambda box: np.array([[box[0], box[1], box[0] + box[2], box[1] + box[3]]], "float32")
)


def test_areas_are_those_of_the_loop():
    boxes = np.concatenate([random_boxes(np.random.default_rng(0), 40), EMPTY])
    np.testing.assert_array_equal(box_area(boxes), [loop_area(box) for box in boxes])
    assert not np.any(box_area(EMPTY))
    width, height = side_lengths(boxes)
    np.testing.assert_array_equal(width, np.maximum(boxes[:, 2] - boxes[:, 0], 0))
    np.testing.assert_array_equal(height, np.maximum(boxes[:, 3] - boxes[:, 1], 0))


@pytest.mark.parametrize(("first", "second", "expected"), [((), (), ()), ((), (3,), (3,)), ((2, 1), (3,), (2, 3))])
def test_iou_is_that_of_the_loop_whatever_the_leading_axes(first, second, expected):
    rng = np.random.default_rng(1)
    a, b = random_boxes(rng, *first, 9), random_boxes(rng, *second, 7)
    iou = np.asarray(pairwise_iou(a, b))
    assert (iou.shape, iou.dtype) == ((*expected, 9, 7), "float32")
    a, b = np.broadcast_to(a, (*expected, 9, 4)), np.broadcast_to(b, (*expected, 7, 4))
    for at in np.ndindex(*expected):
        loop = [[loop_iou(one, other) for other in b[at]] for one in a[at]]
        np.testing.assert_allclose(iou[at], loop, atol=1e-6)
    assert np.count_nonzero(iou) > 10


def test_iou_is_that_of_pycocotools():
    rng = np.random.default_rng(2)
    a, b = (np.sort(rng.uniform(0, 500, (count, 2, 2)), axis=1).reshape(-1, 4) for count in (30, 40))
    a, b = a.astype("float32"), b.astype("float32")
    xywh = [np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]).astype("float64") for boxes in (a, b)]
    expected = coco.iou(*xywh, [0] * len(b))
    np.testing.assert_allclose(pairwise_iou(a, b), expected, atol=1e-6)
    assert np.count_nonzero(expected) > 100


@given(BOXES, BOXES)
def test_iou_is_symmetric_between_0_and_1_and_0_without_area(a, b):
    iou = np.asarray(pairwise_iou(a, b))
    np.testing.assert_array_equal(iou, np.asarray(pairwise_iou(b, a)).T)
    assert ((iou >= 0) & (iou <= 1)).all()
    assert not iou[np.asarray(box_area(a)) == 0].any()


@given(PROPER)
def test_a_box_is_wholly_itself_and_not_its_neighbour(box):
    neighbour = box + (box[:, 2:] - box[:, :2])[:, [0, 1, 0, 1]] * [1, 0, 1, 0]
    assert np.asarray(pairwise_iou(box, box)) == 1
    assert np.asarray(pairwise_iou(box, neighbour)) < 1e-3


def test_deltas_are_those_of_the_loop():
    rng, mean, std = np.random.default_rng(3), (0.1, -0.2, 0.0, 0.05), (0.1, 0.1, 0.2, 0.2)
    boxes, references = (np.concatenate([random_boxes(rng, 40), EMPTY]) for _ in range(2))
    expected = [loop_encode(box, reference, mean, std) for box, reference in zip(boxes, references, strict=True)]
    np.testing.assert_allclose(encode_boxes(boxes, references, mean, std), expected, rtol=1e-5, atol=1e-4)
    deltas = rng.normal(0, 3, (len(boxes), 4)).astype("float32")
    expected = [loop_decode(delta, reference, mean, std) for delta, reference in zip(deltas, references, strict=True)]
    np.testing.assert_allclose(decode_boxes(deltas, references, mean, std), expected, rtol=1e-5, atol=1e-4)


@given(PROPER, PROPER)
def test_decoding_undoes_encoding(box, reference):
    mean, std = (0.1, 0.0, -0.1, 0.0), (0.1, 0.1, 0.2, 0.2)
    for statistics in ((), (mean, std)):
        deltas = encode_boxes(box, reference, *statistics)
        # coordinates up to 1300 have steps of 1e-4, and a centre far away in units of a small side is coarser
        np.testing.assert_allclose(decode_boxes(deltas, reference, *statistics), box, atol=5e-3)


def test_statistics_and_references_broadcast_over_classes():
    rng = np.random.default_rng(4)
    deltas, references = rng.normal(size=(2, 5, 3, 4)), random_boxes(rng, 2, 5)
    mean, std = rng.normal(size=(3, 4)), rng.uniform(0.1, 1, (3, 4))
    boxes = np.asarray(decode_boxes(deltas, references[:, :, None], mean, std))
    for k in range(3):
        expected = decode_boxes(deltas[:, :, k], references, mean[k], std[k])
        np.testing.assert_allclose(boxes[:, :, k], expected, rtol=1e-6)


def test_inclusive_pixels_of_the_released_code_give_the_same_numbers():
    """(x1,y1,x2,y2) with both corners inside is our (x1,y1,x2+1,y2+1)."""
    rng = np.random.default_rng(5)
    low = rng.integers(0, 50, (2, 30, 2))
    a, b = np.concatenate([low, low + rng.integers(0, 40, low.shape)], axis=-1).astype("float64")
    one = np.array([0, 0, 1, 1])
    wa, ha, wb, hb = (box[:, side + 2] - box[:, side] + 1.0 for box in (a, b) for side in (0, 1))
    xa, ya, xb, yb = a[:, 0] + 0.5 * wa, a[:, 1] + 0.5 * ha, b[:, 0] + 0.5 * wb, b[:, 1] + 0.5 * hb
    deltas = np.stack([(xb - xa) / wa, (yb - ya) / ha, np.log(wb / wa), np.log(hb / ha)], axis=1)
    np.testing.assert_allclose(encode_boxes(b + one, a + one), deltas, atol=1e-5)

    overlap = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]) + 1, 0).prod(axis=1)
    iou = np.diagonal(pairwise_iou(a + one, b + one))
    np.testing.assert_allclose(iou, overlap / (wa * ha + wb * hb - overlap), atol=1e-6)

    # its decoding takes centre + side / 2 for the inclusive corner: a pixel too much
    released = np.stack([xb - 0.5 * wb, yb - 0.5 * hb, xb + 0.5 * wb, yb + 0.5 * hb], axis=1)
    np.testing.assert_array_equal(released, b + one)
    np.testing.assert_allclose(decode_boxes(deltas, a + one), b + one, atol=1e-3)


def test_a_box_grows_at_most_62_and_a_half_times():
    box = np.asarray(decode_boxes([[0, 0, 50, math.log(62)]], [[10, 10, 12, 14]], std=(1, 1, 2, 1)))
    np.testing.assert_allclose(box[0], [11 - 62.5, 12 - 124, 11 + 62.5, 12 + 124], rtol=1e-5)


@given(BOXES, st.integers(1, 1000), st.integers(1, 1000))
def test_clipped_boxes_lie_inside_and_stay(boxes, height, width):
    size = np.array([[height, width]])
    once = np.asarray(clip_boxes(boxes[None], size))
    np.testing.assert_array_equal(once[0], np.clip(boxes, 0, [width, height, width, height]))
    np.testing.assert_array_equal(clip_boxes(once, size), once)


def test_every_image_clips_and_mirrors_by_its_own_size():
    boxes = np.tile(np.array([[-5, 2, 30, 40]], "float32"), (2, 1, 1))
    size = np.array([[20, 25], [50, 10]])
    np.testing.assert_array_equal(clip_boxes(boxes, size)[:, 0], [[0, 2, 25, 20], [0, 2, 10, 40]])
    np.testing.assert_array_equal(flip_boxes(boxes, size[:, 1:])[:, 0], [[-5, 2, 30, 40], [-20, 2, 15, 40]])


@given(st.lists(st.tuples(*[st.integers(-50, 500)] * 4), min_size=1), st.integers(1, 500))
def test_mirroring_twice_is_nothing_and_keeps_areas(boxes, width):
    mirrored = flip_boxes(boxes, width)
    np.testing.assert_array_equal(flip_boxes(mirrored, width), boxes)
    np.testing.assert_array_equal(box_area(mirrored), box_area(boxes))


@given(PROPER, PROPER, st.integers(0, 1000))
def test_mirroring_turns_the_horizontal_delta_around(box, reference, width):
    assume(np.abs(box - reference).max() < 300)
    deltas = np.asarray(encode_boxes(box, reference))
    mirrored = encode_boxes(flip_boxes(box, width), flip_boxes(reference, width))
    np.testing.assert_allclose(mirrored, deltas * [-1, 1, 1, 1], atol=2e-3)


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_gradients_are_finite_without_area_too(mode):
    """Boxes with and without area as boxes and as references."""
    proper = np.array([[1, 2, 8, 9], [3, 1, 7, 6]], "float32")
    boxes, references = np.concatenate([proper, EMPTY, proper]), np.concatenate([proper[::-1], proper, EMPTY[:2]])
    references = np.concatenate([references, EMPTY])[: len(boxes)]

    def function(boxes, references):
        return [
            encode_boxes(boxes, references),
            decode_boxes(boxes, references),
            pairwise_iou(boxes, references),
            box_area(boxes),
        ]

    values, gradients = values_and_gradients(function, [boxes, references], mode)
    for array in [*values, *gradients]:
        assert np.isfinite(array).all()
        assert array.any()


@pytest.mark.parametrize("mode", ["eager", "xla"])
def test_gradients_are_the_slopes(mode):
    """Central differences of the loops, at boxes with area."""
    box, reference = np.array([[2, 3, 9, 12]], "float32"), np.array([[4, 1, 11, 8]], "float32")
    deltas = np.array([[0.3, -0.2, 0.4, -0.1]], "float32")
    cases = [
        (encode_boxes, lambda a, b: loop_encode(a, b), box),
        (decode_boxes, lambda a, b: loop_decode(a, b), deltas),
        (pairwise_iou, lambda a, b: [loop_iou(a, b)], box),
    ]
    for function, loop, first in cases:
        _, gradients = values_and_gradients(lambda a, b, f=function: [f(a, b)], [first, reference], mode)
        arguments = [first[0].astype("float64"), reference[0].astype("float64")]
        for number, gradient in enumerate(gradients):
            for axis in range(4):
                ends = []
                for step in (1e-5, -1e-5):
                    moved = [argument.copy() for argument in arguments]
                    moved[number][axis] += step
                    ends.append(np.dot(loop(*moved), np.cos(np.arange(len(loop(*moved))))))
                np.testing.assert_allclose(gradient[0, axis], (ends[0] - ends[1]) / 2e-5, rtol=1e-3, atol=1e-5)


def test_low_precision_inputs_are_computed_in_float32():
    deltas = ops.cast([[0.5, 0.25, 0.0, 0.0]], "bfloat16")
    box = decode_boxes(deltas, [[1000, 900, 1003, 907]])
    assert ops.dtype(box) == "float32"
    np.testing.assert_allclose(box, [[1001.5, 901.75, 1004.5, 908.75]], atol=1e-3)


@pytest.mark.parametrize("boxes", [np.zeros((3, 5)), np.zeros((4, 3)), 7.0], ids=["5", "3", "number"])
def test_what_is_no_box_is_refused(boxes):
    for function in (box_area, side_lengths, lambda b: pairwise_iou(b, EMPTY), lambda b: encode_boxes(EMPTY, b)):
        with pytest.raises(ValueError, match="not 4 long"):
            function(boxes)
