"""COCO 2017 detection and instance segmentation (Lin et al., ECCV 2014): 118287 / 5000 images, 80 classes.

Layout: `coco/{train2017,val2017,annotations/instances_<folder>.json}`, as unpacked from the official archives. COCO's
category ids leave gaps; classes here are 0..79 in their order, and `CATEGORY_IDS` leads back. The labels of the test
set are private. What is clipped, left out and refused: see `repro.data.coco_format`.
"""

from pathlib import Path
from typing import ClassVar

from repro.data.base import Info
from repro.data.coco_format import CocoFormat
from repro.data.download import Archive, install

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
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
_FOLDERS = {"train": "train2017", "val": "val2017"}
SITE = "http://images.cocodataset.org"
# by the folder that each holds
ARCHIVES = {
    "annotations": Archive(
        dataset="coco2017", url=f"{SITE}/annotations/annotations_trainval2017.zip", size=252_907_541,
        unpacked=500_000_000, checksum="sha256:113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    "val2017": Archive(
        dataset="coco2017", url=f"{SITE}/zips/val2017.zip", size=815_585_330, unpacked=840_000_000,
        checksum="sha256:4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
    "train2017": Archive(
        dataset="coco2017", url=f"{SITE}/zips/train2017.zip", size=19_336_861_798, unpacked=19_900_000_000,
        checksum="sha256:69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
}  # fmt: skip


class Coco2017(CocoFormat):
    """Everyday scenes with objects of 80 classes, from `coco` of the data folder."""

    info = Info(
        name="coco2017", title="COCO 2017", source="https://cocodataset.org", version="2017",
        licence="annotations CC BY 4.0; the images under Flickr terms of use, each with a licence of its own",
        size="118287 + 5000 images of up to 640x640, 20.4 GB to download", splits=tuple(_FOLDERS),
        tasks=("detection", "instance"), classes=CLASSES,
        checksum=", ".join(f"{archive.checksum} ({name})" for name, archive in ARCHIVES.items()),
    )  # fmt: skip
    counts: ClassVar[dict[str, tuple[int, int]]] = {"train": (118_287, 860_001), "val": (5_000, 36_781)}
    folder = "coco"
    folders: ClassVar[dict[str, str]] = _FOLDERS
    category_ids = CATEGORY_IDS
    again = f"unpack {ARCHIVES['annotations'].filename} again"

    def prepare(self) -> None:
        """Download the official archives whose folders are not there; check annotations and that no image is missing.

        Raises NoDataError when an archive cannot be had, ReproError when the copy is incomplete or makes no sense."""
        for folder, archive in ARCHIVES.items():
            if not (self._root / folder).is_dir():
                # no captions, no key points
                install(archive, self._root, folder, lambda name: "annotations/" not in name or is_wanted(name))
        super().prepare()

    def _refetch(self, folder: Path) -> str:
        return f"unpack {ARCHIVES[folder.name].filename} again"


def is_wanted(name: str) -> bool:
    """Whether a file of the archive of annotations is one of objects: no captions, no key points."""
    return "/instances_" in name
