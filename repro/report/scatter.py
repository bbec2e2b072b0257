"""Speed against accuracy as a figure: a panel for what may be compared, a labelled point for each model."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Bbox

from repro.report.figures import COLOURS, Picture, logarithmic, plain

_MARKERS = "osD^vPX"
_COLUMNS = 2
# where a label may stand: directions around its point, at growing distances (points of 1/72 inch)
_DIRECTIONS = ((1, 1), (1, -1), (-1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
_DISTANCES = (7, 14, 24, 38, 56)


@dataclass(frozen=True)
class Point:
    """One model: latency in ms as (median, p5, p95), score in percent as (mean, lowest seed, highest seed)."""

    label: str
    model: str
    latency: tuple[float, float, float]
    score: tuple[float, float, float]


@dataclass(frozen=True)
class Panel:
    """Points of one data set, split, scale, input and kind of machine. `unit`: what one latency is of."""

    title: str
    setup: str
    unit: str
    points: tuple[Point, ...]


def speed_accuracy(panels: Sequence[Panel], metric: str) -> Picture:
    """Score (up) against latency (right), two panels a row; bars reach over seeds and from p5 to p95."""
    data = {"metric": metric, "panels": [asdict(panel) for panel in panels]}
    return Picture(data, lambda: _draw(panels, metric))


def _draw(panels: Sequence[Panel], metric: str) -> Figure:
    wide = min(_COLUMNS, len(panels))
    tall = -(-len(panels) // wide)
    figure = Figure(figsize=(6.2 * wide, 4.4 * tall + 0.5), layout="constrained")
    axes = figure.subplots(tall, wide, squeeze=False).ravel()
    models = list(dict.fromkeys(point.model for panel in panels for point in panel.points))
    colours = {model: COLOURS[index % len(COLOURS)] for index, model in enumerate(models)}
    for axis, panel in zip(axes, panels, strict=False):
        _plot(axis, panel, colours, metric)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    handles = [Line2D([], [], color=colours[model], marker="o", linestyle="", label=model) for model in models]
    handles.append(Line2D([], [], color="grey", marker="+", linestyle="", markersize=11))
    names = [*models, "lowest to highest seed, latency p5 to p95"]
    figure.legend(handles, names, loc="outside lower center", ncols=2 * wide, fontsize=9, frameon=False)
    _place_labels(figure, list(zip(axes, panels, strict=False)))
    return figure


def _plot(axis: Axes, panel: Panel, colours: dict[str, str], metric: str) -> None:
    drawn: dict[str, int] = {}
    for point in panel.points:
        number = drawn[point.model] = drawn.get(point.model, -1) + 1
        # a mean of equal seeds may leave their range by its last bit, and a bar cannot be negative
        bars = [np.maximum([[m - low], [high - m]], 0) for m, low, high in (point.latency, point.score)]
        looks: dict[str, Any] = {"color": colours[point.model], "marker": _MARKERS[number % len(_MARKERS)]}
        looks |= {"markersize": 7, "elinewidth": 1, "capsize": 2}
        axis.errorbar(point.latency[0], point.score[0], xerr=bars[0], yerr=bars[1], **looks)
    axis.set_title(textwrap.fill(panel.title, 62), loc="left", fontsize=10, fontweight="bold")
    axis.set_xlabel(f"latency of one {panel.unit}, ms\n{textwrap.fill(panel.setup, 72)}", fontsize=9)
    plain(axis, ylabel=metric)
    axis.margins(0.2)
    latencies = [point.latency[0] for point in panel.points]
    if max(latencies) > 10 * min(latencies) > 0:
        axis.set_xscale("log")
        logarithmic(axis.xaxis)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(6))


def _place_labels(figure: Figure, panels: Sequence[tuple[Axes, Panel]]) -> None:
    """Write each label where it covers least: the layout is fixed first, since pixels decide."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    renderer = canvas.get_renderer()
    for axis, panel in panels:
        taken = [box for point in panel.points for box in _boxes(axis, point)]
        for point in panel.points:
            taken.append(_label(axis, point, taken, renderer))


def _boxes(axis: Axes, point: Point) -> list[Bbox]:
    """What a point and its bars cover, in pixels."""
    (x, left, right), (y, low, high) = point.latency, point.score
    (cx, cy), (x0, y0), (x1, y1) = axis.transData.transform([(x, y), (left, low), (right, high)])
    return [
        Bbox.from_extents(cx - 6, cy - 6, cx + 6, cy + 6),
        Bbox.from_extents(x0 - 1, cy - 1, x1 + 1, cy + 1),
        Bbox.from_extents(cx - 1, y0 - 1, cx + 1, y1 + 1),
    ]


def _label(axis: Axes, point: Point, taken: Sequence[Bbox], renderer: Any) -> Bbox:
    """Write a label; returns what it covers."""
    leader = {"arrowstyle": "-", "color": "grey", "linewidth": 0.6, "shrinkB": 4}
    at = point.latency[0], point.score[0]
    text = axis.annotate(point.label, at, (0, 0), textcoords="offset points", fontsize=9, arrowprops=leader)

    def moved(distance: int, right: int, up: int) -> Bbox:
        text.set_position((right * distance, up * distance))
        text.set(ha=("center", "left", "right")[right], va=("center", "bottom", "top")[up])
        text.update_positions(renderer)
        return Text.get_window_extent(text, renderer)  # an annotation's own would count its leader

    places = [(distance, right, up) for distance in _DISTANCES for right, up in _DIRECTIONS]
    # among equals the nearest: a pixel of distance counts as one square pixel covered
    best = min(places, key=lambda place: _covered(moved(*place), taken, axis.bbox) + place[0])
    assert text.arrow_patch is not None  # the leader
    text.arrow_patch.set_visible(best[0] > _DISTANCES[1])
    return moved(*best)


def _covered(box: Bbox, taken: Sequence[Bbox], inside: Bbox) -> float:
    """Square pixels of other things that a label would cover, and of itself outside the panel."""
    padded = box.padded(2)
    overlaps = (Bbox.intersection(padded, other) for other in taken)
    within = Bbox.intersection(box, inside)
    outside = box.width * box.height - (within.width * within.height if within else 0)
    return sum(overlap.width * overlap.height for overlap in overlaps if overlap) + 10 * outside
