"""Experiments put together on the command line: `repro train`, `repro eval`, `repro speed`."""

from pathlib import Path
from typing import Any

from repro import registry
from repro.data.base import dataset_class
from repro.errors import ReproError, unknown_name
from repro.experiments.base import Experiment
from repro.harness import checkpoint
from repro.harness.config import AnyConfig, Data, Evaluate, Network, Speed, Train


def _experiment(name: str, about: str, config: AnyConfig) -> Experiment:
    return Experiment(name=name, about=about, configs={"lab": config}, value=0, seconds={"lab": 300})


def _checked(name: str, data: str) -> tuple[registry.Architecture, Any]:
    """The architecture and the data set's card, if the one can learn the other."""
    entry, info = registry.architecture(name), dataset_class(data).info
    if entry.task not in info.tasks:
        raise ReproError(f"{data} has no labels for {entry.task}, which {name} needs", "see `repro list datasets`")
    return entry, info


def _data(info: Any, size: tuple[int, int]) -> Data:
    """A data set as the ad-hoc commands use it. Sets without a test split are scored on `val`."""
    options = {"image_size": list(size)} if info.name == "shapes" else {}
    return Data(name=info.name, options=options, test="test" if "test" in info.splits else "val")


def training(
    name: str, data: str, network: dict[str, Any], budget: dict[str, Any], init: str, precision: str
) -> Experiment:
    """`repro train`: AdamW under a cosine, or the paper's recipe."""
    entry, info = _checked(name, data)
    size = network.pop("size") or entry.input_size
    if budget["recipe"] == "paper":
        from repro import backend

        backend.select()
        recipe = registry.module_of(name).recipe(network["variant"] or entry.variants[0], name)
        settings = {"recipe": "paper", **recipe}
    else:
        settings = dict(
            optimizer="adamw", weight_decay=1e-4, schedule="cosine", warmup=0.05, clip_norm=1.0,
            augment={"flip": True}, **budget,
        )  # fmt: skip
    config = Train(
        network=Network(name=name, input_size=size, **network),
        data=_data(info, size),
        init=init,
        precision=precision,
        **settings,
    )
    for label in ("epochs", "batch_size", "learning_rate"):
        if not getattr(config, label) > 0:
            raise ReproError(f"{label} {getattr(config, label):g} is impossible", "give a number above 0")
    return _experiment(f"train-{name}-{data}", f"{name} on {data}", config)


def network_from(name: str, weights: Path) -> tuple[Network, dict[str, Any]]:
    """The network a weight file was trained as, and the file's card. Raises ReproError when it is another's."""
    entry = registry.architecture(name)
    _, card = checkpoint.load_arrays(weights)
    if card.get("model") != entry.name:
        raise ReproError(f"{weights} holds weights of {card.get('model')}, not of {name}", "name the right model")
    fields = ("variant", "width", "depth", "num_classes", "channels", "options")
    size = tuple(card["input_size"])
    return Network(name=name, input_size=size, **{field: card[field] for field in fields}), card


def evaluation(name: str, data: str, weights: Path, split: str) -> Experiment:
    """`repro eval`: the weights' own network on a split of a data set."""
    _, info = _checked(name, data)
    network, card = network_from(name, weights)
    if split not in info.splits:
        raise unknown_name(f"split of {data}", split, info.splits)
    options = card["dataset_options"] if card["dataset"] == data else {}
    config = Evaluate(
        network=network,
        data=Data(name=data, options=options, test=split),
        weights=str(weights.expanduser().absolute()),
        weights_sha256=checkpoint.sha256_of(weights),
    )
    return _experiment(f"eval-{name}-{data}", f"{name} on {data}", config)


def timing(
    name: str, size: tuple[int, int] | None, width: float, depth: float, precision: str, seconds: float
) -> Experiment:
    """`repro speed`."""
    registry.architecture(name)
    network = Network(name=name, input_size=size, width=width, depth=depth)
    config = Speed(network=network, precision=precision, seconds=seconds, batches=(1, 2, 4, 8, 16, 32))
    return _experiment(f"time-{name}", f"speed of {name}", config)
