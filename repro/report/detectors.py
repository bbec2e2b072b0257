"""What detectors have beside their scores: the recall of proposals, and what training took."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from repro.records.result import Result
from repro.report.cost import proposals_mode
from repro.report.figures import COLOURS, LINE_STYLES, Picture
from repro.report.pooling import (
    CODE,
    SCALES,
    SETUP,
    accuracy_pools,
    data_title,
    estimate,
    heading,
    model_title,
    setup_of,
)
from repro.report.render import Row, Section, columns, number


def training_sections(results: Sequence[Result]) -> list[Section]:
    """Training time and disk of the trained detectors."""
    shown = (*columns("id:row", "model", "data*"), *SETUP, *columns("images:training images", "seeds"))
    shown += columns("training:training s", "parts", "each:s an image", "disk:disk an image, KiB", "map:mAP %")
    shown += CODE
    groups: dict[str, list[Row]] = {}
    for entry in accuracy_pools(results, "detection"):
        first = entry.first
        seconds = [_training_seconds(result) for result in entry.results]
        images = int(first.metrics.get("train_images") or 0)
        if first.kind != "train" or not images:
            continue
        mean = sum(seconds) / len(seconds)
        cells, values = setup_of(entry)
        parts = first.metrics.get("training_seconds", {})
        disk = first.metrics.get("feature_bytes", 0) / 1024
        cells |= {
            "id": entry.row_id("D"), "data": data_title(first), "images": f"{images:,d}",
            "seeds": str(len(entry.seeds)), "training": number(mean),
            "parts": ", ".join(f"{name} {number(value)}" for name, value in parts.items()),
            "each": number(mean / images), "disk": number(disk) if disk else "0",
            "map": found.percent() if (found := estimate(entry.results, lambda r: r.metrics["map"])) else "",
        }  # fmt: skip
        values |= {"training_seconds": mean, "train_images": images, "feature_kib": disk}
        groups.setdefault(first.scale, []).append(Row(cells["id"], cells, values, entry.files))
    return [
        Section(heading(scale, "Training"), shown, tuple(groups[scale]), csv=False)
        for scale in SCALES
        if scale in groups
    ]


def _training_seconds(result: Result) -> float:
    parts = result.metrics.get("training_seconds")
    return sum(parts.values()) if parts else sum(result.history.get("seconds", ()))


def recall_sections(results: Sequence[Result]) -> list[Section]:
    """How many objects the proposals of each detector cover, by their number."""
    pools = [p for p in accuracy_pools(results, "detection") if p.first.metrics.get("recall")]
    sections = []
    for scale in SCALES:
        chosen = [p for p in pools if p.first.scale == scale]
        counts = sorted({count for p in chosen for count in p.first.metrics["recall"]["counts"]})
        shown = columns("id:row", "model", "by:proposals by", "data*", "iou:IoU")
        shown += columns(*(f"n{count}:{count} boxes" for count in counts), "code")
        rows = []
        for entry in chosen:
            for level in _recalls(entry.first):
                cells = {"id": entry.row_id("D"), "model": model_title(entry.first), "data": data_title(entry.first)}
                cells |= {"by": proposer_of(entry.first), "iou": level, "code": setup_of(entry)[0]["code"]}
                for place, count in enumerate(entry.first.metrics["recall"]["counts"]):
                    mean = estimate(entry.results, lambda r, at=(level, place): _recalls(r)[at[0]][at[1]])
                    cells[f"n{count}"] = mean.percent() if mean else ""
                rows.append(Row(cells["id"], cells, {}, entry.files))
        if rows:
            sections.append(Section(heading(scale, "Recall % of proposals"), shown, tuple(rows), csv=False))
    return sections


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
        panel = heading(entry.first.scale, data_title(entry.first))
        for level in ("0.5", "0.7"):
            means = np.mean([recall["recall"][level] for recall in found], axis=0)
            label = f"{proposer_of(entry.first)} ({model_title(entry.first)}), IoU {level}"
            lines.append([panel, label, level, found[0]["counts"], [round(100 * float(v), 4) for v in means]])
    return Picture(lines, lambda: _curves(lines)) if lines else None


def proposer_of(result: Result) -> str:
    """Who proposes the regions of a detector."""
    mode = proposals_mode(result)
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
