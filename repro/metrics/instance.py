"""Average precision of masks by the rules of COCO, computed by pycocotools, and the mask IoU of matched pairs.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014); He et al. 2017 (Mask R-CNN), Section 4.1.

A prediction of an image is dict(boxes [D,4], scores [D], classes int [D], masks, D run-length encoded masks), a truth
dict(boxes [M,4], classes int [M], crowd bool [M], masks, M of them), which may have `area` [M] in pixels; see
`repro.masks` for the encoding and `repro.metrics.detection` for boxes and classes.
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
from repro.masks import run_lengths
from repro.metrics.coco import NAMES
from repro.metrics.detection import box_iou, checked


def instance_protocol() -> dict[str, str]:
    """The choices behind `coco_mask_ap` and `mask_iou`, in words, for result files and table captions."""
    return {
        "mask_ap": "pycocotools, masks in the original image; as COCO AP of boxes, with the IoU of masks",
        "mask_sizes": "small below 32^2, large above 96^2 pixels of the object's mask, by the data set's area of "
        "it where that is given",
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

    A truth's `area` sorts it into small, medium and large; without it that of its mask does. A crowd counts neither as
    found nor as missed, and takes every detection whose share inside it reaches the IoU. Raises ReproError for lists of
    different lengths, masks of another number than the boxes or another size than the image, runs that do not fill it,
    and as `precision_recall` of `repro.metrics.detection`."""
    if len(image_sizes) != len(truths):
        raise ReproError(f"sizes of {len(image_sizes)} images, truths of {len(truths)}", "give one of each an image")
    detections, objects = _checked(predictions, truths, num_classes, image_sizes)
    images = [{"id": n, "height": int(height), "width": int(width)} for n, (height, width) in enumerate(image_sizes)]
    truth = [
        _annotation(n, entry, m) | {"iscrowd": int(entry["crowd"][m])}
        for n, entry in enumerate(objects)
        for m in range(len(entry["classes"]))
    ]
    result = [
        _annotation(n, entry, m) | {"iscrowd": 0, "score": float(entry["scores"][m])}
        for n, entry in enumerate(detections)
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
    if not 0 < iou_threshold <= 1:
        raise ReproError(f"IoU threshold is {iou_threshold}", "give one above 0, up to 1")
    detections, objects = _checked(predictions, truths, num_classes, [None] * len(truths))
    overlaps, total = [], 0
    for found, truth in zip(detections, objects, strict=True):
        free = ~truth["crowd"]
        total += int(free.sum())
        boxes = box_iou(found["boxes"], truth["boxes"])
        for index in np.argsort(-found["scores"], kind="stable"):
            fitting = np.where(free & (truth["classes"] == found["classes"][index]), boxes[index], -1.0)
            best = int(fitting.argmax()) if len(fitting) else -1
            if best < 0 or fitting[best] < iou_threshold:
                continue
            free[best] = False
            pair = coco_mask.iou([found["masks"][index]], [truth["masks"][best]], [0])
            overlaps.append(float(pair[0, 0]))
    return {
        "mean": float(np.mean(overlaps)) if overlaps else None,
        "pairs": len(overlaps),
        "matched": len(overlaps) / total if total else None,
    }


def _checked(
    predictions: Sequence[dict[str, Any]],
    truths: Sequence[dict[str, Any]],
    num_classes: int,
    image_sizes: Sequence[tuple[int, int] | None],
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What `checked` gives for each image, with `masks` as pycocotools takes them and `area` float64 [M]. Where the
    size of an image is None, its masks only have to share one."""
    # COCO's data has no difficult objects
    plain = [{"difficult": np.zeros(len(truth.get("classes", ())), bool), **truth} for truth in truths]
    detections, objects = checked(predictions, plain, num_classes)
    for number, size in enumerate(image_sizes):
        for kind, image, given in (
            ("prediction", detections[number], {"masks": predictions[number].get("masks", ())}),
            ("truth", objects[number], truths[number]),
        ):
            image |= _masks(f"{kind} of image {number}", given, len(image["classes"]), size)
            size = size or next((tuple(mask["size"]) for mask in image["masks"]), None)
    return detections, objects


def _masks(where: str, given: dict[str, Any], count: int, size: tuple[int, int] | None) -> dict[str, Any]:
    """The masks of an image and their areas in pixels: those that are given, else those of the masks."""
    masks = given.get("masks", ())
    if len(masks) != count:
        raise ReproError(f"{where} has {count} boxes and {len(masks)} masks", "give a mask for each box")
    areas = []
    for index, mask in enumerate(masks):
        # pycocotools reads beyond its memory where runs do not fill the image
        areas.append(run_lengths(mask, f"mask {index} of {where}")[1::2].sum())
        size = tuple(size or mask["size"])
        if tuple(mask["size"]) != size:
            sizes = ("x".join(map(str, each)) for each in (mask["size"], size))
            problem = f"mask {index} of {where} is {next(sizes)}, the image is {next(sizes)} (height x width)"
            raise ReproError(problem, "give masks of the original image")
    areas = np.asarray(given.get("area", areas), np.float64)
    if areas.shape != (count,) or not (areas >= 0).all():
        raise ReproError(f"{where} has {count} masks and areas {areas.tolist()}", "give one a mask, in pixels")
    return {"masks": [{"size": list(mask["size"]), "counts": mask["counts"]} for mask in masks], "area": areas}


def _annotation(number: int, image: dict[str, Any], index: int) -> dict[str, Any]:
    """What COCO says of one object of one image."""
    return {
        "image_id": number,
        "category_id": int(image["classes"][index]),
        "segmentation": image["masks"][index],
        "area": float(image["area"][index]),
    }


def _coco(images: list[dict[str, Any]], annotations: list[dict[str, Any]], num_classes: int) -> COCO:
    # numbers start at 1: pycocotools takes the number 0 of a match for no match
    numbered = [{**annotation, "id": number} for number, annotation in enumerate(annotations, 1)]
    coco = COCO()
    coco.dataset = {"images": images, "annotations": numbered, "categories": [{"id": k} for k in range(num_classes)]}
    coco.createIndex()
    return coco
