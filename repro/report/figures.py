"""Pictures that can be compared without comparing their bytes, and what figures have in common.

The bytes of a PNG differ between releases of matplotlib, so a picture carries the hash of the data it shows
in its text chunk `repro-data`; two pictures are the same when their hashes are."""

import hashlib
import io
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from repro.errors import ReproError
from repro.files import atomic_write

HASH_KEY = "repro-data"
# Okabe and Ito's palette: distinct under the common forms of colour blindness
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINE_STYLES = ("-", "--", ":", "-.")


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
                f"{path.name}: an image of {figure.dtype} {figure.shape} cannot be written", "give uint8 [H,W,3]"
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


def rounded(values: Iterable[float]) -> tuple[float, ...]:
    """Six digits, so that the last bits of a sum do not make another picture."""
    return tuple(float(f"{value:.6g}") for value in values)


def plain(axis: Axes, **settings: Any) -> None:
    """The looks of every axis, with its own labels and limits."""
    axis.set(**settings)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)


def logarithmic(axis: Axis) -> None:
    """Ticks of a logarithmic axis with plain numbers."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def stacked(panels: Mapping[str, Any], draw: Callable[[Axes, Any], None], size: tuple[float, float]) -> Figure:
    """Panels of a size in inches, one below another, each drawn from what is its own."""
    figure = Figure(figsize=(size[0], size[1] * len(panels)), layout="constrained")
    for axis, (title, content) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels.items(), strict=True):
        axis.set_title(title, loc="left", fontsize=11)
        draw(axis, content)
    return figure
