"""`repro predict` of detectors and of instance segmentation: boxes or instances as pictures, and COCO's results."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from repro import registry
from repro.data.base import Sample, dataset_class
from repro.data.cache import letterbox
from repro.errors import ReproError
from repro.files import atomic_write
from repro.harness import checkpoint
from repro.harness.config import Network
from repro.harness.detect import Detector, build, predictions_of
from repro.harness.instance import instances_of
from repro.harness.stages import LEAST_SCORE
from repro.masks import decode_rle
from repro.report.overlays import draw_boxes, draw_instances


def predict_objects(
    network: Network, card: dict[str, Any], paths: list[Path], images: list[np.ndarray], weights: Path, out: Path
) -> list[str]:
    """Write `<stem>.objects.png` of every image, with the boxes or instances that score 0.3 or more, and all that was
    found to `predictions.json` in COCO's results format; returns a line to print for each image.

    images uint8 [H,W,C]. `image_id` is the number that a file is named by, as COCO's are, else the file's name;
    `category_id` is COCO's for its classes, else the class counted from 1. Raises ReproError for networks that need
    proposals, and for weights that do not fit."""
    if network.name in ("rcnn", "fast_rcnn"):
        raise ReproError(
            f"repro predict has no proposals, which {network.name} needs",
            "use faster_rcnn, or score it with repro eval",
        )
    loader = dataset_class(card["dataset"])
    names = loader.info.classes
    categories = getattr(loader, "category_ids", None) or tuple(range(1, len(names) + 1))
    detector = detector_from(network, card)
    checkpoint.load_weights(detector.network, checkpoint.load_arrays(weights)[0], str(weights))
    found = objects_in(detector, images, tuple(card["input_size"]))
    answers, lines = [], []
    for path, image, objects in zip(paths, images, found, strict=True):
        image_id = int(path.stem) if path.stem.isdecimal() else path.name
        answers += results_of(image_id, objects, categories)
        shown = objects["scores"] >= LEAST_SCORE
        picture = _drawn(image, objects, np.flatnonzero(shown), names)
        Image.fromarray(picture).save(out / f"{path.stem}.objects.png")
        counts = Counter(names[int(kind)] for kind in objects["classes"][shown])
        listed = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        lines.append(f"{path.name}: {listed or f'nothing scores {LEAST_SCORE:g} or more'}")
    atomic_write(out / "predictions.json", json.dumps(answers, indent=1).encode())
    return lines


def detector_from(network: Network, card: dict[str, Any]) -> Detector:
    """A network with its decoding as it was scored, without weights yet."""
    module, options = registry.module_of(network.name), card.get("test") or {}
    if registry.architecture(network.name).task == "instance":  # its final boxes are the network's own
        network, options = msgspec.structs.replace(network, options=network.options | options), {}
    return Detector(build(network, network.num_classes, network.channels, "infer"), module.detect, options)


def objects_in(detector: Detector, images: list[np.ndarray], size: tuple[int, int]) -> Iterator[dict[str, Any]]:
    """Yield what a detector finds in every image uint8 [H,W,C], which it sees fitted into `size`: boxes float32 [n,4]
    in pixels of the image, scores, classes, and where the network has them run-length encoded masks."""
    records = [
        letterbox(Sample("", image), size) | {"original_size": np.asarray(image.shape[:2], "int32")} for image in images
    ]
    # what has masks also answers to the other, but without them
    found = (instances_of if "masks" in detector.network.output else predictions_of)(detector, records)
    yield from (objects for objects, _ in found)


def results_of(image_id: int | str, objects: dict[str, Any], categories: tuple[int, ...]) -> list[dict[str, Any]]:
    """COCO's results of an image: bbox as x, y, width, height; segmentation as compressed run lengths."""
    answers = []
    for index, (x1, y1, x2, y2) in enumerate(np.asarray(objects["boxes"], float).round(2).tolist()):
        answers.append(
            {
                "image_id": image_id,
                "category_id": categories[int(objects["classes"][index])],
                "bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)],
                "score": round(float(objects["scores"][index]), 5),
            }
            | ({"segmentation": objects["masks"][index]} if "masks" in objects else {})
        )
    return answers


def _drawn(image: np.ndarray, objects: dict[str, Any], chosen: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    classes, scores = objects["classes"][chosen], objects["scores"][chosen]
    if "masks" not in objects:
        return draw_boxes(image, objects["boxes"][chosen], classes, names, scores=scores)
    masks = np.array([decode_rle(objects["masks"][k]) for k in chosen], bool).reshape(-1, *image.shape[:2])
    return draw_instances(image, masks, classes, names, scores=scores)
