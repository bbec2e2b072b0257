"""ResNet-101: He, Zhang, Ren & Sun, "Deep Residual Learning for Image Recognition", CVPR 2016 (arXiv 1512.03385),
Table 1, and the authors' ResNet-101-deploy.prototxt.

    image [B,224,224,3]
    conv1 7x7/2, 64                                 [B,112,112,64]   max pool 3x3/2 -> [B,56,56,64]
    conv2  3 blocks 1x1 64, 3x3 64, 1x1 256         [B,56,56,256]
    conv3  4 blocks 1x1 128, 3x3 128, 1x1 512       [B,28,28,512]
    conv4 23 blocks 1x1 256, 3x3 256, 1x1 1024      [B,14,14,1024]
    conv5  3 blocks 1x1 512, 3x3 512, 1x1 2048      [B,7,7,2048]
    average pool [B,2048], classifier 1000          104 convolutions, 44,549,160 parameters

Convolutions have no biases: batch normalisation follows every one. conv3, conv4 and conv5 halve the map in the first
1x1 convolution of their first block and in its shortcut. Layers have the names they have in `keras.applications`.
"""

import keras
import numpy as np

from repro.errors import ReproError
from repro.models import vgg
from repro.models.vgg import channels_at
from repro.ops.losses import softmax_cross_entropy

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# stage: (channels of its 1x1 and 3x3 convolutions, blocks): Table 1, column "101-layer"
STAGES = {2: (64, 3), 3: (128, 4), 4: (256, 23), 5: (512, 3)}
EXPANSION = 4  # a block gives four times the channels it computes with (Figure 5)

# that of keras.applications, whose weights we take; Caffe's is 1e-5, cuDNN's least, which rounding may fall below
EPSILON = 1.001e-5
# Keras' 0.99 remembers the start for hundreds of steps, more than a short run has
BATCH_NORM_MOMENTUM = 0.9

DEVIATIONS = (
    "one mean for each channel is subtracted (VGG's) in place of one for each pixel",
    vgg.DEVIATIONS[0],
    "the windows of the first max pooling begin one pixel outside the image, as in keras.applications and torchvision; "
    "Caffe's begin at the first pixel and end outside",
    "batch normalisation evaluates with running means (momentum 0.9) in place of statistics computed afterwards",
    "weight decay is decoupled from the gradient (Keras), and on biases and batch normalisation too",
    "the learning rate falls after thirds of the run instead of when the error stalls",
    "mirroring alone, without the random scale (shorter side 256 to 480), its crop and colour augmentation",
    "evaluation on one centre crop; the paper's 10 crops and its averages over five scales are not built",
)


