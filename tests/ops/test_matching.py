"""Matching and sampling against plain loops: eager and compiled, here and under JAX in a process of its own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.ops.anchors import base_anchors, grid_anchors, inside_image
from repro.ops.matching import gather, label_anchors, match, sample_labels, sample_rois
from tests.parity import boxes as cases_of_boxes
from tests.parity.boxes import MEAN, MODES, ROIS, SAMPLES, STD
from tests.parity.networks import values_and_gradients
from tests.reference.boxes import loop_decode, loop_encode, loop_iou
from tests.reference.matching import loop_labels, loop_match, loop_rois, loop_sample
from tests.support.boxes import EMPTY, random_boxes

CASES = list(cases_of_boxes.cases())
IMAGES, TRUTHS, ANCHORS, PROPOSALS = 4, 6, 60, 30


def example(seed=0):
    """Inputs of every case. Coordinates are whole and below 21, so that equal IoUs are equal in float32 and others
    far apart; noise has ties. Image 1 has no valid box, image 2 only boxes without area or twice there."""
    rng = np.random.default_rng(seed)
    boxes, valid = random_boxes(rng, IMAGES, TRUTHS), rng.random((IMAGES, TRUTHS)) < 0.7
    boxes[2] = np.concatenate([EMPTY[:3], [[2, 2, 9, 8]] * 2, [[4, 4, 16, 16]]])
    valid[:, 0], valid[1], valid[2] = True, False, True
    valid[0, 0] = False  # so that an index of 0 is wrong where nothing overlaps
    proposals = random_boxes(rng, IMAGES, PROPOSALS)
    proposals[:, : 2 * TRUTHS] = np.tile(boxes, (1, 2, 1)) + rng.integers(-1, 2, (IMAGES, 2 * TRUTHS, 4))
    anchors = np.concatenate([random_boxes(rng, ANCHORS - 8), EMPTY, [[2, 2, 9, 8], [2, 2, 9, 7], [2, 3, 9, 8]]])
    labels = rng.integers(-1, 2, (IMAGES, ANCHORS))
    labels[1], labels[2, 3:] = np.minimum(labels[1], 0), 1
    return {
        "anchors": anchors.astype("float32"),
        "boxes": boxes,
        "valid": valid,
        "classes": np.where(valid, rng.integers(0, 5, valid.shape), -1).astype("int32"),
        "excluded": rng.random(valid.shape) < 0.4,
        "usable": rng.random((IMAGES, ANCHORS)) < 0.7,
        "proposals": proposals.astype("float32"),
        "proposal_valid": rng.random((IMAGES, PROPOSALS)) < 0.8,
        "references": random_boxes(rng, IMAGES, TRUTHS),
        "deltas": rng.normal(0, 20, (IMAGES, TRUTHS, 4)).astype("float32"),
        "size": np.array([[20, 20], [12, 16], [16, 9], [1, 1]], "int32"),
        "labels": labels.astype("int32"),
        "noise": rng.integers(0, 24, (IMAGES, ANCHORS)).astype("float32") / 24,
        "roi_noise": rng.integers(0, 16, (IMAGES, PROPOSALS + TRUTHS)).astype("float32") / 16,
        "proposal_noise": rng.random((IMAGES, PROPOSALS)).astype("float32"),
    }


def expected(case, x):
    """What the loops make of a case, as `cases_of_boxes.outputs`."""
    name, _, option = case.partition("-")
    images, anchors = range(IMAGES), x["anchors"]
    pairs = np.ndindex(IMAGES, TRUTHS)

    def each(loop, *arguments):
        """The outputs of a loop over one image, stacked."""
        return [np.stack(column) for column in zip(*(loop(b, *arguments) for b in images), strict=True)]

    if name == "iou":
        return [np.array([[[loop_iou(anchor, box) for box in x["boxes"][b]] for anchor in anchors] for b in images])]
    if name == "area":
        sides = np.maximum(x["boxes"][..., 2:] - x["boxes"][..., :2], 0)
        return [sides[..., 0] * sides[..., 1], sides[..., 0], sides[..., 1]]
    if name in ("encode", "decode"):
        loop, first = (loop_encode, "boxes") if name == "encode" else (loop_decode, "deltas")
        found = [loop(x[first][at], x["references"][at], MEAN, STD) for at in pairs]
        return [np.reshape(found, (IMAGES, TRUTHS, 4))]
    if name == "clip":
        return [np.stack([np.clip(x["proposals"][b], 0, x["size"][b][[1, 0, 1, 0]]) for b in images])]
    if name == "flip":
        mirrored = [x[key][..., [2, 1, 0, 3]] * [-1, 1, -1, 1] for key in ("proposals", "boxes")]
        return [mirrored[0] + [20, 0, 20, 0], mirrored[1] + x["size"][:, None, [1]] * [1, 0, 1, 0]]
    if name == "inside":
        low, high = anchors[:, :2], anchors[:, 2:]
        limits = [x["size"][:, None, ::-1] + border for border in (0, 2)]
        return [(low >= -border).all(-1) & (high <= limits[border // 2]).all(-1) for border in (0, 2)]
    if name == "match":
        references = x["proposals"] if option else [anchors] * IMAGES
        return each(lambda b: loop_match(references[b], x["boxes"][b], x["valid"][b]))
    if name == "label":
        thresholds = (0.5, 0.2) if option else ()
        return each(lambda b: loop_labels(anchors, x["boxes"][b], x["valid"][b], x["usable"][b], *thresholds))
    if name == "sample":
        return each(lambda b: [loop_sample(x["labels"][b], x["noise"][b], *SAMPLES[option])])
    options = dict(ROIS[option])
    options["truth"] = options.pop("append_truth", True)
    return each(lambda b: loop_rois(x, b, option.endswith("excluded"), **options))


@pytest.fixture(scope="module")
def inputs():
    return example()


def assert_same(found, loop):
    """Whole numbers and coordinates exactly, all else to rounding."""
    assert len(found) == len(loop)
    for ours, theirs in zip(found, loop, strict=True):
        assert ours.shape == theirs.shape
        if ours.dtype == "float32":
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)
        else:
            assert ours.dtype in (np.dtype("int32"), np.dtype(bool))
            np.testing.assert_array_equal(ours, theirs)


def arrays_of(computed, name, inputs, case, mode):
    found = computed(name, "boxes", inputs)
    return [value for key, value in found.items() if key.rpartition("/")[0] == f"{case}/{mode}"]


@pytest.mark.parametrize("name", ["tensorflow", "jax"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("case", CASES)
def test_is_that_of_the_loop(inputs, computed, name, case, mode):
    assert_same(arrays_of(computed, name, inputs, case, mode), expected(case, inputs))


@pytest.mark.parametrize("case", CASES)
def test_compiled_is_as_eager(inputs, computed, case):
    eager, xla = (arrays_of(computed, "tensorflow", inputs, case, mode) for mode in MODES)
    assert_same(xla, eager)


def test_the_example_has_what_the_cases_are_about(inputs):
    labels = expected("label", inputs)[0]
    iou, index = expected("match", inputs)
    assert {-1, 0, 1} == set(labels.ravel())
    assert ((labels == 1) & (iou < 0.7)).any()  # somebody's best anchor below the threshold
    assert not iou[1].any()
    assert not (labels[1] > 0).any()
    assert inputs["valid"][np.arange(IMAGES)[:, None], index][[0, 2, 3]].all()
    for name, options in ROIS.items():
        rois = expected(f"rois-{name}", inputs)[1]
        assert (rois == 0).any(), name
        assert len(set(rois[rois > 0])) > 1, name
        assert (rois == -1).any() == (name != "end-to-end-excluded"), name
        options = {key: value for key, value in options.items() if key != "append_truth"}
        assert any(
            not np.array_equal(loop_rois(inputs, b, False, **options)[1], loop_rois(inputs, b, True, **options)[1])
            for b in range(IMAGES)
        )


@pytest.mark.parametrize("seed", range(1, 4))
def test_other_examples_are_those_of_the_loop(seed):
    x = example(seed)
    found = cases_of_boxes.outputs("eager", x)
    for case in CASES:
        assert_same(found[case], expected(case, x))


def test_a_sample_without_positives_is_all_background(inputs):
    options = dict(count=8, positive_fraction=0, negative_iou=(0.0, 0.5))
    arguments = [inputs[key] for key in ("proposals", "proposal_valid", "boxes", "classes", "roi_noise")]
    sample = sample_rois(*arguments, **options)
    assert not np.any(sample["labels"])
    np.testing.assert_array_equal(
        sample["rois"], np.stack([loop_rois(inputs, b, False, **options)[0] for b in range(IMAGES)])
    )


def test_thresholds_belong_to_the_positives_and_to_the_ignored():
    box = np.array([[[0, 0, 10, 10]]], "float32")
    anchors = np.array([[0, 0, 10, 10], [0, 0, 7, 10], [0, 0, 6, 10], [0, 0, 3, 10], [0, 0, 2, 10]], "float32")
    labels, _ = label_anchors(anchors, box, [[True]], np.ones((1, 5), bool))
    np.testing.assert_array_equal(labels, [[1, 1, -1, -1, 0]])


def test_the_second_best_is_not_the_best():
    box = np.array([[[0, 0, 1000, 100]]], "float32")
    anchors = np.array([[0, 0, 500, 100], [0, 0, 499.9, 100]], "float32")
    np.testing.assert_array_equal(label_anchors(anchors, box, [[True]], np.ones((1, 2), bool))[0], [[1, -1]])


def test_all_anchors_that_tie_for_a_box_are_positive():
    """Two anchors mirrored about a box of broken coordinates, whose IoUs with it differ in the last bits."""
    box = np.array([[[803.2, 211.7, 871.45, 299.9]]], "float32")
    middle = (box[0, 0, 0] + box[0, 0, 2]) / 2
    shift = np.array([0, 17, 33, 150], "float32")
    left = np.stack([box[0, 0] - [s, 0, s, 0] for s in shift[1:]]).astype("float32")
    right = np.stack([2 * middle - left[:, 2], left[:, 1], 2 * middle - left[:, 0], left[:, 3]], axis=1)
    anchors = np.concatenate([left, right]).astype("float32")
    labels, index = label_anchors(anchors, box, [[True]], np.ones((1, 6), bool), high=0.99)
    np.testing.assert_array_equal(labels, [[1, -1, 0, 1, -1, 0]])
    assert not np.any(index)


def test_an_anchor_that_is_not_usable_is_nobodys_best():
    anchors = np.array([[0, 0, 10, 10], [0, 0, 10, 6], [30, 30, 40, 40]], "float32")
    arguments = anchors, anchors[None, :1], [[True]]
    np.testing.assert_array_equal(label_anchors(*arguments, [[True, True, True]])[0], [[1, -1, 0]])
    np.testing.assert_array_equal(label_anchors(*arguments, [[False, True, True]])[0], [[-1, 1, 0]])
    np.testing.assert_array_equal(label_anchors(*arguments, [[False, False, True]])[0], [[-1, -1, 0]])


def test_full_size_anchors_are_labelled_and_sampled_as_by_the_loop():
    """The paper's 21,546 anchors and its 256 of them."""
    anchors = grid_anchors(base_anchors(), (38, 63), 16)
    boxes = np.array([[[100, 80, 260, 300], [500, 200, 980, 590], [40, 400, 75, 430], [0, 0, 0, 0]]], "float32")
    valid = np.array([[True, True, True, False]])
    usable = np.asarray(inside_image(anchors, np.array([[600, 1000]])))
    labels, index = label_anchors(anchors, boxes, valid, usable)
    expected_labels, expected_index = loop_labels(anchors, boxes[0], valid[0], usable[0])
    np.testing.assert_array_equal(labels[0], expected_labels)
    np.testing.assert_array_equal(index[0], expected_index)
    noise = np.random.default_rng(0).random((1, len(anchors)), "float32")
    sample = np.asarray(sample_labels(labels, noise))
    np.testing.assert_array_equal(sample[0], loop_sample(expected_labels, noise[0], 256, 0.5))
    assert (sample >= 0).sum() == 256
    assert 3 <= (sample == 1).sum() == (expected_labels == 1).sum() <= 128


