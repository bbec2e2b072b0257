"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015): 1464 / 1449 images, 20 classes and background.

Layout: `VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/{train,val}.txt}`, as unpacked from
the official archive. Masks are palette PNGs of class numbers; 255 marks the borders of objects and what is hard
to tell, and stays void. The labels of the test set are private: its results come from the authors' server alone.
"""

import numpy as np

from repro import paths
from repro.data.base import VOID, Info, Sample
from repro.data.download import Archive, install
from repro.data.folder import Named, PairFolder, check_sizes, listed
from repro.data.images import read_image, read_labels
from repro.errors import NoDataError, ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale

ARCHIVE = Archive(
    dataset="voc2012_seg",
    url="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
    size=1_999_639_040,
    unpacked=2_100_000_000,
    checksum="sha256:e14f763270cf193d0b5f74b169f44157a4b0c6efa708f4dd0ff78ee691763bcb",
)
_TOP = "VOCdevkit/VOC2012"
_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
_COUNTS = {"train": 1464, "val": 1449}
_LONGEST_SIDE = 500  # pixels, in every VOC release since 2007
_AGAIN = f"unpack {ARCHIVE.filename} again"


class Voc2012Seg(PairFolder):
    """Everyday photographs with 21 classes, from `VOCdevkit/VOC2012` of the data folder."""

    info = Info(
        name="voc2012_seg",
        title="PASCAL VOC 2012, segmentation",
        source=ARCHIVE.url,
        version="11-May-2012",
        licence="Flickr terms of use; the authors ask for a citation (Everingham et al., 2015)",
        size="1464 + 1449 images of up to 500x500, 2.0 GB to download",
        splits=tuple(_COUNTS),
        tasks=("segmentation",),
        semantic_classes=_CLASSES,
        checksum=ARCHIVE.checksum,
    )

    folder = _TOP
    counts = _COUNTS
    again = _AGAIN

    def prepare(self) -> None:
        """Download the official archive unless its folder is there; check that no image or mask is missing.

        The whole archive is unpacked, so that the detection data of the same year is there as well. Raises
        NoDataError when it cannot be had, ReproError when the copy is incomplete."""
        if not self._root.is_dir():
            install(ARCHIVE, paths.data_dir(), _TOP)
        super().prepare()

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has the published number of images, as JPEG whose longest side is 500 pixels.

        No checksum of single files is published, so that edited pixels or masks do not show here."""
        return self._longest_differs(split, "JPEG", _LONGEST_SIDE)

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and semantic uint8 [H,W] with 0..20 and VOID.

        Raises ReproError naming the file when one is damaged, sizes differ or a label is no class."""
        name, pair = self._items(split)[index]
        # the masks were drawn over the stored pixels, whatever the EXIF orientation says
        image, labels = read_image(pair[0], upright=False), read_labels(pair[1])
        check_sizes(pair, image.shape, labels.shape, _AGAIN)
        known = (labels < len(_CLASSES)) | (labels == VOID)
        if not known.all():
            strange = ", ".join(str(value) for value in np.unique(labels[~known]))
            raise ReproError(f"{pair[1]} holds the labels {strange}", f"classes are 0..20, 255 is void; {_AGAIN}")
        return Sample(name, image, semantic=labels)

    def _find(self, split: str) -> list[Named]:
        masks = self._root / "SegmentationClass"
        if not masks.is_dir():
            raise NoDataError(f"{masks} does not exist", f"unpack {ARCHIVE.filename} over {self._root}")
        names = self._root / "ImageSets" / "Segmentation" / f"{split}.txt"
        return listed(names, self._root / "JPEGImages", masks, ".png", _AGAIN)
