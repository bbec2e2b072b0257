"""Nuclei in microscope images: Data Science Bowl 2018, stage 1 (Caicedo et al., Nature Methods 16, 2019).

COCO's format: `nuclei/{train,val,test,annotations/instances_<split>.json}`, compressed run lengths, one class. The
challenge's own layout, a folder of mask pictures an image, is not read. The split is that of the user's copy, so that
no score on it is the challenge's.
"""

from typing import ClassVar

from repro.data.base import Info
from repro.data.coco_format import CocoFormat


class Nuclei(CocoFormat):
    """Fluorescence and stained microscopy with the mask of every nucleus, from `nuclei` of the data folder."""

    info = Info(
        name="nuclei",
        title="Data Science Bowl 2018 nuclei",
        source="https://bbbc.broadinstitute.org/BBBC038",
        version="stage 1, as COCO instances",
        licence="CC0",
        size="729 images of up to 512 pixels, 33,138 nuclei",
        splits=("train", "val", "test"),
        tasks=("detection", "instance"),
        classes=("nucleus",),
        manual="fetch stage1_train of BBBC038 by hand, write it as nuclei/{train,val,test} and "
        "nuclei/annotations/instances_<split>.json of the data folder",
    )
    folder = "nuclei"
    folders: ClassVar[dict[str, str]] = {"train": "train", "val": "val", "test": "test"}
    category_ids = (1,)
    cure = "write the annotations again"

    def official(self, split: str) -> tuple[bool, str]:
        """Never: the challenge has no such split."""
        return False, "a split of its own of the stage 1 training images"
