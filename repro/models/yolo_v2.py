"""YOLO v2: Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017 (arXiv 1612.08242), on Darknet-19.

One pass over the image answers, at each cell of a grid of stride 32, with five boxes measured from anchors. With an
image [B,416,416,3]:

    conv13 [B,26,26,512], conv18 [B,13,13,1024]      Darknet-19 without its scores
    conv19, conv20 3x3 1024 [B,13,13,1024]
    passthrough: conv13 as [B,13,13,2048] beside conv20, 3072 channels; released: through a 1x1 convolution to 64
    first, 1280 channels
    3x3 1024, 1x1 5(5+K): grid [B,13,13,125] with K = 20; for each anchor x, y, w, h, objectness, K classes

Variant "paper" is cfg/yolo-voc.2.0.cfg (of commit 60e952ba), 67,137,565 parameters with 20 classes; "released" is
cfg/yolov2-voc.cfg, 50,655,389, and with 80 classes cfg/yolov2.cfg, 50,962,889.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from repro.errors import ReproError
from repro.models import darknet
from repro.models.darknet import Answer, Conv, Route, Row
from repro.ops.boxes import MIN_SIDE, box_area, clip_boxes, pairwise_iou, side_lengths
from repro.ops.matching import gather
from repro.ops.nms import class_nms

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
STRIDE = 32
# widths and heights in cells of the grid, by k-means on the boxes of each data set (Section 2, "Dimension Clusters")
ANCHORS = {
    "paper": ((1.08, 1.19), (3.42, 4.41), (6.63, 11.38), (9.42, 5.11), (16.62, 10.52)),
    "released": (
        (1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071),
    ),
    "coco": ((0.57273, 0.677385), (1.87446, 2.06253), (3.33843, 5.47434), (7.88282, 3.52778), (9.77052, 9.16828)),
}  # fmt: skip
# of tw and th: exp(10) times an anchor is larger than any image, and further on float32 would overflow
MAX_LOG_SCALE = 10.0

DEVIATIONS = (
    *darknet.DEVIATIONS[:3],
    "the loss is that of the released region layer, its gradients those of half the squared errors and of softmax "
    "cross-entropy; the paper prints none",
    "the released code draws all boxes to their anchors during the first 12,800 images; this loss does not",
    "images keep their shape and are padded at the bottom and the right; boxes wholly in the padding are left out",
    "in training at several sizes, images of the others are made from those of the network's own, not from the "
    "originals",
)


def recipe(variant: str, name: str) -> dict[str, Any]:
    """The training recipe of Section 3 ("Training for detection"): 160 epochs from 1e-3, a tenth from 60 and from 90
    on, ten sizes of image (Section 2, `multi_scale`); the rest as in cfg/yolov2-voc.cfg: batches of 64, 1000 of 80,200
    steps in which the rate grows, jitter 0.3."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 64, "learning_rate": 1e-3, "weight_decay": 5e-4,
        "schedule": "step", "drops": [60 / 160, 90 / 160], "burn_in": 1000 / 80200, "epochs": 160,
        "sizes": tuple(range(320, 609, 32)),
        "augment": {"flip": True, "scale": 0.3, "shift": 0.3, "hue": 0.1, "saturation": 1.5, "exposure": 1.5},
    }  # fmt: skip


