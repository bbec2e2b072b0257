"""What loaders of pictures in folders share: samples are pairs of an image and its labels, found split by split."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from repro import paths
from repro.data.base import Info
from repro.data.images import is_image, probe, read_bytes
from repro.errors import NoDataError, ReproError, unknown_name

Pair = tuple[Path, Path]
Named = tuple[str, Pair]


class PairFolder:
    """A data set in a folder of the data folder (`folder`). A subclass finds the (name, (image, labels)) of a split in
    `_find`; `counts` are the published numbers of images of its splits, `again` is the cure of an incomplete copy."""

    info: ClassVar[Info]
    folder: ClassVar[str]
    counts: ClassVar[dict[str, int]]
    again: ClassVar[str]

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / self.folder
        self._found: dict[str, list[Named]] = {}
        self._fingerprints: dict[str, str] = {}

    def prepare(self) -> None:
        """Check that every image of every split has its labels and the other way round.

        Raises NoDataError when the folder is missing, ReproError when the copy is incomplete."""
        for split in self.info.splits:
            self._items(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over (name, SHA-256 of image, SHA-256 of labels) in order."""
        if split not in self._fingerprints:
            self._fingerprints[split] = fingerprint(self._items(split))
        return self._fingerprints[split]

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._items(split))

    def _find(self, split: str) -> list[Named]:
        """The samples of a split in order. Raises ReproError when the copy is incomplete."""

    def _items(self, split: str) -> list[Named]:
        if split not in self.info.splits:
            raise unknown_name(f"split of {self.info.name}", split, self.info.splits)
        if split not in self._found:
            self._check(self._root)
            found = self._find(split)
            if not found:
                raise ReproError(f"{self._root} holds no images of the split {split}", self.again)
            self._found[split] = found
        return self._found[split]

    def _check(self, folder: Path) -> None:
        """Raise NoDataError when a folder is missing."""
        if not folder.exists():
            cure = f"{self.info.manual} (REPRO_DATA says where that is)" if self.info.manual else ""
            raise NoDataError(f"{folder} does not exist", cure or f"`repro data {self.info.name}` fetches it")

    def _differences(self, split: str, encoding: str) -> tuple[list[str], list[tuple[int, int]]]:
        """How a split differs from the published one in number and encoding, in words, and its (height, width)s."""
        headers = [probe(image) for _, (image, _) in self._items(split)]
        others = sorted({kind for kind, _ in headers} - {encoding})
        reasons = [f"{len(headers)} of {self.counts[split]} images"] if len(headers) != self.counts[split] else []
        reasons += [f"images re-encoded as {' and '.join(others)}"] if others else []
        return reasons, [size for _, size in headers]

    def _sizes_differ(self, split: str, encoding: str, wanted: tuple[int, int]) -> tuple[bool, str]:
        """What `official` answers of images that all have one published size."""
        reasons, sizes = self._differences(split, encoding)
        odd = next((size for size in sizes if size != wanted), None)
        reasons += [f"images of {odd[0]}x{odd[1]} instead of {wanted[0]}x{wanted[1]}"] if odd else []
        return not reasons, "; ".join(reasons)

    def _longest_differs(self, split: str, encoding: str, wanted: int) -> tuple[bool, str]:
        """What `official` answers of images whose longest side is published."""
        reasons, sizes = self._differences(split, encoding)
        longest = max(map(max, sizes))
        reasons += [f"the longest side is {longest} instead of {wanted} pixels"] if longest != wanted else []
        return not reasons, "; ".join(reasons)


def match(folders: Pair, cure: str, suffixes: tuple[str, str] = ("", "")) -> list[Named]:
    """(name, (image, labels)) for the pictures of two folders, in the order of names.

    A picture is called its name and the suffix of its kind; those with other endings are passed over, extensions may
    differ. Raises ReproError, with this cure, for a missing folder, for an image or labels without their partner, and
    for two pictures of one name."""
    images, labels = (_by_name(folder, suffix, cure) for folder, suffix in zip(folders, suffixes, strict=True))
    for there, missing, kind in ((images, labels, "mask"), (labels, images, "image")):
        report_missing([there[name] for name in sorted(there.keys() - missing.keys())], f"has no {kind}", cure)
    return [(name, (images[name], labels[name])) for name in sorted(images)]


def listed(names: Path, images: Path, labels: Path, ending: str, cure: str) -> list[Named]:
    """(name, (image, labels)) for the names in a list, in its order: JPEGs, and labels of this ending.

    Raises ReproError, with this cure, for a name that cannot be one or comes twice, and for a file that is missing."""
    found = [(name, (images / f"{name}.jpg", labels / f"{name}{ending}")) for name in read_names(names, cure)]
    missing = [path for _, pair in found for path in pair if not path.is_file()]
    report_missing(missing, f"which {names} asks for, does not exist", cure, joined=", ")
    return found


def report_missing(missing: list[Path], problem: str, cure: str, joined: str = " ") -> None:
    """Raise ReproError that names the first of some files, and how many more there are."""
    if missing:
        others = f", like {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ReproError(f"{missing[0]}{joined}{problem}{others}", cure)


def read_names(path: Path, cure: str) -> list[str]:
    """The names in a list of images, each once. Raises ReproError with this cure."""
    names: dict[str, int] = {}
    for number, line in enumerate(read_bytes(path).decode("ascii", "replace").splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if not re.fullmatch(r"[\w-]+", name, re.ASCII):
            raise ReproError(f"{path} line {number} is {name[:60]!r}, not the name of an image", cure)
        if name in names:
            raise ReproError(f"{path} names {name} in line {names[name]} and in line {number}", "keep one of them")
        names[name] = number
    if not names:
        raise ReproError(f"{path} names no image", cure)
    return list(names)


def fingerprint(named: Iterable[Named]) -> str:
    """First 16 hex digits of the SHA-256 over (name, SHA-256 of image, SHA-256 of labels) in the given order."""
    total = hashlib.sha256()
    for name, pair in named:
        hashes = [hashlib.sha256(read_bytes(path)).hexdigest() for path in pair]
        total.update(f"{name} {' '.join(hashes)}\n".encode())
    return total.hexdigest()[:16]


def check_sizes(pair: Pair, image: tuple[int, ...], labels: tuple[int, ...], cure: str = "fetch both again") -> None:
    """Raise ReproError, with this cure, when an image [H,W,C] and its labels [H,W,...] differ in height or width."""
    if labels[:2] != image[:2]:
        sizes = f"{labels[0]}x{labels[1]}, its image {image[0]}x{image[1]}"
        raise ReproError(f"{pair[1]} is {sizes} (height x width)", cure)


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
