"""Semantic segmentation of aerial imagery (Humans in the Loop, 2020): 72 satellite images of Dubai by MBRSC, CC0.

Layout: `Semantic segmentation dataset/Tile 1..8/{images,masks}`, nine JPEG images a tile and PNG masks in colours.
"""

import functools
import json
from pathlib import Path
from typing import ClassVar

import numpy as np

from repro.data.base import VOID, Info, Sample
from repro.data.folder import Named, PairFolder, match
from repro.data.images import read_colours
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_FOLDER = "Semantic segmentation dataset"
_AGAIN = f"fetch the folder {_FOLDER} again"
# in the order of the data set's page; the colours are those of the masks
_CLASSES = (
    ("building", (0x3C, 0x10, 0x98)), ("land", (0x84, 0x29, 0xF6)), ("road", (0x6E, 0xC1, 0xE4)),
    ("vegetation", (0xFE, 0xDD, 0x3A)), ("water", (0xE2, 0xA9, 0x29)),
)  # fmt: skip
_UNLABELED = (0x9B, 0x9B, 0x9B)
_UNDRAWN = (0, 0, 0)
_TITLES = {"Building", "Land (unpaved area)", "Road", "Vegetation", "Water", "Unlabeled"}
_TILES = {"train": (2, 4, 5, 6, 7), "val": (1,), "test": (3, 8)}
_IMAGES_PER_TILE = 9
_LONGEST_SIDE = {1: 797, 2: 544, 3: 682, 4: 1099, 5: 1126, 6: 859, 7: 2061, 8: 2149}  # as published, pixels
_NO_CLASS = 254


class Dubai(PairFolder):
    """Five land cover classes from above, from `Semantic segmentation dataset` of the data folder.

    Void: the data set counts "Unlabeled" as a sixth class, but it says that the annotators gave no class, not what is
    there; it has 0.6 % of the pixels and none in Tile 4. It is void here, as is the black (0.3 %) that no class list
    names, where nothing was drawn: a sixth of one image of Tile 8, seams elsewhere. Published notebooks train six
    classes (and read black as the first of them): their means over classes are not comparable.

    Split: none is official. The nine images of a tile are neighbouring cuts of one scene, so whole tiles are kept
    apart; of all choices of two tiles for test and one for validation, this one makes the class shares of the three
    splits most alike (largest symmetric Kullback-Leibler divergence of a pair 0.27; 0.85 for Tiles 7, 8 and 1).
    Shares in % of the labelled pixels:

               building   land   road   vegetation   water   tiles      images
        train      12.8   44.0    7.4         10.8    25.0   2 4 5 6 7      45
        val         5.4   62.9   12.9          4.7    14.1   1               9
        test       14.1   46.8   10.3         11.0    17.8   3 8            18"""

    folder = _FOLDER
    again = _AGAIN
    counts: ClassVar[dict[str, int]] = {split: _IMAGES_PER_TILE * len(tiles) for split, tiles in _TILES.items()}
    encoding = "JPEG"
    info = Info(
        name="dubai", title="Dubai from above, 5 classes, 'Unlabeled' as void, whole tiles kept apart",
        source="https://www.kaggle.com/datasets/humansintheloop/semantic-segmentation-of-aerial-imagery",
        version="2020", licence="CC0-1.0", size="72 images of 509x544 to 1817x2061, 31 MB", splits=tuple(_TILES),
        tasks=("segmentation",), semantic_classes=tuple(name for name, _ in _CLASSES),
        palette=tuple(colour for _, colour in _CLASSES),
        manual=f"unpack Kaggle's humansintheloop/semantic-segmentation-of-aerial-imagery (folder '{_FOLDER}') into the "
        "data folder",
    )  # fmt: skip

    def prepare(self) -> None:
        """Check that every image has its mask and the other way round, and that the classes are the known ones.

        Raises NoDataError when the folder is missing, ReproError when the copy is incomplete."""
        super().prepare()
        _check_titles(self._root / "classes.json")

    def official(self, split: str) -> tuple[bool, str]:
        """Never official: nobody published a split. Says too when images are missing or reduced."""
        reasons, sizes = self._differences(split)
        longest = [max(size) for size in sizes]
        published = [_LONGEST_SIDE[int(name[len("tile")])] for name, _ in self._items(split)]
        if any(side < whole for side, whole in zip(longest, published, strict=True)):
            reasons.append(f"images reduced to {max(longest)} pixels")
        return False, "; ".join(["no official split; whole tiles kept apart", *reasons])

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and semantic uint8 [H,W] with 0..4 and VOID.

        Raises ReproError naming the file when one is damaged, sizes differ or a colour is no class."""
        name, image, colours, path = self._read(split, index, read_colours, upright=True)
        return Sample(name, image, semantic=_decode(colours, path))

    def _find(self, split: str) -> list[Named]:
        """In the order of tiles and stems; the files of all tiles have the same names."""
        folders = {tile: self._root / f"Tile {tile}" for tile in _TILES[split]}
        return [
            (f"tile{tile}_{name}", pair)
            for tile, folder in folders.items()
            for name, pair in match((folder / "images", folder / "masks"), _AGAIN)
        ]


def _decode(colours: np.ndarray, path: Path) -> np.ndarray:
    """Colours uint8 [H,W,3] to classes uint8 [H,W]. Raises ReproError naming the file for a colour of no class."""
    red, green, blue = (colours[..., channel].astype(np.uint32) for channel in range(3))
    packed = red << 16 | green << 8 | blue
    classes = _lookup()[packed]
    strange = classes == _NO_CLASS
    if strange.any():
        row, column = np.unravel_index(int(strange.argmax()), strange.shape)
        others = f", like {strange.sum() - 1} more" if strange.sum() > 1 else ""
        found = f"colour #{packed[row, column]:06X} at row {row}, column {column}{others}"
        raise ReproError(f"{path} has {found}, which is no class", _AGAIN)
    return classes


@functools.cache
def _lookup() -> np.ndarray:
    """The class of every colour 0xRRGGBB: 16 MB, but several times as fast as a search for every pixel."""
    table = np.full(1 << 24, _NO_CLASS, np.uint8)
    for number, (_, colour) in enumerate(_CLASSES):
        table[_packed(colour)] = number
    table[[_packed(_UNLABELED), _packed(_UNDRAWN)]] = VOID
    return table


def _packed(colour: tuple[int, int, int]) -> int:
    return colour[0] << 16 | colour[1] << 8 | colour[2]


def _check_titles(path: Path) -> None:
    """The titles alone: the colours of the published file are not those of the published masks."""
    try:
        titles = {entry["title"] for entry in json.loads(path.read_bytes())["classes"]}
    except FileNotFoundError:
        return  # nothing is read from it
    # ValueError covers broken JSON and broken UTF-8
    except (ValueError, KeyError, TypeError) as error:
        raise ReproError(f"{path} is damaged ({type(error).__name__}: {error})", _AGAIN) from None
    if titles != _TITLES:
        shown = ", ".join(sorted(map(str, titles ^ _TITLES)))
        raise ReproError(f"{path} has other classes than this data set: {shown}", _AGAIN)
