"""Curves of training: the epochs that their values belong to."""

import pytest

from repro.report.curves import _series


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ({"val_map": [0.1, 0.2], "val_epoch": [2.0, 4.0], "loss": [3.0]}, {2.0: 10.0, 4.0: 20.0}),
        ({"val_map": [0.1, 0.2], "epoch": [1.0, 2.0]}, {1.0: 10.0, 2.0: 20.0}),
        ({"val_map": [0.1]}, {1.0: 10.0}),
        ({"loss": [3.0], "epoch": [1.0]}, {}),  # R-CNN is not validated as it trains
        ({}, {}),
    ],
)
def test_values_stand_at_their_epochs(history, expected):
    assert _series(history, "val_map", 100) == pytest.approx(expected)
