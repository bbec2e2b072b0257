"""Faster R-CNN against NumPy and its papers' figures: proposals, what the RPN is trained on, losses, detections."""

import inspect

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.errors import ReproError
from repro.experiments.architectures import describe
from repro.facts import paper_value
from repro.models import fast_rcnn as fast
from repro.models import faster_rcnn as faster
from repro.models.faster_rcnn import AveragePool, Proposals, RpnTargets
from repro.ops.anchors import base_anchors, grid_anchors, inside_image
from repro.records.settings import Data, Network
from repro.tasks import Detection
from repro.tasks.base import Training
from repro.tasks.networks import copy_weights
from repro.tasks.predictors import Detector
from tests.parity.networks import fill, numbers, values_and_gradients
from tests.reference.box_losses import loop_box_loss
from tests.reference.boxes import loop_decode, loop_encode, loop_iou
from tests.reference.matching import loop_labels, loop_sample
from tests.reference.nms import sequential_nms

CLASSES, SIZE, GRID, MAX_BOXES = 3, (64, 96), (4, 6), 2
SMALL = {"num_classes": CLASSES, "input_size": SIZE, "width": 1 / 32, "depth": 0.3, "channels": 3}
# few regions of few sizes; as many in training as at test
REGIONS = {
    "anchor_scales": (1, 2), "min_size": 4, "before_nms": (60, 60), "after_nms": (12, 12), "max_boxes": MAX_BOXES,
}  # fmt: skip
BASE = base_anchors((1, 2))
ANCHORS = grid_anchors(BASE, GRID, 16)
VALID = np.array([SIZE, (50, 70)], "int32")  # the second image fills only a part of its canvas


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory; settings as for `registry.build`."""

    def build(name="faster_rcnn", **settings):
        return weightless(registry.build, name, **settings)

    return build


def fact(name, prefix="faster_rcnn"):
    return paper_value("faster_rcnn", f"{prefix}.{name}").value


def boxes_in(size, count, seed):
    """Boxes of 10 to 45 pixels inside an image of (height, width), float32 [count,4]."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(10, 45, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(size)[::-1] - sides)
    return np.concatenate([corner, corner + sides], axis=1).astype("float32")


def batch_of():
    classes = np.array([[0, 2], [1, -1]], "int32")
    boxes = np.stack([boxes_in(size, MAX_BOXES, seed) for seed, size in enumerate(VALID)])
    image = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype("uint8")
    return {"image": image, "valid_size": VALID, "boxes": boxes * (classes >= 0)[:, :, None], "classes": classes}


def inputs_of(model, batch):
    return {tensor.name: batch[tensor.name].astype(tensor.dtype) for tensor in model.inputs}


def arrays_of(outputs):
    return {name: keras.ops.convert_to_numpy(values) for name, values in outputs.items()}


def tensors(*arrays):
    return [keras.ops.convert_to_tensor(array) for array in arrays]


# the networks of the papers


def test_parameters_of_the_paper():
    card = describe("faster_rcnn")
    assert card["params"] == fact("params") == 137_078_239
    assert card["conv_layers"] == fact("conv_layers") == 16
    frozen = sum(9 * i * o + o for i, o in ((3, 64), (64, 64), (64, 128), (128, 128)))
    assert card["trainable_params"] == fact("params") - frozen
    coco = describe("faster_rcnn", num_classes=80, anchor_scales=(4.0, 8.0, 16.0, 32.0))
    assert coco["params"] == fact("params_coco") == 138_316_573
    assert coco["outputs"]["rpn_scores"] == [38, 63, 2 * fact("anchors_coco")]


def test_parameters_on_resnet_101():
    card = describe("faster_rcnn_resnet101")
    assert card["params"] == fact("params_rpn_512", "faster_rcnn_resnet101") == 47_462_111
    assert card["conv_layers"] == fact("conv_layers", "faster_rcnn_resnet101") == 107
    assert card["outputs"]["rpn_scores"] == [38, 63, 18]


