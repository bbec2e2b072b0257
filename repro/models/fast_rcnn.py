"""Fast R-CNN: Girshick, "Fast R-CNN", ICCV 2015 (arXiv 1504.08083), on VGG-16.

One pass over the image; every proposal is pooled from the shared map and classified, and its box is refined, by one
network trained with one loss (Figure 1). With a 600x1000 image and R proposals:

    conv5_3 [B,38,63,512]        stride 16: VGG-16 without its last pooling
    RoI pooling 7x7 [B,R,7,7,512]
    fc6 4096, fc7 4096 (dropout 0.5) [B,R,4096]
    scores [B,R,K+1], softmax over the background and K classes
    deltas [B,R,4(K+1)], a box for every class; the background's four are unused, as released

134,690,729 parameters with 20 classes. In training, R is a sample of the proposals, drawn within the step.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from repro.errors import ReproError
from repro.models import vgg
from repro.ops.box_losses import box_loss
from repro.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from repro.ops.dropout import HalfDropout
from repro.ops.losses import softmax_cross_entropy
from repro.ops.matching import sample_rois
from repro.ops.nms import class_nms
from repro.ops.roi import roi_max_pool

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
STRIDE = 16
POOLED = (7, 7)
# the released networks divide the deltas by these instead of measuring their spread (Section 2.3) on the data
BOX_STD = (0.1, 0.1, 0.2, 0.2)

DEVIATIONS = (
    *vgg.DEVIATIONS[:2],
    "deltas are divided by the released constants (0.1, 0.1, 0.2, 0.2), not by their spread on the training set",
    "difficult and crowd objects are no training objects; proposals over a crowd may become background",
    "biases learn at the same rate as weights, not at twice the rate; weight decay is decoupled (Keras)",
    "images are fitted into one canvas, whatever their orientation, and proposals padded to one number; a canvas of "
    "800x800 gives the common 3:4 photograph the paper's shorter side of 600",
)


def recipe(variant: str, name: str) -> dict[str, Any]:
    """The training recipe of Section 2.3 on VOC 2007: 30,000 steps at 1e-3 and 10,000 at 1e-4 on 2 images."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 2, "learning_rate": 1e-3, "weight_decay": 5e-4,
        "schedule": "step", "drops": [0.75], "epochs": 16, "augment": {"flip": True},
    }  # fmt: skip


