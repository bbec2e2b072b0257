"""COCO's average precision: ours at its recall levels, hand-worked cases, sizes, crowds and empty input."""

import json

import numpy as np
import pytest
from pycocotools.cocoeval import Params

from repro.metrics.coco import NAMES, coco_ap
from repro.metrics.detection import average_precision, precision_recall, voc_ap
from tests.support.scored_boxes import NEAR_A, A, C, prediction, random_scene, truth


def separate_scene(seed):
    """As `random_scene`, but objects do not overlap. Above an IoU of 1/2 a detection can then have one object only, so
    that VOC's assignment to the highest IoU and COCO's to the highest that is free agree."""
    predictions, truths = random_scene(seed, images=20, flags=False)
    rng = np.random.default_rng(seed)
    for image, target in zip(predictions, truths, strict=True):
        count = len(target["boxes"])
        shift = np.arange(count) * 200.0
        target["boxes"][:, ::2] += shift[:, None]
        image["boxes"][: 3 * count, ::2] += np.repeat(shift, 3)[:, None]
        image["scores"] += rng.random(len(image["scores"])) / 2
    return predictions, truths


@pytest.mark.parametrize(("threshold", "name"), [(0.5, "ap50"), (0.75, "ap75")])
@pytest.mark.parametrize("seed", range(3))
def test_equals_pycocotools_at_its_recall_levels(seed, threshold, name):
    """COCO's AP is the mean of the same precision at 101 levels: equal there. Its area differs by at most 1/101: it
    falls with recall, from 1 at the most, so that the 101 samples are off the area by at most one of them."""
    predictions, truths = separate_scene(seed)
    expected = coco_ap(predictions, truths, [(100, 2000)] * len(truths), 3)[name]
    curves = precision_recall(predictions, truths, 3, threshold)
    levels = Params("bbox").recThrs
    assert np.mean([average_precision(curve, levels) for curve in curves]) == pytest.approx(expected, abs=1e-12)
    area = voc_ap(predictions, truths, 3, threshold)["mean"]
    assert abs(area - expected) <= 1 / 101
    assert 0.1 < expected < 0.95


@pytest.mark.parametrize("side", [10, 50, 100])
def test_coco_sizes_and_undefined(side):
    """One object of 10^2, 50^2 or 100^2 pixels: small below 32^2, large above 96^2, the others have no AP."""
    size = {10: "ap_small", 50: "ap_medium", 100: "ap_large"}[side]
    box = [0, 0, side, side]
    scores = coco_ap([prediction((1, 0.9, box))], [truth((1, box))], [(100, 100)], 2)
    assert tuple(scores) == NAMES
    for name, value in scores.items():
        undefined = name in ("ap_small", "ap_medium", "ap_large") and name != size
        assert value is None if undefined else value == pytest.approx(1)
    # the data set's own area decides where there is one
    masked = coco_ap([prediction((1, 0.9, box))], [{**truth((1, box)), "area": [50.0]}], [(100, 100)], 2)
    assert masked["ap_small"] == pytest.approx(1)
    assert masked["ap_large"] is None
    json.dumps(scores)


def test_coco_hand_case():
    """One of two objects is found, with IoU 2/3 by the 8 x 10 of 12 x 10 pixels: up to 0.65, 4 of 10 thresholds. The
    51 recall levels of 0 to 0.5 have precision 1, the other 50 none."""
    scores = coco_ap([prediction((0, 0.9, NEAR_A))], [truth((0, A), (0, C))], [(50, 50)], 1)
    half = 51 / 101
    expected = {"ap": 0.4 * half, "ap50": half, "ap75": 0, "ap_small": 0.4 * half, "ap_medium": None, "ap_large": None}
    assert scores == pytest.approx(expected | dict.fromkeys(("ar_1", "ar_10", "ar_100"), 0.4 * 0.5))


def test_coco_counts_the_best_detections():
    boxes = [[20 * n, 0, 20 * n + 10, 10] for n in range(12)]
    found = [prediction(*((0, 0.9 - 0.01 * n, box) for n, box in enumerate(boxes)))]
    scores = coco_ap(found, [truth(*((0, box) for box in boxes))], [(300, 300)], 1)
    assert [scores[name] for name in ("ar_1", "ar_10", "ar_100")] == pytest.approx([1 / 12, 10 / 12, 1])


def test_coco_ignores_crowds_and_difficult_objects():
    def scores(found, *objects):
        values = coco_ap(found, [truth(*objects)], [(50, 50)], 1)
        # at one detection an image the ignored one takes the place of the other
        assert values.pop("ar_1") == (1 if len(objects) == 1 else 0)
        return values

    one = scores([prediction((0, 0.9, A))], (0, A))
    detections = [prediction((0, 0.95, C), (0, 0.9, A))]
    assert scores(detections, (0, A), (0, C, "difficult")) == one
    assert scores(detections, (0, A), (0, C, "crowd")) == one
    # a crowd takes any number of detections inside it, a difficult object one
    inside = [prediction((0, 0.99, [40, 0, 45, 10]), (0, 0.95, C), (0, 0.9, A))]
    assert scores(inside, (0, A), (0, C, "crowd")) == one
    assert scores(inside, (0, A), (0, C, "difficult"))["ap"] < 0.9
    only = coco_ap(detections, [truth((0, C, "difficult"))], [(50, 50)], 1)
    assert set(only.values()) == {None}


def test_coco_without_predictions_truths_or_images(capsys):
    none = dict.fromkeys(NAMES)
    assert coco_ap([], [], [], 2) == none
    assert coco_ap([prediction()], [truth()], [(5, 5)], 2) == none
    assert coco_ap([prediction((0, 0.5, A))], [truth()], [(5, 5)], 2) == none
    empty = coco_ap([prediction()], [truth((0, A))], [(5, 5)], 2)
    assert empty == none | {name: 0 for name in NAMES if name not in ("ap_medium", "ap_large")}
    assert capsys.readouterr().out == ""
