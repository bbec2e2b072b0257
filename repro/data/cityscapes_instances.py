"""Cityscapes instances (Cordts et al., CVPR 2016), fine annotations: 2975 / 500 street scenes of 1024x2048, 8 classes.

Layout: `cityscapes/{leftImg8bit,gtFine}/{train,val}/<city>`, as unpacked from the official archives, with the images
`<id>_leftImg8bit.png` and the maps `<id>_gtFine_instanceIds.png`. A map is a 16-bit PNG. Its values from 1000 on are
1000 times the label plus the number of an instance; those below 1000 are a label alone: a region without instances,
which in a class that has them is a group too dense to be told apart (json2instanceImg.py of cityscapesScripts). The
labels of the test set are private.
"""

import hashlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from repro.data.base import Info, Sample
from repro.data.folder import Named, PairFolder, match
from repro.data.images import few, read_bytes, read_map
from repro.data.masks import cut
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# with the number of each label (labels.py of cityscapesScripts)
CLASSES = {
    "person": 24, "rider": 25, "car": 26, "truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33,
}  # fmt: skip
_CLASS_OF = {label: number for number, label in enumerate(CLASSES.values())}
_INSTANCES = 1000  # values to a label
_LABELS = 34
# caravans and trailers have instances as well, which the benchmark ignores
_WITH_INSTANCES = (*CLASSES.values(), 29, 30)
_ARCHIVES = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip"


class CityscapesInstances(PairFolder):
    """The objects of 8 classes in street scenes, from `cityscapes` of the data folder, in the order of their ids.

    A group is a crowd: all groups of a class in an image are one object with one box around them."""

    folder = "cityscapes"
    again = f"unpack {_ARCHIVES} again"
    counts: ClassVar[dict[str, int]] = {"train": 2975, "val": 500}
    shape = (1024, 2048)
    info = Info(
        name="cityscapes_instances", title="Cityscapes, fine annotations, instances of 8 classes",
        source="https://www.cityscapes-dataset.com", version="gtFine",
        licence="Cityscapes terms of use: non-commercial research and education",
        size="2975 + 500 images of 1024x2048, 11.8 GB to fetch", splits=tuple(counts), tasks=("detection", "instance"),
        classes=tuple(CLASSES),
        manual=f"register at cityscapes-dataset.com and unpack {_ARCHIVES} into the folder cityscapes of the data "
        "folder",
    )  # fmt: skip

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes and crowd [M], masks bool [M,H,W]; groups first, then instances,
        each in order of label and number. Boxes are drawn around the masks.

        Raises ReproError naming the file when one is damaged, the two differ in size or a value means nothing."""
        name, image, numbers, path = self._read(split, index, read_map)
        values = np.unique(numbers)
        crowd = values < _INSTANCES
        labels = np.where(crowd, values, values // _INSTANCES)
        strange = values[~np.where(crowd, values < _LABELS, np.isin(labels, _WITH_INSTANCES))]
        if strange.size:
            problem = f"{path} holds the values {few(strange)}, which are no label and no instance"
            raise ReproError(problem, self.again)
        wanted = np.isin(labels, list(_CLASS_OF))
        masks, boxes = cut(numbers, values[wanted])
        classes = np.array([_CLASS_OF[label] for label in labels[wanted].tolist()], np.int32)
        return Sample(name, image, boxes=boxes, classes=classes, masks=masks, crowd=crowd[wanted])

    def _identity(self, split: str) -> Iterator[bytes]:
        """Id, size of the image in bytes and SHA-256 of the map. The 7 GB of images are not read: one changed without a
        change of its size does not show."""
        for name, (image, numbers) in self._items(split):
            content = hashlib.sha256(read_bytes(numbers)).hexdigest()
            yield f"{name} {image.stat().st_size} {content}\n".encode()

    def _find(self, split: str) -> list[Named]:
        """In the order of ids, which begin with their city."""
        folders = [self._root / part / split for part in ("leftImg8bit", "gtFine")]
        for folder in folders:
            self._check(folder)
        inside = (path for folder in folders for path in folder.iterdir() if path.is_dir())
        cities = sorted({path.name for path in inside if not path.name.startswith(".")})
        suffixes = "_leftImg8bit", "_gtFine_instanceIds"
        return [each for city in cities for each in match((folders[0] / city, folders[1] / city), self.again, suffixes)]
