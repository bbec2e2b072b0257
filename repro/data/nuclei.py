"""Nuclei in microscope images: Data Science Bowl 2018, stage 1 (Caicedo et al., Nature Methods 16, 2019).

COCO's format: `nuclei/{train,val,test,annotations/instances_<split>.json}`, run lengths or polygons, one class. The
challenge's own layout, a folder of mask pictures an image, is not read. It has 670 training images (stage1_train) and
65 for the test (stage1_test), the largest of 1040x1388. Split and size are those of the user's copy, so that no score
on it is the challenge's.
"""

from typing import ClassVar

from repro.data.base import Info
from repro.data.coco_format import CocoFormat
from repro.data.images import probe

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class Nuclei(CocoFormat):
    """Fluorescence and stained microscopy with the mask of every nucleus, from `nuclei` of the data folder."""

    info = Info(
        name="nuclei", title="Data Science Bowl 2018 nuclei", source="https://bbbc.broadinstitute.org/BBBC038",
        version="stage 1, as COCO instances", licence="CC0", size="729 images of up to 512 pixels, 33,138 nuclei",
        splits=("train", "val", "test"), tasks=("detection", "instance"), classes=("nucleus",),
        manual="convert stage1_train and stage1_test of BBBC038 (Kaggle's data-science-bowl-2018 needs an account) to "
        "COCO's format: nuclei/{train,val,test} and nuclei/annotations/instances_<split>.json of the data folder",
    )  # fmt: skip
    folder = "nuclei"
    folders: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    category_ids = (1,)
    again = "write the annotations again"

    def official(self, split: str) -> tuple[bool, str]:
        """Never: the challenge has neither this format nor this split. Says too when images are re-encoded."""
        others = sorted({probe(self._path(split, image))[0] for image in self._items(split)} - {"PNG"})
        why = "not the challenge's format and split"
        return False, f"{why}; images re-encoded as {' and '.join(others)}" if others else why
