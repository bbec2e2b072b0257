"""Darknet-19 and Darknet-53, and the rows that every network of the YOLO line is written in.

Darknet-19: Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017 (arXiv 1612.08242), Table 6, and
cfg/darknet19.cfg. Darknet-53: Redmon & Farhadi, "YOLOv3: An Incremental Improvement", 2018 (arXiv 1804.02767), Table 1,
and cfg/darknet53.cfg. With an image [B,256,256,3]:

    darknet19   conv13 [B,16,16,512], conv18 [B,8,8,1024], conv19 1x1 1000, average         20,842,376 parameters
    darknet53   5 stages of 1, 2, 8, 8, 4 residual blocks, [B,8,8,1024], average, 1000       41,609,928 parameters

A network is a list of rows in the order of the authors' .cfg file, which is also the order of their .weights file.
Convolutions are called conv1, conv2, ... in that order, so that a detector finds its backbone's weights by name.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import keras

from repro.errors import ReproError
from repro.models.vgg import channels_at
from repro.ops.image import Normalise
from repro.ops.losses import softmax_cross_entropy

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
SLOPE = 0.1  # of the leaky ReLU below zero (YOLO v1, Eq. 2)
# as Darknet's CUDA code has it; its CPU code adds 1e-6 to the standard deviation
EPSILON = 1e-5
# Keras' and Darknet's 0.99 remembers the start for hundreds of steps, more than a short run has
BATCH_NORM_MOMENTUM = 0.9

DEVIATIONS = (
    "He initialisation in place of Darknet's uniform one",
    "batch normalisation keeps running means of momentum 0.9, Darknet's is 0.99",
    "weight decay is decoupled from the gradient (Keras)",
    # from here on of the classifiers alone
    "the learning rate falls along a cosine; the paper's along a polynomial of the fourth power",
    "mirroring and random crops alone, without its changes of hue, saturation and exposure; the fine-tuning at 448x448 "
    "is a run of its own",
)


@dataclass(frozen=True)
class Conv:
    """A convolution, batch normalisation (or a bias) and its activation. [B,h,w,C] to [B,h/stride,w/stride,filters],
    padded as Darknet does.

    `fixed`: its filters are those of an answer, which a narrower network gives too. `label`: its output's name."""

    filters: int
    size: int = 3
    stride: int = 1
    norm: bool = True
    activation: str = "leaky"
    fixed: bool = False
    label: str = ""


@dataclass(frozen=True)
class MaxPool:
    """Max pooling; odd maps round up, and a stride of 1 keeps the size. Borders are Darknet's where the size is 2 or
    the stride 1."""

    size: int = 2
    stride: int = 2
    label: str = ""


@dataclass(frozen=True)
class AveragePool:
    """The mean of the whole map, [B,1,1,C]."""

    label: str = ""


@dataclass(frozen=True)
class Shortcut:
    """Add the output of an earlier row, of the same shape (a residual)."""

    source: str
    label: str = ""


@dataclass(frozen=True)
class Route:
    """Go on from earlier rows of one height and width, side by side along the channels."""

    sources: tuple[str, ...]
    label: str = ""


@dataclass(frozen=True)
class Reorg:
    """[B,h,w,C] to [B,h/2,w/2,4C], in the order of Darknet's reorg layer (`repro.models.yolo_v2.Reorg`)."""

    stride: int = 2
    label: str = ""


@dataclass(frozen=True)
class Upsample:
    """[B,h,w,C] to [B,2h,2w,C], every pixel four times."""

    stride: int = 2
    label: str = ""


@dataclass(frozen=True)
class Connected:
    """A fully connected layer, [B,D] or a map, flattened, to [B,units]; `fixed` as of `Conv`."""

    units: int
    activation: str = "leaky"
    fixed: bool = False
    label: str = ""


@dataclass(frozen=True)
class Dropout:
    """Dropout of one half."""

    label: str = ""


