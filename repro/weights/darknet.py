"""The files of Darknet, the framework of the YOLO line's authors: weights (.weights) in and out, networks (.cfg) out.

A .weights file is a header and little-endian float32 numbers, layer after layer in the order of the .cfg (Darknet's
src/parser.c, load_weights_upto):

    header            major, minor, revision int32; the images seen so far, int64 from version 0.2 on, int32 before
    convolution       biases; with batch normalisation these are beta, and gamma, means and variances follow; kernel
                      [out,in,h,w]
    fully connected   biases; weights [out,in], a map's values in the order channel, row, column; [in,out] in the
                      files of early 2015, whose header begins with a float32 learning rate and so with a huge version

Statistics of batch normalisation mean the same as Keras': running mean and variance. Darknet divides by
sqrt(variance + 1e-5) on a GPU, as `repro.models.darknet` does, and by sqrt(variance) + 1e-6 on a CPU. Its variances in
training are those of a sample, over n - 1.
"""

import itertools
import math
import os
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from repro.errors import ReproError
from repro.files import atomic_write
from repro.models import darknet
from repro.models.vgg import channels_at

VERSION = (0, 2, 0)
_ANOTHER = "give the file of a network with the same classes, channels, width and depth, or download it again"


@dataclass(frozen=True)
class Part:
    """Numbers that stand together in a file: those of `variable`, there of `shape`, whose `axes` in this order are the
    variable's (a map's axes are one in the variable)."""

    variable: Any
    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return math.prod(self.shape)

    def decode(self, numbers: np.ndarray) -> np.ndarray:
        """The variable's value of the numbers float32 [size] of a file."""
        return numbers.reshape(self.shape).transpose(self.axes).reshape(self.variable.shape)

    def encode(self) -> np.ndarray:
        """The numbers float32 [size] that a file has for the variable's value, little-endian."""
        values = np.asarray(keras.ops.convert_to_numpy(self.variable), "<f4")
        return values.reshape([self.shape[axis] for axis in self.axes]).transpose(np.argsort(self.axes)).ravel()


@dataclass(frozen=True)
class Layer:
    """A convolution with its batch normalisation, or a fully connected layer."""

    name: str
    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """How many numbers its parts have together."""
        return sum(part.size for part in self.parts)


def file_layers(network: keras.Model, transposed: bool = False) -> list[Layer]:
    """What a network's .weights file holds, in its order. `transposed`: in the order of early files.

    Raises ReproError when a network has no layers conv1, conv2, ..."""
    by_name = {layer.name: layer for layer in network.layers}

    def numbered(kind: str) -> list[int]:
        return sorted(int(match[1]) for name in by_name if (match := re.fullmatch(rf"{kind}(\d+)", name)))

    if not numbered("conv"):
        raise ReproError(f"{network.name} has no layers that a .weights file holds", "give a network of the YOLO line")
    layers = [Layer(f"conv{n}", _convolution(by_name[f"conv{n}"], by_name.get(f"bn{n}"))) for n in numbered("conv")]
    for name in (f"fc{n}" for n in numbered("fc")):
        layers.append(Layer(name, _connected(by_name[name], by_name.get("flatten"), transposed)))
    return layers


def _vector(variable: Any) -> Part:
    return Part(variable, tuple(variable.shape), (0,))


def _convolution(layer: Any, norm: Any) -> tuple[Part, ...]:
    height, width, inputs, outputs = layer.kernel.shape
    kernel = Part(layer.kernel, (outputs, inputs, height, width), (2, 3, 1, 0))
    if norm is None:
        return _vector(layer.bias), kernel
    return *map(_vector, (norm.beta, norm.gamma, norm.moving_mean, norm.moving_variance)), kernel


def _connected(layer: Any, flatten: Any, transposed: bool) -> tuple[Part, ...]:
    inputs, outputs = layer.kernel.shape
    source: tuple[int, ...] = (inputs,)
    axes: tuple[int, ...] = (0,)
    if flatten is not None and layer.input is flatten.output:
        height, width, channels = flatten.input.shape[1:]
        source, axes = (channels, height, width), (1, 2, 0)
    if transposed:
        return _vector(layer.bias), Part(layer.kernel, (*source, outputs), (*axes, len(axes)))
    return _vector(layer.bias), Part(layer.kernel, (outputs, *source), (*(axis + 1 for axis in axes), 0))


def read_weights(path: str | os.PathLike, network: keras.Model, partial: bool = False) -> int:
    """Fill a network of the YOLO line from a .weights file. Returns how many layers, convolutional and connected.

    `partial`: the file may hold the first layers alone, as those of a backbone do (darknet19_448.conv.23,
    darknet53.conv.74, extraction.conv.weights), and must then end where a layer does. Raises ReproError, and leaves
    the network as it is, when the file cannot be read or holds another number of values than the layers take, values
    that are not finite, or negative variances."""
    path = Path(path)
    numbers, rest, transposed = _read(path)
    layers = file_layers(network, transposed)
    found = f"{len(numbers):,}" + (f" numbers and {rest} of 4 bytes" if rest else " numbers")
    ends = list(itertools.accumulate(layer.size for layer in layers))
    if partial:
        count = sum(end <= len(numbers) for end in ends)
        if rest or not count or ends[count - 1] != len(numbers):
            raise _ends_elsewhere(path, found, network, layers, count, ends)
    else:
        count = len(layers)
        if rest or ends[-1] != len(numbers):
            cure = _ANOTHER
            if not rest and len(numbers) in ends:
                cure = f"the file holds its first {ends.index(len(numbers)) + 1} layers: read it as a partial one"
            raise ReproError(f"{path} holds {found}, {network.name} takes {ends[-1]:,}", cure)
    _assign(path, numbers, layers[:count])
    return count


