"""Penn-Fudan pedestrians (Wang et al., ACCV 2007): 170 photographs of two campuses with the masks of 423 people.

Layout: `PennFudanPed/{PNGImages,PedMasks}`, as unpacked from the official archive. In `PedMasks/<stem>_mask.png`, value
k marks the pixels of the k-th pedestrian and 0 all else. The text files in `Annotation` are not read: boxes are drawn
around the masks, and all but four of theirs lie within a pixel of these. The page counts 345 pedestrians, the files
hold 423, of which those hidden or small were added later.
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

# `download.fetch` insists on a checksum, and none is published: see _install
ARCHIVE = download.Archive(
    dataset="penn_fudan",
    url="https://www.cis.upenn.edu/~jshi/ped_html/PennFudanPed.zip",
    size=53_723_336,
    unpacked=54_000_000,
    checksum="",
)
_TOP = "PennFudanPed"
_AGAIN = f"unpack {ARCHIVE.filename} again"
# site -> numbers of its images that each split takes, in their order
_RUNS = {
    "FudanPed": {"train": range(1, 53), "val": range(53, 62), "test": range(62, 75)},
    "PennPed": {"train": range(1, 69), "val": range(69, 80), "test": range(80, 97)},
}
