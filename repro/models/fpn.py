"""Feature pyramid networks: Lin, Dollar, Girshick, He, Hariharan & Belongie, "Feature Pyramid Networks for Object
Detection", CVPR 2017 (arXiv 1612.03144), on ResNet-101, as Detectron released them.

    conv2 to conv5 [B,H/4,W/4,256] to [B,H/32,W/32,2048]
    laterals: 1x1 convolution 256 of each; the coarser map, doubled (nearest), is added to the finer (Figure 3)
    P2 to P5: 3x3 convolution 256 of each sum; P6: every other position of P5, for the RPN alone
    RPN, the same for P2 to P6: 3x3 convolution 256, ReLU; 3 scores (sigmoid) and 12 deltas a position;
        anchors of one size a level, 32 to 512 pixels, and three ratios: 261,888 at 1024x1024
    regions are pooled from P2 to P5, by their size (Equation 1); fc6 and fc7 of 1024

Of 80 classes: pyramid 3,344,384 parameters, RPN 593,935, box head 14,310,805.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from repro.models import fast_rcnn as fast
from repro.models.faster_rcnn import RATIOS
from repro.models.vgg import channels_at
from repro.ops.anchors import base_anchors, grid_anchors
from repro.ops.boxes import box_area, clip_boxes, decode_boxes, side_lengths
from repro.ops.matching import gather
from repro.ops.nms import nms
from repro.ops.roi import roi_align, roi_max_pool

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
STRIDES = (4, 8, 16, 32, 64)  # of P2 to P6
ANCHOR_SCALE = 8.0  # times the stride: 32 to 512 pixels (Section 4.1)
CANONICAL_SIZE = 224.0  # pixels; regions of this side are pooled from P4 (Equation 1)

DEVIATIONS = (
    "maps of odd sides are doubled and cut to fit, where Detectron pads images to a multiple of 32",
    "no anchor reaches over the image's border in training, as in Detectron; in the paper all of them take part",
)


@dataclass(frozen=True)
class Share:
    """How much more often a layer works than on the first map it is given, for counting its operations."""

    positions: int
    first: int

    def __rmul__(self, operations: int) -> int:
        return operations * self.positions // self.first


def pyramid(features: dict[str, Any], width: float) -> list[Any]:
    """P2 to P6 (Section 3) of the stages of `resnet.stages`: [B,H/4,W/4,256] to [B,H/64,W/64,256], sides rounded up."""
    filters = channels_at(256, width)
    levels, above = [], None
    for number in (5, 4, 3, 2):
        x = keras.layers.Conv2D(filters, 1, name=f"fpn_inner{number}")(features[f"conv{number}"])
        if above is not None:
            doubled = ops.repeat(ops.repeat(above, 2, axis=1), 2, axis=2)
            x = x + doubled[:, : x.shape[1], : x.shape[2]]
        above = x
        levels.append(keras.layers.Conv2D(filters, 3, padding="same", name=f"fpn_p{number}")(x))
    levels = levels[::-1]
    return [*levels, levels[-1][:, ::2, ::2]]


def anchors_of(levels: list[Any], scale: float) -> list[np.ndarray]:
    """Anchors float32 [N,4] of each level P2 to P6, in pixels: one scale a level, three ratios (Section 4.1)."""
    return [
        grid_anchors(base_anchors((scale,), RATIOS, base=stride), tuple(level.shape[1:3]), stride)
        for level, stride in zip(levels, STRIDES, strict=True)
    ]


def region_proposal_network(levels: list[Any], width: float) -> dict[str, Any]:
    """Scores [B,N] (before the sigmoid) and deltas [B,N,4] of the anchors of all levels, in float32 (Section 4.1)."""
    start, count = fast.normal(0.01), len(RATIOS)
    filters = channels_at(256, width)
    shared = keras.layers.Conv2D(
        filters, 3, padding="same", activation="relu", kernel_initializer=start, name="rpn_conv"
    )
    score = keras.layers.Conv2D(count, 1, kernel_initializer=start, name="rpn_cls_score")
    delta = keras.layers.Conv2D(4 * count, 1, kernel_initializer=start, name="rpn_bbox_pred")
    scores, deltas = [], []
    for level in levels:
        x = shared(level)
        scores.append(ops.reshape(score(x), (-1, level.shape[1] * level.shape[2] * count)))
        deltas.append(ops.reshape(delta(x), (-1, level.shape[1] * level.shape[2] * count, 4)))
    positions = [level.shape[1] * level.shape[2] for level in levels]
    for layer in (shared, score, delta):
        layer.regions = Share(sum(positions), positions[0])
    joined = {"rpn_scores": ops.concatenate(scores, axis=1), "rpn_deltas": ops.concatenate(deltas, axis=1)}
    return {
        name: keras.layers.Activation("linear", dtype="float32", name=name)(value) for name, value in joined.items()
    }


class PyramidProposals(keras.layers.Layer):
    """Scores [B,N] and deltas [B,N,4] of all levels' anchors to the best boxes of an image (Section 4.1; Detectron).

    Boxes [B,after,4], clipped to `valid_size` [B,2], best first, and which of them are any, bool [B,after]. In each
    level on its own the `before` best go into non-maximum suppression at `nms_threshold`; of what all levels keep,
    the `after` best remain. `min_size`: pixels."""

    def __init__(
        self, anchors: list[np.ndarray], before: int, after: int, nms_threshold: float, min_size: float, **kwargs: Any
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.anchors, self.counts = np.concatenate(anchors), [len(level) for level in anchors]
        self.before, self.after = before, after
        self.nms_threshold, self.min_size = nms_threshold, min_size

    def call(self, scores, deltas, valid_size):
        scores, deltas = (ops.stop_gradient(ops.cast(values, "float32")) for values in (scores, deltas))
        boxes = clip_boxes(decode_boxes(deltas, self.anchors), valid_size)
        width, height = side_lengths(boxes)
        # of no area is of no use even where `min_size` is 0
        large = ops.logical_and(ops.minimum(width, height) >= self.min_size, ops.minimum(width, height) > 0.0)
        scores = ops.where(large, scores, float("-inf"))
        most = min(self.before, max(self.counts))
        best, chosen, start = [], [], 0
        for count in self.counts:
            value, index = ops.top_k(scores[:, start : start + count], min(most, count))
            empty = most - value.shape[1]
            best.append(ops.pad(value, ((0, 0), (0, empty)), constant_values=float("-inf")))
            found = gather(boxes[:, start : start + count], index)
            chosen.append(ops.pad(found, ((0, 0), (0, empty), (0, 0))))
            start += count
        best = ops.reshape(ops.stack(best, axis=1), (-1, most))  # [B*levels,before]
        chosen = ops.reshape(ops.stack(chosen, axis=1), (-1, most, 4))
        each = min(self.after, most)
        kept, valid = nms(chosen, best, self.nms_threshold, each, valid=best > float("-inf"))
        pool = len(self.counts) * each
        best = ops.reshape(ops.where(valid, gather(best, kept), float("-inf")), (-1, pool))
        chosen = ops.reshape(gather(chosen, kept), (-1, pool, 4))
        best, index = ops.top_k(best, min(self.after, pool))
        valid = best > float("-inf")
        missing = self.after - best.shape[1]
        regions = ops.where(valid[..., None], gather(chosen, index), 0.0)
        return ops.pad(regions, ((0, 0), (0, missing), (0, 0))), ops.pad(valid, ((0, 0), (0, missing)))

    def compute_output_spec(self, scores, deltas, valid_size):
        shape = (scores.shape[0], self.after)
        return keras.KerasTensor((*shape, 4), "float32"), keras.KerasTensor(shape, "bool")


def levels_of(rois: Any, canonical_size: float, count: int) -> Any:
    """Which of `count` levels from P2 on each of rois [B,R,4] is pooled from, int32 [B,R] from 0: P4 for a side of
    `canonical_size`, a level up or down for twice or half of it (Equation 1)."""
    side = ops.sqrt(box_area(rois))[..., None]
    bounds = canonical_size * 2.0 ** np.arange(-1, count - 2, dtype="float32")  # from P3 on
    return ops.sum(ops.cast(side >= bounds * (1 - 1e-6), "int32"), axis=-1)


class PyramidPool(keras.layers.Layer):
    """Levels P2 to P5 and regions [B,R,4] to [B,R,*size,C], each from the level of its size, by RoIAlign (4 samples a
    bin) or, with `align=False`, by RoI max pooling."""

    def __init__(
        self, size: tuple[int, int], canonical_size: float = CANONICAL_SIZE, align: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(autocast=False, **kwargs)  # in bfloat16 coordinates would be off by pixels
        self.size, self.canonical_size, self.align = size, canonical_size, align

    def call(self, levels, rois):
        level, pooled = levels_of(rois, self.canonical_size, len(levels)), None
        for number, (features, stride) in enumerate(zip(levels, STRIDES, strict=False)):
            x = pool(features, rois, self.size, stride, self.align)
            here = ops.equal(level, number)[..., None, None, None]
            pooled = x if pooled is None else ops.where(here, x, pooled)
        return pooled

    def compute_output_spec(self, levels, rois):
        shape = (levels[0].shape[0], rois.shape[1], *self.size, levels[0].shape[-1])
        return keras.KerasTensor(shape, levels[0].dtype)


def pool(features: Any, rois: Any, size: tuple[int, int], stride: int, align: bool) -> Any:
    """Features [B,R,*size,C] of regions [B,R,4] from one map of a stride, by RoIAlign or by RoI max pooling."""
    if align:
        return roi_align(features, rois, size, 1 / stride)
    return roi_max_pool(features, rois, size, 1 / stride)


def box_head(x: Any, width: float) -> Any:
    """fc6 and fc7 of 1024 (Section 4.2): [B,R,7,7,256] to [B,R,1024]."""
    x = keras.layers.Reshape((x.shape[1], int(np.prod(x.shape[2:]))), name="flatten")(x)
    for name in ("fc6", "fc7"):
        x = keras.layers.Dense(channels_at(1024, width), activation="relu", name=name)(x)
    return x
