"""Mask AP and the IoU of matched masks: hand-worked cases, pycocotools called directly, crowds, nothing, bad input."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
from hypothesis import given
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from repro.data.masks import decode_rle, encode_rle
from repro.errors import ReproError
from repro.metrics.coco import NAMES
from repro.metrics.instance import coco_mask_ap, instance_protocol, mask_iou
from tests.reference.boxes import loop_iou
from tests.support.messages import one_line
from tests.support.scored_boxes import SEEDS, random_scene

SIZE = (60, 80)
A, B, C = ([x, 0, x + 10, 10] for x in (0, 20, 40))


def mask_of(*boxes, size=SIZE):
    """The union of boxes."""
    mask = np.zeros(size, bool)
    for x1, y1, x2, y2 in boxes:
        mask[y1:y2, x1:x2] = True
    return encode_rle(mask)


def prediction(*rows):
    """Rows (class, score, box, boxes of the mask...); the mask is the box where none are given."""
    return {
        "boxes": np.array([row[2] for row in rows], "float32").reshape(-1, 4),
        "scores": np.array([row[1] for row in rows], "float32"),
        "classes": np.array([row[0] for row in rows], "int32"),
        "masks": [mask_of(*(row[3:] or row[2:])) for row in rows],
    }


def truth(*rows, crowd=()):
    """Rows (class, box, boxes of the mask...); `crowd`: the rows that are one."""
    return {
        "boxes": np.array([row[1] for row in rows], "float32").reshape(-1, 4),
        "classes": np.array([row[0] for row in rows], "int32"),
        "crowd": np.isin(np.arange(len(rows)), crowd),
        "masks": [mask_of(*(row[2:] or row[1:])) for row in rows],
    }


def scene(seed):
    """Images with random boxes and masks of part of them, crowds among them."""
    rng = np.random.default_rng(seed)
    predictions, truths = random_scene(seed, images=8, flags=False)
    for image, target in zip(predictions, truths, strict=True):
        del target["difficult"]
        target["crowd"] = rng.random(len(target["classes"])) < 0.2
        for each in (image, target):
            masks = [decode_rle(mask_of(box)) for box in each["boxes"].astype(int).clip(0, 60)]
            each["masks"] = [encode_rle(mask & (rng.random(SIZE) < 0.9)) for mask in masks]
    return predictions, truths


def direct(predictions, truths):
    """pycocotools from two files, as its users call it."""
    annotations, results = [], []
    for number, (found, target) in enumerate(zip(predictions, truths, strict=True), 1):
        for m, mask in enumerate(target["masks"]):
            about = {"category_id": int(target["classes"][m]) + 1, "iscrowd": int(target["crowd"][m])}
            area = int(decode_rle(mask).sum())
            annotations.append({"id": len(annotations) + 1, "image_id": number, "area": area, "segmentation": mask})
            annotations[-1] |= about
        for d, mask in enumerate(found["masks"]):
            about = {"category_id": int(found["classes"][d]) + 1, "score": float(found["scores"][d])}
            results.append({"image_id": number, "segmentation": mask} | about)
    images = [{"id": n + 1, "height": SIZE[0], "width": SIZE[1]} for n in range(len(truths))]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": k} for k in (1, 2, 3)]}
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(copy.deepcopy(results)), "segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:9]


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools_called_directly(seed):
    predictions, truths = scene(seed)
    assert any(target["crowd"].any() for target in truths)
    before = copy.deepcopy((predictions, truths))
    found = coco_mask_ap(predictions, truths, [SIZE] * len(truths), 3)
    assert tuple(found) == NAMES
    expected = [None if value < 0 else pytest.approx(value, abs=1e-12) for value in direct(predictions, truths)]
    assert list(found.values()) == expected
    assert 0.01 < found["ap"] < 0.95
    np.testing.assert_equal((predictions, truths), before)


@given(SEEDS)
def test_perfect_predictions_score_one(seed):
    _, truths = scene(seed)
    for target in truths:
        target["crowd"][:] = False
        solid = [decode_rle(mask).any() for mask in target["masks"]]
        for name in ("boxes", "classes", "crowd"):
            target[name] = target[name][solid]
        target["masks"] = [mask for mask, each in zip(target["masks"], solid, strict=True) if each]
    predictions = [{**target, "scores": np.linspace(1, 0.5, len(target["masks"]))} for target in truths]
    for image in predictions:
        del image["crowd"]
    objects = sum(len(target["masks"]) for target in truths)
    found = coco_mask_ap(predictions, truths, [SIZE] * len(truths), 3)
    assert found["ap"] == found["ap50"] == found["ar_100"] == (pytest.approx(1) if objects else None)
    pairs = mask_iou(predictions, truths, 3)
    assert pairs == ({"mean": 1.0, "pairs": objects, "matched": 1.0} if objects else mask_iou([], [], 3))


def test_masks_decide_and_boxes_do_not():
    """Of a 10x10 object the left 6 columns are found: IoU 0.6, right at 0.5, 0.55 and 0.6 of the ten thresholds."""
    found = [prediction((0, 0.9, B, [20, 0, 26, 10]))]
    scores = coco_mask_ap(found, [truth((0, B))], [SIZE], 1)
    expected = {"ap": 0.3, "ap50": 1, "ap75": 0, "ap_small": 0.3, "ap_medium": None, "ap_large": None}
    assert scores == pytest.approx(expected | dict.fromkeys(("ar_1", "ar_10", "ar_100"), 0.3))
    # of a box somewhere else too: pycocotools never looks at it
    assert coco_mask_ap([prediction((0, 0.9, C, [20, 0, 26, 10]))], [truth((0, B))], [SIZE], 1) == scores
    assert mask_iou(found, [truth((0, B))], 1) == {"mean": pytest.approx(0.6), "pairs": 1, "matched": 1.0}
    json.dumps(scores)


def test_sizes_are_those_of_the_masks_or_of_the_data_set():
    """A box of 50x50 with a mask of 10x10 is small, unless the data set gives an area."""
    target = truth((0, [0, 0, 50, 50], A))
    scores = coco_mask_ap([prediction((0, 0.9, A))], [target], [SIZE], 1)
    assert (scores["ap_small"], scores["ap_medium"], scores["ap_large"]) == (pytest.approx(1), None, None)
    scores = coco_mask_ap([prediction((0, 0.9, A))], [target | {"area": [2500.0]}], [SIZE], 1)
    assert (scores["ap_small"], scores["ap_medium"], scores["ap_large"]) == (None, pytest.approx(1), None)


def test_a_crowd_takes_every_mask_inside_it():
    detections = [prediction((0, 0.99, [40, 0, 45, 10]), (0, 0.95, [42, 0, 50, 8]), (0, 0.9, A))]
    one = coco_mask_ap([prediction((0, 0.9, A))], [truth((0, A))], [SIZE], 1)
    crowd = coco_mask_ap(detections, [truth((0, A), (0, C), crowd=(1,))], [SIZE], 1)
    assert crowd.pop("ar_1") == 0  # at one detection an image the crowd's takes its place
    assert crowd == {name: value for name, value in one.items() if name != "ar_1"}
    # a crowd of another class does not
    other = coco_mask_ap(detections, [truth((0, A), (1, C), crowd=(1,))], [SIZE], 2)
    assert other["ap"] == pytest.approx(1 / 3)
    # none of this counts as a pair
    assert mask_iou(detections, [truth((0, A), (0, C), crowd=(1,))], 1) == {"mean": 1.0, "pairs": 1, "matched": 1.0}
    assert mask_iou(detections, [truth((0, C), crowd=(0,))], 1) == {"mean": None, "pairs": 0, "matched": None}


def test_pairs_by_score_class_and_box():
    """The best detection takes the object that its box fits best, the next what is left, a third nothing."""
    # IoU of boxes: 8x10 of 12x10 pixels is 2/3; the masks share 5x10 of 10x10
    near = (0, 0.8, [2, 0, 12, 10], [0, 0, 5, 10])
    assert mask_iou([prediction(near)], [truth((0, A))], 1)["mean"] == pytest.approx(0.5)
    both = [prediction(near, (0, 0.9, A))]
    assert mask_iou(both, [truth((0, A))], 1) == {"mean": 1.0, "pairs": 1, "matched": 1.0}
    # two objects in one place: each has one detection
    twins = [truth((0, A), (0, A, [5, 0, 10, 10]))]
    assert mask_iou(both, twins, 1) == {"mean": pytest.approx((1 + 0) / 2), "pairs": 2, "matched": 1.0}
    # another class, and a box that fits too little: at the threshold itself it fits
    assert mask_iou([prediction((1, 0.9, A))], [truth((0, A))], 2) == {"mean": None, "pairs": 0, "matched": 0.0}
    assert mask_iou([prediction(near)], [truth((0, A))], 1, iou_threshold=0.7)["pairs"] == 0
    half = [prediction((0, 0.9, [0, 0, 5, 10]))]
    assert mask_iou(half, [truth((0, A))], 1) == {"mean": pytest.approx(0.5), "pairs": 1, "matched": 1.0}
    # images are apart, and pairs are averaged over all of them
    found, targets = [both[0], prediction(), prediction(near)], [truth((0, A), (0, B)), truth((0, A)), truth((0, A))]
    assert mask_iou(found, targets, 1) == {"mean": pytest.approx(0.75), "pairs": 2, "matched": 0.5}


@given(SEEDS)
def test_pairs_equal_loops(seed):
    predictions, truths = scene(seed)
    overlaps, objects = [], 0
    for found, target in zip(predictions, truths, strict=True):
        left = [m for m in range(len(target["masks"])) if not target["crowd"][m]]
        objects += len(left)
        for d in sorted(range(len(found["masks"])), key=lambda d: -found["scores"][d]):
            best, chosen = 0.5, None
            for m in left:
                overlap = loop_iou(found["boxes"][d], target["boxes"][m])
                if target["classes"][m] == found["classes"][d] and (overlap > best or overlap == best == 0.5):
                    best, chosen = overlap, m
            if chosen is not None:
                left.remove(chosen)
                a, b = decode_rle(found["masks"][d]), decode_rle(target["masks"][chosen])
                overlaps.append((a & b).sum() / max((a | b).sum(), 1))
    expected = float(np.mean(overlaps)) if overlaps else None
    found = mask_iou(predictions, truths, 3)
    assert found["pairs"] == len(overlaps)
    assert found["mean"] == (pytest.approx(expected) if overlaps else None)
    assert found["matched"] == (len(overlaps) / objects if objects else None)


def test_nothing_found_nothing_there_and_no_images(capsys):
    none, no_pairs = dict.fromkeys(NAMES), {"mean": None, "pairs": 0, "matched": None}
    for found, targets in (([], []), ([prediction()], [truth()]), ([prediction((0, 0.5, A))], [truth()])):
        assert coco_mask_ap(found, targets, [SIZE] * len(found), 2) == none
        assert mask_iou(found, targets, 2) == no_pairs
    missed = coco_mask_ap([prediction()], [truth((0, A))], [SIZE], 2)
    assert missed == none | {name: 0 for name in NAMES if name not in ("ap_medium", "ap_large")}
    assert mask_iou([prediction()], [truth((0, A))], 2) == {"mean": None, "pairs": 0, "matched": 0.0}
    # a mask without pixels overlaps nothing
    empty = {**prediction((0, 0.9, A)), "masks": [encode_rle(np.zeros(SIZE))]}
    assert coco_mask_ap([empty], [truth((0, A))], [SIZE], 1)["ap"] == 0
    assert mask_iou([empty], [truth((0, A))], 1) == {"mean": 0.0, "pairs": 1, "matched": 1.0}
    assert capsys.readouterr().out == ""


def test_the_protocol_is_in_words():
    assert all(isinstance(text, str) and text for text in instance_protocol().values())


FOUND, TARGET = prediction((0, 0.9, A)), truth((0, A))
RLE = FOUND["masks"][0]


@pytest.mark.parametrize("score", [lambda f, t: coco_mask_ap(f, t, [SIZE] * len(t), 2), lambda f, t: mask_iou(f, t, 2)])
@pytest.mark.parametrize(
    ("found", "target", "parts"),
    [
        ({}, {"masks": []}, ["truth of image 0", "1 boxes and 0 masks"]),
        ({"masks": [RLE, RLE]}, {}, ["prediction of image 0", "1 boxes and 2 masks"]),
        ({"masks": [RLE | {"counts": "12"}]}, {}, ["mask 0 of prediction of image 0", "its image is 60x80"]),
        ({}, {"masks": [RLE | {"counts": b"12"}]}, ["mask 0 of truth of image 0", "counts"]),
        ({"masks": [np.ones(SIZE, bool)]}, {}, ["mask 0 of prediction of image 0"]),
        ({"masks": [mask_of(A, size=(60, 60))]}, {}, ["60x60", "60x80", "original image"]),
        ({"scores": [np.nan]}, {}, ["prediction of image 0", "score"]),
        ({"classes": [2]}, {}, ["prediction of image 0", "class 2"]),
        ({}, {"boxes": [[5, 0, 2, 4]]}, ["truth of image 0", "[5.0, 0.0, 2.0, 4.0]"]),
        ({}, {"area": [1.0, 2.0]}, ["truth of image 0", "areas [1.0, 2.0]"]),
        ({}, {"area": [np.nan]}, ["areas [nan]"]),
    ],
)
def test_bad_input_is_refused(score, found, target, parts):
    with pytest.raises(ReproError) as error:
        score([FOUND | found], [TARGET | target])
    one_line(error, *parts)


@pytest.mark.parametrize("key", ["boxes", "classes", "masks", "scores", "crowd"])
def test_missing_fields_are_refused(key):
    found, target = ({name: value for name, value in each.items() if name != key} for each in (FOUND, TARGET))
    with pytest.raises(ReproError) as error:
        mask_iou([found], [target], 2)
    one_line(error, "image 0", key)


def test_lists_that_do_not_fit_are_refused():
    with pytest.raises(ReproError) as error:
        coco_mask_ap([FOUND], [TARGET], [], 2)
    one_line(error, "sizes of 0 images, truths of 1")
    for call in (lambda: coco_mask_ap([], [TARGET], [SIZE], 2), lambda: mask_iou([], [TARGET], 2)):
        with pytest.raises(ReproError) as error:
            call()
        one_line(error, "predictions of 0 images, truths of 1")
    with pytest.raises(ReproError) as error:
        mask_iou([FOUND], [TARGET], 2, iou_threshold=0)
    one_line(error, "threshold is 0")
