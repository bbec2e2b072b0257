"""What detectors have beside their scores: the recall of proposals, and what training took."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from repro.records.result import Result
from repro.report import pooling
from repro.report.cost import proposals_mode
from repro.report.figures import COLOURS, LINE_STYLES, Picture, plain, stacked
from repro.report.pooling import CODE, SETUP, Pool, accuracy_pools, data_title, model_title, row_of, sections_by_scale
from repro.report.render import Row, Section, columns, number


def training_sections(results: Sequence[Result]) -> list[Section]:
    """Training time and disk of the trained detectors."""
    shown = columns("id:row", "model", "data*", *SETUP, "images:training images", "seeds", "training:training s")
    shown += columns("parts", "each:s an image", "disk:disk an image, KiB", "map:mAP %", *CODE)
    return sections_by_scale("Training", shown, accuracy_pools(results, "detection"), _training_rows, csv=False)


def _training_rows(entry: Pool) -> Iterator[Row]:
    first, metrics = entry.first, entry.first.metrics
    images = int(metrics.get("train_images") or 0)
    if first.kind != "train" or not images:
        return
    parts = [result.metrics.get("training_seconds", {}) for result in entry.results]
    seconds = [
        sum(found.values() if found else result.history.get("seconds", ()))
        for found, result in zip(parts, entry.results, strict=True)
    ]
    mean, disk = sum(seconds) / len(seconds), metrics.get("feature_bytes", 0) / 1024
    row, score = row_of(entry, "D"), entry.score("map")
    row.cells |= {"data": data_title(first), "images": f"{images:,d}", "seeds": str(len(entry.seeds))}
    shown = ", ".join(f"{name} {number(value)}" for name, value in parts[0].items())
    row.cells |= {"training": number(mean), "parts": shown, "each": number(mean / images), "disk": number(disk)}
    row.cells["map"] = score.percent() if score else ""
    row.values |= {"training_seconds": mean, "train_images": images, "feature_kib": disk}
    yield row


def recall_sections(results: Sequence[Result]) -> list[Section]:
    """How many objects the proposals of each detector cover, by their number."""
    pools = [p for p in accuracy_pools(results, "detection") if p.first.metrics.get("recall")]
    counts = sorted({count for p in pools for count in p.first.metrics["recall"]["counts"]})
    by_count = (f"n{count}:{count} boxes" for count in counts)
    shown = columns("id:row", "model", "by:proposals by", "data*", "iou:IoU", *by_count, *CODE)
    return sections_by_scale("Recall % of proposals", shown, pools, _recall_rows, csv=False)


def _recall_rows(entry: Pool) -> Iterator[Row]:
    for level in _recalls(entry.first):
        row = row_of(entry, "D")
        row.cells |= {"data": data_title(entry.first), "by": proposer_of(entry.first), "iou": level}
        for place, count in enumerate(entry.first.metrics["recall"]["counts"]):
            mean = pooling.estimate(entry.results, functools.partial(_recall_at, level=level, place=place))
            row.cells[f"n{count}"] = mean.percent() if mean else ""
        yield row


def _recall_at(result: Result, level: str, place: int) -> float | None:
    return _recalls(result)[level][place]


def _recalls(result: Result) -> dict[str, list[float | None]]:
    """Recall by IoU, a figure for each number of proposals."""
    found = result.metrics["recall"]
    return {**found["recall"], "0.5 to 0.95": found["average_recall"]}


def recall_figure(results: Sequence[Result]) -> Picture | None:
    """Recall of proposals at IoU 0.5 and 0.7 against their number, a panel for each data set and scale."""
    lines = []
    for entry in accuracy_pools(results, "detection"):
        found = [r.metrics["recall"] for r in entry.results if r.metrics.get("recall")]
        if not found or entry.code == "stale":
            continue
        panel = pooling.heading(entry.first.scale, data_title(entry.first))
        for level in ("0.5", "0.7"):
            means = np.mean([recall["recall"][level] for recall in found], axis=0)
            label = f"{proposer_of(entry.first)} ({model_title(entry.first)}), IoU {level}"
            lines.append([panel, label, level, found[0]["counts"], [round(100 * float(v), 4) for v in means]])
    panels = pooling.grouped(lines, lambda line: line[0])
    return Picture(lines, lambda: stacked(panels, _draw, (9, 3.8))) if lines else None


def proposer_of(result: Result) -> str:
    """Who proposes the regions of a detector."""
    mode = proposals_mode(result)
    return f"selective search, {mode}" if mode else "RPN"


def _draw(axis: Axes, lines: list[list[Any]]) -> None:
    who = list(dict.fromkeys(label.rpartition(",")[0] for _, label, *_ in lines))
    for _, label, level, counts, values in lines:
        colour = COLOURS[who.index(label.rpartition(",")[0]) % len(COLOURS)]
        style = LINE_STYLES[level == "0.7"]
        axis.plot(counts, values, marker="o", markersize=3, color=colour, linestyle=style, label=label)
    plain(axis, xscale="log", xlabel="proposals an image", ylabel="recall %", ylim=(0, 100))
    ticks = sorted({count for _, _, _, counts, _ in lines for count in counts})
    axis.set_xticks(ticks, map(str, ticks))
    axis.minorticks_off()
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
