"""VGG-16 against keras.applications and other libraries, dense and as convolutions."""

import gc

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.errors import ReproError
from repro.models import vgg
from repro.peers.vgg import PEERS
from tests.parity.networks import (
    NUM_CLASSES,
    SMALL,
    batch_of,
    fill,
)


@pytest.fixture(autouse=True)
def precision():
    """Full float32, on accelerators too; what it yields sets another precision for one test."""
    backend.set_precision("float32")
    yield backend.set_precision
    backend.set_precision("float32")


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, "float64") - np.asarray(b))) / np.max(np.abs(b))


def test_vgg16_is_that_of_keras_applications():
    source = keras.applications.VGG16(weights=None, classifier_activation=None)
    fill(source)
    image = np.random.default_rng(1).uniform(0, 255, (1, 224, 224, 3)).astype("float32")
    expected = source.predict_on_batch(keras.applications.vgg16.preprocess_input(image.copy()))
    ours = registry.build("vgg16")
    copied = vgg.from_keras_applications(ours, source)
    scores = np.asarray(ours(image)["scores"])
    del ours, source
    gc.collect()
    assert copied == 16
    assert relative_error(scores, expected) < 1e-5


@pytest.mark.parametrize("name", PEERS)
def test_vgg16_is_that_of_its_peers(name):
    image = keras.Input((64, 64, 3))
    ours = keras.Model(image, vgg.blocks(vgg.normalise(image))["pool5"])
    source = keras.applications.VGG16(weights=None, include_top=False, input_shape=(64, 64, 3))
    fill(source)
    assert vgg.from_keras_applications(ours, source) == 13
    pixels = np.random.default_rng(1).uniform(0, 255, (1, 64, 64, 3)).astype("float32")
    try:
        _, expected = PEERS[name](source, pixels)
    except ImportError as error:
        pytest.skip(str(error))
    assert relative_error(ours(pixels), expected) < 1e-5


def test_convolutionalised_vgg16_is_the_dense_one():
    """Claim C014: fc6, fc7 and the classifier as convolutions give the dense network's values where they see the
    same 7x7 map, which is the middle of a map padded to its own size."""
    settings = {**SMALL, "depth": 1.0, "input_size": (224, 224)}
    source, dense = registry.build("vgg16", **settings), registry.build("vgg16", **settings)
    fill(source)
    kernel, bias = source.get_layer("conv1_1").get_weights()
    source.get_layer("conv1_1").set_weights([kernel / 58, bias])  # takes pixels of 0..255, as keras.applications
    convolutional = registry.build("fcn32s", **settings, padding="same")
    assert vgg.from_keras_applications(dense, source) == 16
    assert vgg.from_keras_applications(convolutional, source) == 15
    kernel, bias = source.get_layer("fc8").get_weights()
    convolutional.get_layer("score_fr").set_weights([kernel[None, None], bias])

    image = batch_of("vgg16", 1, (224, 224))["image"].astype("float32")
    for fc, score in (("fc6", "fc6"), ("fc7", "fc7"), ("fc8", "score_fr")):
        expected = keras.Model(dense.input, dense.get_layer(fc).output)(image)
        found = keras.Model(convolutional.input, convolutional.get_layer(score).output)(image)
        assert found.shape[1:3] == (7, 7)
        assert np.max(np.abs(found[:, 3, 3] - expected)) < 1e-4
        assert np.std(expected) > 0.01


def test_copied_layers_of_another_class_count_keep_their_weights():
    source, model = (
        registry.build("vgg16", **{**SMALL, "depth": 1.0, "num_classes": count}) for count in (NUM_CLASSES, 7)
    )
    own = model.get_layer("fc8").get_weights()
    assert vgg.from_keras_applications(model, source) == 15
    for before, after in zip(own, model.get_layer("fc8").get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    other = registry.build("vgg16", **{**SMALL, "width": 1 / 32, "depth": 1.0})
    with pytest.raises(ReproError, match="width 1 and depth 1"):
        vgg.from_keras_applications(other, source)
