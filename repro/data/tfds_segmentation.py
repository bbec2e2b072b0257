"""Label-map data sets that TensorFlow Datasets keeps: the Oxford-IIIT pets and Cityscapes.

A mask is stored as an encoded picture of the data set's own label numbers; `lookup` turns these into classes.
"""

from typing import Any, ClassVar

import numpy as np

from repro.data.base import VOID, Info, Sample
from repro.data.images import class_table, decode_labels, to_classes
from repro.data.tfds import Parts, Records, TfdsDataset

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class TfdsSegmentation(TfdsDataset):
    """An image and label-map builder of TFDS. `encoded` names the two features, in this order.

    `lookup` is the `class_table` of the stored numbers."""

    lookup: ClassVar[np.ndarray]

    def sample(self, split: str, index: int) -> Sample:
        """Image uint8 [H,W,3] and semantic uint8 [H,W]. On TFRecord files, reading in order is fast, jumps are slow.

        Raises ReproError naming builder, split and index when the record is damaged, the sizes of image and mask
        differ, or the mask holds a number that is no label."""
        image_id, pixels, mask = self._read(split, index, self.encoded[1], bytes, "an encoded mask")
        name = f"{self.builder} {split} {index}"
        numbers = decode_labels(mask, f"{name} (mask)")
        if numbers.shape != pixels.shape[:2]:
            sizes = ("x".join(map(str, pair)) for pair in (numbers.shape, pixels.shape[:2]))
            raise self._nonsense(split, index, f"has a mask of {' with an image of '.join(sizes)} (height x width)")
        semantic = to_classes(numbers, self.lookup, f"the mask of {name}", self._cure())
        return Sample(image_id, pixels, semantic=semantic)


class OxfordPets(TfdsSegmentation):
    """The Oxford-IIIT pets (Parkhi et al., 2012) with their trimaps, as TensorFlow's segmentation tutorial uses them.

    Three classes in the order of the files (1, 2, 3 there): pet, background, and the border between them, which the
    trimaps leave undecided and the tutorial trains and scores as a class of its own. There is no validation split:
    `val` is the last tenth of TFDS's train split (whose records are in a fixed shuffled order), `train` the rest."""

    builder = "oxford_iiit_pet"
    stored: ClassVar[dict[str, str]] = {"train": "train", "val": "train", "test": "test"}
    encoded = ("image", "segmentation_mask")
    lookup = class_table({1: 0, 2: 1, 3: 2})
    counts: ClassVar[dict[str, int]] = {"train": 3312, "val": 368, "test": 3669}
    resplit: ClassVar[dict[str, str]] = {
        "train": "train without the 368 kept for validation",
        "val": "the last 368 of train, as none is published",
    }
    disk_bytes = 2_500_000_000
    urls = (
        "https://thor.robots.ox.ac.uk/~vgg/data/pets/images.tar.gz",
        "https://thor.robots.ox.ac.uk/~vgg/data/pets/annotations.tar.gz",
    )
    info = Info(
        name="oxford_iiit_pet", title="Oxford-IIIT Pet, trimaps",
        source="https://www.robots.ox.ac.uk/~vgg/data/pets through TensorFlow Datasets", version="4.0.0",
        licence="CC BY-SA 4.0; the images remain their owners'", size="3312 + 368 + 3669 images, 0.81 GB to download",
        splits=tuple(stored), tasks=("segmentation",), semantic_classes=("pet", "background", "border"),
        palette=((128, 0, 0), (0, 0, 0), (224, 224, 192)),
        checksum="67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d (images), "
        "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91 (annotations)",
    )  # fmt: skip

    def _part(self, split: str, records: Records) -> Any:
        if split == "test":
            return records
        border = len(records) - len(records) // 10
        return Parts((records, range(border) if split == "train" else range(border, len(records))))


# name, the number in the label maps, colour: the 19 classes of the benchmark, from labels.py of cityscapesScripts
_CITYSCAPES = (
    ("road", 7, (128, 64, 128)), ("sidewalk", 8, (244, 35, 232)), ("building", 11, (70, 70, 70)),
    ("wall", 12, (102, 102, 156)), ("fence", 13, (190, 153, 153)), ("pole", 17, (153, 153, 153)),
    ("traffic light", 19, (250, 170, 30)), ("traffic sign", 20, (220, 220, 0)), ("vegetation", 21, (107, 142, 35)),
    ("terrain", 22, (152, 251, 152)), ("sky", 23, (70, 130, 180)), ("person", 24, (220, 20, 60)),
    ("rider", 25, (255, 0, 0)), ("car", 26, (0, 0, 142)), ("truck", 27, (0, 0, 70)), ("bus", 28, (0, 60, 100)),
    ("train", 31, (0, 80, 100)), ("motorcycle", 32, (0, 0, 230)), ("bicycle", 33, (119, 11, 32)),
)  # fmt: skip
# 255 is what -1 (licence plate) becomes in a byte
_CITYSCAPES_LABELS = (*range(34), 255)


class Cityscapes(TfdsSegmentation):
    """Cityscapes (Cordts et al., 2016), fine annotations: the 19 classes of the benchmark, all else void.

    `val` is the official validation set; the labels of the test set are not public, so it is left out."""

    builder = "cityscapes/semantic_segmentation"
    stored: ClassVar[dict[str, str]] = {"train": "train", "val": "validation"}
    encoded = ("image_left", "segmentation_label")
    id_feature = "image_id"
    lookup = class_table(
        dict.fromkeys(_CITYSCAPES_LABELS, VOID) | {number: label for label, (_, number, _) in enumerate(_CITYSCAPES)}
    )
    counts: ClassVar[dict[str, int]] = {"train": 2975, "val": 500}
    disk_bytes = 24_000_000_000
    archives = ("leftImg8bit_trainvaltest.zip", "gtFine_trainvaltest.zip")
    info = Info(
        name="cityscapes", title="Cityscapes, fine annotations, 19 classes",
        source="https://www.cityscapes-dataset.com through TensorFlow Datasets", version="1.0.0",
        licence="Cityscapes terms of use: non-commercial research and education",
        size="2975 + 500 images of 1024x2048, 11.8 GB to fetch", splits=tuple(stored), tasks=("segmentation",),
        semantic_classes=tuple(name for name, _, _ in _CITYSCAPES),
        palette=tuple(colour for _, _, colour in _CITYSCAPES),
        manual="register at cityscapes-dataset.com and put leftImg8bit_trainvaltest.zip and "
        "gtFine_trainvaltest.zip into tensorflow_datasets/downloads/manual of the data folder",
    )  # fmt: skip
