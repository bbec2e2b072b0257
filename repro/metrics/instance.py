"""Average precision of masks by the rules of COCO, computed by pycocotools, and the mask IoU of matched pairs.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014); He et al. 2017 (Mask R-CNN), Section 4.1.

A prediction of an image is dict(boxes [D,4], scores [D], classes int [D], masks, D run-length encoded masks), a truth
dict(boxes [M,4], classes int [M], crowd bool [M], masks, M of them), which may have `area` [M] in pixels; see
`repro.data.masks` for the encoding and `repro.metrics.detection` for boxes and classes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from repro.data.masks import run_lengths
from repro.errors import ReproError
from repro.metrics.coco import areas_of, coco_scores
from repro.metrics.detection import Entries, box_iou, checked

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


def instance_protocol() -> dict[str, str]:
    """The choices behind `coco_mask_ap` and `mask_iou`, in words, for result files and table captions."""
    return {
        "mask_ap": "pycocotools, masks in the original image; as COCO AP of boxes, with the IoU of masks",
        "mask_sizes": "small below 32^2, large above 96^2 pixels of the object's mask",
        "mask_iou": "mean IoU of masks over the pairs that match by class and box: by falling score, each detection "
        "takes the object not yet taken with the highest box IoU, of 0.5 or more; crowds left out",
    }


def coco_mask_ap(
    predictions: Entries, truths: Entries, image_sizes: Sequence[tuple[int, int]], num_classes: int
) -> dict[str, float | None]:
    """COCO's mask AP and AR, as fractions under the names of `coco_ap`, each None where there is no object to
    find. image_sizes: (height, width) of each image.

    A truth's `area` sorts it into small, medium and large; without it that of its mask does. A crowd counts neither as
    found nor as missed, and takes every detection whose share inside it reaches the IoU. Raises ReproError for lists
    of different lengths, masks of another number than the boxes or another size than the image, run lengths and areas
    that make no sense, and as `precision_recall` of `repro.metrics.detection`."""
    detections, objects = _checked(predictions, truths, num_classes, image_sizes)
    return coco_scores(detections, objects, image_sizes, num_classes, "segmentation")


def mask_iou(predictions: Entries, truths: Entries, num_classes: int, iou_threshold: float = 0.5) -> dict[str, Any]:
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
            pair = coco_mask.iou([found["segmentation"][index]], [truth["segmentation"][best]], [0])
            overlaps.append(float(pair[0, 0]))
    return {
        "mean": float(np.mean(overlaps)) if overlaps else None,
        "pairs": len(overlaps),
        "matched": len(overlaps) / total if total else None,
    }


def _checked(
    predictions: Entries, truths: Entries, num_classes: int, image_sizes: Sequence[tuple[int, int] | None]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What `checked` gives for each image, without difficult objects, with masks as `segmentation` and `area` float64
    [M]. Where the size of an image is None, its masks only have to share one."""
    if len(image_sizes) != len(truths):
        raise ReproError(f"sizes of {len(image_sizes)} images, truths of {len(truths)}", "give one of each an image")
    # COCO's data has no difficult objects
    plain = [{"difficult": np.zeros(len(truth.get("classes", ())), bool), **truth} for truth in truths]
    detections, objects = checked(predictions, plain, num_classes)
    for number, size in enumerate(image_sizes):
        found, truth = predictions[number], truths[number]
        for kind, image, masks, areas in (
            ("prediction", detections[number], found.get("masks", ()), None),
            ("truth", objects[number], truth.get("masks", ()), truth.get("area")),
        ):
            image |= _masks(f"{kind} of image {number}", masks, areas, len(image["classes"]), size)
            size = size or next((tuple(mask["size"]) for mask in image["segmentation"]), None)
        objects[number]["difficult"][:] = False
    return detections, objects


def _masks(
    where: str, masks: Sequence[dict[str, Any]], areas: Any, count: int, size: tuple[int, int] | None
) -> dict[str, Any]:
    """`count` masks of an image of this size, and their areas in pixels: those that are given, else the masks'."""
    if len(masks) != count:
        raise ReproError(f"{where} has {count} boxes and {len(masks)} masks", "give a mask for each box")
    # pycocotools reads beyond its memory where runs do not fill the image
    runs = [run_lengths(mask, f"mask {index} of {where}") for index, mask in enumerate(masks)]
    for index, mask in enumerate(masks):
        size = tuple(size or mask["size"])
        if tuple(mask["size"]) != size:
            sizes = ("x".join(map(str, each)) for each in (mask["size"], size))
            problem = f"mask {index} of {where} is {next(sizes)}, the image is {next(sizes)} (height x width)"
            raise ReproError(problem, "give masks of the original image")
    own = np.array([each[1::2].sum() for each in runs], np.float64)
    plain = [{"size": list(mask["size"]), "counts": mask["counts"]} for mask in masks]
    return {"segmentation": plain, "area": areas_of(where, areas, own)}
