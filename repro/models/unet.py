"""U-Net: Ronneberger, Fischer & Brox, "U-Net: Convolutional Networks for Biomedical Image Segmentation", MICCAI 2015
(arXiv 1505.04597).

A contracting path halves the map and doubles the channels four times; an expanding path does the reverse, and at each
level joins the finer map of the contracting path to its own (Figure 1). Without padding every 3x3 convolution takes a
pixel from each side, so the finer maps are cut to their centre. With a 572x572 image and `padding="valid"`:

    level 1   2 x 3x3, 64    [B,568,568,64]     pool -> [B,284,284,64]
    level 2   2 x 3x3, 128   [B,280,280,128]    pool -> [B,140,140,128]
    level 3   2 x 3x3, 256   [B,136,136,256]    pool -> [B,68,68,256]
    level 4   2 x 3x3, 512   [B,64,64,512]      pool -> [B,32,32,512]
    bottom    2 x 3x3, 1024  [B,28,28,1024]
    level 4   up 2x2, 512    [B,56,56,512]      + level 4's [B,56,56,512]    2 x 3x3 -> [B,52,52,512]
    level 3   up 2x2, 256    [B,104,104,256]    + level 3's [B,104,104,256]  2 x 3x3 -> [B,100,100,256]
    level 2   up 2x2, 128    [B,200,200,128]    + level 2's [B,200,200,128]  2 x 3x3 -> [B,196,196,128]
    level 1   up 2x2, 64     [B,392,392,64]     + level 1's [B,392,392,64]   2 x 3x3 -> [B,388,388,64]
    score     1x1            [B,388,388,2]      23 convolutions, 31,030,658 parameters

The released network differs: a ReLU follows each up-convolution, and the last of them keeps 128 channels.
"""

import math

import keras
from keras import ops

from repro.errors import ReproError, unknown_name
from repro.ops.dropout import HalfDropout
from repro.ops.image import Crop, Normalise
from repro.ops.losses import segmentation_loss

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
CHANNELS = (64, 128, 256, 512)  # of the four levels; the bottom has twice the last (Figure 1)
LEAST_BOTTOM = 4  # side of the bottom map; of a smaller one, two unpadded levels leave no pixel at the top

DEVIATIONS = (
    "grey values are centred and divided by 58; the paper does not say how it scales them",
    "dropout of 0.5 after the last two contracting levels, as in the released network; the paper gives no rate",
    "the weighted loss is averaged over the pixels, where Eq. 1 is their sum; the learning rate, which the paper does "
    "not give, is ours",
    'padding "same" is ours: padded convolutions, scores as large as the image',
)


def recipe(variant: str, name: str) -> dict:
    """The training recipe of Section 3: SGD with momentum 0.99 on one large tile at a time, and the augmentation of
    Section 3.1 (shift, rotation, elastic deformation of 10 pixels, grey values).

    Ours, since the paper leaves them open: the learning rate (with ten times as much this momentum makes the loss
    swing), the schedule, the number of epochs (of about 30 images), no weight decay, and how far images are shifted,
    rotated and changed in their grey values."""
    return {
        "optimizer": "sgd", "momentum": 0.99, "batch_size": 1, "learning_rate": 1e-4, "weight_decay": 0.0,
        "schedule": "constant", "epochs": 1000,
        "augment": {"jitter": 16.0, "rotate": 180.0, "elastic": 10.0, "grey": 0.1},
    }  # fmt: skip


class UpConv2D(keras.layers.Conv2DTranspose):
    """An up-convolution of kernel 2 and stride 2 (Section 2), computed as one matrix product.

    [B,h,w,C] to [B,2h,2w,K]: the same numbers and variables as Conv2DTranspose. Every output pixel depends on one
    input pixel, so the product with the kernel gives blocks of 2x2; XLA would convolve an image dilated with zeros,
    which takes up to 2.5 times as long on a CPU (level 1 at full width, forward and gradient)."""

    def call(self, inputs):
        height, width, channels = inputs.shape[1:]
        kernel = ops.reshape(ops.transpose(self.kernel, (3, 0, 1, 2)), (channels, 4 * self.filters))
        blocks = ops.reshape(ops.matmul(inputs, kernel), (-1, height, width, 2, 2, self.filters))
        out = ops.reshape(ops.transpose(blocks, (0, 1, 3, 2, 4, 5)), (-1, 2 * height, 2 * width, self.filters))
        return self.activation(out + self.bias)


def gaussian(incoming: int) -> keras.initializers.Initializer:
    """Normal weights of standard deviation sqrt(2/N) for N incoming values of a neuron (Section 3; He et al.)."""
    return keras.initializers.RandomNormal(0.0, math.sqrt(2 / incoming))


def convolutions(x, filters: int, level: str, padding: str, first: int = 1):
    """Two 3x3 convolutions and their ReLUs, `first` and `first` + 1 of their level (Section 2).

    [B,h,w,C] to [B,h,w,filters] with padding "same", [B,h-4,w-4,filters] with "valid"."""
    for index in (first, first + 1):
        options = {"kernel_initializer": gaussian(9 * x.shape[-1]), "name": f"conv{level}_{index}"}
        x = keras.layers.Conv2D(filters, 3, padding=padding, activation="relu", **options)(x)
    return x