def recipe(variant: str, name: str) -> dict:
    """The training recipe of Section 3.4: 600,000 steps of 256 images, in epochs of ImageNet's 1,281,167. `drops`:
    fractions of the run at which the rate is divided by 10."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 256, "learning_rate": 0.1, "weight_decay": 1e-4,
        "schedule": "step", "drops": [1 / 3, 2 / 3], "epochs": 120, "augment": {"flip": True},
    }  # fmt: skip


def conv_bn(
    x, filters: int, name: str, kernel: int = 1, strides: int = 1, frozen_bn: bool = False, trainable: bool = True
):
    """A convolution without bias and its batch normalisation (Section 3.4), `name`_conv and `name`_bn: [B,h,w,C] to
    [B,h/strides,w/strides,filters], rounded up.

    `frozen_bn`: normalise with the moving statistics in training too, and learn neither statistics nor gamma and
    beta. Keras does so where a batch normalisation is not `trainable`; to set `trainable` of a whole model undoes it.
    `trainable`: without it the convolution does not learn either."""
    options = {"padding": "same" if strides == 1 else "valid", "trainable": trainable, "name": f"{name}_conv"}
    start = keras.initializers.HeNormal()
    x = keras.layers.Conv2D(filters, kernel, strides, use_bias=False, kernel_initializer=start, **options)(x)
    learns = trainable and not frozen_bn
    return keras.layers.BatchNormalization(
        momentum=BATCH_NORM_MOMENTUM, epsilon=EPSILON, trainable=learns, name=f"{name}_bn"
    )(x)


def bottleneck(x, filters: int, strides: int, project: bool, name: str, **options):
    """A residual block (Figure 5, right; Equation 1): [B,h,w,C] to [B,h/strides,w/strides,4*filters], rounded up.

    `project`: the shortcut is a 1x1 convolution (option B of Section 3.3), not the identity. `options` as of
    `conv_bn`."""
    shortcut = x
    if project:
        shortcut = conv_bn(x, EXPANSION * filters, f"{name}_0", strides=strides, **options)
    x = conv_bn(x, filters, f"{name}_1", strides=strides, **options)
    x = keras.layers.ReLU(name=f"{name}_1_relu")(x)
    x = conv_bn(x, filters, f"{name}_2", kernel=3, **options)
    x = keras.layers.ReLU(name=f"{name}_2_relu")(x)
    x = conv_bn(x, EXPANSION * filters, f"{name}_3", **options)
    x = keras.layers.Add(name=f"{name}_add")([shortcut, x])
    return keras.layers.ReLU(name=f"{name}_out")(x)


def stage(x, number: int, width: float, depth: float, **options):
    """The blocks of stage 2 to 5 (Table 1): [B,h,w,C] to [B,h,w,256] for stage 2, half as high and wide and with twice
    the channels for each later one.

    `depth` below 1 keeps that share of the blocks, the first ones, at least one. `options` as of `conv_bn`."""
    filters, blocks = STAGES[number]
    for index in range(1, max(1, round(blocks * depth)) + 1):
        strides = 2 if index == 1 and number > 2 else 1
        x = bottleneck(x, channels_at(filters, width), strides, index == 1, f"conv{number}_block{index}", **options)
    return x


def stages(
    x, width: float = 1.0, depth: float = 1.0, *, frozen_bn: bool = False, frozen_stages: int = 0, last: int = 5
) -> dict[str, keras.KerasTensor]:
    """The convolutional part up to stage `last`, from a normalised image [B,H,W,C]: `{"conv1": [B,H/2,W/2,64],
    "conv2": [B,H/4,W/4,256], "conv3": [B,H/8,W/8,512], "conv4": [B,H/16,W/16,1024], "conv5": [B,H/32,W/32,2048]}`,
    sizes rounded up.

    `frozen_bn` fixes every batch normalisation, as detectors do that start from this network (Appendix A): see
    `conv_bn`. `frozen_stages`: stages up to this one do not learn at all (2 in Detectron, FREEZE_AT)."""
    frozen = frozen_stages >= 1
    x = keras.layers.ZeroPadding2D(3, name="conv1_pad")(x)  # "same" would lie one pixel beside Caffe's windows
    x = conv_bn(x, channels_at(64, width), "conv1", 7, 2, frozen_bn=frozen_bn, trainable=not frozen)
    features = {"conv1": keras.layers.ReLU(name="conv1_relu")(x)}
    x = keras.layers.ZeroPadding2D(1, name="pool1_pad")(features["conv1"])  # as good as minus infinity after a ReLU
    x = keras.layers.MaxPooling2D(3, 2, name="pool1_pool")(x)
    for number in range(2, last + 1):
        x = stage(x, number, width, depth, frozen_bn=frozen_bn, trainable=number > frozen_stages)
        features[f"conv{number}"] = x
    return features


def conv5(x, width: float = 1.0, depth: float = 1.0, *, frozen_bn: bool = False):
    """Stage 5 alone, as a detector's head over the features of its regions (Appendix A): [R,14,14,1024] to
    [R,7,7,2048], with the names and weights that `stages` gives it.

    A network that has this builds its `stages` with `last=4`. For `frozen_bn` see `conv_bn`."""
    return stage(x, 5, width, depth, frozen_bn=frozen_bn)


def resnet101(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    frozen_bn: bool = False,
) -> keras.Model:  # fmt: skip
    """ResNet-101. float32 [B,H,W,C] in 0..255 to class scores [B,num_classes] (before the softmax).

    For `frozen_bn` see `conv_bn`. Raises ReproError for an image without a pixel at stride 32."""
    if min(input_size) < 32:
        raise ReproError(f"resnet101 cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    image = keras.Input((*input_size, channels), name="image")
    x = stages(vgg.normalise(image, channels), width, depth, frozen_bn=frozen_bn)["conv5"]  # [B,7,7,2048]
    x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)  # [B,2048]
    x = keras.layers.Dense(num_classes, name="predictions")(x)
    # scores leave in float32 whatever the precision inside, so that loss and metrics lose nothing
    x = keras.layers.Activation("linear", dtype="float32", name="scores")(x)
    return keras.Model(image, {"scores": x}, name="resnet101")


def loss(outputs: dict, batch: dict, **options):
    """Softmax cross-entropy, averaged over the batch (Section 3.4). `batch["label"]` int [B]."""
    return softmax_cross_entropy(outputs["scores"], batch["label"], void=None, **options)


def from_keras_applications(model: keras.Model, source: keras.Model) -> int:
    """Copy the weights of `keras.applications.ResNet101` (BGR, mean subtracted) by layer name, into any network built
    of `stages` and `conv5`; returns how many convolutions and dense layers were copied, 105 of the whole network.

    conv1 is turned to RGB and absorbs the division by the standard deviation. The biases its convolutions have are
    subtracted from the moving means of the batch normalisations that follow. Layers whose shapes differ (another class
    count) keep their own weights. Raises ReproError when nothing fits."""
    ours = {layer.name: layer for layer in model.layers}
    theirs = {layer.name: layer for layer in source.layers}
    copied = 0
    for name, layer in theirs.items():
        if name not in ours or not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            continue
        kernel, bias = (np.asarray(keras.ops.convert_to_numpy(variable)) for variable in layer.weights)
        if kernel.shape != tuple(ours[name].kernel.shape):
            continue
        if name == "conv1_conv":
            kernel = kernel[:, :, ::-1, :] * np.asarray(vgg.STD_RGB, "float32")[:, None]
        ours[name].kernel.assign(kernel)
        if isinstance(layer, keras.layers.Dense):
            ours[name].bias.assign(bias)
        else:
            norm = name.removesuffix("_conv") + "_bn"
            for key in ("gamma", "beta", "moving_mean", "moving_variance"):
                value = np.asarray(keras.ops.convert_to_numpy(getattr(theirs[norm], key)))
                getattr(ours[norm], key).assign(value - bias if key == "moving_mean" else value)
        copied += 1
    if not copied:
        raise ReproError(f"no layer of {model.name} has the shape of ResNet-101's", "use width 1")
    return copied
