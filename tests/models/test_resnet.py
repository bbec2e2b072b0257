"""ResNet-101 against NumPy, keras.applications and its paper's figures; frozen parts, and stage 5 on regions."""

import gc

import keras
import numpy as np
import pytest

from repro import backend
from repro.engine import checkpoint
from repro.errors import ReproError
from repro.facts import paper_value
from repro.models import resnet, vgg
from tests.parity.networks import fill

PAPER = {"num_classes": 1000, "input_size": (224, 224), "channels": 3, "variant": "paper", "width": 1.0, "depth": 1.0}
# one block a stage
SMALL = PAPER | {"num_classes": 5, "input_size": (64, 64), "width": 1 / 16, "depth": 0.01}
STAGES = ("conv1", "conv2", "conv3", "conv4", "conv5")
LAST_LAYERS = ["conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block23_out", "conv5_block3_out"]


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")
    yield
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory."""

    def build(function=resnet.resnet101, **settings):
        return weightless(function, **PAPER | settings)

    return build


def filled(function=resnet.resnet101, **settings):
    model = function(**SMALL | settings)
    fill(model)
    return model


def features(**settings):
    """The stages of a small network and what they are made of: a model from images to all of them."""
    image = keras.Input((64, 64, 3))
    return keras.Model(image, resnet.stages(vgg.normalise(image), SMALL["width"], SMALL["depth"], **settings))


def picture(size, count=1, channels=3):
    return np.random.default_rng(0).uniform(0, 255, (count, *size, channels)).astype("float32")


def values_of(model):
    return {variable.path: keras.ops.convert_to_numpy(variable) for variable in model.variables}


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, "float64") - np.asarray(b))) / np.max(np.abs(b))


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def blocks_of(model):
    return [layer.name.removesuffix("_add") for layer in layers_of(model, keras.layers.Add)]


# plain NumPy, as the paper has it


def numpy_resnet(model, image):
    """Stages and scores of a network from its weights, normalised with moving statistics."""
    of = {layer.name: layer.get_weights() for layer in model.layers}

    def conv_bn(x, name, stride=1, pad=0):
        (kernel,), (gamma, beta, mean, variance) = of[f"{name}_conv"], of[f"{name}_bn"]
        side = len(kernel)
        x = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        height, width = ((n - side) // stride + 1 for n in x.shape[1:3])
        out = np.zeros((len(x), height, width, kernel.shape[-1]))
        for i in range(side):
            for j in range(side):
                out += x[:, i : i + stride * height : stride, j : j + stride * width : stride] @ kernel[i, j]
        return (out - mean) / np.sqrt(variance + resnet.EPSILON) * gamma + beta

    x = (image.astype("float64") - np.array(vgg.MEAN_RGB)) / np.array(vgg.STD_RGB)
    stages = {"conv1": np.maximum(conv_bn(x, "conv1", stride=2, pad=3), 0)}
    x = np.pad(stages["conv1"], ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = ((n - 3) // 2 + 1 for n in x.shape[1:3])
    windows = [x[:, i : i + 2 * height : 2, j : j + 2 * width : 2] for i in range(3) for j in range(3)]
    x = np.max([window[:, :height, :width] for window in windows], axis=0)
    for name in blocks_of(model):
        first, number = name.endswith("_block1"), int(name[4])
        stride = 2 if first and number > 2 else 1
        shortcut = conv_bn(x, f"{name}_0", stride) if first else x
        x = np.maximum(conv_bn(x, f"{name}_1", stride), 0)
        x = np.maximum(conv_bn(x, f"{name}_2", pad=1), 0)
        x = stages[f"conv{number}"] = np.maximum(shortcut + conv_bn(x, f"{name}_3"), 0)
    kernel, bias = of["predictions"]
    return [*stages.values(), x.mean(axis=(1, 2)) @ kernel + bias]


@pytest.mark.parametrize("size", [(64, 96), (45, 67)], ids=["even", "odd"])
def test_stages_and_scores_equal_numpy(size):
    model, image = filled(input_size=size, depth=0.4), picture(size, count=2)
    assert len(blocks_of(model)) == 1 + 2 + 9 + 1
    inner = [model.get_layer(f"{blocks[-1]}_out").output for blocks in by_stage(model).values()]
    whole = keras.Model(model.input, [model.get_layer("conv1_relu").output, *inner, model.output["scores"]])
    for found, expected in zip(whole(image), numpy_resnet(model, image), strict=True):
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-4
        assert np.std(expected) > 0.01


def by_stage(model):
    stages = {}
    for name in blocks_of(model):
        stages.setdefault(name[:5], []).append(name)
    return stages


# the network of the paper


def test_parameters_and_layers_of_the_paper(sketch):
    model, blocks = sketch(), paper_value("resnet101", "resnet101.blocks").value
    convolutions, norms = layers_of(model, keras.layers.Conv2D), layers_of(model, keras.layers.BatchNormalization)
    params, running = (paper_value("resnet101", f"resnet101.{key}").value for key in ("params", "running_stats"))
    assert params == 44_549_160
    assert sum(np.prod(variable.shape) for variable in model.trainable_variables) == params
    assert model.count_params() == params + running == 44_654_504
    assert len(convolutions) == len(norms) == paper_value("resnet101", "resnet101.conv_layers").value == 104
    assert [len(names) for names in by_stage(model).values()] == blocks == [3, 4, 23, 3]
    body = keras.Model(model.input, model.get_layer("conv5_block3_out").output)
    assert body.count_params() - running == paper_value("resnet101", "resnet101.params_body").value
    multiply_adds = sum(np.prod(layer.kernel.shape) * np.prod(layer.output.shape[1:3]) for layer in convolutions)
    assert multiply_adds == pytest.approx(paper_value("resnet101", "resnet101.multiply_adds").value, rel=0.01)


def test_shapes_of_table_1(sketch):
    model = sketch()
    expected = paper_value("resnet101", "resnet101.shapes_224").value
    layers = dict(zip(STAGES, LAST_LAYERS, strict=True))
    layers |= {"pool1": "pool1_pool", "avgpool": "avg_pool", "output": "scores"}
    assert {name: list(model.get_layer(layer).output.shape[1:]) for name, layer in layers.items()} == expected


def test_first_convolutions_of_stages_and_their_shortcuts_halve_the_map(sketch):
    model = sketch()
    convolutions = layers_of(model, keras.layers.Conv2D)
    halving = {layer.name for layer in convolutions if layer.strides == (2, 2)}
    expected = {f"conv{number}_block1_{part}_conv" for number in (3, 4, 5) for part in (0, 1)}
    assert halving == expected | {"conv1_conv"}
    shortcuts = {layer.name for layer in convolutions if layer.name.endswith("_0_conv")}
    assert shortcuts == {f"conv{number}_block1_0_conv" for number in (2, 3, 4, 5)}
    assert {layer.kernel_size for layer in convolutions if layer.name.endswith("_2_conv")} == {(3, 3)}


@pytest.mark.parametrize(("depth", "blocks"), [(0.01, [1, 1, 1, 1]), (0.3, [1, 1, 7, 1]), (0.5, [2, 2, 12, 2])])
def test_depth_keeps_the_first_blocks_of_each_stage(sketch, depth, blocks):
    names = by_stage(sketch(depth=depth))
    assert names == {
        f"conv{number}": [f"conv{number}_block{index + 1}" for index in range(count)]
        for number, count in enumerate(blocks, 2)
    }


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 160), (600, 1000)])
def test_sizes_round_up(sketch, size):
    image = keras.Input((*size, 3))
    found = sketch(lambda **_: resnet.stages(image, 1 / 16, 0.01))
    assert list(found) == list(STAGES)
    for exponent, (name, channels) in enumerate(zip(STAGES, (4, 16, 32, 64, 128), strict=True), start=1):
        assert found[name].shape == (None, *(-(-side // 2**exponent) for side in size), channels)
    assert sketch(input_size=size, depth=0.01).output["scores"].shape == (None, 1000)


@pytest.mark.parametrize("size", [(31, 64), (64, 31)])
def test_images_too_small_are_refused(sketch, size):
    with pytest.raises(ReproError, match=f"resnet101 cannot take {size[0]}x{size[1]} images. give at least 32x32"):
        sketch(input_size=size)


# frozen parts


@pytest.mark.parametrize(("frozen_bn", "frozen_stages"), [(True, 0), (True, 2), (False, 3)])
def test_frozen_parts_do_not_change_in_training(frozen_bn, frozen_stages):
    body = features(frozen_bn=frozen_bn, frozen_stages=frozen_stages)
    scores = keras.layers.Dense(5, name="predictions")(keras.layers.GlobalAveragePooling2D()(body.output["conv5"]))
    model = keras.Model(body.input, scores)
    fill(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.1), loss, run_eagerly=True)
    before = values_of(model)
    model.train_on_batch(picture((64, 64), count=2), np.array([1, 3]))
    after = values_of(model)
    assert len(before) == 17 * 5 + 2
    for path, value in before.items():
        layer = path.partition("/")[0]
        moves = layer == "predictions" or (int(layer[4]) > frozen_stages and not (frozen_bn and layer.endswith("_bn")))
        assert (after[path] != value).any() == moves, path


@pytest.mark.parametrize("frozen_bn", [False, True])
def test_frozen_batch_norm_uses_moving_statistics_in_training(frozen_bn):
    model, image = filled(frozen_bn=frozen_bn), picture((64, 64), count=2)
    trained, evaluated = (np.asarray(model(image, training=training)["scores"]) for training in (True, False))
    assert (relative_error(trained, evaluated) < 1e-6) == frozen_bn
    assert {layer.trainable for layer in layers_of(model, keras.layers.BatchNormalization)} == {not frozen_bn}


# stage 5 on the features of regions


def test_regions_of_14x14_become_7x7(sketch):
    features = keras.Input((14, 14, 1024))
    assert sketch(lambda **_: resnet.conv5(features)).shape == (None, 7, 7, 2048)


def test_conv5_on_the_whole_of_conv4_is_stage_5():
    """Its weights are those of the whole network by name; a network up to stage 4 has none of them."""
    whole, trunk = features(), features(last=4)
    fill(whole)
    regions = keras.Input((4, 4, 64))
    head = keras.Model(regions, resnet.conv5(regions, SMALL["width"], SMALL["depth"], frozen_bn=True))
    assert list(trunk.output) == list(STAGES[:4])
    weights = checkpoint.weights_of(whole)
    parts = [set(checkpoint.weights_of(part)) for part in (trunk, head)]
    assert parts[0] | parts[1] == set(weights)
    assert not parts[0] & parts[1]
    for part in (trunk, head):
        checkpoint.load_weights(part, weights, "test")
    image = picture((64, 64), count=2)
    expected = whole(image)
    np.testing.assert_array_equal(trunk(image)["conv4"], expected["conv4"])
    assert relative_error(head(trunk(image)["conv4"]), expected["conv5"]) < 1e-6
    assert np.std(expected["conv5"]) > 0.01


# weights of keras.applications


@pytest.fixture(scope="module")
def source():
    """keras.applications' ResNet-101 whose every variable matters to its scores: biases and statistics are not those
    of a fresh network, and branches are small, since 33 full ones would drown the first biases in their sum."""
    model = keras.applications.ResNet101(weights=None, input_shape=(64, 64, 3), classifier_activation=None)
    rng = np.random.default_rng(0)
    draws = {
        "kernel": lambda shape: rng.standard_normal(shape, "float32") / np.sqrt(np.prod(shape[:-1]) / 2),
        "gamma": lambda shape: rng.uniform(0.3, 0.8, shape),
        "moving_variance": lambda shape: rng.uniform(0.5, 2, shape),
    }
    for variable in model.variables:
        draw = draws.get(variable.name, lambda shape: rng.normal(0, 0.5, shape))
        variable.assign(draw(variable.shape).astype("float32"))
    conv1 = model.get_layer("conv1_conv").kernel
    conv1.assign(conv1 / 58)  # its input is not of unit scale
    yield model
    del model
    gc.collect()


def stages_of(model):
    scores = model.get_layer("predictions").output
    return keras.Model(model.input, [*(model.get_layer(name).output for name in LAST_LAYERS), scores])


def test_scores_are_those_of_keras_applications(source):
    """Pixels with and without their mean, borders and biases: all stages and the scores are the same numbers."""
    ours = resnet.resnet101(**PAPER | {"input_size": (64, 64)})
    assert resnet.from_keras_applications(ours, source) == 105
    image = picture((64, 64))
    expected = stages_of(source)(keras.applications.resnet.preprocess_input(image.copy()))
    for found, value in zip(stages_of(ours)(image), expected, strict=True):
        assert relative_error(found, value) < 1e-4
        assert np.std(value) > 0.1


def test_networks_of_other_blocks_and_classes_take_what_fits(source):
    grey = resnet.resnet101(**PAPER | {"input_size": (64, 64), "channels": 1, "num_classes": 5, "depth": 0.01})
    fill(grey)
    before = checkpoint.weights_of(grey)
    assert resnet.from_keras_applications(grey, source) == 16  # of 17 convolutions, all but the first
    kept = {name for name, value in checkpoint.weights_of(grey).items() if (value == before[name]).all()}
    norm = {f"conv1_bn/{key}" for key in ("gamma", "beta", "moving_mean", "moving_variance")}
    assert kept == norm | {"conv1_conv/kernel", "predictions/kernel", "predictions/bias"}
    bias = np.asarray(source.get_layer("conv4_block1_2_conv").bias)
    mean = np.asarray(source.get_layer("conv4_block1_2_bn").moving_mean)
    np.testing.assert_array_equal(grey.get_layer("conv4_block1_2_bn").moving_mean, mean - bias)


def test_narrow_networks_take_nothing(source):
    with pytest.raises(ReproError, match=r"no layer of resnet101 has the shape .* use width 1"):
        resnet.from_keras_applications(resnet.resnet101(**SMALL), source)


# training


def test_recipe_is_that_of_the_paper():
    recipe, facts = resnet.recipe("paper", "resnet101"), paper_value("resnet101", "resnet101.recipe").value
    assert {key: recipe[key] for key in facts if key != "iterations"} == {
        key: value for key, value in facts.items() if key != "iterations"
    }
    assert recipe["batch_size"] * facts["iterations"] / 1_281_167 == pytest.approx(recipe["epochs"], rel=0.01)


def test_class_255_of_imagenet_is_a_class():
    scores = np.random.default_rng(0).normal(0, 3, (3, 300)).astype("float32")
    label = np.array([255, 0, 255], "int32")
    expected = np.mean(np.log(np.exp(scores.astype("float64")).sum(axis=1)) - scores[range(3), label])
    assert float(resnet.loss({"scores": scores}, {"label": label})) == pytest.approx(expected, rel=1e-5)
