"""Penn-Fudan pedestrians (Wang, Shi, Song and Shen, ACCV 2007): 170 photographs, the masks of 423 people.

Layout: `PennFudanPed/{PNGImages,PedMasks}`, as unpacked from the official archive. In `PedMasks/<stem>_mask.png`, value
k marks the pixels of the k-th pedestrian and 0 all else. The texts in `Annotation` are not read: boxes are drawn around
the masks, and all but 4 of theirs lie within a pixel of these. Its page counts 345 pedestrians, the files mark 423.
"""

from typing import ClassVar

import numpy as np

from repro.data.base import Info, Sample
from repro.data.download import Archive
from repro.data.folder import Named, PairFolder, match
from repro.data.masks import cut
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# the numbers of each place's images in each split
_RUNS = {
    "train": {"FudanPed": range(1, 53), "PennPed": range(1, 69)},
    "val": {"FudanPed": range(53, 62), "PennPed": range(69, 80)},
    "test": {"FudanPed": range(62, 75), "PennPed": range(80, 97)},
}
_STEMS = {split: [f"{site}{n:05}" for site in runs for n in runs[site]] for split, runs in _RUNS.items()}


class PennFudan(PairFolder):
    """Pedestrians on and around two campuses, from `PennFudanPed` of the data folder. Images may be PNG or JPEG.

    No split is official. Images with neighbouring numbers often show the same spot on the same day, so that the 74
    of Fudan and the 96 of Penn are each cut into three runs, in the order of their numbers: 52 and 68 for training,
    9 and 11 for validation, 13 and 17 for the test."""

    folder = "PennFudanPed"
    archive = Archive(
        dataset="penn_fudan", url="https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip", size=53_723_336,
        unpacked=55_000_000, checksum="",  # nobody published one
    )  # fmt: skip
    counts: ClassVar[dict[str, int]] = {split: len(stems) for split, stems in _STEMS.items()}
    info = Info(
        name="penn_fudan", title="Penn-Fudan pedestrians", source="https://www.cis.upenn.edu/~jshi/ped_html",
        version="2007", licence="none stated; the authors ask for a citation (Wang et al., 2007)",
        size="120 + 20 + 30 images of up to 1017 pixels, 54 MB to download", splits=tuple(_RUNS),
        tasks=("detection", "instance"), classes=("person",),
    )  # fmt: skip

    def official(self, split: str) -> tuple[bool, str]:
        """Never official: nobody published a split. Says too when images are missing or re-encoded."""
        reasons, _ = self._differences(split)
        return False, "; ".join(["no official split, the suite's own", *reasons])

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3], boxes [M,4], classes and crowd [M], masks bool [M,H,W]; objects in order of numbers.

        Raises ReproError naming the file when one is damaged or the two differ in size."""
        stem, image, numbers, _ = self._read(split, index)
        masks, boxes = cut(numbers, np.unique(numbers[numbers > 0]))
        none = np.zeros(len(masks), np.int32)
        return Sample(stem, image, boxes=boxes, classes=none, masks=masks, crowd=none.astype(bool))

    def _find(self, split: str) -> list[Named]:
        found = dict(match((self._root / "PNGImages", self._root / "PedMasks"), self.again, ("", "_mask")))
        strange = sorted(found.keys() - {stem for stems in _STEMS.values() for stem in stems})
        if strange:
            raise ReproError(f"{found[strange[0]][0]} is no image of Penn-Fudan", "take it out of the folder")
        return [(stem, found[stem]) for stem in _STEMS[split] if stem in found]
