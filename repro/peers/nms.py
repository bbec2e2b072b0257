"""Non-maximum suppression in other libraries, called as their users call it, and boxes like those of detectors for it.

A peer of one list takes (boxes [N,4], scores [N], iou_threshold, max_output), one of a detector's last step
(boxes [N,C,4] or [N,1,4], scores [N,C], iou_threshold, score_threshold, max_output), boxes as (x1,y1,x2,y2), as NumPy
arrays with scores above 0 of which no two of a class are equal. It returns (a call to time, what it keeps: int [K], the
best first, the number i of a box, or c * N + i). Raises ImportError where the library is missing or cannot do it.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from repro import backend
from repro.metrics.detection import box_iou
from repro.ops.anchors import base_anchors, grid_anchors
from repro.ops.boxes import clip_boxes, decode_boxes, encode_boxes
from repro.peers.programs import compiled, tensorflow, torch_tensor, waiting

Built = tuple[Callable[[], Any], np.ndarray]
STRIDE = 16  # pixels between an RPN's anchors
YOLO_ANCHORS = ((1.3221, 1.73145), (3.19275, 4.00944), (5.05587, 8.09892), (9.47112, 4.84053), (11.2364, 10.0071))
YOLO_STRIDE = 32


# --- boxes as detectors predict them


def predicted(
    anchors: np.ndarray, objects: np.ndarray, image: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes [N,4] as a trained network makes them of anchors [N,4]: drawn to the object they overlap most, the more
    the more they do, with errors. Also that overlap [N] of the anchor, and the object's number [N]."""
    iou = box_iou(anchors, objects)
    overlap, nearest = iou.max(axis=1), iou.argmax(axis=1)
    deltas = ops.convert_to_numpy(encode_boxes(objects[nearest], anchors))
    deltas = deltas * np.minimum(1, 2 * overlap)[:, None] + rng.normal(0, 0.15, deltas.shape)
    boxes = clip_boxes(decode_boxes(deltas.astype("float32"), anchors), np.array(image))
    return ops.convert_to_numpy(boxes), overlap, nearest