class RoIPool(keras.layers.Layer):
    """Features [B,h,w,C] and regions [B,R,4] to [B,R,*size,C] by max pooling (Section 2.1)."""

    def __init__(self, size: tuple[int, int] = POOLED, stride: int = STRIDE, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # in bfloat16 coordinates would be off by pixels
        self.size, self.stride = size, stride

    def call(self, features, rois):
        return roi_max_pool(features, rois, self.size, 1 / self.stride)

    def compute_output_spec(self, features, rois):
        return keras.KerasTensor((features.shape[0], rois.shape[1], *self.size, features.shape[-1]), features.dtype)


class SampleRois(keras.layers.Layer):
    """A training sample of `count` of the proposals (Section 2.3): proposals [B,P,4], which are any, bool [B,P], boxes
    [B,M,4] and classes int [B,M] (-1 = padding) to what `repro.ops.matching.sample_rois` returns."""

    def __init__(self, count: int = 64, negative_iou: tuple[float, float] = (0.1, 0.5), **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.count, self.negative_iou = count, negative_iou
        self.generator = keras.random.SeedGenerator()

    def call(self, proposals, valid, boxes, classes):
        candidates = (ops.shape(boxes)[0], proposals.shape[1] + boxes.shape[1])
        noise = keras.random.uniform(candidates, seed=self.generator)
        sample = sample_rois(proposals, valid, boxes, classes, noise, count=self.count, negative_iou=self.negative_iou)
        return {name: ops.stop_gradient(value) for name, value in sample.items()}

    def compute_output_spec(self, proposals, valid, boxes, classes):
        shape = (boxes.shape[0], self.count)
        return {
            "rois": keras.KerasTensor((*shape, 4), "float32"),
            "labels": keras.KerasTensor(shape, "int32"),
            "matched_boxes": keras.KerasTensor((*shape, 4), "float32"),
            "positive": keras.KerasTensor(shape, "bool"),
        }


def trunk(image, width: float, depth: float, channels: int):
    """VGG-16 up to conv5_3. [B,H,W,C] in 0..255 to [B,ceil(H/16),ceil(W/16),512]."""
    return vgg.blocks(vgg.normalise(image, channels), width, depth)["conv5"]


def freeze(model: keras.Model, blocks: int) -> None:
    """Fix the first blocks of VGG-16 (Section 4.5 fixes conv1 and conv2 of an ImageNet start)."""
    for layer in model.layers:
        if layer.name.startswith(tuple(f"conv{number}_" for number in range(1, blocks + 1))):
            layer.trainable = False


def normal(deviation: float) -> keras.initializers.Initializer:
    """Normal weights of this standard deviation, the start of a new layer (Section 2.3)."""
    return keras.initializers.RandomNormal(stddev=deviation)


def fully_connected(x, width: float, svd: tuple[int, int] | None = None):
    """fc6 and fc7. [B,R,h,w,C] to [B,R,4096]. With `svd`, each is two layers of that inner width (Section 3.1)."""
    x = keras.layers.Reshape((x.shape[1], int(np.prod(x.shape[2:]))), name="flatten")(x)
    for index, name in enumerate(("fc6", "fc7")):
        if svd:
            x = keras.layers.Dense(svd[index], use_bias=False, name=f"{name}_v")(x)
        units, kernel = vgg.channels_at(4096, width), keras.initializers.HeNormal()
        x = keras.layers.Dense(units, activation="relu", kernel_initializer=kernel, name=name)(x)
        x = HalfDropout(name=f"drop{name[-1]}")(x)
    return x


def predictors(x, num_classes: int) -> dict[str, Any]:
    """Scores [B,R,K+1] and deltas [B,R,4(K+1)] of region features [B,R,D], in float32 whatever the precision inside."""
    scores = keras.layers.Dense(num_classes + 1, kernel_initializer=normal(0.01), name="cls_score")(x)
    deltas = keras.layers.Dense(4 * (num_classes + 1), kernel_initializer=normal(0.001), name="bbox_pred")(x)
    return {
        "scores": keras.layers.Activation("linear", dtype="float32", name="scores")(scores),
        "deltas": keras.layers.Activation("linear", dtype="float32", name="deltas")(deltas),
    }


def fast_rcnn(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    heads: str = "infer", proposals: int = 2000, max_boxes: int = 64, rois: int = 64, frozen_blocks: int = 2,
    svd: tuple[int, int] | None = None,
) -> keras.Model:  # fmt: skip
    """Fast R-CNN on VGG-16. {"image": float32 [B,H,W,C] in 0..255, "proposals": [B,P,4]} to {"scores", "deltas"}.

    With `heads="train"` it also takes "proposal_valid" bool [B,P], "boxes" [B,M,4] and "classes" int [B,M] (-1 =
    padding), scores a sample of `rois` regions an image, and gives that sample as well ("rois", "labels",
    "matched_boxes", "positive"). `frozen_blocks`: how many blocks of VGG-16 keep their start. `svd`: inner widths of
    fc6 and fc7, compressed (1024 and 256 in Section 4.4). Raises ReproError for images below 32 pixels."""
    if min(input_size) < 32:
        raise ReproError(f"fast_rcnn cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    inputs = {
        "image": keras.Input((*input_size, channels), name="image"),
        "proposals": keras.Input((proposals, 4), name="proposals"),
    }
    regions, sample = inputs["proposals"], {}
    if heads == "train":
        inputs |= truth_inputs(max_boxes)
        inputs["proposal_valid"] = keras.Input((proposals,), dtype="bool", name="proposal_valid")
        sample = SampleRois(rois, name="sample")(
            inputs["proposals"], inputs["proposal_valid"], inputs["boxes"], inputs["classes"]
        )
        regions = sample["rois"]
    features = trunk(inputs["image"], width, depth, channels)
    x = fully_connected(RoIPool(name="roi_pool")(features, regions), width, svd)
    model = keras.Model(inputs, {**predictors(x, num_classes), **sample}, name="fast_rcnn")
    freeze(model, frozen_blocks)
    return model


def truth_inputs(max_boxes: int) -> dict[str, Any]:
    """The inputs a detector learns from: "boxes" [B,M,4] in pixels and "classes" int [B,M], -1 = padding."""
    return {
        "boxes": keras.Input((max_boxes, 4), name="boxes"),
        "classes": keras.Input((max_boxes,), dtype="int32", name="classes"),
    }


def loss(outputs: dict, batch: dict, box_weight: float = 1.0):
    """The multi-task loss of Eq. 1: softmax cross-entropy plus `box_weight` (lambda) times smooth L1 of the deltas of
    the true class, both averaged over the sampled regions; a float32 scalar. `outputs` of `heads="train"`."""
    labels, num_classes = outputs["labels"], outputs["scores"].shape[-1]
    classification = softmax_cross_entropy(outputs["scores"], labels, void=-1)
    deltas = ops.reshape(outputs["deltas"], (-1, labels.shape[1], num_classes, 4))
    chosen = ops.equal(labels[..., None], ops.arange(num_classes, dtype="int32"))
    deltas = ops.sum(ops.where(chosen[..., None], deltas, 0.0), axis=-2)
    targets = encode_boxes(outputs["matched_boxes"], outputs["rois"], std=BOX_STD)
    return classification + box_weight * box_loss(deltas, targets, outputs["positive"], labels >= 0)


def detect(
    outputs: dict, batch: dict, score_threshold: float = 0.05, nms_threshold: float = 0.3, max_detections: int = 100
) -> dict:
    """Final boxes of each image, best first: every class by itself through non-maximum suppression (Section 3).

    Regions are `outputs["proposals"]` where the network proposes them itself, else those of `batch`. Returns boxes
    [B,D,4] clipped to the `valid_size` of the batch, scores [B,D], classes int [B,D] (-1 = padding), count [B]."""
    source = outputs if "proposals" in outputs else batch
    regions, valid = source["proposals"], source["proposal_valid"]
    scores = ops.softmax(outputs["scores"], axis=-1)[..., 1:]
    scores = ops.where(valid[..., None], scores, 0.0)
    num_classes = scores.shape[-1]
    deltas = ops.reshape(outputs["deltas"], (-1, regions.shape[1], num_classes + 1, 4))[:, :, 1:]
    boxes = decode_boxes(deltas, regions[:, :, None], std=BOX_STD)
    flat = ops.reshape(boxes, (-1, regions.shape[1] * num_classes, 4))
    boxes = ops.reshape(clip_boxes(flat, batch["valid_size"]), (-1, regions.shape[1], num_classes, 4))
    return class_nms(boxes, scores, nms_threshold, score_threshold, max_detections)


def compress(network: keras.Model, target: keras.Model) -> None:
    """Fill a network built with `svd` from one built without, by truncated singular value decomposition of fc6 and fc7
    (Section 3.1): W = U S V becomes S V without a bias, then U with the bias of W."""
    for layer in target.layers:
        if layer.name in ("fc6", "fc7"):
            kernel, bias = (ops.convert_to_numpy(v) for v in network.get_layer(layer.name).weights)
            inner = target.get_layer(f"{layer.name}_v")
            left, values, right = np.linalg.svd(kernel, full_matrices=False)
            rank = inner.units
            if rank > len(values):
                raise ReproError(f"{layer.name} cannot be compressed to {rank}", f"give at most {len(values)} in svd")
            inner.set_weights([left[:, :rank] * values[:rank]])
            layer.set_weights([right[:rank], bias])
        elif layer.weights and not layer.name.endswith("_v"):
            layer.set_weights(network.get_layer(layer.name).get_weights())
