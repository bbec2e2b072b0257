"""GoogLeNet: Szegedy et al., "Going Deeper with Convolutions", CVPR 2015 (arXiv 1409.4842), Table 1 and Figure 3; what
the paper leaves open is that of Caffe's replica, bvlc_googlenet.

    image [B,224,224,3]
    conv1 7x7/2, 64                        [B,112,112,64]    pool 3x3/2, LRN -> [B,56,56,64]
    conv2 1x1, 64, then 3x3, 192, LRN      [B,56,56,192]     pool 3x3/2      -> [B,28,28,192]
    inception 3a 3b                        [B,28,28,480]     pool 3x3/2      -> [B,14,14,480]
    inception 4a 4b 4c 4d 4e               [B,14,14,832]     pool 3x3/2      -> [B,7,7,832]
    inception 5a 5b                        [B,7,7,1024]      average pool    -> [B,1024]
    dropout 0.4, classifier 1000           57 convolutions, 6,998,552 parameters

    training only, after 4a and after 4d:  average pool 5x5/3 [B,4,4,*], conv 1x1, 128, dense 1024, dropout 0.7,
                                           classifier 1000   13,378,280 parameters with both
"""

import keras
import numpy as np
from keras import ops

from repro.errors import ReproError, unknown_name
from repro.models.vgg import channels_at
from repro.ops.image import Normalise
from repro.ops.losses import softmax_cross_entropy

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# Table 1, for each module: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection
STAGES = {
    3: {"3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64)},
    4: {
        "4a": (192, 96, 208, 16, 48, 64),
        "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64),
        "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128),
    },
    5: {"5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128)},
}
AUXILIARY = {"aux1": "4a", "aux2": "4d"}  # Section 5: heads of training, and the modules they read
AUXILIARY_WEIGHT = 0.3  # Section 5
DROPOUT = 0.4  # Table 1

MEAN_RGB = (123.0, 117.0, 104.0)  # of bvlc_googlenet; the paper subtracts a mean (Section 5) and does not give it
# Ours: also divide by ImageNet's spread, so that random initialisation starts at unit scale.
STD_RGB = (58.395, 57.12, 57.375)

DEVIATIONS = (
    "inputs are divided by ImageNet's standard deviation after the mean is subtracted",
    "He initialisation (later work) and biases of 0; the paper does not say, the Caffe replica has Xavier and 0.2",
    "plain SGD on one machine in place of asynchronous SGD with Polyak averaging",
    "base learning rate, weight decay, batch size and epochs are those of the Caffe replica's quick solver; its rate "
    "falls with the root of the rest of the run, the paper's by 4% every 8 epochs, ours along a cosine",
    "mirroring alone, without crops of 8-100% of the area and without photometric distortion",
    "evaluation on one centre crop and one network; the paper's 144 crops and 7 networks are not built",
    "odd sizes are padded to even ones before a 3x3/2 pooling; Caffe drops that last row (224x224 has no odd size)",
)

_HE = keras.initializers.HeNormal


def recipe(variant: str, name: str) -> dict:
    """The training recipe: SGD with momentum 0.9 (Section 6); the rest, which the paper leaves open, from
    bvlc_googlenet/quick_solver.prototxt (2,400,000 iterations of 32 images) but for its schedule, and its mirroring."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 32, "learning_rate": 1e-2, "weight_decay": 2e-4,
        "schedule": "cosine", "epochs": 60, "augment": {"flip": True},
    }  # fmt: skip


class LocalResponseNorm(keras.layers.Layer):
    """x / (1 + alpha/size * sum of x^2 over the `size` nearest channels)^0.75. [B,H,W,C] to [B,H,W,C]; no variables.

    Krizhevsky et al. 2012, Section 3.3, with Caffe's division of alpha by the size. The sum is a product with a band
    matrix: the gradient of a sum of shifted slices takes XLA several times as long on a CPU."""

    def __init__(self, size: int = 5, alpha: float = 1e-4, **kwargs) -> None:
        super().__init__(**kwargs)
        self.size, self.alpha = size, alpha

    def call(self, x):
        exact = ops.cast(x, "float32")  # 1 + a small sum needs more digits than bfloat16 has
        channel = np.arange(x.shape[-1])
        band = (np.abs(channel[:, None] - channel) <= self.size // 2).astype("float32")
        root = ops.rsqrt(1 + self.alpha / self.size * ops.matmul(ops.square(exact), band))
        return ops.cast(exact * (root * ops.sqrt(root)), x.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


def normalise(image, channels: int = 3):
    """Mean subtraction (Section 5) and division by the spread. [B,H,W,C] in 0..255 to about unit scale."""
    mean, std = (MEAN_RGB, STD_RGB) if channels == 3 else ((127.5,) * channels, (58.0,) * channels)
    return Normalise(mean, std, dtype="float32", name="normalise")(image)


def conv_relu(x, filters: int, kernel: int, name: str, **options):
    """A convolution and its ReLU (Section 5). [B,h,w,C] to [B,h,w,filters], unless `options` of `Conv2D` differ."""
    options = {"padding": "same", **options}
    layer = keras.layers.Conv2D(filters, kernel, activation="relu", kernel_initializer=_HE(), name=name, **options)
    return layer(x)


def pool(x, name: str):
    """3x3 max pooling of stride 2, its first window at the first pixel. [B,H,W,C], none negative, to
    [B,H/2,W/2,C], rounded up."""
    odd = tuple(side % 2 for side in x.shape[1:3])
    if any(odd):  # "same" would begin outside the image, and scores of FCN would shift with its size
        x = keras.layers.ZeroPadding2D(tuple((0, extra) for extra in odd), name=f"{name}_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, padding="same", name=name)(x)


def inception(x, filters: tuple[int, ...], width: float, name: str):
    """An inception module (Figure 2b): four branches side by side. [B,H,W,C] to [B,H,W,sum of 4 branches]."""
    one, reduce3, three, reduce5, five, projection = (channels_at(count, width) for count in filters)
    branches = [
        conv_relu(x, one, 1, f"{name}_1x1"),
        conv_relu(conv_relu(x, reduce3, 1, f"{name}_3x3_reduce"), three, 3, f"{name}_3x3"),
        conv_relu(conv_relu(x, reduce5, 1, f"{name}_5x5_reduce"), five, 5, f"{name}_5x5"),
    ]
    x = keras.layers.MaxPooling2D(3, 1, padding="same", name=f"{name}_pool")(x)
    branches.append(conv_relu(x, projection, 1, f"{name}_pool_proj"))
    return keras.layers.Concatenate(name=name)(branches)


def trunk(x, width: float = 1.0, depth: float = 1.0) -> dict[str, keras.KerasTensor]:
    """The convolutional part, from a normalised image [B,H,W,C] to the map of each module in order:
    `{"3a": [B,H/8,W/8,256], ..., "5b": [B,H/32,W/32,1024]}`, sizes rounded up.

    `depth` below 1 keeps that share of each stage's modules, the first ones, at least one."""
    x = keras.layers.ZeroPadding2D(3, name="pad")(x)  # Caffe's place of the windows; "same" is one pixel beside it
    x = conv_relu(x, channels_at(64, width), 7, "conv1", strides=2, padding="valid")
    x = LocalResponseNorm(name="norm1")(pool(x, "pool1"))
    x = conv_relu(x, channels_at(64, width), 1, "conv2_reduce")
    x = conv_relu(x, channels_at(192, width), 3, "conv2")
    x = LocalResponseNorm(name="norm2")(x)
    maps = {}
    for stage, modules in STAGES.items():
        x = pool(x, f"pool{stage - 1}")
        for name in list(modules)[: max(1, round(len(modules) * depth))]:
            x = maps[name] = inception(x, modules[name], width, f"inception_{name}")
    return maps


def classifier(x, num_classes: int, dropout: float, name: str, output: str):
    """Dropout and class scores. [B,C] to [B,num_classes]."""
    x = keras.layers.Dropout(dropout, name=f"{name}_drop")(x)
    x = keras.layers.Dense(num_classes, name=f"{name}_classifier")(x)
    # scores leave in float32 whatever the precision inside, so that loss and metrics lose nothing
    return keras.layers.Activation("linear", dtype="float32", name=output)(x)


def auxiliary_head(x, num_classes: int, width: float, name: str):
    """Class scores from the middle of the network (Section 5). [B,h,w,C] to [B,num_classes].

    A map smaller than the 5x5 of the average pooling is pooled whole in that direction."""
    window = tuple(min(5, side) for side in x.shape[1:3])
    x = keras.layers.AveragePooling2D(window, 3, name=f"{name}_pool")(x)
    x = conv_relu(x, channels_at(128, width), 1, f"{name}_conv")
    x = keras.layers.Flatten(name=f"{name}_flatten")(x)
    dense = keras.layers.Dense(channels_at(1024, width), activation="relu", kernel_initializer=_HE(), name=f"{name}_fc")
    return classifier(dense(x), num_classes, 0.7, name, name)


def googlenet(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    heads: str = "infer",
) -> keras.Model:  # fmt: skip
    """GoogLeNet. float32 [B,H,W,C] in 0..255 to class scores [B,num_classes] (before the softmax).

    `heads` "train" adds the outputs `aux1` and `aux2` of 4a and 4d, shaped as `scores`; where `depth` leaves 4d out,
    the second reads the last module of stage 4. Layers have the same names with and without them.

    Raises ReproError for an image without a pixel at stride 32, or unknown heads."""
    if heads not in ("infer", "train"):
        raise unknown_name("choice of heads", heads, ("infer", "train"))
    if min(input_size) < 32:
        raise ReproError(f"googlenet cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    image = keras.Input((*input_size, channels), name="image")
    maps = trunk(normalise(image, channels), width, depth)
    x = keras.layers.GlobalAveragePooling2D(name="pool5")(list(maps.values())[-1])  # [B,1024]
    outputs = {"scores": classifier(x, num_classes, DROPOUT, "main", "scores")}
    if heads == "train":
        last = max(name for name in maps if name in STAGES[4])
        for name, module in AUXILIARY.items():
            outputs[name] = auxiliary_head(maps[min(module, last)], num_classes, width, name)
    return keras.Model(image, outputs, name="googlenet")


def loss(outputs: dict, batch: dict, **options):
    """Softmax cross-entropy, plus 0.3 of that of each auxiliary head whose scores are there (Section 5).
    `batch["label"]` int [B]."""
    total = softmax_cross_entropy(outputs["scores"], batch["label"], void=None, **options)
    for name in AUXILIARY:
        if name in outputs:
            auxiliary = softmax_cross_entropy(outputs[name], batch["label"], void=None, **options)
            total = total + AUXILIARY_WEIGHT * auxiliary
    return total
