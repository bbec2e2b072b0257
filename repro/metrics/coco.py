"""Average precision of boxes by the rules of COCO, computed by pycocotools.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014), and cocodataset.org, "Detection evaluation".
"""

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from repro.errors import ReproError
from repro.metrics.detection import Entries, checked

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# the first nine of pycocotools' twelve summary figures
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar_1", "ar_10", "ar_100")


def coco_protocol() -> dict[str, str]:
    """The choices behind `coco_ap`, in words, for result files and table captions."""
    return {
        "coco_ap": "pycocotools, boxes: mean over IoU 0.5, 0.55, ..., 0.95 and the classes that have an object, "
        "precision interpolated at 101 recall levels, at most 100 detections of a class in an image",
        "coco_sizes": "small below 32^2, large above 96^2 pixels of the original image, by the data set's area of the "
        "object where it gives one, else by that of its box",
        "coco_ignored": "a crowd takes any number of detections that lie in it, a difficult object one",
        "coco_ar": "highest recall, mean over IoU and classes, at 1, 10 and 100 detections of a class in an image",
    }


def coco_ap(
    predictions: Entries, truths: Entries, image_sizes: Sequence[tuple[int, int]], num_classes: int
) -> dict[str, float | None]:
    """COCO's box AP and AR, as fractions: `ap ap50 ap75 ap_small ap_medium ap_large ar_1 ar_10 ar_100`, each None
    where there is no object to find.

    predictions and truths as in `repro.metrics.detection`; a truth may have `area` [M] in pixels, which sorts it into
    small, medium and large: the official figures take that of the object's mask, and without it the box's counts.
    image_sizes: (height, width) of each image. At most the 100 best detections of a class in an image count. A crowd
    counts neither as found nor as missed, and takes every detection whose share inside it reaches the IoU. COCO knows
    no difficult objects: here they are ignored as it ignores objects of another size, which take one detection each
    (VOC excuses any number).

    Raises ReproError for lists of different lengths, areas that do not fit, and as `precision_recall` does."""
    detections, objects = checked(predictions, truths, num_classes)
    for images, given in ((detections, [{}] * len(truths)), (objects, truths)):
        for number, (image, truth) in enumerate(zip(images, given, strict=True)):
            low, sides = image["boxes"][:, :2], image["boxes"][:, 2:] - image["boxes"][:, :2]
            image["bbox"] = np.concatenate([low, sides], axis=1).tolist()
            image["area"] = areas_of(f"truth of image {number}", truth.get("area"), sides.prod(axis=1))
    return coco_scores(detections, objects, image_sizes, num_classes, "bbox")


def areas_of(where: str, given: Any, own: np.ndarray) -> np.ndarray:
    """Areas float64 [M] in pixels: those that are given, else the objects' own [M].

    Raises ReproError, calling the objects `where`, for another number of areas than objects and negative ones."""
    areas = np.asarray(own if given is None else given, np.float64)
    if areas.shape != own.shape or not (areas >= 0).all():
        raise ReproError(f"{where} has {len(own)} objects and areas {areas.tolist()}", "give one an object, in pixels")
    return areas


def coco_scores(
    detections: Entries, objects: Entries, image_sizes: Sequence[tuple[int, int]], num_classes: int, shape: str
) -> dict[str, float | None]:
    """pycocotools' figures by `NAMES`, None where there is no object to find. `detections` and `objects` of each image
    are what `checked` gives, with `area` and `shape`: "bbox" or "segmentation", as COCO has it, of each.

    Raises ReproError for sizes of another number of images."""
    if len(image_sizes) != len(objects):
        raise ReproError(f"sizes of {len(image_sizes)} images, truths of {len(objects)}", "give one of each an image")
    images = [{"id": n, "height": int(height), "width": int(width)} for n, (height, width) in enumerate(image_sizes)]

    def index(entries: Entries, **fields: Any) -> COCO:
        """pycocotools' index. Its own `loadRes` fails on an empty list."""
        numbered: list[dict[str, Any]] = []
        for n, entry in enumerate(entries):
            for m, kind in enumerate(entry["classes"]):
                # numbers start at 1: pycocotools takes the number 0 of a match for no match
                place = {"id": len(numbered) + 1, "image_id": n, "category_id": int(kind), "iscrowd": 0}
                own = {key: cast(entry[name][m]) for key, (name, cast) in fields.items()}
                numbered.append(place | {shape: entry[shape][m], "area": float(entry["area"][m])} | own)
        coco = COCO()
        categories = [{"id": k} for k in range(num_classes)]
        coco.dataset = {"images": images, "annotations": numbered, "categories": categories}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        known = index(objects, iscrowd=("crowd", int), difficult=("difficult", bool))
        found = index(detections, score=("scores", float))
        evaluation = _Evaluation(known, found, iouType={"bbox": "bbox", "segmentation": "segm"}[shape])
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # pycocotools writes -1 for what is undefined
    values = zip(NAMES, evaluation.stats[: len(NAMES)], strict=True)
    return {name: None if value < 0 else float(value) for name, value in values}


class _Evaluation(COCOeval):
    """pycocotools resets `ignore` to `iscrowd`; difficult objects are to be ignored too, but are no crowds."""

    def _prepare(self) -> None:
        super()._prepare()
        for objects in self._gts.values():
            for truth in objects:
                truth["ignore"] = truth["iscrowd"] or truth["difficult"]
