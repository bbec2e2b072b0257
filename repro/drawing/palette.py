"""Colours of classes: the PASCAL VOC colour map, and label maps as pictures."""

from collections.abc import Sequence

import numpy as np

from repro.data.base import VOID
from repro.errors import ReproError

Palette = Sequence[Sequence[int]] | np.ndarray


def voc_colormap(n: int = 256) -> np.ndarray:
    """The colours of labels 0..n-1, uint8 [n,3], n up to 256 (`VOCcolormap.m` of the VOC2012 devkit).

    The bits of a label are dealt to red, green and blue in turn, most significant colour bits first, so
    that no two labels share a colour and 255 (void) is the cream (224, 224, 192)."""
    labels = np.arange(n)
    colours = np.zeros((n, 3), np.uint8)
    for channel in range(3):
        for step in range(3):
            bit = labels >> (3 * step + channel) & 1
            colours[:, channel] |= (bit << (7 - step)).astype(np.uint8)
    return colours


def colourise(labels: np.ndarray, palette: Palette | None = None) -> np.ndarray:
    """Paint labels uint8 [H,W] as RGB uint8 [H,W,3] with `palette[label]` (None: the VOC colour map).

    VOID is painted as VOC does. Raises ReproError for another label beyond the palette."""
    table = voc_colormap()
    if palette is not None:
        table[: len(palette)] = np.asarray(palette, np.uint8)
        strange = labels[(labels >= len(palette)) & (labels != VOID)]
        if strange.size:
            raise ReproError(f"label {strange[0]} has no colour", f"the palette ends at {len(palette) - 1}")
    return table[labels]
