"""The objects of a split's images, and the scores of detections against them. Needs neither Keras nor a backend."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from repro.data.masks import encode_rle
from repro.metrics.coco import coco_ap
from repro.metrics.detection import voc_ap
from repro.metrics.instance import coco_mask_ap, mask_iou


class Objects(NamedTuple):
    """What is to be found, image by image: ids, objects as `repro.metrics` takes them, and (height, width)."""

    ids: list[str]
    truths: list[dict[str, Any]]
    sizes: list[tuple[int, int]]


def objects_of(dataset: Any, split: str, count: int | None = None, masks: bool = True) -> Objects:
    """The objects of a split's images, or of its first `count`, in the original images.

    With `masks`, where the data set has them, an object's `area` is the number of pixels of its mask. COCO's files
    state that of the polygon, which differs by the border: next to 32^2 and 96^2 pixels an object may count as of
    another size."""
    objects = Objects([], [], [])
    indices = range(dataset.size(split) if count is None else count)
    for index in tqdm(indices, desc="reading", unit="image", leave=False, disable=None):
        sample = dataset.sample(split, index)
        truth = sample.truth()
        if masks and sample.masks is not None:
            truth |= {"masks": list(map(encode_rle, sample.masks)), "area": sample.masks.sum(axis=(1, 2))}
        objects.ids.append(sample.image_id)
        objects.truths.append(truth)
        objects.sizes.append(sample.image.shape[:2])
    return objects


def scores_of(
    predictions: Sequence[dict[str, Any]], objects: Objects, names: Sequence[str], masks: bool
) -> dict[str, Any]:
    """VOC's and COCO's average precisions of boxes and, with `masks`, those of masks, under the names that results
    have; None where there is nothing to find."""
    _, truths, sizes = objects
    areas = voc_ap(predictions, truths, len(names))
    metrics = {
        "map": areas["mean"],
        "map_11_point": voc_ap(predictions, truths, len(names), eleven_point=True)["mean"],
        "per_class": {
            name: {"ap": value, "objects": int(sum((truth["classes"] == kind).sum() for truth in truths))}
            for kind, (name, value) in enumerate(zip(names, areas["ap"], strict=True))
        },
        **{f"coco_{name}": value for name, value in coco_ap(predictions, truths, sizes, len(names)).items()},
    }
    if masks:
        found = coco_mask_ap(predictions, truths, sizes, len(names))
        metrics |= {f"mask_{name}": value for name, value in found.items()}
        metrics |= {f"mask_iou_{name}": value for name, value in mask_iou(predictions, truths, len(names)).items()}
    return metrics | {"images": len(predictions), "detections": sum(len(found["scores"]) for found in predictions)}
