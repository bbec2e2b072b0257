"""What one backend computes, for test_parity.py.

Weights, images and augmentation are NumPy's and depend on names alone, so that every difference between two backends
is one of arithmetic.
"""

import math
import zlib
from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np

from repro import backend, registry

# of operations; whole networks run eagerly on TensorFlow alone: operation by operation JAX compiles longer than at once
MODES = {"tensorflow": ("eager", "graph", "xla"), "jax": ("eager", "xla")}
NETWORK_MODES = {"tensorflow": ("eager", "xla"), "jax": ("xla",)}
NUM_CLASSES = 5
SIZE = (40, 56)  # 56 = 8 x 7 and 40 = 8 x 5: poolings 4 and 5 round up, so that "same" FCNs must cut
SMALL = {"width": 1 / 16, "depth": 0.3, "num_classes": NUM_CLASSES, "input_size": SIZE}
# learners of these need more channels: reductions to one channel, or half of four dropped, hardly learn
# a step this long that what moves a weight does not drown in the rounding of the weight
STEP_RATE = 64.0
WIDTHS = {"googlenet": 1 / 4, "fcn_googlenet": 1 / 4, "segnet": 1 / 4}

# a network that proposes few regions of few sizes
_REGIONS = {
    "anchor_scales": (1, 2), "min_size": 4, "before_nms": (40, 30), "after_nms": (20, 10), "max_boxes": 3, "rois": 8,
    "rpn_sample": 16,
}  # fmt: skip
_OPTIONS: dict[str, tuple[dict[str, Any], ...]] = {
    **dict.fromkeys(("fcn32s", "fcn16s", "fcn8s"), ({"padding": "same"}, {"padding": "caffe"})),
    "unet": ({"padding": "same"}, {"padding": "valid"}),
    "fast_rcnn": ({"proposals": 12, "max_boxes": 3, "rois": 8, "frozen_blocks": 0},),
    "faster_rcnn": ({**_REGIONS, "frozen_blocks": 0},),
    "faster_rcnn_resnet101": ({**_REGIONS, "frozen_stages": 0, "frozen_bn": False},),
}
# case -> (architecture, its options): the whole registry but the YOLO detectors, which take images of n x 32 or 64, and
# Mask R-CNN, which takes masks; they are compared on both backends in test_yolo_v1.py, test_yolo_v2.py, test_yolo_v3.py
# and test_mask_rcnn.py
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "-".join([entry.name, *(value for value in options.values() if isinstance(value, str))]): (entry.name, options)
    for entry in registry.ARCHITECTURES.values()
    if not (entry.task == "detection" and entry.paper.startswith("yolo")) and entry.task != "instance"
    for options in _OPTIONS.get(entry.name, ({},))
}
# a train step takes the longest to compile: one for each architecture, with its first options. Faster R-CNN on
# ResNet-101 trains by the steps of faster_rcnn and resnet101; after so many layers a proposal's corner, of which RoI
# pooling rounds away the fraction, now and then falls on either side
STEP_CASES = list(
    {name: case for case, (name, _) in reversed(CASES.items()) if name != "faster_rcnn_resnet101"}.values()
)


def numbers(name: str, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    """Normal float32 numbers that depend on the name alone."""
    return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, "float32") * np.float32(scale)


def fill(model: Any) -> None:
    """Give every weight a value that depends on its layer's and its own name; biases are not zero, moving statistics
    not those of a fresh network."""
    for layer in model.layers:
        for variable in layer.weights:
            kernel = len(variable.shape) > 1
            scale = math.sqrt(2 / math.prod(variable.shape[:-1])) if kernel else 0.1
            values = numbers(f"{layer.name}/{variable.name}", variable.shape, scale)
            # of batch normalisation: factors and variances are about 1, and variances are not negative
            near_one = variable.name in ("gamma", "moving_variance")
            variable.assign(np.exp(values) if near_one else values)


