"""Maps of instances, one picture an image whose pixel values number its objects: paired, read, cut into objects."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from repro.data.images import is_image, read_bytes
from repro.data.pairs import Pair
from repro.errors import ReproError

_MODES = ("I;16", "I")  # what Pillow calls 16-bit grey, by version


def match(folders: Pair, suffixes: tuple[str, str], cure: str) -> list[tuple[str, Pair]]:
    """(name, (image, map)) for the pictures of two folders (images, maps), in the order of names.

    A picture is called its name and the suffix of its kind; those with other endings are passed over, extensions may
    differ. Raises ReproError, with this cure, for a missing folder, an image without a map, a map without an image,
    and two pictures of one name."""
    images, maps = (_by_name(folder, suffix, cure) for folder, suffix in zip(folders, suffixes, strict=True))
    for there, missing, kind in ((images, maps, "map of instances"), (maps, images, "image")):
        lonely = sorted(there.keys() - missing.keys())
        if lonely:
            others = f", like {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise ReproError(f"{there[lonely[0]]} has no {kind}{others}", cure)
    return [(name, (images[name], maps[name])) for name in sorted(images)]


def read_map(path: Path, cure: str) -> np.ndarray:
    """Read a 16-bit grey PNG as numbers int32 [H,W].

    Raises ReproError naming the file, with this cure, when it is missing, damaged or another kind of picture."""
    content = read_bytes(path)
    try:
        with Image.open(io.BytesIO(content)) as image:
            kind, mode = image.format, image.mode
            numbers = np.array(image)
    # damage comes as all kinds of errors
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ReproError(f"{path} is damaged or no picture ({reason})", cure) from None
    if kind != "PNG" or mode not in _MODES:
        raise ReproError(f"{path} is a {kind} of mode {mode}, not a 16-bit grey PNG", cure)
    return numbers.astype(np.int32)


def cut(numbers: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The objects `wanted` [M] of a map [H,W], each with a pixel: masks bool [M,H,W] and their `tight_boxes`."""
    masks = numbers[None] == np.asarray(wanted).reshape(-1, 1, 1)
    return masks, tight_boxes(masks)


def tight_boxes(masks: np.ndarray) -> np.ndarray:
    """float32 [M,4] (x1,y1,x2,y2), 0-based, half-open, around the pixels of masks bool [M,H,W], none of them empty."""
    sides = []
    for axis in (1, 2):  # over the rows, what is left is columns, and the other way round
        taken = masks.any(axis)
        sides.append((taken.argmax(1), taken.shape[1] - taken[:, ::-1].argmax(1)))
    (x1, x2), (y1, y2) = sides
    return np.stack([x1, y1, x2, y2], axis=1).astype(np.float32)


def _by_name(folder: Path, suffix: str, cure: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise ReproError(f"{folder} does not exist", cure)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path) and path.stem.endswith(suffix):
            name = path.stem.removesuffix(suffix)
            if name in found:
                raise ReproError(f"{found[name]} and {path} share a name", "keep one of them")
            found[name] = path
    return found
