"""R-CNN's network, loss and context against NumPy and its paper's figures."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import registry
from repro.errors import ReproError
from repro.experiments.architectures import describe
from repro.facts import paper_value
from repro.models import rcnn
from tests.support.messages import one_line

SIDE, CLASSES = 32, 3
SMALL = {"num_classes": CLASSES, "input_size": (SIDE, SIDE), "channels": 3, "width": 1 / 32, "depth": 0.3}


def fact(name):
    return paper_value("rcnn", name).value


def softmax(scores):
    shares = np.exp(np.asarray(scores, "float64") - np.max(scores, axis=-1, keepdims=True))
    return shares / shares.sum(axis=-1, keepdims=True)


# --- the network


def test_parameters_of_the_paper():
    """fc8 tells 20 classes and the background apart."""
    assert describe("rcnn")["params"] == fact("rcnn.params") == 134_346_581
    assert describe("rcnn", num_classes=21)["params"] == fact("rcnn.params") + fact("rcnn.feature_dim") + 1
    assert describe("rcnn")["outputs"] == {"scores": [21], "features": [fact("rcnn.feature_dim")], "pool5": [25088]}


def test_recipe_of_the_paper():
    recipe, released, sampling = rcnn.recipe("paper", "rcnn"), fact("rcnn.released.recipe"), fact("rcnn.sampling")
    assert {key: recipe[key] for key in fact("rcnn.recipe")} == fact("rcnn.recipe")
    assert {key: recipe[key] for key in ("momentum", "weight_decay")} == {
        key: released[key] for key in ("momentum", "weight_decay")
    }
    every = released["drop_every"] / released["iterations"]
    assert recipe["drops"] == pytest.approx([every, 2 * every, 3 * every])
    assert recipe["batch_size"] == sampling["positives"] + sampling["backgrounds"]
    assert rcnn.POSITIVE_SHARE * recipe["batch_size"] == sampling["positives"]
    assert (sampling["positive_iou"], fact("rcnn.nms_iou")) == (rcnn.POSITIVE_IOU, rcnn.NMS_IOU)
    assert (fact("rcnn.svm")["negative_iou"], fact("rcnn.box_regression")["iou"]) == (rcnn.NEGATIVE_IOU, rcnn.BOX_IOU)


def test_small_regions_are_refused():
    with pytest.raises(ReproError) as error:
        registry.build("rcnn", **SMALL | {"input_size": (31, 40)})
    one_line(error, "31x40", "32x32")


def test_loss_is_that_of_numpy():
    scores = np.random.default_rng(0).normal(0, 2, (6, CLASSES + 1)).astype("float32")
    labels = np.array([0, 0, 1, 3, 2, 0], "int32")
    expected = -np.log(softmax(scores)[np.arange(6), labels]).mean()
    assert float(rcnn.loss({"scores": scores}, {"label": labels})) == pytest.approx(expected, rel=1e-5)


# --- regions


def test_a_proposal_fills_192_of_224_pixels():
    found = rcnn.context_boxes(np.array([[100, 100, 292, 292], [0, 10, 96, 394]], "float32"))
    np.testing.assert_allclose(found, [[84, 84, 308, 308], [-8, -22, 104, 426]], rtol=1e-6)
    assert fact("rcnn.warp")["vgg16"] - 2 * fact("rcnn.warp")["context"] == 192


@given(st.floats(-50, 50), st.floats(-50, 50), st.floats(1, 300), st.floats(1, 300))
def test_the_context_is_the_same_share_at_every_side(x, y, width, height):
    (found,) = rcnn.context_boxes(np.array([[x, y, x + width, y + height]]))
    sides = found[2:] - found[:2]
    np.testing.assert_allclose((np.array([x, y]) - found[:2]) / sides, 16 / 224, rtol=1e-6)
    np.testing.assert_allclose([width, height], 192 / 224 * sides, rtol=1e-6)
