"""Segmentation scores from one confusion matrix: pixel accuracy, mean accuracy, IoU, Dice.

The matrices of images add up to that of a split, and every score is computed once from the sum (FCN, Sec 5),
never as a mean of per-image scores: a class missing from an image must not count as right or wrong there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


def segmentation_protocol() -> dict[str, str]:
    """The choices behind `segmentation_scores`, in words, for result files and table captions."""
    return {
        "void": "pixels labelled 255 (void) in the truth are not counted, whatever is predicted there",
        "aggregation": "one confusion matrix over all scored pixels of the split, no per-image averaging",
        "mean_pixel_accuracy": "mean over the classes that have truth pixels",
        "mean_iou": "mean over the classes, background included, present in truth or prediction; "
        "predicted but absent from truth counts 0",
        "mean_dice": "as mean_iou, with 2n_ii / (t_i + p_i)",
        "frequency_weighted_iou": "IoU weighted by the share of truth pixels",
        "absent_class": "absent from truth and prediction: left out of the means and listed",
    }


def confusion_matrix(truth: np.ndarray, prediction: np.ndarray, num_classes: int, void: int = 255) -> np.ndarray:
    """Count pixels by true and predicted class; FCN, Sec 5: entry [i, j] is n_ij.

    truth: integer labels of any shape, 0..K-1 or `void`; prediction: integer labels 0..K-1 of the same shape.
    Returns int64 [K,K], rows truth, columns prediction; void pixels are not in it.
    Raises ReproError for different shapes, labels that are no integers, and labels out of range (a prediction
    also where the truth is void, as the VOC development kit does).

    >>> confusion_matrix(np.array([0, 0, 1, 255]), np.array([0, 1, 1, 1]), num_classes=2).tolist()
    [[1, 1], [0, 1]]
    """
    if 0 <= void < num_classes:
        raise ReproError(f"void label {void} is also one of the {num_classes} classes", "choose another void label")
    if truth.shape != prediction.shape:
        problem = f"truth has shape {truth.shape}, prediction {prediction.shape}"
        raise ReproError(problem, "score them at the truth's size")
    _check_labels("prediction", prediction, num_classes)
    scored = truth != void
    rows, columns = truth[scored], prediction[scored]
    _check_labels("truth", rows, num_classes, f" or {void} (void)")
    # int64 before the product: uint8 labels would wrap around at 256
    cells = rows.astype(np.int64) * num_classes + columns.astype(np.int64)
    return np.bincount(cells, minlength=num_classes**2).reshape(num_classes, num_classes)


def _check_labels(name: str, labels: np.ndarray, num_classes: int, others: str = "") -> None:
    if labels.dtype.kind not in "iub":
        raise ReproError(f"{name} labels are {labels.dtype}", "give integer class labels, not scores")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        wrong = np.unique(labels[(labels < 0) | (labels >= num_classes)])
        shown = ", ".join(str(value) for value in wrong[:8]) + (", ..." if wrong.size > 8 else "")
        problem = f"{name} has label {shown} outside 0..{num_classes - 1}"
        raise ReproError(problem, f"labels must be 0..{num_classes - 1}{others}")


def segmentation_scores(confusion: np.ndarray, class_names: Sequence[str]) -> dict[str, Any]:
    """The scores of a confusion matrix int64 [K,K] (rows truth), as plain Python values ready for JSON.

    With n_ij pixels of class i predicted as j, t_i = sum_j n_ij and p_i = sum_j n_ji (FCN, Sec 5):

        pixel_accuracy           sum_i n_ii / sum_i t_i
        mean_pixel_accuracy      mean of n_ii / t_i over classes with t_i > 0
        mean_iou                 mean of n_ii / (t_i + p_i - n_ii) over classes with t_i + p_i > 0
        frequency_weighted_iou   sum_i t_i IoU_i / sum_i t_i
        mean_dice                mean of 2 n_ii / (t_i + p_i) over classes with t_i + p_i > 0

    FCN divides by all classes; those left out here would divide zero by zero. Classes absent from both truth
    and prediction are listed in `absent_classes`. `per_class` maps each name to its accuracy, iou, dice and
    number of truth `pixels`. Scores are fractions in [0, 1]; an undefined one (nothing to divide by) is None.

    Raises ReproError when matrix and names do not fit, and when the matrix is no matrix of counts.

    >>> scores = segmentation_scores(np.array([[2, 0], [1, 1]]), ("road", "sky"))
    >>> scores["pixel_accuracy"], scores["mean_pixel_accuracy"], round(scores["mean_iou"], 4)  # (2/3 + 1/2) / 2
    (0.75, 0.75, 0.5833)
    """
    names = list(class_names)
    _check_matrix(confusion, names)
    hits = np.diag(confusion)
    truth, predicted = confusion.sum(axis=1), confusion.sum(axis=0)
    accuracy = _ratios(hits, truth)
    iou = _ratios(hits, truth + predicted - hits)
    dice = _ratios(2 * hits, truth + predicted)
    total = int(truth.sum())
    weighted = sum(int(t) * value for t, value in zip(truth, iou, strict=True) if value is not None)
    return {
        "pixel_accuracy": int(hits.sum()) / total if total else None,
        "mean_pixel_accuracy": _mean(accuracy),
        "mean_iou": _mean(iou),
        "frequency_weighted_iou": weighted / total if total else None,
        "mean_dice": _mean(dice),
        "per_class": {
            name: {"accuracy": accuracy[i], "iou": iou[i], "dice": dice[i], "pixels": int(truth[i])}
            for i, name in enumerate(names)
        },
        "absent_classes": [name for i, name in enumerate(names) if iou[i] is None],
    }


def _check_matrix(confusion: np.ndarray, names: list[str]) -> None:
    if confusion.shape != (len(names), len(names)):
        problem = f"confusion matrix of shape {confusion.shape} for {len(names)} class names"
        raise ReproError(problem, "give one name for each row and column")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ReproError(f"class name {repeated[0]!r} occurs twice", "give every class its own name")
    if confusion.dtype.kind not in "iu" or (confusion < 0).any():
        raise ReproError("confusion matrix does not hold pixel counts", "give integers of 0 and above")


def _ratios(numerator: np.ndarray, denominator: np.ndarray) -> list[float | None]:
    return [int(n) / int(d) if d else None for n, d in zip(numerator, denominator, strict=True)]


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None
