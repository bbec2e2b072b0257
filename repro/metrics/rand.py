"""How well cells are told apart: the foreground-restricted Rand F-score after border thinning, V_rand.

Arganda-Carreras et al. (2015), "Crowdsourcing the creation of image segmentation algorithms for connectomics",
the score that ranks the ISBI 2012 challenge. It counts pairs of pixels: a gap in a membrane merges two cells and
costs all pairs between them, while a membrane drawn too wide costs nothing.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import ndimage
from skimage.measure import label

from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
CELL = 1
THRESHOLD = 0.5
THRESHOLDS = tuple(step / 10 for step in range(1, 10))


def rand_protocol() -> dict[str, str]:
    """The choices behind `RandScore`, in words, for result files and table captions."""
    return {
        "rand_score": "foreground-restricted Rand F-score after border thinning (Arganda-Carreras et al., 2015): pairs "
        "of pixels of true cells, mean over images; segments are 4-connected, predicted membrane goes to the nearest "
        f"predicted segment, cells are where their probability is above {THRESHOLD:g}",
        "rand_split": "share of the pairs of one true cell that are in one predicted segment (recall)",
        "rand_merge": "share of the pairs of one predicted segment that are in one true cell (precision)",
        "rand_score_best": f"rand_score at the best threshold of {THRESHOLDS[0]:g} to {THRESHOLDS[-1]:g}, one for all "
        "images, chosen on the scored images as in the challenge",
    }


def rand_score(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float | None]:
    """V_rand of one image. truth: integers [H,W], the number of each pixel's cell, 0 = not scored (membrane, void);
    prediction: bool [H,W], where cells are.

    The 4-connected components of the prediction are its segments. Each remaining pixel joins the segment nearest to it
    (border thinning; where no cell is predicted, every pixel is a segment of its own). Over pairs of different pixels
    of true cells, with n_ij pixels of cell i in segment j, t_i = sum_j n_ij, s_j = sum_i n_ij and C(n) = n (n-1) / 2:

        split   sum_ij C(n_ij) / sum_i C(t_i)    recall: low where cells are split
        merge   sum_ij C(n_ij) / sum_j C(s_j)    precision: low where cells are merged
        score   2 sum_ij C(n_ij) / (sum_i C(t_i) + sum_j C(s_j)), their harmonic mean

    A ratio of no pairs at all is None. Raises ReproError for different shapes and wrong types.

    >>> truth = np.array([[1, 1, 0, 2, 2]])
    >>> scores = rand_score(truth, np.ones((1, 5), bool))  # two cells of two pixels as one segment
    >>> scores["split"], round(scores["merge"], 4), scores["score"]
    (1.0, 0.3333, 0.5)
    """
    _check(truth, prediction)
    if prediction.dtype.kind != "b":
        raise ReproError(f"prediction of cells is {prediction.dtype}", "give booleans: a probability, thresholded")
    return _ratios(_pairs(_compact(truth), prediction))


class RandScore:
    """V_rand of a volume: `add` every image, then read `result`.

    thresholds: of the probability, ascending; 0.5 is scored besides. A threshold's score is the mean over images;
    the best is chosen for the volume, not for each image, as the challenge does."""

    def __init__(self, thresholds: Sequence[float] = THRESHOLDS) -> None:
        self._thresholds = tuple(thresholds)
        self._ratios: dict[float, list[dict[str, float | None]]] = {
            threshold: [] for threshold in dict.fromkeys((*self._thresholds, THRESHOLD))
        }

    def add(self, truth: np.ndarray, probability: np.ndarray) -> None:
        """One image. truth: bool, or uint8 classes [H,W] with 1 = cell (others are not scored), whose 4-connected
        components are the cells; probability: float [H,W] in 0..1, of being cell.

        Raises ReproError for different shapes, wrong types and values that are no probabilities."""
        _check(truth, probability)
        if probability.dtype.kind != "f":
            raise ReproError(f"probability of cells is {probability.dtype}", "give floats from 0 to 1")
        # not (a and b) also catches NaN
        if not (probability.min() >= 0 and probability.max() <= 1):
            problem = f"probability of cells ranges from {probability.min():g} to {probability.max():g}"
            raise ReproError(problem, "give values from 0 to 1: softmax, not logits")
        cells = label(truth == CELL, connectivity=1)
        for threshold, found in self._ratios.items():
            found.append(_ratios(_pairs(cells, probability > threshold)))

    def result(self) -> dict[str, Any]:
        """`rand_score`, `rand_split`, `rand_merge` at 0.5; `rand_score_best` and its `rand_threshold` (the lowest of
        equals). Means over the images that have true cells; None where none has."""
        means = {threshold: self._mean("score", threshold) for threshold in self._thresholds}
        defined = {threshold: mean for threshold, mean in means.items() if mean is not None}
        best = max(defined, key=defined.__getitem__, default=None)
        return {
            "rand_score": self._mean("score", THRESHOLD),
            "rand_split": self._mean("split", THRESHOLD),
            "rand_merge": self._mean("merge", THRESHOLD),
            "rand_score_best": None if best is None else defined[best],
            "rand_threshold": best,
        }

    def _mean(self, name: str, threshold: float) -> float | None:
        values = [value for ratios in self._ratios[threshold] if (value := ratios[name]) is not None]
        return sum(values) / len(values) if values else None


def _check(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.ndim != 2 or truth.shape != prediction.shape or not truth.size:
        problem = f"truth has shape {truth.shape}, prediction {prediction.shape}"
        raise ReproError(problem, "give two maps [H,W] of one size")
    if truth.dtype.kind not in "iub" or truth.min() < 0:
        raise ReproError(f"truth of cells is {truth.dtype} from {truth.min():g}", "give whole numbers of 0 and above")


def _compact(numbers: np.ndarray) -> np.ndarray:
    """Cell numbers without gaps, so that tables of them stay small; 0 stays 0."""
    values, compact = np.unique(numbers, return_inverse=True)
    return compact.reshape(numbers.shape) + (values[0] != 0)


def _thinned(prediction: np.ndarray) -> np.ndarray:
    """Segments of a cell mask bool [H,W], int [H,W] from 1: its components, widened until they meet."""
    if not prediction.any():
        return np.arange(1, prediction.size + 1).reshape(prediction.shape)
    segments = label(prediction, connectivity=1)
    nearest = ndimage.distance_transform_edt(~prediction, return_distances=False, return_indices=True)
    return segments[tuple(nearest)]


def _pairs(cells: np.ndarray, prediction: np.ndarray) -> tuple[int, int, int]:
    """Pairs of scored pixels that are together in both, in the truth, and in the prediction."""
    scored = cells > 0
    truth, segments = cells[scored].astype(np.int64), _thinned(prediction)[scored].astype(np.int64)
    both = np.unique(truth * (segments.max(initial=0) + 1) + segments, return_counts=True)[1]
    among_both, among_truth, among_segments = (
        int((n * (n - 1)).sum()) // 2 for n in (both, np.bincount(truth), np.bincount(segments))
    )
    return among_both, among_truth, among_segments


def _ratios(pairs: tuple[int, int, int]) -> dict[str, float | None]:
    both, truth, predicted = pairs
    return {
        "score": 2 * both / (truth + predicted) if truth + predicted else None,
        "split": both / truth if truth else None,
        "merge": both / predicted if predicted else None,
    }
