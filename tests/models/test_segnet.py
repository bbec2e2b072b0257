"""SegNet against NumPy and its paper's figures."""

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.data.base import VOID
from repro.engine import checkpoint
from repro.errors import ReproError
from repro.experiments.architectures import describe
from repro.facts import paper_value
from repro.models import segnet, vgg
from repro.ops.losses import dice_loss, softmax_cross_entropy
from tests.parity.networks import (
    NUM_CLASSES,
    fill,
)
from tests.reference.convolution import convolve
from tests.reference.pooling import pooled, unpooled

SMALL = {"num_classes": 3, "input_size": (37, 45), "width": 1 / 64, "depth": 0.3}
# one channel everywhere: JAX compiles a program for every shape of random numbers
NARROW = {"num_classes": 1, "input_size": (32, 32), "width": 1 / 512}


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory; settings as for `registry.build`."""

    def build(**settings):
        return weightless(registry.build, "segnet", **settings)

    return build


def of_type(model, *types):
    return [layer for layer in model.layers if isinstance(layer, types)]


# the network of the paper


@pytest.mark.parametrize(
    ("classes", "fact"), [(11, "segnet.params"), (21, "segnet.params_21_classes"), (38, "segnet.params_38_classes")]
)
def test_parameters_of_the_paper(classes, fact):
    card = describe("segnet", num_classes=classes)
    assert card["params"] == card["trainable_params"] == paper_value("segnet", fact).value
    roles = card["params_by_role"]
    assert card["running_stats"] == roles["bn_gamma"] + roles["bn_beta"]


def test_layers_and_shapes_of_the_paper(sketch):
    model = sketch()
    convolutions, norms = of_type(model, keras.layers.Conv2D), of_type(model, keras.layers.BatchNormalization)
    assert len(convolutions) == paper_value("segnet", "segnet.conv_layers").value == 26
    assert len(norms) == len(of_type(model, keras.layers.ReLU))
    assert len(norms) == paper_value("segnet", "segnet.batchnorm_layers").value == 25
    encoder = [layer for layer in convolutions if not layer.name.endswith("_D")]
    assert [layer.filters for layer in encoder] == [c for c, n in vgg.BLOCKS for _ in range(n)]
    parameters = sum(np.prod(weight.shape) for layer in encoder for weight in layer.weights)
    assert parameters == paper_value("segnet", "segnet.encoder_params").value

    shapes = paper_value("segnet", "segnet.shapes_360x480").value
    outputs = {name: model.get_layer(name).output for name in shapes.keys() - {"output"}}
    outputs |= {name: pair[0] for name, pair in outputs.items() if name.startswith("pool")}
    outputs["output"] = model.output["scores"]
    found = {name: tuple(tensor.shape[1:]) for name, tensor in outputs.items()}
    assert found == {name: tuple(shape) for name, shape in shapes.items()}


@pytest.mark.parametrize(("depth", "counts"), [(1.0, (2, 2, 3, 3, 3)), (0.5, (1, 1, 2, 2, 2)), (0.1, (1,) * 5)])
def test_decoder_mirrors_the_encoder(sketch, depth, counts):
    names = [layer.name for layer in of_type(sketch(depth=depth), keras.layers.Conv2D)]
    encoder = [f"conv{block}_{index}" for block, count in enumerate(counts, 1) for index in range(1, count + 1)]
    assert names == encoder + [f"{name}_D" for name in reversed(encoder)]


def test_released_network_has_no_dropout_and_the_same_weights(sketch):
    released = sketch(variant="released")
    assert not of_type(released, keras.layers.Dropout)
    assert released.count_params() == sketch().count_params()


def test_dropout_follows_the_deeper_poolings_and_their_mirror_images(sketch):
    sources = {
        layer.name: layer.input._keras_history.operation.name for layer in of_type(sketch(), keras.layers.Dropout)
    }
    assert sources == {
        "drop3": "pool3", "drop4": "pool4", "drop5": "pool5",
        "drop5_D": "relu5_1_D", "drop4_D": "relu4_1_D", "drop3_D": "relu3_1_D",
    }  # fmt: skip


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (65, 127)])
def test_any_size_from_32_pixels_up(sketch, size):
    assert sketch(input_size=size, width=1 / 64, depth=0.3).output["scores"].shape == (None, *size, 11)


@pytest.mark.parametrize("size", [(31, 64), (64, 31)])
def test_smaller_images_are_refused(sketch, size):
    with pytest.raises(ReproError, match=f"{size[0]}x{size[1]} images. give at least 32x32"):
        sketch(input_size=size)


# its arithmetic


def test_scores_are_those_of_numpy():
    """One convolution a block; 37x45 is odd at every pooling but one."""
    model = registry.build("segnet", **SMALL)
    fill(model)
    image = np.random.default_rng(0).uniform(0, 255, (1, *SMALL["input_size"], 3)).astype("float32")

    def unit(x, level):
        norm = model.get_layer(f"bn{level}")
        gamma, beta, mean, variance = (np.asarray(weight, "float64") for weight in norm.get_weights())
        x = convolve(x, model.get_layer(f"conv{level}"))
        return np.maximum((x - mean) / np.sqrt(variance + norm.epsilon) * gamma + beta, 0)

    x, kept = (image.astype("float64") - vgg.MEAN_RGB) / vgg.STD_RGB, []
    for block in range(1, 6):
        x = unit(x, f"{block}_1")
        size = x.shape[1:3]
        x, indices = pooled(x)
        kept.append((indices, size))
    for block in range(5, 0, -1):
        x = unpooled(x, *kept[block - 1])
        x = unit(x, f"{block}_1_D") if block > 1 else convolve(x, model.get_layer("conv1_1_D"))
    found = keras.ops.convert_to_numpy(backend.forward(model, "xla")(image)["scores"])
    assert x.std() > 0.1
    assert np.max(np.abs(found - x)) / np.max(np.abs(x)) < 1e-5


def test_running_means_follow_within_a_few_dozen_steps():
    """Keras' momentum of 0.99 would leave a third of the start in them."""
    x = np.random.default_rng(0).normal(5, 2, (4, 6, 6, 1)).astype("float32")
    norm = registry.build("segnet", **NARROW).get_layer("bn3_1")
    for _ in range(60):
        trained = np.asarray(norm(x, training=True))
    assert np.max(np.abs(np.asarray(norm(x)) - trained)) < 0.02


