"""What is solved rather than trained: R-CNN's linear SVMs and box regression, YOLO v2's anchors. On the host.

Girshick et al. 2014 (R-CNN), Sec 2.3, App B and C, with rcnn_train.m and rcnn_train_bbox_regressor.m of its release;
Redmon and Farhadi 2017 (YOLO v2), Sec 2, "Dimension Clusters".
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.svm import LinearSVC

from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
NEVER = -1e6  # the score of a class without positives, far below the -1 of a negative, yet finite
HARD_SCORE = -1.0001
EVICT_SCORE = -1.2
RETRAIN_AFTER = 2000
NORM_IMAGES = 200

# features [P,D] of the proposals of one image and their highest IoU with an object of each class [P,K]
Images = Callable[[], Iterable[tuple[np.ndarray, np.ndarray]]]


def train_svms(
    positives: Sequence[np.ndarray], images: Images, num_classes: int, C: float = 1e-3, bias_multiplier: float = 10.0,
    positive_weight: float = 2.0, negative_iou: float = 0.3, feature_norm: float = 20.0,
    retrain_after: int = RETRAIN_AFTER, cache: int | None = None, seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """One linear SVM a class, with one pass of hard-negative mining (R-CNN, Sec 2.3 and App B; rcnn_train.m).

    positives: for each class float [n,D], features of its objects' own boxes. images: a function that starts a pass
    over the training images and yields for each (features [P,D], IoU [P,K] with the nearest object of each class),
    float16 or wider; it is called twice, first for `feature_scale`, and one image is held at a time. Each SVM
    minimises, over x scaled so that features have the norm `feature_norm` on average, with s = w.x + b,

        |w|^2 / 2 + (b / bias_multiplier)^2 / 2 + C (positive_weight sum_pos max(0, 1-s) + sum_neg max(0, 1+s))

    Negatives are the proposals with IoU < `negative_iou`; those between and the positives are left out. A class keeps
    a cache of negatives: all of the first image, then those that score above -1.0001. It is solved anew after the
    first image, whenever more than `retrain_after` negatives joined since, and at the end; then negatives below -1.2
    are dropped. One pass never sees these again, so that the result is close to, not equal to, the SVM of all
    negatives. Left out of the release's procedure: its two-fold models, made to score the training images.

    `cache` is ours: at most so many negatives are kept, those of the highest scores, and so many must be new before a
    class is solved again. Where features tell classes little apart, almost every proposal is hard.

    Returns `weights` float32 [D,K], `bias` float32 [K] and `scale`, a float, so that the scores of features are
    (features * scale) @ weights + bias; and `stats`, for each class the number of `positives`, of `negatives` that
    were in the cache last, and `objective`, the value of the above after each solution. A class without positives
    has zero weights and the bias -1e6: it never fires.
    Raises ReproError for features that do not fit together or are not finite, and where there are no images or a
    class has no negative."""
    positives = [np.asarray(features) for features in positives]
    if len(positives) != num_classes:
        raise ReproError(f"positives of {len(positives)} classes, not {num_classes}", "give a list, one a class")
    scale = feature_scale(images, feature_norm)
    options = dict(C=C, bias_multiplier=bias_multiplier, positive_weight=positive_weight, cache=cache, seed=seed)
    retrain_after = max(retrain_after, cache or 0)
    machines: list[_Machine] = []
    for number, (features, overlaps) in enumerate(images()):
        features = _checked(f"features of image {number}", features)
        overlaps = np.asarray(overlaps)
        if overlaps.shape != (len(features), num_classes):
            problem = f"IoU of image {number} has shape {overlaps.shape}"
            raise ReproError(problem, f"give {[len(features), num_classes]}")
        if not machines:
            machines = [_Machine(k, x, features.shape[1], scale, options) for k, x in enumerate(positives)]
            weights = np.zeros((features.shape[1], num_classes), np.float32)
            bias = np.array([machine.bias for machine in machines], np.float32)
        elif features.shape[1] != len(weights):
            raise ReproError(f"image {number} has {features.shape[1]} features, not {len(weights)}", "use one layer")
        hard = (overlaps < negative_iou) & ((number == 0) | (_scores(features, weights, bias, scale) > HARD_SCORE))
        for k, machine in enumerate(machines):
            machine.add(features[hard[:, k]])
            if machine.added and (number == 0 or machine.added > retrain_after):
                weights[:, k], bias[k] = machine.solve()
    if not machines:
        raise ReproError("the second pass over the images found none", "let `images` start a new pass at each call")
    for k, machine in enumerate(machines):
        weights[:, k], bias[k] = machine.solve()
    return {"weights": weights, "bias": bias, "scale": scale, "stats": [machine.stats for machine in machines]}


def feature_scale(images: Images, feature_norm: float = 20.0, limit: int = NORM_IMAGES) -> float:
    """What to multiply features by so that their mean norm is `feature_norm` (rcnn_scale_features.m), over the
    proposals of the first `limit` images. The release takes 200 proposals of each of 200 images drawn at random.

    images: as in `train_svms`. Raises ReproError for features that are not finite, all zero or absent."""
    each = [np.zeros(0)]
    for number, (features, _) in enumerate(itertools.islice(images(), limit)):
        each.append(np.linalg.norm(_checked(f"features of image {number}", features).astype(np.float32), axis=1))
    norms = np.concatenate(each)
    if not norms.any():
        raise ReproError(f"the {len(norms)} features are empty or zero", "check the images and the network's weights")
    return float(feature_norm / norms.mean())


def ridge_boxes(features: np.ndarray, targets: np.ndarray, lam: float = 1000.0, scale: float = 1.0) -> np.ndarray:
    """Box regression of one class, weights [D+1,4] (R-CNN, App C; rcnn_train_bbox_regressor.m).

    features [n,D] of proposals whose IoU with an object of the class is above 0.6, targets [n,4] their transformation
    (tx, ty, tw, th) to it, `scale` as of `feature_scale` (lam presumes a mean norm of 20). With X the scaled features
    and a column of ones and Y the targets less their mean m, returns W = (X'X + lam I)^-1 X'Y, m added to its last
    row: targets are predicted by (features * scale) @ W[:-1] + W[-1]. The penalty holds for the ones too, as released.

    The release decorrelates the targets, Y T, before and undoes it after, by W T^-1. W is linear in Y, so that T
    cancels and is left out here. scikit-learn solves the n x n dual where n <= D. float32, or float64 where features
    or targets are. Raises ReproError for arrays that do not fit together or are not finite, no row, lam <= 0."""
    features, targets = _checked("features", features), np.asarray(targets)
    if targets.shape != (len(features), 4) or not len(targets) or not np.isfinite(targets).all():
        problem = f"targets of shape {targets.shape} for features of shape {features.shape}"
        raise ReproError(problem, "give finite [n,4], n > 0")
    if not lam > 0:
        raise ReproError(f"lam is {lam}", "give one above 0")
    dtype = np.result_type(np.float32, features.dtype, targets.dtype)
    x = np.ones((len(features), features.shape[1] + 1), dtype)
    np.multiply(features, dtype.type(scale), out=x[:, :-1])
    targets = targets.astype(dtype)
    mean = targets.mean(axis=0)
    ridge = Ridge(alpha=lam, fit_intercept=False, solver="cholesky").fit(x, targets - mean)
    weights = ridge.coef_.T.copy()
    weights[-1] += mean
    return weights


def kmeans_boxes(
    sizes: np.ndarray, k: int, seed: int = 0, update: str = "median", restarts: int = 5, steps: int = 200
) -> np.ndarray:
    """Anchor sizes float64 [k,2] by k-means with the distance 1 - IoU (YOLO v2, Sec 2), smallest area first.

    sizes: float [N,2], width and height of boxes, compared as if they shared their centre; anchors have their unit.
    `update`: a cluster's new centre is the "median" or the "mean" of its boxes. The paper does not say; on VOC 2007
    test boxes, in shares of their image, 5 medians have an average IoU of 61.1 %, 5 means 59.7 %, the paper's 61.0 %.
    Neither is the best centre for this distance, so that rounds need not settle: they stop at `steps`. Of `restarts`,
    each from boxes drawn as k-means++ draws them, the one of the highest `average_iou` is taken.
    Raises ReproError for sizes that are not [N,2], finite and above 0, and for fewer different ones than k."""
    sizes = np.asarray(sizes, np.float64)
    if sizes.ndim != 2 or sizes.shape[1] != 2 or not (np.isfinite(sizes) & (sizes > 0)).all():
        raise ReproError(f"sizes of shape {sizes.shape} or not above 0", "give finite widths and heights [N,2]")
    if update not in ("mean", "median"):
        raise ReproError(f"update is {update!r}", "give 'mean' or 'median'")
    if not 1 <= k <= len(sizes):
        raise ReproError(f"{k} clusters of {len(sizes)} sizes", "give k from 1 to their number")
    rng = np.random.default_rng(seed)
    middle = np.mean if update == "mean" else np.median
    runs = [_settled(sizes, _drawn(sizes, k, rng), middle, steps) for _ in range(restarts)]
    best = max(runs, key=lambda centres: average_iou(sizes, centres))
    return best[np.argsort(best.prod(axis=1), kind="stable")]


def average_iou(sizes: np.ndarray, anchors: np.ndarray) -> float:
    """Mean over boxes of the IoU with their best anchor, centres shared (YOLO v2, Table 1). sizes [N,2], anchors
    [k,2], in one unit."""
    return float(_size_iou(np.asarray(sizes, np.float64), np.asarray(anchors, np.float64)).max(axis=1).mean())


class _Machine:
    """The SVM of one class: its positives, its cache of negatives and its solutions."""

    def __init__(self, k: int, positives: np.ndarray, dimension: int, scale: float, options: dict[str, Any]) -> None:
        self._k, self._scale, self._options = k, scale, options
        if positives.size and positives.shape[1:] != (dimension,):
            raise ReproError(f"positives of class {k} have shape {positives.shape}", f"give [n,{dimension}]")
        self._positives = _checked(f"positives of class {k}", positives.reshape(-1, dimension))
        self._negatives = np.zeros((0, dimension), np.float16)
        self._waiting: list[np.ndarray] = []
        self.bias = 0.0 if len(self._positives) else NEVER
        self.added = 0
        self.stats: dict[str, Any] = {"positives": len(self._positives), "negatives": 0, "objective": []}

    def add(self, negatives: np.ndarray) -> None:
        if len(self._positives) and len(negatives):
            self._waiting.append(negatives)
            self.added += len(negatives)

    def solve(self) -> tuple[np.ndarray, float]:
        """Weights [D] and bias of all positives and the cache, from which easy negatives are then dropped."""
        if not len(self._positives):
            return np.zeros(self._positives.shape[1]), NEVER
        negatives = np.concatenate([self._negatives, *self._waiting])
        if not len(negatives):
            raise ReproError(f"class {self._k} has no negative in any image", "give images with background proposals")
        o = self._options
        x = np.concatenate([self._positives, negatives]).astype(np.float64) * self._scale
        sign = np.repeat([1, -1], [len(self._positives), len(negatives)])
        weighted = {"class_weight": {1: o["positive_weight"]}, "intercept_scaling": o["bias_multiplier"]}
        svm = LinearSVC(C=o["C"], loss="hinge", max_iter=10000, random_state=o["seed"], **weighted).fit(x, sign)
        weights, bias = svm.coef_[0], float(svm.intercept_[0])
        scores = x @ weights + bias
        hinge = np.maximum(0, 1 - sign * scores) * np.where(sign > 0, o["positive_weight"], 1)
        objective = weights @ weights / 2 + (bias / o["bias_multiplier"]) ** 2 / 2 + o["C"] * hinge.sum()
        self.stats["objective"].append(float(objective))
        self.stats["negatives"] = len(negatives)
        scores = scores[len(self._positives) :]
        hardest = np.sort(np.argsort(-scores, kind="stable")[: o["cache"]])
        self._negatives = negatives[hardest[scores[hardest] >= EVICT_SCORE]]
        self._waiting, self.added = [], 0
        return weights, bias


def _scores(features: np.ndarray, weights: np.ndarray, bias: np.ndarray, scale: float) -> np.ndarray:
    return features.astype(np.float32) @ (weights * np.float32(scale)) + bias


def _drawn(sizes: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """k of the sizes, each drawn by its squared distance from those before (k-means++)."""
    centres = sizes[[rng.integers(len(sizes))]]
    while len(centres) < k:
        # exactly 0 for the sizes that were drawn
        distance = (1 - _size_iou(sizes, centres)).min(axis=1) ** 2
        if not distance.any():
            raise ReproError(f"{k} clusters of {len(centres)} different sizes", "lower k")
        centres = np.append(centres, sizes[rng.choice(len(sizes), p=distance / distance.sum())][None], axis=0)
    return centres


def _settled(sizes: np.ndarray, centres: np.ndarray, middle: Callable[..., np.ndarray], steps: int) -> np.ndarray:
    """Centres after rounds of k-means until no box changes its cluster; one without boxes stays where it is."""
    nearest: np.ndarray | None = None
    for _ in range(steps):
        previous, nearest = nearest, _size_iou(sizes, centres).argmax(axis=1)
        if previous is not None and np.array_equal(previous, nearest):
            break
        for cluster in np.unique(nearest):
            centres[cluster] = middle(sizes[nearest == cluster], axis=0)
    return centres


def _size_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """IoU [N,k] of boxes of the sizes [N,2] and [k,2] around one centre."""
    intersection = np.minimum(a[:, :1], b[:, 0]) * np.minimum(a[:, 1:], b[:, 1])
    return intersection / (a.prod(axis=1)[:, None] + b.prod(axis=1) - intersection)


def _checked(where: str, features: Any) -> np.ndarray:
    features = np.asarray(features)
    if features.ndim != 2 or features.dtype.kind != "f":
        raise ReproError(f"{where} are {features.dtype} of shape {features.shape}", "give floats [n,D]")
    if not np.isfinite(features).all():
        raise ReproError(f"{where} are not all finite", "float16 holds up to 65504: scale them, or check the network")
    return features
