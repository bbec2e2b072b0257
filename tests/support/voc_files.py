"""Small files in the format of VOC."""

import numpy as np
from PIL import Image

from repro.data import voc

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
LISTS = {"train": ["000005", "000012"], "val": ["000007"], "trainval": ["000005", "000007", "000012"], "test": ["1"]}
DOG = "<name>dog</name><truncated>1</truncated><difficult>0</difficult>"


def thing(corners=(3, 2, 9, 11), about=DOG):
    """An object, as XML; corners count from 1 and are inside."""
    box = "".join(f"<{tag}>{value}</{tag}>" for tag, value in zip(voc._CORNERS, corners, strict=True))
    return f"<object>{about}<bndbox>{box}</bndbox></object>"


def annotation(*objects, size=(12, 16)):
    """An annotation file."""
    stated = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>"
    return f"<annotation><folder>VOC</folder>{stated}<segmented>0</segmented>{''.join(objects)}</annotation>"


def build(root, lists=LISTS):
    """A data set of a dog an image, in a folder."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for split, stems in lists.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for stem in stems:
            Image.fromarray(PHOTO).save(root / "JPEGImages" / f"{stem}.jpg", quality=95)
            (root / "Annotations" / f"{stem}.xml").write_text(annotation(thing()))
    return root
