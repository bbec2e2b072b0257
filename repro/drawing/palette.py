"""Colours of classes: the PASCAL VOC colour map, and label maps to pictures and back."""

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
    table, known = _table(palette)
    if not known[labels].all():
        strange = int(labels[~known[labels]][0])
        raise ReproError(f"label {strange} has no colour", f"the palette ends at {known[:VOID].sum() - 1}")
    return table[labels]


def decolourise(image: np.ndarray, palette: Palette | None = None, name: str = "the mask") -> np.ndarray:
    """Turn a painted RGB uint8 [H,W,3] back into labels uint8 [H,W]; the inverse of `colourise`.

    Raises ReproError, calling the picture `name`, for a colour that is no class, and for a palette in which
    two classes share a colour."""
    table, known = _table(palette)
    labels = np.flatnonzero(known)
    keys = _keys(table[labels])
    order = np.argsort(keys)
    keys, labels = keys[order], labels[order]
    shared = np.flatnonzero(keys[1:] == keys[:-1])
    if shared.size:
        first, second = sorted(labels[shared[0] : shared[0] + 2])
        raise ReproError(f"labels {first} and {second} share a colour", "give every class its own")
    wanted = _keys(image)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    strange = keys[place] != wanted
    if strange.any():
        row, column = np.argwhere(strange)[0]
        colour = tuple(int(value) for value in image[row, column])
        raise ReproError(
            f"{name} has the colour {colour} at row {row}, column {column}, which is no class",
            "give a mask painted with this data set's palette, without anti-aliasing or JPEG",
        )
    return labels[place].astype(np.uint8)


def _table(palette: Palette | None) -> tuple[np.ndarray, np.ndarray]:
    table = voc_colormap()
    known = np.full(256, palette is None)
    known[VOID] = True
    if palette is not None:
        colours = np.asarray(palette, np.uint8)
        table[: len(colours)] = colours
        known[: len(colours)] = True
    return table, known


def _keys(colours: np.ndarray) -> np.ndarray:
    wide = colours.astype(np.uint32)
    return wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
