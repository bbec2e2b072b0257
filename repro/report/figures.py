"""Training curves, and pictures that can be compared without comparing their bytes.

The bytes of a PNG differ between releases of matplotlib, so a picture carries the hash of the data it shows
in its text chunk `repro-data`; two pictures are the same when their hashes are."""

import hashlib
import io
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from repro.errors import ReproError
from repro.files import atomic_write

HASH_KEY = "repro-data"
# Okabe and Ito's palette: distinct under the common forms of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")


@dataclass(frozen=True)
class Line:
    """One quantity against the epoch: mean, lowest and highest value over `seeds` seeds."""

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


@dataclass(frozen=True)
class Picture:
    """A picture yet to be drawn: the data it shows and how to draw it; `private`: it is not ours to publish."""

    data: Any
    draw: Callable[[], Figure | np.ndarray]
    private: bool = False

    @property
    def data_hash(self) -> str:
        """SHA-256 of the data's JSON with sorted keys."""
        return hashlib.sha256(msgspec.json.encode(self.data, order="sorted")).hexdigest()


def write_png(path: Path, figure: Figure | np.ndarray, data_hash: str) -> None:
    """Write a matplotlib figure or an image (uint8 [H,W,3]) atomically, with the hash of the data it shows.

    Raises ReproError for an array that is no such image."""
    buffer = io.BytesIO()
    if isinstance(figure, Figure):
        figure.savefig(buffer, format="png", dpi=120, metadata={HASH_KEY: data_hash, "Software": None})
    else:
        if figure.dtype != np.uint8 or figure.ndim != 3 or figure.shape[2] != 3:
            raise ReproError(
                f"{path.name}: an image of {figure.dtype} {figure.shape} cannot be written",
                "give uint8 [H,W,3]",
            )
        text = PngImagePlugin.PngInfo()
        text.add_text(HASH_KEY, data_hash)
        Image.fromarray(figure).save(buffer, format="png", pnginfo=text)
    atomic_write(path, buffer.getvalue())


def png_data_hash(path: Path) -> str | None:
    """The hash of the data a picture shows; None when the file is absent, damaged or carries none."""
    try:
        with Image.open(path) as image:
            image.load()
            return getattr(image, "text", {}).get(HASH_KEY)
    except (OSError, SyntaxError, UnidentifiedImageError):
        return None


def pool_lines(runs: list[tuple[list[float], list[float]]]) -> Line | None:
    """Pool (epochs, values) of several runs; only epochs that every run has are kept. None when none is left.

    Values are rounded to six digits, so that the last bits of a sum do not make another picture."""
    runs = [run for run in runs if run[1]]
    if not runs:
        return None
    tables = [dict(zip(epochs, values, strict=False)) for epochs, values in runs]
    epochs = sorted(set.intersection(*(set(table) for table in tables)))
    if not epochs:
        return None
    values = np.array([[table[epoch] for epoch in epochs] for table in tables])

    def rounded(row: np.ndarray) -> tuple[float, ...]:
        return tuple(float(f"{value:.6g}") for value in row)

    return Line(tuple(epochs), rounded(values.mean(0)), rounded(values.min(0)), rounded(values.max(0)))


def training_curves(curves: list[Curve], metric: str) -> Picture:
    """Loss (left) and validation metric (right) against the epoch, one row of panels per `Curve.panel`."""
    data = {"metric": metric, "curves": [asdict(curve) for curve in curves]}
    return Picture(data, lambda: _draw(curves, metric))


def _draw(curves: list[Curve], metric: str) -> Figure:
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    figure = Figure(figsize=(14, 3.9 * len(panels)), layout="constrained")
    # a metric may have one point, which alone would span no epochs
    axes = figure.subplots(len(panels), 2, squeeze=False, sharex="row")
    for row, panel in zip(axes, panels, strict=True):
        shown = [curve for curve in curves if curve.panel == panel]
        for index, curve in enumerate(shown):
            style = {
                "color": COLOURS[index % len(COLOURS)],
                "linestyle": LINE_STYLES[index // len(COLOURS) % len(LINE_STYLES)],
                "label": f"{curve.label}, {curve.seeds} seed{'s' if curve.seeds > 1 else ''}",
            }
            _plot(row[0], curve.loss, style)
            _plot(row[1], curve.metric, style)
        row[0].set_title(textwrap.fill(panel, 50), loc="left", fontsize=11)
        row[0].set(xlabel="epoch", ylabel="training loss")
        row[1].set(xlabel="epoch", ylabel=f"validation {metric}")
        for axis in row:
            axis.grid(alpha=0.25)
            axis.spines[["top", "right"]].set_visible(False)
            axis.xaxis.set_major_locator(MaxNLocator(integer=True))
            if not axis.lines:
                axis.text(0.5, 0.5, "not recorded", ha="center", transform=axis.transAxes, color="grey")
        _scale_loss(row[0], [curve.loss for curve in shown if curve.loss])
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


def _scale_loss(axis: Axes, losses: list[Line]) -> None:
    """A logarithmic axis with plain numbers where the loss falls by more than ten times."""
    lowest = min((min(loss.low) for loss in losses), default=0)
    highest = max((max(loss.high) for loss in losses), default=0)
    if 0 < 10 * lowest < highest:
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_formatter(NullFormatter())
