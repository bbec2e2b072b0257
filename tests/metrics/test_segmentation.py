"""Scores of classification and segmentation against scikit-learn and against numbers worked out by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as reference
from support import run_kind

from repro.data.catalog import open_dataset
from repro.errors import ReproError
from repro.experiments.majority import Majority
from repro.metrics.classification import classification_scores, top_k_correct
from repro.metrics.segmentation import confusion_matrix, segmentation_protocol, segmentation_scores
from repro.records.settings import Data
from repro.tasks import Classification, Segmentation

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


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_top_k_is_membership_in_the_stable_ranking(data):
    images, num_classes = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 8))
    # few distinct values, so that most rows hold ties
    scores = data.draw(hnp.arrays(np.float32, (images, num_classes), elements=st.sampled_from([-1, 0, 1, np.inf])))
    labels = data.draw(hnp.arrays(np.uint8, images, elements=st.integers(0, num_classes - 1)))
    k = data.draw(st.integers(1, 9))
    ranking = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    assert top_k_correct(scores, labels, k).tolist() == [y in row for y, row in zip(labels, ranking, strict=True)]
    assert (top_k_correct(scores, labels, 1) == (scores.argmax(axis=1) == labels)).all()


def test_top_k_counts_nan_as_wrong_wherever_it_stands():
    scores = np.array([[np.nan, 0, 0], [9, np.nan, 0], [np.nan] * 3, [9, 0, 0]])
    labels = np.zeros(4, int)
    assert top_k_correct(scores, labels, 1).tolist() == [False, False, False, True]
    assert top_k_correct(scores, labels, 3).tolist() == [False, False, False, True]


@pytest.mark.parametrize(
    ("labels", "k", "message"),
    [([3], 1, "label 3 outside 0..2"), ([-1], 1, "label -1"), ([0, 1], 1, "shape"), ([0], 0, "top-0")],
)
def test_top_k_refuses_bad_input(labels, k, message):
    with pytest.raises(ReproError, match=message):
        top_k_correct(np.zeros((1, 3)), np.array(labels), k)


def test_classification_scores_are_fractions_or_none():
    assert classification_scores(1, 3, 4) == {"top1": 0.25, "top5": 0.75, "images": 4}
    assert classification_scores(np.int64(1), None, 4) == {"top1": 0.25, "top5": None, "images": 4}
    assert classification_scores(0, 0, 0) == {"top1": None, "top5": None, "images": 0}
    json.dumps(classification_scores(np.int64(1), np.int64(2), np.int64(4)))
    with pytest.raises(ReproError, match="contradict"):
        classification_scores(3, 2, 4)
    with pytest.raises(ReproError, match="contradict"):
        classification_scores(5, None, 4)


@pytest.mark.parametrize("task", [Classification(), Segmentation()], ids=lambda task: task.name)
def test_the_majority_baseline_scores_as_its_answer_does_image_by_image(task):
    options = {"image_size": 32, "max_objects": 1, "min_scale": 0.5, "train_size": 24, "val_size": 4, "test_size": 12}
    dataset = open_dataset("shapes", **options)
    trained, asked = ([dataset.sample(split, k) for k in range(dataset.size(split))] for split in ("train", "test"))
    names = task.class_names(dataset.info)
    if task.name == "segmentation":
        seen = np.bincount(np.concatenate([sample.semantic.ravel() for sample in trained]))
        answer = int(seen[: len(names)].argmax())
        shown = [(sample.semantic, np.full_like(sample.semantic, answer)) for sample in asked]
        expected = segmentation_scores(sum(confusion_matrix(*pair, len(names)) for pair in shown), names)
    else:
        seen = np.bincount([sample.label for sample in trained], minlength=len(names))
        answer, labels = int(seen.argmax()), np.array([sample.label for sample in asked])
        hits = [int(top_k_correct(np.tile(seen, (len(labels), 1)), labels, k).sum()) for k in (1, 5)]
        expected = classification_scores(*hits, len(labels))
    (result,) = run_kind(Majority(task=task, data=Data(name="shapes", options=options)))
    assert result.metrics == expected | {"answer": names[answer]}
    assert (result.kind, result.model, result.task, result.scale) == ("eval", "majority", task.name, "smoke")
