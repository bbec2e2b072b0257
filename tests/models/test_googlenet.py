"""GoogLeNet and FCN-GoogLeNet against NumPy and their papers' figures."""

from unittest import mock

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.engine import checkpoint
from repro.errors import ReproError
from repro.facts import paper_value
from repro.models import fcn, googlenet
from repro.tasks.networks import inference_part
from tests.parity import networks
from tests.parity.networks import (
    batch_of,
    fill,
    layer_call,
    numbers,
    values_and_gradients,
)

PAPER = {"num_classes": 1000, "input_size": (224, 224), "channels": 3, "variant": "paper", "width": 1.0, "depth": 1.0}
SMALL = PAPER | {"num_classes": 5, "input_size": (64, 64), "width": 1 / 16}
VOC = PAPER | {"num_classes": 21, "input_size": (500, 500)}


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")
    yield
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory."""

    def build(function=googlenet.googlenet, **settings):
        return weightless(function, **PAPER | settings)

    return build


def blank(function, **settings):
    """A network whose convolutions are zero: to draw their weights, JAX compiles a program for every shape."""
    with mock.patch.object(googlenet, "_HE", keras.initializers.Zeros):
        return function(**SMALL | settings)


def filled(**settings):
    model = blank(googlenet.googlenet, **settings)
    fill(model)
    return model


def picture(size, channels=3, count=1):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, channels)).astype("float32")


def outputs_of(model, images):
    return {key: keras.ops.convert_to_numpy(value) for key, value in backend.forward(model, "xla")(images).items()}


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, "float64") - np.asarray(b))) / np.max(np.abs(b))


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def modules_of(model):
    return [layer.name.removeprefix("inception_") for layer in layers_of(model, keras.layers.Concatenate)]


# plain NumPy, as Caffe computes it


def numpy_conv(x, weights, stride=1, pad=0):
    kernel, bias = weights
    side = kernel.shape[0]
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((n - side) // stride + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), height, width, kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            out += x[:, i : i + stride * height : stride, j : j + stride * width : stride] @ kernel[i, j]
    return np.maximum(out + bias, 0)


def numpy_pool(x, side, stride, pad=0, reduce=np.max):
    """Caffe's: sizes round up, windows end with the image."""
    rows, columns = (-(-(n + 2 * pad - side) // stride) + 1 for n in x.shape[1:3])
    out = np.zeros((len(x), rows, columns, x.shape[-1]))
    for i in range(rows):
        for j in range(columns):
            top, left = (max(0, stride * k - pad) for k in (i, j))
            window = x[:, top : stride * i - pad + side, left : stride * j - pad + side]
            out[:, i, j] = reduce(window, axis=(1, 2))
    return out


def numpy_lrn(x, size=5, alpha=1e-4):
    out = np.zeros(x.shape)
    for c in range(x.shape[-1]):
        near = x[..., max(0, c - size // 2) : c + size // 2 + 1].astype("float64")
        out[..., c] = x[..., c] / (1 + alpha / size * np.sum(near**2, axis=-1)) ** 0.75
    return out


def numpy_googlenet(model, image):
    """All outputs of a network with auxiliary heads, from its weights."""
    of = {layer.name: layer.get_weights() for layer in model.layers}

    def head(x, name):
        x = numpy_pool(x, min(5, x.shape[1]), 3, reduce=np.mean)
        x = numpy_conv(x, of[f"{name}_conv"]).reshape(len(x), -1)
        kernel, bias = of[f"{name}_fc"]
        kernel2, bias2 = of[f"{name}_classifier"]
        return np.maximum(x @ kernel + bias, 0) @ kernel2 + bias2

    def inception(x, name):
        name, outputs = f"inception_{name}", []
        outputs.append(numpy_conv(x, of[f"{name}_1x1"]))
        outputs.append(numpy_conv(numpy_conv(x, of[f"{name}_3x3_reduce"]), of[f"{name}_3x3"], pad=1))
        outputs.append(numpy_conv(numpy_conv(x, of[f"{name}_5x5_reduce"]), of[f"{name}_5x5"], pad=2))
        outputs.append(numpy_conv(numpy_pool(x, 3, 1, pad=1), of[f"{name}_pool_proj"]))
        return np.concatenate(outputs, axis=-1)

    x = (image - np.array(googlenet.MEAN_RGB)) / np.array(googlenet.STD_RGB)
    x = numpy_lrn(numpy_pool(numpy_conv(x, of["conv1"], stride=2, pad=3), 3, 2))
    x = numpy_conv(numpy_conv(x, of["conv2_reduce"]), of["conv2"], pad=1)
    x = numpy_pool(numpy_lrn(x), 3, 2)
    outputs, heads = {}, {"4a": "aux1", "4d": "aux2"}
    for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        if name in ("4a", "5a"):
            x = numpy_pool(x, 3, 2)
        x = inception(x, name)
        if name in heads:
            outputs[heads[name]] = head(x, heads[name])
    kernel, bias = of["main_classifier"]
    return outputs | {"scores": x.mean(axis=(1, 2)) @ kernel + bias}


# the network of the paper


def test_parameters_and_layers_of_the_paper(sketch):
    infer, train = sketch(), sketch(heads="train")
    assert infer.count_params() == paper_value("googlenet", "googlenet.params").value == 6_998_552
    assert train.count_params() == paper_value("googlenet", "googlenet.params_with_aux_heads").value == 13_378_280
    assert len(layers_of(infer, keras.layers.Conv2D)) == paper_value("googlenet", "googlenet.conv_layers").value == 57
    # Section 5 counts 22 layers with parameters: the stem's 3, two in a module, the classifier
    assert 3 + 2 * len(modules_of(infer)) + 1 == paper_value("googlenet", "googlenet.depth").value["with_parameters"]
    assert set(infer.output) == {"scores"}
    assert {name: tuple(value.shape) for name, value in train.output.items()} == dict.fromkeys(
        ("scores", "aux1", "aux2"), (None, 1000)
    )


def test_shapes_of_table_1(sketch):
    model = sketch(heads="train")
    expected = {name: tuple(shape) for name, shape in paper_value("googlenet", "googlenet.shapes_224").value.items()}
    names = {"stem_pool": "pool1", "pool2": "pool2", "output": "scores"} | {
        name: f"inception_{name}" for name in modules_of(model)
    }
    found = {name: tuple(model.get_layer(layer).output.shape[1:]) for name, layer in names.items()}
    found["avgpool"] = (1, 1, *model.get_layer("pool5").output.shape[1:])
    assert found == expected
    assert model.get_layer("conv1").output.shape[1:] == (112, 112, 64)
    for name, channels in (("aux1", 512), ("aux2", 528)):
        assert model.get_layer(f"{name}_pool").output.shape[1:] == (4, 4, channels)


def test_filters_of_table_1(sketch):
    model = sketch()
    parts = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
    for name, filters in paper_value("googlenet", "googlenet.inception_filters").value.items():
        assert [model.get_layer(f"inception_{name}_{part}").filters for part in parts] == filters


def test_dropout_and_auxiliary_heads_of_the_paper(sketch):
    model, facts = sketch(heads="train"), paper_value("googlenet", "googlenet.aux_heads").value
    for name, module in zip(("aux1", "aux2"), facts["after"], strict=True):
        assert model.get_layer(f"{name}_pool").input is model.get_layer(f"inception_{module}").output
        assert model.get_layer(f"{name}_conv").filters == facts["conv"]
        assert model.get_layer(f"{name}_fc").units == facts["fc"]
        assert model.get_layer(f"{name}_drop").rate == facts["dropout"]
    assert facts["loss_weight"] == googlenet.AUXILIARY_WEIGHT
    assert model.get_layer("main_drop").rate == paper_value("googlenet", "googlenet.dropout").value


def test_outputs_equal_numpy():
    """At 128x128 every map has an even size, and the heads' average pooling takes all of 4a: as at 224x224."""
    model, image = filled(heads="train", input_size=(128, 128), width=1 / 32), picture((128, 128))
    found, expected = outputs_of(model, image), numpy_googlenet(model, image)
    assert found.keys() == expected.keys() == {"scores", "aux1", "aux2"}
    for name, value in expected.items():
        assert relative_error(found[name], value) < 1e-4, name
        assert np.std(value) > 0.01


# local response normalisation


@pytest.mark.parametrize(("size", "channels"), [(5, 1), (5, 4), (5, 12), (3, 7)])
def test_local_response_norm_equals_a_plain_loop(size, channels):
    x = numbers("lrn", (2, 3, 4, channels), 4)
    layer = googlenet.LocalResponseNorm(size, alpha=0.3)
    found = keras.ops.convert_to_numpy(layer(x))
    np.testing.assert_allclose(found, numpy_lrn(x, size, 0.3), rtol=1e-5)
    assert np.mean(np.abs(found / x)) < 0.9


@pytest.mark.parametrize("alpha", [1e-4, 0.3])
def test_local_response_norm_is_that_of_tensorflow(alpha):
    """Values and gradients; TensorFlow does not divide alpha by the size."""
    if backend.name() != "tensorflow":
        pytest.skip("needs TensorFlow")
    import tensorflow as tf

    layer = googlenet.LocalResponseNorm(5, alpha, name="lrn")
    found = values_and_gradients(*layer_call(layer, (2, 5, 6, 9)), "xla")
    arrays = layer_call(layer, (2, 5, 6, 9))[1]
    expected = values_and_gradients(lambda x: [tf.nn.local_response_normalization(x, 2, 1, alpha / 5, 0.75)], arrays)
    for ours, theirs in zip([*found[0], *found[1]], [*expected[0], *expected[1]], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_local_response_norm_sums_in_float32():
    backend.set_precision("mixed_bfloat16")
    x = keras.ops.cast(numbers("lrn", (2, 3, 4, 9)), "bfloat16")
    found = googlenet.LocalResponseNorm(alpha=0.1)(x)
    assert keras.backend.standardize_dtype(found.dtype) == "bfloat16"
    exact = numpy_lrn(np.asarray(keras.ops.cast(x, "float32")), alpha=0.1).astype("float32")
    assert keras.ops.all(found == keras.ops.cast(exact, "bfloat16"))  # rounded once, at the end


# sizes, depth and heads


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 64), (100, 300)])
@pytest.mark.parametrize("depth", [0.1, 0.6, 1.0])
def test_small_and_odd_sizes(sketch, size, depth):
    model = sketch(input_size=size, depth=depth, heads="train", num_classes=7)
    assert {tuple(value.shape) for value in model.output.values()} == {(None, 7)}
    last = layers_of(model, keras.layers.Concatenate)[-1]
    assert last.output.shape[1:3] == tuple(-(-side // 32) for side in size)


@pytest.mark.parametrize(("shape", "expected"), [((7, 7), (4, 4)), ((5, 8), (3, 4)), ((1, 1), (1, 1))])
def test_pooling_begins_at_the_first_pixel_and_rounds_up(shape, expected):
    x = np.random.default_rng(0).uniform(0, 1, (2, *shape, 3)).astype("float32")
    image = keras.Input((*shape, 3))
    found = keras.ops.convert_to_numpy(keras.Model(image, googlenet.pool(image, "pool"))(x))
    assert found.shape == (2, *expected, 3)
    rows, columns = np.ogrid[: expected[0], : expected[1]]
    for i, j in zip(*(grid.ravel() for grid in np.broadcast_arrays(rows, columns)), strict=True):
        np.testing.assert_array_equal(found[:, i, j], x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].max(axis=(1, 2)))


@pytest.mark.parametrize(
    ("depth", "modules", "second"),
    [
        (0.1, "3a 4a 5a", "4a"),
        (0.5, "3a 4a 4b 5a", "4b"),
        (0.8, "3a 3b 4a 4b 4c 4d 5a 5b", "4d"),
        (1.0, "3a 3b 4a 4b 4c 4d 4e 5a 5b", "4d"),
    ],
)
def test_depth_keeps_the_first_modules_of_each_stage(sketch, depth, modules, second):
    model = sketch(depth=depth, heads="train")
    assert modules_of(model) == modules.split()
    assert model.get_layer("aux1_pool").input is model.get_layer("inception_4a").output
    assert model.get_layer("aux2_pool").input is model.get_layer(f"inception_{second}").output


def test_weights_of_training_fit_inference_by_name():
    train, infer = filled(heads="train", depth=0.1), filled(depth=0.1)
    names = {layer.name for layer in train.layers}
    assert {layer.name for layer in infer.layers} <= names
    assert all(name.startswith("aux") for name in names - {layer.name for layer in infer.layers})
    for variable in train.variables:
        if "seed_generator" not in variable.path:
            variable.assign(variable * 1.1)
    for layer in infer.layers:
        layer.set_weights(train.get_layer(layer.name).get_weights())
    image = picture((64, 64), count=2)
    expected = outputs_of(train, image)["scores"]
    assert relative_error(outputs_of(infer, image)["scores"], expected) < 1e-5
    fill(infer)
    assert relative_error(outputs_of(infer, image)["scores"], expected) > 0.1


def test_outputs_stay_float32_in_mixed_precision():
    backend.set_precision("mixed_bfloat16")
    model = filled(heads="train", depth=0.1, input_size=(32, 32))
    assert model.get_layer("inception_4a_3x3").compute_dtype == "bfloat16"
    assert {value.dtype.name for value in outputs_of(model, picture((32, 32))).values()} == {"float32"}


@pytest.mark.parametrize(
    ("function", "settings", "message"),
    [
        (googlenet.googlenet, {"heads": "aux"}, "unknown choice of heads 'aux'"),
        (googlenet.googlenet, {"input_size": (64, 31)}, "googlenet cannot take 64x31 images. give at least 32x32"),
        (fcn.fcn_googlenet, {"input_size": (31, 64)}, "fcn_googlenet cannot take 31x64 images. give at least 32x32"),
        (fcn.fcn_googlenet, {"padding": "caffe"}, "padding 'caffe' of fcn_googlenet is unknown. use same"),
    ],
)
def test_impossible_settings_are_refused(sketch, function, settings, message):
    with pytest.raises(ReproError, match=message):
        sketch(function, **settings)


# loss


def test_loss_adds_a_share_of_the_auxiliary_heads():
    """Equals NumPy, and is the classifier's alone where the heads are not there."""
    rng = np.random.default_rng(0)
    outputs = {name: rng.normal(0, 3, (6, 5)).astype("float32") for name in ("scores", "aux1", "aux2")}
    label = np.array([0, 4, 2, 2, 1, 3], "int32")

    def cross_entropy(logits):
        exact = logits.astype("float64")
        return np.mean(np.log(np.exp(exact).sum(axis=1)) - exact[range(6), label])

    parts = {name: cross_entropy(value) for name, value in outputs.items()}
    found = float(googlenet.loss(outputs, {"label": label}))
    assert found == pytest.approx(parts["scores"] + 0.3 * parts["aux1"] + 0.3 * parts["aux2"], rel=1e-5)
    alone = float(googlenet.loss({"scores": outputs["scores"]}, {"label": label}))
    assert alone == pytest.approx(parts["scores"], rel=1e-5)


def test_recipes_are_those_of_the_papers():
    recipe = googlenet.recipe("paper", "googlenet")
    assert recipe["momentum"] == paper_value("googlenet", "googlenet.recipe").value["momentum"]
    assert recipe["batch_size"] * 2_400_000 / 1_281_167 == pytest.approx(recipe["epochs"], rel=0.01)
    assert fcn.recipe("paper", "fcn_googlenet")["learning_rate"] == 5e-5
    assert fcn.recipe("paper", "fcn8s")["learning_rate"] == 1e-4


# FCN-GoogLeNet


def test_fcn_googlenet_has_the_papers_parameters(sketch):
    """The 6M of Table 1 are those without the fixed deconvolution."""
    model = sketch(fcn.fcn_googlenet, **VOC)
    deconvolution = model.get_layer("upscore32").count_params()
    assert model.count_params() == 7_801_413
    assert model.count_params() - deconvolution == 5_995_077
    assert sum(np.prod(variable.shape) for variable in model.trainable_variables) == 5_995_077
    assert not layers_of(model, (keras.layers.Dense, keras.layers.GlobalAveragePooling2D))


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (224, 224), (500, 375), (500, 500)])
def test_fcn_googlenet_scores_every_pixel_of_any_size(sketch, size):
    model = sketch(fcn.fcn_googlenet, **VOC | {"input_size": size})
    assert model.output["scores"].shape == (None, *size, 21)
    assert all(made >= side for made, side in zip(model.get_layer("upscore32").output.shape[1:3], size, strict=True))


def test_fcn_googlenet_starts_as_googlenet_with_scores_of_zero():
    """Layers of the same names take the classifier's weights; score layers start at zero (Section 4.3)."""
    model, source = blank(fcn.fcn_googlenet), filled()
    shared = {layer.name for layer in model.layers if layer.weights} & {layer.name for layer in source.layers}
    assert len([name for name in shared if "drop" not in name]) == 57
    for name in shared:
        model.get_layer(name).set_weights(source.get_layer(name).get_weights())
    assert not outputs_of(model, picture((64, 64)))["scores"].any()


@pytest.mark.parametrize("size", [(256, 256), (231, 269)])
def test_fcn_googlenet_scores_pixels_where_they_are(size):
    """A point among zeros comes out with its centre in place: convolutions that pass their middle pixel on leave
    nothing but the poolings and the deconvolution to move it."""
    model = blank(fcn.fcn_googlenet, num_classes=1, channels=1, input_size=size, depth=0.1)
    for layer in layers_of(model, keras.layers.Conv2D):
        if layer.trainable:
            kernel, bias = layer.get_weights()
            middle = kernel.shape[0] // 2
            kernel[:] = 0
            kernel[middle, middle] = 1 / kernel.shape[2]
            layer.set_weights([kernel, bias * 0])
    rng, shifts = np.random.default_rng(0), []
    places = rng.integers(112, 144, (16, 2))
    images = np.full((16, *size, 1), 127.5, "float32")
    for image, (y, x) in zip(images, places, strict=True):
        image[y - 1 : y + 2, x - 1 : x + 2] = 255
    scores = outputs_of(model, images)["scores"][..., 0]
    for score, place in zip(scores, places, strict=True):
        assert score.max() > 0
        centre = [np.average(np.arange(n), weights=score.sum(axis=1 - axis)) for axis, n in enumerate(size)]
        shifts.append(np.array(centre) - place)
    assert np.all(np.abs(np.mean(shifts, axis=0)) < 3)


def test_heads_of_training_share_the_weights_of_inference():
    """Names are the same, so that what was trained with the heads is loaded without them; scores are the same too."""
    trained, plain = (
        registry.build("googlenet", **networks.SMALL, channels=3, heads=heads) for heads in ("train", "infer")
    )
    fill(trained)
    inference = inference_part(trained)
    assert set(trained.output) == {"scores", "aux1", "aux2"}
    assert set(inference.output) == set(plain.output) == {"scores"}
    assert checkpoint.load_weights(plain, checkpoint.weights_of(inference), "test") == len(plain.weights)
    image = batch_of("googlenet")["image"].astype("float32")
    np.testing.assert_array_equal(inference(image)["scores"], trained(image)["scores"])
    np.testing.assert_array_equal(plain(image)["scores"], trained(image)["scores"])
