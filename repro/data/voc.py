"""PASCAL VOC detection, 2007 and 2012 (Everingham et al., IJCV 2010 and 2015), and BCCD, which has VOC's layout.

Layout: `VOCdevkit/VOC<year>/{JPEGImages,Annotations,ImageSets/Main/<split>.txt}`, as unpacked from the official
archives, and the same below `BCCD`. In an annotation, pixels count from 1 and a box includes both ends, so that it
becomes (xmin - 1, ymin - 1, xmax, ymax). A box that sticks out of its image by at most one pixel, as rounding does, is
clipped; further out is an error.
"""

import contextlib
import fcntl
import math
import os
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from repro import paths
from repro.data import pairs, voc_seg
from repro.data.base import Info, Sample
from repro.data.download import Archive, extract, fetch
from repro.data.images import probe, read_bytes, read_image
from repro.errors import NoDataError, ReproError, unknown_name

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


class VocFolder:
    """A folder in VOC's layout. A subclass says where it is (`folder`, below the data folder), which `parts` it is
    fetched in, what its published splits count, and how long the longest side of its images is (pixels)."""

    info: ClassVar[Info]
    folder: ClassVar[str]
    parts: ClassVar[tuple[Part, ...]]
    counts: ClassVar[dict[str, int]]
    longest_side: ClassVar[int]

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / self.folder
        self._found: dict[str, list[pairs.Pair]] = {}
        self._fingerprints: dict[str, str] = {}

    def prepare(self) -> None:
        """Download the official archives whose lists are not there; check that no image or annotation is missing.

        Files that are there are kept. Raises NoDataError when an archive cannot be had, ReproError when the copy is
        incomplete."""
        for part in self.parts:
            _install(part, self._root)
        for split in self.info.splits:
            self._pairs(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over (stem, SHA-256 of image, SHA-256 of annotation) in list order."""
        if split not in self._fingerprints:
            self._fingerprints[split] = pairs.fingerprint((pair[0].stem, pair) for pair in self._pairs(split))
        return self._fingerprints[split]

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has the published number of images, as JPEG of the published longest side.

        No checksum of single files is published, so that edited pixels or boxes do not show here."""
        found, count = self._pairs(split), self.counts[split]
        headers = [probe(image) for image, _ in found]
        others = sorted({encoding for encoding, _ in headers} - {"JPEG"})
        longest = max(max(size) for _, size in headers)
        reasons = [f"{len(found)} of {count} images"] if len(found) != count else []
        reasons += [f"images re-encoded as {' and '.join(others)}"] if others else []
        if longest != self.longest_side:
            reasons.append(f"the longest side is {longest} instead of {self.longest_side} pixels")
        return not reasons, "; ".join(reasons)

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._pairs(split))

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes, difficult and truncated [M]; M is 0 where no object is marked.

        Raises ReproError naming the file when image or annotation is damaged, the two disagree about the size, or a
        box lies outside the image or has no area."""
        pair, again = self._pairs(split)[index], self._again()
        # the boxes were drawn over the stored pixels, whatever the EXIF orientation says
        image = read_image(pair[0], upright=False)
        size, objects = read_objects(pair[1], self.info.classes)
        pairs.check_sizes(pair, image.shape, size, again)
        objects["boxes"] = checked_boxes(objects["boxes"], size, lambda i: f"object {i + 1} of {pair[1]}", again)
        return Sample(pair[0].stem, image, **objects)

    def _again(self) -> str:
        return f"unpack {' and '.join(part.archive.filename for part in self.parts)} again"

    def _pairs(self, split: str) -> list[pairs.Pair]:
        if split not in self.counts:
            raise unknown_name(f"split of {self.info.name}", split, self.counts)
        if split not in self._found:
            names = self._root / "ImageSets" / "Main" / f"{split}.txt"
            for path in (self._root, names):
                if not path.exists():
                    raise NoDataError(f"{path} does not exist", f"`repro data {self.info.name}` fetches it")
            images, annotations = self._root / "JPEGImages", self._root / "Annotations"
            stems = _stems(names, self._again())
            found = [(images / f"{stem}.jpg", annotations / f"{stem}.xml") for stem in stems]
            missing = [path for pair in found for path in pair if not path.is_file()]
            if missing:
                others = f", like {len(missing) - 1} more" if len(missing) > 1 else ""
                raise ReproError(f"{missing[0]}, which {names} asks for, does not exist{others}", self._again())
            self._found[split] = found
        return self._found[split]


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
    inside = (np.maximum(-array, array - limits) <= ROUNDING).all(1)
    solid = (array[:, 2:] > array[:, :2]).all(1) & (clipped[:, 2:] > clipped[:, :2]).all(1)
    for index in np.flatnonzero(~(inside & solid))[:1]:
        corners = ", ".join(f"{value:g}" for value in array[index])
        fault = "has no area" if inside[index] else f"is outside its image of {size[0]}x{size[1]} (height x width)"
        raise ReproError(f"{name(index)} has the box ({corners}), which {fault}", cure)
    return clipped


def read_objects(path: Path, classes: Sequence[str]) -> tuple[tuple[int, int], dict[str, np.ndarray]]:
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


def _stems(path: Path, cure: str) -> list[str]:
    """The names in a list of images, each once."""
    stems: dict[str, int] = {}
    for number, line in enumerate(read_bytes(path).decode("ascii", "replace").splitlines(), 1):
        stem = line.strip()
        if not stem:
            continue
        if not re.fullmatch(r"[\w-]+", stem, re.ASCII):
            raise ReproError(f"{path} line {number} is {stem[:60]!r}, not the name of an image", cure)
        if stem in stems:
            raise ReproError(f"{path} names {stem} in line {stems[stem]} and in line {number}", "keep one of them")
        stems[stem] = number
    if not stems:
        raise ReproError(f"{path} names no image", cure)
    return list(stems)


def _install(part: Part, target: Path) -> None:
    """Fetch an archive and move its files into `target`, its list last, unless that list is there."""
    root, archive = paths.data_dir(), part.archive
    if (target / part.marker).exists():
        return
    try:
        root.mkdir(parents=True, exist_ok=True)
        with open(root / f".{archive.filename}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here and then finds the data
            if not (target / part.marker).exists():
                _check_room(archive, root)
                fetch(archive, root / archive.filename)
                _merge(root / archive.filename, part, target)
    except OSError as error:
        cure = "make room or check the permissions, or set REPRO_DATA to another folder"
        raise NoDataError(f"{root} cannot take the data ({error.strerror or error})", cure) from None


def _check_room(archive: Archive, root: Path) -> None:
    needed = archive.unpacked + (0 if (root / archive.filename).exists() else archive.size)
    free = shutil.disk_usage(root).free
    if free < needed:
        problem = f"{archive.dataset} needs {needed / 2**30:.1f} GiB more, {root} has {free / 2**30:.1f} GiB free"
        raise NoDataError(problem, "make room, or set REPRO_DATA to a folder on a larger disk")


def _merge(packed: Path, part: Part, target: Path) -> None:
    staging = packed.with_name(f".{packed.name}.files")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        extract(packed, staging, part.inside)
        files = [path for path in (staging / part.inside).rglob("*") if path.is_file()]
        for path in sorted(files, key=lambda path: path.match(part.marker)):
            moved = target / path.relative_to(staging / part.inside)
            moved.parent.mkdir(parents=True, exist_ok=True)
            if not moved.exists():  # what the user put there stays
                os.replace(path, moved)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


_SITE = "http://host.robots.ox.ac.uk/pascal/VOC"
_VOC2007_TRAINVAL = Archive(
    dataset="voc2007",
    url=f"{_SITE}/voc2007/VOCtrainval_06-Nov-2007.tar",
    size=460_032_000,
    unpacked=500_000_000,
    checksum="sha256:7d8cd951101b0957ddfd7a530bdc8a94f06121cfc1e511bb5937e973020c7508",
)
_VOC2007_TEST = Archive(
    dataset="voc2007",
    url=f"{_SITE}/voc2007/VOCtest_06-Nov-2007.tar",
    size=451_020_800,
    unpacked=490_000_000,
    checksum="sha256:6836888e2e01dca84577a849d339fa4f73e1e4f135d312430c4856b5609b4892",
)
_BCCD = Archive(
    dataset="bccd",
    url="https://github.com/Shenggan/BCCD_Dataset/archive/v1.0/BCCD_Dataset-1.0.zip",
    size=7_875_205,
    unpacked=12_000_000,
    checksum="sha256:97af5cc16d14d293fcb3c82a8f66e49b0339a8d0abd8e9508e0feeb4911caa1f",
)


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
        name="voc2007",
        title="PASCAL VOC 2007, detection",
        source=f"{_SITE}/voc2007",
        version="06-Nov-2007",
        licence=_LICENCE,
        size="5011 + 4952 images of up to 500x500, 0.91 GB to download",
        splits=tuple(counts),
        tasks=("detection",),
        classes=CLASSES,
        checksum=f"{_VOC2007_TRAINVAL.checksum} (trainval), {_VOC2007_TEST.checksum} (test)",
    )


class Voc2012(VocFolder):
    """As VOC 2007, from `VOCdevkit/VOC2012`. The labels of the test set are private, so it is left out."""

    folder = "VOCdevkit/VOC2012"
    parts = (Part(replace(voc_seg.ARCHIVE, dataset="voc2012"), folder, "ImageSets/Main/trainval.txt"),)
    counts: ClassVar[dict[str, int]] = {"train": 5717, "val": 5823, "trainval": 11540}
    longest_side = 500
    info = Info(
        name="voc2012",
        title="PASCAL VOC 2012, detection",
        source=f"{_SITE}/voc2012",
        version="11-May-2012",
        licence=_LICENCE,
        size="5717 + 5823 images of up to 500x500, 2.0 GB to download",
        splits=tuple(counts),
        tasks=("detection",),
        classes=CLASSES,
        checksum=voc_seg.ARCHIVE.checksum,
    )


class Bccd(VocFolder):
    """Blood cells under the microscope (Shenggan, 2017) with their three kinds, from `BCCD` of the data folder."""

    folder = "BCCD"
    parts = (Part(_BCCD, "BCCD_Dataset-1.0/BCCD", "ImageSets/Main/trainval.txt"),)
    counts: ClassVar[dict[str, int]] = {"train": 205, "val": 87, "trainval": 292, "test": 72}
    longest_side = 640
    info = Info(
        name="bccd",
        title="BCCD, blood cells",
        source="https://github.com/Shenggan/BCCD_Dataset",
        version="1.0",
        licence="MIT",
        size="205 + 87 + 72 images of 480x640, 8 MB to download",
        splits=tuple(counts),
        tasks=("detection",),
        classes=("RBC", "WBC", "Platelets"),
        checksum=_BCCD.checksum,
    )
