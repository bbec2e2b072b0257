"""Non-maximum suppression against sequential loops and TensorFlow's own, on both backends, eager and compiled."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from repro import backend
from repro.ops.nms import class_nms, nms
from tests.parity.nms import CLASS_CASES, EAGER_ON_JAX, MODES, NMS_CASES, call, gradient, in_mode, inputs
from tests.reference.nms import iou, sequential_class_nms, sequential_nms


@functools.cache
def expected(case):
    """{name: array} that the loops make of a case, padded."""
    arrays = inputs()[case]
    if case in NMS_CASES:
        settings = NMS_CASES[case][1]
        shape = (len(arrays["boxes"]), settings["max_output"])
        found = {"indices": np.zeros(shape, "int32"), "kept": np.zeros(shape, bool)}
        for row, one in enumerate(zip(*arrays.values(), strict=True)):
            kept = sequential_nms(*one, **settings)
            found["indices"][row, : len(kept)], found["kept"][row, : len(kept)] = kept, True
        return found
    settings = CLASS_CASES[case][2]
    shape = (len(arrays["boxes"]), settings["max_output"])
    found = {"boxes": np.zeros((*shape, 4), "float32"), "scores": np.zeros(shape, "float32")}
    found |= {"classes": np.full(shape, -1, "int32"), "count": np.zeros(shape[0], "int32")}
    for row, (boxes, scores) in enumerate(zip(*arrays.values(), strict=True)):
        best = sequential_class_nms(boxes, scores, **settings)
        found["count"][row] = len(best)
        for place, (score, c, i) in enumerate(best):
            found["boxes"][row, place] = boxes[i, c % boxes.shape[1]]
            found["scores"][row, place], found["classes"][row, place] = -score, c
    return found


def assert_is_expected(case, found):
    for name, array in expected(case).items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


CASES = pytest.mark.parametrize("case", [*NMS_CASES, *CLASS_CASES])
EITHER_MODE = pytest.mark.parametrize("mode", MODES)
ON_OTHERS = pytest.mark.parametrize("name", [name for name in backend.BACKENDS if name != backend.name()])


@CASES
@EITHER_MODE
def test_is_the_sequential_algorithm(case, mode):
    assert_is_expected(case, call(case, mode, inputs()[case]))


@ON_OTHERS
@CASES
@EITHER_MODE
def test_is_the_sequential_algorithm_on_other_backends(computed, name, case, mode):
    if (name, mode) == ("jax", "eager") and case not in EAGER_ON_JAX:
        pytest.skip("takes long, and the smaller cases show the same")
    arrays, prefix = computed(name, "nms"), f"{case}/{mode}/"
    assert_is_expected(case, {key.removeprefix(prefix): a for key, a in arrays.items() if key.startswith(prefix)})


def test_the_cases_are_hard():
    """Enough lists, of which many are decided by ties, by chains of overlaps and by the limit."""
    lists = {case: len(inputs()[case]["boxes"]) for case in NMS_CASES}
    assert sum(lists.values()) >= 1000
    full = np.concatenate([expected(case)["kept"][:, -1] for case in NMS_CASES])
    assert 0.2 < full.mean() < 0.9
    dropped = ties = 0
    for case, (_, settings) in NMS_CASES.items():
        for boxes, scores, valid in zip(*inputs()[case].values(), strict=True):
            everything = {**settings, "max_output": len(boxes)}
            kept = sequential_nms(boxes, scores, valid, **everything)
            dropped += len(kept) < (valid & np.isfinite(scores)).sum()
            ends = sequential_nms(boxes[::-1], scores[::-1], valid[::-1], **everything)  # ties the other way round
            ties += kept != [len(boxes) - 1 - i for i in ends]
    assert min(dropped, ties) > 0.5 * sum(lists.values())


@pytest.mark.parametrize(("number", "max_output", "tile"), [(600, 40, 64), (600, 600, 100), (300, 50, None)])
@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_is_tensorflows_where_nothing_ties(number, max_output, tile, threshold):
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(number)
    centres, sizes = rng.uniform(0, 200, (number, 2)), rng.uniform(10, 80, (number, 2))
    boxes = np.concatenate([centres - sizes / 2, centres + sizes / 2], axis=1).astype("float32")
    scores = rng.permutation(number).astype("float32")
    theirs = tf.image.non_max_suppression(boxes, scores, max_output, threshold).numpy()
    indices, kept = (np.asarray(a) for a in nms(boxes, scores, threshold, max_output, tile=tile))
    np.testing.assert_array_equal(indices[kept], theirs)
    assert 10 < len(theirs) < number


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
def test_class_nms_is_tensorflows_where_nothing_ties(shared):
    tf = pytest.importorskip("tensorflow")
    rng, classes = np.random.default_rng(5), 5
    centres = rng.uniform(0, 100, (2, 60, 1 if shared else classes, 2))
    boxes = np.concatenate([centres - 15, centres + rng.uniform(5, 15, centres.shape)], axis=-1).astype("float32")
    scores = rng.permutation(2 * 60 * classes).reshape(2, 60, classes).astype("float32") / 600
    theirs = tf.image.combined_non_max_suppression(
        boxes, scores, 60, 50, iou_threshold=0.3, score_threshold=0.2, clip_boxes=False
    )
    ours = class_nms(boxes, scores, 0.3, 0.2, 50)
    assert 10 < min(theirs.valid_detections) <= max(theirs.valid_detections) <= 50
    np.testing.assert_array_equal(ours["count"], theirs.valid_detections)
    np.testing.assert_array_equal(ours["boxes"], theirs.nmsed_boxes)
    np.testing.assert_array_equal(ours["scores"], theirs.nmsed_scores)
    real = np.arange(50) < np.asarray(ours["count"])[:, None]
    np.testing.assert_array_equal(np.asarray(ours["classes"])[real], theirs.nmsed_classes.numpy()[real])


@functools.cache
def compiled(threshold, max_output, tile):
    return in_mode(lambda b, s, v: nms(b, s, threshold, max_output, v, tile), "xla")


@st.composite
def lists_of_boxes(draw):
    """Ten boxes on a small grid with few scores, some of them not valid."""
    corner, side = st.integers(0, 6), st.integers(0, 5)
    rows = draw(st.lists(st.tuples(corner, corner, side, side), min_size=10, max_size=10))
    boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rows], "float32")
    scores = np.array(draw(st.lists(st.integers(-1, 2), min_size=10, max_size=10)), "float32")
    return boxes, scores, np.array(draw(st.lists(st.booleans(), min_size=10, max_size=10)))


@given(lists_of_boxes(), st.sampled_from([(0.2, 3, 4), (0.5, 10, 4)]))
def test_kept_boxes_are_apart_and_every_dropped_one_has_a_reason(lists, settings):
    boxes, scores, valid = lists
    threshold, max_output, tile = settings
    indices, kept = (np.asarray(a) for a in compiled(threshold, max_output, tile)(boxes, scores, valid))
    chosen = indices[kept].tolist()
    assert kept.tolist() == sorted(kept, reverse=True)
    assert not indices[~kept].any()
    assert valid[chosen].all()
    ranks = [(-scores[i], i) for i in chosen]
    assert ranks == sorted(set(ranks))
    assert all(iou(boxes[i], boxes[j]) <= np.float32(threshold) for i in chosen for j in chosen if i < j)
    for i in set(np.flatnonzero(valid)) - set(chosen):
        better = [k for k in chosen if (-scores[k], k) < (-scores[i], i)]
        reason = any(iou(boxes[i], boxes[k]) > np.float32(threshold) for k in better)
        assert reason or len(better) == max_output


@given(lists_of_boxes(), st.permutations(range(10)))
def test_order_of_distinct_scores_does_not_matter(lists, order):
    boxes, _, valid = lists
    scores, order = np.arange(10, dtype="float32") / 4, np.array(order)
    run = compiled(0.5, 10, 4)
    (a, kept), (b, kept_too) = run(boxes, scores, valid), run(boxes[order], scores[order], valid[order])
    np.testing.assert_array_equal(kept, kept_too)
    np.testing.assert_array_equal(np.asarray(a)[np.asarray(kept)], order[np.asarray(b)[np.asarray(kept)]])


def test_one_list_is_a_batch_of_one():
    boxes, scores, valid = (inputs()["one-tile"][name][0] for name in ("boxes", "scores", "valid"))
    for mask in (None, valid):
        one = nms(boxes, scores, 0.5, 6, mask)
        many = nms(boxes[None], scores[None], 0.5, 6, None if mask is None else mask[None])
        for a, b in zip(one, many, strict=True):
            np.testing.assert_array_equal(a, np.asarray(b)[0])


def test_thresholds_at_their_ends():
    """Touching is no overlap, and no IoU is above 1: at 0 these boxes keep two, at 1 all."""
    boxes = np.array([[0, 0, 3, 3], [0, 0, 3, 3], [3, 0, 6, 3], [2, 2, 4, 4]], "float32")
    for threshold, wanted in ((0, [0, 2]), (1.0, [0, 1, 2, 3])):
        indices, kept = nms(boxes, np.ones(4), threshold, 4)
        assert np.asarray(indices)[np.asarray(kept)].tolist() == wanted


def test_a_chain_as_long_as_the_list():
    """Box i overlaps i - 1 and i + 1 too much: every other one is kept, which takes as many rounds as there are."""
    number = 40
    x = np.arange(number, dtype="float32")
    boxes = np.stack([2 * x, 0 * x, 2 * x + 3, 0 * x + 3], axis=1)
    for tile in (7, 40):
        indices, kept = nms(boxes, -x, 0.1, number, tile=tile)
        np.testing.assert_array_equal(indices, np.where(x < 20, 2 * x, 0))
        assert np.sum(kept) == 20


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_is_computed_in_float32(dtype):
    """In half precision the IoU of these boxes, 0.4995, is 0.5, and the union of the large ones infinite."""
    boxes = np.array([[0, 0, 1000, 666], [0, 0, 1000, 333], [0, 0, 1000, 332]], "float32")
    low = ops.cast(boxes, dtype)
    given_boxes = np.asarray(ops.cast(low, "float32"))
    indices, kept = nms(low, ops.cast(np.array([3.0, 2.0, 1.0]), dtype), 0.499, 3)
    wanted = sequential_nms(given_boxes, np.array([3.0, 2.0, 1.0]), np.ones(3, bool), 0.499, 3)
    np.testing.assert_array_equal(np.asarray(indices)[np.asarray(kept)], wanted)
    assert class_nms(low[None, :, None], ops.ones((1, 3, 1), dtype), 0.5, 0.5, 3)["boxes"].dtype == "float32"


def test_in_a_model_with_the_batch_left_open():
    class Decode(keras.layers.Layer):
        def call(self, boxes, scores):
            return class_nms(boxes, scores, **CLASS_CASES["shared"][2])

    arrays = [inputs()["shared"][name] for name in ("boxes", "scores")]
    symbolic = [keras.Input(array.shape[1:]) for array in arrays]
    model = keras.Model(symbolic, Decode()(*symbolic))
    assert {name: tuple(x.shape) for name, x in model.output.items()} == {
        "boxes": (None, 9, 4), "scores": (None, 9), "classes": (None, 9), "count": (None,), "candidates": (None,),
    }  # fmt: skip
    for jit in (False, True):
        model.compile(jit_compile=jit)
        found = model.predict(arrays, batch_size=24, verbose=0)
        assert_is_expected("shared", found)


@EITHER_MODE
def test_gradient_is_that_of_the_chosen_boxes(mode):
    assert_is_the_gradient(gradient(mode))


@ON_OTHERS
def test_gradient_is_that_of_the_chosen_boxes_on_other_backends(computed, name):
    assert_is_the_gradient(computed(name, "nms")["gradient"])


def assert_is_the_gradient(found):
    """Boxes 0, 2, 4 and 5 are kept; `values_and_gradients` weighs the outputs by cosines."""
    wanted = np.zeros((6, 4), "float32")
    wanted[[0, 2, 4, 5]] = np.cos(np.arange(16, dtype="float32")).reshape(4, 4)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_memory_does_not_grow_with_the_square_of_the_boxes(computed):
    """12000 proposals have 576 MB of pairwise IoU, and 2000 boxes of 80 classes 1280 MB."""
    arrays = computed("jax", "nms")
    scratch = {key: int(value) / 1e6 for key, value in arrays.items() if key.startswith("scratch/")}
    assert len(scratch) == 2
    assert max(scratch.values()) < 64, scratch


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(boxes=np.zeros((5, 3))), r"boxes have shape \(5, 3\), not \(5, 4\)"),
        (dict(boxes=np.zeros((1, 2, 5, 4))), "boxes have shape"),
        (dict(scores=np.zeros((1, 5))), r"scores have shape \(1, 5\), not \(5,\)"),
        (dict(valid=np.ones(4, bool)), r"valid have shape \(4,\), not \(5,\)"),
        (dict(iou_threshold=1.5), "iou_threshold is 1.5"),
        (dict(iou_threshold=-0.1), "iou_threshold is -0.1"),
        (dict(max_output=0), "max_output 0"),
        (dict(tile=0), "tile 0"),
        (dict(boxes=np.zeros((0, 4)), scores=np.zeros(0)), "0 boxes"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    arguments = dict(boxes=np.zeros((5, 4)), scores=np.zeros(5), iou_threshold=0.5, max_output=3) | changes
    with pytest.raises(ValueError, match=message):
        nms(**arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(scores=np.zeros((2, 5))), r"scores have shape \(2, 5\), not \[B,N,C\]"),
        (dict(boxes=np.zeros((2, 5, 2, 4))), r"boxes have shape \(2, 5, 2, 4\), not \(2, 5, 3, 4\)"),
        (dict(boxes=np.zeros((2, 5, 4))), "boxes have shape"),
        (dict(boxes=np.zeros((2, 4, 1, 4))), r"not \(2, 5, 1, 4\)"),
        (dict(iou_threshold=2), "iou_threshold is 2"),
        (dict(max_output=0), "max_output 0"),
        (dict(per_class_pool=0), "per_class_pool is 0"),
    ],
)
def test_class_nms_refuses_what_does_not_fit(changes, message):
    arguments = dict(boxes=np.zeros((2, 5, 3, 4)), scores=np.zeros((2, 5, 3)))
    arguments |= dict(iou_threshold=0.3, score_threshold=0.05, max_output=3) | changes
    with pytest.raises(ValueError, match=message):
        class_nms(**arguments)