def batch_of(name: str, count: int = 2, size: tuple[int, int] = SIZE, channels: int = 3) -> dict[str, np.ndarray]:
    """A batch of noise for an architecture, with labels; a twelfth of the pixels is void, and an image of a detector
    smaller than its canvas, with one object less and some proposals that are padding."""
    rng = np.random.default_rng(0)
    batch = {"image": rng.integers(0, 256, (count, *size, channels)).astype("uint8")}
    if takes_boxes(name):
        valid = np.array([size] + [(size[0] - 8, size[1] - 6)] * (count - 1), "int32")
        corners = np.sort(rng.uniform(0, 1, (count, 15, 2, 2)), axis=2) * valid[:, None, None, ::-1]
        corners[:, :, 1] = np.minimum(corners[:, :, 1] + 4, valid[:, None, ::-1])
        boxes = corners.reshape(count, 15, 4).astype("float32")
        classes = rng.integers(0, NUM_CLASSES, (count, 3)).astype("int32")
        classes[1:, -1] = -1
        used = np.arange(12) < np.array([[12]] + [[9]] * (count - 1))
        batch |= {"valid_size": valid, "boxes": boxes[:, :3], "classes": classes}
        return batch | {"proposals": boxes[:, 3:] * used[:, :, None], "proposal_valid": used}
    if registry.architecture(name).task != "segmentation":
        return batch | {"label": rng.integers(0, NUM_CLASSES, count).astype("int32")}
    semantic = rng.integers(0, NUM_CLASSES, (count, *size)).astype("uint8")
    semantic[rng.random(semantic.shape) < 1 / 12] = 255
    return batch | {"semantic": semantic}


def takes_boxes(name: str) -> bool:
    """Whether a network takes more than an image; R-CNN's classifies regions like images."""
    return registry.architecture(name).task == "detection" and name != "rcnn"


def inputs_for(model: Any, name: str, **settings: Any) -> Any:
    """What a model takes of the architecture's batch: float32 images, alone or among others."""
    batch = batch_of(name, **settings)
    if not takes_boxes(name):
        return batch["image"].astype("float32")
    return {tensor.name: batch[tensor.name].astype(tensor.dtype) for tensor in model.inputs}


def learner_of(name: str, options: dict[str, Any], **settings: Any) -> Any:
    """A small learner as training makes it; settings as for `Training`."""
    from repro.records.settings import Data, Network
    from repro.tasks import task_for
    from repro.tasks.base import Training

    small = dict(width=WIDTHS.get(name, SMALL["width"]), depth=SMALL["depth"], input_size=SIZE, channels=3)
    network = Network(name=name, options=options, **small)
    training = Training(network=network, data=Data(name="shapes"), recipe="suite", epochs=1, batch_size=2, **settings)
    records = [{key: values[0] for key, values in batch_of(name).items()}]
    return task_for(name).learner(training, NUM_CLASSES, 0, 100, records)


def drawn_by_numpy() -> Any:
    """A context in which Keras draws the same uniform numbers on every backend."""
    import keras

    def uniform(shape, *args, **kwargs):
        drawn = np.random.default_rng(math.prod(shape)).uniform(size=shape)
        return keras.ops.convert_to_tensor(drawn.astype("float32"))

    return mock.patch.object(keras.random, "uniform", uniform)


def train_step(case: str, mode: str) -> dict[str, np.ndarray]:
    """Loss of one step of SGD, and by how much it moves every trainable weight. Without dropout, which draws
    other numbers on every backend; what a detector draws is NumPy's."""
    import keras

    name, options = CASES[case]
    learner = learner_of(name, options, optimizer="sgd", learning_rate=STEP_RATE, weight_decay=5e-4)
    learner.run_eagerly, learner.jit_compile = mode == "eager", mode == "xla"
    fill(learner.network)
    for layer in learner.network.layers:
        if isinstance(layer, keras.layers.Dropout):
            layer.rate = 0
    before = {v.path: keras.ops.convert_to_numpy(v) for v in learner.network.trainable_variables}
    with drawn_by_numpy():
        found = {"loss": np.asarray(learner.train_on_batch(batch_of(name)))}
    for variable in learner.network.trainable_variables:
        found[f"update/{variable.path}"] = keras.ops.convert_to_numpy(variable) - before[variable.path]
    return found


