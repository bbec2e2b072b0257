"""What a data set is to the rest of the suite: a name, its splits, and decoded samples.

A loader reads one official layout and yields `Sample`s at their original size. Resizing, caching and
batching happen in `repro.data.cache` and `repro.data.loader`, so that a loader stays one short file.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from repro.errors import unknown_name

VOID = 255  # a pixel that is never trained on and never scored


@dataclass
class Sample:
    """One image with what its data set says of it.

    image uint8 [H,W,C]; label int (classification); semantic uint8 [H,W], VOID = void; boxes float32 [M,4]
    (x1,y1,x2,y2), 0-based, half-open, pixels; classes int32 [M], 0 = first foreground class; masks bool [M,H,W]
    over the whole image (visible parts); difficult, truncated, crowd bool [M]: objects that VOC does not score, that
    reach beyond what their box shows, and boxes around many objects at once; pixel_weight float32 [H,W], of each
    pixel's loss; fields a data set does not have are None."""

    image_id: str
    image: np.ndarray
    label: int | None = None
    semantic: np.ndarray | None = None
    boxes: np.ndarray | None = None
    classes: np.ndarray | None = None
    masks: np.ndarray | None = None
    difficult: np.ndarray | None = None
    truncated: np.ndarray | None = None
    crowd: np.ndarray | None = None
    pixel_weight: np.ndarray | None = None

    def truth(self) -> dict[str, Any]:
        """Boxes, classes, and the flags difficult and crowd, bool [M] where the data set says nothing too, as
        `repro.metrics.detection` takes them."""
        assert self.boxes is not None  # a data set of objects has them
        flags = {name: getattr(self, name) for name in ("difficult", "crowd")}
        none = np.zeros(len(self.boxes), np.bool_)
        known = {name: none if values is None else values for name, values in flags.items()}
        return {"boxes": self.boxes, "classes": self.classes, **known}

    def learned(self) -> np.ndarray:
        """Which objects are learned from, bool [M]: neither difficult ones nor crowds."""
        truth = self.truth()
        return ~truth["difficult"] & ~truth["crowd"]


@dataclass(frozen=True)
class Info:
    """A data set's card. `semantic_classes` counts background where the data set labels it; `classes` are the
    foreground classes of detection and classification. `palette[i]` is the RGB colour of semantic class i (None: the
    VOC colour map). `channels`: of its images. `segments_class`: the semantic class whose connected components are
    the objects, scored by the Rand index too. `manual` tells in one line what the user must fetch by hand
    ('' = automatic)."""

    name: str
    title: str
    source: str
    version: str
    licence: str
    size: str
    splits: tuple[str, ...]
    tasks: tuple[str, ...]
    classes: tuple[str, ...] = ()
    semantic_classes: tuple[str, ...] = ()
    palette: tuple[tuple[int, int, int], ...] | None = None
    checksum: str | None = None
    manual: str = ""
    channels: int = 3
    segments_class: int | None = None


class Dataset(Protocol):
    """The interface of a loader. `options` (recorded in the config) are its keyword arguments."""

    info: Info
    options: dict[str, Any]

    def prepare(self) -> None:
        """Make the data ready (check the folder, download). Raises NoDataError or ReproError."""

    def fingerprint(self, split: str) -> str:
        """A hash of what the split's samples are: same fingerprint, same samples."""

    def official(self, split: str) -> tuple[bool, str]:
        """Whether this copy is the published one, and if not, why, in a few words."""

    def size(self, split: str) -> int:
        """Number of samples of a split."""

    def sample(self, split: str, index: int) -> Sample:
        """Decode one sample. Raises ReproError naming the file when it is damaged."""


def known_split(info: Info, split: str) -> str:
    """The split, if the data set has it. Raises ReproError."""
    if split not in info.splits:
        raise unknown_name(f"split of {info.name}", split, info.splits)
    return split
