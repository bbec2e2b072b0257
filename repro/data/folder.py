"""What loaders of folders share, and those whose samples are pairs of an image and its labels, found split by split."""

import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from repro import paths
from repro.data.base import Info, known_split
from repro.data.download import Archive, install
from repro.data.images import is_image, probe, read_bytes, read_image, read_labels
from repro.errors import NoDataError, ReproError

Pair = tuple[Path, Path]
Named = tuple[str, Pair]


class Folder:
    """A data set in a folder of the data folder (`folder`). A subclass finds the samples of a split in `_find` and says
    in `_identity` what they are; `archive` is what the folder is unpacked from, `again` the cure of an incomplete
    copy."""

    info: ClassVar[Info]
    folder: ClassVar[str]
    archive: ClassVar[Archive | None] = None

    def __init__(self) -> None:
        self.options: dict[str, Any] = {}
        self._root = paths.data_dir() / self.folder
        self._found: dict[str, list[Any]] = {}
        self._fingerprints: dict[str, str] = {}

    @property
    def again(self) -> str:
        """The cure of an incomplete copy."""
        assert self.archive  # a folder without one has a cure of its own
        return f"unpack {self.archive.filename} again"

    def prepare(self) -> None:
        """Download the archive, where there is one, unless its folder is there; check that the copy is complete.

        Raises NoDataError when the folder is missing or cannot be had, ReproError when the copy is incomplete."""
        if self.archive and not self._root.is_dir():
            install(self.archive, paths.data_dir(), self.folder, self._wanted)
        for split in self.info.splits:
            self._items(split)

    def fingerprint(self, split: str) -> str:
        """First 16 hex digits of the SHA-256 over what `_identity` gives."""
        if split not in self._fingerprints:
            self._fingerprints[split] = hashlib.sha256(b"".join(self._identity(split))).hexdigest()[:16]
        return self._fingerprints[split]

    def size(self, split: str) -> int:
        """Number of images of a split."""
        return len(self._items(split))

    def _wanted(self, name: str) -> bool:
        """Whether to unpack a member of the archive."""
        return True

    def _find(self, split: str) -> list[Any]:
        """The samples of a split in order. Raises ReproError when the copy is incomplete."""
        raise NotImplementedError

    def _identity(self, split: str) -> Iterator[bytes]:
        """What tells the samples of a split from others."""
        raise NotImplementedError

    def _items(self, split: str) -> list[Any]:
        if known_split(self.info, split) not in self._found:
            self._check(self._root)
            found = self._find(split)
            if not found:
                raise ReproError(f"{self._root} holds no images of the split {split}", self.again)
            self._found[split] = found
        return self._found[split]

    def _check(self, folder: Path) -> None:
        """Raise NoDataError when a folder is missing."""
        if not folder.is_dir():
            raise self._absent(folder)

    def _absent(self, path: Path) -> NoDataError:
        cure = f"{self.info.manual} (REPRO_DATA says where that is)" if self.info.manual else ""
        return NoDataError(f"{path} does not exist", cure or f"`repro data {self.info.name}` fetches it")


class PairFolder(Folder):
    """A folder of images and labels, each sample a (name, (image, labels)). `counts` are the published numbers of
    images of the splits, `encoding` is theirs, and `shape` their (height, width) or `longest_side` that of the longest
    (pixels)."""

    counts: ClassVar[dict[str, int]]
    encoding: ClassVar[str] = "PNG"
    shape: ClassVar[tuple[int, int] | None] = None
    longest_side: ClassVar[int | None] = None

    def official(self, split: str) -> tuple[bool, str]:
        """Whether the split has the published number of images, of the published encoding and size.

        No checksum of single files is published, so that edited pixels or labels do not show here."""
        reasons, sizes = self._differences(split)
        odd = next((size for size in sizes if size != self.shape), None)
        if odd and self.shape:
            reasons.append(f"images of {odd[0]}x{odd[1]} instead of {self.shape[0]}x{self.shape[1]}")
        longest = max(map(max, sizes))
        if self.longest_side and longest != self.longest_side:
            reasons.append(f"the longest side is {longest} instead of {self.longest_side} pixels")
        return not reasons, "; ".join(reasons)

    def _identity(self, split: str) -> Iterator[bytes]:
        """Name, SHA-256 of image and SHA-256 of labels."""
        for name, pair in self._items(split):
            hashes = [hashlib.sha256(read_bytes(path)).hexdigest() for path in pair]
            yield f"{name} {' '.join(hashes)}\n".encode()

    def _differences(self, split: str) -> tuple[list[str], list[tuple[int, int]]]:
        """How a split differs from the published one in number and encoding, in words, and its (height, width)s."""
        headers = [probe(image) for _, (image, _) in self._items(split)]
        others = sorted({kind for kind, _ in headers} - {self.encoding})
        reasons = [f"{len(headers)} of {self.counts[split]} images"] if len(headers) != self.counts[split] else []
        reasons += [f"images re-encoded as {' and '.join(others)}"] if others else []
        return reasons, [size for _, size in headers]

    def _read(
        self, split: str, index: int, read: Callable[[Path], np.ndarray] = read_labels, upright: bool = False
    ) -> tuple[str, np.ndarray, np.ndarray, Path]:
        """Name, image uint8 [H,W,3] and labels [H,W,...] of a sample, and where the labels lie. `upright`: they were
        drawn over the image as its EXIF orientation shows it, not over the stored pixels.

        Raises ReproError naming the file when one is damaged or the sizes differ."""
        name, pair = self._items(split)[index]
        image, labels = read_image(pair[0], upright), read(pair[1])
        check_sizes(pair[1], image.shape, labels.shape, self.again)
        return name, image, labels, pair[1]


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


def read_lines(path: Path) -> list[tuple[int, str]]:
    """(number, text) of the lines of a file that are not empty. Raises ReproError when it cannot be read."""
    lines = enumerate(read_bytes(path).decode("ascii", "replace").splitlines(), 1)
    return [(number, line.strip()) for number, line in lines if line.strip()]


def read_names(path: Path, cure: str) -> list[str]:
    """The names in a list of images, each once. Raises ReproError with this cure."""
    names: dict[str, int] = {}
    for number, name in read_lines(path):
        if not re.fullmatch(r"[\w-]+", name, re.ASCII):
            raise ReproError(f"{path} line {number} is {name[:60]!r}, not the name of an image", cure)
        if name in names:
            raise ReproError(f"{path} names {name} in line {names[name]} and in line {number}", "keep one of them")
        names[name] = number
    if not names:
        raise ReproError(f"{path} names no image", cure)
    return list(names)


def check_sizes(path: Path, image: tuple[int, ...], labels: tuple[int, ...], cure: str) -> None:
    """Raise ReproError, with this cure, when the labels [H,W,...] in `path` and their image [H,W,C] differ in size."""
    if labels[:2] != image[:2]:
        sizes = f"{labels[0]}x{labels[1]}, its image {image[0]}x{image[1]}"
        raise ReproError(f"{path} is {sizes} (height x width)", cure)


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
