"""The stages of detectors with regions as programs of their own, so that each can be timed beside the whole."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from repro import backend
from repro.data.cache import fit_scale, resize_image
from repro.data.detection import rescale
from repro.records.settings import Network
from repro.tasks.networks import build, image_shape
from repro.tasks.predictors import Detector
from repro.tasks.regions import RegionPredictor, warp_regions


@dataclasses.dataclass
class Scene:
    """One image on its canvas: image uint8 [H,W,3], valid_size, and proposals [P,4] on it, zeros at the end."""

    image: np.ndarray
    valid_size: tuple[int, int]
    proposals: np.ndarray


def fit_scene(image: np.ndarray, proposals: np.ndarray, canvas: tuple[int, int], num_proposals: int) -> Scene:
    """An image with its proposals [n,4] on the canvas, turned so that its longer side lies along the canvas'."""
    if (image.shape[0] > image.shape[1]) != (canvas[0] > canvas[1]):
        image = np.ascontiguousarray(image.transpose(1, 0, 2))
        proposals = proposals[:, [1, 0, 3, 2]]
    valid = fit_scale(image.shape[:2], canvas)
    whole = np.full((*canvas, 3), 116, "uint8")
    whole[: valid[0], : valid[1]] = resize_image(image, valid)
    boxes = np.zeros((num_proposals, 4), "float32")
    boxes[: len(proposals)] = rescale(proposals, np.array(image.shape[:2]), np.array(valid))
    return Scene(whole, valid, boxes)


class Call(keras.Model):
    """A function of tensors as a model, so that it is compiled like one."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(name="call", autocast=False)
        self.function = function
        self.built = True  # JAX asks

    def call(self, inputs, training=False):
        """What the function makes of the inputs."""
        return self.function(inputs)


def stage_programs(network: keras.Model, detect: Callable[..., dict]) -> dict[str, Callable[[Any], Any]]:
    """Backbone, RPN and its proposals where it has one, RoI pooling, head, NMS and the `total` of Fast or Faster R-CNN,
    compiled one by one."""
    pool, outputs = network.get_layer("roi_pool"), network.output
    stages: dict[str, Any] = {"backbone": keras.Model(network.input["image"], pool.input[0])}
    if "rpn_scores" in outputs:
        propose = network.get_layer("propose")
        stages["rpn"] = keras.Model(pool.input[0], {key: outputs[key] for key in ("rpn_scores", "rpn_deltas")})
        stages["propose"] = Call(lambda x: propose(x["rpn_scores"], x["rpn_deltas"], x["valid_size"]))
    stages["roi"] = Call(lambda x: pool(x["features"], x["rois"]))
    stages["head"] = keras.Model(pool.output, {key: outputs[key] for key in ("scores", "deltas")})
    stages["nms"] = Call(lambda x: detect(x, x))
    stages["total"] = Detector(network, detect, {})
    return {name: backend.forward(stage, "xla") for name, stage in stages.items()}


def stage_inputs(programs: dict[str, Callable[[Any], Any]], scene: Scene) -> dict[str, Any]:
    """What each program takes of one image, on the device: what the stage before it gave; the total, the image."""
    image = backend.to_device(scene.image[None].astype("float32"))
    size = backend.to_device(np.asarray([scene.valid_size], "int32"))
    rois = backend.to_device(scene.proposals[None])
    valid = backend.to_device((scene.proposals[:, 2] > scene.proposals[:, 0])[None])
    features, inputs = programs["backbone"](image), {"backbone": image}
    if "rpn" in programs:
        inputs["rpn"] = features
        inputs["propose"] = {**programs["rpn"](features), "valid_size": size}
        rois, valid = programs["propose"](inputs["propose"])
    inputs["roi"] = {"features": features, "rois": rois}
    inputs["head"] = programs["roi"](inputs["roi"])
    regions = {"proposals": rois, "proposal_valid": valid, "valid_size": size}
    inputs["nms"] = {**programs["head"](inputs["head"]), **regions}
    inputs["total"] = {"image": image, **regions}
    return inputs


def untrained_rcnn(settings: Network, num_classes: int, num_proposals: int) -> RegionPredictor:
    """R-CNN with random weights, SVMs and box regressions; the network is compiled."""
    network = build(settings, num_classes, 3)
    predictor, random = RegionPredictor(network, num_proposals), np.random.default_rng(0)
    width, depth = (network.output[name].shape[-1] for name in ("features", "pool5"))
    predictor.solved = {
        "weights": random.normal(0, 0.01, (width, num_classes)).astype("float32"),
        "bias": np.zeros(num_classes, "float32"),
        "boxes": [random.normal(0, 1e-4, (depth + 1, 4)).astype("float32") for _ in range(num_classes)],
        "scale": 1.0,
        "box_scale": 1.0,
    }
    predictor.features(np.zeros((1, *image_shape(network)), "uint8"))
    return predictor


def rcnn_seconds(predictor: RegionPredictor, scene: Scene) -> dict[str, float]:
    """How long R-CNN's stages take on one image: warping, the network, SVMs and box regression (`classify`), NMS."""
    boxes = scene.proposals[scene.proposals[:, 2] > scene.proposals[:, 0]]
    marks = [time.perf_counter()]
    regions = warp_regions(scene.image, boxes, image_shape(predictor.network)[:2])
    marks.append(time.perf_counter())
    outputs = predictor.features(regions)
    marks.append(time.perf_counter())
    scores, deltas = predictor.classify(outputs)
    marks.append(time.perf_counter())
    predictor.decode("svm", boxes, deltas, scores, scene.valid_size)  # compiles at the first image
    middle = time.perf_counter()
    predictor.decode("svm", boxes, deltas, scores, scene.valid_size)
    seconds = (*np.diff(marks), time.perf_counter() - middle)
    return dict(zip(("warp", "network", "classify", "nms"), map(float, seconds), strict=True))
