"""YOLO: Redmon, Divvala, Girshick & Farhadi, "You Only Look Once: Unified, Real-Time Object Detection", CVPR 2016
(arXiv 1506.02640).

One look at the whole image answers for every cell of an S x S grid: how probable each class is where the cell has an
object, and B boxes with a confidence each, Pr(object) x IoU (Section 2). With a 448x448 image and 20 classes:

    yolo_v1     conv20 [B,14,14,1024], conv22 [B,7,7,1024], conv24; fc1 4096, dropout, fc2 1470   271,703,550 parameters
    fast_yolo   9 convolutions, conv9 [B,7,7,1024]; fc1 256, fc2 4096, dropout, fc3 1470           45,089,374
    answer [B,1470] as Darknet orders it: 7x7x20 class probabilities, 7x7x2 confidences, 7x7x2x4 boxes
    grid [B,7,7,30], the same by cells: 20 class probabilities, 2 x (x, y, sqrt w, sqrt h, confidence)
    98 boxes, each with a score for every class; greedy non-maximum suppression

A box's centre (x,y) is measured from its cell's corner in cells, its sides in shares of the image. Networks are those
of Darknet in 2015: cfg/yolo.cfg of commit 8c5364f5, cfg/yolo-tiny.cfg of eaf033c0, and the classifier they start from
(Section 2.2), cfg/extraction.cfg of 42ba5d45: the first 20 convolutions, average pooling and a fully connected layer.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from repro.errors import ReproError
from repro.models import darknet
from repro.models.darknet import Answer, AveragePool, Connected, Conv, Dropout, MaxPool, Row
from repro.ops.boxes import as_boxes, box_area, clip_boxes, pairwise_iou
from repro.ops.losses import softmax_cross_entropy
from repro.ops.matching import gather
from repro.ops.nms import class_nms

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
STRIDE = 64  # pixels of a cell's side
BOXES = 2  # of a cell (B)

DEVIATIONS = (
    darknet.DEVIATIONS[0],
    darknet.DEVIATIONS[2],
    "images are numbers in 0..1, as in Darknet from 2016 on; the crop layer of its networks of 2015 made -1..1 of them",
    "images are fitted into the canvas with their shape kept; the paper stretches them to 448x448",
    "the loss is Eq. 3 as printed; Darknet follows half of its gradient",
    "of several objects in one cell the first of the record is learned; Darknet shuffles them before, and leaves out "
    "those narrower or lower than a hundredth of the image",
    "the rate begins at 1e-2; the paper's rises to it from 1e-3 in the first epochs",
    "the paper prints no layers of Fast YOLO: they are those of its authors' cfg/yolo-tiny.cfg of November 2015",
    "the classifier's learning rate falls along a cosine; Darknet's along a polynomial",
)


def recipe(variant: str, name: str) -> dict[str, Any]:
    """The training recipe of Section 2.2, 75 epochs at 1e-2, 30 at 1e-3 and 30 at 1e-4; of the classifier, whose rates
    the paper does not tell, that of today's cfg/extraction.cfg, 1,600,000 steps of 128 images."""
    common = {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-4}
    if name == "extraction":
        return common | {
            "batch_size": 128, "learning_rate": 0.1, "schedule": "cosine", "epochs": 160, "augment": {"flip": True},
        }  # fmt: skip
    return common | {
        "batch_size": 64, "learning_rate": 1e-2, "schedule": "step", "drops": [75 / 135, 105 / 135], "epochs": 135,
        "augment": {"flip": True, "scale": 0.2, "shift": 0.2, "saturation": 1.5, "exposure": 1.5},
    }  # fmt: skip