def values_and_gradients(
    function: Callable[..., list], arrays: list[np.ndarray], mode: str = "eager"
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The arrays a function returns, and the gradients by its arguments of their sum weighted by cosines."""
    from keras import ops

    def total(*inputs):
        values = function(*inputs)
        weights = [np.cos(np.arange(math.prod(value.shape), dtype="float32")).reshape(value.shape) for value in values]
        return sum(ops.sum(ops.cast(v, "float32") * w) for v, w in zip(values, weights, strict=True)), values

    if backend.name() == "tensorflow":
        import tensorflow as tf

        def step(*inputs):
            with tf.GradientTape() as tape:
                tape.watch(inputs)
                scalar, values = total(*inputs)
            return values, tape.gradient(scalar, inputs)

        step = step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")
        values, gradients = step(*map(tf.constant, arrays))
    else:
        import jax

        step = jax.value_and_grad(total, argnums=tuple(range(len(arrays))), has_aux=True)
        (_, values), gradients = (step if mode == "eager" else jax.jit(step))(*map(jax.numpy.asarray, arrays))
    return [ops.convert_to_numpy(v) for v in values], [ops.convert_to_numpy(g) for g in gradients]


def layer_call(layer: Any, shape: tuple[int, ...]) -> tuple[Callable[..., list], list[np.ndarray]]:
    """A layer as a function of its input and its weights, and such arguments."""
    layer.build(shape)
    arrays = [numbers(layer.name, shape), *(numbers(f"{layer.name}/{v.name}", v.shape) for v in layer.weights)]
    return lambda x, *weights: [layer.stateless_call(list(weights), [], x)[0]], arrays


def _upscore(factor: int, padding: str) -> tuple[Callable[..., list], list[np.ndarray]]:
    from repro.ops.image import Upscore

    return layer_call(Upscore(3, 2 * factor, strides=factor, padding=padding, name="upscore"), (2, 3, 4, 5))


def _patches(size: int, padding: str) -> tuple[Callable[..., list], list[np.ndarray]]:
    from repro.ops.image import PatchConv2D

    return layer_call(PatchConv2D(3, size, padding=padding, activation="relu", name="patches"), (2, 8, 9, 4))


def _crop() -> tuple[Callable[..., list], list[np.ndarray]]:
    from repro.ops.image import Crop

    return layer_call(Crop((4, 3), 2, name="crop"), (2, 8, 7, 3))


def _normalise() -> tuple[Callable[..., list], list[np.ndarray]]:
    from repro.ops.image import Normalise

    return layer_call(Normalise((120.0, 110.0, 100.0), (50.0, 60.0, 70.0), name="normalise"), (2, 5, 6, 3))


def _loss(function: str, **options: Any) -> tuple[Callable[..., list], list[np.ndarray]]:
    from repro.ops import losses

    labels = batch_of("fcn8s")["semantic"]
    if "pixel_weight" in options:
        options["pixel_weight"] = np.abs(numbers("pixel_weight", labels.shape))
    loss = getattr(losses, function)
    return lambda logits: [loss(logits, labels, **options)], [numbers("logits", (*labels.shape, NUM_CLASSES), 3)]


def _affine() -> tuple[Callable[..., list], list[np.ndarray]]:
    """`Augment`, separable and dense, with drawn numbers given: keras.random draws others on every backend."""
    from keras import ops

    from repro.data.augment import Augment

    # zoom, mirror, shift of the rows, shift of the columns; for each of two images
    affine = [[0.83, 1.29], [-0.4, 0.7], [3.3, -7.9], [-5.2, 6.1]]
    # the same, and the window's top and left, degrees, contrast, brightness
    dense = [*affine, [0.2, 0.9], [0.6, 0.1], [17.0, -140.0], [-0.05, 0.1], [0.08, -0.02]]

    class Drawn(Augment):
        def _uniform(self, count, low, high):
            return ops.convert_to_tensor(np.asarray(next(self.drawn), "float32"))

        def _normal(self, shape):
            return ops.convert_to_tensor(numbers("elastic", shape))

    affine_only = Drawn(0, flip=True, jitter=8, zoom=(0.8, 1.3))
    everything = Drawn(0, (16, 24), True, 8, (0.8, 1.3), rotate=180, elastic=3, grey=0.1)
    labels = batch_of("fcn8s")["semantic"]

    def call(image):
        outputs = []
        for augment, draws in ((affine_only, affine), (everything, dense)):
            augment.drawn = iter(draws)
            batch = augment({"image": image, "semantic": ops.convert_to_tensor(labels)})
            outputs += [batch["image"], batch["semantic"]]
        return outputs

    return call, [numbers("image", (2, *SIZE, 3), 90)]


def _unpooling() -> tuple[Callable[..., list], list[np.ndarray]]:
    """Pooling with indices of small whole numbers, so that many are equal, and unpooling of the pooled by them."""
    from keras import ops

    from repro.ops.unpool import MaxPoolWithIndices, MaxUnpool

    pool, unpool = MaxPoolWithIndices(), MaxUnpool((9, 7))

    def call(image):
        values, indices = pool(ops.round(image) + 0.1 * image)
        return [values, unpool([values * values, indices])]

    return call, [numbers("image", (2, 9, 7, 3), 2)]


OPS: dict[str, Callable[[], tuple[Callable[..., list], list[np.ndarray]]]] = {
    "cross_entropy": lambda: _loss("softmax_cross_entropy"),
    "cross_entropy-weighted": lambda: _loss(
        "softmax_cross_entropy", class_weights=(0.2, 1.0, 3.0, 0.5, 2.0), pixel_weight=True, reduction="sum"
    ),
    "dice": lambda: _loss("dice_loss"),
    "unpooling": _unpooling,
    "upscore2-same": lambda: _upscore(2, "same"),
    "upscore8-valid": lambda: _upscore(8, "valid"),
    "patches3-same": lambda: _patches(3, "same"),
    "patches2-valid": lambda: _patches(2, "valid"),
    "crop": _crop,
    "normalise": _normalise,
    "random_affine": _affine,
}


def compute(_: dict[str, np.ndarray], case: str) -> dict[str, np.ndarray]:
    """A case of a network's outputs, of its train step (`CASE-step`) or of an operation: {mode/quantity: array}."""
    chosen, found = backend.name(), {}
    if case in OPS:
        for mode in MODES[chosen]:
            function, arrays = OPS[case]()
            for kind, values in zip(("value", "gradient"), values_and_gradients(function, arrays, mode), strict=True):
                found |= {f"{mode}/{kind}{i}": value for i, value in enumerate(values)}
        return found
    if case.endswith("-step"):
        for mode in NETWORK_MODES[chosen]:
            found |= {f"{mode}/{key}": value for key, value in train_step(case.removesuffix("-step"), mode).items()}
        return found
    import keras

    name, options = CASES[case]
    # what a detector is trained on is drawn anew in each call
    model = registry.build(name, channels=3, heads="infer" if takes_boxes(name) else "train", **SMALL, **options)
    fill(model)
    inputs = keras.tree.map_structure(backend.to_device, inputs_for(model, name))
    for mode in NETWORK_MODES[chosen]:
        outputs = backend.forward(model, mode)(inputs)
        found |= {f"{mode}/{key}": np.asarray(value) for key, value in outputs.items()}
    return found