def test_shapes_and_anchors_of_the_paper(sketch):
    model, expected = sketch(), fact("shapes_600x1000")
    names = dict(conv5_3="conv5_3", rpn_cls_score="rpn_scores", rpn_bbox_pred="rpn_deltas")
    assert {key: [*model.get_layer(layer).output.shape[1:]] for key, layer in names.items()} == {
        key: expected[key] for key in names
    }
    assert expected["conv5_3"][:2] == [38, 63]
    assert (expected["rpn_cls_score"][2], expected["rpn_bbox_pred"][2]) == (18, 36)
    heads = dict(roi_pool5="roi_pool", scores="scores", deltas="deltas")
    for key, layer in heads.items():
        assert [*model.get_layer(layer).output.shape[1:]] == [fact("rpn_after_nms")["test"], *expected[key]]
    anchors = model.get_layer("propose").anchors
    assert len(anchors) == fact("anchors_600x1000") == 21_546
    np.testing.assert_array_equal(anchors[:9], np.array(fact("anchor_table")) - [1, 1, 0, 0])
    rpn = sum(model.get_layer(f"rpn_{name}").count_params() for name in ("conv", "cls_score", "bbox_pred"))
    assert rpn == fact("params_rpn") == 2_387_510


@pytest.mark.parametrize(("heads", "phase"), [("train", "train"), ("infer", "test")])
def test_settings_of_the_paper(sketch, heads, phase):
    model = sketch(heads=heads)
    propose = model.get_layer("propose")
    assert propose.before == fact("rpn_before_nms")[phase]
    assert propose.after == fact("rpn_after_nms")[phase]
    assert propose.nms_threshold == fact("rpn_nms_iou")
    assert propose.min_size == fact("rpn_min_size")
    for name in ("rpn_conv", "rpn_cls_score", "rpn_bbox_pred"):
        assert model.get_layer(name).kernel_initializer.stddev == 0.01
    assert faster.detect is fast.detect
    if phase == "train":
        sample, sampling = model.get_layer("sample"), fact("sampling")
        assert (sample.count, list(sample.negative_iou)) == (sampling["rois"], sampling["background_iou_end2end"])
        assert model.get_layer("rpn_sample").count == fact("rpn_sampling")["anchors"]
        sigma = inspect.signature(faster.rpn_loss).parameters["sigma"].default
        assert sigma == fact("released.rpn_loss")["sigma"]


def test_recipe_of_the_released_networks():
    found, expected = faster.recipe("paper", "faster_rcnn"), fact("released.recipe")
    for key in ("learning_rate", "momentum", "weight_decay"):
        assert found[key] == expected[key]
    assert found["batch_size"] == expected["images"] * expected["steps_accumulated"]
    assert found["drops"] == [expected["drop_at"] / expected["iterations"]]
    assert found["epochs"] * 5011 / found["batch_size"] == pytest.approx(expected["iterations"], rel=0.01)


def test_the_first_two_blocks_are_frozen_unless_asked(sketch):
    def frozen(model):
        return [layer.name for layer in model.layers if layer.weights and not layer.trainable_weights]

    for heads in ("train", "infer"):
        assert frozen(sketch(heads=heads)) == paper_value("fast_rcnn", "fast_rcnn.frozen").value
        assert frozen(sketch(heads=heads, frozen_blocks=0)) == []


@pytest.mark.parametrize("name", ["faster_rcnn", "faster_rcnn_resnet101"])
@pytest.mark.parametrize("size", [(31, 64), (64, 31)])
def test_smaller_images_are_refused(sketch, name, size):
    with pytest.raises(ReproError, match=f"{name} cannot take {size[0]}x{size[1]} images. give at least 32x32"):
        sketch(name, input_size=size)


# proposals


def loop_proposals(scores, deltas, valid_size, before, after, nms_threshold, min_size):
    """Faster R-CNN, Section 3.3, and proposal_layer.py: of one image, scores [N,2] and deltas [N,4]."""
    found = []
    height, width = valid_size
    for anchor, (background, foreground), delta in zip(ANCHORS, scores, deltas, strict=True):
        x1, y1, x2, y2 = np.clip(loop_decode(delta, anchor), 0, [width, height] * 2)
        if x2 - x1 >= min_size and y2 - y1 >= min_size:
            found.append((1 / (1 + np.exp(np.float64(background) - foreground)), [x1, y1, x2, y2]))
    found = sorted(found, key=lambda row: -row[0])[:before]
    if not found:
        return np.zeros((0, 4))
    boxes = np.array([box for _, box in found])
    kept = sequential_nms(boxes, -np.arange(len(boxes)), np.ones(len(boxes), bool), nms_threshold, after)
    return boxes[kept]


