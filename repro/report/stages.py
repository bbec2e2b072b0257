"""Detectors in pictures: objects, proposals, matched anchors and final boxes of the same test images; and how many
objects proposals cover, by their number.

Pictures of generated data go into tables/, those of photographs to runs/gallery/, as `repro.report.gallery` says."""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from repro.data.base import open_dataset
from repro.errors import ReproError
from repro.harness.record import Result
from repro.harness.samples import sample_indices
from repro.report.figures import COLOURS, LINE_STYLES, Picture
from repro.report.gallery import PUBLISHABLE, titles_of
from repro.report.overlays import draw_boxes, grid, resize, rgb
from repro.report.pooling import CodeHash, accuracy_pools, data_title, heading, model_rank, model_title

_PROPOSED, _ANCHOR = (0, 114, 178), (213, 94, 0)
_LONGEST = 260


def pictures(results: Sequence[Result], results_dir: Path) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """Pictures of the stages by file name: those to publish, and those of photographs, which stay here."""
    groups = groups_of(results)
    return drawn("stages", groups, lambda r: r.artifacts["stages"].sha256, _draw, results_dir)


def groups_of(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The newest run with kept stages of each experiment, first seed first, by the test images they share."""
    newest: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: (-r.seed, r.started)):
        if result.status == "ok" and "stages" in result.artifacts and result.dataset:
            newest[result.experiment] = result
    groups: dict[str, list[Result]] = {}
    for result in sorted(newest.values(), key=lambda r: (model_rank(r.model), model_title(r), r.experiment)):
        key = f"{result.dataset.name}_{result.dataset.fingerprint[:8]}_{result.metrics['images']}"
        groups.setdefault(key, []).append(result)
    return groups


def drawn(
    what: str,
    groups: dict[str, list[Result]],
    digest: Callable[[Result], str],
    draw: Callable[[Sequence[Result], Path], np.ndarray],
    results_dir: Path,
) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """A picture `gallery_<what>_<data>.png` of each group: those to publish, and those of photographs. `digest`: of
    what is drawn of a run."""
    public, private = {}, {}
    for key, group in sorted(groups.items()):
        data = [[title, digest(result)] for title, result in zip(titles_of(group), group, strict=True)]
        picture = Picture([key, data], functools.partial(draw, group, results_dir))
        name = key.rsplit("_", 2)[0]
        taken = public if group[0].dataset.name in PUBLISHABLE else private
        taken[f"gallery_{what}_{name if f'gallery_{what}_{name}.png' not in taken else key}.png"] = picture
    return public, private


def _draw(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: objects, then proposals and final boxes of each model, and an RPN's matched anchors."""
    first = group[0]
    dataset = open_dataset(first.dataset.name, **first.config["data"].get("options", {}))
    dataset.prepare()
    names, split = dataset.info.classes, first.dataset.split
    indices = sample_indices(first.metrics["images"])
    kept = [kept_lines(result, "stages", results_dir, len(indices)) for result in group]
    titles = ["objects"]
    for title, stages in zip(titles_of(group), kept, strict=True):
        titles += [f"{title}: {stage}" for stage in _shown(stages[0])]
    rows = []
    for number, index in enumerate(indices):
        sample = dataset.sample(split, index)
        image, scale = enlarged(sample.image, _LONGEST)
        row = [draw_boxes(image, sample.boxes * scale, sample.classes, names)]
        for stages in kept:
            entry = stages[number]
            for stage in _shown(stages[0]):
                if stage == "final boxes":
                    boxes = np.array(entry["boxes"], float).reshape(-1, 4) * scale
                    row.append(draw_boxes(image, boxes, entry["classes"], names, scores=entry["scores"]))
                else:
                    colour = _ANCHOR if stage == "anchors" else _PROPOSED
                    row.append(_outlined(image, np.array(entry[stage], float).reshape(-1, 4) * scale, colour))
        rows.append(row)
    return grid(rows, titles, cell=(_LONGEST, _LONGEST))


def _shown(entry: dict[str, Any]) -> list[str]:
    return [stage for stage in ("proposals", "anchors") if stage in entry] + ["final boxes"]


def enlarged(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """An image [H,W,C] in RGB, its longest side that of a cell, so that lines and letters are sharp, and its scale."""
    scale = longest / max(image.shape[:2])
    size = round(image.shape[0] * scale), round(image.shape[1] * scale)
    return resize(rgb(image), size), scale


def _outlined(image: np.ndarray, boxes: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for x1, y1, x2, y2 in boxes:
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour)
    return np.array(picture)


def kept_lines(result: Result, artifact: str, results_dir: Path, count: int) -> list[dict[str, Any]]:
    """What a run kept of its `count` sampled test images. Raises ReproError where that is gone or damaged."""
    path = results_dir / result.experiment / result.artifacts[artifact].file
    try:
        kept = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        raise ReproError(f"{path} is missing or damaged", f"restore it, or run {result.experiment} again") from None
    if len(kept) != count:
        raise ReproError(f"{path} does not hold {count} images", f"run {result.experiment} again")
    return kept


def recall_figure(results: Sequence[Result], current: CodeHash | None) -> Picture | None:
    """Recall of proposals at IoU 0.5 and 0.7 against their number, a panel for each data set and scale."""
    lines = []
    for entry in accuracy_pools(results, "detection", current):
        found = [r.metrics["recall"] for r in entry.results if r.metrics.get("recall")]
        if not found or entry.code == "stale":
            continue
        panel = heading(entry.first.scale, data_title(entry.first))
        for level in ("0.5", "0.7"):
            means = np.mean([recall["recall"][level] for recall in found], axis=0)
            label = f"{proposer_of(entry.first)} ({model_title(entry.first)}), IoU {level}"
            lines.append([panel, label, level, found[0]["counts"], [round(100 * float(v), 4) for v in means]])
    return Picture(lines, lambda: _curves(lines)) if lines else None


def proposer_of(result: Result) -> str:
    """Who proposes the regions of a detector."""
    mode = result.config.get("proposals")
    return f"selective search, {mode}" if mode else "RPN"


def _curves(lines: list[list[Any]]) -> Figure:
    panels = list(dict.fromkeys(line[0] for line in lines))
    figure = Figure(figsize=(9, 3.8 * len(panels)), layout="constrained")
    for axis, panel in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        shown = [line for line in lines if line[0] == panel]
        who = list(dict.fromkeys(label.rpartition(",")[0] for _, label, *_ in shown))
        for _, label, level, counts, values in shown:
            colour = COLOURS[who.index(label.rpartition(",")[0]) % len(COLOURS)]
            style = LINE_STYLES[level == "0.7"]
            axis.plot(counts, values, marker="o", markersize=3, color=colour, linestyle=style, label=label)
        axis.set_title(panel, loc="left", fontsize=11)
        axis.set(xscale="log", xlabel="proposals an image", ylabel="recall %", ylim=(0, 100))
        ticks = sorted({count for _, _, _, counts, _ in shown for count in counts})
        axis.set_xticks(ticks, [str(tick) for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
