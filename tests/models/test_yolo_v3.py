"""YOLO v3 against loops in the manner of Darknet and its paper's figures: assignment, loss and its gradient, decoding,
detections; eager and compiled, here and on the other backend in a process of its own."""

import functools
import math

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.errors import ReproError
from repro.experiments.architectures import describe
from repro.models import darknet, yolo_v3
from repro.models.darknet import Answer, Conv, Route, Shortcut, Upsample
from repro.tasks.learners import DetectorLearner
from tests.parity.networks import fill
from tests.parity.yolo_v3 import CASES, EAGER_CASES, MODES, SCALES, SMALL, computed
from tests.reference.boxes import loop_iou
from tests.reference.nms import sequential_class_nms

CLASSES, SIZE, IMAGES, MAX_BOXES = 3, (64, 96), 4, 6
GRIDS = {"stride32": (2, 3), "stride16": (4, 6), "stride8": (8, 12)}
MASKS = {"stride32": (6, 7, 8), "stride16": (3, 4, 5), "stride8": (0, 1, 2)}
TINY = {"num_classes": CLASSES, "width": 1 / 16, "depth": 0.01, "channels": 3}


@pytest.fixture(autouse=True)
def _precision():
    """Full float32, on accelerators too."""
    backend.set_precision("float32")


@pytest.fixture
def sketch(weightless):
    """Builds a network of any size without its memory; settings as for `registry.build`."""

    def build(**settings):
        return weightless(registry.build, "yolo_v3", **settings)

    return build


# the network


@pytest.mark.parametrize(("classes", "params"), [(80, 61_949_149), (20, 61_626_049)])
def test_parameters_of_the_paper(classes, params):
    card = describe("yolo_v3", num_classes=classes)
    assert (card["params"], card["running_stats"], card["conv_layers"]) == (params, 52_608, 75)
    channels = 3 * (5 + classes)
    assert card["outputs"] == {
        "stride32": [13, 13, channels], "stride16": [26, 26, channels], "stride8": [52, 52, channels]
    }  # fmt: skip
    if classes == 80:
        assert card["flops"] / 1e9 == pytest.approx(65.86, abs=0.06)  # Darknet's count of the .cfg at 416


def test_rows_are_those_of_the_cfg():
    rows = yolo_v3.rows(80)
    assert len(rows) == 107
    labels = {row.label: index for index, row in enumerate(rows) if row.label}
    assert len(labels) == sum(bool(row.label) for row in rows)  # nothing is called twice
    assert (labels["stride8"], labels["stride16"]) == (36, 61)
    assert [index for index, row in enumerate(rows) if isinstance(row, Answer)] == [82, 94, 106]
    routes = {i: [labels[source] for source in row.sources] for i, row in enumerate(rows) if isinstance(row, Route)}
    assert routes == {83: [79], 86: [85, 61], 95: [91], 98: [97, 36]}
    assert all(isinstance(rows[index], Upsample) for index in (85, 97))
    assert sum(isinstance(row, Shortcut) for row in rows) == 23
    convolutions = [row for row in rows if isinstance(row, Conv)]
    backbone = [row for row in darknet.darknet53_rows() if isinstance(row, Conv)]
    assert convolutions[:52] == backbone
    heads = [(row.size, row.filters) for row in convolutions[52:]]
    assert heads[:7] == [(1, 512), (3, 1024)] * 3 + [(1, 255)]
    assert heads[7:15] == [(1, 256), *[(1, 256), (3, 512)] * 3, (1, 255)]
    assert heads[15:] == [(1, 128), *[(1, 128), (3, 256)] * 3, (1, 255)]
    assert [row.norm for row in convolutions].count(False) == 3
    assert [row.fixed for row in convolutions].count(True) == 3


def test_sections_of_the_answers():
    sections = [dict(row.settings) for row in yolo_v3.rows(20) if isinstance(row, Answer)]
    assert [section["mask"] for section in sections] == ["6,7,8", "3,4,5", "0,1,2"]
    expected = "10,13,  16,30,  33,23,  30,61,  62,45,  59,119,  116,90,  156,198,  373,326"
    for section in sections:
        assert section["anchors"] == expected
        assert (section["classes"], section["num"], section["ignore_thresh"]) == (20, 9, 0.5)
    other = [dict(row.settings) for row in yolo_v3.rows(20, anchors=SMALL) if isinstance(row, Answer)]
    assert other[0]["anchors"].startswith("6,8,  10,7,")