def rows(
    name: str, num_classes: int, grid: tuple[int, int] = (7, 7), variant: str = "paper", depth: float = 1.0
) -> list[Row]:
    """The rows of "yolo_v1", "fast_yolo" or "extraction", in the order of their .cfg files.

    `grid`: rows and columns of cells; only a square one has a .cfg. `variant`: "released" is today's extraction.cfg,
    with batch normalisation and a convolution for the classifier. `depth` below 1 keeps that share, at least one, of
    the four and the two repetitions of yolo_v1 and extraction."""
    if name == "extraction":
        released = variant == "released"
        # the classifier's scores are leaky in both files, which changes no order among them
        scores: tuple[Row, ...] = Conv(num_classes, 1, norm=False, fixed=True), AveragePool()
        if not released:
            scores = AveragePool(), Connected(num_classes, fixed=True)
        return [*_trunk(depth, norm=released), *scores]
    units = grid[0] * grid[1] * (num_classes + 5 * BOXES)
    answer: list[Row] = [Connected(units, "linear", fixed=True), Answer("detection", _settings(num_classes, grid))]
    if name == "fast_yolo":
        convolutions: list[Row] = []
        for filters in (16, 32, 64, 128, 256, 512):
            convolutions += [Conv(filters, norm=False), MaxPool()]
        convolutions += [Conv(1024, norm=False)] * 3
        return [*convolutions, Connected(256, "linear"), Connected(4096), Dropout(), *answer]
    last = [Conv(1024, stride=stride, norm=False) for stride in (1, 2, 1, 1)]
    return [*_trunk(depth), *last, Connected(4096), Dropout(), *answer]