@dataclass(frozen=True)
class Answer:
    """Where an answer leaves the network; in the .cfg file a section of this `kind` (detection, region, yolo) with
    these `settings`."""

    kind: str
    settings: tuple[tuple[str, Any], ...] = ()
    label: str = ""


Row = Conv | MaxPool | AveragePool | Shortcut | Route | Reorg | Upsample | Connected | Dropout | Answer


def normalise(image, channels: int = 3):
    """[B,H,W,C] in 0..255 to 0..1, as Darknet reads images."""
    return Normalise((0.0,) * channels, (255.0,) * channels, dtype="float32", name="normalise")(image)


def stack(x, rows: Iterable[Row], width: float = 1.0, reorg: Any = None) -> dict[str, Any]:
    """Build rows on [B,H,W,C]. Returns the outputs of labelled rows by label, and that of the last row as "last".

    `width` scales the filters of every row that is not `fixed`. `reorg`: the layer class of `Reorg` rows."""
    outputs: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for row in rows:
        kind = type(row).__name__
        counts[kind] = number = counts.get(kind, 0) + 1
        match row:
            case Conv():
                x = _convolution(x, row, number, width)
            case MaxPool():
                x = keras.layers.MaxPooling2D(row.size, row.stride, padding="same", name=f"pool{number}")(x)
            case AveragePool():
                x = keras.layers.GlobalAveragePooling2D(keepdims=True, name="avg_pool")(x)
            case Shortcut():
                x = keras.layers.Add(name=f"add{number}")([outputs[row.source], x])
            case Route():
                sources = [outputs[label] for label in row.sources]
                x = keras.layers.Concatenate(name=f"route{number}")(sources) if len(sources) > 1 else sources[0]
            case Reorg():
                x = reorg(row.stride, name=f"reorg{number}")(x)
            case Upsample():
                x = keras.layers.UpSampling2D(row.stride, interpolation="nearest", name=f"upsample{number}")(x)
            case Connected():
                x = _connected(x, row, number, width)
            case Dropout():
                x = keras.layers.Dropout(0.5, name=f"drop{number}")(x)
        if row.label:
            outputs[row.label] = x
    return outputs | {"last": x}


def _convolution(x, row: Conv, number: int, width: float):
    """conv<number>, bn<number> and the activation."""
    padding = "same"
    if row.stride > 1 and row.size > 1:  # Keras' "same" would begin at the first pixel, Darknet begins outside
        x = keras.layers.ZeroPadding2D(row.size // 2, name=f"pad{number}")(x)
        padding = "valid"
    filters = row.filters if row.fixed else channels_at(row.filters, width)
    options = {"padding": padding, "kernel_initializer": keras.initializers.HeNormal(), "name": f"conv{number}"}
    x = keras.layers.Conv2D(filters, row.size, row.stride, use_bias=not row.norm, **options)(x)
    if row.norm:
        x = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, epsilon=EPSILON, name=f"bn{number}")(x)
    return _activate(x, row.activation, f"leaky{number}")


def _connected(x, row: Connected, number: int, width: float):
    """fc<number> and its activation, on [B,D] or on a map, flattened."""
    if len(x.shape) == 4:
        x = keras.layers.Flatten(name="flatten")(x)
    units = row.units if row.fixed else channels_at(row.units, width)
    x = keras.layers.Dense(units, kernel_initializer=keras.initializers.HeNormal(), name=f"fc{number}")(x)
    return _activate(x, row.activation, f"fc_leaky{number}")


def _activate(x, activation: str, name: str):
    return keras.layers.LeakyReLU(negative_slope=SLOPE, name=name)(x) if activation == "leaky" else x


