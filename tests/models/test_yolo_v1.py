"""YOLO v1 against plain loops and its paper's figures: networks, what cells are taught, the loss, the detections."""

import math

import keras
import numpy as np
import pytest

from repro import backend
from repro.engine import checkpoint
from repro.errors import ReproError
from repro.models import darknet, yolo_v1
from repro.tasks.learners import DetectorLearner
from repro.tasks.networks import flops, parameter_count
from repro.tasks.predictors import Detector
from tests.parity.networks import fill, values_and_gradients
from tests.parity.yolo_v1 import MODES
from tests.reference.boxes import loop_iou
from tests.reference.nms import sequential_class_nms

CLASSES, GRID = 4, (2, 3)
CANVAS = (128, 192)
SMALL = {"num_classes": CLASSES, "channels": 3, "variant": "paper", "width": 1 / 16, "depth": 0.3}


@pytest.fixture(autouse=True)
def precision():
    """Full float32, on accelerators too; what it yields sets another precision for one test."""
    backend.set_precision("float32")
    yield backend.set_precision
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory; the paper's size unless settings say otherwise."""
    sizes = {"yolo_v1": (20, 448), "fast_yolo": (20, 448), "extraction": (1000, 224)}

    def build(name, **settings):
        num_classes, side = sizes[name]
        whole = {"num_classes": num_classes, "input_size": (side, side), "width": 1.0, "depth": 1.0}
        return weightless(getattr, yolo_v1, name)(**{**SMALL, **whole, **settings})

    return build


def small(name, size=CANVAS, **settings):
    return getattr(yolo_v1, name)(**{**SMALL, "input_size": size, **settings})


# the networks of the paper


@pytest.mark.parametrize(
    ("name", "variant", "params", "convolutions", "gflops"),
    [
        ("yolo_v1", "paper", 271_703_550, 24, 40.57),
        ("fast_yolo", "paper", 45_089_374, 9, 4.84),
        ("extraction", "paper", 23_428_136, 20, 8.42),
        ("extraction", "released", 23_437_224, 21, 8.52),
    ],
)
def test_parameters_and_operations_of_the_paper(sketch, name, variant, params, convolutions, gflops):
    model = sketch(name, variant=variant)
    assert parameter_count(model) == params
    assert sum(isinstance(layer, keras.layers.Conv2D) for layer in model.layers) == convolutions
    assert flops(model) / 1e9 == pytest.approx(gflops, abs=0.01)


def test_shapes_of_the_paper(sketch):
    model = sketch("yolo_v1")
    expected = {
        "conv1": [224, 224, 64], "conv2": [112, 112, 192], "conv6": [56, 56, 512], "conv16": [28, 28, 1024],
        "conv21": [14, 14, 1024], "conv22": [7, 7, 1024], "conv24": [7, 7, 1024], "fc1": [4096], "fc2": [1470],
    }  # fmt: skip
    assert {name: [*model.get_layer(name).output.shape[1:]] for name in expected} == expected
    assert {name: tuple(tensor.shape[1:]) for name, tensor in model.output.items()} == {
        "answer": (1470,), "grid": (7, 7, 30),
    }  # fmt: skip
    assert sum(isinstance(layer, keras.layers.MaxPooling2D) for layer in model.layers) == 4
    assert model.get_layer("drop1").rate == 0.5
    assert model.get_layer("drop1").input is model.get_layer("fc_leaky1").output
    assert model.get_layer("leaky1").negative_slope == pytest.approx(0.1)
    assert list(sketch("fast_yolo").get_layer("conv9").output.shape[1:]) == [7, 7, 1024]


