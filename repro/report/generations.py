"""One network of each generation on the same test images, in one colour code: label maps, boxes and instances.

Pictures of generated data go into tables/, those of photographs to runs/gallery/, as `repro.report.gallery` says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro.data.base import open_dataset
from repro.harness.record import Result
from repro.harness.samples import sample_indices
from repro.masks import decode_rle
from repro.report.figures import Picture
from repro.report.instance import LONGEST, draw_answer
from repro.report.overlays import draw_instances, enlarge_masks, grid, legend
from repro.report.palette import voc_colormap
from repro.report.stages import drawn, enlarged, kept_lines


def pictures(results: Sequence[Result], results_dir: Path) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """The newest gallery of each data set by file name: those to publish, and those of photographs."""
    groups = {
        f"{result.dataset.name}_{result.dataset.fingerprint[:8]}_{result.metrics['images']}": [result]
        for result in sorted(results, key=lambda r: r.started)
        if result.status == "ok" and "gallery" in result.artifacts
    }
    return drawn("generations", groups, lambda r: r.artifacts["gallery"].sha256, _draw, results_dir)


def _draw(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: images. Columns: the image, its true objects, and what each network makes of it."""
    (result,) = group
    dataset = open_dataset(result.dataset.name, **result.config["data"].get("options", {}))
    dataset.prepare()
    models, names = result.metrics["networks"], dataset.info.classes
    colours = voc_colormap()[1:]  # of classes, as in label maps, whose 0 is the background
    indices = sample_indices(dataset.size(result.dataset.split))
    lines = kept_lines(result, "gallery", results_dir, len(models) * len(indices))
    rows = []
    for number, index in enumerate(indices):
        sample = dataset.sample(result.dataset.split, index)
        image, _ = enlarged(sample.image, LONGEST)
        masks = enlarge_masks(sample.masks, image.shape[:2])
        truth = draw_instances(image, masks, sample.classes, names, colours[sample.classes])
        entries = lines[number :: len(indices)]  # a network after another
        answers = [_answer(image, entry, sample.image.shape[:2], names, colours) for entry in entries]
        rows.append([image, truth, *answers])
    titles = ["image", "objects", *models]
    key = legend(names, colours, (LONGEST + 8) * len(titles))
    return grid(rows, titles, legend=key, cell=(LONGEST, LONGEST))


def _answer(
    image: np.ndarray, entry: dict[str, Any], original: tuple[int, int], names: Sequence[str], colours: np.ndarray
) -> np.ndarray:
    """A network's answer, which is in pixels of the original, over the enlarged image."""
    if "labels" not in entry:
        return draw_answer(image, entry, original, names, colours)
    masks = np.array([decode_rle(mask) for mask in entry["labels"]])
    return draw_instances(image, enlarge_masks(masks[1:], image.shape[:2]), palette=colours)
