"""FCN-32s, 16s and 8s against the paper, the released nets and interpolation: crops, deconvolutions, sizes."""

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.experiments.architectures import describe
from repro.facts import paper_value
from repro.ops.image import Crop
from tests.parity.networks import (
    NUM_CLASSES,
    SMALL,
    batch_of,
    fill,
)

FCNS = ("fcn32s", "fcn16s", "fcn8s")


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
