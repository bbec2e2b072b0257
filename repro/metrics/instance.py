"""Average precision of masks by the rules of COCO, computed by pycocotools, and the mask IoU of matched pairs.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014); He et al. 2017 (Mask R-CNN), Section 4.1.

A prediction of an image is dict(boxes [D,4], scores [D], classes int [D], masks, D run-length encoded masks), a truth
dict(boxes [M,4], classes int [M], crowd bool [M], masks, M of them); see `repro.masks` for the encoding and
`repro.metrics.detection` for boxes and classes.
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from repro.errors import ReproError
from repro.metrics.coco import NAMES
from repro.metrics.detection import box_iou, checked


def instance_protocol() -> dict[str, str]:
    """The choices behind `coco_mask_ap` and `mask_iou`, in words, for result files and table captions."""
    return {
        "mask_ap": "pycocotools, masks in the original image; as COCO AP of boxes, with the IoU of masks",
        "mask_sizes": "small below 32^2, large above 96^2 pixels of the object's mask",
        "mask_iou": "mean IoU of masks over the pairs that match by class and box: by falling score, each detection "
        "takes the object not yet taken with the highest box IoU, of 0.5 or more; crowds left out",
    }


def coco_mask_ap(
    predictions: Sequence[dict[str, Any]],
    truths: Sequence[dict[str, Any]],
    image_sizes: Sequence[tuple[int, int]],
    num_classes: int,
) -> dict[str, float | None]:
    """COCO's mask AP and AR, as fractions under `NAMES` of `repro.metrics.coco`, each None where there is no object to
    find. image_sizes: (height, width) of each image.

    An object's area is that of its mask. A crowd counts neither as found nor as missed, and takes every detection whose
    share inside it reaches the IoU. Raises ReproError for lists of different lengths, masks of another number than the
    boxes or another size than the image, and as `precision_recall` of `repro.metrics.detection`."""
    detections, objects = _checked(predictions, truths, num_classes)
    if len(image_sizes) != len(truths):
        raise ReproError(f"sizes of {len(image_sizes)} images, truths of {len(truths)}", "give one of each an image")
    images = [{"id": n, "height": int(height), "width": int(width)} for n, (height, width) in enumerate(image_sizes)]
    for kind, given in (("prediction", predictions), ("truth", truths)):
        for number, (entry, size) in enumerate(zip(given, image_sizes, strict=True)):
            wrong = [mask["size"] for mask in entry["masks"] if tuple(mask["size"]) != tuple(size)]
            if wrong:
                raise ReproError(
                    f"{kind} of image {number} has a mask of {'x'.join(map(str, wrong[0]))}, the image is "
                    f"{'x'.join(map(str, size))} (height x width)",
                    "give masks of the original image",
                )
    truth = [
        _annotation(n, entry, masks["masks"], m) | {"iscrowd": int(entry["crowd"][m])}
        for n, (entry, masks) in enumerate(zip(objects, truths, strict=True))
        for m in range(len(entry["classes"]))
    ]
    result = [
        _annotation(n, entry, masks["masks"], m) | {"iscrowd": 0, "score": float(entry["scores"][m])}
        for n, (entry, masks) in enumerate(zip(detections, predictions, strict=True))
        for m in range(len(entry["classes"]))
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(_coco(images, truth, num_classes), _coco(images, result, num_classes), iouType="segm")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools writes -1 for what is undefined
    return {
        name: None if value < 0 else float(value)
        for name, value in zip(NAMES, evaluation.stats[: len(NAMES)], strict=True)
    }


def mask_iou(
    predictions: Sequence[dict[str, Any]],
    truths: Sequence[dict[str, Any]],
    num_classes: int,
    iou_threshold: float = 0.5,
) -> dict[str, Any]:
    """How well the masks of found objects fit: `mean`, the mean IoU of the masks of matched pairs (None without any),
    `pairs`, their number, and `matched`, the share of the objects that a pair holds (None without objects).

    In an image, by falling score, each detection takes the object of its class, not yet taken and no crowd, with the
    highest IoU of boxes, if that is `iou_threshold` or more. Raises ReproError as `coco_mask_ap`."""
    detections, objects = _checked(predictions, truths, num_classes)
    overlaps, total = [], 0
    for found, truth, coded, true_masks in zip(detections, objects, predictions, truths, strict=True):
        free = ~np.asarray(truth["crowd"], bool)
        total += int(free.sum())
        boxes = box_iou(found["boxes"], truth["boxes"])
        for index in np.argsort(-found["scores"], kind="stable"):
            fitting = np.where(free & (truth["classes"] == found["classes"][index]), boxes[index], -1.0)
            best = int(fitting.argmax()) if len(fitting) else -1
            if best < 0 or fitting[best] < iou_threshold:
                continue
            free[best] = False
            pair = coco_mask.iou([_bytes(coded["masks"][index])], [_bytes(true_masks["masks"][best])], [0])
            overlaps.append(float(pair[0, 0]))
    return {
        "mean": float(np.mean(overlaps)) if overlaps else None,
        "pairs": len(overlaps),
        "matched": len(overlaps) / total if total else None,
    }


def _checked(
    predictions: Sequence[dict[str, Any]], truths: Sequence[dict[str, Any]], num_classes: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Boxes, classes and flags of each image; COCO's data has no difficult objects."""
    plain = [{"difficult": np.zeros(len(truth["classes"]), bool), **truth} for truth in truths]
    for kind, given in (("prediction", predictions), ("truth", truths)):
        for number, entry in enumerate(given):
            if len(entry.get("masks", ())) != len(entry["classes"]):
                raise ReproError(
                    f"{kind} of image {number} has {len(entry['classes'])} boxes and {len(entry.get('masks', ()))} "
                    "masks", "give a mask for each box",
                )  # fmt: skip
    return checked(predictions, plain, num_classes)


def _annotation(number: int, entry: dict[str, Any], masks: Sequence[dict[str, Any]], index: int) -> dict[str, Any]:
    mask = _bytes(masks[index])
    x1, y1, x2, y2 = entry["boxes"][index].tolist()
    return {
        "image_id": number,
        "category_id": int(entry["classes"][index]),
        "segmentation": mask,
        "area": float(coco_mask.area(mask)),
        "bbox": [x1, y1, x2 - x1, y2 - y1],
    }


def _bytes(mask: dict[str, Any]) -> dict[str, Any]:
    """A mask as pycocotools takes it; JSON has text for its bytes."""
    counts = mask["counts"]
    return {"size": list(mask["size"]), "counts": counts.encode("ascii") if isinstance(counts, str) else counts}


def _coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], num_classes: int) -> COCO:
    # numbers start at 1: pycocotools takes the number 0 of a match for no match
    numbered = [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]
    coco = COCO()
    coco.dataset = {"images": images, "annotations": numbered, "categories": [{"id": k} for k in range(num_classes)]}
    coco.createIndex()
    return coco
