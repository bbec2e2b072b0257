"""Decode once: a split resized to the network's input, as memory-mapped arrays; above the limit, on demand.

REPRO_CACHE_GIB (default 20) bounds what one split may take on the disk.
"""

import json
import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from repro import paths
from repro.data.base import VOID, Sample
from repro.errors import ReproError
from repro.files import atomic_write, canonical_hash

# raised when what records hold changes on purpose: they are decoded again, and results of another version are stale
VERSION = 2
PADDING_GREY = 116  # near the mean of natural images, so that the margin is close to zero after normalisation


def fit_scale(original: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) of an image enlarged or reduced, with its aspect kept, to just fit into `size`."""
    scale = min(size[0] / original[0], size[1] / original[1])
    return max(1, round(original[0] * scale)), max(1, round(original[1] * scale))


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H,W,C] to [h,w,C]: averaging when reducing, bilinear when enlarging."""
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return resized if resized.ndim == 3 else resized[:, :, None]


def letterbox(sample: Sample, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Fit an image and its label map into `size`, padded at the bottom and the right.

    image uint8 [h,w,C], semantic uint8 [h,w] (nearest, padding void), pixel_weight float32 [h,w] (bilinear,
    padding 0), valid_size int32 [2]."""
    valid = fit_scale(sample.image.shape[:2], size)
    image = np.full((*size, sample.image.shape[2]), PADDING_GREY, "uint8")
    image[: valid[0], : valid[1]] = resize_image(sample.image, valid)
    fields = {"image": image, "valid_size": np.asarray(valid, "int32")}
    if sample.semantic is not None:
        semantic = np.full(size, VOID, "uint8")
        semantic[: valid[0], : valid[1]] = cv2.resize(sample.semantic, valid[::-1], interpolation=cv2.INTER_NEAREST)
        fields["semantic"] = semantic
    if sample.pixel_weight is not None:
        weight = np.zeros(size, "float32")
        weight[: valid[0], : valid[1]] = cv2.resize(sample.pixel_weight, valid[::-1], interpolation=cv2.INTER_LINEAR)
        fields["pixel_weight"] = weight
    return fields


def centre_crop(sample: Sample, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """Scale an image until it covers `size` and cut its centre. image uint8 [h,w,C], label int32 []."""
    height, width = sample.image.shape[:2]
    scale = max(size[0] / height, size[1] / width)
    covering = max(size[0], round(height * scale)), max(size[1], round(width * scale))
    top, left = (covering[0] - size[0]) // 2, (covering[1] - size[1]) // 2
    image = resize_image(sample.image, covering)[top : top + size[0], left : left + size[1]]
    return {
        "image": np.ascontiguousarray(image),
        "valid_size": np.asarray(size, "int32"),
        "label": np.asarray(sample.label, "int32"),
    }


# a sample and (height, width) to a record of that size
Fit = Callable[[Sample, tuple[int, int]], dict[str, np.ndarray]]
_FIT: dict[str, Fit] = {"segmentation": letterbox, "classification": centre_crop}


class OnDemand:
    """Records decoded whenever they are asked for: `len(records)`, `records[i]` -> dict of arrays."""

    def __init__(
        self,
        dataset: Any,
        split: str,
        size: tuple[int, int],
        task: str,
        limit: int | None = None,
        fit: Fit | None = None,
    ) -> None:
        available = dataset.size(split)
        self._dataset, self._split, self._size, self._fit = dataset, split, size, fit or _FIT[task]
        self._length = min(limit or available, available)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return self._fit(self._dataset.sample(self._split, int(index)), self._size)


class Mapped:
    """Records in memory-mapped arrays, one file a field: `len(records)`, `records[i]` -> dict of arrays."""

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        fields = json.loads((folder / "fields.json").read_text())
        self._arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in fields}
        available = len(next(iter(self._arrays.values())))
        self._length = min(limit or available, available)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        return {name: np.asarray(array[int(index)]) for name, array in self._arrays.items()}


def decoded(
    dataset: Any,
    split: str,
    size: tuple[int, int],
    task: str,
    *,
    limit: int | None = None,
    fit: Fit | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Mapped | OnDemand:
    """The records of a split at input size (height, width) for a task; the first `limit` of them if given.

    `fit` makes the records where a task has more than one kind of them; `task` must then name the kind, for the cache.
    Raises ReproError for damaged samples, an empty split, or a full disk."""
    source = OnDemand(dataset, split, size, task, fit=fit)
    if not len(source):
        raise ReproError(f"split {split} of {dataset.info.name} is empty", f"see `repro data {dataset.info.name}`")
    first = source[0]
    need = len(source) * sum(array.nbytes for array in first.values())
    if need > float(os.environ.get("REPRO_CACHE_GIB", 20)) * 2**30:
        return OnDemand(dataset, split, size, task, limit, fit)
    identity = [dataset.info.name, dataset.options, dataset.fingerprint(split), split]
    key = canonical_hash([VERSION, *identity, size, task])
    folder = paths.cache_dir() / f"{dataset.info.name}-{split}-{size[0]}x{size[1]}-{key}"
    if not folder.exists():
        _write(source, first, folder, need, progress)
    return Mapped(folder, limit)


def _write(source: OnDemand, first: dict, folder: Path, need: int, progress: Callable[[int, int], None]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < need * 1.05:
        problem = f"{folder.parent} has {free / 2**30:.1f} GiB free, the decoded data needs {need / 2**30:.1f}"
        cure = "free some space, set REPRO_CACHE to another disk, or lower REPRO_CACHE_GIB to decode on the fly"
        raise ReproError(problem, cure)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}")
    temporary.mkdir()
    try:
        arrays = {}
        for name, array in first.items():
            shape = (len(source), *array.shape)
            arrays[name] = np.lib.format.open_memmap(temporary / f"{name}.npy", "w+", array.dtype, shape)
        for index in range(len(source)):
            for name, value in source[index].items():
                arrays[name][index] = value
            progress(index + 1, len(source))
        for array in arrays.values():
            array.flush()
        atomic_write(temporary / "fields.json", json.dumps(sorted(arrays)).encode())
        temporary.rename(folder)
    except OSError:
        if not folder.exists():  # another process finished first: its arrays are as good
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