def rpn_answers(seed=0):
    rng = np.random.default_rng(seed)
    k = len(BASE)
    scores = rng.normal(0, 2, (2, *GRID, 2 * k)).astype("float32")
    return scores, rng.normal(0, 0.4, (2, *GRID, 4 * k)).astype("float32")


PROPOSALS = {
    "paper": dict(before=6000, after=30, nms_threshold=0.7, min_size=16),
    "few": dict(before=40, after=9, nms_threshold=0.5, min_size=8),
    "fewer boxes than slots": dict(before=20, after=60, nms_threshold=0.3, min_size=30),
    "any size": dict(before=200, after=200, nms_threshold=1.0, min_size=0),
    "none is large enough": dict(before=50, after=5, nms_threshold=0.7, min_size=95),
}


@pytest.mark.parametrize("settings", PROPOSALS.values(), ids=[name.replace(" ", "-") for name in PROPOSALS])
def test_proposals_are_those_of_the_loop(settings):
    scores, deltas = rpn_answers()
    layer = Proposals(ANCHORS, **settings)
    boxes, valid = map(np.asarray, layer(scores, deltas, VALID))
    spec = layer.compute_output_spec(*tensors(scores, deltas, VALID))
    assert [(x.shape, x.dtype) for x in (boxes, valid)] == [(x.shape, x.dtype) for x in spec]
    for b, size in enumerate(VALID):
        expected = loop_proposals(scores[b].reshape(-1, 2), deltas[b].reshape(-1, 4), size, **settings)
        assert valid[b].tolist() == [True] * len(expected) + [False] * (settings["after"] - len(expected))
        np.testing.assert_allclose(boxes[b, : len(expected)], expected, atol=1e-3)
        assert not boxes[b, len(expected) :].any()
        assert (boxes[b] >= 0).all()
        assert (boxes[b] <= [size[1], size[0]] * 2).all()  # nothing in the padding
        sides = boxes[b, valid[b], 2:] - boxes[b, valid[b], :2]
        assert (sides >= settings["min_size"] - 1e-3).all()


def test_the_settings_are_decided_by_what_they_are_about():
    scores, deltas = rpn_answers()
    scores, deltas = scores.reshape(2, -1, 2), deltas.reshape(2, -1, 4)

    def count(name, **other):
        settings = PROPOSALS[name] | other
        return [len(loop_proposals(scores[b], deltas[b], size, **settings)) for b, size in enumerate(VALID)]

    assert count("few") == [9, 9]  # the limit
    assert all(0 < n < 20 for n in count("fewer boxes than slots"))
    assert count("any size") == [len(ANCHORS)] * 2
    assert count("none is large enough") == [0, 0]
    unlimited = count("few", after=1000)
    assert all(n < m for n, m in zip(unlimited, count("few", after=1000, nms_threshold=1.0), strict=True))
    assert all(n < m for n, m in zip(unlimited, count("few", after=1000, before=1000), strict=True))
    assert all(n < m for n, m in zip(count("any size", min_size=16), count("any size"), strict=True))


def test_proposals_take_no_gradient():
    """Their coordinates count as constants (Section 3.2); what follows them does not train the RPN."""
    layer = Proposals(ANCHORS, **PROPOSALS["few"])
    scores, deltas = rpn_answers()
    _, gradients = values_and_gradients(
        lambda s, d: [layer(s, d, VALID)[0], s + d[..., : s.shape[-1]]], [scores, deltas]
    )
    _, without = values_and_gradients(
        lambda s, d: [layer(0 * s, 0 * d, VALID)[0], s + d[..., : s.shape[-1]]], [scores, deltas]
    )
    for found, expected in zip(gradients, without, strict=True):
        np.testing.assert_array_equal(found, expected)


# what the RPN is trained on


@pytest.fixture
def noise(monkeypatch):
    """What the sampling layers draw next: the same numbers in every call, by shape."""

    def draw(shape, *_, **__):
        return np.random.default_rng(0).uniform(size=tuple(map(int, shape))).astype("float32")

    monkeypatch.setattr(keras.random, "uniform", lambda *a, **k: keras.ops.convert_to_tensor(draw(*a, **k)))
    return draw


