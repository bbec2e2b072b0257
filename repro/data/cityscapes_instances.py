"""Cityscapes instances (Cordts et al., CVPR 2016), fine annotations: 2975 / 500 street scenes of 1024x2048, 8 classes.

Layout: `cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>`, as unpacked from the official archives, with the images
`<id>_leftImg8bit.png` and the maps `<id>_gtFine_instanceIds.png`. A map is a 16-bit PNG. Its values from 1000 on are
1000 times the label plus the number of an instance; those below 1000 are a label alone: a region without instances,
which in a class that has them is a group too dense to be told apart (json2instanceImg.py of cityscapesScripts). The
labels of the test set are private.
"""

import hashlib
from typing import Any

import numpy as np

from repro import paths
from repro.data import instance_maps, pairs
from repro.data.base import Info, Sample
from repro.data.images import probe, read_bytes, read_image
from repro.errors import NoDataError, ReproError, unknown_name

# with the number of each label (labels.py of cityscapesScripts)
CLASSES = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
_CLASS_OF = {label: number for number, label in enumerate(CLASSES.values())}
_INSTANCES = 1000  # values to a label
_LABELS = 34
# caravans and trailers have instances as well, which the benchmark ignores
_WITH_INSTANCES = (*CLASSES.values(), 29, 30)
_COUNTS = {"train": 2975, "val": 500}
_SIZE = (1024, 2048)
_ARCHIVES = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"
_AGAIN = f"unpack {_ARCHIVES} again"


class CityscapesInstances:
    """The objects of 8 classes in street scenes, from `cityscapes` of the data folder, in the order of their ids.

    A group is a crowd: all groups of a class in an image are one object with one box around them."""

    info = Info(
        name="cityscapes_instances",
        title="Cityscapes, fine annotations, instances of 8 classes",
        source="https://www.cityscapes-dataset.com",
        version="gtFine",
        licence="Cityscapes terms of use: non-commercial research and education",
        size="2975 + 500 images of 1024x2048, 11.8 GB to fetch",
        splits=tuple(_COUNTS),
        tasks=("detection", "instance"),
        classes=tuple(CLASSES),
        manual=f"register at cityscapes-dataset.com and unpack {_ARCHIVES} into the folder cityscapes of the data "
        "folder",
    )

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / "cityscapes"
        self._found: dict[str, list[tuple[str, pairs.Pair]]] = {}
        self._fingerprints: dict[str, str] = {}

    def prepare(self) -> None:
        """Check that every image of every city has its map and the other way round.

        Raises NoDataError when the folders are missing, ReproError when the copy is incomplete."""
        for split in self.info.splits:
            self._pairs(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over (id, size of the image in bytes, SHA-256 of the map) in order.

        The 7 GB of images are not read: one changed without a change of its size does not show."""
        if split not in self._fingerprints:
            total = hashlib.sha256()
            for name, (image, numbers) in self._pairs(split):
                content = hashlib.sha256(read_bytes(numbers)).hexdigest()
                total.update(f"{name} {image.stat().st_size} {content}\n".encode())
            self._fingerprints[split] = total.hexdigest()[:16]
        return self._fingerprints[split]

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has the published number of images, as PNG of 1024x2048 (no checksum is published)."""
        found = self._pairs(split)
        if len(found) != _COUNTS[split]:
            return False, f"{len(found)} of {_COUNTS[split]} images"
        for _, (image, _) in found:
            encoding, size = probe(image)
            if encoding != "PNG":
                return False, f"images re-encoded as {encoding}"
            if size != _SIZE:
                return False, f"images of {size[0]}x{size[1]} instead of {_SIZE[0]}x{_SIZE[1]}"
        return True, ""

    def size(self, split: str) -> int:
        """Number of images of a split, those without objects included."""
        return len(self._pairs(split))

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes and crowd [M], masks bool [M,H,W]; groups first, then instances,
        each in order of label and number. Boxes are drawn around the masks.

        Raises ReproError naming the file when one is damaged, the two differ in size or a value means nothing."""
        name, pair = self._pairs(split)[index]
        image, numbers = read_image(pair[0], upright=False), instance_maps.read_map(pair[1], _AGAIN)
        pairs.check_sizes(pair, image.shape, numbers.shape, _AGAIN)
        values = np.unique(numbers)
        crowd = values < _INSTANCES
        labels = np.where(crowd, values, values // _INSTANCES)
        strange = values[~np.where(crowd, values < _LABELS, np.isin(labels, _WITH_INSTANCES))]
        if strange.size:
            shown = ", ".join(map(str, strange[:8])) + (", ..." if len(strange) > 8 else "")
            raise ReproError(f"{pair[1]} holds the values {shown}, which are no label and no instance", _AGAIN)
        wanted = np.isin(labels, list(_CLASS_OF))
        masks, boxes = instance_maps.cut(numbers, values[wanted])
        classes = np.array([_CLASS_OF[label] for label in labels[wanted].tolist()], np.int32)
        return Sample(name, image, boxes=boxes, classes=classes, masks=masks, crowd=crowd[wanted])

    def _pairs(self, split: str) -> list[tuple[str, pairs.Pair]]:
        """(id, (image, map)) of a split, in the order of ids, which begin with their city."""
        if split not in _COUNTS:
            raise unknown_name(f"split of {self.info.name}", split, _COUNTS)
        if split not in self._found:
            folders = [self._root / part / split for part in ("leftImg8bit", "gtFine")]
            for folder in folders:
                if not folder.is_dir():
                    raise NoDataError(f"{folder} does not exist", f"{self.info.manual} (REPRO_DATA says where that is)")
            inside = (path for folder in folders for path in folder.iterdir() if path.is_dir())
            cities = sorted({path.name for path in inside if not path.name.startswith(".")})
            suffixes = "_leftImg8bit", "_gtFine_instanceIds"
            found = [
                each
                for city in cities
                for each in instance_maps.match((folders[0] / city, folders[1] / city), suffixes, _AGAIN)
            ]
            if not found:
                raise ReproError(f"{folders[0]} holds no images", _AGAIN)
            self._found[split] = found
        return self._found[split]
