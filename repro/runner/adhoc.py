"""Experiments put together on the command line: `repro train`, `repro eval`, `repro speed`."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from repro import registry
from repro.data.catalog import dataset_class, open_dataset
from repro.data.images import find_images, probe
from repro.engine.checkpoint import Card, read_card
from repro.errors import ReproError, unknown_name
from repro.experiments.evaluate import OFFICIAL, Evaluate
from repro.experiments.kind import Kind
from repro.experiments.predictions import predictions_for
from repro.experiments.speed import Speed
from repro.experiments.train import Train
from repro.files import sha256_of
from repro.presets.base import ADAMW, Preset, both
from repro.records.result import Result
from repro.records.run import Run
from repro.records.settings import Data, Network
from repro.runner.worker import write_results
from repro.tasks import task_for
from repro.tasks.yolo import Yolo


def _preset(name: str, about: str, kind: Kind) -> Preset:
    return Preset(name=name, about=about, configs=both(kind), value=0, seconds=both(300))


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
) -> Preset:
    """`repro train`: AdamW under a cosine, or the paper's recipe."""
    entry, info = _checked(name, data)
    size = network.pop("size") or entry.input_size
    wanted, task = _network(name, input_size=size, **network), task_for(name)
    if budget["recipe"] == "paper":
        from repro import backend

        backend.select()
        settings = {"recipe": "paper", **registry.module_of(name).recipe(wanted.variant or entry.variants[0], name)}
        of_task = {field: settings.pop(field) for field in task.__struct_fields__ if field in settings}
        task = msgspec.structs.replace(task, **of_task)
    else:
        settings = dict(ADAMW, augment={"flip": True}, **budget)
    frozen = entry.task in ("detection", "instance") and not isinstance(task, Yolo)
    if init == "random" and frozen:  # what is frozen would stay random
        residual = entry.backbone == "resnet101"
        thawed = {"frozen_stages": 0, "frozen_bn": False} if residual else {"frozen_blocks": 0}
        wanted = msgspec.structs.replace(wanted, options={**wanted.options, **thawed})
    kind = Train(network=wanted, task=task, data=_data(info, size), init=init, precision=precision, **settings)
    for label in ("epochs", "batch_size", "learning_rate"):
        if not 0 < getattr(kind, label) < math.inf:
            raise ReproError(f"{label} {getattr(kind, label):g} is impossible", "give a number above 0")
    return _preset(f"train-{name}-{data}", f"{name} on {data}", kind)


def card_of(name: str, weights: Path) -> Card:
    """What a weight file says of its network. Raises ReproError when it is another's."""
    registry.architecture(name)
    card = read_card(weights)
    if card.network.name != name:
        raise ReproError(f"{weights} holds weights of {card.network.name}, not of {name}", "name the right model")
    return card


def pictures(images: Iterable[Path]) -> list[Path]:
    """The pictures that files and folders stand for. Raises ReproError for what is missing or no picture, and for two
    whose predictions would be written to one file."""
    files = find_images(list(images))
    stems: dict[str, Path] = {}
    for path in files:
        probe(path)
        if path.stem in stems:
            raise ReproError(f"{stems[path.stem]} and {path} share a name", "predict them into different --out folders")
        stems[path.stem] = path
    return files


def evaluation(
    name: str, data: str, weights: Path, split: str, size: tuple[int, int] | None = None, variant: str | None = None
) -> Preset:
    """`repro eval`: the weights' own network on a split of a data set. A Darknet .weights file does not say what it is
    of: the released network, at `size` (the paper's by default)."""
    entry, info = _checked(name, data)
    if weights.suffix == OFFICIAL:
        task = task_for(name)
        if not isinstance(task, Yolo):
            raise ReproError(
                f"{name} reads no Darknet weights", "give a .safetensors file, or a network of the YOLO line"
            )
        released = "released" if "released" in entry.variants else None
        network = _network(name, input_size=size or entry.input_size, variant=variant or released)
        scored = Data(name=data)
    else:
        if size or variant:
            raise ReproError(f"{weights} says itself what network it is of", "leave --size and --variant out")
        card = card_of(name, weights)
        task, network = card.task, card.network
        scored = Data(name=data, options=card.data.options if card.data.name == data else {}, size=card.data.size)
    if split not in info.splits:
        raise unknown_name(f"split of {data}", split, info.splits)
    kind = Evaluate(
        network=network,
        data=msgspec.structs.replace(scored, test=split),
        task=task,
        weights=str(weights.expanduser().absolute()),
        weights_sha256=sha256_of(weights),
    )
    return _preset(f"eval-{name}-{data}", f"{name} on {data}", kind)


def scored_predictions(data: str, split: str, path: Path) -> Result:
    """`repro eval --predictions`: someone else's predictions on a split of a data set, in this process. Raises
    ReproError before a result is written."""
    kind = predictions_for(data, split, path)
    run = Run(f"eval-predictions-{data}", kind, 0, profile="cpu", backend="none")
    return write_results(kind, [run], lambda fraction, note: None)[0]


def timing(
    name: str, size: tuple[int, int] | None, width: float, depth: float, precision: str, seconds: float
) -> Preset:
    """`repro speed`."""
    network = _network(name, input_size=size, width=width, depth=depth)
    kind = Speed(network=network, precision=precision, seconds=seconds, batches=(1, 2, 4, 8, 16, 32))
    return _preset(f"time-{name}", f"speed of {name}", kind)
