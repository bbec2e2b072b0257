"""V_rand against counting pairs one by one, against scikit-image, and against numbers worked out by hand."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.measure import label
from skimage.metrics import adapted_rand_error
from skimage.segmentation import expand_labels

from repro.errors import ReproError
from repro.metrics.rand import THRESHOLDS, RandScore, rand_protocol, rand_score


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """True cell numbers with gaps and ignored pixels, and a predicted cell mask."""
    shape = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    truth = draw(hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 1, 2, 5, 900])))
    return truth, draw(hnp.arrays(bool, shape))


def segments_of(prediction):
    """Thinned segments by the library: expand_labels instead of a distance transform of our own."""
    if not prediction.any():
        return np.arange(1, prediction.size + 1).reshape(prediction.shape)
    return expand_labels(label(prediction, connectivity=1), distance=1e6)


def ratio(part, whole):
    return part / whole if whole else None


def slow_score(truth, segments):
    """Every pair of pixels of true cells, one by one."""
    pixels = [(t, s) for t, s in zip(truth.ravel(), segments.ravel(), strict=True) if t]
    same_truth = same_segment = same_both = 0
    for (t1, s1), (t2, s2) in itertools.combinations(pixels, 2):
        same_truth += t1 == t2
        same_segment += s1 == s2
        same_both += t1 == t2 and s1 == s2
    return {
        "score": ratio(2 * same_both, same_truth + same_segment),
        "split": ratio(same_both, same_truth),
        "merge": ratio(same_both, same_segment),
    }


@given(maps())
def test_equals_counting_pairs(images):
    truth, prediction = images
    assert rand_score(truth, prediction) == pytest.approx(slow_score(truth, segments_of(prediction)), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_equals_scikit_image(seed):
    rng = np.random.default_rng(seed)
    truth = np.kron(rng.integers(0, 9, (5, 7)), np.ones((6, 5), int))
    prediction = rng.random(truth.shape) > 0.2 + 0.2 * seed
    # scikit-image divides by the pairs of the truth first, whatever it calls the two (all merged gives 1 there)
    error, split, merge = adapted_rand_error(truth, segments_of(prediction), ignore_labels=(0,))
    expected = {"score": 1 - error, "split": split, "merge": merge}
    assert rand_score(truth, prediction) == pytest.approx(expected, abs=1e-12)


# cells of 3x5 and 3x2 pixels and the membrane between them
TRUTH = np.array([[1, 1, 1, 1, 1, 0, 2, 2]] * 3)


@pytest.mark.parametrize(
    ("prediction", "expected"),
    [
        ([1, 1, 1, 1, 1, 0, 1, 1], (1, 1, 1)),
        # thinning: a membrane too wide costs nothing
        ([1, 1, 1, 0, 0, 0, 0, 1], (1, 1, 1)),
        # C(15) + C(6) = 120 true pairs of the C(21) = 210 pairs of one segment
        ([1, 1, 1, 1, 1, 1, 1, 1], (2 * 120 / (120 + 210), 1, 120 / 210)),
        # a membrane through the first cell leaves C(6) + C(9) + C(6) = 66 of the 120 pairs together
        ([1, 0, 0, 1, 1, 0, 1, 1], (2 * 66 / (120 + 66), 66 / 120, 1)),
        # that membrane instead of the true one: segments of 6 and 15 pixels, 9 + 6 in the second
        ([1, 0, 0, 1, 1, 1, 1, 1], (2 * 66 / (120 + 120), 66 / 120, 66 / 120)),
        # no cell predicted: every pixel on its own
        ([0, 0, 0, 0, 0, 0, 0, 0], (0, 0, None)),
    ],
    ids=["perfect", "wide membrane", "all merged", "split", "moved", "empty"],
)
def test_hand_cases(prediction, expected):
    scores = rand_score(TRUTH, np.array([prediction] * 3, bool))
    assert tuple(scores[name] for name in ("score", "split", "merge")) == pytest.approx(expected)


def test_all_split():
    truth = np.ones((5, 5), int)
    prediction = np.indices(truth.shape).sum(0) % 2 == 0
    scores = rand_score(truth, prediction)
    assert label(prediction, connectivity=1).max() == 13
    assert scores["merge"] == 1
    # 12 of the 13 segments gain at most 4 pixels each of the 25
    assert scores["split"] < 13 * (5 * 4 / 2) / (25 * 24 / 2)


def test_cells_that_touch_at_a_corner_are_two():
    truth = np.array([[1, 1, 0], [1, 0, 2], [0, 2, 2]])
    assert rand_score(truth, truth > 0)["score"] == 1
    score = RandScore()
    score.add(truth > 0, (truth > 0).astype("float32"))
    assert score.result()["rand_score"] == 1


@given(maps(), st.permutations([1, 2, 5, 900]))
def test_numbers_of_cells_do_not_matter(images, order):
    truth, prediction = images
    renamed = np.zeros_like(truth)
    for old, new in zip((1, 2, 5, 900), order, strict=True):
        renamed[truth == old] = new + 3
    assert rand_score(renamed, prediction) == rand_score(truth, prediction)


def volume():
    """Three images: two cells behind a membrane of probability 0.45, 0.45 and 0.65, and one without cells."""
    for membrane in (0.45, 0.45, 0.65):
        yield TRUTH > 0, np.where(TRUTH > 0, 0.9, membrane).astype("float32")
    yield np.zeros((3, 5), bool), np.full((3, 5), 0.3, "float32")


def test_the_best_threshold_is_the_volumes():
    score = RandScore()
    for truth, probability in volume():
        score.add(truth, probability)
    merged = 240 / 330
    assert score.result() == {
        "rand_score": pytest.approx((1 + 1 + merged) / 3),
        "rand_split": 1.0,
        "rand_merge": pytest.approx((1 + 1 + 120 / 210) / 3),
        "rand_score_best": 1.0,
        "rand_threshold": 0.7,
    }
    assert json.loads(json.dumps(score.result())) == score.result()
    few = RandScore((0.1, 0.6, 0.6001))
    for truth, probability in volume():
        few.add(truth, probability)
    assert few.result()["rand_threshold"] == 0.6  # the lowest of equals
    assert few.result()["rand_score"] == score.result()["rand_score"]
    assert 0.5 in THRESHOLDS


def test_classes_may_hold_void():
    """uint8 classes: 1 is cell; membrane and void are not scored."""
    classes = np.where(TRUTH > 0, 1, 0).astype(np.uint8)
    classes[0] = 255
    probability = np.full(classes.shape, 0.9, np.float32)
    probability[1:, 5] = 0.1
    scored, expected = RandScore(), RandScore()
    scored.add(classes, probability)
    expected.add(classes == 1, probability)
    assert scored.result() == expected.result()
    # the open first row joins what the membrane below divides: C(10) + C(4) = 51 of C(14) = 91 pairs
    assert scored.result()["rand_score"] == pytest.approx(2 * 51 / (51 + 91))


def test_without_cells_nothing_is_scored():
    score = RandScore()
    assert set(score.result().values()) == {None}
    score.add(np.zeros((4, 4), bool), np.ones((4, 4), "float32"))
    assert set(score.result().values()) == {None}
    assert set(score.result()) - {"rand_threshold"} == set(rand_protocol())
    assert set(rand_score(np.zeros((2, 2), int), np.ones((2, 2), bool)).values()) == {None}


@pytest.mark.parametrize(
    ("truth", "probability", "message"),
    [
        (np.ones((2, 3), int), np.ones((3, 2)), r"shape \(2, 3\), prediction \(3, 2\)"),
        (np.ones((2, 3, 1), int), np.ones((2, 3, 1)), "one size"),
        (np.ones((0, 3), int), np.ones((0, 3)), r"\(0, 3\)"),
        (np.ones((2, 3)), np.ones((2, 3)), "float64 from 1"),
        (-np.ones((2, 3), int), np.ones((2, 3)), "int64 from -1"),
        (np.ones((2, 3), int), np.ones((2, 3), int), "probability of cells is int64"),
        (np.ones((2, 3), int), np.full((2, 3), 1.5), "ranges from 1.5 to 1.5"),
        (np.ones((2, 3), int), np.full((2, 3), -0.5), "softmax, not logits"),
        (np.ones((2, 3), int), np.full((2, 3), np.nan), "nan"),
    ],
)
def test_bad_input_is_refused(truth, probability, message):
    with pytest.raises(ReproError, match=message):
        RandScore().add(truth, probability)


def test_predictions_must_be_masks():
    with pytest.raises(ReproError, match="float64"):
        rand_score(TRUTH, np.ones(TRUTH.shape))


def test_a_probability_at_the_threshold_is_membrane():
    """As the class of highest score, where the first of equals is membrane."""
    score = RandScore((0.5,))
    score.add(TRUTH > 0, np.where(TRUTH > 0, 0.75, 0.5).astype("float32"))
    assert score.result()["rand_score"] == 1
