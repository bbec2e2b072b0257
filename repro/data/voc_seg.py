"""PASCAL VOC 2012 segmentation (Everingham et al., IJCV 2015): 1464 / 1449 images, 20 classes and background.

Layout: `VOCdevkit/VOC2012/{JPEGImages,SegmentationClass,ImageSets/Segmentation/{train,val}.txt}`, as unpacked from
the official archive. Masks are palette PNGs of class numbers; 255 marks the borders of objects and what is hard
to tell, and stays void. The labels of the test set are private: its results come from the authors' server alone.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from repro import paths
from repro.data import pairs
from repro.data.base import VOID, Info, Sample
from repro.data.download import Archive, install
from repro.data.images import probe, read_bytes, read_image, read_labels
from repro.errors import NoDataError, ReproError, unknown_name

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


class Voc2012Seg:
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

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / _TOP
        self._found: dict[str, list[pairs.Pair]] = {}
        self._fingerprints: dict[str, str] = {}

    def prepare(self) -> None:
        """Download the official archive unless its folder is there; check that no image or mask is missing.

        The whole archive is unpacked, so that the detection data of the same year is there as well. Raises
        NoDataError when it cannot be had, ReproError when the copy is incomplete."""
        if not self._root.is_dir():
            install(ARCHIVE, paths.data_dir(), _TOP)
        for split in self.info.splits:
            self._pairs(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over (stem, SHA-256 of image, SHA-256 of mask) in list order."""
        if split not in self._fingerprints:
            named = ((pair[0].stem, pair) for pair in self._pairs(split))
            self._fingerprints[split] = pairs.fingerprint(named)
        return self._fingerprints[split]

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has the published number of images, as JPEG whose longest side is 500 pixels.

        No checksum of single files is published, so that edited pixels or masks do not show here."""
        found = self._pairs(split)
        if len(found) != _COUNTS[split]:
            return False, f"{len(found)} of {_COUNTS[split]} images"
        headers = [probe(image) for image, _ in found]
        others = {encoding for encoding, _ in headers} - {"JPEG"}
        if others:
            return False, f"images re-encoded as {' and '.join(sorted(others))}"
        longest = max(max(size) for _, size in headers)
        if longest != _LONGEST_SIDE:
            return False, f"the longest side is {longest} instead of {_LONGEST_SIDE} pixels"
        return True, ""

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._pairs(split))

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and semantic uint8 [H,W] with 0..20 and VOID.

        Raises ReproError naming the file when one is damaged, sizes differ or a label is no class."""
        pair = self._pairs(split)[index]
        # the masks were drawn over the stored pixels, whatever the EXIF orientation says
        image, labels = read_image(pair[0], upright=False), read_labels(pair[1])
        pairs.check_sizes(pair, image.shape, labels.shape, _AGAIN)
        known = (labels < len(_CLASSES)) | (labels == VOID)
        if not known.all():
            strange = ", ".join(str(value) for value in np.unique(labels[~known]))
            raise ReproError(f"{pair[1]} holds the labels {strange}", f"classes are 0..20, 255 is void; {_AGAIN}")
        return Sample(pair[0].stem, image, semantic=labels)

    def _pairs(self, split: str) -> list[pairs.Pair]:
        if split not in _COUNTS:
            raise unknown_name(f"split of {self.info.name}", split, _COUNTS)
        if split not in self._found:
            masks = self._root / "SegmentationClass"
            if not self._root.is_dir():
                raise NoDataError(f"VOC 2012 is not at {self._root}", f"`repro data {self.info.name}` fetches it")
            if not masks.is_dir():
                raise NoDataError(f"{masks} does not exist", f"unpack {ARCHIVE.filename} over {self._root}")
            names = self._root / "ImageSets" / "Segmentation" / f"{split}.txt"
            stems = _stems(names)
            found = [(self._root / "JPEGImages" / f"{stem}.jpg", masks / f"{stem}.png") for stem in stems]
            missing = [path for pair in found for path in pair if not path.is_file()]
            if missing:
                others = f", like {len(missing) - 1} more" if len(missing) > 1 else ""
                raise ReproError(f"{missing[0]}, which {names} asks for, does not exist{others}", _AGAIN)
            self._found[split] = found
        return self._found[split]


def _stems(path: Path) -> list[str]:
    stems: dict[str, int] = {}
    for number, line in enumerate(read_bytes(path).decode("ascii", "replace").splitlines(), 1):
        stem = line.strip()
        if not stem:
            continue
        if not re.fullmatch(r"[\w-]+", stem, re.ASCII):
            raise ReproError(f"{path} line {number} is {stem[:60]!r}, not the name of an image", _AGAIN)
        if stem in stems:
            raise ReproError(f"{path} names {stem} in line {stems[stem]} and in line {number}", "keep one of them")
        stems[stem] = number
    if not stems:
        raise ReproError(f"{path} names no image", _AGAIN)
    return list(stems)
