"""FCN-32s, FCN-16s, FCN-8s, FCN-GoogLeNet: Long, Shelhamer & Darrell, "Fully Convolutional Networks for Semantic
Segmentation", CVPR 2015 (arXiv 1411.4038), on VGG-16 and on GoogLeNet.

VGG-16 with fc6 and fc7 as convolutions scores every 32nd pixel; deconvolutions enlarge the scores, and the finer
nets add scores read from pool4 and pool3 on the way (Figure 3). With a 500x500 image and `padding="caffe"`:

    pool3 [B,88,88,256]   pool4 [B,44,44,512]   pool5 [B,22,22,512]   score_fr [B,16,16,K]
    FCN-32s: upscore 32x -> [B,544,544,K], cut to the image
    FCN-16s: upscore 2x [B,34,34,K] + pool4's scores, upscore 16x -> [B,560,560,K], cut
    FCN-8s:  upscore 2x + pool4's, upscore 2x [B,70,70,K] + pool3's, upscore 8x -> [B,568,568,K], cut

FCN-GoogLeNet (Section 4.1) scores GoogLeNet's last map, without its average pooling, and enlarges the scores 32x.
With a 500x500 image: 5b [B,17,17,1024], score_fr [B,17,17,K], upscore 32x -> [B,544,544,K], cut to the image.
"""

import keras

from repro.errors import ReproError
from repro.models import googlenet, vgg
from repro.ops.dropout import HalfDropout
from repro.ops.image import BilinearInitializer, Crop, PatchConv2D, Upscore
from repro.ops.losses import segmentation_loss

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# Released nets: pad the image by 100, convolve without loss, and cut the scores back at these offsets.
PAD = 100
OUTPUT_OFFSET = {32: 19, 16: 27, 8: 31}
POOL4_OFFSET, POOL3_OFFSET = 5, 9
RECEPTIVE_FIELD = 404  # Table 1

# Pixel j of GoogLeNet's last map sees pixels around 32j + 30. So many rows above the image and columns beside it bring
# them to 32j + 15, half a pixel from where the deconvolution puts the score.
GOOGLENET_PAD = 15

DEVIATIONS = (
    *vgg.DEVIATIONS[:2],
    "biases learn at the same rate as weights, not at twice the rate",
    "weight decay is decoupled from the gradient (Keras)",
    "FCN-GoogLeNet's image is padded by 15 pixels at its top and left, which centres the scores; the paper does not "
    "say how it aligns them, and its net was not released",
    "FCN-GoogLeNet sees 715 pixels; the 907 of Table 1 are those with the average pooling that Section 4.1 discards",
)

_RELEASED_RATES = {"fcn32s": 1e-10, "fcn16s": 1e-12, "fcn8s": 1e-14}


def recipe(variant: str, name: str) -> dict:
    """The training recipe of a variant. Section 4.3 ("paper": the loss is averaged over the pixels here, which the
    text leaves open) or voc-fcn*/solver.prototxt ("released": heavy momentum on the summed loss of one image)."""
    common = {"optimizer": "sgd", "weight_decay": 5e-4, "schedule": "constant"}
    if variant == "paper":
        rate = 5e-5 if name == "fcn_googlenet" else 1e-4
        return common | {"momentum": 0.9, "batch_size": 20, "learning_rate": rate, "epochs": 175}
    released = {"momentum": 0.99, "batch_size": 1, "learning_rate": _RELEASED_RATES[name], "epochs": 12}
    return common | released | {"loss_options": {"reduction": "sum"}}


def trunk(image, width: float, depth: float, channels: int, padding: str) -> dict:
    """VGG-16 made fully convolutional (Section 4.1). [B,H,W,C] to `pool3`, `pool4` and `fc7` [B,h,w,4096]."""
    x = vgg.normalise(image, channels)
    if padding == "caffe":
        # conv1_1 of the released nets is padded by 100; the 1 pixel of its own "same" padding is part of that
        x = keras.layers.ZeroPadding2D(PAD - 1, name="pad")(x)
    features = vgg.blocks(x, width, depth)
    x = features["pool5"]
    options = {"padding": "valid" if padding == "caffe" else "same", "kernel_initializer": "he_normal"}
    x = PatchConv2D(vgg.channels_at(4096, width), 7, activation="relu", name="fc6", **options)(x)
    x = HalfDropout(name="drop6")(x)
    x = vgg.conv_relu(x, vgg.channels_at(4096, width), "fc7", kernel=1)
    features["fc7"] = HalfDropout(name="drop7")(x)
    return features


def score(x, num_classes: int, name: str):
    """A 1x1 convolution to class scores, initialised to zero (Section 4.3). [B,h,w,C] to [B,h,w,num_classes]."""
    return keras.layers.Conv2D(num_classes, 1, kernel_initializer="zeros", name=name)(x)


def upscore(x, factor: int, name: str, padding: str, trainable: bool):
    """A deconvolution without bias, initialised to bilinear interpolation (Section 3.3).

    [B,h,w,K] to [B,f*h,f*w,K] ("same") or [B,f*(h+1),f*(w+1),K] ("caffe")."""
    options = {"padding": "valid" if padding == "caffe" else "same", "kernel_initializer": BilinearInitializer()}
    layer = Upscore(x.shape[-1], 2 * factor, strides=factor, use_bias=False, name=name, **options)
    layer.trainable = trainable
    return layer(x)


