"""VGG-16: Simonyan & Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015
(arXiv 1409.1556), configuration D of Table 1.

    image [B,224,224,3]
    conv1 2 x 3x3, 64    pool -> [B,112,112,64]
    conv2 2 x 3x3, 128   pool -> [B,56,56,128]
    conv3 3 x 3x3, 256   pool -> [B,28,28,256]
    conv4 3 x 3x3, 512   pool -> [B,14,14,512]
    conv5 3 x 3x3, 512   pool -> [B,7,7,512]
    fc6 4096, fc7 4096 (dropout 0.5), fc8 1000      138,357,544 parameters
"""

import keras
import numpy as np

from repro.errors import ReproError
from repro.ops.image import Normalise
from repro.ops.losses import softmax_cross_entropy

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# (channels, convolutions) of each block: Table 1, column D
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))

# Section 2.1 subtracts the training set's mean RGB; the values are those of the authors' Caffe release.
MEAN_RGB = (123.68, 116.779, 103.939)
# Ours: also divide by ImageNet's spread, so that random initialisation starts at unit scale.
STD_RGB = (58.395, 57.12, 57.375)

DEVIATIONS = (
    "inputs are divided by ImageNet's standard deviation after the mean is subtracted; imported weights absorb it",
    "He initialisation (later work) in place of net A's weights and N(0, 0.01)",
    "the learning rate falls at fixed points of the run instead of when validation accuracy stalls",
    "evaluation on one centre crop; the paper's dense multi-scale evaluation is not built",
)

_HE = keras.initializers.HeNormal


def channels_at(channels: int, width: float) -> int:
    """Number of channels of a layer in a network of relative width `width`, at least one."""
    return max(1, round(channels * width))


def normalise(image, channels: int = 3):
    """Mean subtraction (Section 2.1) and division by the spread. [B,H,W,C] in 0..255 to about unit scale."""
    mean, std = (MEAN_RGB, STD_RGB) if channels == 3 else ((127.5,) * channels, (58.0,) * channels)
    return Normalise(mean, std, dtype="float32", name="normalise")(image)


def conv_relu(x, filters: int, name: str, padding: str = "same", kernel: int = 3):
    """A convolution of stride 1 and its ReLU (Section 2.1). [B,h,w,C] to [B,h,w,filters], less with padding "valid"."""
    layer = keras.layers.Conv2D(
        filters, kernel, padding=padding, activation="relu", kernel_initializer=_HE(), name=name
    )
    return layer(x)


def pool(x, name: str):
    """2x2 max pooling of stride 2. [B,h,w,C] to [B,h/2,w/2,C]; odd sizes round up, as Caffe does."""
    return keras.layers.MaxPooling2D(2, 2, padding="same", name=name)(x)


def blocks(x, width: float = 1.0, depth: float = 1.0) -> dict[str, keras.KerasTensor]:
    """The convolutional part. [B,H,W,C] to `{"pool1": [B,H/2,W/2,64], ..., "pool5": [B,H/32,W/32,512]}`, and
    under "conv1" to "conv5" what each of these pools.

    `depth` below 1 keeps that share of each block's convolutions, at least one."""
    features = {}
    for number, (channels, convolutions) in enumerate(BLOCKS, start=1):
        for index in range(1, max(1, round(convolutions * depth)) + 1):
            x = conv_relu(x, channels_at(channels, width), f"conv{number}_{index}")
        features[f"conv{number}"] = x
        x = features[f"pool{number}"] = pool(x, f"pool{number}")
    return features


def vgg16(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float
) -> keras.Model:
    """VGG-16. float32 [B,H,W,C] in 0..255 to class scores [B,num_classes] (before the softmax).

    Raises ReproError when the image is too small to survive five poolings (Table 1, column D)."""
    if min(input_size) < 32:
        raise ReproError(f"vgg16 cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    image = keras.Input((*input_size, channels), name="image")
    x = blocks(normalise(image, channels), width, depth)["pool5"]  # [B,7,7,512]
    x = keras.layers.Flatten(name="flatten")(x)  # [B,25088]
    for name in ("fc6", "fc7"):
        x = keras.layers.Dense(channels_at(4096, width), activation="relu", kernel_initializer=_HE(), name=name)(x)
        x = keras.layers.Dropout(0.5, name=f"drop{name[-1]}")(x)
    x = keras.layers.Dense(num_classes, name="fc8")(x)
    # scores leave in float32 whatever the precision inside, so that loss and metrics lose nothing
    x = keras.layers.Activation("linear", dtype="float32", name="scores")(x)
    return keras.Model(image, {"scores": x}, name="vgg16")


def recipe(variant: str, name: str) -> dict:
    """The training recipe of Section 3.1. `drops`: fractions of the run at which the rate is divided by 10."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 256, "learning_rate": 1e-2, "weight_decay": 5e-4,
        "schedule": "step", "drops": [0.5, 0.75, 0.9], "epochs": 74,
    }  # fmt: skip


def loss(outputs: dict, batch: dict, **options):
    """Softmax cross-entropy, averaged over the batch (Section 3.1). `batch["label"]` int [B]."""
    return softmax_cross_entropy(outputs["scores"], batch["label"], void=None, **options)


def from_keras_applications(model: keras.Model, source: keras.Model) -> int:
    """Copy the weights of `keras.applications.VGG16` (BGR, mean subtracted) by layer; returns how many layers.

    conv1_1 is turned to RGB and absorbs the division by the standard deviation. Layers whose shapes differ
    (another class count) keep their own weights. Raises ReproError when nothing fits."""
    convolutions = [layer for layer in source.layers if isinstance(layer, keras.layers.Conv2D)]
    dense = [layer for layer in source.layers if isinstance(layer, keras.layers.Dense)]
    names = [f"conv{n}_{i}" for n, (_, count) in enumerate(BLOCKS, 1) for i in range(1, count + 1)]
    pairs = [*zip(names, convolutions, strict=True), *zip(("fc6", "fc7", "fc8"), dense, strict=False)]
    ours = {layer.name: layer for layer in model.layers}
    copied = 0
    for name, layer in pairs:
        kernel, bias = (np.asarray(keras.ops.convert_to_numpy(v)) for v in layer.weights)
        if name == "conv1_1":
            kernel = kernel[:, :, ::-1, :] * np.asarray(STD_RGB, "float32")[:, None]
        if name not in ours:
            continue
        if name in ("fc6", "fc7") and len(ours[name].kernel.shape) == 4:  # FCN: the dense layer as a convolution
            kernel = kernel.reshape(ours[name].kernel.shape)
        if kernel.shape == tuple(ours[name].kernel.shape):
            ours[name].set_weights([kernel, bias])
            copied += 1
    if not copied:
        raise ReproError(f"no layer of {model.name} has the shape of VGG-16's", "use width 1 and depth 1")
    return copied