def _read(path: Path) -> tuple[np.ndarray, int, bool]:
    """(the numbers after the header, bytes that are left over, whether fully connected layers are transposed)."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            version = file.read(12)
            major, minor, _ = struct.unpack("<3i", version.ljust(12, b"\0"))
            header = 20 if major * 10 + minor >= 2 and max(major, minor) < 1000 else 16
            if size < header:
                cure = "download it again"
                raise ReproError(f"{path} has {size} bytes, too few for the header of a .weights file", cure)
            numbers = np.fromfile(file, "<f4", offset=header - 12)
    except OSError as error:
        raise ReproError(f"{path} cannot be read: {error.strerror}", "give the .weights file of a network") from None
    return numbers, (size - header) % 4, max(major, minor) > 1000


def _ends_elsewhere(
    path: Path, found: str, network: keras.Model, layers: list[Layer], count: int, ends: list[int]
) -> ReproError:
    if count == len(layers):
        takes = f"all {count} layers of {network.name} take {ends[-1]:,}"
    elif count:
        takes = f"{network.name} takes {ends[count - 1]:,} up to {layers[count - 1].name} and {ends[count]:,} up to "
        takes += layers[count].name
    else:
        takes = f"{layers[0].name}, the first layer of {network.name}, takes {ends[0]:,}"
    return ReproError(f"{path} holds {found}, {takes}", "give the file of its backbone, of the same channels and width")


def _assign(path: Path, numbers: np.ndarray, layers: list[Layer]) -> None:
    """Give the numbers to the layers, which take as many; check them all before the first."""
    found, start = [], 0
    for layer in layers:
        for part in layer.parts:
            values = numbers[start : start + part.size]
            start += part.size
            if not np.isfinite(values).all():
                raise ReproError(f"{path} holds values that are not finite in {layer.name}", "download it again")
            if part.variable.name == "moving_variance" and values.min() < 0:
                raise ReproError(f"{path} holds negative variances in {layer.name}", _ANOTHER)
            found.append((part, values))
    for part, values in found:
        part.variable.assign(part.decode(values))


def write_weights(path: str | os.PathLike, network: keras.Model, seen: int = 0) -> None:
    """Write a network of the YOLO line as a .weights file of version 0.2.0. `seen`: images it was trained on.

    Raises ReproError for a network of another line."""
    numbers = [part.encode().tobytes() for layer in file_layers(network) for part in layer.parts]
    atomic_write(Path(path), struct.pack("<3iq", *VERSION, seen) + b"".join(numbers))


Section = tuple[str, tuple[tuple[str, Any], ...]]


def write_cfg(
    path: str | os.PathLike,
    rows: Iterable[darknet.Row],
    input_size: tuple[int, int],
    channels: int = 3,
    width: float = 1.0,
    answers: bool = True,
) -> None:
    """Write the .cfg of a network from its rows. `input_size` is (height, width), `width` as it was built with.

    A network without `Answer` rows is a classifier and ends in a softmax. `answers=False` leaves all of these out, for
    readers that do not know them; labels then mean the row before. Indices in `from` and `layers` are relative. [net]
    has what inference needs: Darknet trains with its own defaults unless more is added there."""
    rows = list(rows)
    if not any(isinstance(row, darknet.Answer) for row in rows):
        rows.append(darknet.Answer("softmax", (("groups", 1),)))
    height, breadth = input_size
    sections: list[Section] = [
        ("net", (("batch", 1), ("subdivisions", 1), ("width", breadth), ("height", height), ("channels", channels)))
    ]
    places: dict[str, int] = {}
    for row in rows:
        here = len(sections) - 1  # [net] is not counted

        def back(label: str, here: int = here) -> int:
            return places[label] - here

        if answers or not isinstance(row, darknet.Answer):
            sections.append(_section(row, width, back))
        if row.label:
            places[row.label] = len(sections) - 2
    text = "\n".join(
        f"[{kind}]\n" + "".join(f"{key}={_text(value)}\n" for key, value in settings) for kind, settings in sections
    )
    atomic_write(Path(path), text.encode())


def _text(value: Any) -> str:
    """A setting as a .cfg has it, lists with commas."""
    if isinstance(value, tuple | list):
        return ",".join(map(_text, value))
    return str(int(value)) if isinstance(value, bool) else str(value)


def _section(row: darknet.Row, width: float, back: Callable[[str], int]) -> Section:
    """Kind and settings of a row's section. `back`: where a label is, seen from here."""

    def scaled(filters: int, fixed: bool) -> int:
        return filters if fixed else channels_at(filters, width)

    match row:
        case darknet.Conv():
            norm = (("batch_normalize", 1),) if row.norm else ()
            sizes = (("filters", scaled(row.filters, row.fixed)), ("size", row.size), ("stride", row.stride))
            return "convolutional", (*norm, *sizes, ("pad", 1), ("activation", row.activation))
        case darknet.MaxPool():
            return "maxpool", (("size", row.size), ("stride", row.stride))
        case darknet.AveragePool():
            return "avgpool", ()
        case darknet.Shortcut():
            return "shortcut", (("from", back(row.source)), ("activation", "linear"))
        case darknet.Route():
            return "route", (("layers", tuple(map(back, row.sources))),)
        case darknet.Reorg():
            return "reorg", (("stride", row.stride),)
        case darknet.Upsample():
            return "upsample", (("stride", row.stride),)
        case darknet.Connected():
            return "connected", (("output", scaled(row.units, row.fixed)), ("activation", row.activation))
        case darknet.Dropout():
            return "dropout", (("probability", 0.5),)
        case darknet.Answer():
            return row.kind, row.settings