def _trunk(depth: float, norm: bool = False) -> list[Row]:
    """The 20 convolutions that are pretrained (Figure 3)."""

    def pairs(count: int, filters: int) -> list[Row]:
        kept = max(1, round(count * depth))
        return [Conv(filters // 2, 1, norm=norm), Conv(filters, norm=norm)] * kept

    return [
        Conv(64, 7, 2, norm=norm), MaxPool(),
        Conv(192, norm=norm), MaxPool(),
        Conv(128, 1, norm=norm), Conv(256, norm=norm), Conv(256, 1, norm=norm), Conv(512, norm=norm), MaxPool(),
        *pairs(4, 512), Conv(512, 1, norm=norm), Conv(1024, norm=norm), MaxPool(),
        *pairs(2, 1024),
    ]  # fmt: skip


def _settings(num_classes: int, grid: tuple[int, int]) -> tuple[tuple[str, Any], ...]:
    """What the .cfg's section says of the answer and its loss; Darknet refuses a grid without a side."""
    side = (("side", grid[0]),) if grid[0] == grid[1] else ()
    return (
        ("classes", num_classes), ("coords", 4), ("rescore", 1), *side, ("num", BOXES), ("softmax", 0), ("sqrt", 1),
        ("jitter", 0.2), ("object_scale", 1), ("noobject_scale", 0.5), ("class_scale", 1), ("coord_scale", 5),
    )  # fmt: skip


class Grid(keras.layers.Layer):
    """Darknet's answer [B,h*w*(C+5B)] by cells, [B,h,w,C+5B]; its order is in this file's first lines."""

    def __init__(self, grid: tuple[int, int], num_classes: int, **kwargs: Any) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.grid, self.num_classes = grid, num_classes

    def call(self, answer):
        height, width = self.grid
        cells = height * width
        first, second = cells * self.num_classes, cells * (self.num_classes + BOXES)
        classes = ops.reshape(answer[:, :first], (-1, height, width, self.num_classes))
        confidence = ops.reshape(answer[:, first:second], (-1, height, width, BOXES, 1))
        boxes = ops.reshape(answer[:, second:], (-1, height, width, BOXES, 4))
        boxes = ops.reshape(ops.concatenate([boxes, confidence], axis=-1), (-1, height, width, 5 * BOXES))
        return ops.concatenate([classes, boxes], axis=-1)


def parts(grid) -> dict[str, Any]:
    """What cells [B,h,w,C+5B] say: "classes" [B,h,w,C], "boxes" [B,h,w,B,4] of (x, y, sqrt w, sqrt h) and
    "confidence" [B,h,w,B]."""
    height, width, channels = grid.shape[1:]
    num_classes = channels - 5 * BOXES
    boxes = ops.reshape(grid[..., num_classes:], (-1, height, width, BOXES, 5))
    return {"classes": grid[..., :num_classes], "boxes": boxes[..., :4], "confidence": boxes[..., 4]}


def yolo_v1(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float
) -> keras.Model:
    """YOLO. {"image": float32 [B,H,W,C] in 0..255} to {"answer": [B,h*w*(K+10)], "grid": [B,h,w,K+10]}, h = H/64.

    Raises ReproError for images whose sides are no multiples of 64."""
    return _detector("yolo_v1", num_classes, input_size, channels, width, depth)


def fast_yolo(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float
) -> keras.Model:
    """Fast YOLO; inputs, outputs and errors as of `yolo_v1`. It has no repetitions for `depth` to leave out."""
    return _detector("fast_yolo", num_classes, input_size, channels, width, depth)


def _detector(
    name: str, num_classes: int, input_size: tuple[int, int], channels: int, width: float, depth: float
) -> keras.Model:
    if min(input_size) < STRIDE or any(side % STRIDE for side in input_size):
        raise ReproError(
            f"{name} cannot take {input_size[0]}x{input_size[1]} images", f"give sides that are multiples of {STRIDE}"
        )
    grid = input_size[0] // STRIDE, input_size[1] // STRIDE
    image = keras.Input((*input_size, channels), name="image")
    x = darknet.stack(darknet.normalise(image, channels), rows(name, num_classes, grid, depth=depth), width)["last"]
    answer = keras.layers.Activation("linear", dtype="float32", name="answer")(x)
    outputs = {"answer": answer, "grid": Grid(grid, num_classes, name="grid")(answer)}
    return keras.Model({"image": image}, outputs, name=name)


def extraction(
    *, num_classes: int, input_size: tuple[int, int], channels: int, variant: str, width: float, depth: float
) -> keras.Model:
    """The classifier that YOLO starts from. float32 [B,H,W,C] in 0..255 to class scores [B,num_classes] (before the
    softmax).

    23,428,136 parameters with 1000 classes; 23,437,224 in variant "released", which has batch normalisation. Raises
    ReproError for images without a pixel at stride 32."""
    if min(input_size) < 32:
        raise ReproError(f"extraction cannot take {input_size[0]}x{input_size[1]} images", "give at least 32x32")
    image = keras.Input((*input_size, channels), name="image")
    layers = rows("extraction", num_classes, variant=variant, depth=depth)
    x = darknet.stack(darknet.normalise(image, channels), layers, width)["last"]
    x = keras.layers.Reshape((num_classes,), name="reshape")(x)
    return keras.Model(
        image, {"scores": keras.layers.Activation("linear", dtype="float32", name="scores")(x)}, name="extraction"
    )


def fold_batch_norm(source: keras.Model, target: keras.Model) -> int:
    """Give a network without batch normalisation the convolutions of one with it (the released extraction): kernels
    times gamma / sqrt(variance + epsilon), biases beta - that times the mean. Returns how many.

    Raises ReproError when the source has none, or a convolution of another shape."""
    layers = {layer.name: layer for layer in target.layers}
    norms = [layer for layer in source.layers if isinstance(layer, keras.layers.BatchNormalization)]
    folded = {}
    for norm in norms:
        name = norm.name.replace("bn", "conv")
        kernel = ops.convert_to_numpy(source.get_layer(name).kernel)
        gamma, beta, mean, variance = (ops.convert_to_numpy(values) for values in norm.weights)
        factor = gamma / np.sqrt(variance + norm.epsilon)
        folded[name] = [kernel * factor, beta - mean * factor]
        if name not in layers or [tuple(w.shape) for w in layers[name].weights] != [w.shape for w in folded[name]]:
            raise ReproError(f"{name} of {source.name} does not fit {target.name}", "give the same width and depth")
    if not folded:
        raise ReproError(f"{source.name} has no batch normalisation to fold", "copy its weights by name")
    for name, weights in folded.items():
        layers[name].set_weights(weights)
    return len(folded)


def decode(coordinates):
    """Boxes (x1,y1,x2,y2) in pixels of the canvas, [B,h,w,N,4], of (x, y, sqrt w, sqrt h) [B,h,w,N,4] in their cells.

    A negative root counts as a positive one (Darknet's src/detection_layer.c)."""
    height, width = coordinates.shape[1:3]
    corner = np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1).astype("float32")[:, :, None]
    centre = (coordinates[..., :2] + corner) * STRIDE
    half = ops.square(coordinates[..., 2:]) * np.array([width, height], "float32") * (STRIDE / 2)
    return ops.concatenate([centre - half, centre + half], axis=-1)


def targets(boxes, classes, grid: tuple[int, int]) -> dict[str, Any]:
    """What each cell of a grid (h,w) is to say. boxes [B,M,4] in pixels of the canvas, classes int [B,M], -1 = padding.

    The cell that an object's centre falls into answers for it (Section 2). Of several objects the first counts; a
    centre on the canvas' right or bottom edge, or outside, falls into the nearest cell; boxes without area count as
    padding. Returns "object" bool [B,h,w]; where there is none, the others are "classes" int [B,h,w] of -1,
    "boxes" [B,h,w,4] in pixels and "coordinates" [B,h,w,4] (x, y, sqrt w, sqrt h) of 0."""
    height, width = grid
    boxes, classes = ops.stop_gradient(as_boxes(boxes)), ops.cast(classes, "int32")
    number = boxes.shape[1]
    valid = ops.logical_and(classes >= 0, box_area(boxes) > 0)
    cells = np.array([width, height], "float32")
    centre = (boxes[..., :2] + boxes[..., 2:]) / (2 * STRIDE)
    corner = ops.minimum(ops.maximum(ops.floor(centre), 0.0), cells - 1)
    roots = ops.sqrt(ops.maximum(boxes[..., 2:] - boxes[..., :2], 0.0) / (cells * STRIDE))
    coordinates = ops.concatenate([centre - corner, roots], axis=-1)  # [B,M,4]

    cell = ops.cast(corner[..., 1] * width + corner[..., 0], "int32")
    claimed = ops.equal(cell[..., None], ops.arange(height * width, dtype="int32"))  # [B,M,h*w]
    claimed = ops.logical_and(claimed, valid[..., None])
    first = ops.min(ops.where(claimed, ops.arange(number, dtype="int32")[:, None], number), axis=1)  # [B,h*w]
    found, index = first < number, ops.minimum(first, number - 1)

    def of_cells(values, empty):
        values = gather(values, index)
        present = ops.reshape(found, (-1, height * width) + (1,) * (len(values.shape) - 2))
        return ops.reshape(ops.where(present, values, empty), (-1, height, width, *values.shape[2:]))

    return {
        "object": ops.reshape(found, (-1, height, width)),
        "classes": of_cells(classes, -1),
        "boxes": of_cells(boxes, 0.0),
        "coordinates": of_cells(coordinates, 0.0),
    }


def responsible(coordinates, wanted: dict) -> tuple[Any, Any]:
    """Which of a cell's boxes answers for its object, bool [B,h,w,N], none where there is none, and the boxes' IoUs
    with it [B,h,w,N]. coordinates [B,h,w,N,4] (x, y, sqrt w, sqrt h), `wanted` as of `targets`. No gradient flows.

    The box with the highest IoU (Section 2); where none overlaps the object, the one of the smallest squared distance
    in x, y, w and h, all in shares of the image (as in Darknet's src/detection_layer.c). Of equals the first."""
    coordinates = ops.stop_gradient(coordinates)
    height, width, number = coordinates.shape[1:4]
    iou = pairwise_iou(decode(coordinates), wanted["boxes"][..., None, :])[..., 0]
    truth = wanted["coordinates"][..., None, :]
    shift = (coordinates[..., :2] - truth[..., :2]) / np.array([width, height], "float32")
    growth = ops.square(coordinates[..., 2:]) - ops.square(truth[..., 2:])
    distance = ops.sum(ops.square(shift) + ops.square(growth), axis=-1)
    closest = ops.where(ops.any(iou > 0, axis=-1), ops.argmax(iou, axis=-1), ops.argmin(distance, axis=-1))
    chosen = ops.equal(ops.cast(closest, "int32")[..., None], ops.arange(number, dtype="int32"))
    return ops.logical_and(chosen, wanted["object"][..., None]), iou


def loss(outputs: dict, batch: dict, **options: Any):
    """The loss of what gave the outputs: of the classifier softmax cross-entropy with `batch["label"]`, averaged over
    the batch; of a detector `detection_loss`. A float32 scalar."""
    if "scores" in outputs:
        return softmax_cross_entropy(outputs["scores"], batch["label"], void=None, **options)
    return detection_loss(outputs, batch, **options)


def detection_loss(outputs: dict, batch: dict, lambda_coord: float = 5.0, lambda_noobj: float = 0.5):
    """Eq. 3, summed over the cells of an image and averaged over the batch: squared errors of the responsible boxes'
    coordinates, times `lambda_coord`; of their confidences, whose target is their IoU; of all other confidences,
    whose target is 0, times `lambda_noobj`; and of the class probabilities where there is an object.

    batch: "boxes" [B,M,4] in pixels of the canvas and "classes" int [B,M], -1 = padding."""
    said = parts(outputs["grid"])
    wanted = targets(batch["boxes"], batch["classes"], tuple(outputs["grid"].shape[1:3]))
    answers, iou = responsible(said["boxes"], wanted)
    errors = ops.sum(ops.square(said["boxes"] - wanted["coordinates"][..., None, :]), axis=-1)
    confidence = ops.square(said["confidence"] - ops.where(answers, iou, 0.0))
    of_boxes = ops.where(answers, lambda_coord * errors + confidence, lambda_noobj * confidence)
    one_hot = ops.equal(wanted["classes"][..., None], ops.arange(said["classes"].shape[-1], dtype="int32"))
    of_classes = ops.square(said["classes"] - ops.cast(one_hot, "float32"))
    of_classes = ops.where(wanted["object"][..., None], of_classes, 0.0)
    return ops.mean(ops.sum(of_boxes, axis=(1, 2, 3)) + ops.sum(of_classes, axis=(1, 2, 3)))


def detect(
    outputs: dict, batch: dict, score_threshold: float = 0.001, nms_threshold: float = 0.5, max_detections: int = 100
) -> dict:
    """Final boxes of each image, best first: confidence times class probability (Eq. 1) of the h*w*2 boxes, every class
    by itself through non-maximum suppression (Section 2.3; thresholds of Darknet's examples/yolo.c).

    Returns boxes [B,D,4] clipped to the `valid_size` of the batch, scores [B,D], classes int [B,D] (-1 = padding),
    count [B]."""
    said = parts(outputs["grid"])
    height, width, num_classes = said["classes"].shape[1:]
    number = height * width * BOXES
    boxes = ops.reshape(decode(said["boxes"]), (-1, number, 1, 4))
    scores = ops.reshape(said["confidence"][..., None] * said["classes"][:, :, :, None], (-1, number, num_classes))
    found = class_nms(boxes, scores, nms_threshold, score_threshold, max_detections)
    return found | {"boxes": clip_boxes(found["boxes"], batch["valid_size"])}