def join(x, skip, level: int, padding: str):
    """The map `skip` of the contracting path beside `x` of the expanding path (Section 2), the larger one cut to the
    smaller: [B,H,W,C] and [B,h,w,D] to [B,h,w,C+D] with padding "valid"."""
    if padding == "valid":
        skip = Crop(x.shape[1:3], (skip.shape[1] - x.shape[1]) // 2, name=f"crop{level}")(skip)
    elif x.shape[1:3] != skip.shape[1:3]:  # an odd size was rounded up on the way down
        x = Crop(skip.shape[1:3], name=f"crop{level}")(x)
    return keras.layers.Concatenate(name=f"join{level}")([skip, x])


def levels_at(depth: float) -> int:
    """Number of poolings of a network of relative depth `depth`: that share of four, at least one."""
    return max(1, round(len(CHANNELS) * depth))


def valid_sizes(input_size: tuple[int, int], depth: float = 1.0) -> tuple[tuple[int, int], tuple[int, int]]:
    """The nearest (height, width) at most and at least `input_size` whose maps are even before each pooling, which is
    what a network without padding needs. They are equal where the size fits; none is below the smallest that does.

    >>> valid_sizes((500, 572))
    ((492, 572), (508, 572))
    """
    step = 2 ** levels_at(depth)

    def size(halves: list[int]) -> tuple[int, int]:
        height, width = (step * max(half, LEAST_BOTTOM + 8) - 4 for half in halves)
        return height, width

    return size([(side + 4) // step for side in input_size]), size([-(-(side + 4) // step) for side in input_size])


def output_size(input_size: tuple[int, int], depth: float = 1.0, padding: str = "valid") -> tuple[int, int]:
    """(height, width) of the scores: the image's with padding "same"; without, the centre, 184 pixels less at full
    depth (572 -> 388).

    Raises ReproError for an image that does not fit, naming those that do, and for an unknown padding.

    >>> output_size((572, 572)), output_size((100, 60), padding="same")
    ((388, 388), (100, 60))
    """
    asked, levels = f"{input_size[0]}x{input_size[1]}", levels_at(depth)
    if padding == "same":
        if min(input_size) < 2**levels:
            raise ReproError(f"unet cannot take {asked} images", f"give at least {2**levels}x{2**levels}")
        return input_size[0], input_size[1]
    if padding != "valid":
        raise unknown_name("padding of unet", padding, ("valid", "same"))
    if tuple(input_size) not in (near := valid_sizes(input_size, depth)):
        cure = " or ".join(f"{height}x{width}" for height, width in dict.fromkeys(near))
        raise ReproError(f"unet without padding cannot take {asked} images", f"give {cure}, or padding same")
    return tuple(side - 12 * 2**levels + 8 for side in input_size)


def unet(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    padding: str = "valid",
) -> keras.Model:  # fmt: skip
    """U-Net. float32 [B,H,W,C] in 0..255 to scores [B,h,w,num_classes].

    `padding`: "valid", the paper's, scores the centre (h, w) = `output_size`; "same" pads every convolution and scores
    every pixel, sizes that do not halve evenly too. `width` is the share of the channels, `depth` that of the four
    levels. Raises ReproError for an image that does not fit, naming those that do, or an unknown padding."""
    output_size(input_size, depth, padding)
    filters = [max(1, round(count * width)) for count in (*CHANNELS, 2 * CHANNELS[-1])]
    levels, skips = levels_at(depth), []
    image = keras.Input((*input_size, channels), name="image")
    x = Normalise((127.5,) * channels, (58.0,) * channels, dtype="float32", name="normalise")(image)
    for level in range(1, levels + 1):
        x = convolutions(x, filters[level - 1], str(level), padding)
        if level == levels:
            x = HalfDropout(name=f"drop{level}")(x)
        skips.append(x)
        x = keras.layers.MaxPooling2D(2, 2, padding="same", name=f"pool{level}")(x)
    x = convolutions(x, filters[levels], "_bottom", padding)
    x = HalfDropout(name="drop_bottom")(x)
    for level in range(levels, 0, -1):
        up = gaussian(x.shape[-1])  # each output pixel sees one input pixel
        x = UpConv2D(filters[level - 1], 2, strides=2, kernel_initializer=up, name=f"up{level}")(x)
        x = join(x, skips[level - 1], level, padding)
        x = convolutions(x, filters[level - 1], str(level), padding, first=3)
    x = keras.layers.Conv2D(num_classes, 1, kernel_initializer=gaussian(x.shape[-1]), name="score")(x)
    # scores leave in float32 whatever the precision inside, so that loss and metrics lose nothing
    x = keras.layers.Activation("linear", dtype="float32", name="scores")(x)
    return keras.Model(image, {"scores": x}, name="unet")


def loss(outputs: dict, batch: dict, kind: str = "cross_entropy", **options):
    """Softmax cross-entropy weighted by pixel (Eq. 1), over the pixels that are scored; or another `kind` (ours).

    `outputs["scores"]` [B,h,w,K]; `batch["semantic"]` int [B,H,W], 255 = void, and where it is there
    `batch["pixel_weight"]` float [B,H,W] are cut to their centre h x w. Dice loss has no weights of pixels."""
    scores = outputs["scores"]
    if "pixel_weight" in batch and kind != "dice":
        options["pixel_weight"] = centre(batch["pixel_weight"], scores.shape[1:3])
    return segmentation_loss(scores, centre(batch["semantic"], scores.shape[1:3]), kind, **options)


def centre(maps, size: tuple[int, int]):
    """The middle of [B,H,W], [B,*size]."""
    top, left = (maps.shape[1] - size[0]) // 2, (maps.shape[2] - size[1]) // 2
    return maps[:, top : top + size[0], left : left + size[1]]