def test_depth_keeps_a_share_of_every_group():
    def count(depth):
        return sum(isinstance(row, Conv) for row in yolo_v3.rows(CLASSES, depth=depth))

    assert count(0.01) == 1 + 5 * 3 + 3 * 3 + 2
    assert count(0.5) == 1 + 5 + 2 * (1 + 1 + 4 + 4 + 2) + 3 * (2 * 2 + 1) + 2


def test_backbone_is_darknet_53_by_name(sketch):
    with keras.StatelessScope(initialize_variables=False):
        classifier = registry.build("darknet53", input_size=(64, 64))
    detector = sketch(input_size=(64, 64))
    for number in range(1, 53):
        for name in (f"conv{number}", f"bn{number}"):
            mine, theirs = ([v.shape for v in model.get_layer(name).weights] for model in (detector, classifier))
            assert mine == theirs
    assert classifier.get_layer("conv53").kernel.shape != detector.get_layer("conv53").kernel.shape


@pytest.mark.parametrize("size", [(64, 80), (33, 64), (0, 32)])
def test_sizes_that_32_does_not_divide_are_refused(size):
    with pytest.raises(ReproError, match=f"yolo_v3 cannot take {size[0]}x{size[1]} images. give a height"):
        registry.build("yolo_v3", input_size=size)


@pytest.mark.parametrize("anchors", [SMALL[:8], (*SMALL[:8], (0, 5)), [1] * 9], ids=["8", "no-area", "numbers"])
def test_impossible_anchors_are_refused(anchors):
    with pytest.raises(ReproError, match=r"are impossible\. give 9 of a width and a height"):
        registry.build("yolo_v3", anchors=anchors)


@pytest.fixture(scope="module")
def networks():
    """The same small network for one size and for all."""
    found = {}
    for name, options in {"fixed": {}, "open": {"multi_scale": True, "anchors": SMALL}}.items():
        found[name] = registry.build("yolo_v3", input_size=SIZE, **TINY, **options)
        fill(found[name])
    return found


