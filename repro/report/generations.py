"""One network of each generation on the same test images, in one colour code: label maps, boxes and instances.

Pictures of generated data go into tables/, those of photographs to runs/gallery/, as `repro.report.gallery` says."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro.data.base import Info, open_dataset
from repro.harness.record import Result
from repro.harness.samples import sample_indices
from repro.masks import decode_rle
from repro.report.figures import Picture
from repro.report.gallery import PUBLISHABLE
from repro.report.overlays import draw_boxes, draw_instances, enlarge_masks, grid, legend, resize, rgb
from repro.report.palette import voc_colormap
from repro.report.stages import kept_lines

_LONGEST = 240


def pictures(results: Sequence[Result], results_dir: Path) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """The newest gallery of each experiment by file name: those to publish, and those of photographs."""
    newest: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: r.started):
        if result.status == "ok" and "gallery" in result.artifacts:
            newest[result.experiment] = result
    public, private = {}, {}
    for result in newest.values():
        name = result.dataset.name
        picture = Picture([result.artifacts["gallery"].sha256], functools.partial(_draw, result, results_dir))
        (public if name in PUBLISHABLE else private)[f"gallery_generations_{name}.png"] = picture
    return public, private


def _draw(result: Result, results_dir: Path) -> np.ndarray:
    """Rows: images. Columns: the image, its true objects, and what each network makes of it."""
    dataset = open_dataset(result.dataset.name, **result.config["data"].get("options", {}))
    dataset.prepare()
    models, names = result.metrics["networks"], dataset.info.classes
    indices = sample_indices(dataset.size(result.dataset.split))
    lines = kept_lines(result, "gallery", results_dir, len(models) * len(indices))
    rows = []
    for number, index in enumerate(indices):
        sample = dataset.sample(result.dataset.split, index)
        original = sample.image.shape[:2]
        scale = _LONGEST / max(original)
        image = resize(rgb(sample.image), (round(original[0] * scale), round(original[1] * scale)))
        masks, classes = enlarge_masks(sample.masks, image.shape[:2]), sample.classes
        truth = draw_instances(image, masks, classes, names, _of(classes))
        entries = [lines[k * len(indices) + number] for k in range(len(models))]
        rows.append([image, truth, *(_answer(image, entry, original, dataset.info) for entry in entries)])
    titles = ["image", "objects", *models]
    key = legend(names, _of(range(len(names))), (_LONGEST + 8) * len(titles))
    return grid(rows, titles, legend=key, cell=(_LONGEST, _LONGEST))


def _answer(image: np.ndarray, entry: dict[str, Any], original: tuple[int, int], info: Info) -> np.ndarray:
    """A network's answer, which is in pixels of the original, over the enlarged image."""
    size = image.shape[:2]
    if "labels" in entry:
        masks = np.array([decode_rle(mask) for mask in entry["labels"]])
        classes = range(len(info.classes))
        return draw_instances(image, enlarge_masks(masks[1:], size), palette=_of(classes))
    classes, scores = entry["classes"], np.array(entry["scores"])
    if "masks" in entry:
        masks = np.array([decode_rle(mask) for mask in entry["masks"]], bool).reshape(-1, *original)
        return draw_instances(image, enlarge_masks(masks, size), classes, info.classes, _of(classes), scores)
    boxes = np.array(entry["boxes"], float).reshape(-1, 4) * (size[0] / original[0])
    return draw_boxes(image, boxes, classes, info.classes, scores=scores)


def _of(classes: Sequence[int]) -> np.ndarray:
    """The colour of each class, as in label maps, whose 0 is the background."""
    return voc_colormap()[np.asarray(classes, int) + 1]
