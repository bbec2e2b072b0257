"""Faster R-CNN: Ren, He, Girshick & Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal
Networks", NIPS 2015, TPAMI 39(6) 2017 (arXiv 1506.01497), on VGG-16; on ResNet-101 as He et al., CVPR 2016, Appendix A.

A region proposal network (RPN) looks at the map that Fast R-CNN pools from, and replaces selective search (Figure 2).
With a 600x1000 image:

    conv5_3 [B,38,63,512]
    RPN: 3x3 convolution 512 and ReLU; 1x1 scores 2k and deltas 4k, k = 9 anchors a position: 21,546 in all
    proposals: the 6000 best, clipped to the image, at least 16 pixels wide and high; NMS at 0.7; the 300 best
    Fast R-CNN on them: RoI pooling 7x7, fc6, fc7, scores K+1, deltas 4(K+1)

137,078,239 parameters with VGG-16 and 20 classes. On ResNet-101 the map is conv4's, regions are pooled to 14x14, and
conv5 with average pooling stands in for fc6 and fc7. Inference, from the image to the final boxes, is one program.
"""

from typing import Any

import keras
from keras import ops

from repro.errors import ReproError
from repro.models import fast_rcnn as fast
from repro.models import resnet, vgg
from repro.ops.anchors import base_anchors, grid_anchors, inside_image
from repro.ops.box_losses import box_loss
from repro.ops.boxes import clip_boxes, decode_boxes, encode_boxes, side_lengths
from repro.ops.losses import softmax_cross_entropy
from repro.ops.matching import gather, label_anchors, sample_labels
from repro.ops.nms import nms

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
RATIOS = (0.5, 1.0, 2.0)
SCALES = (8.0, 16.0, 32.0)  # times the stride: areas of 128^2, 256^2, 512^2 pixels (Section 3.3)

DEVIATIONS = (
    *fast.DEVIATIONS,
    "the box loss of the RPN is the released one, smooth L1 with its knee at 1/9 over the 256 sampled anchors; Eq. 1 "
    "has its knee at 1, divides by about 2400 positions and weighs by 10",
    "proposals are at least 16 pixels wide and high on the canvas; in the released networks, in the original image",
    "background regions have an IoU in [0, 0.5), as the released networks trained end to end; the paper names no bound",
)


