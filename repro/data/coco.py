"""COCO 2017 detection and instance segmentation (Lin et al., ECCV 2014): 118287 / 5000 images, 80 classes.

Layout: `coco/{train2017,val2017,annotations/instances_<folder>.json}`, as unpacked from the official archives. COCO's
category ids leave gaps; classes here are 0..79 in their order, and `CATEGORY_IDS` leads back. The labels of the test
set are private. A box that sticks out of its image by at most one pixel is clipped; one of no width or height is left
out (the official train2017 has two, annotations 918 and 2206849); all else that makes no sense is an error.
"""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from pycocotools import mask as coco_mask

from repro import paths
from repro.data.base import Info, Sample
from repro.data.download import Archive, install
from repro.data.images import read_bytes, read_image
from repro.data.voc import checked_boxes
from repro.errors import NoDataError, ReproError, unknown_name

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
# of the paper's 91 categories, the release has neither these nor the last
CATEGORY_IDS = tuple(number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
_LABELS = {category: label for label, category in enumerate(CATEGORY_IDS)}
_FOLDERS = {"train": "train2017", "val": "val2017"}
SITE = "http://images.cocodataset.org"
# by the folder that each holds
ARCHIVES = {
    "annotations": Archive(
        dataset="coco2017",
        url=f"{SITE}/annotations/annotations_trainval2017.zip",
        size=252_907_541,
        unpacked=500_000_000,
        checksum="sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    "val2017": Archive(
        dataset="coco2017",
        url=f"{SITE}/zips/val2017.zip",
        size=815_585_330,
        unpacked=840_000_000,
        checksum="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    "train2017": Archive(
        dataset="coco2017",
        url=f"{SITE}/zips/train2017.zip",
        size=19_336_861_798,
        unpacked=19_900_000_000,
        checksum="sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
}
_AGAIN = f"unpack {ARCHIVES['annotations'].filename} again"


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
    counts: list[Annotated[int, msgspec.Meta(ge=0, le=2**31)]]
    size: tuple[int, int]


_PARSE_MASK = msgspec.json.Decoder(list[list[float]] | _Runs).decode


class Coco2017:
    """Everyday scenes with objects of 80 classes, from `coco` of the data folder, in the order of their image ids.

    A crowd is one box and one mask around many objects."""

    info = Info(
        name="coco2017",
        title="COCO 2017",
        source="https://cocodataset.org",
        version="2017",
        licence="annotations CC BY 4.0; the images under Flickr terms of use, each with a licence of its own",
        size="118287 + 5000 images of up to 640x640, 20.4 GB to download",
        splits=tuple(_FOLDERS),
        tasks=("detection", "instance"),
        classes=CLASSES,
        checksum=", ".join(f"{archive.checksum} ({name})" for name, archive in ARCHIVES.items()),
    )
    counts: ClassVar[dict[str, tuple[int, int]]] = {"train": (118_287, 860_001), "val": (5_000, 36_781)}

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / "coco"
        self._images: dict[str, list[_Image]] = {}
        self._annotations: dict[str, dict[int, list[_Annotation]]] = {}
        self._fingerprints: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        # a worker process reads the annotations again, which is faster than to pickle them
        return self.__dict__ | {"_images": {}, "_annotations": {}}

    def prepare(self) -> None:
        """Download the official archives whose folders are not there; check annotations and that no image is missing.

        Raises NoDataError when an archive cannot be had, ReproError when the copy is incomplete or makes no sense."""
        for folder, archive in ARCHIVES.items():
            if not (self._root / folder).is_dir():
                # no captions, no key points
                install(archive, self._root, folder, lambda name, part=folder: part != "annotations" or _wanted(name))
        for split in self.info.splits:
            self._open(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over the annotation file and each image's name and size in bytes.

        The 19 GB of images are not read: one changed without a change of its size does not show."""
        if split not in self._fingerprints:
            total = hashlib.sha256(hashlib.sha256(read_bytes(self._file(split))).digest())
            for image in self._open(split):
                total.update(f"{image.file_name} {self._path(split, image).stat().st_size}\n".encode())
            self._fingerprints[split] = total.hexdigest()[:16]
        return self._fingerprints[split]

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has the published numbers of images and annotations.

        No checksum of single files is published, so that edited pixels or boxes do not show here."""
        found = len(self._open(split)), sum(map(len, self._annotations[split].values()))
        named = zip(found, self.counts[split], ("images", "annotations"), strict=True)
        reasons = [f"{here} of {published} {what}" for here, published, what in named if here != published]
        return not reasons, "; ".join(reasons)

    def size(self, split: str) -> int:
        """Number of images of a split, those without objects included."""
        return len(self._open(split))

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes and crowd [M], masks bool [M,H,W]; objects in order of their ids.

        `image_id` is COCO's number. Raises ReproError naming the file when the image is damaged or of another size
        than its annotations say, and the annotation where a box or mask makes no sense."""
        image = self._open(split)[index]
        path, file, size = self._path(split, image), self._file(split), (image.height, image.width)
        # the objects were drawn over the stored pixels, whatever the EXIF orientation says
        pixels = read_image(path, upright=False)
        if pixels.shape[:2] != size:
            stated, found = f"{size[0]}x{size[1]}", f"{pixels.shape[0]}x{pixels.shape[1]}"
            raise ReproError(f"{path} is {found}, in {file} it is {stated} (height x width)", "unpack both again")
        found = self._annotations[split].get(image.id, [])
        objects = [each for each in found if each.bbox[2] != 0 and each.bbox[3] != 0]
        corners = [(x, y, x + width, y + height) for x, y, width, height in (each.bbox for each in objects)]
        boxes = checked_boxes(corners, size, lambda i: f"annotation {objects[i].id} of {file}", _AGAIN)
        masks = [_mask(each, size, f"annotation {each.id} of {file}") for each in objects]
        return Sample(
            str(image.id),
            pixels,
            boxes=boxes,
            classes=np.array([_LABELS[each.category_id] for each in objects], np.int32),
            masks=np.array(masks, bool).reshape(-1, *size),
            crowd=np.array([each.iscrowd for each in objects], bool),
        )

    def _file(self, split: str) -> Path:
        return self._root / "annotations" / f"instances_{_FOLDERS[split]}.json"

    def _path(self, split: str, image: _Image) -> Path:
        return self._root / _FOLDERS[split] / image.file_name

    def _open(self, split: str) -> list[_Image]:
        if split not in _FOLDERS:
            raise unknown_name(f"split of {self.info.name}", split, _FOLDERS)
        if split not in self._images:
            folder, file = self._root / _FOLDERS[split], self._file(split)
            for needed in (self._root, folder, file.parent):
                if not needed.is_dir():
                    raise NoDataError(f"{needed} does not exist", f"`repro data {self.info.name}` fetches it")
            instances = _read(file)
            _check(instances, file)
            present = {path.name for path in folder.iterdir()}
            missing = [image.file_name for image in instances.images if image.file_name not in present]
            if missing:
                others = f", like {len(missing) - 1} more" if len(missing) > 1 else ""
                problem = f"{folder / missing[0]}, which {file} asks for, does not exist{others}"
                raise ReproError(problem, f"unpack {ARCHIVES[folder.name].filename} again")
            grouped: dict[int, list[_Annotation]] = {}
            for each in sorted(instances.annotations, key=lambda each: each.id):
                grouped.setdefault(each.image_id, []).append(each)
            self._annotations[split] = grouped
            self._images[split] = sorted(instances.images, key=lambda image: image.id)
        return self._images[split]


def _wanted(name: str) -> bool:
    return "/instances_" in name


def _read(file: Path) -> _Instances:
    try:
        return msgspec.json.decode(read_bytes(file), type=_Instances)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReproError(f"{file} is no COCO instances file ({error})", _AGAIN) from None


def _check(instances: _Instances, file: Path) -> None:
    """Raise ReproError where ids are doubled or lead nowhere, or a category is not COCO's."""
    if not instances.images:
        raise ReproError(f"{file} names no image", _AGAIN)
    ids: dict[str, set[int]] = {}
    for what in ("images", "annotations", "categories"):
        numbers = Counter(each.id for each in getattr(instances, what))
        ids[what] = set(numbers)
        for number, times in numbers.most_common(1):
            if times > 1:
                raise ReproError(f"{file} has {times} {what} with the id {number}", _AGAIN)
    for each in instances.categories:
        label = _LABELS.get(each.id)
        if label is None or CLASSES[label] != each.name:
            known = "no category" if label is None else CLASSES[label]
            raise ReproError(f"category {each.id} of {file} is {each.name[:60]!r}, in COCO it is {known}", _AGAIN)
    for image in instances.images:
        if Path(image.file_name).name != image.file_name:
            raise ReproError(f"image {image.id} of {file} has the file name {image.file_name[:60]!r}", _AGAIN)
    for each in instances.annotations:
        if each.image_id not in ids["images"]:
            raise ReproError(f"annotation {each.id} of {file} is of image {each.image_id}, which is not there", _AGAIN)
        if each.category_id not in ids["categories"]:
            problem = f"annotation {each.id} of {file} is of category {each.category_id}, which is not there"
            raise ReproError(problem, _AGAIN)


def _mask(annotation: _Annotation, size: tuple[int, int], where: str) -> np.ndarray:
    """The pixels of an object, bool [H,W], as pycocotools fills its polygons or from its runs down the columns."""
    height, width = size
    try:
        outline = _PARSE_MASK(annotation.segmentation)
    except msgspec.DecodeError as error:
        raise ReproError(f"{where} has no polygons or runs as a mask ({error})", _AGAIN) from None
    if isinstance(outline, _Runs):
        # pycocotools reads beyond its memory where runs do not fill the image
        counts = np.array(outline.counts, np.int64)
        if outline.size != size or counts.sum() != height * width:
            stated = f"{counts.sum()} pixels in {outline.size[0]}x{outline.size[1]}"
            raise ReproError(f"{where} has a mask of {stated}, its image is {height}x{width} (height x width)", _AGAIN)
        return np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
    farthest = 2 * max(size)  # pycocotools walks along every edge, pixel by pixel
    for polygon in outline:
        if len(polygon) < 6 or len(polygon) % 2 or max(map(abs, polygon)) > farthest:
            shown = ", ".join(f"{value:g}" for value in polygon[:6])
            raise ReproError(f"{where} has the polygon ({shown}{', ...' if polygon[6:] else ''})", _AGAIN)
    if not outline:
        raise ReproError(f"{where} has a mask without a polygon", _AGAIN)
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(outline, height, width))).astype(bool)
