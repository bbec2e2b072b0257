"""Losses over dense labels, shared by classifiers and segmenters. `keras.ops` only, static shapes."""

from collections.abc import Callable
from typing import Any

from keras import ops

from repro.errors import ReproError, unknown_name
from repro.ops.boxes import same_shape


def segmentation_loss(logits: Any, labels: Any, kind: str = "cross_entropy", **options: Any) -> Any:
    """The loss called `kind` of scores [B,H,W,K] against labels [B,H,W]: "cross_entropy" is
    `softmax_cross_entropy`, "sigmoid" `sigmoid_cross_entropy` (K = 1), "dice" `dice_loss`, which take `options`.

    Raises ReproError for an unknown kind, and what those functions raise."""
    kinds: dict[str, Callable[..., Any]] = {
        "cross_entropy": softmax_cross_entropy,
        "sigmoid": sigmoid_cross_entropy,
        "dice": dice_loss,
    }
    if kind not in kinds:
        raise unknown_name("loss", kind, kinds)
    return kinds[kind](logits, labels, **options)


def softmax_cross_entropy(
    logits: Any,
    labels: Any,
    void: int | None = 255,
    class_weights: Any = None,
    pixel_weight: Any = None,
    reduction: str = "mean",
) -> Any:
    """Multinomial logistic loss, sum over pixels of w * -log softmax(logits)[label]; a float32 scalar.

    logits [B,K] or [B,H,W,K] of any float type, computed in float32; labels int [B] or [B,H,W], 0..K-1 or
    `void`. Void pixels add nothing to loss or gradient. w is `class_weights` [K] at the label (SegNet,
    Sec 3.2) times `pixel_weight`, shaped as the labels (U-Net, Eq. 1), or 1.

    reduction "mean" (VGG, Sec 3.1) divides by the number of pixels that are not void, not by their weight;
    with none the loss is 0. "sum" divides by nothing (FCN, Sec 4; `normalize: false` in its released nets,
    hence their learning rate of 1e-10). A label that is neither class nor void makes the loss NaN, since a
    compiled program cannot raise.

    Raises ReproError when `void` is one of the classes (ImageNet has a class 255: give void=None) and for K = 1,
    where the loss is 0 whatever the scores; ValueError for shapes that do not fit and for an unknown reduction.

    >>> loss = softmax_cross_entropy(ops.zeros((2, 4)), ops.convert_to_tensor([3, 255]))  # four equal scores; void
    >>> round(float(loss), 4)  # log 4
    1.3863
    """
    if logits.shape[-1] == 1:
        raise ReproError("softmax cross-entropy learns nothing from one score", "give 2 classes, or the loss sigmoid")
    target, scored, invalid = _targets(logits, labels, void, logits.shape[-1])
    log_probability = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
    # A comparison, not a gather: XLA fuses it away, and its gradient needs no scatter
    loss = -ops.sum(ops.where(target, log_probability, 0.0), axis=-1)
    return _total(loss, target, scored, invalid, class_weights, pixel_weight, reduction)


def sigmoid_cross_entropy(
    logits: Any,
    labels: Any,
    void: int | None = 255,
    class_weights: Any = None,
    pixel_weight: Any = None,
    reduction: str = "mean",
) -> Any:
    """Binary logistic loss, sum over pixels of w * -log p(label), p(1) = sigmoid(logit); a float32 scalar.

    logits [B,1] or [B,H,W,1] of any float type, computed in float32; labels int [B] or [B,H,W], 0, 1 or `void`.
    The same as `softmax_cross_entropy` of the two scores (0, logit), and all else as there: void, w with
    `class_weights` [2] and `pixel_weight`, reduction, NaN for an impossible label, errors."""
    if logits.shape[-1] != 1:
        problem = f"the loss sigmoid takes one score for each pixel, not {logits.shape[-1]}"
        raise ReproError(problem, "give 1 class, or the loss cross_entropy")
    target, scored, invalid = _targets(logits, labels, void, 2)
    logit = ops.cast(logits, "float32")[..., 0]
    # softplus has the right gradient at 0, where fresh score layers start; relu(x) - xy + log1p(exp(-|x|)) has not
    loss = ops.where(scored, ops.softplus(ops.where(target[..., 1], -logit, logit)), 0.0)
    return _total(loss, target, scored, invalid, class_weights, pixel_weight, reduction)