def test_vgg_weights_are_copied_by_name():
    source, model = (registry.build(name, **NARROW) for name in ("vgg16", "segnet"))
    fill(source)
    fill(model)
    before = model.get_layer("conv5_3_D").get_weights()
    assert vgg.from_keras_applications(model, source) == 13
    for layer in of_type(source, keras.layers.Conv2D):
        kernel, bias = layer.get_weights()
        if layer.name == "conv1_1":  # from BGR, and of pixels that are divided by their spread
            kernel = kernel[:, :, ::-1] * np.float32(vgg.STD_RGB)[:, None]
        for found, expected in zip(model.get_layer(layer.name).get_weights(), (kernel, bias), strict=True):
            np.testing.assert_array_equal(found, expected)
    for found, expected in zip(model.get_layer("conv5_3_D").get_weights(), before, strict=True):
        np.testing.assert_array_equal(found, expected)


# its loss


def test_loss_weighs_classes_or_is_another_kind():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(2, 4, 5, 3)).astype("float32"), rng.integers(0, 3, (2, 4, 5)).astype("uint8")
    labels[0, 0] = VOID
    outputs, batch, weights = {"scores": scores}, {"semantic": labels}, (0.5, 0.0, 4.0)
    assert float(segnet.loss(outputs, batch)) == float(softmax_cross_entropy(scores, labels))
    weighted = float(segnet.loss(outputs, batch, class_weights=weights))
    assert weighted == float(softmax_cross_entropy(scores, labels, class_weights=weights))
    assert weighted != float(segnet.loss(outputs, batch))
    assert float(segnet.loss(outputs, batch, kind="dice")) == float(dice_loss(scores, labels))
    with pytest.raises(ReproError, match="unknown loss 'focal'"):
        segnet.loss(outputs, batch, kind="focal")


def test_segnet_starts_from_vgg16_by_name():
    source = registry.build("vgg16", num_classes=NUM_CLASSES, input_size=(64, 64), width=1 / 16)
    fill(source)
    ours = registry.build("segnet", num_classes=NUM_CLASSES, input_size=(64, 64), width=1 / 16)
    weights = checkpoint.weights_of(source)
    assert checkpoint.load_weights(ours, weights, "test", partial=True) == 26  # of 13 convolutions
    np.testing.assert_array_equal(ours.get_layer("conv5_3").kernel, weights["conv5_3/kernel"])