def some_objects(number: int, image: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Boxes [M,4] of a tenth to six tenths of the image's sides, anywhere."""
    size = np.array(image[::-1])
    sides = rng.uniform(0.1, 0.6, (number, 2)) * size
    corners = rng.uniform(0, 1, (number, 2)) * (size - sides)
    return np.concatenate([corners, corners + sides], axis=1).astype("float32")


def region_proposals(
    objects: np.ndarray, image: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What an RPN predicts at every anchor, the best first: boxes [N,4] and distinct scores [N], which follow the
    overlap with an object."""
    grid = -(-image[0] // STRIDE), -(-image[1] // STRIDE)
    boxes, overlap, _ = predicted(grid_anchors(base_anchors(), grid, STRIDE), objects, image, rng)
    scores = _sigmoid(8 * (overlap - 0.5) + rng.normal(0, 1, len(overlap))).astype("float32")
    order = np.unique(-scores, return_index=True)[1]  # of equal ones one: who of them goes first is anyone's choice
    return boxes[order], scores[order]


def class_scores(
    overlap: np.ndarray, nearest: np.ndarray, num_classes: int, background: float, rng: np.random.Generator
) -> np.ndarray:
    """Softmax over background, which has a logit more by so much, and classes: those of the classes [N,C].

    Object number m is of class m modulo C, whose logit grows with the overlap [N]."""
    logits = rng.normal(0, 1, (len(overlap), 1 + num_classes))
    logits[:, 0] += background
    logits[np.arange(len(overlap)), 1 + nearest % num_classes] += 14 * np.maximum(overlap - 0.2, 0)
    powers = np.exp(logits)
    return (powers / powers.sum(axis=1, keepdims=True))[:, 1:].astype("float32")


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def detector_outputs(
    regions: np.ndarray, objects: np.ndarray, image: tuple[int, int], classes: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Of regions [R,4], boxes [R,C,4] of every class and scores [R,C], as Fast R-CNN's head gives them."""
    each = [predicted(regions, objects, image, rng) for _ in range(classes)]
    return np.stack([boxes for boxes, _, _ in each], axis=1), class_scores(*each[0][1:], classes, 5, rng)


def yolo_outputs(cells: int, classes: int, objects: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Boxes [N,1,4] and scores [N,C] of YOLO v2's five anchors in every cell: objectness times class."""
    half = np.array(YOLO_ANCHORS) * YOLO_STRIDE / 2
    anchors = grid_anchors(np.hstack([-half, half]) + YOLO_STRIDE / 2, (cells, cells), YOLO_STRIDE)
    image = (cells * YOLO_STRIDE, cells * YOLO_STRIDE)
    boxes, overlap, nearest = predicted(anchors, some_objects(objects, image, rng), image, rng)
    objectness = _sigmoid(14 * (overlap - 0.6) + rng.normal(0, 1, len(overlap)))
    probabilities = class_scores(overlap, nearest, classes, -np.inf, rng)  # YOLO has no background class
    return boxes[:, None], (objectness[:, None] * probabilities).astype("float32")


# --- peers


def identify(scores: np.ndarray, found: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Which boxes [K] (c * N + i) have these scores `found` [K] in these classes [K], of scores [N,C]."""
    classes = np.asarray(classes).astype(int)
    boxes = [int(np.abs(scores[:, c] - score).argmin()) for score, c in zip(found, classes, strict=True)]
    return classes * len(scores) + np.array(boxes, int)


def _called(function: Callable[..., Any], boxes: np.ndarray, scores: np.ndarray, xla: bool | None = None) -> Any:
    """A call of a function of TensorFlow's boxes (y1,x1,y2,x2) and of scores, in a graph."""
    arrays = backend.to_device(boxes[..., [1, 0, 3, 2]]), backend.to_device(scores)
    return functools.partial(tensorflow().function(function, jit_compile=xla), *arrays)


def tf_image(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, max_output: int) -> Built:
    """`tf.image.non_max_suppression` in a graph: it has no XLA kernel, its output no fixed shape."""
    image = tensorflow().image
    call = _called(lambda b, s: image.non_max_suppression(b, s, max_output, iou_threshold), boxes, scores)
    return call, call().numpy()


def tf_image_padded(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, max_output: int) -> Built:
    """`tf.image.non_max_suppression_padded`, which XLA compiles: fixed shapes, tiles of 512 boxes."""
    suppress = tensorflow().image.non_max_suppression_padded
    options = dict(max_output_size=max_output, iou_threshold=iou_threshold, pad_to_max_output_size=True)
    call = _called(lambda b, s: suppress(b[None], s[None], **options), boxes, scores, xla=True)
    indices, count = call()
    return call, indices.numpy()[0, : int(count[0])]


def tf_image_classes(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, score_threshold: float, max_output: int
) -> Built:
    """`tf.image.combined_non_max_suppression` in a graph: it has no XLA kernel."""
    suppress = tensorflow().image.combined_non_max_suppression
    limits = len(scores), max_output, iou_threshold, score_threshold
    call = _called(lambda b, s: suppress(b, s, *limits, clip_boxes=False), boxes[None], scores[None])
    found = call()
    count = int(found.valid_detections[0])
    kept, classes = (array.numpy()[0, :count] for array in (found.nmsed_scores, found.nmsed_classes))
    return call, identify(scores, kept, classes)


def tf_image_loop(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, score_threshold: float, max_output: int
) -> Built:
    """`tf.image.non_max_suppression` class by class in one graph, and the best of all, as detectors without the
    combined operation do it."""
    tf, (number, classes) = tensorflow(), scores.shape

    def suppress(boxes: Any, scores: Any) -> Any:
        kept = []
        for c in range(classes):
            own = boxes[:, c % boxes.shape[1]]
            chosen = tf.image.non_max_suppression(own, scores[:, c], number, iou_threshold, score_threshold)
            kept.append(c * number + chosen)
        kept = tf.concat(kept, 0)
        values = tf.gather(tf.reshape(tf.transpose(scores), [-1]), kept)
        return tf.gather(kept, tf.math.top_k(values, tf.minimum(max_output, tf.size(kept))).indices)

    call = _called(suppress, boxes, scores)
    return call, call().numpy()


def _keras_cv(layer: str, options: dict[str, Any], boxes: np.ndarray, scores: np.ndarray) -> Built:
    """A layer of keras-cv (last release 0.9.0), compiled by XLA where that works, else in a graph.

    It imports TensorFlow whatever the backend, and its failures are many beside new releases of its dependencies."""
    backend.keep_tensorflow_off_the_gpu()
    try:
        from keras_cv import layers

        suppress = getattr(layers, layer)(bounding_box_format="xyxy", from_logits=False, **options)
    except Exception as error:
        raise ImportError(f"keras-cv does not import here: {error}") from error
    arrays = backend.to_device(boxes[None]), backend.to_device(scores[None])
    errors: list[Exception] = []
    for program in (compiled, tensorflow().function) if backend.name() == "tensorflow" else (compiled,):
        try:
            call = program(lambda b, s: suppress(b, s))
            found = {name: ops.convert_to_numpy(value)[0] for name, value in call(*arrays).items()}
        except Exception as error:
            errors.append(error)
            continue
        count = int(found["num_detections"])
        classes = found["classes"][:count] if scores.shape[1] > 1 else np.zeros(count)
        return functools.partial(call, *arrays), identify(scores, found["confidence"][:count], classes)
    reason = (str(errors[0]).strip().splitlines() or [type(errors[0]).__name__])[0]
    raise ImportError(f"keras-cv's {layer} fails here: {reason[:200]}")


def keras_cv(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, max_output: int) -> Built:
    """`keras_cv.layers.NonMaxSuppression`: on TensorFlow `tf.image.non_max_suppression_padded`, else its own."""
    options = dict(iou_threshold=iou_threshold, confidence_threshold=0.0, max_detections=max_output)
    return _keras_cv("NonMaxSuppression", options, boxes, scores[:, None])


def keras_cv_classes(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, score_threshold: float, max_output: int
) -> Built:
    """`keras_cv.layers.MultiClassNonMaxSuppression`, which is `tf.image.combined_non_max_suppression`."""
    if backend.name() != "tensorflow":
        raise ImportError("there is no such layer for another backend than TensorFlow")
    if boxes.shape[1] != 1:
        raise ImportError("takes boxes that all classes share, not boxes of each class")
    options = {"iou_threshold": iou_threshold, "confidence_threshold": score_threshold}
    options |= {"max_detections": max_output, "max_detections_per_class": len(scores)}
    return _keras_cv("MultiClassNonMaxSuppression", options, boxes[:, 0], scores)


def torchvision(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, max_output: int) -> Built:
    """`torchvision.ops.nms`, on the accelerator where torch has one; not compiled, as users run it."""
    from torchvision.ops import nms

    arrays = torch_tensor(boxes), torch_tensor(scores)
    call = waiting(lambda: nms(*arrays, iou_threshold)[:max_output])
    return call, call().cpu().numpy()


def torchvision_classes(
    boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, score_threshold: float, max_output: int
) -> Built:
    """`torchvision.ops.batched_nms` of all boxes above the score, as torchvision's detectors end."""
    import torch
    from torchvision.ops import batched_nms

    shared, own = torch_tensor(boxes), torch_tensor(scores)

    def suppress() -> Any:
        box, kind = torch.nonzero(own > score_threshold, as_tuple=True)
        kept = batched_nms(shared[box, kind % shared.shape[1]], own[box, kind], kind, iou_threshold)[:max_output]
        return kind[kept] * len(own) + box[kept]

    call = waiting(suppress)
    return call, call().cpu().numpy()


LIST_PEERS: dict[str, Callable[..., Built]] = {
    "tf_image": tf_image, "tf_image_padded": tf_image_padded, "keras_cv": keras_cv, "torchvision": torchvision,
}  # fmt: skip
CLASS_PEERS: dict[str, Callable[..., Built]] = {
    "tf_image": tf_image_classes, "tf_image_loop": tf_image_loop, "keras_cv": keras_cv_classes,
    "torchvision": torchvision_classes,
}  # fmt: skip
