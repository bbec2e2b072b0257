"""ISBI 2012 (Arganda-Carreras et al., 2015): 30 slices of fly larva nerve cord under an electron microscope.

Layout: `ISBI2012/train-volume.tif` (grey) and `ISBI2012/train-labels.tif` (255 = cell, 0 = membrane), TIFFs of 30
pages of 512x512. The labels of the challenge's test volume are private, so the labelled slices are cross-validated.
"""

import functools
from collections.abc import Iterator

import numpy as np

from repro.data.base import Info, Sample, known_split
from repro.data.folder import Folder
from repro.data.images import class_table, read_stack, to_classes
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
SLICES = 30
VAL_SLICES = 3
_FILES = ("train-volume.tif", "train-labels.tif")
_TABLE = class_table({0: 0, 255: 1})
_AGAIN = "fetch both files of ISBI2012 again"


class Isbi2012(Folder):
    """Cells (1) and the membranes between them (0), from `ISBI2012` of the data folder.

    folds, fold: the slices are cut into `folds` blocks of consecutive slices. Block `fold` (from 0) is the test
    split, the first 3 slices of the next block (after the last comes the first) are the validation split, the rest
    is trained on. Slices are 50 nm apart and resemble their neighbours, hence blocks instead of single slices. Still,
    validation touches both test and training, and the test block (but for block 0, the first of the stack) has a
    training slice right before it: scores are kinder than those on another volume would be.
    weight_map: samples carry `pixel_weight`, U-Net's weights (Eq. 2) that force apart touching cells.

    Raises ReproError for impossible values."""

    folder = "ISBI2012"
    info = Info(
        name="isbi2012", title="ISBI 2012 neuronal membranes, cross-validated over the 30 labelled slices",
        source="https://imagej.net/events/isbi-2012-segmentation-challenge", version="2012",
        licence="for generating or testing non-commercial segmentation software; cite Cardona et al. (2010)",
        size="30 slices of 512x512, 8 MB", splits=("train", "val", "test"), tasks=("segmentation",),
        semantic_classes=("membrane", "cell"), palette=((0, 0, 0), (255, 255, 255)),
        manual="copy train-volume.tif and train-labels.tif of imagej.net's ISBI 2012 challenge into the folder "
        "ISBI2012 of the data folder",
        channels=1, segments_class=1,
    )  # fmt: skip

    def __init__(self, *, folds: int = 5, fold: int = 0, weight_map: bool = False) -> None:
        possible = [n for n in range(2, SLICES + 1) if SLICES % n == 0 and SLICES // n >= VAL_SLICES]
        if isinstance(folds, bool) or folds not in possible:
            blocks = f"equal blocks of the {SLICES} slices, of {VAL_SLICES} or more"
            cure = f"give one of {', '.join(map(str, possible))}: {blocks}"
            raise ReproError(f"folds {folds!r} of isbi2012 is impossible", cure)
        if isinstance(fold, bool) or fold not in range(folds):
            raise ReproError(f"fold {fold!r} of isbi2012 is impossible", f"give 0 to {folds - 1} for {folds} folds")
        if not isinstance(weight_map, bool):
            raise ReproError(f"weight_map {weight_map!r} of isbi2012 is impossible", "give true or false")
        super().__init__()
        self.options = {"folds": int(folds), "fold": int(fold), "weight_map": weight_map}
        self._slices = _split(int(folds), int(fold))
        self._weights: dict[int, np.ndarray] = {}

    def prepare(self) -> None:
        """Read both files. Raises NoDataError when the folder is missing, ReproError for a damaged or unfit file."""
        _ = self._stacks

    def official(self, split: str) -> tuple[bool, str]:
        """Never official: the challenge scores a volume whose labels are private."""
        self._items(split)
        fold, folds = self.options["fold"] + 1, self.options["folds"]
        return False, f"fold {fold} of {folds} of the {SLICES} labelled slices; the test labels are private"

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,1], semantic uint8 [H,W] (0 membrane, 1 cell), `pixel_weight` float32 [H,W] or None.

        Raises ReproError naming the file when one is damaged or does not fit."""
        images, classes = self._stacks
        number = self._items(split)[index]
        weight = self._weight(number).copy() if self.options["weight_map"] else None
        image, semantic = images[number, :, :, None].copy(), classes[number].copy()
        return Sample(f"slice-{number:02d}", image, semantic=semantic, pixel_weight=weight)

    def _items(self, split: str) -> list[int]:
        return self._slices[known_split(self.info, split)]

    def _identity(self, split: str) -> Iterator[bytes]:
        """Number, image and classes of each slice."""
        images, classes = self._stacks
        for index in self._items(split):
            yield f"{index} {images.shape[1:]}\n".encode() + images[index].tobytes() + classes[index].tobytes()

    @functools.cached_property
    def _stacks(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and classes uint8 [30,H,W]."""
        self._check(self._root)
        images, labels = (read_stack(self._root / name) for name in _FILES)
        for name, stack in zip(_FILES, (images, labels), strict=True):
            if len(stack) != SLICES:
                raise ReproError(f"{self._root / name} has {len(stack)} pages instead of {SLICES}", _AGAIN)
        if images.shape != labels.shape:
            sizes = [f"{stack.shape[1]}x{stack.shape[2]}" for stack in (labels, images)]
            problem = f"{self._root / _FILES[1]} has pages of {sizes[0]}, {_FILES[0]} of {sizes[1]} (height x width)"
            raise ReproError(problem, _AGAIN)
        cure = "255 is cell, 0 is membrane; fetch it again"
        named = ((f"page {number} of {self._root / _FILES[1]}", page) for number, page in enumerate(labels, 1))
        return images, np.stack([to_classes(page, _TABLE, name, cure) for name, page in named])

    def _weight(self, number: int) -> np.ndarray:
        if number not in self._weights:
            # imported here, since most uses of this file, such as listing the data sets, need neither
            from skimage.measure import label

            from repro.data.border_weights import border_weights

            # 4-connected: a membrane one pixel wide may run diagonally, and 8-connected cells would leak across it
            cells = label(self._stacks[1][number], connectivity=1)
            self._weights[number] = border_weights(cells)
        return self._weights[number]


def _split(folds: int, fold: int) -> dict[str, list[int]]:
    """The slices of each split, in the order of the stack."""
    length = SLICES // folds
    test = list(range(fold * length, (fold + 1) * length))
    after = (fold + 1) % folds * length
    val = list(range(after, after + VAL_SLICES))
    return {"train": [n for n in range(SLICES) if n not in {*test, *val}], "val": val, "test": test}
