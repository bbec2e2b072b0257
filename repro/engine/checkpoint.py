"""Weights and training state as safetensors files: named arrays and a card of metadata, no pickle."""

import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from repro.errors import ReproError
from repro.files import atomic_write
from repro.records.settings import Data, Network
from repro.tasks import AnyTask


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """What weights say of themselves: the network, its task with the settings it is scored by, the data, the run."""

    network: Network
    task: AnyTask
    data: Data
    run: str = ""


def read_card(path: Path) -> Card:
    """The card of a weight file. Raises ReproError for a file that has none."""
    _, card = load_arrays(path)
    try:
        return msgspec.convert(card, Card)
    except msgspec.ValidationError:
        raise ReproError(
            f"{path} does not say what network its weights are of",
            "give the weights.safetensors of a run, written by `repro train` or `repro run`",
        ) from None


def save_arrays(path: Path, arrays: dict[str, np.ndarray], card: dict[str, Any]) -> None:
    """Write named arrays and a JSON-able card, atomically."""
    arrays = {name: np.array(array, order="C") for name, array in arrays.items()}  # keeps scalars scalar
    atomic_write(path, save(arrays, metadata={"repro": msgspec.json.encode(card, order="sorted").decode()}))


def load_arrays(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read (arrays, card). Raises ReproError when the file is missing, damaged or not one of ours."""
    cure = "give a .safetensors file written by `repro train` or `repro run`"
    if not path.is_file():
        raise ReproError(f"there is no weight file {path}", cure)
    try:
        with safe_open(path, framework="numpy") as file:
            card = msgspec.json.decode((file.metadata() or {})["repro"])
            return {name: file.get_tensor(name) for name in file.keys()}, card  # noqa: SIM118 - not a dict
    except (SafetensorError, KeyError, msgspec.DecodeError, OSError) as error:
        raise ReproError(f"{path} is damaged or not a weight file of this suite ({error})", cure) from None


def _keys(variables: list[Any]) -> list[str]:
    """Positions and paths: positions tell variables of equal paths apart. Keras numbers what has no name (optimizers,
    seed generators) through the life of a process, and a resumed run is the first of its own: that number is left
    out."""
    return [f"{index:04d}/{re.sub(r'_[0-9]+(?=/)', '', variable.path)}" for index, variable in enumerate(variables)]


def state_of(variables: list[Any]) -> dict[str, np.ndarray]:
    """Values of Keras variables, for `restore`."""
    import keras

    values = (np.asarray(keras.ops.convert_to_numpy(variable.value)) for variable in variables)
    return dict(zip(_keys(variables), values, strict=True))


def restore(variables: list[Any], state: dict[str, np.ndarray], origin: str) -> None:
    """Assign what `state_of` saved to the same variables, all of them. Raises ReproError when they differ."""
    wanted = dict(zip(_keys(variables), variables, strict=True))
    for name, variable in wanted.items():
        if name not in state or state[name].shape != tuple(variable.shape):
            found = f"shape {state[name].shape}" if name in state else "nothing"
            raise ReproError(
                f"{origin} does not fit: {variable.path} has shape {tuple(variable.shape)}, the file has {found}",
                "build the network with the file's own settings (model, classes, width, depth, size)",
            )
    for name, variable in wanted.items():
        variable.assign(state[name])


def weights_of(model: Any) -> dict[str, np.ndarray]:
    """The weights of a network by layer and variable name, for transfer between networks."""
    import keras

    return {
        f"{layer.name}/{variable.name}": np.asarray(keras.ops.convert_to_numpy(variable.value))
        for layer in model.layers
        for variable in layer.weights
    }


def load_weights(model: Any, weights: dict[str, np.ndarray], origin: str, partial: bool = False) -> int:
    """Assign weights by layer and variable name; returns how many variables were set.

    `partial` leaves variables without a counterpart of the same shape as they are (FCN-16s from FCN-32s).
    Raises ReproError when one is missing or of another shape, or when nothing at all fits."""
    copied = 0
    for layer in model.layers:
        for variable in layer.weights:
            value = weights.get(f"{layer.name}/{variable.name}")
            if value is not None and value.shape == tuple(variable.shape):
                variable.assign(value)
                copied += 1
            elif not partial:
                found = "nothing" if value is None else f"shape {value.shape}"
                raise ReproError(
                    f"{origin} does not fit {model.name}: {layer.name}/{variable.name} has shape "
                    f"{tuple(variable.shape)}, the file has {found}",
                    "use the model, classes, width and size the weights were trained with",
                )
    if not copied and model.weights:
        raise ReproError(f"{origin} has no weight that fits {model.name}", "check --weights or the init")
    return copied