def test_rows_are_those_of_the_cfg_files():
    def convolutions(rows):
        return [(row.filters, row.size, row.stride) for row in rows if isinstance(row, darknet.Conv)]

    repeated = [(256, 1, 1), (512, 3, 1)] * 4 + [(512, 1, 1), (1024, 3, 1)] * 3
    trunk = [(64, 7, 2), (192, 3, 1), (128, 1, 1), (256, 3, 1), (256, 1, 1), (512, 3, 1), *repeated]
    rows = yolo_v1.rows("yolo_v1", 20)
    assert convolutions(rows) == [*trunk, *[(1024, 3, 1), (1024, 3, 2), (1024, 3, 1), (1024, 3, 1)]]
    assert convolutions(yolo_v1.rows("extraction", 1000)) == trunk
    kinds = [type(row).__name__ for row in rows]
    assert [index for index, kind in enumerate(kinds) if kind == "MaxPool"] == [1, 3, 8, 19]
    assert kinds[-4:] == ["Connected", "Dropout", "Connected", "Answer"]
    fast = yolo_v1.rows("fast_yolo", 20)
    filters = (16, 32, 64, 128, 256, 512, 1024, 1024, 1024)
    assert convolutions(fast) == [(count, 3, 1) for count in filters]
    connected = [(row.units, row.activation, row.fixed) for row in fast if isinstance(row, darknet.Connected)]
    assert connected == [(256, "linear", False), (4096, "leaky", False), (1470, "linear", True)]
    for row in (rows[-1], fast[-1]):
        settings = dict(row.settings)
        assert row.kind == "detection"
        names = ("classes", "coords", "side", "num", "sqrt", "rescore", "coord_scale", "noobject_scale")
        assert [settings[name] for name in names] == [20, 4, 7, 2, 1, 1, 5, 0.5]
    assert "side" not in dict(yolo_v1.rows("yolo_v1", 20, (2, 3))[-1].settings)


@pytest.mark.parametrize(("depth", "expected"), [(1.0, 24), (0.5, 18), (0.1, 16)])
def test_depth_keeps_a_share_of_the_repetitions(depth, expected):
    rows = yolo_v1.rows("yolo_v1", 20, depth=depth)
    assert sum(isinstance(row, darknet.Conv) for row in rows) == expected


@pytest.mark.parametrize("name", ["yolo_v1", "fast_yolo"])
@pytest.mark.parametrize("size", [(0, 64), (32, 32), (64, 96), (447, 448)])
def test_other_sizes_are_refused(sketch, name, size):
    with pytest.raises(ReproError, match=f"{name} cannot take {size[0]}x{size[1]} images. give sides that are mult"):
        sketch(name, input_size=size)


def test_a_classifier_of_smaller_images_is_refused(sketch):
    with pytest.raises(ReproError, match=r"extraction cannot take 31x64 images. give at least 32x32"):
        sketch("extraction", input_size=(31, 64))


def test_outputs_are_float32_whatever_the_precision_inside(sketch, precision):
    precision("mixed_bfloat16")
    for name in ("yolo_v1", "fast_yolo", "extraction"):
        model = sketch(name, width=1 / 16)
        assert {tensor.dtype for tensor in model.output.values()} == {"float32"}
        assert model.get_layer("conv2").output.dtype == "bfloat16"


def test_recipe_of_the_paper():
    found = yolo_v1.recipe("paper", "yolo_v1")
    assert [found[key] for key in ("epochs", "batch_size", "momentum", "weight_decay")] == [135, 64, 0.9, 0.0005]
    assert found["learning_rate"] == 0.01
    assert [round(found["epochs"] * drop) for drop in found["drops"]] == [75, 105]
    assert yolo_v1.recipe("paper", "extraction")["batch_size"] == 128


# the weights of the classifier


def test_weights_carry_over_from_the_classifier_by_name():
    source, target = small("extraction", (64, 64)), small("yolo_v1", (64, 64))
    fill(source)
    before = {name: values.copy() for name, values in checkpoint.weights_of(target).items()}
    weights = checkpoint.weights_of(source)
    assert checkpoint.load_weights(target, weights, "extraction", partial=True) == 2 * 12
    for name, values in checkpoint.weights_of(target).items():
        carried = name.startswith("conv") and int(name[4:].split("/")[0]) <= 12
        np.testing.assert_array_equal(values, weights[name] if carried else before[name])


