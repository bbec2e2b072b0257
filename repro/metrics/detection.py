"""Average precision of boxes by the rules of PASCAL VOC, and the recall of proposals. NumPy, on the host.

Everingham et al., "The PASCAL Visual Object Classes (VOC) Challenge" (IJCV 2010), and VOCevaldet.m of its
development kit. COCO's average precision is in `repro.metrics.coco`.

A prediction of an image is dict(boxes [D,4], scores [D], classes int [D]), a truth dict(boxes [M,4], classes int [M],
difficult bool [M], crowd bool [M]); boxes are (x1,y1,x2,y2), 0-based and half-open, in pixels of the original image,
classes 0..K-1. Padding is to be cut off first.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
ELEVEN_POINTS = np.arange(11) / 10
AVERAGE_RECALL_IOUS = np.arange(50, 100, 5) / 100
PREDICTION_KEYS = ("boxes", "scores", "classes")
TRUTH_KEYS = ("boxes", "classes", "difficult", "crowd")

Entries = Sequence[dict[str, Any]]  # predictions or truths, one an image


class Curve(NamedTuple):
    """Precision over recall of one class: recall, precision and scores float64 [N], by falling score, N detections
    that count; objects, the number of truths that count."""

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    objects: int


def detection_protocol(eleven_point: bool = False) -> dict[str, str]:
    """The choices behind `voc_ap` and `proposal_recall`, in words, for result files and table captions."""
    return {
        "voc_ap": "mean over 11 recall levels 0, 0.1, ..., 1 (VOC 2007)"
        if eleven_point
        else "area under the interpolated precision (VOC 2010 and later)",
        "voc_matching": "by falling score, each detection is assigned to the object of its class with the highest IoU; "
        "right at an IoU of the threshold or more (VOCevaldet.m) unless that object was found before",
        "voc_ignored": "difficult and crowd objects are not counted, nor is a detection assigned to one",
        "voc_ties": "of equal scores the earlier image comes first, then the earlier box",
        "voc_mean": "mean over the classes that have an object to find",
        "proposal_recall": "share of the objects that any of the first n proposals covers at the IoU or more, whatever "
        "the class; difficult and crowd objects left out; not one to one",
        "average_recall": "mean recall over IoU 0.5, 0.55, ..., 0.95",
    }


def voc_ap(
    predictions: Entries, truths: Entries, num_classes: int, iou_threshold: float = 0.5, eleven_point: bool = False
) -> dict[str, Any]:
    """Average precision by the rules of VOC, from one prediction and one truth an image (see the module).

    Returns `ap`, a list of K fractions, None for a class without an object to find, and `mean` over the others (mAP;
    None where there is none). See `precision_recall` for the rules of matching and for errors, and `average_precision`
    for the two kinds of AP."""
    levels = ELEVEN_POINTS if eleven_point else None
    curves = precision_recall(predictions, truths, num_classes, iou_threshold)
    ap = [None if curve is None else average_precision(curve, levels) for curve in curves]
    defined = [value for value in ap if value is not None]
    return {"ap": ap, "mean": float(np.mean(defined)) if defined else None}


def precision_recall(
    predictions: Entries, truths: Entries, num_classes: int, iou_threshold: float = 0.5
) -> list[Curve | None]:
    """Precision over recall of each class, None for one without an object to find; rules of VOCevaldet.m.

    The detections of a class in all images are sorted by falling score; of equal scores the earlier image and then
    the earlier box comes first. Each is assigned to the object of its class and image with the highest IoU (the first
    of equals), found already or not. With IoU >= `iou_threshold` it is right if it is the first on that object, wrong
    if a later one, and not counted at all if the object is difficult; with less it is wrong. VOC knows no crowds: here
    they are treated as difficult. The development kit compares with >=, its Python port in py-faster-rcnn with >;
    they differ on an IoU of exactly 0.5. VOC's areas, with one pixel added to each side, are those of half-open boxes.

    Raises ReproError for lists of different lengths, missing or ill-shaped arrays, NaN scores, boxes that are not
    finite or inverted, classes outside 0..K-1 and a threshold outside (0, 1]."""
    if not 0 < iou_threshold <= 1:
        raise ReproError(f"IoU threshold is {iou_threshold}", "give one above 0, up to 1")
    predictions, truths = checked(predictions, truths, num_classes)
    found = [_assigned(*pair) for pair in zip(predictions, truths, strict=True)]
    iou, ignored, match = (_joined([image[n] for image in found]) for n in range(3))
    # the number of an object among those of all images
    sizes = np.array([len(truth["classes"]) for truth in truths], int)
    counts = [len(prediction["scores"]) for prediction in predictions]
    match = match.astype(int) + np.repeat(np.cumsum(sizes) - sizes, counts)
    scores, classes = (_joined([prediction[key] for prediction in predictions]) for key in ("scores", "classes"))
    objects = [truth["classes"][~truth["difficult"] & ~truth["crowd"]] for truth in truths]
    totals = np.bincount(_joined(objects).astype(int), minlength=num_classes)
    curves: list[Curve | None] = []
    for k in range(num_classes):
        chosen = np.flatnonzero((classes == k) & ~((iou >= iou_threshold) & ignored.astype(bool)))
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        hits = np.flatnonzero(iou[chosen] >= iou_threshold)
        right = np.zeros(len(chosen), bool)
        right[hits[np.unique(match[chosen[hits]], return_index=True)[1]]] = True
        found_so_far = np.cumsum(right)
        total = int(totals[k])
        precision = found_so_far / np.arange(1, len(chosen) + 1)
        curves.append(Curve(found_so_far / total, precision, scores[chosen], total) if total else None)
    return curves


def average_precision(curve: Curve, recall_levels: np.ndarray | None = None) -> float:
    """Average precision in [0, 1] of one class. The precision interpolated at recall r is the highest at any recall
    of r or more, 0 beyond the highest recall.

    Without `recall_levels`: its area over recall (VOC 2010 and later; VOCap.m). Recall grows by 1 / objects at each
    right detection, so that this is a sum over these, divided by the number of objects. With them: its mean over the
    levels, in [0, 1]: `ELEVEN_POINTS` (VOC 2007), 101 for COCO. Levels are compared exactly; give k / 10, not
    np.arange(0, 1.1, 0.1), which is above 0.3 where it should be 0.3.

    >>> curve = Curve(np.array([0.5, 0.5, 1.0]), np.array([1.0, 0.5, 2 / 3]), np.array([0.9, 0.8, 0.7]), objects=2)
    >>> round(average_precision(curve), 4)  # right, wrong, right: (1 + 2/3) / 2
    0.8333
    >>> round(average_precision(curve, ELEVEN_POINTS), 4)  # (6 + 5 * 2/3) / 11
    0.8485
    """
    highest = np.maximum.accumulate(curve.precision[::-1])[::-1]
    if recall_levels is None:
        right = np.diff(curve.recall, prepend=0) > 0
        return float(highest[right].sum() / curve.objects)
    at = np.searchsorted(curve.recall, recall_levels, side="left")
    return float(np.append(highest, 0.0)[at].sum() / len(recall_levels))


def proposal_recall(
    proposals: Sequence[np.ndarray],
    truths: Entries,
    counts: Sequence[int] = (50, 100, 300, 1000, 2000),
    iou_thresholds: Sequence[float] = (0.5, 0.7),
) -> dict[str, Any]:
    """Recall of class-agnostic proposals against their number (Faster R-CNN, "Analysis of Recall-to-IoU").

    proposals: float [P,4] of each image, best first; truths as in the module, difficult and crowd objects left out.
    An object is recalled at n and t if any of the image's first n proposals (all, where there are fewer) has IoU >= t
    with it. This is not one to one as in COCO's and py-faster-rcnn's evaluation: one box may recall two objects.

    Returns `counts`, `objects` (their number), `recall`, a dict from the threshold ("0.5") to a list, one fraction for
    each count, and `average_recall`, a list likewise: the mean over IoU 0.5, 0.55, ..., 0.95 as COCO takes it, where
    Hosang et al. (PAMI 2016), who proposed it, integrate from 0.5 to 1. With no object all fractions are None.
    Raises ReproError for lists of different lengths, counts below 1, boxes that are not finite or inverted, and for
    truths as `precision_recall` does."""
    if len(proposals) != len(truths):
        raise ReproError(f"proposals of {len(proposals)} images, truths of {len(truths)}", "give one of each an image")
    if any(count < 1 for count in counts):
        raise ReproError(f"counts of proposals are {list(counts)}", "give 1 or more")
    best = [np.zeros((len(counts), 0))]
    for number, (boxes, truth) in enumerate(zip(proposals, truths, strict=True)):
        truth = _checked_image(f"truth of image {number}", truth, TRUTH_KEYS, None)
        objects = truth["boxes"][~truth["difficult"] & ~truth["crowd"]]
        iou = box_iou(_checked_boxes(f"proposals of image {number}", boxes), objects)
        best.append(np.stack([iou[:count].max(axis=0, initial=0.0) for count in counts]))
    overlaps = np.concatenate(best, axis=1)  # [counts, objects]

    def recall(threshold: float) -> np.ndarray:
        return (overlaps >= threshold).mean(axis=1)

    nothing = [None] * len(counts)
    some = overlaps.shape[1] > 0
    return {
        "counts": [int(count) for count in counts],
        "objects": overlaps.shape[1],
        "recall": {f"{t:g}": recall(t).tolist() if some else nothing for t in iou_thresholds},
        "average_recall": np.mean([recall(t) for t in AVERAGE_RECALL_IOUS], axis=0).tolist() if some else nothing,
    }


def box_iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union float64 [D,M] of half-open boxes [D,4] and [M,4] (x1,y1,x2,y2); 0 if both are empty."""
    a, b = np.asarray(a, np.float64)[:, None], np.asarray(b, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    intersection = np.maximum(sides, 0).prod(axis=-1)
    union = (a[..., 2:] - a[..., :2]).prod(axis=-1) + (b[..., 2:] - b[..., :2]).prod(axis=-1) - intersection
    return np.divide(intersection, union, out=np.zeros_like(intersection), where=union > 0)


def checked(
    predictions: Entries, truths: Entries, num_classes: int
) -> tuple[list[dict[str, np.ndarray]], list[dict[str, np.ndarray]]]:
    """Predictions and truths (see the module) as arrays: boxes and scores float64, classes int64, flags bool.

    Raises ReproError as `precision_recall` does."""
    if len(predictions) != len(truths):
        problem = f"predictions of {len(predictions)} images, truths of {len(truths)}"
        raise ReproError(problem, "give one of each an image")

    def arrays(kind: str, images: Entries, keys: Sequence[str]) -> list[dict[str, np.ndarray]]:
        return [_checked_image(f"{kind} of image {n}", image, keys, num_classes) for n, image in enumerate(images)]

    return arrays("prediction", predictions, PREDICTION_KEYS), arrays("truth", truths, TRUTH_KEYS)


def _checked_image(
    where: str, image: dict[str, Any], keys: Sequence[str], num_classes: int | None
) -> dict[str, np.ndarray]:
    """The arrays `keys` of one image; classes are not bounded where num_classes is None."""
    missing = [key for key in keys if key not in image]
    if missing:
        raise ReproError(f"{where} has no {' and no '.join(missing)}", f"give {', '.join(keys)}")
    boxes = _checked_boxes(where, image["boxes"])
    arrays = {"boxes": boxes}
    for key in keys[1:]:
        values = np.asarray(image[key])
        if values.shape != boxes.shape[:1]:
            raise ReproError(f"{where} has {len(boxes)} boxes and {key} of shape {values.shape}", "give one a box")
        arrays[key] = values.astype({"scores": np.float64, "classes": np.int64}.get(key, bool))
    classes = np.asarray(image["classes"])
    if classes.size and classes.dtype.kind not in "iu":
        raise ReproError(f"{where} has classes of type {classes.dtype}", "give integers")
    if num_classes is not None and (wrong := (classes < 0) | (classes >= num_classes)).any():
        problem = f"{where} has class {classes[wrong][0]} outside 0..{num_classes - 1}"
        raise ReproError(problem, "cut padding (class -1) off, and check the number of classes")
    if np.isnan(arrays.get("scores", np.zeros(0))).any():
        raise ReproError(f"{where} has a score that is not a number", "check that training did not diverge")
    return arrays


def _checked_boxes(where: str, boxes: Any) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes.reshape(0, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ReproError(f"{where} has boxes of shape {boxes.shape}", "give [n,4]")
    wrong = ~np.isfinite(boxes).all(axis=1) | (boxes[:, 2:] < boxes[:, :2]).any(axis=1)
    if wrong.any():
        raise ReproError(f"{where} has the box {boxes[wrong][0].tolist()}", "give finite x1 <= x2 and y1 <= y2")
    return boxes


def _assigned(prediction: dict[str, np.ndarray], truth: dict[str, np.ndarray]) -> tuple[np.ndarray, ...]:
    """For each detection [D] of one image the highest IoU with an object of its class (-1: there is none), whether
    that object is not to be counted, and its index."""
    count = len(prediction["scores"])
    if not len(truth["classes"]):
        return np.full(count, -1.0), np.zeros(count, bool), np.zeros(count, int)
    same = prediction["classes"][:, None] == truth["classes"]
    iou = np.where(same, box_iou(prediction["boxes"], truth["boxes"]), -1.0)
    match = iou.argmax(axis=1)
    return iou.max(axis=1), (truth["difficult"] | truth["crowd"])[match], match


def _joined(arrays: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.zeros(0), *arrays])
