"""Settings that every kind of experiment shares: which network, which data."""

from typing import Any

import msgspec


class Network(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An architecture as it is built; None means its default."""

    name: str
    variant: str | None = None
    width: float = 1.0
    depth: float = 1.0
    input_size: tuple[int, int] | None = None
    num_classes: int | None = None
    channels: int | None = None
    options: dict[str, Any] = {}


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set, the options of its loader and the splits used.

    train_limit uses the first n images for training, test_limit the first n of the others for scoring. size: (height,
    width) images are fitted into; None is the network's input. Where it is larger, networks train on random windows."""

    name: str
    options: dict[str, Any] = {}
    train: str = "train"
    val: str = "val"
    test: str = "test"
    train_limit: int | None = None
    test_limit: int | None = None
    size: tuple[int, int] | None = None