def test_batch_normalisation_folds_into_a_network_without():
    source, target = small("extraction", (64, 64), variant="released"), small("yolo_v1", (64, 64))
    fill(source)
    assert yolo_v1.fold_batch_norm(source, target) == 12
    image = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3)).astype("float32")
    answers = [
        np.asarray(keras.Model(model.inputs[0], model.get_layer("leaky12").output)(image)) for model in (source, target)
    ]
    assert np.abs(answers[0]).max() > 0.1
    np.testing.assert_allclose(answers[1], answers[0], rtol=1e-3, atol=1e-4 * np.abs(answers[0]).max())
    with pytest.raises(ReproError, match=r"conv1 of extraction does not fit extraction. give the same width"):
        yolo_v1.fold_batch_norm(source, small("extraction", (64, 64), width=1 / 8))
    with pytest.raises(ReproError, match="yolo_v1 has no batch normalisation to fold"):
        yolo_v1.fold_batch_norm(target, target)


def test_the_classifier_scores_and_learns():
    image, labels = np.full((2, 32, 32, 3), 90, "float32"), np.array([1, 3], "int32")
    for variant in ("paper", "released"):
        outputs = small("extraction", (32, 32), variant=variant)(image)
        scores = np.asarray(outputs["scores"], "float64")
        assert scores.shape == (2, CLASSES)
        expected = -np.log(np.exp(scores) / np.exp(scores).sum(1, keepdims=True))[[0, 1], labels].mean()
        assert float(yolo_v1.loss(outputs, {"label": labels})) == pytest.approx(expected, rel=1e-5)


# cells


