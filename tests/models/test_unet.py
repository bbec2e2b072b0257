"""U-Net against NumPy and its paper's figures."""

from unittest import mock

import keras
import numpy as np
import pytest

from repro import backend
from repro.errors import ReproError
from repro.experiments.architectures import describe
from repro.models import unet
from repro.ops.image import Crop
from tests.parity.networks import (
    fill,
    layer_call,
    values_and_gradients,
)

VOID = 255
PAPER = {"num_classes": 2, "input_size": (572, 572), "channels": 1, "variant": "paper", "width": 1.0, "depth": 1.0}
SMALL = PAPER | {"num_classes": 3, "input_size": (44, 48), "width": 1 / 32, "depth": 0.5}


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory."""

    def build(**settings):
        return weightless(unet.unet, **PAPER | settings)

    return build


def filled(**settings):
    # weights start at zero, since JAX compiles a program for every shape of random numbers
    with mock.patch.object(unet, "gaussian", return_value="zeros"):
        model = unet.unet(**SMALL | settings)
    fill(model)
    return model


def picture(size, channels=1, count=1):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, channels)).astype("float32")


def scores_of(model, images):
    return keras.ops.convert_to_numpy(backend.forward(model, "xla")(images)["scores"])


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, "float64") - np.asarray(b))) / np.max(np.abs(b))


def shape_of(model, layer):
    return tuple(model.get_layer(layer).output.shape[1:])


# the network of the paper


@pytest.mark.parametrize(
    ("channels", "classes", "parameters"), [(1, 2, 31_030_658), (3, 2, 31_031_810), (1, 1, 31_030_593)]
)
def test_parameters_of_the_paper(sketch, channels, classes, parameters):
    assert sketch(channels=channels, num_classes=classes).count_params() == parameters


def test_layers_of_the_paper(sketch):
    """Claims C025, C027 and C028."""
    model = sketch()
    of = lambda kind: [layer for layer in model.layers if isinstance(layer, kind)]  # noqa: E731
    up, convolutions = of(keras.layers.Conv2DTranspose), of(keras.layers.Conv2D)
    assert [layer.kernel_size for layer in convolutions] == [(3, 3)] * 18 + [(1, 1)]
    assert len(convolutions) + len(up) == 23
    assert [len(of(kind)) for kind in (keras.layers.MaxPooling2D, keras.layers.Concatenate, Crop)] == [4, 4, 4]
    assert not of(keras.layers.BatchNormalization)
    assert not of(keras.layers.Dense)
    for layer in up:
        _, height, width, channels = layer.input.shape
        assert layer.output.shape[1:] == (2 * height, 2 * width, channels // 2)
    contracting = [*(f"conv{level}_2" for level in (1, 2, 3, 4)), "conv_bottom_2"]
    assert [shape_of(model, name)[-1] for name in contracting] == [64, 128, 256, 512, 1024]


def test_sizes_of_figure_1(sketch):
    model = sketch()
    expected = {"conv1_2": 568, "pool1": 284, "conv2_2": 280, "conv3_2": 136, "conv4_2": 64, "pool4": 32}
    expected |= {"conv_bottom_2": 28, "up4": 56, "conv4_4": 52, "up3": 104, "up2": 200, "up1": 392, "conv1_4": 388}
    assert {name: shape_of(model, name)[:2] for name in expected} == {k: (n, n) for k, n in expected.items()}
    assert shape_of(model, "conv_bottom_2") == (28, 28, 1024)
    assert model.output["scores"].shape == (None, 388, 388, 2)


def test_weights_start_with_the_papers_spread(sketch):
    """Section 3: Gaussian of standard deviation sqrt(2/N) for N incoming values; not truncated, as Keras' own is."""
    incoming = {
        "conv1_1": 9,
        "conv3_1": 9 * 128,
        "conv_bottom_2": 9 * 1024,
        "up4": 1024,
        "conv4_3": 9 * 1024,
        "score": 64,
    }
    model = sketch()
    for name, count in incoming.items():
        layer = model.get_layer(name)
        assert type(layer.kernel_initializer) is keras.initializers.RandomNormal
        assert layer.kernel_initializer.mean == 0
        assert layer.kernel_initializer.stddev == pytest.approx((2 / count) ** 0.5)
        assert isinstance(layer.bias_initializer, keras.initializers.Zeros)


def test_dropout_ends_the_contracting_path(sketch):
    dropouts = [layer for layer in sketch().layers if isinstance(layer, keras.layers.Dropout)]
    assert [layer.rate for layer in dropouts] == [0.5, 0.5]
    # both before what uses their maps: the pooling and the join of level 4, the first up-convolution
    assert [layer.input._keras_history.operation.name for layer in dropouts] == ["conv4_2", "conv_bottom_2"]
    users = [{node.operation.name for node in layer._outbound_nodes} for layer in dropouts]
    assert users == [{"pool4", "crop4"}, {"up4"}]


