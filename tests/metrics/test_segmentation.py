"""Scores of segmentation against scikit-learn and against numbers worked out by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference

from repro.errors import ReproError
from repro.metrics.segmentation import confusion_matrix, segmentation_protocol, segmentation_scores

VOID = 255
MEANS = ("pixel_accuracy", "mean_pixel_accuracy", "mean_iou", "frequency_weighted_iou", "mean_dice")


@st.composite
def label_maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Truth with void, prediction of any integer type, number of classes (20 overflows a uint8 product)."""
    num_classes = draw(st.sampled_from([1, 2, 5, 20]))
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 12)))
    labels = st.one_of(st.integers(0, num_classes - 1), st.just(VOID))
    truth = draw(hnp.arrays(np.uint8, shape, elements=labels))
    kind = draw(st.sampled_from([np.uint8, np.int32, np.int64]))
    return truth, draw(hnp.arrays(kind, shape, elements=st.integers(0, num_classes - 1))), num_classes


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(max_examples=60, deadline=None)
@given(label_maps())
def test_segmentation_scores_equal_scikit_learn(maps):
    truth, prediction, num_classes = maps
    confusion = confusion_matrix(truth, prediction, num_classes)
    scores = segmentation_scores(confusion, [f"c{i}" for i in range(num_classes)])
    t, p = truth[truth != VOID], prediction[truth != VOID]
    assert confusion.dtype == np.int64
    assert confusion.shape == (num_classes, num_classes)
    if not t.size:
        assert not confusion.any()
        assert all(scores[name] is None for name in MEANS)
        return
    assert (confusion == reference.confusion_matrix(t, p, labels=range(num_classes))).all()
    present = np.union1d(t, p)
    assert scores["absent_classes"] == [f"c{i}" for i in range(num_classes) if i not in present]
    iou = reference.jaccard_score(t, p, labels=present, average=None, zero_division=0)
    dice = reference.f1_score(t, p, labels=present, average=None, zero_division=0)
    for i, c in enumerate(present):
        ours = scores["per_class"][f"c{c}"]
        assert ours["iou"] == pytest.approx(iou[i], abs=1e-12)
        assert ours["dice"] == pytest.approx(dice[i], abs=1e-12)
        assert ours["iou"] == pytest.approx(ours["dice"] / (2 - ours["dice"]), abs=1e-12)
        assert ours["pixels"] == (t == c).sum()
    recall = reference.recall_score(t, p, labels=np.unique(t), average="macro")
    weighted = reference.jaccard_score(t, p, labels=np.unique(t), average="weighted")
    expected = (reference.accuracy_score(t, p), recall, iou.mean(), weighted, dice.mean())
    assert [scores[name] for name in MEANS] == pytest.approx(expected, abs=1e-12)


def test_worked_example_with_void_and_a_class_only_predicted():
    truth = np.array([[0, 0, 0, 0], [1, 1, VOID, VOID]], np.uint8)
    prediction = np.array([[0, 0, 0, 1], [1, 2, 2, 0]], np.uint8)
    confusion = confusion_matrix(truth, prediction, 4)
    assert confusion.tolist() == [[3, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    scores = segmentation_scores(confusion, ["sky", "road", "car", "sign"])
    # IoU 3/4, 1/3, 0 and Dice 6/7, 2/4, 0: "car" is predicted where there is none, "sign" occurs nowhere
    assert scores["per_class"] == {
        "sky": {"accuracy": 3 / 4, "iou": 3 / 4, "dice": 6 / 7, "pixels": 4},
        "road": {"accuracy": 1 / 2, "iou": 1 / 3, "dice": 1 / 2, "pixels": 2},
        "car": {"accuracy": None, "iou": 0.0, "dice": 0.0, "pixels": 0},
        "sign": {"accuracy": None, "iou": None, "dice": None, "pixels": 0},
    }
    assert scores["absent_classes"] == ["sign"]
    assert [scores[name] for name in MEANS] == pytest.approx(
        [4 / 6, (3 / 4 + 1 / 2) / 2, (3 / 4 + 1 / 3) / 3, (4 * 3 / 4 + 2 / 3) / 6, (6 / 7 + 1 / 2) / 3]
    )
    assert json.loads(json.dumps(scores)) == scores
    assert all(isinstance(text, str) for text in segmentation_protocol().values())


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        ([1, 1, 1], [1, 1, 1], [1.0, 1.0, 1.0, 1.0, 1.0]),
        ([1, 1, 1], [0, 0, 0], [0.0, 0.0, 0.0, 0.0, 0.0]),
        # half of each of two equal strips overlaps: IoU 1/3, Dice 1/2, both for the strip and for the rest
        ([1, 1, 0, 0], [0, 1, 1, 0], [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 2]),
        ([VOID, VOID], [0, 1], [None] * 5),
    ],
    ids=["identical, one class", "disjoint", "half overlap", "all void"],
)
def test_limit_cases(truth, prediction, expected):
    confusion = confusion_matrix(np.array(truth, np.uint8), np.array(prediction), 2)
    scores = segmentation_scores(confusion, ["background", "object"])
    assert [scores[name] for name in MEANS] == pytest.approx(expected)
    assert json.loads(json.dumps(scores)) == scores


def test_matrices_of_images_add_up_to_the_matrix_of_the_split():
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 3, (2, 4, 5, 6), dtype=np.uint8)
    whole = confusion_matrix(truth, prediction, 3)
    assert (sum(confusion_matrix(t, p, 3) for t, p in zip(truth, prediction, strict=True)) == whole).all()


@pytest.mark.parametrize(
    ("truth", "prediction", "void", "message"),
    [
        ([0, 7], [0, 0], 255, "truth has label 7 outside 0..2"),
        ([0, -1], [0, 0], 255, "truth has label -1"),
        ([0, 1], [3, 0], 255, "prediction has label 3 outside 0..2"),
        ([255, 1], [255, 0], 255, "prediction has label 255"),
        ([0, 1], [0.0, 1.0], 255, "float64"),
        ([0, 1], [0, 1, 1], 255, r"shape \(2,\), prediction \(3,\)"),
        ([0, 1], [0, 1], 2, "void label 2 is also one of the 3 classes"),
    ],
)
def test_bad_label_maps_are_refused_with_their_values(truth, prediction, void, message):
    with pytest.raises(ReproError, match=message):
        confusion_matrix(np.array(truth), np.array(prediction), 3, void)


@pytest.mark.parametrize(
    ("confusion", "names", "message"),
    [
        (np.eye(3, dtype=int), ["a", "b"], "for 2 class names"),
        (np.eye(2, dtype=int), ["a", "a"], "'a' occurs twice"),
        (np.eye(2), ["a", "b"], "pixel counts"),
        (-np.eye(2, dtype=int), ["a", "b"], "pixel counts"),
    ],
)
def test_bad_confusion_matrices_are_refused(confusion, names, message):
    with pytest.raises(ReproError, match=message):
        segmentation_scores(confusion, names)
