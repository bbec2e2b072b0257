"""Every architecture of the registry: shapes, counts, arithmetic, learning; then what each paper says of its own."""

import gc

import keras
import numpy as np
import pytest
from parity_worker import (
    CASES,
    NUM_CLASSES,
    SIZE,
    SMALL,
    batch_of,
    fill,
    inputs_for,
    layer_call,
    learner_of,
    takes_boxes,
    values_and_gradients,
)

from repro import backend, registry
from repro.data.base import VOID
from repro.engine import checkpoint
from repro.errors import ReproError
from repro.experiments.architectures import describe
from repro.facts import paper_value
from repro.models import vgg
from repro.ops.image import Crop, PatchConv2D, Upscore
from repro.peers.vgg import PEERS
from repro.tasks.networks import inference_part

# of detectors with NUM_CLASSES classes on SIZE: a map of 3x4, 6 anchors a position
_HEADS = {"scores": [10, NUM_CLASSES + 1], "deltas": [10, 4 * (NUM_CLASSES + 1)]}
_FASTER = {"rpn_scores": [3, 4, 12], "rpn_deltas": [3, 4, 24], "proposals": [10, 4], "proposal_valid": [10], **_HEADS}
OUTPUTS = {
    "rcnn": {"scores": [NUM_CLASSES + 1], "features": [256], "pool5": [128]},
    "fast_rcnn": {"scores": [12, NUM_CLASSES + 1], "deltas": [12, 4 * (NUM_CLASSES + 1)]},
    "faster_rcnn": _FASTER,
    "faster_rcnn_resnet101": _FASTER,
}
VALID = (24, 40)  # what a U-Net of one level without padding answers of SIZE
FCNS = ("fcn32s", "fcn16s", "fcn8s")
EVERY = pytest.mark.parametrize(("name", "options"), CASES.values(), ids=CASES)