def test_one_network_at_several_sizes(networks):
    assert networks["open"].inputs[0].shape == (None, None, None, 3)
    image = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype("float32")
    for height in (64, 96):
        found = networks["open"]({"image": image[:, :height]})
        for name in SCALES:
            stride = int(name[6:])
            assert found[name].shape == (2, height // stride, 96 // stride, 3 * (5 + CLASSES))
        assert yolo_v3.size_of(found) == (height, 96)
        if height == SIZE[0]:
            expected = networks["fixed"]({"image": image[:, :height]})
            for name in SCALES:
                np.testing.assert_allclose(found[name], expected[name], rtol=1e-5, atol=1e-5)


# assignment, loss and gradient


def scene(case, seed=1):
    """Raw answers and objects. Image 0 has objects that several priors fit, image 1 three in one place and three
    whose centres lie on edges, image 2 some without area, image 3 none; padding stands between objects, and has boxes.
    """
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, (height, width) in GRIDS.items():
        raw = rng.normal(0, 1, (IMAGES, height, width, 3, 5 + CLASSES))
        raw[..., :4] *= 0.3
        arrays[name] = raw.reshape(IMAGES, height, width, -1).astype("float32")
    sides = rng.uniform(6, 60, (IMAGES, MAX_BOXES, 2))
    corner = rng.uniform(0, 1, sides.shape) * (np.array(SIZE[::-1]) - sides)
    boxes = np.concatenate([corner, corner + sides], axis=-1)
    boxes[0, [0, 2, 3, 5]] = [13, 6, 79, 62], [64, 2, 96, 46], [15.5, 30, 32.5, 50], [63.5, 7.5, 72.5, 16.5]
    boxes[3] = boxes[0]  # all of it padding: must not make the boxes that overlap it ignored
    boxes[1, [0, 2, 4]] = [20, 20, 36, 46], [21, 20, 37, 47], [20, 21, 36, 46]
    boxes[1, [1, 3, 5]] = [88, 10, 104, 36], [30, 54, 48, 74], [90, 56, 102, 72]
    boxes[2, :4] = [10, 10, 10, 30], [40, 20, 30, 30], [0, 0, 0, 0], [50, 30, 70, 30]
    classes = rng.integers(0, CLASSES, (IMAGES, MAX_BOXES))
    classes[0, [1, 4]], classes[1, [0, 2, 4]], classes[2, 4:], classes[3] = -1, (0, 2, 0), -1, -1
    valid_size = np.array([SIZE, SIZE, (50, 70), SIZE], "int32")
    return {
        **arrays, "boxes": boxes.astype("float32"), "classes": classes.astype("int32"), "valid_size": valid_size
    }  # fmt: skip


def shape_iou(a, b, apart=(0.0, 0.0)):
    """IoU of boxes of (width, height) whose centres are `apart`."""
    shared = 1.0
    for axis in (0, 1):
        high = min(a[axis] / 2, apart[axis] + b[axis] / 2)
        shared *= max(0.0, high - max(-a[axis] / 2, apart[axis] - b[axis] / 2))
    return shared / (a[0] * a[1] + b[0] * b[1] - shared)


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def cross_entropy(logit, label):
    p = sigmoid(logit)
    return -label * math.log(p) - (1 - label) * math.log(1 - p)


def places():
    """(stride's name, row, column, prior) of every box in the order of the list."""
    return [
        (name, j, i, n)
        for name, (height, width) in GRIDS.items() for j in range(height) for i in range(width) for n in range(3)
    ]  # fmt: skip


def loop_decode(values, place, anchors):
    """Section 2.1: centre and sides of a box, all relative to the image."""
    name, j, i, n = place
    height, width = GRIDS[name]
    anchor = anchors[MASKS[name][n]]
    centre = (i + sigmoid(values[0])) / width, (j + sigmoid(values[1])) / height
    sides = anchor[0] * math.exp(values[2]) / SIZE[1], anchor[1] * math.exp(values[3]) / SIZE[0]
    return centre, sides


def loop_image(raw, objects, anchors, ignore):
    """forward_yolo_layer of src/yolo_layer.c for one image, raw {place: values}: (loss, gradient {place: values}, which
    place each object has, its x, y, w, h there, the classes of the places, which places overlap an object,
    how far the nearest decision is)."""
    loss, gradient, ignored, margin = 0.0, {}, set(), 1.0
    for place, values in raw.items():
        centre, sides = loop_decode(values, place, anchors)
        overlaps = [shape_iou(sides, o[1], (o[0][0] - centre[0], o[0][1] - centre[1])) for o in objects if o]
        best = max(overlaps, default=0.0)
        margin = min(margin, abs(best - ignore))
        gradient[place] = [0.0] * len(values)
        if best <= ignore:
            gradient[place][4] = sigmoid(values[4])
        else:
            ignored.add(place)
    found, coordinates, kinds = [], {}, {}
    for item in objects:
        if item is None:
            found.append(None)
            continue
        centre, sides, kind = item
        pixels = sides[0] * SIZE[1], sides[1] * SIZE[0]
        ious = [shape_iou(anchor, pixels) for anchor in anchors]
        margin = min(margin, np.diff(sorted(ious))[-1])
        best = ious.index(max(ious))
        name = next(name for name in SCALES if best in MASKS[name])
        height, width = GRIDS[name]
        i, j = min(int(centre[0] * width), width - 1), min(int(centre[1] * height), height - 1)
        place = name, j, i, MASKS[name].index(best)
        t = centre[0] * width - i, centre[1] * height - j, *(math.log(pixels[k] / anchors[best][k]) for k in (0, 1))
        found.append((place, t))
        coordinates[place] = t, 2 - sides[0] * sides[1]  # later objects overwrite
        kinds.setdefault(place, set()).add(kind)
    for place, (t, weight) in coordinates.items():
        values, slope = raw[place], gradient[place]
        for k in (0, 1):
            slope[k] = weight * (sigmoid(values[k]) - t[k])
            loss += weight * cross_entropy(values[k], t[k])
        for k in (2, 3):
            slope[k] = weight * (values[k] - t[k])
            loss += weight * (values[k] - t[k]) ** 2 / 2
        slope[4] = sigmoid(values[4]) - 1
        for kind in range(CLASSES):
            slope[5 + kind] = sigmoid(values[5 + kind]) - (kind in kinds[place])
            loss += cross_entropy(values[5 + kind], float(kind in kinds[place]))
    for place, values in raw.items():
        if place in coordinates:
            loss += cross_entropy(values[4], 1.0)
        elif place not in ignored:
            loss += cross_entropy(values[4], 0.0)
    return loss, gradient, found, kinds, ignored, margin


@functools.cache
def expected(case):
    """The scene of a case, the loop's answer for each of its images, and raw answers as lists by place."""
    arrays, options = scene(case), CASES[case]
    anchors = [tuple(map(float, pair)) for pair in options.get("anchors", yolo_v3.ANCHORS)]
    images, raws = [], []
    for b in range(IMAGES):
        raw = {}
        for place in places():
            name, j, i, n = place
            start = n * (5 + CLASSES)
            raw[place] = arrays[name][b, j, i, start : start + 5 + CLASSES].astype("float64").tolist()
        objects = []
        for (x1, y1, x2, y2), kind in zip(arrays["boxes"][b].astype("float64"), arrays["classes"][b], strict=True):
            real = kind >= 0 and x2 > x1 and y2 > y1
            centre = (x1 + x2) / 2 / SIZE[1], (y1 + y2) / 2 / SIZE[0]
            objects.append((centre, ((x2 - x1) / SIZE[1], (y2 - y1) / SIZE[0]), int(kind)) if real else None)
        raws.append(raw)
        images.append(loop_image(raw, objects, anchors, options.get("ignore", 0.5)))
    return arrays, images, raws


@functools.cache
def found_here(case, mode):
    return computed(expected(case)[0], CASES[case], mode)


RUNS = [(case, mode) for case in CASES for mode in MODES if mode == "xla" or case in EAGER_CASES]


@pytest.fixture
def elsewhere(computed):
    """What the other backend computes of every case, or nothing where there is none."""
    others = [name for name in backend.installed() if name != backend.default()]
    if not others:
        pytest.skip("one backend alone is installed")
    arrays = {f"{case}/{k}": v for case in CASES for k, v in expected(case)[0].items()}
    return computed(others[0], "yolo_v3", arrays)


def check(case, found):
    """Everything one backend computed of a case against the loop."""
    _, images, raws = expected(case)
    order = {place: index for index, place in enumerate(places())}
    assert found["loss"] == pytest.approx(np.mean([image[0] for image in images]), rel=1e-5)
    for name, (height, width) in GRIDS.items():
        gradients = [
            [[[image[1][name, j, i, n] for n in range(3)] for i in range(width)] for j in range(height)]
            for image in images
        ]
        gradients = np.reshape(gradients, found[name].shape) / IMAGES
        np.testing.assert_allclose(found[name], gradients, rtol=1e-4, atol=1e-6)
    for b, (_, _, objects, kinds, _, _) in enumerate(images):
        taught = {}
        for m, item in enumerate(objects):
            assert found["truth/valid"][b, m] == (item is not None)
            if item is None:
                continue
            place, t = item
            assert found["truth/index"][b, m] == order[place]
            np.testing.assert_allclose(found["truth/t"][b, m], t, rtol=1e-4, atol=1e-5)
            assert set(np.flatnonzero(found["truth/labels"][b, m])) == kinds[place]
            taught[place] = m
        assert set(np.flatnonzero(found["truth/taught"][b])) == set(taught.values())
        anchors = CASES[case].get("anchors", yolo_v3.ANCHORS)
        for (place, values), box in zip(raws[b].items(), found["decoded"][b], strict=True):
            centre, sides = (np.array(pair) * SIZE[::-1] for pair in loop_decode(values, place, anchors))
            np.testing.assert_allclose(box, [*(centre - sides / 2), *(centre + sides / 2)], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("case", "mode"), RUNS)
def test_assignment_loss_and_gradient_are_those_of_darknet(case, mode):
    check(case, found_here(case, mode))


@pytest.mark.parametrize(("case", "mode"), RUNS)
def test_the_other_backend_agrees(elsewhere, case, mode):
    found = {k.removeprefix(f"{case}/{mode}/"): v for k, v in elsewhere.items() if k.startswith(f"{case}/{mode}/")}
    check(case, found)
    mine = found_here(case, mode)
    for name in ("found/count", "found/classes"):
        np.testing.assert_array_equal(found[name], mine[name])
    np.testing.assert_allclose(found["found/scores"], mine["found/scores"], rtol=1e-4)
    np.testing.assert_allclose(found["found/boxes"], mine["found/boxes"], rtol=1e-4, atol=1e-3)


def test_the_scenes_hold_what_they_are_for():
    for case in CASES:
        _, images, _ = expected(case)
        assert min(image[5] for image in images) > 1e-5  # nothing is decided by rounding
        places_of = [[item[0] for item in image[2] if item] for image in images]
        assert len(places_of[1]) - len(set(places_of[1])) == 2  # three in one place
        assert list(map(len, places_of)) == [4, 6, 0, 0]
        edge = {axis: [item[1][axis] for item in images[1][2]] for axis in (0, 1)}
        assert [edge[axis].count(1.0) for axis in (0, 1)] == [2, 2]
    _, images, _ = expected("small")
    near, strict = (sum(len(image[4]) for image in expected(case)[1]) for case in ("small", "strict"))
    assert near > 3
    assert strict > near + 10
    assert any(place in image[4] for image in images for place in image[3])  # an object's own box is never ignored
    shared = [kinds for image in images for kinds in image[3].values() if len(kinds) > 1]
    assert shared == [{0, 2}]
    scales = {item[0][0] for image in images for item in image[2] if item}
    assert scales == set(SCALES)


def test_images_without_objects_teach_that_nothing_is_there():
    arrays = expected("small")[0]
    alone = {name: values[2:] for name, values in arrays.items()}
    found = computed(alone, CASES["small"], "eager")
    assert np.isfinite(found["loss"])
    for name in SCALES:
        gradient = found[name].reshape(2, -1, 5 + CLASSES)
        assert (gradient[..., 4] > 0).all()
        assert not np.delete(gradient, 4, axis=-1).any()


def test_large_answers_have_a_finite_loss_and_gradient():
    arrays = {name: values * 30 if name in SCALES else values for name, values in expected("small")[0].items()}
    found = computed(arrays, CASES["small"], "eager")
    assert all(np.isfinite(found[name]).all() for name in ("loss", *SCALES))


# detections


def test_detections_are_those_of_the_loop():
    arrays, _, raws = expected("small")
    found = found_here("small", "eager")
    assert (found["found/count"] > 5).all()
    for b, raw in enumerate(raws):
        best = sorted(enumerate(raw.values()), key=lambda item: -item[1][4])[:60]
        height, width = arrays["valid_size"][b]
        boxes = np.clip(found["decoded"][b, [index for index, _ in best]], 0, [width, height] * 2)
        scores = np.array([[sigmoid(v[4]) * sigmoid(p) for p in v[5:]] for _, v in best], "float32")
        inside = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        assert inside.all() == (b != 2)  # some lie in the padding
        detections = sequential_class_nms(boxes[:, None], scores * inside[:, None], 0.45, 0.1, 30)
        assert found["found/count"][b] == len(detections)
        for d, (score, kind, index) in enumerate(detections):
            assert found["found/classes"][b, d] == kind
            assert found["found/scores"][b, d] == pytest.approx(-score, rel=1e-5)
            np.testing.assert_allclose(found["found/boxes"][b, d], boxes[index], atol=1e-3)
        assert (found["found/classes"][b, len(detections) :] == -1).all()


def logit(p):
    return math.log(p / (1 - p))


def blank():
    return {name: np.full((1, *grid, 3, 5 + CLASSES), -12, "float32") for name, grid in GRIDS.items()}


def put(answers, box, kind, objectness, probability, place, anchors=yolo_v3.ANCHORS):
    """Answer with a box at a place that holds its centre."""
    name, j, i, n = place
    stride, anchor = int(name[6:]), anchors[MASKS[name][n]]
    x, y = (box[0] + box[2]) / 2 / stride - i, (box[1] + box[3]) / 2 / stride - j
    values = [logit(x), logit(y), *(math.log((box[k + 2] - box[k]) / anchor[k]) for k in (0, 1)), logit(objectness)]
    answers[name][0, j, i, n, :5] = values
    answers[name][0, j, i, n, 5 + kind] = logit(probability)


def detections(answers, valid_size=SIZE, **options):
    outputs = {name: values.reshape(*values.shape[:3], -1) for name, values in answers.items()}
    found = yolo_v3.detect(outputs, {"valid_size": np.array([valid_size], "int32")}, **options)
    return {name: keras.ops.convert_to_numpy(values)[0] for name, values in found.items()}


def test_boxes_are_found_where_they_were_put():
    answers = blank()
    put(answers, (5, 6, 75, 60), 2, 0.9, 0.8, ("stride32", 1, 1, 0))
    put(answers, (30, 20, 60, 51), 0, 0.99, 0.9, ("stride16", 2, 2, 1))
    put(answers, (31, 20, 60, 50), 0, 0.7, 0.9, ("stride16", 2, 2, 0))  # the same object: suppressed
    put(answers, (31, 20, 60, 52), 1, 0.6, 0.9, ("stride16", 2, 2, 2))  # another class: not
    put(answers, (84, 50, 95, 66), 1, 0.5, 0.5, ("stride8", 7, 11, 0))  # partly outside
    put(answers, (2, 2, 9, 9), 1, 0.06, 0.06, ("stride8", 0, 0, 1))  # below the threshold
    found = detections(answers)
    assert found["count"] == 4
    np.testing.assert_array_equal(found["classes"][:5], [0, 2, 1, 1, -1])
    np.testing.assert_allclose(found["scores"][:5], [0.891, 0.72, 0.54, 0.25, 0], rtol=1e-4)
    expected = [(30, 20, 60, 51), (5, 6, 75, 60), (31, 20, 60, 52), (84, 50, 95, 64), (0, 0, 0, 0)]
    np.testing.assert_allclose(found["boxes"][:5], expected, atol=1e-3)
    assert found["boxes"].shape == (100, 4)
    assert detections(answers, score_threshold=0.003)["count"] == 5
    assert detections(answers, nms_threshold=0.99)["count"] == 5
    assert detections(answers, max_detections=2)["count"] == 2
    assert detections(answers, candidates=1)["count"] == 1


def test_boxes_end_where_the_picture_does():
    answers = blank()
    put(answers, (30, 20, 60, 51), 0, 0.9, 0.9, ("stride16", 2, 2, 1))
    put(answers, (62, 40, 90, 60), 1, 0.9, 0.8, ("stride16", 3, 4, 1))  # in the padding
    found = detections(answers, valid_size=(40, 50))
    assert found["count"] == 1
    np.testing.assert_allclose(found["boxes"][0], (30, 20, 50, 40), atol=1e-3)


def test_anchors_change_the_boxes():
    answers = blank()
    put(answers, (30, 20, 60, 51), 0, 0.9, 0.9, ("stride16", 2, 2, 1), SMALL)
    np.testing.assert_allclose(detections(answers, anchors=SMALL)["boxes"][0], (30, 20, 60, 51), atol=1e-3)
    assert np.abs(detections(answers)["boxes"][0] - (30, 20, 60, 51)).max() > 1


# training


def test_learns_two_pictures_by_heart():
    """Bright rectangles on grey, of two classes."""
    boxes = np.array([[[6, 10, 30, 40], [40, 30, 60, 60]], [[20, 4, 50, 28], [0, 0, 0, 0]]], "float32")
    classes = np.array([[0, 1], [1, -1]], "int32")
    image = np.full((2, 64, 64, 3), 90, "uint8")
    for b, m in np.argwhere(classes >= 0):
        x1, y1, x2, y2 = boxes[b, m].astype(int)
        image[b, y1:y2, x1:x2] = (250, 30, 30) if classes[b, m] else (30, 60, 250)
    batch = {"image": image, "valid_size": np.full((2, 2), 64, "int32"), "boxes": boxes, "classes": classes}
    backend.set_seed(0)
    network = registry.build("yolo_v3", input_size=(64, 64), **{**TINY, "num_classes": 2})
    options = {"anchors": SMALL}
    learner = DetectorLearner(network, yolo_v3.loss, options, None, batch_size=2)
    learner.compile(optimizer=keras.optimizers.Adam(1e-2), jit_compile=True)
    losses = [float(learner.train_on_batch(batch)) for _ in range(90)]
    assert losses[-1] < 0.1 * losses[0]
    found = yolo_v3.detect(network({"image": image.astype("float32")}), batch, **options)
    found = {name: keras.ops.convert_to_numpy(values) for name, values in found.items()}
    for b, m in np.argwhere(classes >= 0):
        overlaps = [
            loop_iou(boxes[b, m], box)
            for box, kind, score in zip(found["boxes"][b], found["classes"][b], found["scores"][b], strict=True)
            if kind == classes[b, m] and score > 0.3
        ]
        assert max(overlaps, default=0) > 0.5
