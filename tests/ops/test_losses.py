"""Losses against NumPy in float64: values and gradients, eager and compiled, on the Keras backend in use."""

import keras
import numpy as np
import pytest
from keras import ops

from repro.errors import ReproError
from repro.metrics.segmentation import confusion_matrix, segmentation_scores
from repro.ops.losses import dice_loss, segmentation_loss, sigmoid_cross_entropy, softmax_cross_entropy
from tests.reference.losses import cross_entropy_reference, dice_reference

VOID = 255
MODES = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "xla"])


def value_and_grad(loss, logits, labels, compiled=False):
    """The value of loss(logits, labels) and its gradient by the logits, as NumPy."""
    if keras.backend.backend() == "jax":
        import jax

        function = jax.value_and_grad(loss)
        if compiled:
            function = jax.jit(function)
        value, gradient = function(jax.numpy.asarray(logits), jax.numpy.asarray(labels))
    else:
        import tensorflow as tf

        def function(x, y):
            with tf.GradientTape() as tape:
                tape.watch(x)
                value = loss(x, y)
            return value, tape.gradient(value, x)

        if compiled:
            function = tf.function(function, jit_compile=True)
        value, gradient = function(tf.constant(logits), tf.constant(labels))
    return ops.convert_to_numpy(value), ops.convert_to_numpy(gradient)


def example(num_classes=4, shape=(2, 5, 6), seed=0):
    """Logits float32 [...,K], labels uint8 [...] with void, class weights [K], pixel weights [...].

    Of one class, logits float32 [...,1] of the second of two."""
    if num_classes == 1:
        logits, *rest = example(2, shape, seed)
        return logits[..., 1:], *rest
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 3, (*shape, num_classes)).astype("float32")
    labels = rng.integers(0, num_classes, shape).astype("uint8")
    labels[rng.random(shape) < 0.3] = VOID
    return logits, labels, rng.uniform(0.1, 9, num_classes), rng.uniform(0.5, 5, shape)


