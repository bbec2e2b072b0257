"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015): 1464 / 1449 images, 20 classes and background.

Layout: `VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/{train,val}.txt}`, as unpacked from
the official archive. Masks are palette PNGs of class numbers; 255 marks the borders of objects and what is hard
to tell, and stays void. The labels of the test set are private: its results come from the authors' server alone.
"""

from typing import ClassVar

from repro.data.base import VOID, Info, Sample
from repro.data.download import Archive
from repro.data.folder import Named, PairFolder, listed
from repro.data.images import class_table, to_classes
from repro.errors import NoDataError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_TABLE = class_table({number: number for number in (*range(len(_CLASSES)), VOID)})


class Voc2012Seg(PairFolder):
    """Everyday photographs with 21 classes, from `VOCdevkit/VOC2012` of the data folder. The whole archive is unpacked,
    so that the detection data of the same year is there as well."""

    folder = "VOCdevkit/VOC2012"
    archive = Archive(
        dataset="voc2012_seg", url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        size=1_999_639_040, unpacked=2_100_000_000,
        checksum="sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
    )  # fmt: skip
    counts: ClassVar[dict[str, int]] = {"train": 1464, "val": 1449}
    encoding = "JPEG"
    longest_side = 500  # in every VOC release since 2007
    info = Info(
        name="voc2012_seg", title="PASCAL VOC 2012, segmentation", source=archive.url, version="11-May-2012",
        licence="Flickr terms of use; the authors ask for a citation (Everingham et al., 2015)",
        size="1464 + 1449 images of up to 500x500, 2.0 GB to download", splits=tuple(counts), tasks=("segmentation",),
        semantic_classes=_CLASSES, checksum=archive.checksum,
    )  # fmt: skip

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and semantic uint8 [H,W] with 0..20 and VOID.

        Raises ReproError naming the file when one is damaged, sizes differ or a label is no class."""
        name, image, labels, path = self._read(split, index)
        cure = f"classes are 0..20, 255 is void; {self.again}"
        return Sample(name, image, semantic=to_classes(labels, _TABLE, str(path), cure))

    def _find(self, split: str) -> list[Named]:
        masks = self._root / "SegmentationClass"
        if not masks.is_dir():
            raise NoDataError(f"{masks} does not exist", f"unpack {self.archive.filename} over {self._root}")
        names = self._root / "ImageSets" / "Segmentation" / f"{split}.txt"
        return listed(names, self._root / "JPEGImages", masks, ".png", self.again)
