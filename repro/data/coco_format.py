"""Instances in COCO's JSON format (Lin et al., ECCV 2014): polygons, run lengths, and compressed run lengths.

A box that sticks out of its image by at most one pixel is clipped; an object whose box has no width or height is left
out (COCO's official train2017 has two, annotations 918 and 2206849), and so is one whose mask has no pixel, such as a
sliver between two rows of them or a polygon beside the image; all else that makes no sense is an error. Polygons are
filled by pycocotools, which cuts them at the image's border.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from repro.data.base import Sample
from repro.data.folder import Folder, report_missing
from repro.data.images import read_bytes, read_image
from repro.data.masks import run_lengths
from repro.data.voc import checked_boxes
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class _Image(msgspec.Struct, gc=False):
    id: int
    file_name: str
    height: int
    width: int


class _Annotation(msgspec.Struct, gc=False):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[float, float, float, float]
    iscrowd: Literal[0, 1]
    segmentation: msgspec.Raw  # decoded when its image is asked for: it is nearly all of the file


class _Category(msgspec.Struct, gc=False):
    id: int
    name: str


class _Instances(msgspec.Struct):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


class _Runs(msgspec.Struct, gc=False):
    counts: list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]] | str  # text: compressed
    size: tuple[int, int]


_PARSE_MASK = msgspec.json.Decoder(list[list[float]] | _Runs).decode


class CocoFormat(Folder):
    """A data set in COCO's format, its images in the order of their ids: `folder` of the data folder has a folder of
    images for each split (`folders`) and `annotations/instances_<that folder>.json`.

    `category_ids` are the categories of the classes, in their order; `counts` the published numbers of images and
    annotations of each split, `again` what mends a damaged copy. A crowd is one box and one mask around many
    objects."""

    folders: ClassVar[dict[str, str]]
    category_ids: ClassVar[tuple[int, ...]]
    counts: ClassVar[dict[str, tuple[int, int]]]
    again: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self._annotations: dict[str, dict[int, list[_Annotation]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # a worker process reads the annotations again, which is faster than to pickle them
        return self.__dict__ | {"_found": {}, "_annotations": {}}

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has the published numbers of images and annotations.

        No checksum of single files is published, so that edited pixels or boxes do not show here."""
        found = len(self._items(split)), sum(map(len, self._annotations[split].values()))
        named = zip(found, self.counts[split], ("images", "annotations"), strict=True)
        reasons = [f"{here} of {published} {what}" for here, published, what in named if here != published]
        return not reasons, "; ".join(reasons)

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes and crowd [M], masks bool [M,H,W]; objects in order of their ids.

        `image_id` is the image's number. Raises ReproError naming the file when the image is damaged or of another
        size than its annotations say, and the annotation where a box or mask makes no sense."""
        image = self._items(split)[index]
        path, file, size = self._path(split, image), self._file(split), (image.height, image.width)
        # the objects were drawn over the stored pixels, whatever the EXIF orientation says
        pixels = read_image(path, upright=False)
        if pixels.shape[:2] != size:
            stated, here = f"{size[0]}x{size[1]}", f"{pixels.shape[0]}x{pixels.shape[1]}"
            raise ReproError(f"{path} is {here}, in {file} it is {stated} (height x width)", "unpack both again")
        found = self._annotations[split].get(image.id, [])
        return Sample(str(image.id), pixels, **objects_of(found, size, file, self.category_ids, self.again))

    def _file(self, split: str) -> Path:
        return self._root / "annotations" / f"instances_{self.folders[split]}.json"

    def _path(self, split: str, image: _Image) -> Path:
        return self._root / self.folders[split] / image.file_name

    def _refetch(self, folder: Path) -> str:
        """What mends a folder with an image missing."""
        return self.again

    def _find(self, split: str) -> list[_Image]:
        folder, file = self._root / self.folders[split], self._file(split)
        for needed in (folder, file.parent):
            self._check(needed)
        names = dict(zip(self.category_ids, self.info.classes, strict=True))
        images, self._annotations[split] = read_instances(file, names, self.again)
        present = {path.name for path in folder.iterdir()}
        missing = [folder / image.file_name for image in images if image.file_name not in present]
        report_missing(missing, f"which {file} asks for, does not exist", self._refetch(folder), joined=", ")
        return images

    def _identity(self, split: str) -> Iterator[bytes]:
        """The annotation file, and each image's name and size in bytes. The images, 19 GB of COCO, are not read: one
        changed without a change of its size does not show."""
        yield hashlib.sha256(read_bytes(self._file(split))).digest()
        for image in self._items(split):
            yield f"{image.file_name} {self._path(split, image).stat().st_size}\n".encode()


def read_instances(file: Path, names: dict[int, str], cure: str) -> tuple[list[_Image], dict[int, list[_Annotation]]]:
    """The images of an annotation file and the annotations of each image's id, both in the order of their ids.

    `names` are the classes by category id. Raises ReproError where the file makes no sense."""
    instances = _read(file, cure)
    _check(instances, file, names, cure)
    grouped: dict[int, list[_Annotation]] = {}
    for each in sorted(instances.annotations, key=lambda each: each.id):
        grouped.setdefault(each.image_id, []).append(each)
    return sorted(instances.images, key=lambda image: image.id), grouped


def objects_of(
    annotations: Sequence[_Annotation], size: tuple[int, int], file: Path, category_ids: Sequence[int], cure: str
) -> dict[str, Any]:
    """The fields `boxes`, `classes`, `masks` and `crowd` of a `Sample` of this (height, width).

    Raises ReproError naming the annotation where a box or mask makes no sense."""
    objects = [each for each in annotations if each.bbox[2] != 0 and each.bbox[3] != 0]
    corners = [(x, y, x + width, y + height) for x, y, width, height in (each.bbox for each in objects)]
    boxes = checked_boxes(corners, size, lambda i: f"annotation {objects[i].id} of {file}", cure)
    masks = [_mask(each, size, f"annotation {each.id} of {file}", cure) for each in objects]
    seen = np.array([mask.any() for mask in masks], bool)
    return {
        "boxes": boxes[seen],
        "classes": np.array([category_ids.index(each.category_id) for each in objects], np.int32)[seen],
        "masks": np.array(masks, bool).reshape(-1, *size)[seen],
        "crowd": np.array([each.iscrowd for each in objects], bool)[seen],
    }


def _read(file: Path, cure: str) -> _Instances:
    try:
        return msgspec.json.decode(read_bytes(file), type=_Instances)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReproError(f"{file} is no COCO instances file ({error})", cure) from None


def _check(instances: _Instances, file: Path, names: dict[int, str], cure: str) -> None:
    """Raise ReproError where ids are doubled or lead nowhere, or a category is not one of `names`, by id."""
    if not instances.images:
        raise ReproError(f"{file} names no image", cure)
    ids: dict[str, set[int]] = {}
    for what in ("images", "annotations", "categories"):
        numbers = Counter(each.id for each in getattr(instances, what))
        ids[what] = set(numbers)
        for number, times in numbers.most_common(1):
            if times > 1:
                raise ReproError(f"{file} has {times} {what} with the id {number}", cure)
    for each in instances.categories:
        known = names.get(each.id, "no category")
        if known != each.name:
            raise ReproError(f"category {each.id} of {file} is {each.name[:60]!r}, here it is {known}", cure)
    for image in instances.images:
        if Path(image.file_name).name != image.file_name:
            raise ReproError(f"image {image.id} of {file} has the file name {image.file_name[:60]!r}", cure)
    for found in instances.annotations:
        if found.image_id not in ids["images"]:
            raise ReproError(f"annotation {found.id} of {file} is of image {found.image_id}, which is not there", cure)
        if found.category_id not in ids["categories"]:
            problem = f"annotation {found.id} of {file} is of category {found.category_id}, which is not there"
            raise ReproError(problem, cure)


def _mask(annotation: _Annotation, size: tuple[int, int], where: str, cure: str) -> np.ndarray:
    """The pixels of an object, bool [H,W], as pycocotools fills its polygons or from its runs down the columns."""
    height, width = size
    try:
        outline = _PARSE_MASK(annotation.segmentation)
    except msgspec.DecodeError as error:
        raise ReproError(f"{where} has no polygons or runs as a mask ({error})", cure) from None
    if isinstance(outline, _Runs):
        # pycocotools reads beyond its memory where runs do not fill the image
        counts = _run_lengths(outline, where)
        if outline.size != size or counts.sum() != height * width:
            stated = f"{counts.sum()} pixels in {outline.size[0]}x{outline.size[1]}"
            raise ReproError(f"{where} has a mask of {stated}, its image is {height}x{width} (height x width)", cure)
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    farthest = 2 * max(size)  # pycocotools walks along every edge, pixel by pixel
    for polygon in outline:
        if len(polygon) < 6 or len(polygon) % 2 or max(map(abs, polygon)) > farthest:
            shown = ", ".join(f"{value:g}" for value in polygon[:6])
            raise ReproError(f"{where} has the polygon ({shown}{', ...' if polygon[6:] else ''})", cure)
    if not outline:
        raise ReproError(f"{where} has a mask without a polygon", cure)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outline, height, width))).astype(bool)


def _run_lengths(outline: _Runs, where: str) -> np.ndarray:
    if isinstance(outline.counts, str):
        return run_lengths({"size": list(outline.size), "counts": outline.counts}, f"the mask of {where}")
    return np.array(outline.counts, np.int64)
