"""Average precision against hand-worked cases and the development kit's loops; recall of proposals; bad input."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools.cocoeval import Params

from repro.errors import ReproError
from repro.metrics.coco import NAMES, coco_ap, coco_protocol
from repro.metrics.detection import (
    AVERAGE_RECALL_IOUS,
    ELEVEN_POINTS,
    box_iou,
    detection_protocol,
    precision_recall,
    proposal_recall,
    voc_ap,
)
from tests.reference.boxes import loop_iou
from tests.reference.detection import development_kit
from tests.support.messages import one_line
from tests.support.scored_boxes import MISS, NEAR_A, SEEDS, A, B, C, D, prediction, random_scene, truth


def both(predictions, truths, classes=1, **options):
    """All-point and 11-point AP of class 0."""
    return tuple(voc_ap(predictions, truths, classes, eleven_point=e, **options)["ap"][0] for e in (False, True))


def test_hand_case():
    """Four objects; right, wrong, right, wrong (A once more), right, by falling score, over two images.

    recall     1/4  1/4  2/4  2/4  3/4
    precision   1   1/2  2/3  2/4  3/5
    highest at that recall or more: 1 up to 1/4, 2/3 up to 1/2, 3/5 up to 3/4, then 0
    all points (1 + 2/3 + 3/5) / 4; 11 points: 0 0.1 0.2 at 1, 0.3 0.4 0.5 at 2/3, 0.6 0.7 at 3/5, 3 at 0"""
    predictions = [
        prediction((0, 0.5, C), (0, 0.9, A), (0, 0.6, NEAR_A)),
        prediction((0, 0.7, A), (0, 0.8, MISS)),
    ]
    truths = [truth((0, A), (0, C)), truth((0, A), (0, D))]
    all_points, eleven = both(predictions, truths)
    assert all_points == pytest.approx((1 + 2 / 3 + 3 / 5) / 4, abs=1e-12)
    assert eleven == pytest.approx((3 * 1 + 3 * 2 / 3 + 2 * 3 / 5) / 11, abs=1e-12)
    (curve,) = precision_recall(predictions, truths, 1)
    np.testing.assert_allclose(curve.recall, [1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 2 / 4, 3 / 5])
    np.testing.assert_allclose(curve.scores, [0.9, 0.8, 0.7, 0.6, 0.5], rtol=1e-6)
    assert curve.objects == 4


def test_perfect_and_empty():
    truths = [truth((0, A), (1, B)), truth((0, C))]
    perfect = [prediction((0, 0.9, A), (1, 0.8, B)), prediction((0, 0.1, C))]
    assert voc_ap(perfect, truths, 3) == {"ap": [1.0, 1.0, None], "mean": 1.0}
    nothing = [prediction(), prediction()]
    for eleven_point in (False, True):
        assert voc_ap(nothing, truths, 3, eleven_point=eleven_point) == {"ap": [0.0, 0.0, None], "mean": 0.0}
        # a class that is only predicted has no AP: VOC means over the classes of the truth
        assert voc_ap(perfect, [truth((0, A)), truth((0, C))], 2, eleven_point=eleven_point) == {
            "ap": [1.0, None],
            "mean": 1.0,
        }
        assert voc_ap(perfect, [truth(), truth()], 2, eleven_point=eleven_point) == {"ap": [None, None], "mean": None}
    assert voc_ap([], [], 2) == {"ap": [None, None], "mean": None}
    json.dumps(voc_ap(perfect, truths, 3))


def test_a_threshold_reached_exactly_is_reached():
    # 5 * 10 of 10 * 10: IoU 1/2
    half = [prediction((0, 0.9, [0, 0, 5, 10]))]
    assert both(half, [truth((0, A))]) == (1, 1)
    assert both(half, [truth((0, A))], iou_threshold=0.5001) == (0, 0)
    # the shift by 2 has IoU 2/3
    near = [prediction((0, 0.9, NEAR_A))]
    assert both(near, [truth((0, A))], iou_threshold=0.66) == (1, 1)
    assert both(near, [truth((0, A))], iou_threshold=0.67) == (0, 0)


@pytest.mark.parametrize("kind", ["difficult", "crowd"])
def test_difficult_objects_neither_count_nor_are_detections_of_them_wrong(kind):
    truths = [truth((0, A), (0, C, kind))]
    # twice on the difficult object with the highest scores: precision starts at 1 all the same
    assert both([prediction((0, 0.9, C), (0, 0.8, C), (0, 0.7, A))], truths) == (1, 1)
    # one truth, found after one miss
    assert both([prediction((0, 0.9, MISS), (0, 0.8, C), (0, 0.7, A))], truths) == (0.5, 0.5)
    only = [truth((0, C, kind))]
    assert voc_ap([prediction((0, 0.9, C))], only, 1) == {"ap": [None], "mean": None}
    # a detection goes to the highest IoU: 8/12 with the difficult object, 6/14 with the other
    beside = [truth((0, [4, 0, 14, 10], kind), (0, [6, 0, 16, 10]))]
    assert both([prediction((0, 0.9, NEAR_A))], beside, iou_threshold=0.4) == (0, 0)


def test_a_detection_is_assigned_to_the_highest_iou_even_where_that_is_taken():
    """VOC, unlike COCO: the second detection, IoU 8/12 with the first object and 6/14 with the second at 0.4, is wrong
    although the second object is free."""
    truths = [truth((0, A), (0, [6, 0, 16, 10]))]
    predictions = [prediction((0, 0.9, A), (0, 0.8, NEAR_A))]
    assert both(predictions, truths, iou_threshold=0.4) == (0.5, pytest.approx(6 / 11))
    assert coco_ap(predictions, truths, [(20, 20)], 1)["ar_100"] < 1


def test_other_classes_and_other_images_do_not_match():
    truths = [truth((0, A), (1, B)), truth((0, B))]
    predictions = [prediction((0, 0.9, B), (1, 0.9, A)), prediction((0, 0.8, A), (1, 0.8, B))]
    assert voc_ap(predictions, truths, 2) == {"ap": [0, 0], "mean": 0}


def test_ties_go_to_the_earlier_image_then_the_earlier_box():
    truths = [truth((0, A)), truth((0, A))]
    right, wrong = (0, 0.5, A), (0, 0.5, MISS)
    # right wrong right: (1 + 2/3) / 2; wrong right right: (2/3 + 2/3) / 2
    first = voc_ap([prediction(right, wrong), prediction(right)], truths, 1)["mean"]
    assert first == pytest.approx((1 + 2 / 3) / 2)
    second = voc_ap([prediction(wrong, right), prediction(right)], truths, 1)["mean"]
    assert second == pytest.approx(2 / 3)


@pytest.mark.parametrize("found", range(11))
def test_recall_levels_are_exact_tenths(found):
    """At a recall of 0.3 the level 0.3 is reached: found + 1 levels at precision 1. np.arange would lose some."""
    boxes = [[20 * n, 0, 20 * n + 10, 10] for n in range(10)]
    predictions = [prediction(*((0, 0.9 - 0.01 * n, boxes[n]) for n in range(found)))]
    assert both(predictions, [truth(*((0, box) for box in boxes))]) == (found / 10, (found + 1) / 11 if found else 0)


@pytest.mark.parametrize("eleven_point", [False, True])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_development_kit(seed, threshold, eleven_point):
    predictions, truths = random_scene(seed)
    found = voc_ap(predictions, truths, 4, threshold, eleven_point)
    expected = [development_kit(predictions, truths, k, threshold, eleven_point) for k in range(4)]
    assert found["ap"] == pytest.approx(expected, abs=1e-12)
    assert expected[3] is None
    assert found["mean"] == pytest.approx(np.mean(expected[:3]), abs=1e-12)
    assert 0.02 < found["mean"] < 0.9


@given(SEEDS, st.sampled_from([0.3, 0.5]), st.booleans())
def test_order_of_images_and_classes_does_not_matter(seed, threshold, eleven_point):
    predictions, truths = random_scene(seed, images=4)
    rng = np.random.default_rng(seed)
    before = voc_ap(predictions, truths, 3, threshold, eleven_point)
    order, names = rng.permutation(4), rng.permutation(3)
    after = voc_ap(
        [{**predictions[n], "classes": names[predictions[n]["classes"]]} for n in order],
        [{**truths[n], "classes": names[truths[n]["classes"]]} for n in order],
        3,
        threshold,
        eleven_point,
    )
    assert [after["ap"][name] for name in names] == before["ap"]
    assert after["mean"] == pytest.approx(before["mean"], abs=1e-12)
    assert all(ap is None or 0 <= ap <= 1 for ap in before["ap"])


@given(SEEDS, st.booleans())
def test_a_lower_scored_duplicate_never_helps(seed, eleven_point):
    predictions, truths = random_scene(seed, images=3)
    before = voc_ap(predictions, truths, 3, eleven_point=eleven_point)["ap"]
    rng = np.random.default_rng(seed)
    image = predictions[rng.integers(3)]
    chosen = rng.integers(len(image["scores"]))
    lower = image["scores"][chosen] - rng.choice([0.5, 5.5, 1000])
    for key, value in (("boxes", image["boxes"][chosen]), ("scores", lower), ("classes", image["classes"][chosen])):
        image[key] = np.concatenate([image[key], value[None]])
    after = voc_ap(predictions, truths, 3, eleven_point=eleven_point)["ap"]
    assert all(a is b is None or a <= b for a, b in zip(after, before, strict=True))


@given(SEEDS, st.sampled_from([0.5, 0.9, 1.0]))
def test_perfect_predictions_give_one(seed, threshold):
    _, truths = random_scene(seed, images=4)
    # two objects in one place cannot both be found
    truths = [t for t in truths if len(np.unique(t["boxes"], axis=0)) == len(t["boxes"])]
    rng = np.random.default_rng(seed)
    predictions = [
        {"boxes": t["boxes"], "classes": t["classes"], "scores": rng.random(len(t["boxes"]))} for t in truths
    ]
    for eleven_point in (False, True):
        scores = voc_ap(predictions, truths, 3, threshold, eleven_point)
        assert all(ap in (None, 1.0) for ap in scores["ap"])
    names = [n for n in NAMES if n.startswith("ap") and n not in ("ap_medium", "ap_large")]
    coco = coco_ap(predictions, truths, [(80, 80)] * len(truths), 3)
    assert all(coco[name] is None or coco[name] == pytest.approx(1) for name in names)


@given(SEEDS)
def test_box_iou_is_that_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    # whole numbers, so that some boxes are empty and some touch
    a, b = (np.sort(rng.integers(0, 6, (n, 2, 2)), axis=1).reshape(n, 4) for n in (5, 4))
    expected = [[loop_iou(x, y) for y in b] for x in a]
    np.testing.assert_allclose(box_iou(a, b), expected, atol=1e-15)
    assert box_iou(a[:0], b).shape == (0, 4)


def test_recall_of_proposals_by_hand():
    """Objects A (IoU 2/3 with the first proposal, 1 with the third) and C (9 x 10 of 10 x 10, the second)."""
    proposals = [np.array([NEAR_A, [40, 0, 49, 10], A, MISS], float), np.zeros((0, 4))]
    truths = [truth((0, A), (1, C), (1, B, "difficult"), (0, B, "crowd")), truth((1, D))]
    scores = proposal_recall(proposals, truths, counts=(1, 2, 3, 100), iou_thresholds=(0.5, 0.7))
    third = 1 / 3
    assert scores == {
        "counts": [1, 2, 3, 100],
        "objects": 3,
        "recall": {
            "0.5": pytest.approx([third, 2 * third, 2 * third, 2 * third]),
            "0.7": pytest.approx([0, third, 2 * third, 2 * third]),
        },
        # A: 4 of 10 thresholds at 2/3, 10 at 1; C: 9 of 10 at 0.9
        "average_recall": pytest.approx([0.4 / 3, 1.3 / 3, 1.9 / 3, 1.9 / 3]),
    }
    json.dumps(proposal_recall(proposals, truths))


def test_one_proposal_may_recall_two_objects():
    scores = proposal_recall([np.array([A])], [truth((0, A), (1, NEAR_A))], counts=(1,), iou_thresholds=(0.5,))
    assert scores["recall"] == {"0.5": [1.0]}


def test_recall_without_objects_is_undefined():
    scores = proposal_recall([np.array([A])], [truth((0, A, "difficult"))], counts=(1, 2))
    assert scores["recall"] == {"0.5": [None, None], "0.7": [None, None]}
    assert scores["average_recall"] == [None, None]
    assert scores["objects"] == 0
    assert proposal_recall([], [], counts=(1,))["average_recall"] == [None]


@given(SEEDS)
def test_recall_is_that_of_a_loop(seed):
    predictions, truths = random_scene(seed, images=4)
    proposals, counts = [image["boxes"] for image in predictions], (1, 3, 5, 100)
    found = proposal_recall(proposals, truths, counts, tuple(AVERAGE_RECALL_IOUS))
    for position, count in enumerate(counts):
        slow = []
        for t in AVERAGE_RECALL_IOUS:
            hits = [
                any(loop_iou(box, other) >= t for other in boxes[:count])
                for boxes, image in zip(proposals, truths, strict=True)
                for box, difficult in zip(image["boxes"], image["difficult"], strict=True)
                if not difficult
            ]
            slow.append(np.mean(hits) if hits else None)
        assert [found["recall"][f"{t:g}"][position] for t in AVERAGE_RECALL_IOUS] == pytest.approx(slow)
        assert found["average_recall"][position] == (None if slow[0] is None else pytest.approx(np.mean(slow)))


GOOD_PREDICTION, GOOD_TRUTH = prediction((0, 0.9, A)), truth((0, A))


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"scores": [np.nan]}, ["prediction of image 1", "not a number"]),
        ({"classes": [2]}, ["prediction of image 1", "class 2", "0..1"]),
        ({"classes": [-1]}, ["class -1"]),
        ({"classes": [0.5]}, ["float64"]),
        ({"scores": [0.5, 0.4]}, ["1 boxes", "(2,)"]),
        ({"boxes": [[0, 0, 1]]}, ["(1, 3)"]),
        ({"boxes": [[0, 0, np.inf, 1]]}, ["image 1", "inf"]),
        ({"boxes": [[5, 0, 1, 1]]}, ["image 1", "x1 <= x2"]),
    ],
)
def test_bad_predictions(change, parts):
    predictions = [GOOD_PREDICTION, {**GOOD_PREDICTION, **change}]
    for score in (
        lambda: voc_ap(predictions, [GOOD_TRUTH] * 2, 2),
        lambda: coco_ap(predictions, [GOOD_TRUTH] * 2, [(9, 9)] * 2, 2),
    ):
        with pytest.raises(ReproError) as error:
            score()
        one_line(error, *parts)


@pytest.mark.parametrize(
    ("change", "part"),
    [({"classes": [7]}, "truth of image 0"), ({"difficult": [True, False]}, "difficult of shape (2,)")],
)
def test_bad_truths(change, part):
    with pytest.raises(ReproError) as error:
        voc_ap([GOOD_PREDICTION], [{**GOOD_TRUTH, **change}], 2)
    one_line(error, part)


def test_missing_keys_lengths_and_options():
    without = {key: value for key, value in GOOD_TRUTH.items() if key not in ("crowd", "difficult")}
    area = {**GOOD_TRUTH, "area": [1.0, 2.0]}
    for score, part in (
        (lambda: voc_ap([GOOD_PREDICTION], [without], 2), "no difficult and no crowd"),
        (lambda: voc_ap([], [GOOD_TRUTH], 2), "predictions of 0 images, truths of 1"),
        (lambda: voc_ap([GOOD_PREDICTION], [GOOD_TRUTH], 2, iou_threshold=0), "threshold is 0"),
        (lambda: coco_ap([GOOD_PREDICTION], [], [], 2), "predictions of 1 images, truths of 0"),
        (lambda: coco_ap([GOOD_PREDICTION], [GOOD_TRUTH], [], 2), "sizes of 0 images"),
        (lambda: coco_ap([GOOD_PREDICTION], [area], [(9, 9)], 2), "areas [1.0, 2.0]"),
        (lambda: proposal_recall([], [GOOD_TRUTH]), "proposals of 0 images"),
        (lambda: proposal_recall([[A]], [GOOD_TRUTH], counts=(0,)), "counts"),
        (lambda: proposal_recall([[[0, 0, np.nan, 1]]], [GOOD_TRUTH]), "proposals of image 0"),
        (lambda: proposal_recall([[A]], [without]), "truth of image 0"),
    ):
        with pytest.raises(ReproError) as error:
            score()
        one_line(error, part)


def test_protocols_are_words():
    assert "11 recall levels" in detection_protocol(eleven_point=True)["voc_ap"]
    assert "area" in detection_protocol()["voc_ap"]
    assert all(isinstance(text, str) for text in (detection_protocol() | coco_protocol()).values())
    np.testing.assert_array_equal(ELEVEN_POINTS, [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1])
    np.testing.assert_allclose(AVERAGE_RECALL_IOUS, Params("bbox").iouThrs)
