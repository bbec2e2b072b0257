"""Training curves of a task, pooled like the rows of its table."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from repro.records.result import Result
from repro.report.cost import newest_pools
from repro.report.figures import COLOURS, LINE_STYLES, Picture, logarithmic, plain, rounded
from repro.report.pooling import METRICS, SCALES, accuracy_pools, data_title, grouped, heading, model_title


@dataclass(frozen=True)
class Line:
    """One quantity against the epoch: mean, lowest and highest value over seeds."""

    epochs: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Curve:
    """The training of one pool of runs: where it is drawn, its label, its loss and its validation metric."""

    panel: str
    label: str
    seeds: int
    loss: Line | None
    metric: Line | None


def training_figure(results: Sequence[Result], task: str) -> Picture | None:
    """Loss (left) and validation metric (right) against the epoch, a row of panels for each data set and scale; stale
    runs only where nothing newer exists."""
    metric, title = next(iter(METRICS[task].items()))
    pools = newest_pools([p for p in accuracy_pools(results, task) if p.first.kind == "train" and p.first.history])
    curves, used = [], set()
    for entry in sorted(pools, key=lambda p: (SCALES.index(p.first.scale), data_title(p.first))):
        first = entry.first
        panel = heading(first.scale, data_title(first))
        label = model_title(first) + (f" from {first.init.source}" if first.init else "")
        label += f", {entry.row_id(task[0].upper())}" if (panel, label) in used else ""
        used.add((panel, label))
        loss = _pooled([_series(result.history, "loss", 1) for result in entry.results])
        score = _pooled([_series(result.history, f"val_{metric}", 100) for result in entry.results])
        curves.append(Curve(panel, label, len(entry.seeds), loss, score))
    data = {"metric": title, "curves": [asdict(curve) for curve in curves]}
    return Picture(data, lambda: _draw(curves, title)) if curves else None


def _series(history: dict[str, list[float]], name: str, scale: float) -> dict[float, float]:
    """The values of a quantity by epoch."""
    values = [scale * value for value in history.get(name, [])]
    keys = ("val_epoch", "epoch") if name.startswith("val_") else ("epoch",)
    epochs = next((history[key] for key in keys if key in history and len(history[key]) == len(values)), None)
    return dict(zip(epochs or map(float, range(1, len(values) + 1)), values, strict=True))


def _pooled(runs: Sequence[dict[float, float]]) -> Line | None:
    """Several runs as one; only epochs that every run has are kept. None when none is left."""
    runs = [run for run in runs if run]
    epochs = sorted(set.intersection(*map(set, runs))) if runs else []
    values = np.array([[run[epoch] for epoch in epochs] for run in runs])
    return Line(tuple(epochs), *(rounded(of(0)) for of in (values.mean, values.min, values.max))) if epochs else None


def _draw(curves: Sequence[Curve], metric: str) -> Figure:
    panels = grouped(curves, lambda curve: curve.panel)
    figure = Figure(figsize=(14, 3.9 * len(panels)), layout="constrained")
    # a metric may have one point, which alone would span no epochs
    axes = figure.subplots(len(panels), 2, squeeze=False, sharex="row")
    for row, (panel, shown) in zip(axes, panels.items(), strict=True):
        for index, curve in enumerate(shown):
            style = {
                "color": COLOURS[index % len(COLOURS)],
                "linestyle": LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)],
                "label": f"{curve.label}, {curve.seeds} seed{'s' if curve.seeds > 1 else ''}",
            }
            _plot(row[0], curve.loss, style)
            _plot(row[1], curve.metric, style)
        row[0].set_title(textwrap.fill(panel, 50), loc="left", fontsize=11)
        for axis, quantity in zip(row, ("training loss", f"validation {metric}"), strict=True):
            plain(axis, xlabel="epoch", ylabel=quantity)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            if not axis.lines:
                axis.text(0.5, 0.5, "not recorded", ha="center", transform=axis.transAxes, color="grey")
        losses = [curve.loss for curve in shown if curve.loss]
        if losses and 0 < 10 * min(min(loss.low) for loss in losses) < max(max(loss.high) for loss in losses):
            row[0].set_yscale("log")
            logarithmic(row[0].yaxis)
        found = [pair for axis in row for pair in zip(*axis.get_legend_handles_labels(), strict=True)]
        handles = {label: handle for handle, label in found}
        row[1].legend(handles.values(), handles, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _plot(axis: Axes, values: Line | None, style: dict[str, Any]) -> None:
    if values is None:
        return
    marker = "o" if len(values.epochs) < 30 else None
    axis.plot(values.epochs, values.mean, marker=marker, markersize=3, **style)
    if values.low != values.high:
        axis.fill_between(values.epochs, values.low, values.high, color=style["color"], alpha=0.18, linewidth=0)
