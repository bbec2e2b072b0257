"""Maps of instances, one picture an image whose pixel values number its objects: read, cut into objects."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from repro.data.images import read_bytes
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale

_MODES = ("I;16", "I")  # what Pillow calls 16-bit grey, by version


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