# what it computes


def convolve(x, kernel, padding):
    """Convolution of [H,W,C] with an odd [k,k,C,K] in float64."""
    margin = kernel.shape[0] // 2 if padding == "same" else 0
    x = np.pad(x, ((margin, margin), (margin, margin), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], axis=(0, 1))  # [h,w,C,k,k]
    return np.einsum("hwcij,ijck->hwk", windows, kernel)


def reference(model, image, levels, padding):
    """U-Net of one image [H,W,C] in float64, level by level."""
    weights = {v.path: keras.ops.convert_to_numpy(v).astype("float64") for v in model.weights}

    def convolution(x, name):
        return convolve(x, weights[f"{name}/kernel"], padding) + weights[f"{name}/bias"]

    def double(x, first, second):
        return np.maximum(convolution(np.maximum(convolution(x, first), 0), second), 0)

    x, skips = (image - 127.5) / 58.0, []
    for level in range(1, levels + 1):
        skips.append(x := double(x, f"conv{level}_1", f"conv{level}_2"))
        x = np.pad(x, ((0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)), constant_values=-np.inf)
        x = np.maximum(np.maximum(x[::2, ::2], x[1::2, ::2]), np.maximum(x[::2, 1::2], x[1::2, 1::2]))
    x = double(x, "conv_bottom_1", "conv_bottom_2")
    for level in range(levels, 0, -1):
        kernel, skip = weights[f"up{level}/kernel"], skips[level - 1]
        up = np.zeros((2 * x.shape[0], 2 * x.shape[1], kernel.shape[2]))
        for i, j in np.ndindex(2, 2):
            up[i::2, j::2] = x @ kernel[i, j].T + weights[f"up{level}/bias"]
        height, width = min(skip.shape[0], up.shape[0]), min(skip.shape[1], up.shape[1])
        top, left = (skip.shape[0] - height) // 2, (skip.shape[1] - width) // 2
        skip, up = skip[top : top + height, left : left + width], up[:height, :width]
        x = double(np.concatenate([skip, up], axis=-1), f"conv{level}_3", f"conv{level}_4")
    return convolution(x, "score")


@pytest.mark.parametrize(
    ("padding", "size", "depth"),
    [("valid", (44, 48), 0.5), ("valid", (20, 26), 0.25), ("same", (20, 24), 0.5), ("same", (21, 23), 0.75)],
)
def test_scores_equal_numpy(padding, size, depth):
    model = filled(padding=padding, input_size=size, depth=depth, channels=2)
    image = picture(size, channels=2)
    expected = reference(model, image[0].astype("float64"), unet.levels_at(depth), padding)
    found = scores_of(model, image)[0]
    assert found.shape == expected.shape
    assert relative_error(found, expected) < 1e-5


def test_up_convolution_is_conv2d_transpose():
    shape, settings = (2, 3, 5, 4), dict(strides=2, name="up")
    ours, theirs = unet.UpConv2D(6, 2, **settings), keras.layers.Conv2DTranspose(6, 2, **settings)
    (function, arrays), (expected_function, expected_arrays) = layer_call(ours, shape), layer_call(theirs, shape)
    assert [a.shape for a in arrays] == [a.shape for a in expected_arrays]
    assert tuple(ours.compute_output_shape(shape)) == tuple(theirs.compute_output_shape(shape)) == (2, 6, 10, 6)
    values, gradients = values_and_gradients(function, arrays)
    expected_values, expected_gradients = values_and_gradients(expected_function, expected_arrays)
    for found, expected in zip([*values, *gradients], [*expected_values, *expected_gradients], strict=True):
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-5


def test_tiles_score_as_the_whole_image():
    """Section 2, Figure 2: only pixels with their full context are scored, so tiles agree where they overlap."""
    settings = {"depth": 1.0, "width": 1 / 64}
    whole, tile = filled(**settings, input_size=(220, 236)), filled(**settings, input_size=(204, 204))
    image = picture((220, 236))
    expected = scores_of(whole, image)[0]
    assert expected.shape == (36, 52, 3)
    covered = np.zeros(expected.shape[:2], bool)
    for top in (0, 16):  # multiples of 16 pool the same pixels together
        for left in (0, 16, 32):
            found = scores_of(tile, image[:, top : top + 204, left : left + 204])[0]
            assert found.shape == (20, 20, 3)
            window = np.s_[top : top + 20, left : left + 20]
            assert np.abs(found - expected[window]).max() < 1e-5 * np.abs(expected).max()
            covered[window] = True
    assert covered.all()


