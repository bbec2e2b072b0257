"""Penn-Fudan pedestrians (Wang, Shi, Song & Shen, ACCV 2007): 170 street photographs, 423 pedestrians with masks.

Layout: `PennFudanPed/{PNGImages,PedMasks}`, as unpacked; a mask picture has 0 where nobody is and k at the k-th
pedestrian. Boxes are those of the masks. Images are found by their stem, whatever their kind. There is no official
split: of each ten images in order of name, the eighth is for validation, the ninth and tenth are for the test.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from repro import paths
from repro.data.base import Info, Sample
from repro.data.images import read_bytes, read_image, read_labels
from repro.errors import NoDataError, ReproError, unknown_name

_OF_TEN = {"train": range(7), "val": (7,), "test": (8, 9)}
_MASK = "_mask.png"
IMAGES = 170


class PennFudan:
    """Pedestrians near two universities, from `PennFudanPed` of the data folder."""

    info = Info(
        name="penn_fudan",
        title="Penn-Fudan pedestrians",
        source="https://www.cis.upenn.edu/~jshi/ped_html",
        version="2007",
        licence="for research",
        size="170 images, 51 MB to download",
        splits=tuple(_OF_TEN),
        tasks=("detection", "instance"),
        classes=("person",),
        manual="unpack PennFudanPed.zip of https://www.cis.upenn.edu/~jshi/ped_html into the data folder",
    )

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / "PennFudanPed"
        self._files: list[tuple[Path, Path]] = []

    def prepare(self) -> None:
        """Check that every image has its masks. Raises NoDataError without a copy, ReproError for an incomplete one."""
        self._pairs()

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over the split's masks and each image's name and size in bytes."""
        total = hashlib.sha256()
        for image, mask in self._of(split):
            total.update(f"{image.stem} {image.stat().st_size}\n".encode() + hashlib.sha256(read_bytes(mask)).digest())
        return total.hexdigest()[:16]

    def official(self, split: str) -> tuple[bool, str]:
        """Never: no split is published."""
        count = len(self._pairs())
        missing = "" if count == IMAGES else f", {count} of {IMAGES} images"
        return False, f"this suite's split, as none is published{missing}"

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._of(split))

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes [M] and masks bool [M,H,W], in the order of their numbers.

        Raises ReproError naming the file when one is damaged, or the two differ in size."""
        image, mask = self._of(split)[index]
        pixels, numbers = read_image(image, upright=False), read_labels(mask)
        if pixels.shape[:2] != numbers.shape:
            sizes = (f"{size[0]}x{size[1]}" for size in (pixels.shape, numbers.shape))
            raise ReproError(f"{image} is {next(sizes)}, {mask} is {next(sizes)}", "unpack both again")
        masks = numbers == np.unique(numbers[numbers > 0])[:, None, None]
        boxes = [_box_of(each) for each in masks]
        return Sample(
            image.stem,
            pixels,
            boxes=np.array(boxes, np.float32).reshape(-1, 4),
            classes=np.zeros(len(masks), np.int32),
            masks=masks,
        )

    def _of(self, split: str) -> list[tuple[Path, Path]]:
        if split not in _OF_TEN:
            raise unknown_name(f"split of {self.info.name}", split, _OF_TEN)
        return [pair for number, pair in enumerate(self._pairs()) if number % 10 in _OF_TEN[split]]

    def _pairs(self) -> list[tuple[Path, Path]]:
        """Every image with the picture of its masks, in order of name."""
        if not self._files:
            folders = [self._root / name for name in ("PNGImages", "PedMasks")]
            for folder in folders:
                if not folder.is_dir():
                    raise NoDataError(f"{folder} does not exist", self.info.manual)
            images = {path.stem: path for path in sorted(folders[0].iterdir()) if not path.name.startswith(".")}
            masks = {path.name.removesuffix(_MASK): path for path in folders[1].glob(f"*{_MASK}")}
            alone = sorted(images.keys() ^ masks.keys())
            if alone or not images:
                what = (
                    f"{alone[0]} has no {'masks' if alone[0] in images else 'image'}" if alone else "there is no image"
                )
                raise ReproError(f"{what} in {self._root}", "unpack PennFudanPed.zip again")
            self._files = [(images[stem], masks[stem]) for stem in sorted(images)]
        return self._files


def _box_of(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
