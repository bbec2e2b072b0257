"""Fast R-CNN against NumPy and its paper's figures: what is sampled, the loss, the detections, the compression."""

import inspect
import math

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.errors import ReproError
from repro.experiments.architectures import describe
from repro.facts import paper_value
from repro.models import fast_rcnn as fast
from repro.models import vgg
from repro.models.fast_rcnn import RoIPool, SampleRois
from repro.tasks.networks import copy_weights
from repro.tasks.predictors import Detector
from tests.parity import networks
from tests.parity.networks import fill, learner_of, numbers, values_and_gradients
from tests.parity.nms import in_mode
from tests.reference.box_losses import loop_smooth_l1
from tests.reference.boxes import loop_decode, loop_encode, loop_iou
from tests.reference.convolution import convolve
from tests.reference.nms import sequential_class_nms
from tests.reference.roi import loop_max_pool

CLASSES, SIZE, MAX_BOXES = 3, (64, 96), 2
SMALL = {"num_classes": CLASSES, "input_size": SIZE, "width": 1 / 32, "depth": 0.3, "channels": 3}
TRAIN = {**SMALL, "heads": "train", "max_boxes": MAX_BOXES}


@pytest.fixture(autouse=True)
def precision():
    """Full float32, on accelerators too; what it yields sets another precision for one test."""
    backend.set_precision("float32")
    yield backend.set_precision
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory; settings as for `registry.build`."""

    def build(**settings):
        return weightless(registry.build, "fast_rcnn", **settings)

    return build


def fact(name):
    return paper_value("fast_rcnn", f"fast_rcnn.{name}").value


def relative_error(a, b):
    return np.max(np.abs(np.asarray(a, "float64") - np.asarray(b))) / np.max(np.abs(b))


def boxes_in(size, count, seed=0):
    """Boxes of 4 to 60 pixels inside an image of (height, width), float32 [count,4]."""
    rng = np.random.default_rng(seed)
    sides = rng.uniform(4, 60, (count, 2))
    corner = rng.uniform(0, 1, (count, 2)) * (np.array(size)[::-1] - sides)
    return np.concatenate([corner, corner + sides], axis=1).astype("float32")


def batch_of(proposals, count=2):
    """Two images, the second of which fills only a part of its canvas and has one object and three proposals less."""
    valid = np.array([SIZE, (62, 80)], "int32")[:count]
    boxes = np.stack([boxes_in(size, MAX_BOXES + proposals, seed) for seed, size in enumerate(valid)])
    classes = np.array([[0, 2], [1, -1]], "int32")[:count]
    used = np.arange(proposals) < np.array([[proposals], [proposals - 3]])[:count]
    return {
        "image": np.random.default_rng(0).integers(0, 256, (count, *SIZE, 3)).astype("uint8"),
        "valid_size": valid,
        "boxes": boxes[:, :MAX_BOXES] * (classes >= 0)[:, :, None],
        "classes": classes,
        "proposals": boxes[:, MAX_BOXES:] * used[:, :, None],
        "proposal_valid": used,
    }


def inputs_of(model, batch):
    return {tensor.name: batch[tensor.name].astype(tensor.dtype) for tensor in model.inputs}


def tensors_of(batch):
    return {name: keras.ops.convert_to_tensor(values) for name, values in batch.items()}


def arrays_of(outputs):
    return {name: keras.ops.convert_to_numpy(values) for name, values in outputs.items()}


# the network of the paper


def test_parameters_of_the_paper():
    svd = fact("svd")
    assert describe("fast_rcnn")["params"] == fact("params") == 134_690_729
    compressed = describe("fast_rcnn", svd=(svd["fc6"], svd["fc7"]))
    assert compressed["params"] == fact("params_svd") == 47_134_633
    assert compressed["conv_layers"] == fact("conv_layers") == 13


@pytest.mark.parametrize("settings", [{}, {"heads": "train"}, {"svd": (1024, 256)}], ids=["infer", "train", "svd"])
def test_shapes_of_the_paper(sketch, settings):
    model, expected = sketch(**settings), fact("shapes_600x1000")
    regions = fact("sampling")["rois_per_image"] if settings.get("heads") else fact("proposals")
    names = dict(roi_pool5="roi_pool", fc6="fc6", fc7="fc7", scores="scores", deltas="deltas")
    shapes = {name: list(model.get_layer(layer).output.shape[1:]) for name, layer in names.items()}
    assert shapes == {name: [regions, *expected[name]] for name in names}
    assert [*model.get_layer("conv5_3").output.shape[1:]] == expected["conv5_3"]
    assert (fast.STRIDE, list(fast.POOLED)) == (fact("stride"), fact("roi_pool")["vgg16"])


def test_the_first_two_blocks_are_frozen_unless_asked(sketch):
    def frozen(model):
        return [layer.name for layer in model.layers if layer.weights and not layer.trainable_weights]

    for heads in ("train", "infer"):
        assert frozen(sketch(heads=heads)) == fact("frozen")
        assert frozen(sketch(heads=heads, frozen_blocks=0)) == []
    assert frozen(sketch(frozen_blocks=3)) == [*fact("frozen"), "conv3_1", "conv3_2", "conv3_3"]
    conv1_and_2 = sum(9 * i * o + o for i, o in ((3, 64), (64, 64), (64, 128), (128, 128)))
    assert describe("fast_rcnn")["trainable_params"] == fact("params") - conv1_and_2


def test_a_step_moves_everything_but_the_frozen_blocks():
    options = {"proposals": 12, "max_boxes": 3, "rois": 8}
    learner = learner_of("fast_rcnn", options, optimizer="sgd", learning_rate=0.1, weight_decay=5e-4)
    learner.run_eagerly, learner.jit_compile = True, False
    fill(learner.network)
    before = {v.path: keras.ops.convert_to_numpy(v) for v in learner.network.weights}
    assert np.isfinite(learner.train_on_batch(networks.batch_of("fast_rcnn")))
    still = {v.path for v in learner.network.weights if (keras.ops.convert_to_numpy(v) == before[v.path]).all()}
    assert still == {f"conv{block}_1/{weight}" for block in (1, 2) for weight in ("kernel", "bias")}


def test_settings_of_the_paper(sketch):
    model, sampling = sketch(heads="train"), fact("sampling")
    sample = model.get_layer("sample")
    assert (sample.count, list(sample.negative_iou)) == (sampling["rois_per_image"], sampling["background_iou"])
    for name, layer in (("scores", "cls_score"), ("deltas", "bbox_pred")):
        assert model.get_layer(layer).kernel_initializer.stddev == fact("init")[name]
    assert list(fast.BOX_STD) == paper_value("faster_rcnn", "faster_rcnn.bbox_std").value
    defaults = {name: value.default for name, value in inspect.signature(fast.detect).parameters.items()}
    options = {"score_threshold": "score_threshold", "nms_threshold": "nms_iou", "max_detections": "max_detections"}
    for option, name in options.items():
        assert defaults[option] == paper_value("faster_rcnn", f"faster_rcnn.{name}").value


def test_recipe_of_the_paper():
    found, expected = fast.recipe("paper", "fast_rcnn"), fact("recipe")
    for key in ("optimizer", "learning_rate", "momentum", "weight_decay", "batch_size"):
        assert found[key] == expected[key]
    assert found["drops"] == [expected["drop_at"] / expected["iterations"]]
    assert found["epochs"] * 5011 / found["batch_size"] == pytest.approx(expected["iterations"], rel=0.01)


@pytest.mark.parametrize("size", [(31, 64), (64, 31)])
@pytest.mark.parametrize("heads", ["train", "infer"])
def test_smaller_images_are_refused(sketch, size, heads):
    with pytest.raises(ReproError, match=f"fast_rcnn cannot take {size[0]}x{size[1]} images. give at least 32x32"):
        sketch(input_size=size, heads=heads)


# its arithmetic


def test_scores_and_deltas_are_those_of_numpy():
    """One convolution a block; 45x67 is odd at every pooling but one."""
    size = (45, 67)
    model = registry.build("fast_rcnn", **SMALL | {"input_size": size}, proposals=5)
    fill(model)
    image = np.random.default_rng(0).uniform(0, 255, (2, *size, 3)).astype("float32")
    rois = np.stack([boxes_in((70, 80), 5, seed) for seed in (0, 1)])  # some reach outside
    x = (image.astype("float64") - vgg.MEAN_RGB) / vgg.STD_RGB
    for block in range(1, 6):
        if block > 1:  # windows at the bottom and the right may be cut
            height, width = x.shape[1:3]
            x = np.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)))
            x = np.max([x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)], axis=0)
        x = np.maximum(convolve(x, model.get_layer(f"conv{block}_1")), 0)
    assert x.shape[1:3] == (3, 5)
    x = loop_max_pool(x, rois, np.zeros((2, 5, 7, 7, x.shape[-1])))[0].reshape(2, 5, -1)
    dense = {layer.name: layer.get_weights() for layer in model.layers if isinstance(layer, keras.layers.Dense)}
    for name in ("fc6", "fc7"):
        x = np.maximum(x @ dense[name][0] + dense[name][1], 0)
    found = model({"image": image, "proposals": rois})
    for name, layer in (("scores", "cls_score"), ("deltas", "bbox_pred")):
        expected = x @ dense[layer][0] + dense[layer][1]
        assert found[name].shape == expected.shape
        assert expected.std() > 0.1
        assert relative_error(found[name], expected) < 1e-4


def scene(seed=0, images=2, regions=8):
    """Outputs of a training network: positives, background and slots that are empty."""
    rng = np.random.default_rng(seed)
    rois = np.stack([boxes_in(SIZE, regions, 10 * seed + image) for image in range(images)])
    labels = np.array([[2, 3, 1, 0, 0, 0, -1, -1], [3, 0, 0, 0, 0, -1, -1, -1]], "int32")[:images]
    positive = labels > 0
    matched = np.where(positive[..., None], rois + rng.uniform(-3, 3, rois.shape), rois)
    empty = (labels < 0)[..., None]
    return {
        "scores": rng.normal(0, 2, (images, regions, CLASSES + 1)).astype("float32"),
        "deltas": rng.normal(0, 1, (images, regions, 4 * (CLASSES + 1))).astype("float32"),
        "rois": np.where(empty, 0, rois).astype("float32"),
        "labels": labels,
        "matched_boxes": np.where(empty, 0, matched).astype("float32"),
        "positive": positive,
    }


def loop_loss(outputs):
    """Fast R-CNN, Eq. 1, region by region; classification and box terms, over the number of regions."""
    labels, classification, boxes = outputs["labels"], 0.0, 0.0
    for b, r in zip(*np.nonzero(labels >= 0), strict=True):
        scores = outputs["scores"][b, r].astype("float64")
        u = labels[b, r]
        classification += math.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[u]
        if u >= 1:
            t = outputs["deltas"][b, r].reshape(-1, 4)[u]
            v = loop_encode(outputs["matched_boxes"][b, r], outputs["rois"][b, r], std=(0.1, 0.1, 0.2, 0.2))
            boxes += sum(loop_smooth_l1(a - b) for a, b in zip(t, v, strict=True))
    count = np.sum(labels >= 0)
    return classification / count, boxes / count


@pytest.mark.parametrize("box_weight", [0.0, 1.0, 2.5])
def test_loss_is_that_of_the_loop(box_weight):
    for seed in range(3):
        outputs = scene(seed)
        classification, boxes = loop_loss(outputs)
        assert min(classification, boxes) > 0.1
        found = float(fast.loss(outputs, {}, box_weight=box_weight))
        assert found == pytest.approx(classification + box_weight * boxes, rel=1e-5)
    assert float(fast.loss(outputs, {})) == pytest.approx(classification + boxes, rel=1e-5)  # lambda = 1


def test_gradients_of_the_loss_reach_what_is_trained_alone():
    """Scores of every sampled region; of the positive ones, the four deltas of the true class."""
    outputs = scene()
    arrays = [outputs["scores"], outputs["deltas"]]
    _, (by_scores, by_deltas) = values_and_gradients(
        lambda scores, deltas: [fast.loss(outputs | {"scores": scores, "deltas": deltas}, {})], arrays
    )
    labels, sampled = outputs["labels"], np.sum(outputs["labels"] >= 0)
    probability = np.exp(arrays[0]) / np.exp(arrays[0]).sum(axis=-1, keepdims=True)
    expected = (probability - np.eye(CLASSES + 1)[labels]) / sampled * (labels >= 0)[..., None]
    np.testing.assert_allclose(by_scores, expected, atol=1e-6)
    by_deltas = by_deltas.reshape(*labels.shape, CLASSES + 1, 4)
    assert np.isfinite(by_deltas).all()
    trained = (np.arange(CLASSES + 1) == labels[..., None]) & (labels > 0)[..., None]
    np.testing.assert_array_equal((by_deltas != 0).all(axis=-1), trained)
    np.testing.assert_array_equal((by_deltas != 0).any(axis=-1), trained)


def test_loss_of_an_empty_sample_is_zero_and_finite():
    outputs = scene()
    none = {name: np.zeros_like(outputs[name]) for name in ("rois", "matched_boxes", "positive")}
    outputs |= none | {"labels": np.full_like(outputs["labels"], -1)}
    (value,), gradients = values_and_gradients(
        lambda scores, deltas: [fast.loss(outputs | {"scores": scores, "deltas": deltas}, {})],
        [outputs["scores"], outputs["deltas"]],
    )
    assert value == 0
    assert not any(gradient.any() for gradient in gradients)


# the sample


def sample_inputs(proposals=40):
    batch = batch_of(proposals)
    return [batch[name] for name in ("proposals", "proposal_valid", "boxes", "classes")]


def test_the_sample_is_a_function_of_the_seed_and_another_each_time():
    def two_samples(seed):
        keras.utils.set_random_seed(seed)
        layer = SampleRois(6)
        return [arrays_of(layer(*sample_inputs())) for _ in range(2)]

    (first, second), again, (other, _) = two_samples(1), two_samples(1), two_samples(2)
    for expected, found in zip((first, second), again, strict=True):
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    assert (first["rois"] != second["rois"]).any()
    assert (first["rois"] != other["rois"]).any()


def test_what_is_sampled_is_a_region_and_has_its_label():
    proposals, valid, boxes, classes = sample_inputs()
    layer = SampleRois(16)
    spec = layer.compute_output_spec(*map(keras.ops.convert_to_tensor, sample_inputs()))
    for _ in range(3):
        sample = arrays_of(layer(proposals, valid, boxes, classes))
        assert {n: (x.shape, x.dtype) for n, x in sample.items()} == {n: (x.shape, x.dtype) for n, x in spec.items()}
        for b in (0, 1):
            candidates = [*proposals[b][valid[b]].tolist(), *boxes[b][classes[b] >= 0].tolist()]
            for roi, label, matched in zip(*(sample[k][b] for k in ("rois", "labels", "matched_boxes")), strict=True):
                overlaps = [loop_iou(roi, box) for box in boxes[b]]
                best = int(np.argmax(overlaps))
                if label < 0:
                    assert not roi.any()
                    continue
                assert roi.tolist() in candidates
                if label == 0:
                    assert 0.1 <= overlaps[best] < 0.5
                else:
                    assert label == classes[b, best] + 1
                    assert overlaps[best] >= 0.5
                    np.testing.assert_array_equal(matched, boxes[b, best])
        assert (sample["labels"] > 0).any(axis=1).all()  # the objects themselves are candidates
        assert ((sample["labels"] > 0).sum(axis=1) <= 4).all()
        assert (sample["labels"] == 0).any()


def test_pooled_regions_have_the_shape_they_announce():
    layer, features, rois = RoIPool((3, 2)), np.zeros((2, 4, 6, 5), "float32"), np.zeros((2, 7, 4), "float32")
    spec = layer.compute_output_spec(*map(keras.ops.convert_to_tensor, (features, rois)))
    assert layer(features, rois).shape == spec.shape == (2, 7, 3, 2, 5)


def test_training_and_inference_share_their_weights():
    """By name; on the regions that were sampled both give the same scores."""
    trained = registry.build("fast_rcnn", **TRAIN, proposals=20, rois=8)
    network = registry.build("fast_rcnn", **SMALL, proposals=8)
    assert [v.path for v in trained.weights] == [v.path for v in network.weights]
    fill(trained)
    batch = batch_of(20)
    expected = arrays_of(trained(inputs_of(trained, batch)))
    copy_weights(trained, network)
    for mine, theirs in zip(network.weights, trained.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs)
    found = network(inputs_of(network, batch | {"proposals": expected["rois"]}))
    for name in ("scores", "deltas"):
        assert relative_error(found[name], expected[name]) < 1e-5


# its detections


def loop_detect(outputs, batch, score_threshold, nms_threshold, max_detections):
    """Fast R-CNN, Section 3, image by image and region by region."""
    found = []
    for b, (height, width) in enumerate(batch["valid_size"]):
        logits = outputs["scores"][b].astype("float64")
        scores = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        boxes = np.zeros((*scores.shape, 4))
        for r, k in np.ndindex(*scores.shape):
            deltas = outputs["deltas"][b, r].reshape(-1, 4)[k]
            box = loop_decode(deltas, batch["proposals"][b, r], std=(0.1, 0.1, 0.2, 0.2))
            boxes[r, k] = np.clip(box, 0, [width, height] * 2)
        valid = batch["proposal_valid"][b]
        boxes, scores = boxes[valid][:, 1:], scores[valid][:, 1:]
        best = sequential_class_nms(boxes, scores, nms_threshold, score_threshold, max_detections)
        found.append([(boxes[i, c], -score, c) for score, c, i in best])
    return found


def answers(seed=1, regions=24):
    """Raw outputs for `batch_of(regions)`; what is not valid has the best scores, and in the middle of the image."""
    rng, batch = np.random.default_rng(seed), batch_of(regions)
    scores = rng.normal(0, 2, (2, regions, CLASSES + 1)).astype("float32")
    deltas = rng.normal(0, 1, (2, regions, 4 * (CLASSES + 1))).astype("float32")
    nothing = ~batch["proposal_valid"]
    scores[nothing] = [0, 9, 0, 0]
    batch["proposals"][nothing] = [20, 20, 50, 50]
    return {"scores": scores, "deltas": deltas}, batch


SETTINGS = {
    "released": dict(score_threshold=0.05, nms_threshold=0.3, max_detections=100),
    "few": dict(score_threshold=0.05, nms_threshold=0.3, max_detections=7),
    "strict": dict(score_threshold=0.5, nms_threshold=0.1, max_detections=20),
    "all": dict(score_threshold=0.0, nms_threshold=1.0, max_detections=80),
}


@pytest.mark.parametrize(("name", "mode"), [*((name, "eager") for name in SETTINGS), ("few", "xla")])
def test_detections_are_those_of_the_loop(name, mode):
    settings, (outputs, batch) = SETTINGS[name], answers()
    detect = in_mode(lambda outputs, batch: fast.detect(outputs, batch, **settings), mode)
    found = arrays_of(detect(tensors_of(outputs), tensors_of(batch)))
    expected = loop_detect(outputs, batch, **settings)
    assert found["count"].tolist() == [len(rows) for rows in expected]
    assert min(found["count"]) > 2
    for b, rows in enumerate(expected):
        boxes, scores, classes = zip(*rows, strict=True)
        assert -np.max(np.diff(scores)) > 1e-5  # or rounding might put them in another order
        count = len(rows)
        assert found["classes"][b].tolist() == [*classes, *[-1] * (settings["max_detections"] - count)]
        np.testing.assert_allclose(found["boxes"][b, :count], boxes, atol=1e-3)
        np.testing.assert_allclose(found["scores"][b, :count], scores, rtol=1e-5)
        assert not found["boxes"][b, count:].any()
        assert not found["scores"][b, count:].any()


def test_the_settings_are_decided_by_what_they_are_about():
    """Suppression, threshold, limit and the border of the image all take something away."""
    outputs, batch = answers()
    counts = {name: np.array([*map(len, loop_detect(outputs, batch, **s))]) for name, s in SETTINGS.items()}
    valid = batch["proposal_valid"].sum(axis=1)
    assert (counts["all"] == CLASSES * valid).all()
    assert (counts["few"] == 7).all()
    assert (counts["released"] > 7).all()
    everything = loop_detect(outputs, batch, **SETTINGS["released"] | {"nms_threshold": 1.0})
    assert (counts["released"] < [*map(len, everything)]).all()
    assert (counts["strict"] < counts["released"]).all()
    for rows, size in zip(everything, batch["valid_size"], strict=True):
        assert np.isin([box[2:] for box, _, _ in rows], size).any()


def test_proposals_that_are_none_are_never_detected():
    outputs, batch = answers()
    batch["proposal_valid"][:] = False
    found = arrays_of(fast.detect(outputs, batch, score_threshold=0.0))
    assert not found["count"].any()
    assert (found["classes"] == -1).all()


def test_background_is_never_detected():
    outputs, batch = answers()
    outputs["scores"][:] = [12, 0, 0, 0]
    assert not np.any(fast.detect(outputs, batch)["count"])


def test_proposals_of_the_network_come_before_those_of_the_batch():
    outputs, batch = answers()
    own = {name: batch.pop(name) for name in ("proposals", "proposal_valid")}
    elsewhere = {"proposals": np.zeros_like(own["proposals"]), "proposal_valid": ~own["proposal_valid"]}
    expected = fast.detect(outputs, batch | own)
    found = fast.detect(outputs | own, batch | elsewhere)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)
    assert np.all(np.asarray(found["count"]) > 0)


def test_one_program_from_image_to_boxes():
    network = registry.build("fast_rcnn", **SMALL, proposals=10)
    fill(network)
    kernel = network.get_layer("cls_score").kernel
    kernel.assign(numbers("scores", kernel.shape, 0.03))  # for scores that are neither all 1 nor all alike
    detector = Detector(network, fast.detect, {"max_detections": 30})
    batch = tensors_of(batch_of(10))
    found, expected = (arrays_of(backend.forward(detector, mode)(batch)) for mode in ("xla", "eager"))
    assert found.keys() == {"boxes", "scores", "classes", "count", "candidates"}
    for b, count in enumerate(expected["count"]):
        assert count > 5
        assert -np.max(np.diff(expected["scores"][b, :count])) > 1e-5
    for name in ("count", "classes"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_allclose(found["scores"], expected["scores"], atol=1e-4)
    np.testing.assert_allclose(found["boxes"], expected["boxes"], atol=1e-2)


def test_detecting_sees_whole_pixels_in_mixed_precision(precision):
    """In bfloat16 x = 1003 would be 1004: proposals must reach pooling and decoding as they are."""
    precision("mixed_bfloat16")
    network = registry.build("fast_rcnn", **SMALL, proposals=4)
    seen = {}

    def detect(outputs, batch):
        seen.update(batch)
        return outputs

    proposals = np.array([[[1003, 1001, 1005, 1007]] * 4], "float32")
    image = np.zeros((1, *SIZE, 3), "uint8")
    Detector(network, detect, {})({"image": image, "proposals": proposals})
    np.testing.assert_array_equal(keras.ops.cast(seen["proposals"], "float32"), proposals)


def test_training_sees_whole_pixels_in_mixed_precision(precision):
    precision("mixed_bfloat16")
    options = {"proposals": 12, "max_boxes": 3, "rois": 8}
    batch = networks.batch_of("fast_rcnn")
    seen = learner_of("fast_rcnn", options, optimizer="sgd", learning_rate=0.1)(batch)["batch"]
    for name in ("boxes", "proposals"):
        np.testing.assert_array_equal(keras.ops.cast(seen[name], "float32"), batch[name])


# its compression


@pytest.fixture(scope="module")
def compressible():
    """A filled network, its inputs and its outputs."""
    backend.set_precision("float32")
    network = registry.build("fast_rcnn", **SMALL, proposals=6)
    fill(network)
    inputs = inputs_of(network, batch_of(6))
    return network, inputs, arrays_of(network(inputs))


def test_compression_without_loss_is_the_network_itself(compressible):
    network, inputs, expected = compressible
    target = registry.build("fast_rcnn", **SMALL, proposals=6, svd=(128, 128))  # of 784x128 and 128x128
    fast.compress(network, target)
    found = target(inputs)
    for name, values in expected.items():
        assert relative_error(found[name], values) < 1e-4


def test_compression_is_the_truncated_product(compressible):
    """Section 3.1; no matrix of that rank is closer (Eckart and Young)."""
    network, inputs, full = compressible
    ranks = {"fc6": 9, "fc7": 4}
    target = registry.build("fast_rcnn", **SMALL, proposals=6, svd=tuple(ranks.values()))
    fill(target)
    fast.compress(network, target)
    for name, rank in ranks.items():
        kernel, bias = network.get_layer(name).get_weights()
        u, s, v = np.linalg.svd(kernel.astype("float64"), full_matrices=False)
        (first,), (second, own_bias) = target.get_layer(f"{name}_v").get_weights(), target.get_layer(name).get_weights()
        assert (first.shape[1], second.shape[0]) == (rank, rank)
        product = first.astype("float64") @ second
        assert relative_error(product, sum(s[i] * np.outer(u[:, i], v[i]) for i in range(rank))) < 1e-4
        assert np.linalg.norm(kernel - product) == pytest.approx(math.sqrt((s[rank:] ** 2).sum()), rel=1e-4)
        np.testing.assert_array_equal(own_bias, bias)
    for layer in network.layers:
        if layer.weights and layer.name not in ranks:
            for mine, theirs in zip(target.get_layer(layer.name).weights, layer.weights, strict=True):
                np.testing.assert_array_equal(mine, theirs)
    found = target(inputs)
    for name, values in full.items():
        assert 1e-3 < relative_error(found[name], values) < 1.5