class Reorg(keras.layers.Layer):
    """[B,h,w,C] to [B,h/s,w/s,s*s*C], exactly as Darknet's reorg layer (src/reorg_layer.c, `reorg_cpu` of src/blas.c).

    Not the plain space-to-depth that its shapes suggest: the layer reads its input [C,h,w] as if it were
    [C/(s*s),h*s,w*s], cuts that into pixels of every s-th row and column, and writes these as [s*s*C,h/s,w/s]. The
    official weights were learned behind it. Heights and widths may be open (None) when a network is built. Raises
    ReproError unless C is a multiple of s*s."""

    def __init__(self, stride: int = 2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stride = stride

    def call(self, x):
        s = self.stride
        height, width, channels = ops.shape(x)[1:]
        x = ops.transpose(x, (0, 3, 1, 2))  # the order in Darknet's memory
        x = ops.reshape(x, (-1, channels // s**2, height, s, width, s))
        x = ops.transpose(x, (0, 3, 5, 1, 2, 4))
        x = ops.reshape(x, (-1, channels * s**2, height // s, width // s))
        return ops.transpose(x, (0, 2, 3, 1))

    def compute_output_spec(self, x):
        batch, height, width, channels = x.shape
        if channels % self.stride**2:
            cure = f"give a width at which they are a multiple of {self.stride**2}"
            raise ReproError(f"the passthrough cannot rearrange {channels} channels", cure)
        sides = (side and side // self.stride for side in (height, width))
        return keras.KerasTensor((batch, *sides, channels * self.stride**2), x.dtype)


class Anchors(keras.layers.Layer):
    """Anchors [B,A,2] beside the grid [B,h,w,...] they belong to, so that loss and decoding cannot take others."""

    def __init__(self, anchors: tuple[tuple[float, ...], ...], **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.anchors = anchors

    def call(self, grid):
        return ops.broadcast_to(np.asarray(self.anchors, "float32"), (ops.shape(grid)[0], len(self.anchors), 2))

    def compute_output_spec(self, grid):
        return keras.KerasTensor((grid.shape[0], len(self.anchors), 2), "float32")


def anchors_of(num_classes: int, variant: str) -> tuple[tuple[float, float], ...]:
    """The anchors (width, height), in cells, of a variant's .cfg file: COCO's with its 80 classes, else VOC's."""
    return ANCHORS["coco" if num_classes == 80 else variant]


def rows(
    num_classes: int, variant: str, depth: float = 1.0, anchors: tuple[tuple[float, ...], ...] | None = None
) -> list[Row]:
    """All rows, in the order of the .cfg file. `depth` as of `darknet.darknet19_rows`; `anchors`: of `anchors_of`."""
    anchors = anchors or anchors_of(num_classes, variant)
    released = variant == "released"
    region = {
        "anchors": ", ".join(f"{width},{height}" for width, height in anchors),
        "bias_match": 1, "classes": num_classes, "coords": 4, "num": len(anchors), "softmax": 1,
        "jitter": 0.3 if released else 0.2, "rescore": 1, "object_scale": 5, "noobject_scale": 1, "class_scale": 1,
        "coord_scale": 1, "absolute": 1, "thresh": 0.6, "random": int(released),
    }  # fmt: skip
    return [
        *darknet.darknet19_rows(depth), Conv(1024), Conv(1024, label="coarse"),
        Route(("stride16",)), *([Conv(64, 1)] if released else []), darknet.Reorg(label="fine"),
        Route(("fine", "coarse")), Conv(1024),
        Conv(len(anchors) * (5 + num_classes), 1, norm=False, activation="linear", fixed=True),
        Answer("region", tuple(region.items())),
    ]  # fmt: skip


def yolo_v2(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    anchors: tuple[tuple[float, ...], ...] | None = None, multi_scale: bool = False,
) -> keras.Model:  # fmt: skip
    """YOLO v2. {"image": float32 [B,H,W,C] in 0..255} to {"grid": [B,H/32,W/32,A(5+K)], "anchors": [B,A,2]}.

    The grid is raw, before sigmoid, exp and softmax, and has for each of A anchors x, y, w, h, objectness and K
    classes. `anchors`: (width, height) of each in cells, None for those of `anchors_of`. `multi_scale` leaves H and
    W open, to train and test one network at several sizes (Section 2, "Multi-Scale Training"); `input_size` then
    counts for nothing. Raises ReproError for sides that are no multiples of 32, anchors without area, and a width that
    does not suit the passthrough (`Reorg`)."""
    if any(side < STRIDE or side % STRIDE for side in input_size):
        raise ReproError(f"yolo_v2 cannot take {input_size[0]}x{input_size[1]} images", "give multiples of 32")
    anchors = tuple(tuple(anchor) for anchor in anchors) if anchors is not None else anchors_of(num_classes, variant)
    if not anchors or any(len(anchor) != 2 or min(anchor) <= 0 for anchor in anchors):
        raise ReproError(f"anchors {anchors} of yolo_v2 are impossible", "give (width, height) of each, above 0")
    image = keras.Input((None, None, channels) if multi_scale else (*input_size, channels), name="image")
    x = darknet.normalise(image, channels)
    x = darknet.stack(x, rows(num_classes, variant, depth, anchors), width, Reorg)["last"]
    # the answer leaves in float32 whatever the precision inside, so that loss and decoding lose nothing
    grid = keras.layers.Activation("linear", dtype="float32", name="grid")(x)
    outputs = {"grid": grid, "anchors": Anchors(anchors, name="anchors")(grid)}
    return keras.Model({"image": image}, outputs, name="yolo_v2")


def unpack(outputs: dict) -> tuple[Any, Any]:
    """The network's outputs as raw answers [B,h,w,A,5+K] and anchors [A,2]."""
    grid, anchors = outputs["grid"], outputs["anchors"]
    number = anchors.shape[1]
    shape = (*grid.shape[1:3], number, grid.shape[3] // number)
    return ops.reshape(grid, (-1, *shape)), anchors[0]


def decode(raw: Any, anchors: Any) -> Any:
    """Boxes [B,h,w,A,4], in pixels of the canvas, of raw answers [B,h,w,A,4 or more] and anchors [A,2] in cells.

    Centres are sigmoid(tx) + cx, sigmoid(ty) + cy, sides pw exp(tw), ph exp(th) (Section 2, "Direct location
    prediction"), where tw and th count up to `MAX_LOG_SCALE`. Boxes may reach outside the canvas."""
    cells = np.stack(np.meshgrid(*(np.arange(side) for side in raw.shape[2:0:-1])), axis=-1).astype("float32")
    centre = ops.sigmoid(raw[..., :2]) + cells[:, :, None]
    half = 0.5 * ops.cast(anchors, "float32") * ops.exp(ops.minimum(raw[..., 2:4], MAX_LOG_SCALE))
    return STRIDE * ops.concatenate([centre - half, centre + half], axis=-1)


def objects_of(boxes: Any, classes: Any, grid_size: tuple[int, int]) -> tuple[Any, Any]:
    """Boxes [B,M,4] cut to the canvas of a grid (rows, columns), and which are objects, bool [B,M]: those with a class
    and an area."""
    boxes = clip_boxes(boxes, STRIDE * np.asarray([grid_size]))
    return boxes, ops.logical_and(classes >= 0, box_area(boxes) > 0)


def targets(boxes: Any, classes: Any, anchors: Any, grid_size: tuple[int, int]) -> dict[str, Any]:
    """What each anchor of each cell of a grid (rows, columns) is trained to be, as the region layer does it.

    boxes [B,M,4] in pixels of the canvas, classes int [B,M] (-1 = padding), anchors [A,2] in cells. An object belongs
    to the cell of its centre, and there to the anchor whose width and height overlap its own best, the first of
    equals. Where two objects want one anchor of one cell, it is the later's. Boxes are cut to the canvas first, so that
    a centre lies inside; one on its right or bottom edge, by rounding, belongs to the last cell. Returns

    - `object` int32 [B,h,w,A]: the index of its object, -1 for none, and then all else is 0, the class -1;
    - `box` float32 [B,h,w,A,4]: what sigmoid(tx), sigmoid(ty), tw and th should be;
    - `weight` float32 [B,h,w,A]: 2 - w h of the object, in parts of the canvas;
    - `class` int32 [B,h,w,A].

    Source: src/region_layer.c (with bias_match). Raises ValueError where a box has not 4 numbers."""
    (height, width), count = grid_size, boxes.shape[1]
    anchors = ops.convert_to_tensor(anchors, dtype="float32")
    number = anchors.shape[0]
    boxes, valid = objects_of(boxes, classes, grid_size)
    boxes = boxes / STRIDE
    centre, sides = 0.5 * (boxes[..., :2] + boxes[..., 2:]), ops.stack(side_lengths(boxes), axis=-1)  # [B,M,2]
    cell = ops.minimum(ops.floor(centre), np.asarray([width - 1, height - 1], "float32"))

    shared = ops.prod(ops.minimum(sides[:, :, None], anchors), axis=-1)  # [B,M,A]
    shape_iou = shared / (box_area(boxes)[..., None] + anchors[:, 0] * anchors[:, 1] - shared)
    best = ops.cast(ops.argmax(shape_iou, axis=-1), "int32")
    scale = ops.maximum(sides, MIN_SIDE / STRIDE) / ops.take(anchors, best, axis=0)
    box = ops.concatenate([centre - cell, ops.log(scale)], axis=-1)

    column, row = (ops.cast(cell[..., axis], "int32") for axis in (0, 1))
    slot = ops.where(valid, (row * width + column) * number + best, -1)  # [B,M]
    # a comparison and no scatter, which would leave open whose the anchor is
    wants = ops.equal(slot[:, None], ops.arange(height * width * number, dtype="int32")[:, None])  # [B,h*w*A,M]
    index = ops.max(ops.where(wants, ops.arange(count, dtype="int32"), -1), axis=-1)
    found, some = index >= 0, ops.maximum(index, 0)
    weight = 2.0 - gather(box_area(boxes), some) / (height * width)
    dense = {
        "object": index,
        "box": ops.where(found[..., None], gather(box, some), 0.0),
        "weight": ops.where(found, weight, 0.0),
        "class": ops.where(found, gather(ops.cast(classes, "int32"), some), -1),
    }
    shape = (-1, height, width, number)
    return {key: ops.reshape(value, (*shape, 4) if key == "box" else shape) for key, value in dense.items()}


def loss(
    outputs: dict,
    batch: dict,
    object_scale: float = 5.0,
    noobject_scale: float = 1.0,
    class_scale: float = 1.0,
    coord_scale: float = 1.0,
    ignore_iou: float = 0.6,
):
    """The region layer's loss, summed over the boxes of an image and averaged over the images; a float32 scalar.

    Of an anchor with an object (`targets`): half the squared errors of sigmoid(tx), sigmoid(ty), tw and th, times
    `coord_scale` and 2 - w h; of sigmoid(to) against the IoU of its box with the object, times `object_scale`;
    softmax cross-entropy of the classes, times `class_scale`. Of any other: half the square of sigmoid(to), times
    `noobject_scale`, unless its box has an IoU above `ignore_iou` with some object. No gradient flows through an IoU.
    `batch`: boxes [B,M,4] in pixels of the canvas, classes int [B,M] (-1 = padding).

    Its gradients are those of src/region_layer.c (settings of the .cfg files), which gives no loss."""
    raw, anchors = unpack(outputs)
    grid_size = tuple(raw.shape[1:3])
    wanted = targets(batch["boxes"], batch["classes"], anchors, grid_size)
    found, confidence = wanted["object"] >= 0, ops.sigmoid(raw[..., 4])
    best, own = overlaps(raw, anchors, batch, wanted["object"])

    answers = ops.concatenate([ops.sigmoid(raw[..., :2]), raw[..., 2:4]], axis=-1)
    box = wanted["weight"] * ops.sum(ops.square(answers - wanted["box"]), axis=-1)
    background = ops.where(best > ignore_iou, 0.0, noobject_scale * ops.square(confidence))
    objectness = ops.where(found, object_scale * ops.square(own - confidence), background)
    chosen = ops.equal(wanted["class"][..., None], ops.arange(raw.shape[-1] - 5, dtype="int32"))
    classification = -ops.sum(ops.where(chosen, ops.log_softmax(raw[..., 5:], axis=-1), 0.0), axis=-1)
    total = 0.5 * (coord_scale * box + objectness) + class_scale * classification
    return ops.mean(ops.sum(total, axis=(1, 2, 3)))


def overlaps(raw: Any, anchors: Any, batch: dict, index: Any) -> tuple[Any, Any]:
    """IoU of every decoded box with the object it overlaps most, and with object `index` [B,h,w,A]; both [B,h,w,A],
    without a gradient, and -1 where there is no object."""
    shape = (-1, *raw.shape[1:4])
    boxes, valid = objects_of(batch["boxes"], batch["classes"], tuple(raw.shape[1:3]))
    decoded = ops.reshape(ops.stop_gradient(decode(raw, anchors)), (-1, math.prod(raw.shape[1:4]), 4))
    iou = ops.where(valid[:, None], pairwise_iou(decoded, ops.stop_gradient(boxes)), -1.0)  # [B,h*w*A,M]
    index = ops.reshape(index, (-1, iou.shape[1], 1))
    own = ops.where(index >= 0, ops.take_along_axis(iou, ops.maximum(index, 0), axis=2), -1.0)
    return ops.reshape(ops.max(iou, axis=-1), shape), ops.reshape(own, shape)


def detect(
    outputs: dict, batch: dict, score_threshold: float = 0.005, nms_threshold: float = 0.45, max_detections: int = 100
) -> dict:
    """Final boxes of each image, best first: every class by itself through non-maximum suppression.

    A score is the class's probability times the objectness (examples/detector.c, whose thresholds these are). As
    there, boxes are cut after the suppression, here to the `valid_size` of the batch, and those wholly outside it are
    left out. Returns boxes [B,D,4] in pixels of the canvas, scores [B,D], classes int [B,D] (-1 = padding), count [B].
    """
    raw, anchors = unpack(outputs)
    number = math.prod(raw.shape[1:4])
    boxes = ops.reshape(decode(raw, anchors), (-1, number, 4))
    scores = ops.sigmoid(raw[..., 4:5]) * ops.softmax(raw[..., 5:], axis=-1)
    scores = ops.reshape(scores, (-1, number, raw.shape[-1] - 5))
    inside = box_area(clip_boxes(boxes, batch["valid_size"])) > 0
    scores = ops.where(inside[..., None], scores, float("-inf"))
    found = class_nms(boxes[:, :, None], scores, nms_threshold, score_threshold, max_detections)
    return found | {"boxes": clip_boxes(found["boxes"], batch["valid_size"])}
