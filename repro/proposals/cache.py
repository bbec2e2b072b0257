"""Proposals of a whole split: computed once, on all cores, and kept in one file.

Work is saved every 64 images, so that an interrupted run goes on where it was; a later call that asks for more images
computes those alone. Files are read without pickle and checked against the data set they are asked for.
"""

import functools
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from repro import paths
from repro.errors import ReproError
from repro.files import atomic_write, canonical_hash
from repro.proposals.selective_search import check_options, selective_search

# Raise this when selective search gives other boxes than before, or the file has another layout.
VERSION = 1
SHARD = 64  # images between two saves

Found = tuple[np.ndarray, float]  # boxes float32 [n,4] and seconds of one image


class Proposals:
    """Boxes of the first images of a split, best first: `len(proposals)`, `proposals[i]` -> float32 [n_i,4].

    Half-open (x1,y1,x2,y2) in the pixels of image i of the split at its original size."""

    def __init__(self, images: list[Found]) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> np.ndarray:
        return self._images[index][0]

    def seconds(self, index: int) -> float:
        """Seconds that selective search took for image `index`, on one core beside the other workers."""
        return self._images[index][1]


def proposals_of(
    dataset: Any,
    split: str,
    mode: str = "fast",
    max_boxes: int = 2000,
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    seed: int = 0,
    width: int | None = 500,
    min_side: int = 20,
    workers: int | None = None,
) -> Proposals:
    """Selective search's proposals of a split, or of its first `limit` images, from the cache where they are there.

    mode, max_boxes, seed, width and min_side as of `selective_search`. `workers` processes (one for each core when
    None) share the images, which changes no box; `progress` hears of every image computed. Raises ReproError for an
    empty split, an impossible limit, a damaged or foreign file, and what data set and search raise."""
    check_options(mode, max_boxes, width, min_side)
    available = dataset.size(split)
    if not available:
        raise ReproError(f"split {split} of {dataset.info.name} is empty", f"see `repro data {dataset.info.name}`")
    if limit is not None and limit < 1:
        raise ReproError(f"a limit of {limit} images is impossible", "give at least 1, or none")
    count = min(limit or available, available)
    search = {"mode": mode, "max_boxes": max_boxes, "seed": seed, "width": width, "min_side": min_side}
    header = {
        "proposals": "selective search", "version": VERSION, "dataset": dataset.info.name,
        "dataset_options": dataset.options, "fingerprint": dataset.fingerprint(split), "split": split, "search": search,
    }  # fmt: skip
    header = msgspec.json.decode(msgspec.json.encode(header))  # as it will be read again: a tuple becomes a list
    path = paths.cache_dir() / f"proposals-{dataset.info.name}-{split}-{mode}-{max_boxes}-{canonical_hash(header)}.npz"
    images = _read(path, header) if path.exists() else []
    if len(images) < count:
        images = _complete(path, header, images, dataset, split, search, count, workers or _cores(), progress)
    return Proposals(images[:count])


def _complete(
    path: Path,
    header: dict,
    images: list[Found],
    dataset: Any,
    split: str,
    search: dict[str, Any],
    count: int,
    workers: int,
    progress: Callable[[int, int], None],
) -> list[Found]:
    """`images` with what follows them up to `count`, from interrupted work or computed; written to `path`."""
    shards = []
    while len(images) < count and (shard := _shard(path, len(images))).exists():
        images += _read(shard, header)
        shards.append(shard)
    saved, missing = len(images), range(len(images), count)
    for found in _search(dataset, split, missing, search, min(workers, len(missing))):
        images.append(found)
        progress(len(images), count)
        if len(images) - saved == SHARD:
            shards.append(_shard(path, saved))
            _write(shards[-1], header, images[saved:])
            saved = len(images)
    _write(path, header, images)
    for shard in shards:
        shard.unlink(missing_ok=True)
    return images


def _shard(path: Path, start: int) -> Path:
    """The file of interrupted work that begins with image `start`."""
    return path.with_name(f"{path.stem}.from-{start}.npz")


def _search(dataset: Any, split: str, indices: range, search: dict[str, Any], workers: int) -> Iterator[Found]:
    """Boxes and seconds of images in order; images are decoded here, since not every data set can be pickled."""
    if workers <= 1:
        for index in indices:
            image = dataset.sample(split, index).image
            yield _result(functools.partial(_timed, image, search), dataset, split, index)
        return
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _one_thread)
    try:
        pending: deque[tuple[int, Future]] = deque()
        for index in indices:
            if len(pending) == 2 * workers:  # enough to keep them busy, few enough images in memory
                first, future = pending.popleft()
                yield _result(future.result, dataset, split, first)
            pending.append((index, pool.submit(_timed, dataset.sample(split, index).image, search)))
        for index, future in pending:
            yield _result(future.result, dataset, split, index)
    except BrokenProcessPool:
        problem = "a process that computes proposals has died, perhaps for lack of memory"
        raise ReproError(problem, "start again with fewer workers: finished images are kept") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _result(compute: Callable[[], Found], dataset: Any, split: str, index: int) -> Found:
    try:
        return compute()
    except ReproError as error:
        raise ReproError(f"image {index} of {dataset.info.name}/{split}: {error}") from None


def _timed(image: np.ndarray, search: dict[str, Any]) -> Found:
    start = time.perf_counter()
    boxes = selective_search(image, **search)
    return boxes, time.perf_counter() - start


def _one_thread() -> None:
    cv2.setNumThreads(1)  # the processes already share all cores


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _write(path: Path, header: dict, images: list[Found]) -> None:
    content = BytesIO()
    np.savez(
        content,
        header=np.array(msgspec.json.encode(header).decode()),
        counts=np.array([len(boxes) for boxes, _ in images], np.int64),
        seconds=np.array([seconds for _, seconds in images], np.float64),
        boxes=np.concatenate([boxes for boxes, _ in images]),
    )
    atomic_write(path, content.getvalue())


def _read(path: Path, header: dict) -> list[Found]:
    """The images of a file. Raises ReproError where it is damaged or its header is not `header`."""
    cure = "delete it, and its proposals are computed again"
    try:
        with np.load(path, allow_pickle=False) as file:
            found = msgspec.json.decode(str(file["header"]), type=dict[str, Any])
            counts, seconds, boxes = file["counts"], file["seconds"], file["boxes"]
        whole = counts.dtype == np.int64 and counts.ndim == 1 and len(counts) and counts.min() > 0
        whole = whole and seconds.shape == counts.shape and seconds.dtype == np.float64
        whole = whole and boxes.shape == (counts.sum(), 4) and boxes.dtype == np.float32
    except Exception as error:  # a damaged archive raises nearly anything
        raise ReproError(f"{path} is damaged or holds no proposals ({type(error).__name__})", cure) from None
    if not whole:
        raise ReproError(f"{path} is damaged: its arrays do not fit each other", cure)
    for key, expected in header.items():
        if found.get(key) != expected:
            raise ReproError(f"{path} holds proposals of another {key}: {found.get(key)!r}, not {expected!r}", cure)
    return list(zip(np.split(boxes, counts.cumsum()[:-1]), seconds.tolist(), strict=True))
