"""YOLO v3: Redmon & Farhadi, "YOLOv3: An Incremental Improvement", 2018 (arXiv 1804.02767), on Darknet-53; in the order
of cfg/yolov3.cfg.

Three maps answer at once, the coarsest first; each finer one takes the coarser one's features, enlarged, beside the
backbone's (Section 2.3). A cell of each gives three boxes, of the three priors of its scale. With a 416x416 image and K
classes:

    conv1 to conv52    Darknet-53: [B,52,52,256], [B,26,26,512], [B,13,13,1024]
    conv53 to conv59   3 x (1x1 512, 3x3 1024), 1x1: stride32 [B,13,13,3(5+K)]
    conv60             1x1 256 of conv57, enlarged to [B,26,26,256], beside Darknet-53's [B,26,26,512]
    conv61 to conv67   3 x (1x1 256, 3x3 512), 1x1: stride16 [B,26,26,3(5+K)]
    conv68             1x1 128 of conv65, enlarged to [B,52,52,128], beside Darknet-53's [B,52,52,256]
    conv69 to conv75   3 x (1x1 128, 3x3 256), 1x1: stride8 [B,52,52,3(5+K)]

10,647 boxes; 61,949,149 parameters with 80 classes, 61,626,049 with 20. The channels of an answer are, prior by prior,
x, y, w, h, objectness and the classes, as Darknet has them.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from repro.errors import ReproError
from repro.models import darknet
from repro.models.darknet import Answer, Conv, Route, Row, Upsample
from repro.ops.boxes import as_boxes, box_area, clip_boxes, pairwise_iou
from repro.ops.matching import gather
from repro.ops.nms import class_nms

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
STRIDES = (32, 16, 8)  # of the answers, in the order of the .cfg file
PRIORS = 3  # of a cell
# (width, height) in pixels of the network's input, smallest first (Section 2.3); the last three are stride 32's
ANCHORS = ((10, 13), (16, 30), (33, 23), (30, 61), (62, 45), (59, 119), (116, 90), (156, 198), (373, 326))
IGNORE = 0.5  # Section 2.1, and cfg/yolov3-voc.cfg

Anchors = Sequence[Sequence[float]] | None

DEVIATIONS = (
    *darknet.DEVIATIONS[:3],
    "the coordinates' loss is the released one: weighted by 2 - wh, and in x and y a cross-entropy, whose gradient is "
    "the paper's difference, but of sigmoids; the paper's squared errors are all of t and have no weights",
    "predictions that overlap an object by more than 0.5 are ignored, as in the paper; by 0.7 in cfg/yolov3.cfg",
    "an object whose centre lies on the right or bottom edge belongs to the last cell; Darknet's next row takes it",
    "the 1000 boxes of the highest objectness go into non-maximum suppression, in Darknet all above the threshold",
    "in training at several sizes, images of the others are made from those of the network's own, not from the "
    "originals",
)


def recipe(variant: str, name: str) -> dict[str, Any]:
    """The training recipe of cfg/yolov3.cfg on COCO: 500,200 steps of 64 images (273 epochs of 117,264) at 1e-3, grown
    to in 1000 steps, a tenth of it after 400,000 and again after 450,000; ten sizes of image (`multi_scale`)."""
    return {
        "optimizer": "sgd", "momentum": 0.9, "batch_size": 64, "learning_rate": 1e-3, "weight_decay": 5e-4,
        "schedule": "step", "drops": [4000 / 5002, 4500 / 5002], "burn_in": 10 / 5002, "epochs": 273,
        "sizes": tuple(range(320, 609, 32)),
        "augment": {"flip": True, "scale": 0.3, "shift": 0.3, "hue": 0.1, "saturation": 1.5, "exposure": 1.5},
    }  # fmt: skip


def anchors_of(anchors: Anchors = None) -> np.ndarray:
    """Widths and heights in pixels, float32 [9,2]; None stands for the paper's. Raises ReproError for others than 9
    pairs above 0."""
    table = np.asarray(ANCHORS if anchors is None else anchors, "float32")
    if table.shape != (PRIORS * len(STRIDES), 2) or not (table > 0).all():
        raise ReproError(f"anchors of shape {table.shape} are impossible", "give 9 of a width and a height in pixels")
    return table


def rows(num_classes: int, variant: str = "paper", depth: float = 1.0, anchors: Anchors = None) -> list[Row]:
    """The network in the order of cfg/yolov3.cfg. Labels "answer32", "answer16" and "answer8".

    `depth` below 1 keeps that share of Darknet-53's blocks in each stage and of the pairs in each head, at least one.
    """
    table = anchors_of(anchors)
    found: list[Row] = darknet.darknet53_rows(depth)
    for scale, stride in enumerate(STRIDES):
        filters = 512 >> scale
        if scale:
            source = f"head{2 * stride}"
            found += [Route((source,)), Conv(filters, 1), Upsample(label=f"up{stride}")]
            found += [Route((f"up{stride}", f"stride{stride}"))]
        pairs = max(1, round(3 * depth))
        for pair in range(1, pairs + 1):
            # what the next scale goes on from is the last 1x1
            label = f"head{stride}" if pair == pairs and stride != STRIDES[-1] else ""
            found += [Conv(filters, 1, label=label), Conv(2 * filters)]
        answers = PRIORS * (5 + num_classes)
        found += [Conv(answers, 1, norm=False, activation="linear", fixed=True)]
        found += [Answer("yolo", _settings(scale, num_classes, table), label=f"answer{stride}")]
    return found


def _settings(scale: int, num_classes: int, anchors: np.ndarray) -> tuple[tuple[str, Any], ...]:
    """The [yolo] section of a scale."""
    first = PRIORS * (len(STRIDES) - 1 - scale)
    return (
        ("mask", ",".join(str(first + index) for index in range(PRIORS))),
        ("anchors", ",  ".join(f"{width:g},{height:g}" for width, height in anchors.tolist())),
        ("classes", num_classes), ("num", len(anchors)), ("jitter", 0.3), ("ignore_thresh", IGNORE),
        ("truth_thresh", 1), ("random", 1),
    )  # fmt: skip


def yolo_v3(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float,
    anchors: Anchors = None, multi_scale: bool = False,
) -> keras.Model:  # fmt: skip
    """YOLO v3. {"image": float32 [B,H,W,C] in 0..255} to raw {"stride32" [B,H/32,W/32,3(5+K)], "stride16", "stride8"}.

    `anchors` as of `anchors_of`; they shape no layer, so give `loss` and `detect` the same. `multi_scale` leaves the
    image's size open, for one network at several sizes (Section 2.4). Raises ReproError for a height or a width that
    32 does not divide, and for impossible anchors."""
    if min(input_size) < 32 or any(side % 32 for side in input_size):
        raise ReproError(
            f"yolo_v3 cannot take {input_size[0]}x{input_size[1]} images", "give a height and a width of n x 32"
        )
    image = keras.Input((*((None, None) if multi_scale else input_size), channels), name="image")
    answers = darknet.stack(darknet.normalise(image, channels), rows(num_classes, variant, depth, anchors), width)
    # answers leave in float32 whatever the precision inside, so that boxes and loss lose nothing
    outputs = {
        f"stride{stride}": keras.layers.Activation("linear", dtype="float32", name=f"stride{stride}")(
            answers[f"answer{stride}"]
        )
        for stride in STRIDES
    }
    return keras.Model({"image": image}, outputs, name="yolo_v3")


def flatten(outputs: dict) -> Any:
    """The boxes of all scales as one list, [B,N,5+K] of x, y, w, h, objectness and classes, raw: the scales from stride
    32 on, in each row by row, in each cell prior by prior. N = 10,647 at 416x416."""
    scales = [ops.cast(outputs[f"stride{stride}"], "float32") for stride in STRIDES]
    flat = [ops.reshape(x, (-1, PRIORS * x.shape[1] * x.shape[2], x.shape[3] // PRIORS)) for x in scales]
    return ops.concatenate(flat, axis=1)


def size_of(outputs: dict) -> tuple[int, int]:
    """(height, width) of the image that outputs are of, in pixels."""
    return tuple(32 * cells for cells in outputs["stride32"].shape[1:3])


def decode(raw: Any, size: tuple[int, int], anchors: Anchors = None) -> Any:
    """Boxes [B,N,4] in pixels of an image of `size`, not clipped, of raw answers [B,N,4 and more] as of `flatten`.

    Section 2.1: bx = (sigmoid(tx) + cx) stride, bw = pw exp(tw), and so y and h. No gradient flows."""
    table, cells, strides, priors = anchors_of(anchors), [], [], []
    for scale, stride in enumerate(STRIDES):
        height, width = size[0] // stride, size[1] // stride
        y, x, prior = np.meshgrid(range(height), range(width), range(PRIORS), indexing="ij")
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((len(cells[-1]), 1), stride))
        priors.append(table[PRIORS * (len(STRIDES) - 1 - scale) + prior.reshape(-1)])
    corners, steps, sides = (np.concatenate(parts).astype("float32") for parts in (cells, strides, priors))
    raw = ops.stop_gradient(raw)
    centre = (ops.sigmoid(raw[..., :2]) + corners) * steps
    half = 0.5 * ops.exp(raw[..., 2:4]) * sides
    return ops.concatenate([centre - half, centre + half], axis=-1)


def targets(boxes: Any, classes: Any, size: tuple[int, int], num_classes: int, anchors: Anchors = None) -> dict:
    """What each object of an image of `size` is to be answered with, and where (Section 2.1). boxes [B,M,4] in pixels,
    classes int [B,M], -1 = padding. Returns

    - `valid` bool [B,M]: neither padding nor without area;
    - `index` int32 [B,M]: its box among those of `flatten`: the cell that holds its centre, and of all nine priors the
      one whose shape has the highest IoU with its own, of equal ones the first;
    - `taught` bool [B,M]: where several objects have one box, the last alone (as Darknet, which overwrites);
    - `t` float32 [B,M,4]: x and y within the cell, in [0,1]; log(w / pw) and log(h / ph);
    - `weight` float32 [B,M]: 2 - wh of the object's share of the image;
    - `labels` float32 [B,M,K]: 1 at its class, and at the classes of others that have the same box (as Darknet).

    A centre on the right or bottom edge, or outside, belongs to the nearest cell. Source: src/yolo_layer.c."""
    table = anchors_of(anchors)
    boxes, classes = as_boxes(boxes), ops.cast(classes, "int32")
    valid = ops.logical_and(classes >= 0, box_area(boxes) > 0)
    boxes = ops.where(valid[..., None], boxes, np.array([0, 0, 1, 1], "float32"))
    sides, centre = boxes[..., 2:] - boxes[..., :2], 0.5 * (boxes[..., 2:] + boxes[..., :2])

    shared = ops.prod(ops.minimum(sides[..., None, :], table), axis=-1)  # [B,M,9]
    iou = shared / (ops.prod(sides, axis=-1)[..., None] + np.prod(table, axis=-1) - shared)
    best = ops.cast(ops.argmax(iou, axis=-1), "int32")

    # by anchor: its stride, the grid of that, and how many boxes come before it
    strides = np.repeat(STRIDES[::-1], PRIORS)
    grid = np.stack([size[1] // strides, size[0] // strides], axis=-1)  # (columns, rows)
    boxes_of = [PRIORS * (size[0] // stride) * (size[1] // stride) for stride in STRIDES]
    first = np.repeat(np.cumsum([0, *boxes_of[:-1]])[::-1], PRIORS) + np.arange(len(table)) % PRIORS
    position = centre / ops.take(strides.astype("float32"), best, axis=0)[..., None]
    last = ops.take(grid.astype("float32") - 1, best, axis=0)
    cell = ops.minimum(ops.maximum(ops.floor(position), 0.0), last)
    column, row = (ops.cast(cell[..., axis], "int32") for axis in (0, 1))
    columns = ops.take(grid[:, 0].astype("int32"), best, axis=0)
    index = ops.take(first.astype("int32"), best, axis=0) + PRIORS * (row * columns + column)

    same = ops.logical_and(ops.equal(index[:, :, None], index[:, None, :]), valid[:, None, :])  # [B,M,M]
    order = np.arange(boxes.shape[1])
    later = ops.any(ops.logical_and(same, order[None, :] > order[:, None]), axis=-1)
    labels = ops.cast(ops.equal(classes[..., None], ops.arange(num_classes, dtype="int32")), "float32")
    labels = ops.cast(ops.matmul(ops.cast(same, "float32"), labels) > 0.5, "float32")
    within = ops.minimum(ops.maximum(position - cell, 0.0), 1.0)
    found = {
        "valid": valid,
        "index": index,
        "taught": ops.logical_and(valid, ops.logical_not(later)),
        "t": ops.concatenate([within, ops.log(sides / ops.take(table, best, axis=0))], axis=-1),
        "weight": 2.0 - ops.prod(sides, axis=-1) / (size[0] * size[1]),
        "labels": labels,
    }
    return {name: ops.stop_gradient(values) for name, values in found.items()}


def loss(outputs: dict, batch: dict, ignore: float = IGNORE, anchors: Anchors = None):
    """The sum over the boxes of an image, averaged over the batch (Sections 2.1 and 2.2); a float32 scalar. Binary
    cross-entropy of

    - objectness of every box: 1 for an object's own, else 0; but none for a box that overlaps an object by an IoU above
      `ignore` and is nobody's own;
    - every class, for the objects' own boxes;

    and for these, weighted by 2 - wh, half the squared errors of w and h, and of x and y a cross-entropy too:
    src/yolo_layer.c hands sigmoid(tx) - x on unchanged as the gradient by tx, as if there were no sigmoid. That part
    ends at the entropy of the targets, not at 0. `batch` has "boxes" and "classes" as of `targets`."""
    raw = flatten(outputs)
    size, num_classes = size_of(outputs), raw.shape[-1] - 5
    truth = targets(batch["boxes"], batch["classes"], size, num_classes, anchors)
    valid, index, taught = truth["valid"], truth["index"], truth["taught"]

    overlap = pairwise_iou(decode(raw, size, anchors), batch["boxes"])  # [B,N,M]
    near = ops.any(ops.logical_and(overlap > ignore, valid[:, None, :]), axis=-1)
    numbers = ops.arange(raw.shape[1], dtype="int32")
    own = ops.any(ops.logical_and(ops.equal(index[:, None, :], numbers[:, None]), valid[:, None, :]), axis=-1)
    objectness = raw[..., 4]
    elsewhere = ops.where(ops.stop_gradient(near), 0.0, ops.softplus(objectness))
    objects = ops.where(own, ops.softplus(-objectness), elsewhere)

    answer = gather(raw, index)  # [B,M,5+K]
    centre = _cross_entropy(answer[..., :2], truth["t"][..., :2])
    shape = 0.5 * ops.square(answer[..., 2:4] - truth["t"][..., 2:])
    kinds = _cross_entropy(answer[..., 5:], truth["labels"])
    taught_losses = truth["weight"] * ops.sum(centre + shape, axis=-1) + ops.sum(kinds, axis=-1)
    images = ops.sum(objects, axis=-1) + ops.sum(ops.where(taught, taught_losses, 0.0), axis=-1)
    return ops.mean(images)


def _cross_entropy(logits, labels):
    """Binary cross-entropy of sigmoid(logits) and labels in [0,1], element by element."""
    return ops.softplus(logits) - labels * logits


def detect(
    outputs: dict,
    batch: dict,
    score_threshold: float = 0.005,
    nms_threshold: float = 0.45,
    max_detections: int = 100,
    anchors: Anchors = None,
    candidates: int = 1000,
) -> dict:
    """Final boxes of each image, best first: every class by itself through non-maximum suppression.

    A score is objectness times the probability of the class (src/yolo_layer.c; thresholds of examples/detector.c). The
    `candidates` boxes of the highest objectness go in: since no score is above it, those that Darknet leaves out for
    their objectness have none above the threshold either. Returns boxes [B,D,4] clipped to the `valid_size` of the
    batch, scores [B,D], classes int [B,D] (-1 = padding), count [B]; no box wholly in the padding is among them."""
    raw = ops.stop_gradient(flatten(outputs))
    boxes = decode(raw, size_of(outputs), anchors)
    _, best = ops.top_k(raw[..., 4], min(candidates, raw.shape[1]))  # raw: sigmoids of 17 and above are all 1
    raw, boxes = gather(raw, best), clip_boxes(gather(boxes, best), batch["valid_size"])
    scores = ops.sigmoid(raw[..., 4:5]) * ops.sigmoid(raw[..., 5:])
    scores = ops.where(box_area(boxes)[..., None] > 0, scores, 0.0)
    return class_nms(boxes[:, :, None], scores, nms_threshold, score_threshold, max_detections)