@MODES
@pytest.mark.parametrize("weighted", ["none", "class", "pixel", "both"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_cross_entropy_and_gradient_equal_numpy(compiled, weighted, reduction):
    logits, labels, class_weights, pixel_weight = example()
    weights = {
        "class_weights": class_weights if weighted in ("class", "both") else None,
        "pixel_weight": pixel_weight if weighted in ("pixel", "both") else None,
    }
    value, gradient = value_and_grad(
        lambda x, y: softmax_cross_entropy(x, y, reduction=reduction, **weights), logits, labels, compiled
    )
    expected, expected_gradient = cross_entropy_reference(logits, labels, reduction=reduction, **weights)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5, atol=1e-6)
    assert not gradient[labels == VOID].any()


def test_cross_entropy_by_hand():
    # softmax of (0, ln 3) is (1/4, 3/4); the void pixel and its wild logits count nowhere
    logits = np.array([[[[0, np.log(3)], [0, np.log(3)], [90, -90]]]], "float32")
    labels = np.array([[[0, 1, VOID]]], "uint8")
    four, four_thirds = np.log(4), np.log(4 / 3)
    assert float(softmax_cross_entropy(logits, labels)) == pytest.approx((four + four_thirds) / 2, abs=1e-6)
    assert float(softmax_cross_entropy(logits[:, :, :1], labels[:, :, :1])) == pytest.approx(four, rel=1e-6)
    total = softmax_cross_entropy(logits, labels, class_weights=[10.0, 1.0], reduction="sum")
    assert float(total) == pytest.approx(10 * four + four_thirds, rel=1e-6)


def test_image_labels_use_class_255_when_there_is_no_void():
    logits = np.zeros((2, 300), "float32")
    labels = np.array([255, 3])
    assert float(softmax_cross_entropy(logits, labels, void=None)) == pytest.approx(np.log(300), rel=1e-6)
    with pytest.raises(ReproError, match="void label 255 is also one of the 300 classes"):
        softmax_cross_entropy(logits, labels)


def two_scores(logits):
    """Float64 scores [...,2] of two classes with the same probabilities as one score [...,1]."""
    return np.concatenate([np.zeros_like(logits), logits], axis=-1).astype(np.float64)


@MODES
@pytest.mark.parametrize("weighted", ["none", "class", "pixel", "both"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sigmoid_cross_entropy_and_gradient_equal_numpy(compiled, weighted, reduction):
    logits, labels, class_weights, pixel_weight = example(num_classes=1)
    logits[0, 0] = 0  # where fresh score layers start, and where a max or an absolute value has no derivative
    weights = {
        "class_weights": class_weights if weighted in ("class", "both") else None,
        "pixel_weight": pixel_weight if weighted in ("pixel", "both") else None,
    }
    value, gradient = value_and_grad(
        lambda x, y: sigmoid_cross_entropy(x, y, reduction=reduction, **weights), logits, labels, compiled
    )
    expected, slopes = cross_entropy_reference(two_scores(logits), labels, reduction=reduction, **weights)
    assert value == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(gradient, slopes[..., 1:], rtol=1e-5, atol=1e-6)
    assert not gradient[labels == VOID].any()


def test_sigmoid_cross_entropy_by_hand():
    # sigmoid(ln 3) is 3/4; the void pixel and its wild logit count nowhere
    logits = np.log(np.array([[[[3], [3], [1e30]]]], "float32"))
    labels = np.array([[[0, 1, VOID]]], "uint8")
    four, four_thirds = np.log(4), np.log(4 / 3)
    assert float(sigmoid_cross_entropy(logits, labels)) == pytest.approx((four + four_thirds) / 2, rel=1e-6)
    total = sigmoid_cross_entropy(logits, labels, class_weights=[10.0, 1.0], reduction="sum")
    assert float(total) == pytest.approx(10 * four + four_thirds, rel=1e-6)


@MODES
@pytest.mark.parametrize(("loss", "value_at_wrong"), [(sigmoid_cross_entropy, 1e4), (dice_loss, 2 / 3)])
def test_extreme_single_scores_stay_finite(compiled, loss, value_at_wrong):
    logits = np.array([[[[1e4], [-1e4]]]], "float32")
    for labels, expected in (([[[1, 0]]], 0.0), ([[[0, 1]]], value_at_wrong)):  # Dice: 1 - s / (1 + 1 + s)
        value, gradient = value_and_grad(loss, logits, np.array(labels, "uint8"), compiled)
        assert value == pytest.approx(expected, abs=1e-6)
        assert np.isfinite(gradient).all()


def test_sigmoid_cross_entropy_is_precise_for_confident_scores():
    logits = np.full((1, 1, 1, 1), 30.0, "float32")
    loss = float(sigmoid_cross_entropy(logits, np.ones((1, 1, 1), "uint8")))
    assert loss == pytest.approx(np.exp(-30.0), rel=1e-4)


@MODES
@pytest.mark.parametrize("loss", [softmax_cross_entropy, dice_loss, sigmoid_cross_entropy])
def test_batch_of_void_has_no_loss_and_no_gradient(compiled, loss):
    logits, labels, _, _ = example(num_classes=1 if loss is sigmoid_cross_entropy else 4)
    value, gradient = value_and_grad(loss, logits, np.full_like(labels, VOID), compiled)
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("loss", [softmax_cross_entropy, dice_loss, sigmoid_cross_entropy])
def test_half_precision_logits_are_computed_in_float32(loss):
    logits, labels, _, _ = example(num_classes=1 if loss is sigmoid_cross_entropy else 4)
    half = ops.cast(logits, "bfloat16")
    value = loss(half, labels)
    assert keras.backend.standardize_dtype(value.dtype) == "float32"
    assert float(value) == float(loss(ops.cast(half, "float32"), labels))


def test_extreme_logits_and_infinite_weights_of_absent_classes_stay_finite():
    logits = np.array([[[[1e4, -1e4, 0]], [[-1e4, 1e4, 0]]]], "float32")
    labels = np.array([[[0], [0]]])
    # median frequency balancing gives a class without pixels an infinite weight
    value, gradient = value_and_grad(
        lambda x, y: softmax_cross_entropy(x, y, class_weights=[1.0, 1.0, np.inf]), logits, labels
    )
    assert value == pytest.approx(1e4)
    assert np.isfinite(gradient).all()


@MODES
@pytest.mark.parametrize("loss", [softmax_cross_entropy, dice_loss, sigmoid_cross_entropy])
@pytest.mark.parametrize("label", [4, 254, -1])
def test_label_that_is_neither_class_nor_void_gives_nan(compiled, loss, label):
    logits, labels, _, _ = example(num_classes=1 if loss is sigmoid_cross_entropy else 4)
    labels = labels.astype("int32")
    labels[1, 2, 3] = label
    value, _ = value_and_grad(loss, logits, labels, compiled)
    assert np.isnan(value)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.zeros((2, 5, 6, 1), "uint8")},
        {"labels": np.zeros((2, 5, 1), "uint8")},
        {"class_weights": [2.0]},
        {"pixel_weight": np.ones((2, 5, 6, 1))},
        {"pixel_weight": np.ones((1, 5, 6))},
        {"reduction": "average"},
    ],
)
def test_arguments_that_would_broadcast_are_refused(change):
    logits, labels, _, _ = example()
    with pytest.raises(ValueError, match=next(iter(change))):
        softmax_cross_entropy(logits, **({"labels": labels} | change))
    with pytest.raises(ValueError, match=next(iter(change))):
        sigmoid_cross_entropy(logits[..., :1], **({"labels": labels} | change))


