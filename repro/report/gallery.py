"""The same pictures through every model, colour-coded, with a legend: from the predictions kept with the results.

Pictures of generated data go into tables/. Real photographs are not ours to publish: their galleries are written to
runs/gallery/, where the data is.
"""

import contextlib
import functools
from pathlib import Path

import numpy as np
from PIL import Image

from repro.data.base import open_dataset
from repro.data.cache import letterbox
from repro.errors import NoDataError, ReproError
from repro.harness.record import Result
from repro.report import render
from repro.report.figures import Picture
from repro.report.overlays import grid, legend
from repro.report.palette import colourise, voc_colormap
from repro.report.tables import model_title

_PUBLISHABLE = ("shapes",)


def _groups(results: list[Result]) -> dict[str, list[Result]]:
    """The newest run with kept predictions of each experiment, by data set and input size; first seed first."""
    newest: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: (-r.seed, r.started)):
        if result.status == "ok" and result.kind == "train" and "samples" in result.artifacts and result.dataset:
            newest[result.experiment] = result
    groups: dict[str, list[Result]] = {}
    for result in newest.values():
        name = f"{result.dataset.name}_{result.input_size[0]}x{result.input_size[1]}"
        groups.setdefault(name, []).append(result)
    order = {"fcn32s": 0, "fcn16s": 1, "fcn8s": 2}
    return {
        name: sorted(group, key=lambda r: (order.get(r.model, 9), r.model)) for name, group in sorted(groups.items())
    }


def _draw(group: list[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: picture, truth, each model. Raises ReproError when predictions or data are gone."""
    first = group[0]
    dataset = open_dataset(first.dataset.name, **first.config["data"].get("options", {}))
    dataset.prepare()
    names = dataset.info.semantic_classes
    palette = dataset.info.palette or [tuple(map(int, colour)) for colour in voc_colormap(len(names))]
    width = first.input_size[1]
    columns = [_samples(results_dir / result.experiment / result.artifacts["samples"].file) for result in group]
    rows = []
    for index in range(columns[0].shape[1] // width):
        sample = letterbox(dataset.sample(first.dataset.split, index), tuple(first.input_size))
        shown = [column[:, index * width : (index + 1) * width] for column in columns]
        rows.append([sample["image"], colourise(sample["semantic"], palette), *(colourise(s, palette) for s in shown)])
    cell = _cell(tuple(first.input_size))
    titles = ["image", "truth", *(model_title(result) for result in group)]
    return grid(rows, titles, legend=legend(names, palette, (cell[1] + 8) * len(titles)), cell=cell)


def _cell(size: tuple[int, int]) -> tuple[int, int]:
    scale = max(1.0, 160 / size[0])
    return round(size[0] * scale), round(size[1] * scale)


def _samples(path: Path) -> np.ndarray:
    try:
        return np.asarray(Image.open(path))
    except OSError:
        raise ReproError(f"{path} is missing or damaged", "restore it, or run its experiment again") from None


def pictures(results: list[Result], results_dir: Path) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """Galleries by file name: those to publish, and those of photographs, which stay on this machine."""
    public, private = {}, {}
    for name, group in _groups(results).items():
        data = [[r.experiment, r.artifacts["samples"].sha256, r.dataset.fingerprint] for r in group]
        picture = Picture(data, functools.partial(_draw, group, results_dir))
        (public if group[0].dataset.name in _PUBLISHABLE else private)[f"gallery_{name}.png"] = picture
    return public, private


def write_private(galleries: dict[str, Picture], folder: Path) -> list[Path]:
    """Write the galleries of photographs whose data is on this machine and that changed."""
    written = []
    for name, picture in galleries.items():
        with contextlib.suppress(NoDataError):
            written += render.write_files({name: picture}, folder, set())
    return written