@pytest.mark.parametrize("count", [256, 24, 3])
def test_rpn_targets_are_those_of_the_loop(noise, count):
    batch = batch_of()
    boxes, classes = batch["boxes"], batch["classes"]
    layer = RpnTargets(ANCHORS, count)
    labels, targets = map(np.asarray, layer(boxes, classes, VALID))
    spec = layer.compute_output_spec(*tensors(boxes, classes, VALID))
    assert [(x.shape, x.dtype) for x in (labels, targets)] == [(x.shape, x.dtype) for x in spec]
    drawn = noise((2, len(ANCHORS)))
    for b, (height, width) in enumerate(VALID):
        usable = [a[0] >= 0 and a[1] >= 0 and a[2] <= width and a[3] <= height for a in ANCHORS]
        expected, index = loop_labels(ANCHORS, boxes[b], classes[b] >= 0, np.array(usable))
        np.testing.assert_array_equal(labels[b], loop_sample(expected, drawn[b], count, 0.5))
        for n in np.flatnonzero(labels[b] == 1):
            np.testing.assert_allclose(targets[b, n], loop_encode(boxes[b, index[n]], ANCHORS[n]), atol=1e-5)
        assert (labels[b] == 1).any()
        assert (labels[b] == 0).any()
    assert np.isfinite(targets).all()


def test_anchors_across_the_border_and_in_the_padding_are_never_trained_on():
    batch, layer = batch_of(), RpnTargets(ANCHORS, 16)
    inside, canvas = (np.asarray(inside_image(ANCHORS, size)) for size in (VALID, np.array([SIZE, SIZE])))
    assert (inside[1] < canvas[1]).any()  # some are in the padding, not across the border of the canvas
    seen = np.zeros_like(inside)
    for _ in range(20):
        labels, _ = map(np.asarray, layer(batch["boxes"], batch["classes"], VALID))
        assert (labels[~inside] == -1).all()
        # an image that has enough of them fills its sample
        assert (labels >= 0).sum(axis=1).tolist() == np.minimum(16, inside.sum(axis=1)).tolist() == [16, 16]
        assert ((labels == 1).sum(axis=1) <= 8).all()
        seen |= labels == 0
    assert (seen.sum(axis=1) > 20).all()  # others each time


def test_samples_of_the_rpn_are_a_function_of_the_seed():
    batch = batch_of()

    def two_samples(seed):
        keras.utils.set_random_seed(seed)
        layer = RpnTargets(ANCHORS, 16)
        return [np.asarray(layer(batch["boxes"], batch["classes"], VALID)[0]) for _ in range(2)]

    (first, second), again, (other, _) = two_samples(1), two_samples(1), two_samples(2)
    np.testing.assert_array_equal(again, [first, second])
    assert (first != second).any()
    assert (first != other).any()


def test_an_image_without_objects_is_all_background():
    batch, layer = batch_of(), RpnTargets(ANCHORS, 16)
    labels, targets = map(np.asarray, layer(0 * batch["boxes"], np.full((2, MAX_BOXES), -1, "int32"), VALID))
    assert [np.unique(row).tolist() for row in labels] == [[-1, 0]] * 2
    assert ((labels == 0).sum(axis=1) == 16).all()
    assert np.isfinite(targets).all()


# losses


def rpn_scene(seed=0):
    """Outputs of the RPN in training: some anchors positive, some background, most not sampled."""
    rng, shape = np.random.default_rng(seed), (2, len(ANCHORS))
    scores, deltas = rpn_answers(seed)
    labels = rng.choice([-1, -1, 0, 1], shape).astype("int32")
    targets = np.where(labels[..., None] == 1, rng.normal(0, 0.4, (*shape, 4)), 1e6).astype("float32")
    return {"rpn_scores": scores, "rpn_deltas": deltas, "rpn_labels": labels, "rpn_targets": targets}