@given(
    st.lists(st.tuples(st.integers(-1, 1), st.integers(0, 3)), min_size=1, max_size=30),
    st.integers(1, 40),
    st.sampled_from([0, 0.25, 0.5, 1]),
)
def test_samples_are_those_of_the_loop_with_many_ties(columns, count, fraction):
    labels, noise = np.array(columns).T
    sample = np.asarray(sample_labels(labels[None], noise[None] / 4, count, fraction))[0]
    np.testing.assert_array_equal(sample, loop_sample(labels, noise, count, fraction))
    assert (sample == 1).sum() == min((labels == 1).sum(), int(count * fraction))
    assert (sample == 0).sum() == min((labels == 0).sum(), count - (sample == 1).sum())


def test_other_noise_draws_others_and_all_are_drawn_in_time():
    labels, rng = np.array([[1] * 6 + [0] * 10]), np.random.default_rng(0)
    samples = np.concatenate([np.asarray(sample_labels(labels, rng.random((1, 16)), 8)) for _ in range(40)])
    drawn = (samples >= 0).mean(axis=0)
    assert ((drawn > 0.2) & (drawn < 0.9)).all()  # 4 of 6 and 4 of 10


@pytest.mark.parametrize("mode", MODES)
def test_assignments_pass_no_gradient(inputs, mode):
    """They are factors of what they are multiplied with, and no more."""

    def function(proposals):
        iou, _ = match(proposals, inputs["boxes"], inputs["valid"])
        arguments = [inputs[key] for key in ("proposal_valid", "boxes", "classes", "roi_noise")]
        sample = sample_rois(proposals, *arguments, count=16)
        return [iou * proposals[..., 0], sample["rois"] * proposals[:, :1]]

    proposals = inputs["proposals"]
    (iou, rois), (gradient,) = values_and_gradients(function, [proposals], mode)
    slopes = np.zeros_like(proposals)
    overlaps = [loop_match(proposals[b], inputs["boxes"][b], inputs["valid"][b])[0] for b in range(IMAGES)]
    slopes[..., 0] += np.cos(np.arange(iou.size)).reshape(iou.shape) * np.stack(overlaps)
    sampled = np.stack([loop_rois(inputs, b, False, 16)[0] for b in range(IMAGES)])
    slopes[:, 0] += (np.cos(np.arange(rois.size)).reshape(rois.shape) * sampled).sum(axis=1)
    np.testing.assert_allclose(gradient, slopes, atol=1e-3)
    assert np.abs(slopes).max() > 1


def test_gathering_takes_each_images_own():
    values, index = np.arange(24).reshape(2, 3, 4), np.array([[2, 0], [1, 1]], "int32")
    np.testing.assert_array_equal(gather(values, index), values[[[0], [1]], index])
    np.testing.assert_array_equal(gather(values[..., 0], index), values[[[0], [1]], index, 0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(append_truth=False), r"noise has shape \(4, 36\), not \(4, 30\)"),
        (dict(positive_fraction=1.5), "positive_fraction is 1.5"),
        (dict(negative_iou=(0.1, 0.6)), "not an interval below"),
        (dict(negative_iou=(0.5, 0.1)), "not an interval below"),
    ],
)
def test_impossible_samples_are_refused(inputs, options, message):
    arguments = [inputs[key] for key in ("proposals", "proposal_valid", "boxes", "classes", "roi_noise")]
    with pytest.raises(ValueError, match=message):
        sample_rois(*arguments, **options)
    with pytest.raises(ValueError, match=r"noise has shape \(4, 1\)"):
        sample_labels(inputs["labels"], inputs["noise"][:, :1])
    with pytest.raises(ValueError, match="positive_fraction is -1"):
        sample_labels(inputs["labels"], inputs["noise"], positive_fraction=-1)
