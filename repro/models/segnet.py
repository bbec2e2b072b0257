"""SegNet: Badrinarayanan, Kendall & Cipolla, "SegNet: A Deep Convolutional Encoder-Decoder Architecture for Image
Segmentation", TPAMI 39(12), 2017 (arXiv 1511.00561).

The encoder is the convolutional part of VGG-16. Its poolings remember where each maximum was; the decoder mirrors the
encoder and unpools by these indices, without learning, so that borders return to their pixels (Section 3, Figures 2
and 3). Every 3x3 convolution but the last is followed by batch normalisation and ReLU. With a 360x480 image:

    conv1 2 x 64     pool -> [B,180,240,64]     unpool -> [B,360,480,64]    conv1_D 64, K        [B,360,480,K]
    conv2 2 x 128    pool -> [B,90,120,128]     unpool -> [B,180,240,128]   conv2_D 128, 64
    conv3 3 x 256    pool -> [B,45,60,256]      unpool -> [B,90,120,256]    conv3_D 2 x 256, 128
    conv4 3 x 512    pool -> [B,23,30,512]      unpool -> [B,45,60,512]     conv4_D 2 x 512, 256
    conv5 3 x 512    pool -> [B,12,15,512]      unpool -> [B,23,30,512]     conv5_D 3 x 512

26 convolutions, 29,449,355 parameters with 11 classes. The decoder counts its convolutions down: conv5_3_D is its
first, conv1_1_D its last, which gives the class scores.
"""

import keras

from repro.errors import ReproError
from repro.models import vgg
from repro.ops.dropout import HalfDropout
from repro.ops.losses import segmentation_loss
from repro.ops.unpool import MaxPoolWithIndices, MaxUnpool

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# Keras' 0.99 remembers the start for hundreds of steps, more than a short run has
BATCH_NORM_MOMENTUM = 0.9
DROPOUT_BLOCKS = (3, 4, 5)

DEVIATIONS = (
    vgg.DEVIATIONS[0],
    "the image's mean is subtracted; the released network takes the pixels as they are",
    'dropout, in the variant "paper" alone, follows pool3, pool4, pool5 and their mirror images in the decoder, as in '
    'the authors\' train_segnet_sun.prototxt; the paper says "to the end of deeper convolutional layers"',
    'the variant "released" has no dropout, like the authors\' training file for CamVid',
    "batch normalisation evaluates with running means (momentum 0.9) in place of means over the training set computed "
    "afterwards; epsilon 1e-3 in place of 1e-9, shifts start at 0 in place of 0.001",
    "weight decay of the released solver, decoupled from the gradient (Keras), and on biases and batch norm too",
    "biases learn at the same rate as weights, not at twice the rate",
    "class weights are counted on CamVid's training split; the released ones lie 2 to 17 % below, sign symbol's 9.6 "
    "where the published labels give 3.8",
)


def recipe(variant: str, name: str) -> dict:
    """The training recipe of Section 4: SGD at a fixed rate on batches of 5, cross-entropy balanced by median frequency
    (Section 3.2). Weight decay and length (40,000 steps, here in epochs of CamVid's 367 images) are those of
    segnet_solver.prototxt; the paper says more than 100 epochs, and 140,000 steps for its larger training set."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 5, "learning_rate": 1e-3, "weight_decay": 5e-4,
        "schedule": "constant", "epochs": 545, "loss_options": {"class_weights": "median_frequency"},
    }  # fmt: skip


def conv_bn_relu(x, filters: int, level: str):
    """A 3x3 convolution, batch normalisation over the batch, and ReLU (Section 3). [B,h,w,C] to [B,h,w,filters]."""
    x = keras.layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name=f"conv{level}")(x)
    x = keras.layers.BatchNormalization(momentum=BATCH_NORM_MOMENTUM, name=f"bn{level}")(x)
    return keras.layers.ReLU(name=f"relu{level}")(x)


def segnet(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float
) -> keras.Model:
    """SegNet. float32 [B,H,W,C] in 0..255 to scores [B,H,W,num_classes].

    `variant` "paper" has dropout in its deeper blocks (Section 4), "released" has none, as for CamVid.
    `width` is the share of the channels; `depth` below 1 keeps that share of each block's convolutions, at least one,
    in encoder and decoder alike. Raises ReproError when the image is too small to survive five poolings."""
    if min(input_size) < 32:
        raise ReproError(f"segnet cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    dropout_blocks = DROPOUT_BLOCKS if variant == "paper" else ()
    blocks = [(vgg.channels_at(filters, width), max(1, round(count * depth))) for filters, count in vgg.BLOCKS]
    image = keras.Input((*input_size, channels), name="image")
    x = vgg.normalise(image, channels)
    sizes, indices = [], []
    for number, (filters, count) in enumerate(blocks, start=1):
        for index in range(1, count + 1):
            x = conv_bn_relu(x, filters, f"{number}_{index}")
        sizes.append(x.shape[1:3])
        x, where = MaxPoolWithIndices(name=f"pool{number}")(x)
        indices.append(where)
        if number in dropout_blocks:
            x = HalfDropout(name=f"drop{number}")(x)
    for number in range(5, 0, -1):
        filters, count = blocks[number - 1]
        x = MaxUnpool(sizes[number - 1], name=f"up{number}")([x, indices[number - 1]])
        for index in range(count, 1, -1):
            x = conv_bn_relu(x, filters, f"{number}_{index}_D")
        if number > 1:  # the last of a block has as many channels as the unpooling that follows
            x = conv_bn_relu(x, blocks[number - 2][0], f"{number}_1_D")
        if number in dropout_blocks:
            x = HalfDropout(name=f"drop{number}_D")(x)
    x = keras.layers.Conv2D(num_classes, 3, padding="same", kernel_initializer="he_normal", name="conv1_1_D")(x)
    # scores leave in float32 whatever the precision inside, so that loss and metrics lose nothing
    x = keras.layers.Activation("linear", dtype="float32", name="scores")(x)
    return keras.Model(image, {"scores": x}, name="segnet")


def loss(outputs: dict, batch: dict, kind: str = "cross_entropy", class_weights=None, **options):
    """Softmax cross-entropy weighted by class (Section 3.2), void left out; or another `kind` (ours).

    `outputs["scores"]` [B,H,W,K], `batch["semantic"]` int [B,H,W], 255 = void; `class_weights` [K], see
    `repro.data.frequency`. Dice loss has no class weights."""
    if class_weights is not None:
        options["class_weights"] = class_weights
    return segmentation_loss(outputs["scores"], batch["semantic"], kind, **options)