def loop_rpn_loss(outputs, sigma):
    """Eq. 1 as released: log loss and smooth L1 of every sampled anchor, over their number."""
    labels = outputs["rpn_labels"]
    scores = outputs["rpn_scores"].reshape(*labels.shape, 2).astype("float64")
    classification = 0.0
    for index in zip(*np.nonzero(labels >= 0), strict=True):
        exponentials = np.exp(scores[index])
        classification -= np.log(exponentials[labels[index]] / exponentials.sum())
    deltas = outputs["rpn_deltas"].reshape(*labels.shape, 4)
    boxes = loop_box_loss(deltas, outputs["rpn_targets"], labels == 1, labels >= 0, sigma)
    return classification / np.sum(labels >= 0) + boxes


@pytest.mark.parametrize("sigma", [3.0, 1.0])
def test_rpn_loss_is_that_of_the_loop(sigma):
    for seed in range(2):
        outputs = rpn_scene(seed)
        expected = loop_rpn_loss(outputs, sigma)
        assert expected > 0.5
        assert float(faster.rpn_loss(outputs, sigma)) == pytest.approx(expected, rel=1e-5)
    assert loop_rpn_loss(outputs, 3.0) == pytest.approx(float(faster.rpn_loss(outputs)), rel=1e-5)


def test_gradients_of_the_rpn_loss_reach_sampled_anchors_alone():
    outputs = rpn_scene()
    labels = outputs["rpn_labels"]
    _, (by_scores, by_deltas) = values_and_gradients(
        lambda s, d: [faster.rpn_loss(outputs | {"rpn_scores": s, "rpn_deltas": d})],
        [outputs["rpn_scores"], outputs["rpn_deltas"]],
    )
    assert np.isfinite(by_scores).all()
    assert np.isfinite(by_deltas).all()
    np.testing.assert_array_equal((by_scores.reshape(*labels.shape, 2) != 0).all(axis=-1), labels >= 0)
    np.testing.assert_array_equal((by_deltas.reshape(*labels.shape, 4) != 0).all(axis=-1), labels == 1)
    np.testing.assert_array_equal((by_deltas.reshape(*labels.shape, 4) != 0).any(axis=-1), labels == 1)


@pytest.fixture(scope="module")
def trained():
    """A small network with its training heads, filled, and its outputs of a batch."""
    backend.set_precision("float32")
    network = registry.build("faster_rcnn", **SMALL, **REGIONS, heads="train", rois=8, rpn_sample=16)
    fill(network)
    return network, arrays_of(network(inputs_of(network, batch_of())))


def test_loss_is_the_sum_of_both(trained):
    _, outputs = trained
    rpn, boxes = loop_rpn_loss(outputs, 3.0), [float(fast.loss(outputs, {}, box_weight=w)) for w in (1.0, 2.5)]
    assert boxes[1] > boxes[0] + 0.01
    assert float(faster.loss(outputs, {})) == pytest.approx(rpn + boxes[0], rel=1e-5)
    assert float(faster.loss(outputs, {}, box_weight=2.5)) == pytest.approx(rpn + boxes[1], rel=1e-5)
    other = loop_rpn_loss(outputs, 1.0)
    assert other != pytest.approx(rpn, rel=1e-3)
    assert float(faster.loss(outputs, {}, sigma=1.0)) == pytest.approx(other + boxes[0], rel=1e-5)


# the whole network


def test_training_and_inference_share_their_weights(trained):
    source, expected = trained
    network = registry.build("faster_rcnn", **SMALL, **REGIONS)
    assert [v.path for v in source.weights] == [v.path for v in network.weights]
    copy_weights(source, network)
    for mine, theirs in zip(network.weights, source.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    found = arrays_of(network(inputs_of(network, batch_of())))
    for name in ("rpn_scores", "rpn_deltas", "proposals", "proposal_valid"):
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-4)
    assert found["proposal_valid"].any(axis=1).all()
    assert expected.keys() - found.keys() == {
        "rpn_labels", "rpn_targets", "rois", "labels", "matched_boxes", "positive"
    }  # fmt: skip
    # a region that was sampled among the proposals has their scores and deltas
    checked = 0
    for b, r in np.argwhere(expected["labels"] >= 0):
        for p in np.flatnonzero((found["proposals"][b] == expected["rois"][b, r]).all(axis=1)):
            checked += 1
            for name in ("scores", "deltas"):
                np.testing.assert_allclose(found[name][b, p], expected[name][b, r], rtol=1e-4, atol=1e-4)
    assert checked > 2


