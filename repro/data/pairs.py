"""Images and their masks in two folders, paired by stem: nothing may be missing on either side."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from repro.data.images import is_image, read_bytes
from repro.errors import ReproError

Pair = tuple[Path, Path]


def match(image_folder: Path, mask_folder: Path, cure: str) -> list[Pair]:
    """(image, mask) of every stem, in the order of stems. Extensions may differ, other files are passed over.

    Raises ReproError, with this cure, for a missing or empty folder and for an image or mask without its partner,
    and for two pictures of one stem."""
    images, masks = _by_stem(image_folder, cure), _by_stem(mask_folder, cure)
    for there, missing, kind in ((images, masks, "mask"), (masks, images, "image")):
        lonely = sorted(there.keys() - missing.keys())
        if lonely:
            others = f", like {len(lonely) - 1} more" if len(lonely) > 1 else ""
            raise ReproError(f"{there[lonely[0]]} has no {kind}{others}", cure)
    if not images:
        raise ReproError(f"{image_folder} holds no images", cure)
    return [(images[stem], masks[stem]) for stem in sorted(images)]


def fingerprint(named: Iterable[tuple[str, Pair]]) -> str:
    """First 16 hex digits of the SHA-256 over (name, SHA-256 of image, SHA-256 of mask) in the given order."""
    total = hashlib.sha256()
    for name, pair in named:
        hashes = [hashlib.sha256(read_bytes(path)).hexdigest() for path in pair]
        total.update(f"{name} {' '.join(hashes)}\n".encode())
    return total.hexdigest()[:16]


def check_sizes(pair: Pair, image: tuple[int, ...], mask: tuple[int, ...], cure: str = "fetch both again") -> None:
    """Raise ReproError, with this cure, when an image [H,W,C] and its mask [H,W,...] differ in height or width."""
    if mask[:2] != image[:2]:
        raise ReproError(f"{pair[1]} is {mask[0]}x{mask[1]}, its image {image[0]}x{image[1]} (height x width)", cure)


def _by_stem(folder: Path, cure: str) -> dict[str, Path]:
    if not folder.is_dir():
        raise ReproError(f"{folder} does not exist", cure)
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_image(path):
            if path.stem in found:
                raise ReproError(f"{found[path.stem]} and {path} share a name", "keep one of them")
            found[path.stem] = path
    return found
