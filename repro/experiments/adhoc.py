"""Experiments put together on the command line: `repro train`, `repro eval`, `repro speed`."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from repro import registry
from repro.data.base import dataset_class, open_dataset
from repro.data.images import find_images, probe
from repro.errors import ReproError, unknown_name
from repro.experiments.base import Experiment
from repro.harness import checkpoint
from repro.harness.config import (
    AnyConfig,
    Data,
    Evaluate,
    Network,
    Speed,
    Train,
    TrainDetector,
    TrainInstance,
    TrainRCNN,
    TrainYolo,
)


def _experiment(name: str, about: str, config: AnyConfig) -> Experiment:
    return Experiment(name=name, about=about, configs={"lab": config}, value=0, seconds={"lab": 300})


def _checked(name: str, data: str) -> tuple[registry.Architecture, Any]:
    """The architecture and the data set's card, if the one can learn the other."""
    entry, info = registry.architecture(name), dataset_class(data).info
    if entry.task not in info.tasks:
        raise ReproError(f"{data} has no labels for {entry.task}, which {name} needs", "see `repro list datasets`")
    return entry, info


def _network(name: str, **settings: Any) -> Network:
    """The network a command line asks for. What no network can be is refused here, before a process starts for it."""
    entry, network = registry.architecture(name), Network(name=name, **settings)
    registry.check(name, network.variant, network.width, network.depth)
    if network.options and entry.task != "segmentation":
        raise ReproError(f"{name} has no {' or '.join(network.options)} to choose", "leave it out")
    return network


def _data(info: Any, size: tuple[int, int]) -> Data:
    """A data set as the ad-hoc commands use it. Sets without a test split are scored on `val`."""
    options = {"image_size": list(size)} if info.name == "shapes" else {}
    try:
        open_dataset(info.name, **options)
    except ReproError:  # it speaks of options that the command line does not have
        raise ReproError(f"{info.name} has no pictures of {size[0]}x{size[1]}", "give a larger --size") from None
    return Data(name=info.name, options=options, test="test" if "test" in info.splits else "val")


def training(
    name: str, data: str, network: dict[str, Any], budget: dict[str, Any], init: str, precision: str
) -> Experiment:
    """`repro train`: AdamW under a cosine, or the paper's recipe."""
    entry, info = _checked(name, data)
    size = network.pop("size") or entry.input_size
    wanted = _network(name, input_size=size, **network)
    if budget["recipe"] == "paper":
        from repro import backend

        backend.select()
        recipe = registry.module_of(name).recipe(wanted.variant or entry.variants[0], name)
        settings = {"recipe": "paper", **recipe}
    else:
        settings = dict(
            optimizer="adamw", weight_decay=1e-4, schedule="cosine", warmup=0.05, clip_norm=1.0,
            augment={"flip": True}, **budget,
        )  # fmt: skip
    kind, extra = _kind_of(entry)
    if init == "random" and kind in (TrainDetector, TrainRCNN, TrainInstance):  # what is frozen would stay random
        residual = entry.backbone == "resnet101"
        thawed = {"frozen_stages": 0, "frozen_bn": False} if residual else {"frozen_blocks": 0}
        wanted = msgspec.structs.replace(wanted, options={**wanted.options, **thawed})
    config = kind(
        network=wanted,
        data=_data(info, size),
        init=init,
        precision=precision,
        **settings,
        **extra,
    )
    for label in ("epochs", "batch_size", "learning_rate"):
        if not 0 < getattr(config, label) < math.inf:
            raise ReproError(f"{label} {getattr(config, label):g} is impossible", "give a number above 0")
    return _experiment(f"train-{name}-{data}", f"{name} on {data}", config)


def _kind_of(entry: registry.Architecture) -> tuple[type[Train], dict[str, Any]]:
    """The kind of training an architecture takes, and the settings of it that the command line does not ask for."""
    if entry.task == "instance":
        return TrainInstance, {}
    if entry.task != "detection":
        return Train, {}
    if entry.paper.startswith("yolo"):
        return TrainYolo, {}
    if entry.name == "rcnn":
        return TrainRCNN, {"proposals": "fast"}
    return TrainDetector, {"proposals": "fast"} if entry.name == "fast_rcnn" else {}


def network_from(name: str, weights: Path) -> tuple[Network, dict[str, Any]]:
    """The network a weight file was trained as, and the file's card. Raises ReproError when it is another's."""
    entry = registry.architecture(name)
    _, card = checkpoint.load_arrays(weights)
    fields = ("variant", "width", "depth", "num_classes", "channels", "options")
    if not isinstance(card, dict) or not {"model", "input_size", "dataset", "dataset_options", *fields} <= card.keys():
        cure = "give the weights.safetensors of a run, written by `repro train` or `repro run`"
        raise ReproError(f"{weights} does not say what network its weights are of", cure)
    if card["model"] != entry.name:
        raise ReproError(f"{weights} holds weights of {card['model']}, not of {name}", "name the right model")
    size = tuple(card["input_size"])
    settings = {field: card[field] for field in fields}
    settings["channels"] = card["channels"] or entry.channels  # files of older code left the default out
    return Network(name=name, input_size=size, **settings), card


def pictures(images: Iterable[Path]) -> list[Path]:
    """The pictures that files and folders stand for. Raises ReproError for what is missing or no picture, and for two
    whose predictions would be written to one file."""
    files, stems = find_images(list(images)), {}
    for path in files:
        probe(path)
        if path.stem in stems:
            raise ReproError(f"{stems[path.stem]} and {path} share a name", "predict them into different --out folders")
        stems[path.stem] = path
    return files


def evaluation(
    name: str, data: str, weights: Path, split: str, size: tuple[int, int] | None = None, variant: str | None = None
) -> Experiment:  # fmt: skip
    """`repro eval`: the weights' own network on a split of a data set. A Darknet .weights file does not say what it is
    of: the released network, at `size` (the paper's by default)."""
    entry, info = _checked(name, data)
    if weights.suffix == ".weights":
        if not (entry.task == "detection" and entry.paper.startswith("yolo")):
            raise ReproError(
                f"{name} reads no Darknet weights", "give a .safetensors file, or a network of the YOLO line"
            )
        released = "released" if "released" in entry.variants else None
        network, card = _network(name, input_size=size or entry.input_size, variant=variant or released), {}
    else:
        if size or variant:
            raise ReproError(f"{weights} says itself what network it is of", "leave --size and --variant out")
        network, card = network_from(name, weights)
    if split not in info.splits:
        raise unknown_name(f"split of {data}", split, info.splits)
    options = card["dataset_options"] if card.get("dataset") == data else {}
    config = Evaluate(
        network=network,
        data=Data(name=data, options=options, test=split, size=card.get("data_size")),
        tile_margin=card.get("tile_margin"),
        weights=str(weights.expanduser().absolute()),
        weights_sha256=checkpoint.sha256_of(weights),
    )
    return _experiment(f"eval-{name}-{data}", f"{name} on {data}", config)


def timing(
    name: str, size: tuple[int, int] | None, width: float, depth: float, precision: str, seconds: float
) -> Experiment:
    """`repro speed`."""
    network = _network(name, input_size=size, width=width, depth=depth)
    config = Speed(network=network, precision=precision, seconds=seconds, batches=(1, 2, 4, 8, 16, 32))
    return _experiment(f"time-{name}", f"speed of {name}", config)