def test_regions_are_sampled_from_the_proposals_and_the_objects(trained):
    _, outputs = trained
    batch = batch_of()
    for b in (0, 1):
        candidates = [*outputs["proposals"][b][outputs["proposal_valid"][b]].tolist(), *batch["boxes"][b].tolist()]
        rois, labels = outputs["rois"][b], outputs["labels"][b]
        assert all(roi.tolist() in candidates for roi in rois[labels >= 0])
        overlaps = [max(loop_iou(roi, box) for box in batch["boxes"][b]) for roi in rois]
        for overlap, label in zip(overlaps, labels, strict=True):
            assert label < 0 or (overlap >= 0.5) == (label > 0)
        assert 0 < (labels > 0).sum() <= 2  # a quarter of 8


def test_one_program_from_image_to_boxes(trained):
    network = registry.build("faster_rcnn", **SMALL, **REGIONS)
    copy_weights(trained[0], network)
    kernel = network.get_layer("cls_score").kernel
    kernel.assign(numbers("scores", kernel.shape, 0.03))  # for scores that are neither all 1 nor all alike
    detector = Detector(network, faster.detect, {"max_detections": 20})
    batch = dict(zip(batch_of(), tensors(*batch_of().values()), strict=True))
    found, expected = (arrays_of(backend.forward(detector, mode)(batch)) for mode in ("xla", "eager"))
    assert found.keys() == {"boxes", "scores", "classes", "count", "candidates", "proposals", "proposal_valid"}
    for b, count in enumerate(expected["count"]):
        assert count > 2
        assert -np.max(np.diff(expected["scores"][b, :count])) > 1e-5
        assert (expected["boxes"][b] <= [VALID[b][1], VALID[b][0]] * 2).all()
    for name in ("count", "classes", "proposal_valid"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    for name in ("boxes", "proposals"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-2)


# on ResNet-101


def resnet_learner():
    network = Network(
        name="faster_rcnn_resnet101", width=1 / 32, depth=0.01, input_size=SIZE, num_classes=CLASSES, channels=3,
        options={**REGIONS, "rois": 8, "rpn_sample": 16},
    )  # fmt: skip
    settings = Training(
        network=network, data=Data(name="shapes"), recipe="suite", epochs=1, batch_size=2, optimizer="sgd",
        learning_rate=0.1,
    )  # fmt: skip
    records = [{name: values[0] for name, values in batch_of().items()}]
    learner = Detection().learner(settings, CLASSES, 0, 10, records)
    learner.run_eagerly, learner.jit_compile = True, False
    fill(learner.network)
    return learner


def test_frozen_batch_normalisation_keeps_its_statistics():
    """And gamma and beta; of the rest, conv1 and conv2 do not learn."""
    learner = resnet_learner()
    before = {v.path: keras.ops.convert_to_numpy(v) for v in learner.network.weights}
    assert np.isfinite(learner.train_on_batch(batch_of()))
    moved = {v.path for v in learner.network.weights if (keras.ops.convert_to_numpy(v) != before[v.path]).any()}
    normal = {path for path in before if "_bn/" in path}
    first = {path for path in before if path.startswith(("conv1_", "conv2_"))}
    assert len([path for path in normal - first if path.endswith("/moving_mean")]) == 12  # of conv3, conv4 and conv5
    assert moved == before.keys() - normal - first
    assert len(moved) > 20


def test_conv5_looks_at_every_region():
    model = registry.build(
        "faster_rcnn_resnet101", **SMALL | {"depth": 0.01}, **REGIONS | {"after_nms": (12, 5)}, frozen_bn=False
    )
    assert model.get_layer("roi_pool").output.shape[1:] == (5, 14, 14, 32)
    assert model.get_layer("avg_pool").output.shape[1:] == (5, 64)
    assert {layer.regions for layer in model.layers if layer.name.startswith("conv5_")} == {5}
    x = numbers("regions", (10, 7, 7, 4))
    pooled = AveragePool(5)(x)
    assert AveragePool(5).compute_output_spec(*tensors(x)).shape == (None, 5, 4)
    np.testing.assert_allclose(pooled, x.mean(axis=(1, 2)).reshape(2, 5, 4), atol=1e-6)
