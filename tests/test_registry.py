"""Every architecture of the registry: shapes, counts, precision, learning, and what is refused."""

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.data.base import VOID
from repro.errors import ReproError
from repro.experiments.architectures import describe
from tests.parity.networks import (
    CASES,
    NUM_CLASSES,
    SIZE,
    SMALL,
    batch_of,
    fill,
    inputs_for,
    learner_of,
    takes_boxes,
)

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
    learner.jit_compile = False  # compiled steps are compared with these in tests/test_parity.py
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