def test_the_grid_is_darknets_answer_by_cells():
    height, width = GRID
    cells, n = height * width, 2
    answer = np.random.default_rng(0).normal(size=(2, cells * (CLASSES + 5 * n))).astype("float32")
    grid = np.asarray(yolo_v1.Grid(GRID, CLASSES)(answer))
    parts = {name: np.asarray(values) for name, values in yolo_v1.parts(grid).items()}
    assert grid.shape == (2, *GRID, CLASSES + 5 * n)
    for b, i in np.ndindex(2, cells):  # the indices of src/detection_layer.c
        cell = grid[b, i // width, i % width]
        for k in range(CLASSES):
            assert cell[k] == parts["classes"][b, i // width, i % width, k] == answer[b, i * CLASSES + k]
        for j in range(n):
            confidence = answer[b, cells * CLASSES + i * n + j]
            assert cell[CLASSES + 5 * j + 4] == parts["confidence"][b, i // width, i % width, j] == confidence
            for k in range(4):
                value = answer[b, cells * (CLASSES + n) + (i * n + j) * 4 + k]
                assert cell[CLASSES + 5 * j + k] == parts["boxes"][b, i // width, i % width, j, k] == value


# images of the test: which objects stand where, and what decides which box answers for them
RANDOM, SHARED, EDGES, NO_AREA, EMPTY, APART, TIED, NEARER = range(8)
OBJECTS = {
    SHARED: [(70, 10, 118, 50, 2), (80, 12, 90, 22, 0), (130, 70, 180, 120, 1), (65, 1, 127, 60, 3)],
    # centres on the right edge, on the bottom edge, in the corner, left of the canvas
    EDGES: [(182, 30, 202, 70, 1), (20, 118, 60, 138, 0), (172, 108, 212, 148, 2), (-30, 10, 10, 20, 3)],
    # no width, inverted, an object in another cell, padding that has numbers
    NO_AREA: [(30, 10, 30, 50, 1), (120, 60, 100, 10, 2), (140, 80, 170, 110, 3), (10, 70, 50, 110, -1)],
    EMPTY: [(0, 0, 0, 0, -1)] * 4,
    APART: [(0, 0, 0, 0, -1), (20, 20, 40, 50, 1), (0, 0, 0, 0, -1), (80, 74, 110, 126, 2)],
    TIED: [(48, 48, 80, 80, 3), (0, 0, 0, 0, -1), (0, 0, 0, 0, -1), (0, 0, 0, 0, -1)],
    NEARER: [(20, 20, 40, 40, 0), (0, 0, 0, 0, -1), (0, 0, 0, 0, -1), (0, 0, 0, 0, -1)],
}  # fmt: skip


def scene():
    """(what a network says of eight images' cells, the batch)."""
    rng = np.random.default_rng(0)
    grid = rng.normal(0.4, 0.4, (8, *GRID, CLASSES + 10)).astype("float32")
    boxes = np.zeros((8, 4, 4), "float32")
    classes = np.full((8, 4), -1, "int32")
    corners = rng.uniform(0, 1, (4, 2, 2)) * CANVAS[::-1]
    boxes[RANDOM] = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    classes[RANDOM] = 0, -1, 3, 2
    for image, rows in OBJECTS.items():
        boxes[image], classes[image] = np.array(rows)[:, :4], np.array(rows)[:, 4]
    predictors = grid[..., CLASSES:].reshape(8, *GRID, 2, 5)
    # beside their objects; in the lower cell the nearer centre has a far too large box
    predictors[APART, 0, 0, :, :4] = [(3.0, 0.5, 0.3, 0.4), (2.0, 0.5, 0.3, 0.4)]
    predictors[APART, 1, 1, :, :4] = [(7.5, 0.6, 0.4, 0.5), (7.4, 0.6, -1.6, 0.5)]
    predictors[TIED, 1, 1, 1] = predictors[TIED, 1, 1, 0]
    # one close by the object, one that covers it and most of the canvas
    predictors[NEARER, 0, 0, :, :4] = [(0.85, 0.47, 0.3, 0.3), (0.5, 0.5, 0.9, 0.9)]
    # for the detections: doubles in the upper cells, nothing in the lower ones
    predictors[EMPTY, 0, :, 1, :4] = predictors[EMPTY, 0, :, 0, :4] + 0.01
    predictors[EMPTY, 1, :, :, 4] = 0
    grid[..., CLASSES:] = predictors.reshape(8, *GRID, 10)
    valid_size = np.array([CANVAS] * 6 + [(100, 192), (128, 150)], "int32")
    return grid, {"boxes": boxes, "classes": classes, "valid_size": valid_size}


def loop_objects(boxes, classes):
    """{cell (row, column): index of its object} of one image."""
    found = {}
    for index, ((x1, y1, x2, y2), kind) in enumerate(zip(boxes.tolist(), classes.tolist(), strict=True)):
        if kind < 0 or x2 <= x1 or y2 <= y1:
            continue
        column = min(max(math.floor((x1 + x2) / 2 / 64), 0), GRID[1] - 1)
        row = min(max(math.floor((y1 + y2) / 2 / 64), 0), GRID[0] - 1)
        found.setdefault((row, column), index)
    return found


def loop_corners(predicted, row, column):
    """(x1,y1,x2,y2) in pixels of (x, y, sqrt w, sqrt h)."""
    x, y, w, h = (float(value) for value in predicted)
    x, y, w, h = (x + column) * 64, (y + row) * 64, w * w * CANVAS[1], h * h * CANVAS[0]
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def loop_distance(a, b):
    """Squared, of centres and sides in shares of the canvas."""
    shares = []
    for x1, y1, x2, y2 in (a, b):
        height, width = CANVAS
        shares.append(((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height))
    return sum((p - q) ** 2 for p, q in zip(*shares, strict=True))


def loop_loss(grid, batch, lambda_coord=5.0, lambda_noobj=0.5):
    """(loss, its gradient by the grid, {image: {cell: which box answers}}) as Eq. 3 and src/detection_layer.c say."""
    total, gradient, chosen = 0.0, np.zeros(grid.shape), {}

    def term(weight, target, *place):
        nonlocal total
        error = float(grid[place]) - target
        total += weight * error**2 / len(grid)
        gradient[place] += 2 * weight * error / len(grid)

    for b in range(len(grid)):
        objects = loop_objects(batch["boxes"][b], batch["classes"][b])
        chosen[b] = {}
        for row, column in np.ndindex(*GRID):
            place, answers = (b, row, column), None
            if (row, column) in objects:
                index = objects[row, column]
                truth = [float(value) for value in batch["boxes"][b, index]]
                for k in range(CLASSES):
                    term(1, 1.0 if k == batch["classes"][b, index] else 0.0, *place, k)
                both = [loop_corners(grid[place][CLASSES + 5 * j :][:4], row, column) for j in range(2)]
                ious = [loop_iou(box, truth) for box in both]
                if max(ious) > 0:
                    answers = ious.index(max(ious))
                else:
                    distances = [loop_distance(box, truth) for box in both]
                    answers = distances.index(min(distances))
                chosen[b][row, column] = answers
                x1, y1, x2, y2 = truth
                wanted = (
                    (x1 + x2) / 2 / 64 - column, (y1 + y2) / 2 / 64 - row,
                    math.sqrt((x2 - x1) / CANVAS[1]), math.sqrt((y2 - y1) / CANVAS[0]),
                )  # fmt: skip
                for k, target in enumerate(wanted):
                    term(lambda_coord, target, *place, CLASSES + 5 * answers + k)
                term(1, ious[answers], *place, CLASSES + 5 * answers + 4)
            for j in range(2):
                if j != answers:
                    term(lambda_noobj, 0.0, *place, CLASSES + 5 * j + 4)
    return total, gradient, chosen


def loop_detections(grid, valid_size, threshold=0.001, nms_threshold=0.5, limit=30):
    """[(score, class, box)] of one image, the best first."""
    boxes, scores = [], []
    for row, column, j in np.ndindex(*GRID, 2):
        cell = grid[row, column]
        boxes.append([loop_corners(cell[CLASSES + 5 * j :][:4], row, column)])
        scores.append(cell[CLASSES + 5 * j + 4] * cell[:CLASSES])
    boxes, scores = np.array(boxes, "float32"), np.array(scores, "float32")
    height, width = valid_size
    found = sequential_class_nms(boxes, scores, nms_threshold, threshold, limit)
    return [(-score, kind, np.clip(boxes[i, 0], 0, [width, height] * 2)) for score, kind, i in found]


@pytest.fixture(params=backend.installed())
def answers(request, computed):
    """What a backend makes of the scene, eager and compiled."""
    grid, batch = scene()
    found = computed(request.param, "yolo_v1", {"grid": grid, **batch})
    return {mode: {key[len(mode) + 1 :]: found[key] for key in found if key.startswith(f"{mode}/")} for mode in MODES}


def test_the_scene_decides_what_it_is_about():
    _, batch = scene()
    cells = [loop_objects(*pair) for pair in zip(batch["boxes"], batch["classes"], strict=True)]
    assert cells[SHARED] == {(0, 1): 0, (1, 2): 2}
    assert cells[EDGES] == {(0, 2): 0, (1, 0): 1, (1, 2): 2, (0, 0): 3}
    assert cells[NO_AREA] == {(1, 2): 2}
    assert cells[EMPTY] == {}
    assert cells[TIED] == {(1, 1): 0}  # a centre where four cells meet
    chosen = loop_loss(*scene())[2]
    assert chosen[APART] == {(0, 0): 1, (1, 1): 0}  # without overlap
    assert chosen[TIED] == {(1, 1): 0}
    assert chosen[NEARER] == {(0, 0): 1}  # overlap counts, not distance
    assert set(chosen[SHARED].values()) | set(chosen[EDGES].values()) | set(chosen[RANDOM].values()) == {0, 1}


@pytest.mark.parametrize("mode", MODES)
def test_targets_are_those_of_the_loop(answers, mode):
    found = answers[mode]
    _, batch = scene()
    for b in range(8):
        objects = loop_objects(batch["boxes"][b], batch["classes"][b])
        for row, column in np.ndindex(*GRID):
            wanted = {name: found[f"targets/{name}"][b, row, column] for name in ("object", "classes", "boxes")}
            coordinates = found["targets/coordinates"][b, row, column]
            if (row, column) not in objects:
                assert (wanted["object"], wanted["classes"]) == (False, -1)
                assert not wanted["boxes"].any()
                assert not coordinates.any()
                continue
            index = objects[row, column]
            assert (wanted["object"], wanted["classes"]) == (True, batch["classes"][b, index])
            np.testing.assert_array_equal(wanted["boxes"], batch["boxes"][b, index])
            np.testing.assert_allclose(loop_corners(coordinates, row, column), wanted["boxes"], atol=1e-3)
            inside = (b, row, column) != (EDGES, 0, 0)  # whose centre is outside
            assert not inside or ((coordinates >= 0) & (coordinates <= 1)).all()


@pytest.mark.parametrize("mode", MODES)
def test_loss_and_gradient_are_those_of_the_loop(answers, mode):
    loss, gradient, chosen = loop_loss(*scene())
    found = answers[mode]
    assert float(found["loss"]) == pytest.approx(loss, rel=1e-5)
    np.testing.assert_allclose(found["gradient"], gradient, rtol=1e-4, atol=1e-5 * np.abs(gradient).max())
    for b, row, column, j in np.ndindex(*found["answers"].shape):
        assert found["answers"][b, row, column, j] == (chosen[b].get((row, column)) == j)


@pytest.mark.parametrize("mode", MODES)
def test_detections_are_those_of_the_loop(answers, mode):
    grid, batch = scene()
    counts = []
    for b in range(8):
        expected = loop_detections(grid[b], batch["valid_size"][b])
        found = {name: answers[mode][f"detect/{name}"][b] for name in ("boxes", "scores", "classes", "count")}
        counts.append(len(expected))
        assert found["count"] == len(expected)
        assert found["classes"].tolist() == [kind for _, kind, _ in expected] + [-1] * (30 - len(expected))
        np.testing.assert_allclose(found["scores"][: len(expected)], [score for score, _, _ in expected], rtol=1e-5)
        np.testing.assert_allclose(found["boxes"][: len(expected)], [box for _, _, box in expected], atol=1e-3)
        assert not found["boxes"][len(expected) :].any()
    assert 0 < counts[EMPTY] < 30 == max(counts)
    assert len(loop_detections(grid[EMPTY], CANVAS, nms_threshold=1.0)) > counts[EMPTY]


def test_weights_of_the_loss():
    grid, batch = scene()
    options = {"lambda_coord": 3.0, "lambda_noobj": 0.2}
    found = float(yolo_v1.loss({"grid": grid}, batch, **options))
    assert found == pytest.approx(loop_loss(grid, batch, **options)[0], rel=1e-5)
    assert found != pytest.approx(loop_loss(grid, batch)[0], rel=1e-2)


def test_gradient_is_finite_where_nothing_is_said():
    """All zeros: boxes without area at the cells' corners."""
    _, batch = scene()
    zeros = np.zeros((8, *GRID, CLASSES + 10), "float32")
    (loss,), (gradient,) = values_and_gradients(lambda grid: [yolo_v1.loss({"grid": grid}, batch)], [zeros])
    assert loss > 0
    assert np.isfinite(gradient).all()
    empty = batch | {"classes": np.full((8, 4), -1, "int32")}
    (loss,), (gradient,) = values_and_gradients(lambda grid: [yolo_v1.loss({"grid": grid}, empty)], [zeros])
    assert loss == 0
    assert not gradient.any()


def test_detect_finds_the_boxes_put_there():
    """The answer as Darknet writes it: a box, a worse double of it, another class' box there, one cut by the border of
    the picture, and one below the threshold."""
    cells, n = 6, 2
    answer = np.zeros((1, cells * (CLASSES + 10)), "float32")

    def put(cell, j, confidence, box, probabilities):
        row, column = divmod(cell, GRID[1])
        x1, y1, x2, y2 = box
        answer[0, cell * CLASSES : (cell + 1) * CLASSES] = probabilities
        answer[0, cells * CLASSES + cell * n + j] = confidence
        start = cells * (CLASSES + n) + (cell * n + j) * 4
        answer[0, start : start + 4] = (
            (x1 + x2) / 128 - column, (y1 + y2) / 128 - row,
            math.sqrt((x2 - x1) / CANVAS[1]), -math.sqrt((y2 - y1) / CANVAS[0]),
        )  # fmt: skip

    put(1, 0, 0.9, (70, 10, 120, 60), (0, 0.9, 0, 0.5))
    put(1, 1, 0.5, (72, 12, 120, 60), (0, 0.9, 0, 0.5))
    put(5, 1, 0.8, (140, 80, 200, 140), (0, 0, 1, 0))
    put(3, 0, 0.04, (10, 70, 50, 110), (0.02, 0, 0, 0))
    outputs = {"grid": yolo_v1.Grid(GRID, CLASSES)(answer)}
    batch = {"valid_size": np.array([[120, 180]], "int32")}
    found = {name: np.asarray(values)[0] for name, values in yolo_v1.detect(outputs, batch).items()}
    assert found["count"] == 3
    assert found["classes"][:4].tolist() == [1, 2, 3, -1]
    np.testing.assert_allclose(found["scores"][:3], [0.81, 0.8, 0.45], rtol=1e-6)
    expected = [(70, 10, 120, 60), (140, 80, 180, 120), (70, 10, 120, 60)]
    np.testing.assert_allclose(found["boxes"][:3], expected, atol=1e-3)
    assert found["boxes"].shape == (100, 4)
    lower = yolo_v1.detect(outputs, batch, score_threshold=0.0005, nms_threshold=0.95)
    assert int(lower["count"][0]) == 6


def test_a_narrow_network_learns_two_pictures():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 60, (2, 128, 128, 3)).astype("uint8")
    boxes = np.array([[(70, 10, 120, 50), (0, 0, 0, 0)], [(10, 66, 60, 126), (80, 80, 126, 110)]], "float32")
    classes = np.array([[2, -1], [1, 0]], "int32")
    for b, m in ((0, 0), (1, 0), (1, 1)):
        x1, y1, x2, y2 = boxes[b, m].astype(int)
        image[b, y1:y2, x1:x2, classes[b, m]] = 250
    batch = {"image": image, "boxes": boxes, "classes": classes, "valid_size": np.full((2, 2), 128, "int32")}
    keras.utils.set_random_seed(0)
    network = small("fast_yolo", (128, 128), width=1 / 8)
    network.get_layer("drop1").rate = 0  # or the few units hardly agree
    learner = DetectorLearner(network, yolo_v1.loss, {}, None, batch_size=2)
    learner.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=True)
    losses = [float(np.asarray(learner.train_on_batch(batch))) for _ in range(80)]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.02 * losses[0]
    detector = Detector(network, yolo_v1.detect, {"score_threshold": 0.3})
    found = backend.forward(detector, "xla")({name: keras.ops.convert_to_tensor(v) for name, v in batch.items()})
    for b, count in enumerate((1, 2)):
        assert int(found["count"][b]) == count
        for box, kind in zip(np.asarray(found["boxes"])[b, :count], np.asarray(found["classes"])[b], strict=False):
            overlaps = [loop_iou(box, truth) for truth in boxes[b]]
            assert max(overlaps) > 0.6
            assert kind == classes[b, overlaps.index(max(overlaps))]