@MODES
@pytest.mark.parametrize("smooth", [1.0, 0.01])
def test_dice_loss_and_gradient_equal_numpy(compiled, smooth):
    logits, labels, _, _ = example(num_classes=5)
    labels[labels == 2] = 0
    value, gradient = value_and_grad(lambda x, y: dice_loss(x, y, smooth=smooth), logits, labels, compiled)
    assert value == pytest.approx(dice_reference(logits, labels, smooth), abs=1e-6)
    assert 0 < value < 1
    assert not gradient[labels == VOID].any()
    direction = np.random.default_rng(1).normal(size=logits.shape)
    step = 1e-5 * direction
    slope = dice_reference(logits + step, labels, smooth) - dice_reference(logits - step, labels, smooth)
    assert (gradient * direction).sum() == pytest.approx(slope / 2e-5, rel=1e-4)


@MODES
def test_dice_loss_of_a_single_score_is_that_of_two_classes(compiled):
    logits, labels, _, _ = example(num_classes=1)
    value, gradient = value_and_grad(dice_loss, logits, labels, compiled)
    assert value == pytest.approx(dice_reference(two_scores(logits), labels, 1.0), abs=1e-6)
    _, slopes = value_and_grad(dice_loss, two_scores(logits).astype("float32"), labels, compiled)
    np.testing.assert_allclose(gradient, slopes[..., 1:], rtol=1e-5, atol=1e-8)


def test_dice_loss_of_a_hard_prediction_is_one_minus_the_mean_dice_score():
    _, labels, _, _ = example(num_classes=3, seed=2)
    prediction = np.random.default_rng(3).integers(0, 3, labels.shape)
    scores = segmentation_scores(confusion_matrix(labels, prediction, 3), ["a", "b", "c"])
    logits = 200.0 * np.eye(3, dtype="float32")[prediction]
    assert float(dice_loss(logits, labels, smooth=1e-6)) == pytest.approx(1 - scores["mean_dice"], abs=1e-6)


@MODES
def test_dice_loss_at_its_limits(compiled):
    labels = np.zeros((1, 4, 4), "uint8")
    labels[0, :2] = 1
    perfect = 200.0 * np.eye(3, dtype="float32")[labels]
    opposite = 200.0 * np.eye(3, dtype="float32")[1 - labels]
    assert value_and_grad(dice_loss, perfect, labels, compiled)[0] == pytest.approx(0, abs=1e-6)
    # both present classes score 1 / (8 + 8 + 1), the absent third one scores 1
    value, gradient = value_and_grad(dice_loss, opposite, labels, compiled)
    assert value == pytest.approx(1 - (2 / 17 + 1) / 3, abs=1e-6)
    assert np.isfinite(gradient).all()
    with pytest.raises(ValueError, match="smooth"):
        dice_loss(perfect, labels, smooth=0.0)


@pytest.mark.parametrize(
    ("kind", "loss", "num_classes", "options"),
    [
        ("cross_entropy", softmax_cross_entropy, 4, {"class_weights": [1.0, 2.0, 3.0, 4.0]}),
        ("sigmoid", sigmoid_cross_entropy, 1, {"reduction": "sum"}),
        ("dice", dice_loss, 4, {"smooth": 0.5}),
        ("dice", dice_loss, 1, {}),
    ],
)
def test_segmentation_loss_is_the_loss_of_its_kind(kind, loss, num_classes, options):
    logits, labels, _, _ = example(num_classes)
    assert float(segmentation_loss(logits, labels, kind, **options)) == float(loss(logits, labels, **options))


@pytest.mark.parametrize(
    ("kind", "num_classes", "message"),
    [
        ("sigmoid", 4, "one score for each pixel, not 4. give 1 class"),
        ("cross_entropy", 1, "learns nothing from one score. give 2 classes, or the loss sigmoid"),
        ("cross_entropie", 4, "unknown loss 'cross_entropie'. did you mean cross_entropy"),
    ],
)
def test_losses_that_do_not_fit_the_scores_are_refused(kind, num_classes, message):
    logits, labels, _, _ = example(num_classes)
    with pytest.raises(ReproError, match=message):
        segmentation_loss(logits, labels, kind)


@pytest.mark.parametrize(("kind", "num_classes"), [("sigmoid", 1), ("dice", 1), ("cross_entropy", 2)])
def test_void_that_is_one_of_two_classes_is_refused(kind, num_classes):
    logits, labels, _, _ = example(num_classes)
    with pytest.raises(ReproError, match="void label 1 is also one of the 2 classes"):
        segmentation_loss(logits, labels, kind, void=1)
