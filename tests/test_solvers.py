"""Mined SVMs against the SVM of all negatives and a general solver, ridge regression against the normal equations and
the released procedure, k-means on clusters that are known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from sklearn.svm import LinearSVC

from repro.errors import ReproError
from repro.solvers import NEVER, average_iou, feature_scale, kmeans_boxes, ridge_boxes, train_svms
from tests.reference.boxes import loop_shape_iou
from tests.support.messages import one_line

DIMENSION = 24


def scene(overlap, classes=2, images=30, proposals=60, seed=0):
    """Positives of each class and a stream of images. `overlap` of the two sides: 0 is separable."""
    rng = np.random.default_rng(seed)
    centres = np.eye(classes, DIMENSION) * 6
    positives = [(rng.normal(size=(40, DIMENSION)) + c).astype("float16") for c in centres]
    stream = []
    for _ in range(images):
        features = rng.normal(size=(proposals, DIMENSION))
        overlaps = rng.uniform(0, 0.29, (proposals, classes))
        # some proposals are near an object: of the first class, most of them too near to be negatives
        features[:10] += centres[0]
        overlaps[:10, 0] = np.where(rng.random(10) < overlap, 0.2, rng.uniform(0.3, 1, 10))
        stream.append((features.astype("float16"), overlaps))
    return positives, stream


def full_svm(positives, stream, k, scale, C):
    """All negatives at once."""
    negatives = np.concatenate([features[overlaps[:, k] < 0.3] for features, overlaps in stream])
    x = np.concatenate([positives[k], negatives]).astype(float) * scale
    y = np.repeat([1, -1], [len(positives[k]), len(negatives)])
    svm = LinearSVC(
        C=C, loss="hinge", class_weight={1: 2}, intercept_scaling=10, tol=1e-6, max_iter=10**6, random_state=0
    ).fit(x, y)
    return x, y, svm.coef_[0], svm.intercept_[0]


def objective(x, y, weights, bias, C):
    """As the docstring has it, one example at a time."""
    total = 0.5 * np.dot(weights, weights) + 0.5 * (bias / 10) ** 2
    for example, sign in zip(x, y, strict=True):
        total += C * (2 if sign > 0 else 1) * max(0, 1 - sign * (np.dot(weights, example) + bias))
    return total


@pytest.mark.parametrize("overlap", [0, 0.1], ids=["separable", "not separable"])
@pytest.mark.parametrize("retrain_after", [50, 2000])
def test_mined_svm_is_close_to_that_of_all_negatives(overlap, retrain_after):
    positives, stream = scene(overlap)
    found = train_svms(positives, lambda: iter(stream), 2, retrain_after=retrain_after)
    assert found["weights"].shape == (DIMENSION, 2)
    assert found["weights"].dtype == found["bias"].dtype == "float32"
    for k in range(2):
        x, y, weights, bias = full_svm(positives, stream, k, found["scale"], 1e-3)
        best = objective(x, y, weights, bias, 1e-3)
        mined = objective(x, y, found["weights"][:, k], found["bias"][k], 1e-3)
        assert best <= mined * (1 + 1e-5)
        assert mined <= best * 1.01
        full_scores, scores = x @ weights + bias, x @ found["weights"][:, k] + found["bias"][k]
        assert np.abs(full_scores - scores).max() < 0.05 * np.ptp(full_scores)
        assert ((full_scores > 0) == (scores > 0)).mean() > 0.99
        # it saw few of them at the end, and what it reports is the objective over these
        stats = found["stats"][k]
        assert stats["positives"] == 40
        assert stats["negatives"] < (y < 0).sum()
        assert stats["objective"][-1] <= mined * (1 + 1e-5)
        assert len(stats["objective"]) > 2 or retrain_after == 2000
    # the second class has no negatives near it
    assert (found["weights"][1, 1] > 0.1 * np.abs(found["weights"][:, 1]).max()).all()


def test_one_image_is_solved_exactly_against_a_general_solver():
    rng = np.random.default_rng(3)
    positives = rng.normal(size=(8, 2)) + 1.5
    negatives = rng.normal(size=(14, 2))
    found = train_svms([positives], lambda: [(negatives, np.zeros((14, 1)))], 1, C=0.05)
    x = np.concatenate([positives, negatives]) * found["scale"]
    y, costs = np.repeat([1, -1], [8, 14]), np.repeat([0.1, 0.05], [8, 14])

    # the quadratic program with its slacks, over (w, b / 10, slacks)
    def value(v):
        return v[:3] @ v[:3] / 2 + costs @ v[3:]

    margins = {"type": "ineq", "fun": lambda v: y * (x @ v[:2] + 10 * v[2]) - 1 + v[3:]}
    start = np.concatenate([np.zeros(3), np.ones(22)])
    expected = minimize(
        value, start, method="SLSQP", bounds=[(None, None)] * 3 + [(0, None)] * 22, constraints=margins, tol=1e-12
    )
    assert expected.success
    assert found["stats"][0]["objective"][-1] == pytest.approx(expected.fun, rel=1e-4)
    np.testing.assert_allclose(found["weights"][:, 0], expected.x[:2], atol=2e-3)
    assert found["bias"][0] == pytest.approx(10 * expected.x[2], abs=2e-2)


def test_positives_and_the_grey_zone_are_no_negatives():
    rng = np.random.default_rng(0)
    positives = [rng.normal(size=(20, 4)) + 3]
    background = rng.normal(size=(30, 4))
    # of the same norms, so that the scale is the same
    both = np.concatenate([background, -background])
    clean = train_svms(positives, lambda: [(background, np.full((30, 1), 0.29))] * 2, 1)
    grey = train_svms(positives, lambda: [(both, np.repeat([0.29, 0.3], 30)[:, None])] * 2, 1)
    np.testing.assert_allclose(grey["weights"], clean["weights"], rtol=1e-3)
    assert grey["stats"][0]["negatives"] == clean["stats"][0]["negatives"]
    caught = train_svms(positives, lambda: [(both, np.repeat([0.29, 0.3], 30)[:, None])] * 2, 1, negative_iou=0.31)
    assert caught["stats"][0]["negatives"] > grey["stats"][0]["negatives"]


def test_easy_negatives_are_evicted_or_never_taken():
    rng = np.random.default_rng(1)
    positives = [rng.normal(size=(30, 4)) + 4]
    near, far = rng.normal(size=(10, 4)), rng.normal(size=(50, 4)) - 20

    def negatives(*images):
        stream = [(x, np.zeros((len(x), 1))) for x in images]
        stats = train_svms(positives, lambda: stream, 1, C=0.1)["stats"][0]
        assert len(stats["objective"]) == 2
        return stats["negatives"]

    assert negatives(near, far) <= 10
    # all of the first image are solved for, but only once
    assert negatives(np.concatenate([near, far]), far) <= 10
    assert negatives(near, near + 3) > 10


def test_a_cache_keeps_the_hardest_negatives_alone():
    rng = np.random.default_rng(0)  # features that tell nothing: every negative is hard
    positives = [rng.normal(size=(20, DIMENSION)).astype("float16")]
    stream = [(rng.normal(size=(50, DIMENSION)).astype("float16"), np.zeros((50, 1))) for _ in range(40)]

    def solved(**options):
        return train_svms(positives, lambda: iter(stream), 1, **options)

    whole, tight = solved(retrain_after=50), solved(retrain_after=50, cache=100)
    assert whole["stats"][0]["negatives"] > 1000
    # what was kept and what joined: more than 100, an image has 50
    assert 100 < tight["stats"][0]["negatives"] <= 100 + 150
    assert len(tight["stats"][0]["objective"]) < len(whole["stats"][0]["objective"])
    # one that nothing fills changes nothing
    wide, without = solved(retrain_after=5000, cache=5000), solved(retrain_after=5000)
    np.testing.assert_array_equal(wide["weights"], without["weights"])


def test_images_are_streamed():
    """A second image is not asked for while the first is held, and no pass but two is made."""
    positives, stream = scene(0.3, images=6)
    passes = []

    def images():
        passes.append([])
        for number, image in enumerate(stream):
            passes[-1].append(number)
            yield image

    train_svms(positives, images, 2)
    assert passes == [list(range(6))] * 2


def test_a_class_without_positives_never_fires():
    positives, stream = scene(0.3)
    both = train_svms(positives, lambda: stream, 2)
    one = train_svms([positives[0], np.zeros((0, DIMENSION), "float16")], lambda: stream, 2)
    np.testing.assert_array_equal(one["weights"][:, 0], both["weights"][:, 0])
    scores = (stream[0][0].astype(float) * one["scale"]) @ one["weights"] + one["bias"]
    assert (scores[:, 1] == NEVER).all()
    assert scores[:, 0].min() > -100
    assert one["stats"][1] == {"positives": 0, "negatives": 0, "objective": []}
    empty = train_svms([[], []], lambda: stream, 2)
    assert (empty["weights"] == 0).all()
    assert (empty["bias"] == NEVER).all()


@pytest.mark.parametrize("factor", [1e-2, 1, 1e2])
def test_features_are_scaled_to_one_norm(factor):
    rng = np.random.default_rng(0)
    features = [(rng.normal(size=(20, 5)) * factor).astype("float32") for _ in range(3)]
    scale = feature_scale(lambda: [(x, None) for x in features], 20)
    assert np.mean([np.linalg.norm(row * scale) for x in features for row in x]) == pytest.approx(20, rel=1e-5)
    first = feature_scale(lambda: [(x, None) for x in features], 20, limit=1)
    assert np.linalg.norm(features[0] * first, axis=1).mean() == pytest.approx(20, rel=1e-5)


def test_a_norm_beyond_float16_is_no_overflow():
    features = np.full((2, 4), 6e4, "float16")
    assert feature_scale(lambda: [(features, None)], 20) == pytest.approx(20 / np.linalg.norm([6e4] * 4), rel=1e-3)


@pytest.mark.parametrize(
    ("positives", "image", "part"),
    [
        ([np.ones((2, 3))], (np.ones((4, 3)), np.zeros((4, 2))), "1 classes, not 2"),
        ([np.ones((2, 5)), np.ones((2, 3))], (np.ones((4, 3)), np.zeros((4, 2))), "class 0"),
        ([np.ones((2, 3))] * 2, (np.ones((4, 3)), np.zeros((3, 2))), "(3, 2)"),
        ([np.ones((2, 3))] * 2, (np.full((4, 3), np.inf), np.zeros((4, 2))), "image 0"),
        ([np.full((2, 3), np.nan)] * 2, (np.ones((4, 3)), np.zeros((4, 2))), "positives of class 0"),
        ([np.ones((2, 3))] * 2, (np.zeros((4, 3)), np.zeros((4, 2))), "zero"),
        ([np.ones((2, 3))] * 2, (np.ones((4, 3)), np.repeat([[0.0, 0.5]], 4, axis=0)), "class 1 has no negative"),
        ([np.ones((2, 3))] * 2, (np.ones((4, 3), int), np.zeros((4, 2))), "int64"),
    ],
)
def test_bad_svm_input(positives, image, part):
    with pytest.raises(ReproError) as error:
        train_svms(positives, lambda: [image], 2)
    one_line(error, part)


def test_streams_that_are_no_streams():
    good = (np.ones((4, 3)), np.zeros((4, 1)))
    with pytest.raises(ReproError) as error:
        train_svms([np.ones((2, 3))], list, 1)
    one_line(error, "0 features")
    once = iter([good])
    with pytest.raises(ReproError) as error:
        train_svms([np.ones((2, 3))], lambda: once, 1)
    one_line(error, "second pass")
    with pytest.raises(ReproError) as error:
        train_svms([np.ones((2, 3))], lambda: [good, (np.ones((4, 5)), np.zeros((4, 1)))], 1)
    one_line(error, "image 1", "5")


def examples(n, dimension, dtype="float64", seed=0):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, dimension)) + 1
    targets = features[:, :4] @ rng.normal(size=(4, 4)) / 4 + rng.normal(size=4) + 0.1 * rng.normal(size=(n, 4))
    return features.astype(dtype), targets.astype(dtype)


def released(features, targets, lam):
    """rcnn_train_bbox_regressor.m and rcnn_predict_bbox_regressor.m step by step, as predictions."""
    x = np.concatenate([features, np.ones((len(features), 1))], axis=1)
    mean = targets.mean(0)
    y = targets - mean
    values, vectors = np.linalg.eigh(y.T @ y / len(y))
    whiten = vectors @ np.diag(1 / np.sqrt(values + 0.001)) @ vectors.T
    undo = vectors @ np.diag(np.sqrt(values + 0.001)) @ vectors.T
    upper = np.linalg.cholesky(x.T @ x + lam * np.eye(x.shape[1])).T
    beta = np.linalg.solve(upper, np.linalg.solve(upper.T, x.T @ (y @ whiten)))
    return x @ beta @ undo + mean


@pytest.mark.parametrize("lam", [1.0, 1000.0])
@pytest.mark.parametrize("shape", [(200, 10), (12, 40), (11, 10), (1, 6)], ids=["primal", "dual", "square", "one row"])
def test_ridge_is_that_of_the_release(shape, lam):
    features, targets = examples(*shape)
    weights = ridge_boxes(features, targets, lam)
    assert weights.shape == (shape[1] + 1, 4)
    np.testing.assert_allclose(
        features @ weights[:-1] + weights[-1], released(features, targets, lam), rtol=1e-9, atol=1e-9
    )


def test_ridge_in_the_dual_is_the_normal_equations():
    features, targets = examples(12, 40)
    x = np.concatenate([features * 3, np.ones((12, 1))], axis=1)
    expected = np.linalg.inv(x.T @ x + 7 * np.eye(41)) @ x.T @ (targets - targets.mean(0))
    expected[-1] += targets.mean(0)
    np.testing.assert_allclose(ridge_boxes(features, targets, 7, scale=3), expected, rtol=1e-8, atol=1e-10)


def test_ridge_of_many_features_needs_no_square_of_them():
    """25,088 features of VGG's pool5: the primal's matrix would take 2.5 GB."""
    features, targets = examples(8, 25088, "float16")
    weights = ridge_boxes(features, targets.astype("float32"))
    assert weights.dtype == "float32"
    x = np.concatenate([features.astype(float), np.ones((8, 1))], axis=1)
    centred = targets.astype("float32") - targets.astype("float32").mean(0)
    expected = x.T @ np.linalg.solve(x @ x.T + 1000 * np.eye(8), centred)
    np.testing.assert_allclose(weights[:-1], expected[:-1], atol=1e-6)
    assert np.abs(expected[:-1]).max() > 1e-5


def test_no_penalty_finds_the_line_and_a_great_one_the_mean():
    features = np.random.default_rng(0).normal(size=(50, 3))
    targets = features @ np.arange(12.0).reshape(3, 4) + [1, 2, 3, 4]
    weights = ridge_boxes(features, targets, 1e-9)
    np.testing.assert_allclose(weights[:-1], np.arange(12.0).reshape(3, 4), atol=1e-6)
    np.testing.assert_allclose(weights[-1], [1, 2, 3, 4], atol=1e-6)
    weights = ridge_boxes(features, targets, 1e12)
    np.testing.assert_allclose(features @ weights[:-1] + weights[-1], [targets.mean(0)] * 50, atol=1e-6)


@pytest.mark.parametrize(
    ("features", "targets", "lam", "part"),
    [
        (np.ones((3, 2)), np.ones((2, 4)), 1, "(2, 4)"),
        (np.ones((0, 2)), np.ones((0, 4)), 1, "(0, 4)"),
        (np.ones((3, 2)), np.ones((3, 2)), 1, "(3, 2)"),
        (np.ones((3, 2)), np.full((3, 4), np.nan), 1, "finite"),
        (np.full((3, 2), np.inf), np.ones((3, 4)), 1, "finite"),
        (np.ones(3), np.ones((3, 4)), 1, "(3,)"),
        (np.ones((3, 2)), np.ones((3, 4)), 0, "lam is 0"),
    ],
)
def test_bad_ridge_input(features, targets, lam, part):
    with pytest.raises(ReproError) as error:
        ridge_boxes(features, targets, lam)
    one_line(error, part)


CENTRES = np.array([[10.0, 12.0], [50.0, 20.0], [30.0, 90.0], [200.0, 180.0]])


def clusters(seed, spread=0.05, count=100):
    rng = np.random.default_rng(seed)
    return rng.permutation(np.concatenate([c * np.exp(spread * rng.normal(size=(count, 2))) for c in CENTRES]))


@pytest.mark.parametrize("update", ["mean", "median"])
@pytest.mark.parametrize("seed", range(3))
def test_kmeans_recovers_known_clusters(seed, update):
    sizes = clusters(seed)
    found = kmeans_boxes(sizes, 4, seed, update)
    order = np.argsort(CENTRES.prod(1))
    np.testing.assert_allclose(found, CENTRES[order], rtol=0.03)
    # at the fixed point each centre is the middle of the boxes nearest to it, found by a loop
    nearest = np.array([np.argmax([loop_shape_iou(size, centre) for centre in found]) for size in sizes])
    for k in range(4):
        middle = getattr(np, update)(sizes[nearest == k], axis=0)
        np.testing.assert_allclose(found[k], middle)
    np.testing.assert_array_equal(found, kmeans_boxes(sizes, 4, seed, update))


def test_kmeans_weighs_small_boxes_as_much_as_large_ones():
    """Squared differences give all centres but one to the large boxes, IoU does not (YOLO v2, Sec 2)."""
    rng = np.random.default_rng(0)
    small = np.array([[4.0, 8.0], [8.0, 4.0]])[rng.integers(0, 2, 60)] * np.exp(0.02 * rng.normal(size=(60, 2)))
    large = np.array([400.0, 400.0]) * np.exp(0.2 * rng.normal(size=(60, 2)))
    found = kmeans_boxes(np.concatenate([small, large]), 3, seed=0)
    np.testing.assert_allclose(sorted(found[:2].tolist()), [[4, 8], [8, 4]], rtol=0.05)


def test_kmeans_leaves_the_callers_boxes_alone():
    sizes = clusters(0)
    before = sizes.copy()
    kmeans_boxes(sizes, 1)
    np.testing.assert_array_equal(sizes, before)


def test_average_iou():
    # 2x2 against 1x4: 2 / (4 + 4 - 2) = 1/3, against 2x3: 4/6; 1x4 against 1x4: 1
    assert average_iou(np.array([[2, 2], [1, 4]]), np.array([[1, 4], [2, 3]])) == pytest.approx((4 / 6 + 1) / 2)
    sizes = clusters(0)
    by_number = [average_iou(sizes, kmeans_boxes(sizes, k)) for k in range(1, 5)]
    assert by_number == sorted(by_number)
    assert by_number[3] > 0.85
    slow = np.mean([max(loop_shape_iou(size, centre) for centre in CENTRES) for size in sizes])
    assert average_iou(sizes, CENTRES) == pytest.approx(slow)


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=12), st.integers(0, 3))
def test_as_many_clusters_as_sizes_are_the_sizes(pairs, seed):
    sizes = np.unique(np.array(pairs, float), axis=0)
    found = kmeans_boxes(sizes, len(sizes), seed)
    assert sorted(map(tuple, found)) == sorted(map(tuple, sizes))
    areas = found.prod(1)
    assert (np.diff(areas) >= 0).all()
    with pytest.raises(ReproError):
        kmeans_boxes(np.concatenate([sizes, sizes]), len(sizes) + 1, seed)


@pytest.mark.parametrize(
    ("sizes", "k", "update", "part"),
    [
        (np.ones((3, 3)), 1, "mean", "(3, 3)"),
        (np.array([[1.0, 0.0]]), 1, "mean", "above 0"),
        (np.array([[1.0, np.nan]]), 1, "mean", "above 0"),
        (np.ones((3, 2)), 4, "mean", "4 clusters of 3 sizes"),
        (np.ones((3, 2)), 0, "mean", "0 clusters"),
        (np.ones((3, 2)), 2, "mean", "2 clusters of 1 different"),
        (np.ones((3, 2)), 1, "mode", "mode"),
    ],
)
def test_bad_sizes(sizes, k, update, part):
    with pytest.raises(ReproError) as error:
        kmeans_boxes(sizes, k, update=update)
    one_line(error, part)