def fuse(x, skip, offset: int, name: str, padding: str):
    """Add to scores [B,h,w,K] those of a finer layer, both cut to the same window (Section 4.2): `skip` by `offset`
    pixels with padding "caffe", the larger one with "same"."""
    if padding == "caffe":
        skip = Crop(x.shape[1:3], offset, name=f"crop_{name}")(skip)
    elif x.shape[1:3] != skip.shape[1:3]:  # an odd size was rounded up on the way down
        x = Crop(skip.shape[1:3], name=f"crop_{name}")(x)
    return keras.layers.Add(name=f"fuse_{name}")([x, skip])


def fcn(
    stride: int, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    padding: str = "caffe",
) -> keras.Model:  # fmt: skip
    """FCN of final stride 32, 16 or 8. float32 [B,H,W,C] in 0..255 to scores [B,H,W,num_classes].

    `padding`: "caffe" pads by 100 and cuts, as released; "same" pads every layer, which costs less on small images.
    `variant` "paper" learns the inner deconvolutions and fixes the last (Section 4.3), "released" fixes all.
    Raises ReproError for an image without a pixel at stride 32, or an unknown padding."""
    if padding not in ("caffe", "same"):
        raise ReproError(f"padding {padding!r} of fcn{stride}s is unknown", "use caffe or same")
    if padding == "same" and min(input_size) < 32:
        raise ReproError(f"fcn{stride}s cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    image = keras.Input((*input_size, channels), name="image")
    features = trunk(image, width, depth, channels, padding)
    x = score(features["fc7"], num_classes, "score_fr")
    learned = variant == "paper"
    if stride <= 16:
        x = upscore(x, 2, "upscore2", padding, learned)
        x = fuse(x, score(features["pool4"], num_classes, "score_pool4"), POOL4_OFFSET, "pool4", padding)
    if stride == 8:
        x = upscore(x, 2, "upscore_pool4", padding, learned)
        x = fuse(x, score(features["pool3"], num_classes, "score_pool3"), POOL3_OFFSET, "pool3", padding)
    x = upscore(x, stride, f"upscore{stride}", padding, trainable=False)
    if tuple(x.shape[1:3]) != tuple(input_size):
        x = Crop(input_size, OUTPUT_OFFSET[stride] if padding == "caffe" else 0, name="crop")(x)
    # scores leave in float32 whatever the precision inside, so that loss and metrics lose nothing
    x = keras.layers.Activation("linear", dtype="float32", name="scores")(x)
    return keras.Model(image, {"scores": x}, name=f"fcn{stride}s")


def fcn32s(**settings) -> keras.Model:
    """FCN-32s: one 32x deconvolution. See `fcn`."""
    return fcn(32, **settings)


def fcn16s(**settings) -> keras.Model:
    """FCN-16s: adds scores of pool4; starts from FCN-32s (Section 4.2). See `fcn`."""
    return fcn(16, **settings)


def fcn8s(**settings) -> keras.Model:
    """FCN-8s: adds scores of pool3; starts from FCN-16s (Section 4.2). See `fcn`."""
    return fcn(8, **settings)


def fcn_googlenet(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    padding: str = "same",
) -> keras.Model:  # fmt: skip
    """FCN-GoogLeNet (Section 4.1). float32 [B,H,W,C] in 0..255 to scores [B,H,W,num_classes].

    The dropout before the classifier stays (Section 4.3). Raises ReproError for an image without a pixel at stride 32,
    or a padding other than "same": no net was released whose padding could be repeated."""
    if padding != "same":
        raise ReproError(f"padding {padding!r} of fcn_googlenet is unknown", "use same; its net was not released")
    if min(input_size) < 32:
        raise ReproError(f"fcn_googlenet cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    image = keras.Input((*input_size, channels), name="image")
    x = googlenet.normalise(image, channels)
    x = keras.layers.ZeroPadding2D(((GOOGLENET_PAD, 0), (GOOGLENET_PAD, 0)), name="align")(x)
    x = list(googlenet.trunk(x, width, depth).values())[-1]
    x = keras.layers.Dropout(googlenet.DROPOUT, name="drop5")(x)
    x = upscore(score(x, num_classes, "score_fr"), 32, "upscore32", padding, trainable=False)
    if tuple(x.shape[1:3]) != tuple(input_size):
        x = Crop(input_size, name="crop")(x)
    # scores leave in float32 whatever the precision inside, so that loss and metrics lose nothing
    x = keras.layers.Activation("linear", dtype="float32", name="scores")(x)
    return keras.Model(image, {"scores": x}, name="fcn_googlenet")


def loss(outputs: dict, batch: dict, kind: str = "cross_entropy", **options):
    """Softmax cross-entropy per pixel, void left out (Section 4), or another `kind` (ours).

    `outputs["scores"]` [B,H,W,K], `batch["semantic"]` int [B,H,W], 255 = void."""
    return segmentation_loss(outputs["scores"], batch["semantic"], kind, **options)
