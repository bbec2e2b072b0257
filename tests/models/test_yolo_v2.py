"""YOLO v2 against loops in the manner of Darknet's code: reorg, targets, loss and its gradient, decoding, detections;
on both backends, eager and compiled."""

import functools

import keras
import numpy as np
import pytest

from repro import backend
from repro.errors import ReproError
from repro.models import darknet
from repro.models import yolo_v2 as yolo
from repro.records.settings import Data, Network
from repro.tasks.base import Training
from repro.tasks.learners import DetectorLearner, compiled
from repro.tasks.networks import parameter_count
from repro.tasks.predictors import Detector
from tests.parity.networks import fill, values_and_gradients
from tests.parity.yolo_v2 import (
    ANCHORS,
    CANVAS,
    CLASSES,
    GRID,
    MODES,
    MOST,
    NMS,
    SCALES,
    SCORE,
    VALID,
    compute_in,
    images,
    outputs_of,
    pixels,
)
from tests.reference.boxes import loop_iou
from tests.reference.nms import sequential_class_nms

SMALL = {"num_classes": 2, "input_size": (64, 96), "channels": 3, "width": 1 / 16, "depth": 0.2}


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")
    yield
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory."""

    def build(function=yolo.yolo_v2, **settings):
        full = {"num_classes": 20, "input_size": (416, 416), "channels": 3, "variant": "paper", "width": 1, "depth": 1}
        return weightless(function, **full | settings)

    return build


# the networks of the paper and of the .cfg files


@pytest.mark.parametrize(
    ("variant", "num_classes", "params", "convolutions"),
    [("paper", 20, 67_137_565, 22), ("released", 20, 50_655_389, 23), ("released", 80, 50_962_889, 23)],
)
def test_parameters(sketch, variant, num_classes, params, convolutions):
    model = sketch(variant=variant, num_classes=num_classes)
    assert parameter_count(model) == params
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == convolutions


@pytest.mark.parametrize(("variant", "fine", "joined"), [("paper", 2048, 3072), ("released", 256, 1280)])
def test_shapes(sketch, variant, fine, joined):
    model = sketch(variant=variant)
    assert model.output["grid"].shape == (None, 13, 13, 125)
    assert model.output["anchors"].shape == (None, 5, 2)
    join = model.get_layer("route2")
    # the passthrough comes first
    assert [x.shape[1:] for x in join.input] == [(13, 13, fine), (13, 13, 1024)]
    assert join.output.shape[1:] == (13, 13, joined)
    assert sketch(variant=variant, input_size=(320, 608), num_classes=80).output["grid"].shape == (None, 10, 19, 425)


def test_the_backbone_is_darknet_19_by_name(sketch):
    detector, classifier = sketch(), sketch(darknet.darknet19, num_classes=1000, input_size=(224, 224))
    for number in range(1, 19):
        for name in (f"conv{number}", f"bn{number}"):
            mine, other = detector.get_layer(name), classifier.get_layer(name)
            assert [v.shape for v in mine.weights] == [v.shape for v in other.weights]
            assert mine.output.shape[-1] == other.output.shape[-1]
    assert detector.get_layer("conv13").output.shape == (None, 26, 26, 512)
    assert detector.get_layer("conv19").kernel.shape == (3, 3, 1024, 1024)


def test_the_last_section_of_the_configuration():
    for variant, classes, anchors in (
        ("paper", 20, "1.08,1.19, 3.42,4.41, 6.63,11.38, 9.42,5.11, 16.62,10.52"),
        ("released", 20, "1.3221,1.73145, 3.19275,4.00944, 5.05587,8.09892, 9.47112,4.84053, 11.2364,10.0071"),
        ("released", 80, "0.57273,0.677385, 1.87446,2.06253, 3.33843,5.47434, 7.88282,3.52778, 9.77052,9.16828"),
    ):
        jitter, random = {"paper": (0.2, 0), "released": (0.3, 1)}[variant]
        rows = yolo.rows(classes, variant)
        assert (rows[-1].kind, rows[-2].filters, rows[-2].fixed) == ("region", 5 * (5 + classes), True)
        assert list(rows[-1].settings) == [
            ("anchors", anchors), ("bias_match", 1), ("classes", classes), ("coords", 4), ("num", 5), ("softmax", 1),
            ("jitter", jitter), ("rescore", 1), ("object_scale", 5), ("noobject_scale", 1), ("class_scale", 1),
            ("coord_scale", 1), ("absolute", 1), ("thresh", 0.6), ("random", random),
        ]  # fmt: skip


def test_recipe():
    recipe = yolo.recipe("paper", "yolo_v2")
    assert [drop * recipe["epochs"] for drop in recipe["drops"]] == [60, 90]
    assert (recipe["batch_size"], recipe["learning_rate"], recipe["weight_decay"]) == (64, 1e-3, 5e-4)
    assert (recipe["sizes"][0], recipe["sizes"][-1], len(recipe["sizes"])) == (320, 608, 10)


@pytest.mark.parametrize("size", [(416, 400), (0, 416), (31, 32)])
def test_other_sizes_are_refused(sketch, size):
    with pytest.raises(ReproError, match=rf"cannot take {size[0]}x{size[1]} images\. give multiples of 32"):
        sketch(input_size=size)


@pytest.mark.parametrize("anchors", [(), ((1.0, 0.0),), ((1.0, 2.0, 3.0),)])
def test_impossible_anchors_are_refused(sketch, anchors):
    with pytest.raises(ReproError, match=r"of yolo_v2 are impossible\. give"):
        sketch(anchors=anchors)


def test_a_width_that_does_not_suit_the_passthrough_is_refused(sketch):
    with pytest.raises(ReproError, match=r"cannot rearrange 2 channels\. give a width at which"):
        sketch(variant="released", width=1 / 32)


# loops


def loop_reorg(x, stride):
    """The index arithmetic of Darknet's reorg layer on [B,h,w,C], whose order in memory is [C,h,w]."""
    height, width, channels = x.shape[1:]
    groups, found = channels // stride**2, []
    for image in x.transpose(0, 3, 1, 2).reshape(len(x), -1):
        answer = np.full_like(image, np.nan)
        for k, j, i in np.ndindex(channels, height, width):
            part, group = divmod(k, groups)
            column, row = i * stride + part % stride, j * stride + part // stride
            answer[i + width * (j + height * k)] = image[column + width * stride * (row + height * stride * group)]
        found.append(answer.reshape(channels * stride**2, height // stride, width // stride))
    return np.array(found).transpose(0, 2, 3, 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loop_box(answer, row, column, anchor):
    x, y = sigmoid(answer[0]) + column, sigmoid(answer[1]) + row
    w, h = anchor[0] * np.exp(answer[2]), anchor[1] * np.exp(answer[3])
    return [32 * v for v in (x - w / 2, y - h / 2, x + w / 2, y + h / 2)]


def loop_region(raw, boxes, classes, object_scale=5, noobject_scale=1, class_scale=1, coord_scale=1, ignore_iou=0.6):
    """The region layer of one image, raw [h,w,A,5+K]: its targets, its loss in parts, its gradient, and how many boxes
    are ignored. Object after object, each overwriting what stands there, as region_layer.c does."""
    losses, gradient, ignored = np.zeros((*raw.shape[:3], 3)), np.zeros(raw.shape), 0
    want = {"object": np.full(raw.shape[:3], -1), "class": np.full(raw.shape[:3], -1)}
    want |= {"box": np.zeros((*raw.shape[:3], 4)), "weight": np.zeros(raw.shape[:3])}
    objects = {}
    for number, (box, kind) in enumerate(zip(boxes, classes, strict=True)):
        x1, x2 = np.clip(box[::2], 0, CANVAS[1])
        y1, y2 = np.clip(box[1::2], 0, CANVAS[0])
        if kind >= 0 and x2 > x1 and y2 > y1:
            objects[number] = (x1, y1, x2, y2)
    for place in np.ndindex(raw.shape[:3]):
        predicted = loop_box(raw[place], *place[:2], ANCHORS[place[2]])
        confidence = sigmoid(raw[place][4])
        if max((loop_iou(predicted, box) for box in objects.values()), default=0) > ignore_iou:
            ignored += 1
            continue
        losses[place][1] = noobject_scale * confidence**2 / 2
        gradient[place][4] = noobject_scale * confidence * confidence * (1 - confidence)
    for number, (x1, y1, x2, y2) in objects.items():
        x, y, w, h = (x1 + x2) / 64, (y1 + y2) / 64, (x2 - x1) / 32, (y2 - y1) / 32
        shapes = [loop_iou((0, 0, w, h), (0, 0, *anchor)) for anchor in ANCHORS]
        best = shapes.index(max(shapes))
        place = int(y), int(x), best
        answer = raw[place]
        stretch = np.log(np.maximum([w, h], 1e-3 / 32) / ANCHORS[best])
        wanted = np.array([x - int(x), y - int(y), *stretch])
        weight = 2 - w * h / (GRID[0] * GRID[1])
        found = np.array([sigmoid(answer[0]), sigmoid(answer[1]), answer[2], answer[3]])
        slopes = np.array([found[0] * (1 - found[0]), found[1] * (1 - found[1]), 1, 1])
        overlap, confidence = (
            loop_iou(loop_box(answer, *place[:2], ANCHORS[best]), (x1, y1, x2, y2)),
            sigmoid(answer[4]),
        )
        shares = np.exp(answer[5:]) / np.exp(answer[5:]).sum()
        losses[place] = [
            coord_scale * weight * ((found - wanted) ** 2).sum() / 2,
            object_scale * (confidence - overlap) ** 2 / 2,
            -class_scale * np.log(shares[classes[number]]),
        ]
        gradient[place][:4] = coord_scale * weight * (found - wanted) * slopes
        gradient[place][4] = object_scale * (confidence - overlap) * confidence * (1 - confidence)
        gradient[place][5:] = class_scale * (shares - np.eye(CLASSES)[classes[number]])
        want["object"][place], want["class"][place] = number, classes[number]
        want["box"][place], want["weight"][place] = wanted, weight
    return want, losses, gradient, ignored


@functools.cache
def regions(scales="default"):
    """`loop_region` of every image, stacked."""
    boxes, classes, grid = images()
    raw = grid.astype("float64").reshape(len(grid), *GRID, len(ANCHORS), -1)
    found = [loop_region(*image, **SCALES[scales]) for image in zip(raw, boxes.astype("float64"), classes, strict=True)]
    wants, losses, gradients, ignored = zip(*found, strict=True)
    targets = {key: np.array([want[key] for want in wants]) for key in wants[0]}
    return targets, np.array(losses), np.array(gradients), np.array(ignored)


@functools.cache
def expected_detections():
    """Per image the (score, class, box) of what `detect` must find."""
    _, _, grid = images()
    raw, found = grid.reshape(5, *GRID, len(ANCHORS), -1), []
    for image, (height, width) in zip(raw, VALID.tolist(), strict=True):
        boxes, scores = [], []
        for place in np.ndindex(image.shape[:3]):
            box = loop_box(image[place].astype("float64"), *place[:2], ANCHORS[place[2]])
            shares = np.exp(image[place][5:]) / np.exp(image[place][5:]).sum()
            outside = box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0
            boxes.append(box)
            scores.append(0 * shares if outside else sigmoid(image[place][4]) * shares)
        boxes = np.array(boxes)
        kept = sequential_class_nms(boxes[:, None], np.array(scores), NMS, SCORE, MOST)
        found.append([(-s, c, np.clip(boxes[i], 0, [width, height] * 2)) for s, c, i in kept])
    return found


def check(found):
    """Everything that `yolo_v2.compute` gives, against the loops."""
    boxes, _, grid = images()
    wanted, *_ = regions()
    for key, values in wanted.items():
        answer = found[f"target/{key}"]
        assert answer.dtype == ("int32" if key in ("object", "class") else "float32")
        np.testing.assert_allclose(answer, values, rtol=1e-4, atol=2e-5, err_msg=key)
    for name in SCALES:
        _, losses, gradients, _ = regions(name)
        np.testing.assert_allclose(found[f"loss/{name}"], losses.sum() / len(boxes), rtol=1e-5)
        expected = gradients.reshape(grid.shape) / len(boxes)
        assert np.isfinite(found[f"gradient/{name}"]).all()
        np.testing.assert_allclose(found[f"gradient/{name}"], expected, rtol=1e-4, atol=1e-6)
    for stride, x in pixels().items():
        expected = loop_reorg(x, stride)
        np.testing.assert_array_equal(found[f"reorg/{stride}"], expected)
        # a permutation takes the weights of the outputs back to where each came from
        order = loop_reorg(np.arange(x.size, dtype="float64").reshape(x.shape), stride)
        weights = np.cos(np.arange(x.size, dtype="float32"))
        back = np.empty(x.size, "float32")
        back[order.reshape(-1).astype(int)] = weights
        np.testing.assert_array_equal(found[f"reorg-gradient/{stride}"], back.reshape(x.shape))
    raw = grid.astype("float64").reshape(len(grid), *GRID, len(ANCHORS), -1)
    for place in np.ndindex(raw.shape[:4]):
        expected = loop_box(raw[place], *place[1:3], ANCHORS[place[3]])
        np.testing.assert_allclose(found["boxes"][place], expected, rtol=1e-4, atol=1e-3)
    for b, rows in enumerate(expected_detections()):
        count = int(found["detect/count"][b])
        assert count == len(rows)
        scores, kinds, cut = zip(*rows, strict=True)
        np.testing.assert_array_equal(found["detect/classes"][b], [*kinds, *[-1] * (MOST - count)])
        np.testing.assert_allclose(found["detect/scores"][b, :count], scores, rtol=1e-4)
        np.testing.assert_allclose(found["detect/boxes"][b, :count], cut, rtol=1e-4, atol=1e-3)
        assert not found["detect/boxes"][b, count:].any()


@pytest.mark.parametrize("mode", MODES)
def test_everything_is_that_of_the_loops(mode):
    check(compute_in(mode))


@pytest.mark.parametrize("name", [name for name in backend.installed() if name != backend.default()])
def test_everything_is_that_of_the_loops_on_other_backends(computed, name):
    found = computed(name, "yolo_v2")
    for mode in MODES:
        check({key.split("/", 1)[1]: found[key] for key in found if key.startswith(f"{mode}/")})


def test_the_cases_are_those_they_are_meant_to_be():
    wanted, losses, _, ignored = regions()
    first = wanted["object"][0]
    assert first[1, 1].tolist() == [2, 1, -1]  # the third object has taken the first one's anchor
    assert not np.isin([0, 3, 4], first).any()
    edges = wanted["object"][1]
    assert edges[0, 3].max() == 0  # cut to the canvas, its centre lies inside
    assert 1 in edges[2, 1]
    assert 2 in edges[1, 3]
    assert not np.isin([3, 4], edges).any()
    assert (wanted["object"][2:4] == -1).all()
    assert (losses[2:4, ..., 1] > 0).all()  # no objects, all background
    assert (losses[4, ..., 1] == 0).any()  # ignored, and no object's own
    assert regions("other")[3].sum() > ignored.sum()
    counts = list(map(len, expected_detections()))
    raw = images()[2].reshape(5, -1, 5 + CLASSES)
    shares = np.exp(raw[..., 5:]) / np.exp(raw[..., 5:]).sum(axis=-1, keepdims=True)
    above = (sigmoid(raw[..., 4:5]) * shares > SCORE).sum(axis=(1, 2))
    assert MOST in counts
    # some are suppressed, or outside the valid part
    assert sum(count < min(MOST, number) for count, number in zip(counts, above, strict=True)) >= 2


# decoding and training


def test_detect_finds_the_boxes_put_there():
    grid = np.full((5, *GRID, len(ANCHORS), 5 + CLASSES), -9.0, "float32")
    grid[0, 1, 2, 1] = [0, 0, np.log(2), 0, 5, 0, 9, 0, 0]
    grid[0, 1, 1, 1] = [9, 0, np.log(2), 0, 3, 0, 9, 0, 0]  # half a cell further left: IoU 2.3 / 3.3 of one class
    grid[0, 1, 2, 0] = [0, 0, 90, 90, 2, 0, 0, 0, 9]  # larger than float32 can say
    grid[0, 2, 1, 0] = [0, 0, 99, 99, 1, 0, 0, 0, 9]  # and another, which overlaps it almost wholly
    found = yolo.detect(outputs_of(grid.reshape(5, *GRID, -1)), {"valid_size": VALID}, 0.1)
    found = {key: keras.ops.convert_to_numpy(value) for key, value in found.items()}
    assert found["count"].tolist() == [2, 0, 0, 0, 0]
    assert found["classes"][0, :3].tolist() == [1, 3, -1]
    np.testing.assert_allclose(found["boxes"][0, 0], [80 - 44.8, 48 - 17.6, 80 + 44.8, 48 + 17.6], atol=1e-3)
    np.testing.assert_allclose(found["boxes"][0, 1], [0, 0, CANVAS[1], CANVAS[0]])


@pytest.mark.parametrize("scale", [0.0, 30.0, 1e4])
def test_gradients_are_finite(scale):
    boxes, classes, grid = images()
    batch = {"boxes": boxes, "classes": classes}
    values, gradients = values_and_gradients(lambda x: [yolo.loss(outputs_of(x), batch)], [grid * scale])
    assert np.isfinite(values[0])
    assert np.isfinite(gradients[0]).all()


def test_one_network_at_several_sizes():
    fixed = yolo.yolo_v2(variant="released", **SMALL)
    open_ended = yolo.yolo_v2(variant="released", **SMALL, multi_scale=True)
    fill(fixed)
    assert open_ended.output["grid"].shape == (None, None, None, 35)
    open_ended.set_weights(fixed.get_weights())
    image = np.random.default_rng(0).uniform(0, 255, (2, 96, 128, 3)).astype("float32")
    small = image[:, :64, :96]
    expected, found = fixed({"image": small}), open_ended({"image": small})
    for key, values in expected.items():
        np.testing.assert_allclose(found[key], values, atol=1e-5)
    np.testing.assert_allclose(found["anchors"], [yolo.ANCHORS["released"]] * 2)
    larger = open_ended({"image": image})
    assert larger["grid"].shape == (2, 3, 4, 35)
    batch = {"boxes": images()[0][:2], "classes": images()[1][:2] % 2, "valid_size": VALID[:2]}
    assert np.isfinite(yolo.loss(larger, batch))
    assert yolo.detect(larger, batch)["boxes"].shape == (2, 100, 4)


def test_answers_leave_in_float32(sketch):
    backend.set_precision("mixed_bfloat16")
    outputs = sketch(width=1 / 16).output
    assert {key: tensor.dtype for key, tensor in outputs.items()} == {"grid": "float32", "anchors": "float32"}


def test_a_small_network_learns_two_pictures_by_heart():
    boxes = np.array([[[6, 8, 30, 36], [40, 34, 88, 60]], [[50, 6, 76, 32], [0, 0, 0, 0]]], "float32")
    classes, image = np.array([[0, 1], [1, -1]], "int32"), np.full((2, 64, 96, 3), 90, "uint8")
    for picture, own, kinds in zip(image, boxes.astype(int), classes, strict=True):
        for (x1, y1, x2, y2), kind in zip(own, kinds, strict=True):
            picture[y1:y2, x1:x2] = [(220, 40, 30), (20, 60, 230)][kind]
    batch = {"image": image, "boxes": boxes, "classes": classes, "valid_size": np.array([(64, 96)] * 2, "int32")}
    settings = Training(
        network=Network(name="yolo_v2"), data=Data(name="shapes"), recipe="suite", epochs=1, batch_size=2,
        optimizer="adamw", learning_rate=3e-3,
    )  # fmt: skip
    backend.set_seed(0)
    network = yolo.yolo_v2(variant="paper", **SMALL, anchors=((0.7, 0.8), (1.5, 0.9)))
    learner = DetectorLearner(network, yolo.loss, {}, None, batch_size=2)
    compiled(learner, settings, 100, {key: values[0] for key, values in batch.items()})
    losses = [float(learner.train_on_batch(batch)) for _ in range(120)]
    assert losses[-1] < 0.02 * losses[0]
    found = Detector(network, yolo.detect, {"score_threshold": 0.3})(batch)
    found = {key: keras.ops.convert_to_numpy(value) for key, value in found.items()}
    assert found["count"].tolist() == [2, 1]
    for b, count in enumerate(found["count"]):
        order = np.argsort(found["classes"][b, :count])
        assert found["classes"][b, order].tolist() == classes[b, :count].tolist()
        for mine, other in zip(found["boxes"][b, order], boxes[b], strict=False):
            assert loop_iou(mine, other) > 0.6
