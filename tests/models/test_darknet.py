"""Darknet-19 and Darknet-53 against NumPy, their papers' figures and Darknet's rules for borders; the rows."""

import keras
import numpy as np
import pytest

from repro import backend
from repro.errors import ReproError
from repro.models import darknet
from repro.models.darknet import (
    Answer,
    AveragePool,
    Connected,
    Conv,
    Dropout,
    MaxPool,
    Route,
    Shortcut,
    Upsample,
    classifier_rows,
    stack,
)
from repro.tasks.networks import flops, parameter_count, parameters
from tests.parity.networks import fill
from tests.support.messages import one_line

PAPER = {"num_classes": 1000, "input_size": (224, 224), "channels": 3, "variant": "paper", "width": 1.0, "depth": 1.0}
SMALL = PAPER | {"num_classes": 5, "input_size": (64, 64), "width": 1 / 16, "depth": 0.3}
NAMES = ("darknet19", "darknet53")


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")
    yield
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory."""

    def build(name, **settings):
        return weightless(getattr, darknet, name)(**PAPER | settings)

    return build


def picture(size, count=2, channels=3):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, channels)).astype("float32")


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, "float64") - np.asarray(b))) / np.max(np.abs(b))


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def from_rows(rows, size, width=1.0):
    """A network of rows, filled: images to the labelled outputs and the last."""
    image = keras.Input((*size, 3), name="image")
    model = keras.Model(image, stack(darknet.normalise(image), rows, width))
    fill(model)
    return model


# plain NumPy, by Darknet's convolutional_layer.c and maxpool_layer.c


def numpy_rows(model, rows, image):
    """What rows give, from a network's weights: the labelled and the last."""
    of = {layer.name: layer.get_weights() for layer in model.layers}
    x, outputs, convolutions, connections = image.astype("float64") / 255, {}, 0, 0
    for row in rows:
        if isinstance(row, Conv):
            convolutions += 1
            kernel, *bias = of[f"conv{convolutions}"]
            x = numpy_convolution(x, kernel, row.stride)
            if row.norm:
                gamma, beta, mean, variance = of[f"bn{convolutions}"]
                x = (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta
            else:
                x = x + bias[0]
            x = leaky(x) if row.activation == "leaky" else x
        elif isinstance(row, MaxPool):
            x = numpy_max_pool(x, row.size, row.stride)
        elif isinstance(row, AveragePool):
            x = x.mean(axis=(1, 2), keepdims=True)
        elif isinstance(row, Shortcut):
            x = x + outputs[row.source]
        elif isinstance(row, Route):
            x = np.concatenate([outputs[source] for source in row.sources], axis=-1)
        elif isinstance(row, Upsample):
            x = np.kron(x, np.ones((1, row.stride, row.stride, 1)))
        elif isinstance(row, Connected):
            connections += 1
            kernel, bias = of[f"fc{connections}"]
            x = x.reshape(len(x), -1) @ kernel + bias
            x = leaky(x) if row.activation == "leaky" else x
        if row.label:
            outputs[row.label] = x
    return outputs | {"last": x}


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def numpy_convolution(x, kernel, stride):
    """Half the kernel's size of zeros on every side, whatever the stride."""
    side = len(kernel)
    x = np.pad(x, ((0, 0), (side // 2, side // 2), (side // 2, side // 2), (0, 0)))
    height, width = ((n - side) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            out += x[:, i : i + stride * height : stride, j : j + stride * width : stride] @ kernel[i, j]
    return out


def numpy_max_pool(x, size, stride):
    """As if there were size - 1 more pixels, half of them (rounded down) before the first."""
    first = (size - 1) // 2
    height, width = ((n - 1) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), height, width, x.shape[-1]))
    for i in range(height):
        for j in range(width):
            top, left = i * stride - first, j * stride - first
            window = x[:, max(top, 0) : top + size, max(left, 0) : left + size]
            out[:, i, j] = window.max(axis=(1, 2))
    return out


@pytest.mark.parametrize("name", NAMES)
def test_scores_equal_numpy_on_odd_sizes(name):
    size = (77, 99)
    model, image = getattr(darknet, name)(**SMALL | {"input_size": size}), picture(size)
    fill(model)
    expected = numpy_rows(model, classifier_rows(name, 5, SMALL["depth"]), image)["last"]
    found = model(image)["scores"]
    assert found.shape == (2, 5)
    assert expected.shape == (2, 1, 1, 5)
    assert relative_error(found, expected[:, 0, 0]) < 1e-4
    assert np.std(expected) > 0.01


def test_every_kind_of_row_equals_numpy():
    rows = [
        Conv(4, 7, 2, label="stem"),
        MaxPool(2, 1, label="whole"),
        Conv(6, 3, norm=False, activation="linear"),
        MaxPool(3, 1),
        MaxPool(2, 2, label="half"),
        Conv(4, 3, 2, norm=False),
        Upsample(label="up"),
        Route(("stem",), label="back"),
        MaxPool(2, 2),
        Conv(4, 1),
        Shortcut("up", label="sum"),
        Answer("yolo", label="answer"),
        Route(("half", "sum", "up"), label="both"),
        Conv(2, 1, fixed=True),
        Connected(6),
        Dropout(),
        Connected(3, "linear", fixed=True),
    ]
    model, image = from_rows(rows, (31, 23)), picture((31, 23))
    found, expected = model(image), numpy_rows(model, rows, image)
    assert found.keys() == expected.keys()
    assert found["stem"].shape == found["whole"].shape == (2, 16, 12, 4)
    assert found["both"].shape == (2, 8, 6, 14)
    for label, value in expected.items():
        assert found[label].shape == value.shape
        assert relative_error(found[label], value) < 1e-5, label
    np.testing.assert_array_equal(found["back"], found["stem"])
    np.testing.assert_array_equal(found["answer"], found["sum"])


def test_convolutions_of_stride_2_begin_outside_the_image():
    """Keras' own padding would begin at the first pixel of an even image."""
    model = from_rows([Conv(1, 3, 2, norm=False, activation="linear")], (4, 4))
    kernel = np.zeros((3, 3, 3, 1), "float32")
    kernel[0, 0] = 1
    model.get_layer("conv1").set_weights([kernel, np.zeros(1, "float32")])
    image = picture((4, 4))
    found = np.asarray(model(image)["last"])
    assert found.shape == (2, 2, 2, 1)
    assert (found[:, 0] == 0).all()
    assert (found[:, :, 0] == 0).all()
    np.testing.assert_allclose(found[:, 1, 1, 0], image[:, 1, 1].sum(axis=-1) / 255, rtol=1e-5)


# the networks of the papers


@pytest.mark.parametrize(
    ("name", "params", "running", "convolutions"),
    [("darknet19", 20_842_376, 14_400, 19), ("darknet53", 41_609_928, 35_712, 53)],
)
def test_parameters_of_the_papers(sketch, name, params, running, convolutions):
    model = sketch(name)
    roles, statistics = parameters(model)
    assert parameter_count(model) == params
    assert statistics == running
    assert (roles["frozen"], roles["biases"], roles["bn_gamma"]) == (0, 1000, running // 2)
    # the numbers of a detector's backbone, in the .cfg's order
    layers = layers_of(model, keras.layers.Conv2D)
    assert [layer.name for layer in layers] == [f"conv{n}" for n in range(1, convolutions + 1)]
    assert len(layers_of(model, keras.layers.BatchNormalization)) == convolutions - 1
    assert {layer.epsilon for layer in layers_of(model, keras.layers.BatchNormalization)} == {1e-5}


@pytest.mark.parametrize(
    ("name", "size", "billions"),
    [
        ("darknet19", 224, 5.58),
        ("darknet19", 256, 7.29),
        ("darknet19", 448, 22.33),
        ("darknet53", 224, 14.22),
        ("darknet53", 256, 18.57),
    ],
)
def test_operations_of_the_papers(sketch, name, size, billions):
    model = sketch(name, input_size=(size, size))
    assert flops(model) / 1e9 == pytest.approx(billions, abs=0.005)


def test_shapes_of_darknet19(sketch):
    model = sketch("darknet19")
    shapes = {
        "pool1": (112, 112, 32), "pool2": (56, 56, 64), "pool3": (28, 28, 128), "pool4": (14, 14, 256),
        "conv13": (14, 14, 512), "pool5": (7, 7, 512), "conv18": (7, 7, 1024), "conv19": (7, 7, 1000),
        "avg_pool": (1, 1, 1000), "scores": (1000,),
    }  # fmt: skip
    assert {name: model.get_layer(name).output.shape[1:] for name in shapes} == shapes
    kernels = [layer.kernel_size[0] for layer in layers_of(model, keras.layers.Conv2D)]
    assert kernels == [3, 3, 3, 1, 3, 3, 1, 3, 3, 1, 3, 1, 3, 3, 1, 3, 1, 3, 1]


def test_shapes_of_darknet53(sketch):
    model = sketch("darknet53", input_size=(256, 256))
    sums = [layer.output.shape[1:] for layer in layers_of(model, keras.layers.Add)]
    stages = zip((1, 2, 8, 8, 4), (128, 64, 32, 16, 8), (64, 128, 256, 512, 1024), strict=True)
    assert sums == [(side, side, filters) for count, side, filters in stages for _ in range(count)]
    assert len(sums) == 23
    assert not layers_of(model, keras.layers.MaxPooling2D)
    strides = [layer.name for layer in layers_of(model, keras.layers.Conv2D) if layer.strides == (2, 2)]
    assert strides == ["conv2", "conv5", "conv10", "conv27", "conv44"]
    assert model.get_layer("avg_pool").output.shape[1:] == (1, 1, 1024)  # before the classifier
    assert model.output["scores"].shape == (None, 1000)


# width, depth and size


def test_depth_keeps_pairs_and_blocks():
    def convolutions(rows):
        return sum(isinstance(row, Conv) for row in rows)

    assert [convolutions(darknet.darknet19_rows(depth)) for depth in (1.0, 0.5, 0.01)] == [18, 10, 6]
    assert [convolutions(darknet.darknet53_rows(depth)) for depth in (1.0, 0.5, 0.01)] == [52, 30, 16]
    for depth in (1.0, 0.5, 0.01):
        assert {row.label for row in darknet.darknet19_rows(depth) if row.label} == {"stride16", "stride32"}
        labels = {row.label for row in darknet.darknet53_rows(depth) if isinstance(row, Shortcut)}
        assert labels >= {"stride2", "stride4", "stride8", "stride16", "stride32"}
    assert [(row.filters, row.size) for row in darknet.alternating(64, 1.0, 3)] == [(64, 3), (32, 1), (64, 3)]


def test_labels_are_where_they_say():
    """A detector that goes on from a stride finds a map of that stride."""
    for rows in (darknet.darknet19_rows(0.01), darknet.darknet53_rows(0.3)):
        image = keras.Input((64, 96, 3))
        outputs = stack(darknet.normalise(image), rows, 1 / 16)
        for label in (label for label in outputs if label.startswith("stride")):
            stride = int(label.removeprefix("stride"))
            assert outputs[label].shape[1:3] == (64 // stride, 96 // stride), label
            filters = {2: 4, 4: 8, 8: 16, 16: 32, 32: 64}[stride]
            assert outputs[label].shape[3] == filters
        assert outputs["last"] is outputs["stride32"]


@pytest.mark.parametrize("name", NAMES)
def test_width_leaves_the_classes(sketch, name):
    model = sketch(name, width=1 / 8, num_classes=7, channels=4)
    first, *_, last = layers_of(model, keras.layers.Conv2D)
    assert first.kernel.shape == (3, 3, 4, 4)
    assert last.kernel.shape == (1, 1, 128, 7)


@pytest.mark.parametrize("name", NAMES)
def test_images_without_a_pixel_at_stride_32_are_refused(name):
    build = getattr(darknet, name)
    with pytest.raises(ReproError) as error:
        build(**SMALL | {"input_size": (31, 64)})
    one_line(error, name, "31x64", "32x32")
    assert build(**SMALL | {"input_size": (32, 32)})(picture((32, 32)))["scores"].shape == (2, 5)


def test_scores_stay_in_float32():
    backend.set_precision("mixed_bfloat16")
    model = darknet.darknet19(**SMALL)
    assert model.get_layer("conv1").compute_dtype == "bfloat16"
    assert model.output["scores"].dtype == "float32"


def test_class_255_of_imagenet_is_a_class():
    scores = np.random.default_rng(0).normal(0, 3, (3, 300)).astype("float32")
    label = np.array([255, 0, 255], "int32")
    expected = np.mean(np.log(np.exp(scores.astype("float64")).sum(axis=1)) - scores[range(3), label])
    assert float(darknet.loss({"scores": scores}, {"label": label})) == pytest.approx(expected, rel=1e-5)


def test_recipes_are_those_of_the_papers():
    for name, epochs in (("darknet19", 160), ("darknet53", 800_000 * 128 / 1_281_167)):
        recipe = darknet.recipe("paper", name)
        assert recipe["epochs"] == pytest.approx(epochs, rel=0.01)
        assert (recipe["learning_rate"], recipe["momentum"], recipe["weight_decay"]) == (0.1, 0.9, 5e-4)
