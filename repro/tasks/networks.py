"""Networks as settings describe them, built and counted. Needs Keras."""

import functools
import math
from typing import Any

import keras
import numpy as np

from repro import registry
from repro.data.detection import rescale
from repro.ops.anchors import inside_image
from repro.ops.matching import label_anchors
from repro.records.settings import Network


def build(network: Network, num_classes: int, channels: int | None = None, heads: str = "infer") -> keras.Model:
    """The network of some settings for a data set of so many classes and channels, with weights from the seed.

    `Network.options` are the model file's; heads as of `registry.build`."""
    known = {name: getattr(network, name) for name in ("variant", "width", "depth", "input_size")}
    known |= {"num_classes": network.num_classes or num_classes, "channels": network.channels or channels}
    return registry.build(network.name, heads=heads, **known, **network.options)


@functools.lru_cache(maxsize=4)
def inference_part(network: keras.Model) -> keras.Model:
    """The part of a classifier or segmenter that inference needs, with the same layers: without auxiliary heads."""
    if set(network.output) == {"scores"}:
        return network
    return keras.Model(network.inputs[0], {"scores": network.output["scores"]}, name=network.name)


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Give every layer of the inference network the weights it has in the training network."""
    for layer in target.layers:
        if layer.weights and layer is not (given := source.get_layer(layer.name)):
            layer.set_weights(given.get_weights())


def image_shape(model: keras.Model) -> tuple[int, int, int]:
    """(height, width, channels) of the images a network takes, alone or beside boxes."""
    return next(tuple(tensor.shape[1:]) for tensor in model.inputs if tensor.name == "image")


def parameters(model: keras.Model) -> tuple[dict[str, int], int]:
    """(number of parameters by role, where "frozen" counts some again; number of running statistics)."""
    roles = {"weights": 0, "biases": 0, "bn_gamma": 0, "bn_beta": 0, "frozen": 0}
    running = 0
    for layer in model.layers:
        for variable in layer.weights:
            count = math.prod(variable.shape)
            if variable.name.startswith("moving_"):
                running += count
                continue
            roles[{"bias": "biases", "gamma": "bn_gamma", "beta": "bn_beta"}.get(variable.name, "weights")] += count
            roles["frozen"] += 0 if variable.trainable else count
    return roles, running


def parameter_count(model: keras.Model) -> int:
    """Parameters as papers count them: weights, biases, batch-norm gamma and beta, frozen or not."""
    return sum(count for role, count in parameters(model)[0].items() if role != "frozen")


def flops(model: keras.Model) -> int:
    """Floating-point operations of one image: 2 x multiply-adds of convolutions, deconvolutions and dense layers.

    A layer that sees each region of an image says in its attribute `regions` how many there are."""
    return sum(_flops_of(layer) * getattr(layer, "regions", 1) for layer in model.layers)


def _flops_of(layer: keras.layers.Layer) -> int:
    if isinstance(layer, keras.layers.Conv2DTranspose):
        return 2 * math.prod(layer.kernel.shape) * math.prod(layer.input.shape[1:3])
    if isinstance(layer, keras.layers.Conv2D):
        return 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:3])
    if isinstance(layer, keras.layers.Dense):
        return 2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
    return 0


def card_of(model: keras.Model, name: str, settings: Network) -> dict[str, Any]:
    """What the result of a timing says of a network: size and cost."""
    entry = registry.architecture(name)
    card: dict[str, Any] = {"model": name, "variant": settings.variant or entry.variants[0]}
    card |= {"width": settings.width, "depth": settings.depth, "input_size": list(image_shape(model)[:2])}
    card["num_classes"] = settings.num_classes or entry.num_classes
    return card | {"params": parameter_count(model), "flops": flops(model)}


def positive_anchors(network: keras.Model, record: dict[str, np.ndarray]) -> np.ndarray | None:
    """Anchors [A,4] of an RPN that its training would call positive for a record's objects, in pixels of the original
    image; None for a network without one."""
    propose = next((layer for layer in network.layers if layer.name == "propose"), None)
    if propose is None:
        return None
    boxes, classes, size = (record[name][None] for name in ("boxes", "classes", "valid_size"))
    labels, _ = label_anchors(propose.anchors, boxes, classes >= 0, inside_image(propose.anchors, size))
    positive = np.asarray(keras.ops.convert_to_numpy(labels))[0] == 1
    return rescale(propose.anchors[positive], record["valid_size"], record["original_size"])