def recipe(variant: str, name: str) -> dict[str, Any]:
    """Approximate joint training (Section 3.2), as experiments/scripts/faster_rcnn_end2end.sh on VOC 2007: 50,000
    steps at 1e-3, then 20,000 at 1e-4, of two images each (one, and gradients accumulated over two)."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 2, "learning_rate": 1e-3, "weight_decay": 5e-4,
        "schedule": "step", "drops": [5 / 7], "epochs": 28, "augment": {"flip": True},
    }  # fmt: skip


class Proposals(keras.layers.Layer):
    """The RPN's answer, scores [B,h,w,2k] and deltas [B,h,w,4k], to its best boxes (Section 3.3).

    Boxes [B,post,4], clipped to `valid_size` [B,2], best first, and which of them are any, bool [B,post]. `before` and
    `after`: how many go into non-maximum suppression at `nms_threshold` and come out. `min_size`: pixels."""

    def __init__(self, anchors, before: int, after: int, nms_threshold: float, min_size: float, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.anchors, self.before, self.after = anchors, min(before, len(anchors)), after
        self.nms_threshold, self.min_size = nms_threshold, min_size

    def call(self, scores, deltas, valid_size):
        scores, deltas = (ops.stop_gradient(ops.cast(values, "float32")) for values in (scores, deltas))
        scores = ops.reshape(scores, (-1, len(self.anchors), 2))
        objectness = scores[..., 1] - scores[..., 0]  # in the order of the softmax
        boxes = decode_boxes(ops.reshape(deltas, (-1, len(self.anchors), 4)), self.anchors)
        boxes = clip_boxes(boxes, valid_size)
        width, height = side_lengths(boxes)
        large = ops.logical_and(width >= self.min_size, height >= self.min_size)
        objectness = ops.where(large, objectness, float("-inf"))
        best, index = ops.top_k(objectness, self.before)
        boxes = gather(boxes, index)
        kept, valid = nms(boxes, best, self.nms_threshold, self.after, valid=best > float("-inf"))
        return ops.where(valid[..., None], gather(boxes, kept), 0.0), valid

    def compute_output_spec(self, scores, deltas, valid_size):
        shape = (scores.shape[0], self.after)
        return keras.KerasTensor((*shape, 4), "float32"), keras.KerasTensor(shape, "bool")


class RpnTargets(keras.layers.Layer):
    """Which anchors the RPN is trained on and towards what (Sections 3.1.2 and 3.1.3).

    boxes [B,M,4], classes int [B,M] (-1 = padding), valid_size [B,2] to labels int [B,N] (1 object, 0 background, -1
    not in the sample) and deltas [B,N,4]. Anchors that cross the border of the image are left out."""

    def __init__(self, anchors, count: int = 256, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.anchors, self.count = anchors, count
        self.generator = keras.random.SeedGenerator()

    def call(self, boxes, classes, valid_size):
        usable = inside_image(self.anchors, valid_size)
        labels, index = label_anchors(self.anchors, boxes, classes >= 0, usable)
        noise = keras.random.uniform((ops.shape(boxes)[0], len(self.anchors)), seed=self.generator)
        labels = sample_labels(labels, noise, self.count)
        targets = encode_boxes(gather(boxes, index), self.anchors)
        return ops.stop_gradient(labels), ops.stop_gradient(targets)

    def compute_output_spec(self, boxes, classes, valid_size):
        shape = (boxes.shape[0], len(self.anchors))
        return keras.KerasTensor(shape, "int32"), keras.KerasTensor((*shape, 4), "float32")


class AveragePool(keras.layers.Layer):
    """Region features [B*R,h,w,C] to their means [B,R,C]."""

    def __init__(self, regions: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.count = regions

    def call(self, x):
        return ops.reshape(ops.mean(x, axis=(1, 2)), (-1, self.count, x.shape[-1]))

    def compute_output_spec(self, x):
        return keras.KerasTensor((None, self.count, x.shape[-1]), x.dtype)


def region_proposal_network(features, anchors_per_position: int, width: float) -> dict[str, Any]:
    """Scores [B,h,w,2k] and deltas [B,h,w,4k] of a map [B,h,w,C] (Section 3.1), in float32."""
    start = fast.normal(0.01)
    filters = vgg.channels_at(512, width)
    x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu", kernel_initializer=start, name="rpn_conv")(
        features
    )
    scores = keras.layers.Conv2D(2 * anchors_per_position, 1, kernel_initializer=start, name="rpn_cls_score")(x)
    deltas = keras.layers.Conv2D(4 * anchors_per_position, 1, kernel_initializer=start, name="rpn_bbox_pred")(x)
    return {
        "rpn_scores": keras.layers.Activation("linear", dtype="float32", name="rpn_scores")(scores),
        "rpn_deltas": keras.layers.Activation("linear", dtype="float32", name="rpn_deltas")(deltas),
    }


def build(
    name: str, trunk: Any, head: Any, *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str,
    width: float, depth: float, heads: str = "infer", anchor_scales: tuple[float, ...] = SCALES, min_size: float = 16,
    before_nms: tuple[int, int] = (12000, 6000), after_nms: tuple[int, int] = (2000, 300), nms_threshold: float = 0.7,
    max_boxes: int = 64, rois: int = 128, rpn_sample: int = 256,
) -> keras.Model:  # fmt: skip
    """Faster R-CNN of a trunk and a head. {"image": float32 [B,H,W,C] in 0..255, "valid_size": [B,2] (height, width)}
    to {"rpn_scores", "rpn_deltas", "proposals", "proposal_valid", "scores", "deltas"}.

    With `heads="train"` it also takes "boxes" [B,M,4] and "classes" int [B,M] (-1 = padding), scores a sample of
    `rois` regions, and gives that sample and the anchors' ("rois", "labels", "matched_boxes", "positive",
    "rpn_labels", "rpn_targets"). `before_nms`, `after_nms`: proposals in training and at test. Raises ReproError when
    the image has less than 32 pixels."""
    if min(input_size) < 32:
        raise ReproError(f"{name} cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    inputs = {
        "image": keras.Input((*input_size, channels), name="image"),
        "valid_size": keras.Input((2,), dtype="int32", name="valid_size"),
    }
    features = trunk(inputs["image"])
    base = base_anchors(tuple(anchor_scales), RATIOS, base=fast.STRIDE)
    anchors = grid_anchors(base, tuple(features.shape[1:3]), fast.STRIDE)
    rpn = region_proposal_network(features, len(base), width)
    test = heads != "train"
    regions, valid = Proposals(anchors, before_nms[test], after_nms[test], nms_threshold, min_size, name="propose")(
        rpn["rpn_scores"], rpn["rpn_deltas"], inputs["valid_size"]
    )
    outputs = {**rpn, "proposals": regions, "proposal_valid": valid}
    if not test:
        inputs |= fast.truth_inputs(max_boxes)
        truth = inputs["boxes"], inputs["classes"]
        labels, targets = RpnTargets(anchors, rpn_sample, name="rpn_sample")(*truth, inputs["valid_size"])
        sample = fast.SampleRois(rois, negative_iou=(0.0, 0.5), name="sample")(regions, valid, *truth)
        outputs |= {"rpn_labels": labels, "rpn_targets": targets, **sample}
        regions = sample["rois"]
    outputs |= fast.predictors(head(features, regions), num_classes)
    return keras.Model(inputs, outputs, name=name)


def faster_rcnn(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    frozen_blocks: int = 2, **options: Any,
) -> keras.Model:  # fmt: skip
    """Faster R-CNN on VGG-16, of which `frozen_blocks` keep their start. See `build`."""

    def trunk(image):
        return fast.trunk(image, width, depth, channels)

    def head(features, regions):
        return fast.fully_connected(fast.RoIPool(name="roi_pool")(features, regions), width)

    options |= {"num_classes": num_classes, "input_size": input_size, "channels": channels, "variant": variant}
    model = build("faster_rcnn", trunk, head, width=width, depth=depth, **options)
    fast.freeze(model, frozen_blocks)
    return model


def faster_rcnn_resnet101(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    frozen_stages: int = 2, frozen_bn: bool = True, **options: Any,
) -> keras.Model:  # fmt: skip
    """Faster R-CNN on ResNet-101 (He et al. 2016, Appendix A). See `build`.

    Batch normalisation keeps the statistics of the start, as there, unless `frozen_bn` is False; `frozen_stages` as
    of `resnet.stages`."""

    def trunk(image):
        x = vgg.normalise(image, channels)
        frozen = {"frozen_bn": frozen_bn, "frozen_stages": frozen_stages}
        return resnet.stages(x, width, depth, last=4, **frozen)["conv4"]

    def head(features, regions):
        x = fast.RoIPool((14, 14), name="roi_pool")(features, regions)  # [B,R,14,14,1024]
        count = x.shape[1]
        x = ops.reshape(x, (-1, *x.shape[2:]))
        x = resnet.conv5(x, width, depth, frozen_bn=frozen_bn)  # [B*R,7,7,2048]
        return AveragePool(count, name="avg_pool")(x)

    options |= {"num_classes": num_classes, "input_size": input_size, "channels": channels, "variant": variant}
    model = build("faster_rcnn_resnet101", trunk, head, width=width, depth=depth, **options)
    count = model.get_layer("avg_pool").count
    for layer in model.layers:
        if layer.name.startswith("conv5_"):
            layer.regions = count
    return model


def rpn_loss(outputs: dict, sigma: float = 3.0):
    """Log loss over the sampled anchors plus smooth L1 of the positive ones (Eq. 1), both divided by the sample; a
    float32 scalar. `outputs` of `heads="train"`."""
    labels = outputs["rpn_labels"]
    scores = ops.reshape(outputs["rpn_scores"], (-1, labels.shape[1], 2))
    deltas = ops.reshape(outputs["rpn_deltas"], (-1, labels.shape[1], 4))
    boxes = box_loss(deltas, outputs["rpn_targets"], ops.equal(labels, 1), labels >= 0, sigma)
    return softmax_cross_entropy(scores, labels, void=-1) + boxes


def loss(outputs: dict, batch: dict, sigma: float = 3.0, box_weight: float = 1.0):
    """The RPN's loss and Fast R-CNN's, added: approximate joint training (Section 3.2). A float32 scalar."""
    return rpn_loss(outputs, sigma) + fast.loss(outputs, batch, box_weight)


detect = fast.detect
