"""From records to batches: order and the last batch."""

import numpy as np

from repro.data.loader import in_order, stream


class _Numbers:
    def __len__(self):
        return 7

    def __getitem__(self, index):
        return {"x": np.asarray(index)}


def test_every_epoch_shows_every_record_once_in_an_order_of_its_own():
    batches = stream(_Numbers(), 3, seed=1)
    numbers = np.concatenate([batches[step]["x"] for step in range(7)])  # three epochs of seven
    epochs = [tuple(epoch) for epoch in numbers.reshape(3, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) == 3


def test_a_batch_depends_on_the_seed_and_the_step_alone():
    straight = [stream(_Numbers(), 3, seed=1)[step]["x"].tolist() for step in range(5)]
    assert stream(_Numbers(), 3, seed=1)[4]["x"].tolist() == straight[4]
    assert [stream(_Numbers(), 3, seed=2)[step]["x"].tolist() for step in range(5)] != straight


def test_in_order_fills_the_last_batch_and_counts_it():
    batches = list(in_order(_Numbers(), 3))
    assert [(batch["x"].tolist(), count) for batch, count in batches] == [
        ([0, 1, 2], 3),
        ([3, 4, 5], 3),
        ([6, 6, 6], 1),
    ]
