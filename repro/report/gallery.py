"""The same pictures through every model, colour-coded, with a legend: from the predictions kept with the results.

Pictures of generated data go into tables/. Real photographs are not ours to publish: their galleries are written to
runs/gallery/, where the data is.
"""

import contextlib
import functools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from repro.data.base import VOID, open_dataset
from repro.data.cache import letterbox
from repro.errors import NoDataError, ReproError
from repro.harness.record import Result
from repro.harness.samples import sample_indices
from repro.report import render
from repro.report.figures import Picture
from repro.report.overlays import grid, legend, rgb
from repro.report.palette import Palette, colourise, voc_colormap
from repro.report.pooling import canvas_of, model_rank, model_title, size_text

PUBLISHABLE = ("shapes",)
_MODELS = 6  # side by side, beside picture and truth
_PADDING = (236, 236, 236)
_CELL = (160, 280)  # pictures whose longer side is between these are shown as they are


def _groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The newest run with kept predictions of each experiment, first seed first, by what they may share a gallery:
    test images, and the canvas they lie on."""
    newest: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: (-r.seed, r.started)):
        if _is_shown(result):
            newest[result.experiment] = result
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in sorted(newest.values(), key=lambda r: (model_rank(r.model), model_title(r), r.experiment)):
        name = f"{result.dataset.name}_{size_text(canvas_of(result))}"
        groups.setdefault((name, result.dataset.split, result.dataset.fingerprint), []).append(result)
    shared = Counter(name for name, *_ in groups)
    parts = {}
    for (name, _, fingerprint), group in sorted(groups.items()):
        name += f"_{fingerprint[:8]}" if shared[name] > 1 else ""
        for first in range(0, len(group), _MODELS):
            parts[name + (f"_{first // _MODELS + 1}" if first else "")] = group[first : first + _MODELS]
    return parts


def _is_shown(result: Result) -> bool:
    kept = result.status == "ok" and result.kind == "train" and "samples" in result.artifacts and result.dataset
    # runs from before the data had a size kept other test images than `sample_indices` says
    return bool(kept) and "size" in result.config["data"]


def titles_of(group: Sequence[Result]) -> list[str]:
    """A title for each run; runs that would have the same one are told apart by their experiment."""
    titles = [model_title(result) for result in group]
    return [
        f"{title}, {result.experiment}" if titles.count(title) > 1 else title
        for title, result in zip(titles, group, strict=True)
    ]


def _draw(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: picture, truth, each model. Raises ReproError when predictions or data are gone."""
    first = group[0]
    dataset = open_dataset(first.dataset.name, **first.config["data"].get("options", {}))
    dataset.prepare()
    names = dataset.info.semantic_classes
    palette = dataset.info.palette or [tuple(map(int, colour)) for colour in voc_colormap(len(names))]
    canvas = canvas_of(first)
    indices = sample_indices(dataset.size(first.dataset.split))
    columns = [_samples(result, results_dir, canvas, len(indices)) for result in group]
    rows, void, padded = [], False, False
    for number, index in enumerate(indices):
        record = letterbox(dataset.sample(first.dataset.split, index), canvas)
        padding = np.ones(canvas, bool)
        padding[: record["valid_size"][0], : record["valid_size"][1]] = False
        labels = [record["semantic"], *(column[number] for column in columns)]
        rows.append([_painted(rgb(record["image"]), padding), *(_coloured(m, palette, padding) for m in labels)])
        void = void or bool((record["semantic"][~padding] == VOID).any())
        padded = padded or bool(padding.any())
    extra = [("void, not scored", voc_colormap()[VOID])] * void + [("padding", _PADDING)] * padded
    titles, cell = ["image", "truth", *titles_of(group)], _cell(canvas)
    shown = [*names, *(name for name, _ in extra)], [*palette, *(colour for _, colour in extra)]
    return grid(rows, titles, legend=legend(*shown, (max(cell[1], _CELL[0]) + 8) * len(titles)), cell=cell)


def _coloured(labels: np.ndarray, palette: Palette, padding: np.ndarray) -> np.ndarray:
    return _painted(colourise(labels, palette), padding)


def _painted(picture: np.ndarray, padding: np.ndarray) -> np.ndarray:
    return np.where(padding[..., None], np.array(_PADDING, np.uint8), picture)


def _cell(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) a picture is shown at: reduced where it is large, enlarged by a whole number where small."""
    low, high = _CELL
    longest = max(size)
    scale: Any = high / longest if longest > high else 1 if longest >= low else high // longest
    return round(size[0] * scale), round(size[1] * scale)


def _samples(result: Result, results_dir: Path, canvas: tuple[int, int], count: int) -> list[np.ndarray]:
    """The kept label maps of a run, `count` of [H,W] of the canvas."""
    path = results_dir / result.experiment / result.artifacts["samples"].file
    cure = f"restore it, or run {result.experiment} again"
    try:
        kept = np.asarray(Image.open(path))
    except OSError:
        raise ReproError(f"{path} is missing or damaged", cure) from None
    if kept.shape != (canvas[0], count * canvas[1]):
        raise ReproError(f"{path} does not hold {count} label maps of {size_text(canvas)}", cure)
    return np.split(kept, count, axis=1)


def pictures(results: Sequence[Result], results_dir: Path) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """Galleries by file name: those to publish, and those of photographs, which stay on this machine."""
    public, private = {}, {}
    for name, group in _groups(results).items():
        data = [
            [title, result.artifacts["samples"].sha256, result.dataset.fingerprint]
            for title, result in zip(titles_of(group), group, strict=True)
        ]
        picture = Picture(data, functools.partial(_draw, group, results_dir))
        (public if group[0].dataset.name in PUBLISHABLE else private)[f"gallery_{name}.png"] = picture
    return public, private


def write_private(galleries: dict[str, Picture], folder: Path) -> list[Path]:
    """Write the galleries of photographs whose data is on this machine and that changed."""
    written = []
    for name, picture in galleries.items():
        with contextlib.suppress(NoDataError):
            written += render.write_files({name: picture}, folder, set())
    return written
