"""Mask R-CNN: He, Gkioxari, Dollar & Girshick, "Mask R-CNN", ICCV 2017 (arXiv 1703.06870), on ResNet-101.

Faster R-CNN with a third branch, which gives every region a mask for each class; class and mask do not compete, for
the class is the box branch's (Section 3). Regions are read without quantisation, by RoIAlign.

    C4  conv4 [B,H/16,W/16,1024]; RPN, 15 anchors a position; RoIAlign 14x14; conv5 on each region [B,R,7,7,2048]
        box: average pooling, scores K+1, deltas 4(K+1)
        mask: 2x2 deconvolution 256 -> 14x14, ReLU; 1x1 convolution K+1
    FPN pyramid P2 to P6; RPN, 3 anchors a position; RoIAlign 7x7, fc6 and fc7 of 1024, scores K+1, deltas 4(K+1)
        mask: RoIAlign 14x14, four 3x3 convolutions 256, deconvolution 256 -> 28x28, 1x1 convolution K+1

The masks of the background are unused, as released. 63,392,821 parameters on FPN with 80 classes. At test the boxes
come first, and masks are computed for the 100 best alone (Section 3.1): from the image to its boxes and their small
masks in one program. Figure 4 shows both heads.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from repro.errors import ReproError
from repro.models import fast_rcnn as fast
from repro.models import faster_rcnn as faster
from repro.models import fpn, resnet, vgg
from repro.ops.box_losses import box_loss
from repro.ops.losses import sigmoid_cross_entropy
from repro.ops.masks import mask_targets
from repro.ops.matching import match

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
SCALES = (2.0, 4.0, 8.0, 16.0, 32.0)  # times the stride of conv4: anchors of 32 to 512 pixels
POSITIVES = 0.25  # the share of positives in a sample (Section 3.1)
# what becomes a detection (Section 3.1; Detectron's TEST.NMS and TEST.SCORE_THRESH)
DETECTION: dict[str, Any] = {"score_threshold": 0.05, "nms_threshold": 0.5, "max_detections": 100}
SCORES = ("sigmoid", "softmax")
REGION_LAYERS = ("align", "pool")

DEVIATIONS = (
    *vgg.DEVIATIONS[:2],
    *fpn.DEVIATIONS,
    "crowds are no training objects; proposals over a crowd may become background",
    "RoIAlign as in Detectron2, half a cell off the published layer, whose samples lie half a cell too far right",
    "the RPN on conv4 has two scores an anchor and a softmax (Faster R-CNN's); Detectron's has one and a sigmoid",
    "a target is the object's mask, kept at 56x56 relative to its box and seen through the region; Detectron draws "
    "the polygons anew in each region",
    "weight decay is decoupled from the gradient (Keras), and on biases too",
    "images are fitted into one canvas, whatever their orientation; a canvas of 1024x1024 gives the common 3:4 "
    "photograph a shorter side of 768, where the paper has 800",
)


def recipe(variant: str, name: str) -> dict[str, Any]:
    """The training recipe of Section 3.1 in epochs of COCO's 118,287 images: 160,000 steps of 16, at 0.02 and from
    step 120,000 at 0.002."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 16, "learning_rate": 0.02, "weight_decay": 1e-4,
        "schedule": "step", "drops": [0.75], "epochs": 22, "augment": {"flip": True},
    }  # fmt: skip


