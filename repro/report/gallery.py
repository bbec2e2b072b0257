"""The same pictures through every model, colour-coded, with a legend: from the predictions kept with the results.

Pictures of generated data go into tables/. Real photographs are not ours to publish: their galleries are written to
runs/gallery/, where the data is.
"""

from pathlib import Path

import numpy as np
from PIL import Image

from repro import paths
from repro.data.base import open_dataset
from repro.data.cache import letterbox
from repro.errors import ReproError
from repro.files import canonical_hash
from repro.harness.record import Result
from repro.report.figures import png_data_hash, write_png
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


def _data_hash(group: list[Result]) -> str:
    return canonical_hash([[r.experiment, r.artifacts["samples"].sha256, r.dataset.fingerprint] for r in group])


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


def write(results: list[Result], results_dir: Path, tables_dir: Path) -> list[Path]:
    """Write galleries that changed; delete published ones that no result yields any more."""
    written, wanted = [], set()
    for name, group in _groups(results).items():
        public = group[0].dataset.name in _PUBLISHABLE
        path = (tables_dir if public else paths.runs_dir() / "gallery") / f"gallery_{name}.png"
        wanted.add(path)
        if png_data_hash(path) == _data_hash(group):
            continue
        try:
            picture = _draw(group, results_dir)
        except ReproError:
            if public:
                raise
            continue  # the photographs are not on this machine
        write_png(path, picture, _data_hash(group))
        written.append(path)
    for path in set(tables_dir.glob("gallery_*.png")) - wanted:
        path.unlink()
        written.append(path)
    return written


def check(results: list[Result], results_dir: Path, tables_dir: Path) -> list[str]:
    """Published galleries that are not what the results yield, one line each."""
    wanted = {
        tables_dir / f"gallery_{name}.png": _data_hash(group)
        for name, group in _groups(results).items()
        if group[0].dataset.name in _PUBLISHABLE
    }
    found = [f"{path.name}: not what results/ yields" for path, data in wanted.items() if png_data_hash(path) != data]
    return found + [f"{path.name}: no result yields it" for path in set(tables_dir.glob("gallery_*.png")) - set(wanted)]
