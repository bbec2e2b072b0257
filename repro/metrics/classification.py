"""Top-1 and top-5 accuracy of image classification."""

import numpy as np

from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


def classification_protocol() -> dict[str, str]:
    """The choices behind the classification scores, in words, for result files and table captions."""
    return {
        "top_k": "share of images whose label is among the k highest scores",
        "ties": "of equal scores the class of the lower index ranks first",
        "not_finite": "an image with a NaN score counts as wrong",
        "top5": "given from 5 classes up",
    }


def top_k_correct(scores: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
    """Whether each image's label is among its k highest scores (ILSVRC classification; VGG, Sec 4).

    scores [B,K], logits or probabilities; labels int [B] in 0..K-1. Returns bool [B].
    Ties: of equal scores the lower class index ranks first, so that exactly k classes are in the top k and
    top-1 is `argmax`. A NaN anywhere in its row makes an image wrong. With k >= K every other image is right.
    Raises ReproError for shapes that do not fit, labels out of range, and k below 1.

    >>> top_k_correct(np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]]), np.array([2, 2]), k=2).tolist()
    [True, False]
    """
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ReproError(f"scores of shape {scores.shape} and labels of shape {labels.shape}", "give [B,K] and [B]")
    if k < 1:
        raise ReproError(f"top-{k} accuracy does not exist", "give k of 1 or more")
    num_classes = scores.shape[1]
    if labels.dtype.kind not in "iu":
        raise ReproError(f"labels are {labels.dtype}", "give integer class labels")
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        wrong = labels[(labels < 0) | (labels >= num_classes)][0]
        raise ReproError(f"label {wrong} outside 0..{num_classes - 1}", "check the class list of the data set")
    labels = labels.astype(np.int64)[:, None]
    own = np.take_along_axis(scores, labels, axis=1)
    above = (scores > own) | ((scores == own) & (np.arange(num_classes) < labels))
    return (above.sum(axis=1) < k) & ~np.isnan(scores).any(axis=1)


def classification_scores(top1_hits: int, top5_hits: int | None, count: int) -> dict[str, float | int | None]:
    """Accuracies from counts of right images: `top1`, `top5` (fractions in [0, 1]) and `images`.

    `top5_hits` is None where the task has fewer than 5 classes, and then `top5` is None; both are None when
    `count` is 0. Raises ReproError when the counts contradict each other."""
    if not 0 <= top1_hits <= (count if top5_hits is None else top5_hits) <= count:
        problem = f"top-1 hits {top1_hits}, top-5 hits {top5_hits} of {count} images contradict each other"
        raise ReproError(problem, "count hits over the same images")
    return {
        "top1": int(top1_hits) / int(count) if count else None,
        "top5": int(top5_hits) / int(count) if count and top5_hits is not None else None,
        "images": int(count),
    }