class Detections(keras.layers.Layer):
    """Scores, deltas and regions to the final boxes of an image: `fast_rcnn.detect` as a layer. `options` as there."""

    def __init__(self, options: dict[str, Any], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.options = options

    def call(self, scores, deltas, proposals, proposal_valid, valid_size):
        outputs = {"scores": scores, "deltas": deltas, "proposals": proposals, "proposal_valid": proposal_valid}
        found = fast.detect(outputs, {"valid_size": valid_size}, **self.options)
        return {name: ops.stop_gradient(found[name]) for name in ("boxes", "scores", "classes", "count")}

    def compute_output_spec(self, scores, deltas, proposals, proposal_valid, valid_size):
        shape = (scores.shape[0], self.options["max_detections"])
        return {
            "boxes": keras.KerasTensor((*shape, 4), "float32"),
            "scores": keras.KerasTensor(shape, "float32"),
            "classes": keras.KerasTensor(shape, "int32"),
            "count": keras.KerasTensor(shape[:1], "int32"),
        }


class RegionPool(keras.layers.Layer):
    """Features [B,h,w,C] and regions [B,R,4] to [B,R,*size,C], by RoIAlign or, with `align=False`, RoI max pooling."""

    def __init__(self, size: tuple[int, int], align: bool, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # in bfloat16 coordinates would be off by pixels
        self.size, self.align = size, align

    def call(self, features, rois):
        return fpn.pool(features, rois, self.size, fast.STRIDE, self.align)

    def compute_output_spec(self, features, rois):
        return keras.KerasTensor((features.shape[0], rois.shape[1], *self.size, features.shape[-1]), features.dtype)


def check(mask_scores: str, region_layer: str) -> None:
    """Raise ReproError where `mask_scores` is not of `SCORES` or `region_layer` not of `REGION_LAYERS`."""
    for label, value, known in (("mask_scores", mask_scores, SCORES), ("region_layer", region_layer, REGION_LAYERS)):
        if value not in known:
            raise ReproError(f"{label} {value!r} of Mask R-CNN is unknown", f"give {' or '.join(known)}")


def positives_of(rois: int) -> int:
    """How many of a sample of regions may be positive, which stand first: a quarter (Section 3.1)."""
    return round(rois * POSITIVES)


def upsampled(x: Any, filters: int) -> Any:
    """The deconvolution of both mask heads: [N,h,w,C] to [N,2h,2w,filters]."""
    start = keras.initializers.HeNormal()
    x = keras.layers.Conv2DTranspose(filters, 2, strides=2, kernel_initializer=start, name="mask_deconv")(x)
    return keras.layers.ReLU(name="mask_deconv_relu")(x)


def mask_scores_of(x: Any, num_classes: int, regions: int) -> Any:
    """Mask scores [B,R,h,w,K+1] of region features [B*R,h,w,C], before sigmoid or softmax, in float32."""
    x = keras.layers.Conv2D(num_classes + 1, 1, kernel_initializer=fast.normal(0.001), name="mask_pred")(x)
    x = keras.layers.Activation("linear", dtype="float32", name="mask_scores")(x)
    return ops.reshape(x, (-1, regions, *x.shape[1:]))


def pyramid_masks(x: Any, num_classes: int, width: float) -> Any:
    """The mask head on FPN (Figure 4, right): [B,R,14,14,256] to scores [B,R,28,28,K+1]."""
    regions, filters = x.shape[1], vgg.channels_at(256, width)
    x = ops.reshape(x, (-1, *x.shape[2:]))
    for number in range(1, 5):
        start = keras.initializers.HeNormal()
        x = keras.layers.Conv2D(
            filters, 3, padding="same", activation="relu", kernel_initializer=start, name=f"mask_conv{number}"
        )(x)
    return mask_scores_of(upsampled(x, filters), num_classes, regions)


def chosen_masks(scores: Any, classes: Any, kind: str) -> Any:
    """The mask of each detection's class: scores [B,D,h,w,K+1] and classes int [B,D] (-1 = none) to [B,D,h,w] in
    [0,1], 0 where there is no detection. `kind`: "sigmoid" of the class by itself, or "softmax" over all."""
    probability = ops.sigmoid(scores) if kind == "sigmoid" else ops.softmax(scores, axis=-1)
    here = ops.equal(classes[..., None] + 1, ops.arange(scores.shape[-1], dtype="int32"))
    here = ops.logical_and(here, classes[..., None] >= 0)[:, :, None, None, :]
    return ops.sum(ops.where(here, probability, 0.0), axis=-1)


def mask_rcnn(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    heads: str = "infer", frozen_stages: int = 2, frozen_bn: bool = True, mask_branch: bool = True,
    mask_scores: str = "sigmoid", region_layer: str = "align", rois: int = 64,
    anchor_scales: tuple[float, ...] = SCALES, score_threshold: float = DETECTION["score_threshold"],
    nms_threshold: float = DETECTION["nms_threshold"], max_detections: int = DETECTION["max_detections"],
    **options: Any,
) -> keras.Model:  # fmt: skip
    """Mask R-CNN on conv4 (C4). {"image": float32 [B,H,W,C] in 0..255, "valid_size": [B,2] (height, width)} to what
    Faster R-CNN gives, and the final boxes with their masks: "found_boxes" [B,D,4], "found_scores", "found_classes"
    [B,D], "found_count" [B], "masks" [B,D,14,14] in [0,1].

    With `heads="train"` it takes and gives what Faster R-CNN does, and "mask_scores" [B,P,14,14,K+1] of the first P =
    `rois` / 4 regions of the sample, among which are all positives. `frozen_stages` and `frozen_bn` as of
    `resnet.stages`; `options` as of `faster_rcnn.build`. For ablations: `mask_branch=False` is Faster R-CNN,
    `mask_scores="softmax"` lets classes compete for a pixel, `region_layer="pool"` quantises regions. Raises ReproError
    for unknown switches and images below 32 pixels."""
    check(mask_scores, region_layer)
    parts: dict[str, Any] = {}

    def trunk(image):
        x = vgg.normalise(image, channels)
        frozen = {"frozen_bn": frozen_bn, "frozen_stages": frozen_stages}
        parts["map"] = resnet.stages(x, width, depth, last=4, **frozen)["conv4"]
        return parts["map"]

    def regions_of(boxes, name):
        x = RegionPool((14, 14), region_layer == "align", name=name)(parts["map"], boxes)  # [B,R,14,14,1024]
        return ops.reshape(x, (-1, *x.shape[2:]))

    def head(features, boxes):
        parts["pooled"] = regions_of(boxes, "roi_align")
        parts["conv5"] = resnet.conv5(parts["pooled"], width, depth, frozen_bn=frozen_bn)  # [B*R,7,7,2048]
        return faster.AveragePool(boxes.shape[1], name="avg_pool")(parts["conv5"])

    options |= {"num_classes": num_classes, "input_size": input_size, "channels": channels, "variant": variant}
    options |= {"heads": heads, "rois": rois, "anchor_scales": anchor_scales}
    model = faster.build("mask_rcnn", trunk, head, width=width, depth=depth, **options)
    outputs, filters = dict(model.output), vgg.channels_at(256, width)
    regions = outputs["scores"].shape[1]
    extra = 0
    if heads == "train" and mask_branch:
        # the mask branch sees the slots that may be positive, the first of every image
        x = ops.reshape(parts["conv5"], (-1, regions, *parts["conv5"].shape[1:]))[:, : positives_of(rois)]
        x = upsampled(ops.reshape(x, (-1, *x.shape[2:])), filters)
        outputs["mask_scores"] = mask_scores_of(x, num_classes, positives_of(rois))
    elif heads != "train":
        thresholds = {"score_threshold": score_threshold, "nms_threshold": nms_threshold}
        size = next(tensor for tensor in model.inputs if tensor.name == "valid_size")
        found = found_of(outputs, size, thresholds | {"max_detections": max_detections})
        if mask_branch:
            # conv5 once more, with the same weights, on the boxes that were found
            conv5 = keras.Model(parts["pooled"], parts["conv5"])
            x = upsampled(conv5.call(regions_of(found["found_boxes"], "mask_align")), filters)
            scores = mask_scores_of(x, num_classes, max_detections)
            found["masks"] = chosen_masks(scores, found["found_classes"], mask_scores)
            extra = max_detections
        outputs |= found
    model = keras.Model(model.inputs, outputs, name="mask_rcnn")
    for layer in model.layers:
        if layer.name.startswith("conv5_"):
            layer.regions = regions + extra
        elif layer.name.startswith("mask_"):
            layer.regions = positives_of(rois) if heads == "train" else extra
    return model


def mask_rcnn_fpn(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    heads: str = "infer", frozen_stages: int = 2, frozen_bn: bool = True, mask_branch: bool = True,
    mask_scores: str = "sigmoid", region_layer: str = "align", rois: int = 512, max_boxes: int = 64,
    rpn_sample: int = 256, anchor_scale: float = fpn.ANCHOR_SCALE, canonical_size: float = fpn.CANONICAL_SIZE,
    min_size: float = 0.0, before_nms: tuple[int, int] = (2000, 1000), after_nms: tuple[int, int] = (2000, 1000),
    rpn_nms_threshold: float = 0.7, score_threshold: float = DETECTION["score_threshold"],
    nms_threshold: float = DETECTION["nms_threshold"], max_detections: int = DETECTION["max_detections"],
) -> keras.Model:  # fmt: skip
    """Mask R-CNN on a feature pyramid; as `mask_rcnn`, with "rpn_scores" [B,N], "rpn_deltas" [B,N,4] and masks of
    28x28. `before_nms`: of each level, `after_nms` of all, in training and at test. Raises as `mask_rcnn`."""
    check(mask_scores, region_layer)
    if min(input_size) < 64:
        raise ReproError(f"mask_rcnn_fpn cannot take {input_size[0]}x{input_size[1]} images", "give at least 64x64")
    inputs = {
        "image": keras.Input((*input_size, channels), name="image"),
        "valid_size": keras.Input((2,), dtype="int32", name="valid_size"),
    }
    x = vgg.normalise(inputs["image"], channels)
    stages = resnet.stages(x, width, depth, frozen_bn=frozen_bn, frozen_stages=frozen_stages)
    levels = fpn.pyramid(stages, width)
    anchors = fpn.anchors_of(levels, anchor_scale)
    rpn = fpn.region_proposal_network(levels, width)
    test, align = heads != "train", region_layer == "align"
    regions, valid = fpn.PyramidProposals(
        anchors, before_nms[test], after_nms[test], rpn_nms_threshold, min_size, name="propose"
    )(rpn["rpn_scores"], rpn["rpn_deltas"], inputs["valid_size"])
    outputs = {**rpn, "proposals": regions, "proposal_valid": valid}
    if not test:
        inputs |= fast.truth_inputs(max_boxes)
        truth = inputs["boxes"], inputs["classes"]
        labels, targets = faster.RpnTargets(np.concatenate(anchors), rpn_sample, name="rpn_sample")(
            *truth, inputs["valid_size"]
        )
        sample = fast.SampleRois(rois, negative_iou=(0.0, 0.5), name="sample")(regions, valid, *truth)
        outputs |= {"rpn_labels": labels, "rpn_targets": targets, **sample}
        regions = sample["rois"]
    pooled = fpn.PyramidPool((7, 7), canonical_size, align, name="roi_align")(levels[:4], regions)
    outputs |= fast.predictors(fpn.box_head(pooled, width), num_classes)
    seen = regions[:, : positives_of(rois)]
    if test:
        thresholds = {"score_threshold": score_threshold, "nms_threshold": nms_threshold}
        found = found_of(outputs, inputs["valid_size"], thresholds | {"max_detections": max_detections})
        outputs |= found
        seen = found["found_boxes"]
    if mask_branch:
        pooled = fpn.PyramidPool((14, 14), canonical_size, align, name="mask_align")(levels[:4], seen)
        scores = pyramid_masks(pooled, num_classes, width)
        if test:
            outputs["masks"] = chosen_masks(scores, outputs["found_classes"], mask_scores)
        else:
            outputs["mask_scores"] = scores
    model = keras.Model(inputs, outputs, name="mask_rcnn_fpn")
    for layer in model.layers:
        if layer.name.startswith("mask_"):
            layer.regions = seen.shape[1]
    return model


def found_of(outputs: dict[str, Any], valid_size: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The final boxes of a network as outputs of it, as of `fast_rcnn.detect`, their names beginning with `found_`."""
    names = ("scores", "deltas", "proposals", "proposal_valid")
    found = Detections(options, name="detections")(*(outputs[name] for name in names), valid_size)
    return {f"found_{name}": value for name, value in found.items()}


def mask_loss(outputs: dict, batch: dict, mask_scores: str = "sigmoid"):
    """Cross-entropy of the masks of positive regions, averaged over their pixels (Section 3); 0 without positives.

    "sigmoid": binary, on the mask of the true class alone; "softmax": over the classes and the background, in which a
    pixel outside the object lies. `batch`: boxes [B,M,4], classes [B,M], masks [B,M,S,S]."""
    scores = outputs["mask_scores"]
    count, size = scores.shape[1], scores.shape[2]
    rois, labels, positive = (outputs[name][:, :count] for name in ("rois", "labels", "positive"))
    _, index = match(rois, batch["boxes"], batch["classes"] >= 0)
    target = mask_targets(batch["masks"], batch["boxes"], index, rois, size)
    here = ops.logical_and(positive[:, :, None, None], ops.ones_like(target, dtype="bool"))
    if mask_scores == "softmax":
        truth = ops.cast(target, "int32") * labels[:, :, None, None]
        losses = -ops.take_along_axis(ops.log_softmax(scores, axis=-1), ops.maximum(truth, 0)[..., None], axis=-1)
        total = ops.sum(ops.where(here, losses[..., 0], 0.0))
        return total / ops.maximum(ops.sum(ops.cast(here, "float32")), 1.0)
    true_class = ops.equal(labels[..., None], ops.arange(scores.shape[-1], dtype="int32"))[:, :, None, None, :]
    chosen = ops.sum(ops.where(true_class, scores, 0.0), axis=-1, keepdims=True)
    return sigmoid_cross_entropy(chosen, ops.where(here, ops.cast(target, "int32"), -1), void=-1)


def rpn_loss(outputs: dict):
    """The RPN's loss with one score an anchor: binary cross-entropy and smooth L1 over the sample (Detectron); a
    float32 scalar."""
    labels = outputs["rpn_labels"]
    boxes = box_loss(outputs["rpn_deltas"], outputs["rpn_targets"], ops.equal(labels, 1), labels >= 0, 3.0)
    return sigmoid_cross_entropy(outputs["rpn_scores"][..., None], labels, void=-1) + boxes


def loss(outputs: dict, batch: dict, mask_scores: str = "sigmoid", box_weight: float = 1.0, mask_weight: float = 1.0):
    """L = L_cls + L_box + L_mask (Section 3) and the RPN's, added. `mask_scores` as the network has it; without a mask
    branch the loss is Faster R-CNN's."""
    proposing = rpn_loss(outputs) if len(outputs["rpn_scores"].shape) == 2 else faster.rpn_loss(outputs)
    total = proposing + fast.loss(outputs, batch, box_weight)
    if "mask_scores" in outputs:
        total = total + mask_weight * mask_loss(outputs, batch, mask_scores)
    return total


def detect(outputs: dict, batch: dict) -> dict:
    """The final boxes and masks, which the network gives itself: boxes [B,D,4], scores, classes [B,D], masks
    [B,D,h,w], count [B]."""
    names = {f"found_{name}": name for name in ("boxes", "scores", "classes", "count")} | {"masks": "masks"}
    return {name: outputs[key] for key, name in names.items() if key in outputs}
