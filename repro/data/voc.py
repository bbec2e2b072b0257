"""PASCAL VOC detection, 2007 and 2012 (Everingham et al., IJCV 2010 and 2015), and BCCD, which has VOC's layout.

Layout: `VOCdevkit/VOC<year>/{JPEGImages,Annotations,ImageSets/Main/<split>.txt}`, as unpacked from the official
archives, and the same below `BCCD`. In an annotation, pixels count from 1 and a box includes both ends, so that it
becomes (xmin - 1, ymin - 1, xmax, ymax). A box that sticks out of its image by at most one pixel, as rounding does, is
clipped; further out is an error.
"""

import contextlib
import functools
import math
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from repro import paths
from repro.data.base import Info, Sample
from repro.data.download import Archive, extract, install
from repro.data.folder import Named, PairFolder, check_sizes, listed
from repro.data.images import read_bytes, read_image
from repro.data.voc_seg import Voc2012Seg
from repro.errors import ReproError, unknown_name

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
ROUNDING = 1.0  # pixels that a box may stick out of its image
_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_LICENCE = "Flickr terms of use; the authors ask for a citation (Everingham et al., 2010 and 2015)"


@dataclass(frozen=True)
class Part:
    """An archive, the folder inside it that holds the layout, and the list by which it is known to be unpacked."""

    archive: Archive
    inside: str
    marker: str


class VocFolder(PairFolder):
    """A folder in VOC's layout. A subclass says which `parts` it is fetched in."""

    parts: ClassVar[tuple[Part, ...]]
    encoding = "JPEG"

    def prepare(self) -> None:
        """Download the official archives whose lists are not there; check that no image or annotation is missing.

        Files that are there are kept. Raises NoDataError when an archive cannot be had, ReproError when the copy is
        incomplete."""
        for part in self.parts:
            marker, merge = self._root / part.marker, functools.partial(_merge, part, self._root)
            if not marker.exists():
                install(part.archive, paths.data_dir(), part.inside, done=marker, unpack=merge)
        super().prepare()

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes, difficult and truncated [M]; M is 0 where no object is marked.

        Raises ReproError naming the file when image or annotation is damaged, the two disagree about the size, or a
        box lies outside the image or has no area."""
        name, (path, annotation) = self._items(split)[index]
        # the boxes were drawn over the stored pixels, whatever the EXIF orientation says
        image = read_image(path, upright=False)
        size, objects = read_objects(annotation, self.info.classes)
        check_sizes(annotation, image.shape, size, self.again)
        boxes = checked_boxes(objects["boxes"], size, lambda i: f"object {i + 1} of {annotation}", self.again)
        return Sample(name, image, **objects | {"boxes": boxes})

    @property
    def again(self) -> str:
        """The cure of an incomplete copy."""
        return f"unpack {' and '.join(part.archive.filename for part in self.parts)} again"

    def _find(self, split: str) -> list[Named]:
        names = self._root / "ImageSets" / "Main" / f"{split}.txt"
        if not names.exists():
            raise self._absent(names)
        return listed(names, self._root / "JPEGImages", self._root / "Annotations", ".xml", self.again)


def checked_boxes(
    boxes: np.ndarray | Sequence[Any], size: tuple[int, int], name: Callable[[int], str], cure: str
) -> np.ndarray:
    """Boxes [M,4] (x1,y1,x2,y2), 0-based, half-open, clipped to their image of (height, width). Returns float32 [M,4].

    They are rounded to a thousandth of a pixel, so that they are the same from whichever copy they come. Raises
    ReproError with this cure, calling box i `name(i)`, for a box more than ROUNDING pixels outside the image and for
    one without area."""
    array = np.asarray(boxes, np.float64).reshape(-1, 4).round(3)
    limits = np.array([size[1], size[0], size[1], size[0]], np.float64)
    clipped = np.clip(array, 0, limits).astype(np.float32)
    # written so that a box of NaN is neither inside nor of any area
    inside = np.all(np.maximum(-array, array - limits) <= ROUNDING, axis=1)
    solid = (array[:, 2:] > array[:, :2]).all(1) & (clipped[:, 2:] > clipped[:, :2]).all(1)
    for index in np.flatnonzero(~(inside & solid))[:1]:
        corners = ", ".join(f"{value:g}" for value in array[index])
        fault = "has no area" if inside[index] else f"is outside its image of {size[0]}x{size[1]} (height x width)"
        raise ReproError(f"{name(index)} has the box ({corners}), which {fault}", cure)
    return clipped


def read_objects(path: Path, classes: Sequence[str]) -> tuple[tuple[int, int], dict[str, Any]]:
    """The (height, width) of its image and the objects of an annotation, in the order of the file.

    They are boxes float64 [M,4] (x1,y1,x2,y2), 0-based, half-open, in pixels; classes int32 [M]; difficult and
    truncated bool [M], false where the file is silent. Raises ReproError naming the file, and the object where one is
    to blame, for what is no XML of this layout, names an unknown class, or brings a DOCTYPE (whose entities can expand
    without bound)."""
    root = _parse(path)
    width, height = (_number(root.find("size"), tag, f"{path} has no size:") for tag in ("width", "height"))
    boxes, labels, flags = [], [], []
    for number, item in enumerate(root.findall("object"), 1):
        where = f"object {number} of {path}"
        name = (item.findtext("name") or "").strip()
        if name not in classes:
            raise unknown_name(f"class in {where}", name[:60], classes)
        xmin, ymin, xmax, ymax = (_number(item.find("bndbox"), tag, f"{where} has no box:") for tag in _CORNERS)
        boxes.append((xmin - 1, ymin - 1, xmax, ymax))
        labels.append(classes.index(name))
        flags.append([_flag(item, tag, where) for tag in ("difficult", "truncated")])
    difficult, truncated = np.array(flags, bool).reshape(-1, 2).T
    objects = {"boxes": np.array(boxes, np.float64).reshape(-1, 4), "classes": np.array(labels, np.int32)}
    return (int(height), int(width)), objects | {"difficult": difficult, "truncated": truncated}


class _WithoutDoctype(ElementTree.TreeBuilder):
    def doctype(self, *_: Any) -> None:
        raise ElementTree.ParseError("it brings a DOCTYPE, which no annotation needs")


def _parse(path: Path) -> ElementTree.Element:
    parser = ElementTree.XMLParser(target=_WithoutDoctype())
    try:
        return ElementTree.fromstring(read_bytes(path), parser)
    # an encoding that Python does not know is a LookupError or a ValueError
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        raise ReproError(f"{path} is not a sound XML file ({error})", "unpack its archive again") from None


def _number(element: ElementTree.Element | None, tag: str, problem: str) -> float:
    """The finite number of a child (a few boxes of VOC 2012 have fractions)."""
    text = (element.findtext(tag) if element is not None else None) or ""
    with contextlib.suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise ReproError(f"{problem} {tag} is {text.strip()[:60]!r}, not a number", "unpack its archive again")


def _flag(item: ElementTree.Element, tag: str, where: str) -> bool:
    text = (item.findtext(tag) or "0").strip()
    if text not in ("0", "1"):
        raise ReproError(f"{where} has {tag} {text[:60]!r}, neither 0 nor 1", "unpack its archive again")
    return text == "1"


def _merge(part: Part, target: Path, packed: Path) -> None:
    """Move an archive's files into `target`, its list last; what the user put there stays."""
    staging = packed.with_name(f".{packed.name}.files")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        extract(packed, staging, part.inside)
        files = [path for path in (staging / part.inside).rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.match(part.marker)):
            moved = target / path.relative_to(staging / part.inside)
            moved.parent.mkdir(parents=True, exist_ok=True)
            if not moved.exists():
                os.replace(path, moved)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


_SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
_VOC2007_TRAINVAL = Archive(
    dataset="voc2007", url=f"{_SITE}/voc2007/VOCtrainval_06-Nov-2007.tar", size=460_032_000, unpacked=500_000_000,
    checksum="sha256:7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
)  # fmt: skip
_VOC2007_TEST = Archive(
    dataset="voc2007", url=f"{_SITE}/voc2007/VOCtest_06-Nov-2007.tar", size=451_020_800, unpacked=490_000_000,
    checksum="sha256:6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
)  # fmt: skip
_BCCD = Archive(
    dataset="bccd", url="https://github.com/Shenggan/BCCD_Dataset/archive/v1.0/BCCD_Dataset-1.0.zip", size=7_875_205,
    unpacked=12_000_000, checksum="sha256:97af5cc16d14d293fcb3c82a8f66e49b0339a8d0abd8e9508e0feeb4911caa1f",
)  # fmt: skip


class Voc2007(VocFolder):
    """Everyday photographs with objects of 20 classes, from `VOCdevkit/VOC2007` of the data folder."""

    folder = "VOCdevkit/VOC2007"
    parts = (
        Part(_VOC2007_TRAINVAL, "VOCdevkit/VOC2007", "ImageSets/Main/trainval.txt"),
        Part(_VOC2007_TEST, "VOCdevkit/VOC2007", "ImageSets/Main/test.txt"),
    )
    counts: ClassVar[dict[str, int]] = {"train": 2501, "val": 2510, "trainval": 5011, "test": 4952}
    longest_side = 500
    info = Info(
        name="voc2007", title="PASCAL VOC 2007, detection", source=f"{_SITE}/voc2007", version="06-Nov-2007",
        licence=_LICENCE, size="5011 + 4952 images of up to 500x500, 0.91 GB to download", splits=tuple(counts),
        tasks=("detection",), classes=CLASSES,
        checksum=f"{_VOC2007_TRAINVAL.checksum} (trainval), {_VOC2007_TEST.checksum} (test)",
    )  # fmt: skip


class Voc2012(VocFolder):
    """As VOC 2007, from `VOCdevkit/VOC2012`. The labels of the test set are private, so it is left out."""

    folder = "VOCdevkit/VOC2012"
    parts = (Part(replace(Voc2012Seg.archive, dataset="voc2012"), folder, "ImageSets/Main/trainval.txt"),)
    counts: ClassVar[dict[str, int]] = {"train": 5717, "val": 5823, "trainval": 11540}
    longest_side = 500
    info = Info(
        name="voc2012", title="PASCAL VOC 2012, detection", source=f"{_SITE}/voc2012", version="11-May-2012",
        licence=_LICENCE, size="5717 + 5823 images of up to 500x500, 2.0 GB to download", splits=tuple(counts),
        tasks=("detection",), classes=CLASSES, checksum=Voc2012Seg.archive.checksum,
    )  # fmt: skip


class Bccd(VocFolder):
    """Blood cells under the microscope (Shenggan, 2017) with their three kinds, from `BCCD` of the data folder."""

    folder = "BCCD"
    parts = (Part(_BCCD, "BCCD_Dataset-1.0/BCCD", "ImageSets/Main/trainval.txt"),)
    counts: ClassVar[dict[str, int]] = {"train": 205, "val": 87, "trainval": 292, "test": 72}
    longest_side = 640
    info = Info(
        name="bccd", title="BCCD, blood cells", source="https://github.com/Shenggan/BCCD_Dataset", version="1.0",
        licence="MIT", size="205 + 87 + 72 images of 480x640, 8 MB to download", splits=tuple(counts),
        tasks=("detection",), classes=("RBC", "WBC", "Platelets"), checksum=_BCCD.checksum,
    )  # fmt: skip