def alternating(filters: int, depth: float, whole: int, label: str = "") -> list[Conv]:
    """3x3 convolutions with 1x1 ones of half their filters between them, `whole` in all at depth 1 (an odd number).

    `depth` below 1 keeps that share of the pairs, and always the first 3x3. The last has the label."""
    pairs = round((whole - 1) // 2 * depth)
    rows = [Conv(filters), *(row for _ in range(pairs) for row in (Conv(filters // 2, 1), Conv(filters)))]
    last = rows[-1]
    return [*rows[:-1], Conv(last.filters, last.size, label=label)]


def darknet19_rows(depth: float = 1.0) -> list[Row]:
    """The 18 convolutions of Darknet-19 that its detector keeps (Table 6). Labels "stride16" and "stride32"."""
    return [
        Conv(32), MaxPool(),
        Conv(64), MaxPool(),
        *alternating(128, depth, 3), MaxPool(),
        *alternating(256, depth, 3), MaxPool(),
        *alternating(512, depth, 5, "stride16"), MaxPool(),
        *alternating(1024, depth, 5, "stride32"),
    ]  # fmt: skip


def darknet53_rows(depth: float = 1.0) -> list[Row]:
    """The 52 convolutions of Darknet-53 (Table 1). Labels "stride2" to "stride32".

    `depth` below 1 keeps that share of each stage's residual blocks, at least one."""
    rows: list[Row] = [Conv(32)]
    for number, blocks in enumerate((1, 2, 8, 8, 4)):
        filters, count = 64 * 2**number, max(1, round(blocks * depth))
        source = f"stage{number + 1}_0"
        rows.append(Conv(filters, 3, 2, label=source))
        for block in range(1, count + 1):
            label = f"stride{2 ** (number + 1)}" if block == count else f"stage{number + 1}_{block}"
            rows += [Conv(filters // 2, 1), Conv(filters), Shortcut(source, label=label)]
            source = label
    return rows


def classifier_rows(name: str, num_classes: int, depth: float = 1.0) -> list[Row]:
    """All rows of "darknet19" (Table 6), which scores every position and takes the mean, or of "darknet53" (Table 1),
    which scores the mean: [B,H,W,3] to [B,1,1,num_classes]."""
    scores = Conv(num_classes, 1, norm=False, activation="linear", fixed=True)
    if name == "darknet19":
        return [*darknet19_rows(depth), scores, AveragePool()]
    return [*darknet53_rows(depth), AveragePool(), scores]


def _classifier(
    name: str, num_classes: int, input_size: tuple[int, int], channels: int, width: float, depth: float
) -> keras.Model:
    if min(input_size) < 32:
        raise ReproError(f"{name} cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    image = keras.Input((*input_size, channels), name="image")
    x = stack(normalise(image, channels), classifier_rows(name, num_classes, depth), width)["last"]  # [B,1,1,K]
    x = keras.layers.Flatten(name="flatten")(x)
    # scores leave in float32 whatever the precision inside, so that loss and metrics lose nothing
    return keras.Model(
        image, {"scores": keras.layers.Activation("linear", dtype="float32", name="scores")(x)}, name=name
    )


def darknet19(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float
) -> keras.Model:
    """Darknet-19. float32 [B,H,W,C] in 0..255 to class scores [B,num_classes] (before the softmax).

    Raises ReproError for images without a pixel at stride 32."""
    return _classifier("darknet19", num_classes, input_size, channels, width, depth)


def darknet53(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float
) -> keras.Model:
    """Darknet-53. float32 [B,H,W,C] in 0..255 to class scores [B,num_classes] (before the softmax).

    Raises ReproError for images without a pixel at stride 32."""
    return _classifier("darknet53", num_classes, input_size, channels, width, depth)


def recipe(variant: str, name: str) -> dict:
    """The training recipe of YOLO9000, Section 3 ("Training for classification"): 160 epochs from 0.1; YOLO v3's
    cfg/darknet53.cfg has 800,000 steps of 128 images, 80 epochs."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 128, "learning_rate": 0.1, "weight_decay": 5e-4,
        "schedule": "cosine", "epochs": 160 if name == "darknet19" else 80, "augment": {"flip": True},
    }  # fmt: skip


def loss(outputs: dict, batch: dict, **options):
    """Softmax cross-entropy of `outputs["scores"]` [B,K], averaged over the batch. `batch["label"]` int [B]."""
    return softmax_cross_entropy(outputs["scores"], batch["label"], void=None, **options)
