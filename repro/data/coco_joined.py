"""COCO 2017 with the images as TensorFlow Datasets keeps them and the masks of the official annotations.

For those who have TFDS's copy, which has no masks: of the official archives it needs the annotations alone, 0.25 GB.
Images keep TFDS's order; what joins them to their annotations is COCO's image id.
"""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from repro import paths
from repro.data import coco
from repro.data.base import Sample, known_split
from repro.data.coco_format import objects_of, read_instances
from repro.data.download import install
from repro.data.images import read_bytes
from repro.data.tfds_detection import Coco2017Tfds
from repro.errors import NoDataError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class Coco2017Joined(Coco2017Tfds):
    """Everyday scenes with objects of 80 classes: pixels from TFDS, boxes and masks from `coco/annotations`."""

    category_ids = coco.CATEGORY_IDS
    info = dataclasses.replace(
        Coco2017Tfds.info,
        name="coco2017_joined",
        title="COCO 2017, images from TensorFlow Datasets, masks from the official annotations",
        tasks=("detection", "instance"),
    )

    def __init__(self) -> None:
        super().__init__()
        self._annotations: dict[str, dict[int, tuple[tuple[int, int], list[Any]]]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # a worker process reads the annotations again, which is faster than to pickle them
        return super().__getstate__() | {"_annotations": {}}

    def prepare(self) -> None:
        """As TFDS's data sets, and download the annotations; check those of both splits. Raises as they do, and
        ReproError where the annotations make no sense."""
        if not (self._coco / "annotations").is_dir():
            install(coco.ARCHIVES["annotations"], self._coco, "annotations", coco.is_wanted)
        super().prepare()
        for split in self.stored:
            self._objects(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over TFDS's fingerprint and that of the annotation file."""
        content = hashlib.sha256(read_bytes(self._file(split))).hexdigest()
        return hashlib.sha256(f"{super().fingerprint(split)} {content}".encode()).hexdigest()[:16]

    def official(self, split: str) -> tuple[bool, str]:
        """As TFDS's data sets, and whether the file has the published number of annotations."""
        whole, reason = super().official(split)
        found, published = sum(len(each) for _, each in self._objects(split).values()), coco.Coco2017.counts[split][1]
        if found == published:
            return whole, reason
        return False, "; ".join([*filter(None, [reason]), f"{found} of {published} annotations"])

    def sample(self, split: str, index: int) -> Sample:
        """As `Coco2017.sample`, in TFDS's order. Raises ReproError naming the record where it is damaged or of an image
        without a place in the annotations, and the annotation where a box or mask makes no sense."""
        _, pixels, number = self._read(split, index, self.id_feature, object, "its id")
        number, file = int(number), self._file(split)
        if number not in self._objects(split):
            raise self._nonsense(split, index, f"is image {number}, which {file} has not")
        size, found = self._objects(split)[number]
        if pixels.shape[:2] != size:
            here, there = ("x".join(map(str, sides)) for sides in (pixels.shape[:2], size))
            raise self._nonsense(split, index, f"is {here}, in {file} it is {there} (height x width)")
        return Sample(str(number), pixels, **objects_of(found, size, file, self.category_ids, coco.Coco2017.again))

    @property
    def _coco(self) -> Path:
        return paths.data_dir() / coco.Coco2017.folder

    def _file(self, split: str) -> Path:
        return self._coco / "annotations" / f"instances_{coco.Coco2017.folders[known_split(self.info, split)]}.json"

    def _objects(self, split: str) -> dict[int, tuple[tuple[int, int], list[Any]]]:
        """By image id (height, width) and annotations, none for an image without objects."""
        if split not in self._annotations:
            file = self._file(split)
            if not file.exists():
                archive = coco.ARCHIVES["annotations"].filename
                cure = f"`repro data {self.info.name}` fetches it; where {file.parent} exists, unpack {archive} there"
                raise NoDataError(f"{file} does not exist", cure)
            names = dict(zip(self.category_ids, self.info.classes, strict=True))
            images, found = read_instances(file, names, coco.Coco2017.again)
            self._annotations[split] = {
                image.id: ((image.height, image.width), found.get(image.id, [])) for image in images
            }
        return self._annotations[split]