def dice_loss(logits: Any, labels: Any, void: int | None = 255, smooth: float = 1.0) -> Any:
    """Soft Dice loss 1 - mean_k (2 sum p_k t_k + s) / (sum p_k + sum t_k + s) over K classes; float32 scalar.

    p = softmax(logits), t = 1 at the label, sums over all pixels of the batch that are not void. logits
    [B,H,W,K] of any float type, computed in float32; labels int [B,H,W], 0..K-1 or `void`. A single score (K = 1)
    stands for two classes, p = (1 - sigmoid, sigmoid). In [0, 1], and 0 for a perfect prediction. `smooth` (s, in
    pixels, above 0) keeps loss and gradient finite where a class has no pixels; such a class then scores
    s / (sum p_k + s).

    Source: Milletari et al., V-Net (3DV 2016), Sec 3, for two classes and with squares in the denominator
    (sum p^2 + sum t^2). With the plain sums used here and p of 0 or 1 it is, at s = 0, one minus the Dice
    coefficient 2|A&B| / (|A|+|B|). None of the suite's papers trains with this loss. A label that is neither
    class nor void makes it NaN.

    Raises ReproError when `void` is one of the classes, ValueError for shapes that do not fit and for
    `smooth` of 0 or below."""
    if smooth <= 0:
        raise ValueError(f"smooth is {smooth}, not above 0")
    logits = ops.cast(logits, "float32")
    if logits.shape[-1] == 1:
        logits = ops.concatenate([ops.zeros_like(logits), logits], axis=-1)
    target, scored, invalid = _targets(logits, labels, void, logits.shape[-1])
    probability = ops.softmax(logits, axis=-1)
    probability = ops.where(scored[..., None], probability, 0.0)
    pixels = tuple(range(len(logits.shape) - 1))
    intersection = ops.sum(ops.where(target, probability, 0.0), axis=pixels)
    areas = ops.sum(probability, axis=pixels) + ops.sum(ops.cast(target, "float32"), axis=pixels)
    dice = (2.0 * intersection + smooth) / (areas + smooth)
    return ops.where(invalid, float("nan"), 1.0 - ops.mean(dice))


def _targets(logits: Any, labels: Any, void: int | None, num_classes: int) -> tuple[Any, Any, Any]:
    """Bool [...,K] true at the label (nowhere at void), bool [...] not void, bool [] any label impossible."""
    same_shape("labels", labels.shape, logits.shape[:-1])
    if void is not None and 0 <= void < num_classes:
        problem = f"void label {void} is also one of the {num_classes} classes"
        raise ReproError(problem, "give void=None where there is no void")
    labels = ops.cast(labels, "int32")
    target = ops.equal(labels[..., None], ops.arange(num_classes, dtype="int32"))
    scored = ops.ones_like(labels, dtype="bool") if void is None else ops.not_equal(labels, void)
    possible = ops.logical_and(ops.greater_equal(labels, 0), ops.less(labels, num_classes))
    return target, scored, ops.any(ops.logical_and(scored, ops.logical_not(possible)))


def _total(
    loss: Any, target: Any, scored: Any, invalid: Any, class_weights: Any, pixel_weight: Any, reduction: str
) -> Any:
    """One number of the losses of all pixels, each times its weights; target, scored and invalid as from `_targets`."""
    if class_weights is not None:
        weights = ops.convert_to_tensor(class_weights, dtype="float32")
        same_shape("class_weights", weights.shape, target.shape[-1:])
        loss = loss * ops.sum(ops.where(target, weights, 0.0), axis=-1)
    if pixel_weight is not None:
        same_shape("pixel_weight", pixel_weight.shape, target.shape[:-1])
        loss = loss * ops.cast(pixel_weight, "float32")
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, not 'mean' or 'sum'")
    total = ops.sum(loss)
    if reduction == "mean":
        total = total / ops.maximum(ops.sum(ops.cast(scored, "float32")), 1.0)
    return ops.where(invalid, float("nan"), total)
