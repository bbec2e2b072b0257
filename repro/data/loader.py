"""Batches in an order that is a function of the seed and the step alone, so that a position can be saved."""

from typing import Any

import grain
import numpy as np


def stream(records: Any, batch_size: int, seed: int) -> Any:
    """An endless random-access sequence of batches: `stream[step]` is a dict of arrays [B,...].

    Every record appears once an epoch, in an order of its own for each epoch; batches run on across epochs, so
    that all have one size."""
    order = grain.MapDataset.range(len(records)).seed(seed).shuffle().repeat()
    return _Stream(records, order, batch_size)


class _Stream:
    """Batches of records in grain's order."""

    def __init__(self, records: Any, order: Any, batch_size: int) -> None:
        self._records, self._order, self._batch_size = records, order, batch_size

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        first = step * self._batch_size
        return collate([self._records[self._order[i]] for i in range(first, first + self._batch_size)])


def collate(records: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Stack records into one batch."""
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def in_order(records: Any, batch_size: int):
    """Yield (batch, count) over all records once; the last batch repeats its last record up to `batch_size`."""
    for first in range(0, len(records), batch_size):
        count = min(batch_size, len(records) - first)
        chosen = [records[first + min(i, count - 1)] for i in range(batch_size)]
        yield collate(chosen), count