@pytest.fixture(autouse=True)
def precision():
    """Full float32, on accelerators too; what it yields sets another precision for one test."""
    backend.set_precision("float32")
    yield backend.set_precision
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory; settings as for `registry.build`."""

    def build(name, **settings):
        return weightless(registry.build, name, **settings)

    return build


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, "float64") - np.asarray(b))) / np.max(np.abs(b))


@EVERY
@pytest.mark.parametrize("channels", [1, 3], ids=["grey", "rgb"])
def test_outputs_and_description(sketch, name, options, channels):
    model = registry.build(name, **SMALL, channels=channels, **options)
    fill(model)
    expected = (
        OUTPUTS.get(name)
        or {
            "classification": {"scores": [NUM_CLASSES]},
            "segmentation": {"scores": [*(SIZE if options.get("padding") != "valid" else VALID), NUM_CLASSES]},
        }[registry.architecture(name).task]
    )
    outputs = model(inputs_for(model, name, channels=channels))
    assert {key: [*value.shape[1:]] for key, value in outputs.items()} == expected
    for key, value in outputs.items():
        values = np.asarray(value)
        assert values.dtype == ("bool" if key == "proposal_valid" else "float32")
        assert np.isfinite(values).all()
        assert values.std() > 0 or key == "proposal_valid"

    card = describe(name, **SMALL, channels=channels, **options)
    assert card["outputs"] == expected
    assert card["params"] + card["running_stats"] == model.count_params()
    assert card["trainable_params"] == sum(np.prod(variable.shape) for variable in model.trainable_variables)


@EVERY
def test_scores_stay_float32_in_mixed_precision(precision, name, options):
    scores, key = {}, "rpn_scores" if "rpn_scores" in OUTPUTS.get(name, ()) else "scores"
    for policy in ("float32", "mixed_bfloat16"):
        precision(policy)
        model = registry.build(name, **SMALL, channels=3, **options)
        fill(model)
        scores[policy] = np.asarray(model(inputs_for(model, name))[key])
    first = next(layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D))
    assert first.compute_dtype == "bfloat16"
    assert scores["mixed_bfloat16"].dtype == "float32"
    # where unpooling puts a value depends on the larger of two numbers that bfloat16 may hardly tell apart
    assert 1e-5 < relative_error(scores["mixed_bfloat16"], scores["float32"]) < (0.5 if name == "segnet" else 0.05)


@EVERY
def test_learns(name, options):
    """The loss of one batch falls, a finite gradient moves every trainable weight and no frozen one, dropout draws."""
    # dropout of half of few channels, six times over, makes SegNet's steps small
    learner = learner_of(name, options, optimizer="adamw", learning_rate=1e-2 if name == "segnet" else 3e-3)
    learner.jit_compile = False  # compiled steps are compared with these in test_parity.py
    network = learner.network
    trainable = {v.path for v in network.trainable_variables}
    before = {v.path: keras.ops.convert_to_numpy(v) for v in network.variables}
    batch = batch_of(name)
    if "semantic" in batch:  # halves of one class each, which a net of stride 32 can tell apart
        left = np.arange(SIZE[1]) < SIZE[1] // 2
        batch["semantic"] = np.where(batch["semantic"] == VOID, VOID, np.where(left, 1, 3)).astype("uint8")
    losses = [float(learner.train_on_batch(batch)) for _ in range(20)]
    assert np.isfinite(losses).all()
    assert min(losses) >= 0
    # the shares of the two classes alone would bring an FCN to 0.43 of its start; detectors are shown other regions
    # in every step
    assert np.mean(losses[-3:]) < (0.75 if takes_boxes(name) else 0.4) * losses[0]
    for variable in network.variables:
        after = keras.ops.convert_to_numpy(variable)
        assert np.isfinite(after).all(), variable.path
        moves = variable.path in trainable or "seed_generator" in variable.path  # of dropout
        moves = moves or "moving_" in variable.path  # of batch normalisation
        assert (after != before[variable.path]).any() == moves, variable.path


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("vgg16", {"input_size": (31, 64)}, "31x64"),
        ("fcn8s", {"input_size": (64, 31), "padding": "same"}, "64x31"),
        ("fcn16s", {"padding": "reflect"}, "padding 'reflect'"),
        ("fcn32s", {"variant": "released2"}, "did you mean released"),
        ("vgg16", {"variant": "released"}, "known: paper"),
        ("vgg16", {"width": 0.0}, "width 0"),
        ("vgg16", {"depth": 1.5}, "depth 1.5"),
        ("fcn8s", {"num_classes": 0}, "0 classes"),
        ("fcn8s", {"channels": 0}, "0 channels"),
        ("fcn8", {}, "did you mean fcn8s"),
        ("googlenet", {"input_size": (16, 16)}, "16x16"),
        ("googlenet", {"heads": "both"}, "known: infer, train"),
        ("fcn_googlenet", {"padding": "caffe"}, "padding 'caffe'"),
        ("segnet", {"input_size": (31, 64)}, "31x64"),
        ("unet", {"input_size": (570, 572)}, "give 556x572 or 572x572"),
        ("unet", {"padding": "reflect"}, "padding of unet"),
    ],
)
def test_impossible_settings_are_refused(sketch, name, settings, message):
    with pytest.raises(ReproError, match=message):
        sketch(name, **settings)


@pytest.mark.parametrize("padding", ["caffe", "same"])
@pytest.mark.parametrize("size", [(224, 224), (320, 500), (500, 500)], ids=["224x224", "320x500", "500x500"])
@pytest.mark.parametrize("name", FCNS)
def test_fcn_takes_any_size_and_has_no_dense_layer(sketch, name, size, padding):
    """Claims C013 and C015."""
    model = sketch(name, input_size=size, padding=padding)
    assert model.output["scores"].shape == (None, *size, 21)
    assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]


@pytest.mark.parametrize(("padding", "least"), [("caffe", 1), ("same", 32)])
@pytest.mark.parametrize("name", FCNS)
def test_fcn_crops_lie_inside_their_maps(sketch, name, padding, least):
    for side in (least, 33, 47, 65, 127):
        model = sketch(name, input_size=(side, 2 * side + 1), padding=padding, width=1 / 64, depth=0.3)
        for layer in model.layers:
            if isinstance(layer, Crop):
                assert all(layer.offset + n <= m for n, m in zip(layer.size, layer.input.shape[1:3], strict=True))


@pytest.mark.parametrize("name", FCNS)
def test_fcn_crops_keep_scores_where_their_pixels_are(sketch, name):
    """Where the padded image halves evenly five times the net is its own mirror image, so every cut is central."""
    model = sketch(name, input_size=(58, 90), padding="caffe")
    assert model.get_layer("pool5").output.shape[1:3] == (8, 9)
    cuts = [layer for layer in model.layers if isinstance(layer, Crop)]
    assert len(cuts) == 1 + len([layer for layer in model.layers if isinstance(layer, keras.layers.Add)])
    for layer in cuts:
        assert [2 * layer.offset + n for n in layer.size] == [*layer.input.shape[1:3]]


@pytest.mark.parametrize("name", FCNS)
def test_fcn_weights_fit_images_of_another_size(name):
    """One set of weights, two sizes (claim C013)."""
    small, large = (
        registry.build(name, **{**SMALL, "input_size": size}, padding="same") for size in ((64, 96), (96, 160))
    )
    fill(small)
    large.set_weights(small.get_weights())
    image = batch_of(name, 1, (96, 160))["image"].astype("float32")
    assert large(image)["scores"].shape == (1, 96, 160, NUM_CLASSES)


def test_fcn8s_shapes_are_those_of_the_released_net(sketch):
    model = sketch("fcn8s", padding="caffe")
    expected = {name: tuple(shape) for name, shape in paper_value("fcn", "fcn8s.shapes_500").value.items()}
    found = {name: tuple(model.get_layer(name).output.shape[1:]) for name in expected.keys() - {"input", "output"}}
    found |= {"input": tuple(model.input.shape[1:]), "output": tuple(model.output["scores"].shape[1:])}
    assert found == expected


@pytest.mark.parametrize(
    ("name", "variant", "learned"),
    [
        ("fcn32s", "paper", set()),
        ("fcn16s", "paper", {"upscore2"}),
        ("fcn8s", "paper", {"upscore2", "upscore_pool4"}),
        ("fcn32s", "released", set()),
        ("fcn16s", "released", set()),
        ("fcn8s", "released", set()),
    ],
)
def test_fcn_learns_the_deconvolutions_its_variant_learns(sketch, name, variant, learned):
    """The paper learns all but the last (Section 4.3), the released nets fix them all."""
    model = sketch(name, variant=variant)
    deconvolutions = {layer.name: layer for layer in model.layers if isinstance(layer, keras.layers.Conv2DTranspose)}
    assert len(deconvolutions) == paper_value("fcn", f"{name}.deconv_layers").value
    assert {layer for layer in deconvolutions if deconvolutions[layer].trainable_variables} == learned
    frozen = sum(np.prod(layer.kernel.shape) for key, layer in deconvolutions.items() if key not in learned)
    card = describe(name, variant=variant)
    assert card["params"] == paper_value("fcn", f"{name}.params").value
    assert card["params"] - card["trainable_params"] == frozen
    if (name, variant) == ("fcn8s", "released"):
        assert card["trainable_params"] == paper_value("fcn", "fcn8s.released.trainable_params").value == 134362751


@pytest.mark.parametrize("padding", ["caffe", "same"])
@pytest.mark.parametrize("name", FCNS)
def test_fresh_fcn_scores_zero(name, padding):
    """Score layers start at zero (Section 4.3), so that a finer net starts as the coarser one."""
    model = registry.build(name, **SMALL, padding=padding)
    assert not np.any(model(batch_of(name)["image"].astype("float32"))["scores"])


@pytest.mark.parametrize(("name", "layer"), [("fcn8s", "upscore2"), ("fcn8s", "upscore_pool4"), ("fcn8s", "upscore8"),
                                             ("fcn16s", "upscore16"), ("fcn32s", "upscore32")])  # fmt: skip
def test_fresh_deconvolutions_interpolate_bilinearly(name, layer):
    """A constant stays constant, a ramp stays a ramp, and channels do not mix (Section 3.3)."""
    model = registry.build(name, **{**SMALL, "num_classes": 3}, padding="same")
    deconvolution = model.get_layer(layer)
    factor = deconvolution.strides[0]
    rows, columns = np.meshgrid(np.arange(5.0), np.arange(6.0), indexing="ij")
    coarse = np.stack([rows, 3 - 2 * columns, np.full_like(rows, 7)], axis=-1)
    # centres of the fine pixels in coarse pixels; outside the outermost centres zeros are interpolated too
    y, x = np.meshgrid(*((np.arange(n * factor) + 0.5) / factor - 0.5 for n in coarse.shape[:2]), indexing="ij")
    inside = (y >= 0) & (y <= 4) & (x >= 0) & (x <= 5)
    fine = np.asarray(deconvolution(coarse[None].astype("float32")))[0]
    expected = np.stack([y, 3 - 2 * x, np.full_like(y, 7)], axis=-1)
    assert fine.shape == expected.shape
    np.testing.assert_allclose(fine[inside], expected[inside], atol=1e-5)
    assert (fine[~inside, 2] < 7).all()


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("factor", [2, 8, 16])
@pytest.mark.parametrize("use_bias", [False, True])
def test_upscore_is_conv2d_transpose(factor, padding, use_bias):
    settings = dict(strides=factor, padding=padding, use_bias=use_bias, name="upscore")
    assert_same_layer(
        Upscore(3, 2 * factor, **settings), keras.layers.Conv2DTranspose(3, 2 * factor, **settings), (2, 3, 5, 4)
    )


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("size", [1, 2, 4, 7])
def test_patch_conv2d_is_conv2d(size, padding):
    settings = dict(padding=padding, activation="relu", name="patches")
    assert_same_layer(PatchConv2D(3, size, **settings), keras.layers.Conv2D(3, size, **settings), (2, 7, 9, 4))


def assert_same_layer(ours, reference, shape):
    """Equal variables, outputs, and gradients by the input and every variable."""
    function, arrays = layer_call(ours, shape)
    expected_function, expected_arrays = layer_call(reference, shape)
    assert [a.shape for a in arrays] == [a.shape for a in expected_arrays]
    assert ours.compute_output_shape(shape) == reference.compute_output_shape(shape)
    values, gradients = values_and_gradients(function, arrays)
    expected_values, expected_gradients = values_and_gradients(expected_function, expected_arrays)
    for found, expected in zip([*values, *gradients], [*expected_values, *expected_gradients], strict=True):
        assert found.shape == expected.shape
        assert relative_error(found, expected) < 1e-5


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


@pytest.mark.parametrize(
    ("name", "settings", "params"),
    [
        ("googlenet", {}, 6_998_552),
        ("googlenet", {"heads": "train"}, 13_378_280),
        ("segnet", {}, 29_449_355),
        ("segnet", {"num_classes": 21}, 29_455_125),
        ("unet", {}, 31_030_658),
        ("unet", {"channels": 3}, 31_031_810),
        ("unet", {"num_classes": 1}, 31_030_593),
    ],
)
def test_parameters_are_those_of_the_papers(name, settings, params):
    card = describe(name, **settings)
    assert card["params"] == params
    assert card["flops"] > 1e9


def test_valid_unet_answers_for_388_of_572_pixels():
    assert describe("unet")["outputs"] == {"scores": [388, 388, 2]}
    assert describe("unet", padding="same")["outputs"] == {"scores": [572, 572, 2]}


def test_heads_of_training_share_the_weights_of_inference():
    """Names are the same, so that what was trained with the heads is loaded without them; scores are the same too."""
    trained, plain = (registry.build("googlenet", **SMALL, channels=3, heads=heads) for heads in ("train", "infer"))
    fill(trained)
    inference = inference_part(trained)
    assert set(trained.output) == {"scores", "aux1", "aux2"}
    assert set(inference.output) == set(plain.output) == {"scores"}
    assert checkpoint.load_weights(plain, checkpoint.weights_of(inference), "test") == len(plain.weights)
    image = batch_of("googlenet")["image"].astype("float32")
    np.testing.assert_array_equal(inference(image)["scores"], trained(image)["scores"])
    np.testing.assert_array_equal(plain(image)["scores"], trained(image)["scores"])


def test_segnet_starts_from_vgg16_by_name():
    source = registry.build("vgg16", num_classes=NUM_CLASSES, input_size=(64, 64), width=1 / 16)
    fill(source)
    ours = registry.build("segnet", num_classes=NUM_CLASSES, input_size=(64, 64), width=1 / 16)
    weights = checkpoint.weights_of(source)
    assert checkpoint.load_weights(ours, weights, "test", partial=True) == 26  # of 13 convolutions
    np.testing.assert_array_equal(ours.get_layer("conv5_3").kernel, weights["conv5_3/kernel"])