# sizes


@pytest.mark.parametrize("depth", [0.25, 0.5, 0.75, 1.0])
def test_output_size_is_that_of_the_network(sketch, depth):
    """Of all sides up to 260, those are accepted whose maps are even before each pooling and end with 4 pixels."""

    def fits(side):
        for _ in range(unet.levels_at(depth)):
            side -= 4
            if side % 2:
                return False
            side //= 2
        return side - 4 >= 4

    accepted = [side for side in range(1, 261) if fits(side)]
    for side in range(1, 261):
        if side in accepted:
            assert unet.valid_sizes((side, side), depth) == ((side, side), (side, side))
        else:
            below, above = (size[0] for size in unet.valid_sizes((side, side), depth))
            assert below == max([n for n in accepted if n < side], default=accepted[0])
            assert above == min([n for n in accepted if n > side], default=above)
            with pytest.raises(ReproError):
                unet.output_size((side, side), depth)
    size = (accepted[0], accepted[2])
    model = sketch(input_size=size, depth=depth, width=1 / 64)
    assert model.output["scores"].shape[1:3] == unet.output_size(size, depth)
    assert min(unet.output_size(size, depth)) == 4


def test_crops_are_central(sketch):
    for layer in sketch(input_size=(572, 700)).layers:
        if isinstance(layer, Crop):
            assert [2 * layer.offset + n for n in layer.size] == [*layer.input.shape[1:3]]


@pytest.mark.parametrize("size", [(180, 240), (16, 17), (45, 61)])
def test_padded_network_scores_every_pixel_of_any_size(sketch, size):
    assert sketch(input_size=size, padding="same", width=1 / 64).output["scores"].shape == (None, *size, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_size": (500, 572)}, "500x572 images. give 492x572 or 508x572, or padding same"),
        ({"input_size": (100, 100)}, "100x100 images. give 188x188, or padding same"),
        ({"input_size": (15, 64), "padding": "same"}, "15x64 images. give at least 16x16"),
        ({"padding": "sane"}, "unknown padding of unet 'sane'. did you mean same"),
    ],
)
def test_impossible_settings_are_refused(sketch, settings, message):
    with pytest.raises(ReproError, match=message):
        sketch(**settings)


# the loss


def loss_reference(scores, labels, weights):
    """Eq. 1 over the centre that is scored, divided by its number of pixels that are not void."""
    top, left = ((a - b) // 2 for a, b in zip(labels.shape[1:], scores.shape[1:], strict=False))
    total, count = 0.0, 0
    for b, i, j in np.ndindex(scores.shape[:3]):
        label = labels[b, top + i, left + j]
        if label == VOID:
            continue
        x = scores[b, i, j].astype("float64")
        total -= weights[b, top + i, left + j] * (x[label] - np.log(np.exp(x).sum()))
        count += 1
    return total / count


def loss_example(classes=3):
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(0, 2, (2, 4, 6, classes)).astype("float32"), rng.integers(0, classes, (2, 20, 26))
    labels[rng.random(labels.shape) < 0.2] = VOID
    return {"scores": scores}, {"semantic": labels, "pixel_weight": rng.uniform(0.5, 9, labels.shape).astype("float32")}


def test_loss_is_that_of_the_centre_with_its_weights():
    outputs, batch = loss_example()
    expected = loss_reference(outputs["scores"], batch["semantic"], batch["pixel_weight"])
    assert float(unet.loss(outputs, batch)) == pytest.approx(expected, rel=1e-5)
    plain = loss_reference(outputs["scores"], batch["semantic"], np.ones((2, 20, 26)))
    assert float(unet.loss(outputs, {"semantic": batch["semantic"]})) == pytest.approx(plain, rel=1e-5)
    assert plain != pytest.approx(expected, rel=0.1)


def test_loss_of_one_score_and_of_another_kind():
    outputs, batch = loss_example(classes=2)
    single = {"scores": outputs["scores"][..., 1:] - outputs["scores"][..., :1]}
    for kind in ("sigmoid", "dice"):
        twin = "cross_entropy" if kind == "sigmoid" else kind
        expected = float(unet.loss(outputs, batch, kind=twin))
        assert float(unet.loss(single, batch, kind=kind)) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ReproError, match="unknown loss 'hinge'"):
        unet.loss(outputs, batch, kind="hinge")


def test_valid_unet_answers_for_388_of_572_pixels():
    assert describe("unet")["outputs"] == {"scores": [388, 388, 2]}
    assert describe("unet", padding="same")["outputs"] == {"scores": [572, 572, 2]}
