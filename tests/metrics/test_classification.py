"""Scores of classification against rankings and numbers worked out by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from repro.errors import ReproError
from repro.metrics.classification import classification_scores, top_k_correct


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
