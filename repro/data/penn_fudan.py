"""Penn-Fudan pedestrians (Wang, Shi, Song and Shen, ACCV 2007): 170 photographs, the masks of 423 people.

Layout: `PennFudanPed/{PNGImages,PedMasks}`, as unpacked from the official archive. In `PedMasks/<stem>_mask.png`, value
k marks the pixels of the k-th pedestrian and 0 all else. The texts in `Annotation` are not read: boxes are drawn around
the masks, and all but 4 of theirs lie within a pixel of these. Its page counts 345 pedestrians, the files mark 423.
"""

import fcntl
import os
from typing import Any

import numpy as np

from repro import paths
from repro.data import download, instance_maps, pairs
from repro.data.base import Info, Sample
from repro.data.images import probe, read_image, read_labels
from repro.errors import NoDataError, ReproError, unknown_name

# nobody published a checksum, see _install
ARCHIVE = download.Archive(
    dataset="penn_fudan",
    url="https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip",
    size=53_723_336,
    unpacked=55_000_000,
    checksum="",
)
_TOP = "PennFudanPed"
_AGAIN = f"unpack {ARCHIVE.filename} again"
# the numbers of each place's images in each split
_RUNS = {
    "train": {"FudanPed": range(1, 53), "PennPed": range(1, 69)},
    "val": {"FudanPed": range(53, 62), "PennPed": range(69, 80)},
    "test": {"FudanPed": range(62, 75), "PennPed": range(80, 97)},
}
_STEMS = {split: [f"{site}{n:05}" for site in runs for n in runs[site]] for split, runs in _RUNS.items()}


class PennFudan:
    """Pedestrians on and around two campuses, from `PennFudanPed` of the data folder. Images may be PNG or JPEG.

    No split is official. Images with neighbouring numbers often show the same spot on the same day, so that the 74
    of Fudan and the 96 of Penn are each cut into three runs, in the order of their numbers: 52 and 68 for training,
    9 and 11 for validation, 13 and 17 for the test."""

    info = Info(
        name="penn_fudan",
        title="Penn-Fudan pedestrians",
        source="https://www.cis.upenn.edu/~jshi/ped_html",
        version="2007",
        licence="none stated; the authors ask for a citation (Wang et al., 2007)",
        size="120 + 20 + 30 images of up to 1017 pixels, 54 MB to download",
        splits=tuple(_RUNS),
        tasks=("detection", "instance"),
        classes=("person",),
    )

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / _TOP
        self._found: dict[str, list[tuple[str, pairs.Pair]]] = {}
        self._fingerprints: dict[str, str] = {}

    def prepare(self) -> None:
        """Download the archive unless its folder is there; check that every image has its masks.

        Raises NoDataError when it cannot be had, ReproError when the copy is incomplete."""
        if not self._root.is_dir():
            _install()
        for split in self.info.splits:
            self._pairs(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over (stem, SHA-256 of image, SHA-256 of masks) in order."""
        if split not in self._fingerprints:
            self._fingerprints[split] = pairs.fingerprint(self._pairs(split))
        return self._fingerprints[split]

    def official(self, split: str) -> tuple[bool, str]:
        """Never official: nobody published a split. Says too when images are missing or re-encoded."""
        found, published = self._pairs(split), len(_STEMS[split])
        why = "no official split, the suite's own"
        if len(found) != published:
            why += f"; {len(found)} of {published} images"
        others = sorted({probe(image)[0] for _, (image, _) in found} - {"PNG"})
        return False, f"{why}; images re-encoded as {' and '.join(others)}" if others else why

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._pairs(split))

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes and crowd [M], masks bool [M,H,W]; objects in order of numbers.

        Raises ReproError naming the file when one is damaged or the two differ in size."""
        stem, pair = self._pairs(split)[index]
        # the masks were drawn over the stored pixels, whatever the EXIF orientation says
        image, numbers = read_image(pair[0], upright=False), read_labels(pair[1])
        pairs.check_sizes(pair, image.shape, numbers.shape, _AGAIN)
        masks, boxes = instance_maps.cut(numbers, np.unique(numbers[numbers > 0]))
        none = np.zeros(len(masks), np.int32)
        return Sample(stem, image, boxes=boxes, classes=none, masks=masks, crowd=none.astype(bool))

    def _pairs(self, split: str) -> list[tuple[str, pairs.Pair]]:
        """(stem, (image, masks)) of a split."""
        if split not in _STEMS:
            raise unknown_name(f"split of {self.info.name}", split, _STEMS)
        if not self._root.is_dir():
            raise NoDataError(f"{self._root} does not exist", f"`repro data {self.info.name}` fetches it")
        if split not in self._found:
            folders = self._root / "PNGImages", self._root / "PedMasks"
            found = dict(instance_maps.match(folders, ("", "_mask"), _AGAIN))
            strange = sorted(found.keys() - {stem for stems in _STEMS.values() for stem in stems})
            if strange:
                raise ReproError(f"{found[strange[0]][0]} is no image of Penn-Fudan", "take it out of the folder")
            inside = [(stem, found[stem]) for stem in _STEMS[split] if stem in found]
            if not inside:
                raise ReproError(f"{folders[0]} holds no image of the split {split}", _AGAIN)
            self._found[split] = inside
        return self._found[split]


def _install() -> None:
    """As `download.install`, without a checksum: what stands in for it is the size on the way and, in unpacking, the
    CRC-32 that the archive has of each file. Raises NoDataError."""
    root = paths.data_dir()
    packed = root / ARCHIVE.filename
    part = packed.with_name(f"{packed.name}.part")
    with download._disk(root):
        root.mkdir(parents=True, exist_ok=True)
        with open(root / f".{packed.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here and then finds the data
            if (root / _TOP).is_dir():
                return
            present = packed if packed.exists() else part
            download._check_room(ARCHIVE, root, ARCHIVE.size + ARCHIVE.unpacked - download._length(present))
            if not packed.exists():
                cure = f"`repro data {ARCHIVE.dataset}` goes on where it stopped; or put {ARCHIVE.url} at {packed}"
                download._download(ARCHIVE, part, f"{cure} by hand")
                os.replace(part, packed)
            download.extract(packed, root, _TOP)
