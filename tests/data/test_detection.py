"""Records of detection: boxes on the canvas and back, proposals beside them, and images that agree with their boxes
when they are mirrored."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import backend
from repro.data.base import Sample
from repro.data.cache import decoded
from repro.data.detection import Mirror, WithProposals, fit_boxes, fitting, rescale
from repro.data.shapes import Shapes
from repro.errors import ReproError
from tests.support.messages import one_line

SIDE = st.integers(8, 1200)
FLIPS = {"all": 0.0, "none": 0.99}
BACKGROUND, PADDING = 0, 116


def sample_of(boxes, size=(40, 80), **fields):
    boxes = np.array(boxes, "float32").reshape(-1, 4)
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype("uint8")
    return Sample("photo7", image, boxes=boxes, classes=np.arange(len(boxes), dtype="int32") + 3, **fields)


def drawn(boxes, sizes, canvas=(24, 40)):
    """A batch of one box an image: white inside its box, black around it, grey where the canvas is padded."""
    image = np.full((len(boxes), *canvas, 3), PADDING, "uint8")
    for picture, (x1, y1, x2, y2), (height, width) in zip(image, boxes, sizes, strict=True):
        picture[:height, :width] = BACKGROUND
        picture[y1:y2, x1:x2] = 255
    boxes = np.array(boxes, "float32")[:, None]
    empty = np.zeros_like(boxes)
    return {
        "image": image,
        "valid_size": np.array(sizes, "int32"),
        "boxes": np.concatenate([boxes, empty], axis=1),
        "classes": np.array([[0, -1]] * len(image), "int32"),
        "proposals": np.concatenate([boxes + np.array([0, 0, 1, 1], "float32"), empty], axis=1),
        "proposal_valid": np.array([[True, False]] * len(image)),
    }


def arrays_of(batch):
    return {name: keras.ops.convert_to_numpy(values) for name, values in batch.items()}


@pytest.fixture
def flip(monkeypatch):
    """Sets which images `Mirror` turns: "all", "none" or one number for each, below 0.5 being turned."""

    def force(draws):
        value = FLIPS.get(draws, draws) if isinstance(draws, str) else np.array(draws, "float32")[:, None]
        monkeypatch.setattr(keras.random, "uniform", lambda shape, **_: keras.ops.zeros(shape) + value)

    return force


# the canvas


def test_the_image_is_fitted_and_its_boxes_with_it():
    """40x80 on a canvas of 30x40: halved to 20x40, with 10 rows of padding."""
    record = fit_boxes(sample_of([[10, 4, 30, 20], [0, 0, 80, 40]]), (30, 40), max_boxes=4)
    assert record.keys() == {"image", "valid_size", "original_size", "boxes", "classes"}
    kinds = {name: (array.shape, str(array.dtype)) for name, array in record.items()}
    assert kinds == {
        "image": ((30, 40, 3), "uint8"), "valid_size": ((2,), "int32"), "original_size": ((2,), "int32"),
        "boxes": ((4, 4), "float32"), "classes": ((4,), "int32"),
    }  # fmt: skip
    assert (record["valid_size"].tolist(), record["original_size"].tolist()) == ([20, 40], [40, 80])
    assert record["boxes"].tolist() == [[5, 2, 15, 10], [0, 0, 40, 20], [0] * 4, [0] * 4]
    assert record["classes"].tolist() == [3, 4, -1, -1]
    assert (record["image"][20:] == PADDING).all()
    assert record["image"][:20].std() > 10


def test_difficult_and_crowd_objects_are_left_out():
    boxes = [[index, 0, index + 5, 5] for index in range(4)]
    flags = {"difficult": np.array([1, 0, 0, 0], bool), "crowd": np.array([0, 0, 1, 0], bool)}
    kept = {(): [3, 4, 5, 6], ("difficult",): [4, 5, 6], ("crowd",): [3, 4, 6], ("difficult", "crowd"): [4, 6]}
    for names, classes in kept.items():
        record = fit_boxes(sample_of(boxes, **{name: flags[name] for name in names}), (40, 80), max_boxes=4)
        assert record["classes"].tolist() == classes + [-1] * (4 - len(classes))
        assert record["boxes"][: len(classes), 0].tolist() == [kind - 3 for kind in classes]
        assert not record["boxes"][len(classes) :].any()


def test_an_image_may_have_no_object():
    record = fit_boxes(sample_of([]), (32, 32), max_boxes=2)
    assert record["classes"].tolist() == [-1, -1]
    assert not record["boxes"].any()


def test_too_many_objects_are_refused_and_difficult_ones_do_not_count():
    boxes = [[0, 0, 5, 5]] * 3
    with pytest.raises(ReproError) as error:
        fit_boxes(sample_of(boxes), (32, 32), max_boxes=2)
    one_line(error, "photo7 has 3 objects", "the 2 boxes", "max_boxes to 3")
    difficult = np.array([True, False, False])
    assert fit_boxes(sample_of(boxes, difficult=difficult), (32, 32), max_boxes=2)["classes"].tolist() == [4, 5]


def test_records_of_a_data_set_are_cached_by_their_number_of_boxes():
    data = Shapes(image_size=(40, 56), train_size=3, val_size=1, test_size=1)
    (name, fit), (other, _) = fitting(8), fitting(9)
    assert name != other
    records = decoded(data, "train", (32, 48), name, fit=fit)
    for index in range(3):
        expected = fit_boxes(data.sample("train", index), (32, 48), 8)
        assert records[index].keys() == expected.keys()
        for key, array in expected.items():
            np.testing.assert_array_equal(records[index][key], array)
        assert (records[index]["classes"] >= 0).any()


@given(SIDE, SIDE, SIDE, SIDE, st.integers(0, 10**6))
def test_rescaled_boxes_come_back(height, width, canvas_height, canvas_width, seed):
    """To the canvas and back, they are within a thousandth of the image of where they were."""
    source, target = np.array([height, width]), np.array([canvas_height, canvas_width])
    corners = np.sort(np.random.default_rng(seed).uniform(0, 1, (5, 2, 2)), axis=1).reshape(5, 4)
    boxes = (corners * np.tile(source[::-1], 2)).astype("float32")
    there = rescale(boxes, source, target)
    assert (there.shape, there.dtype) == (boxes.shape, "float32")
    np.testing.assert_allclose(there / np.tile(target[::-1], 2), corners, atol=1e-5)
    np.testing.assert_allclose(rescale(there, target, source), boxes, atol=1e-5 * max(height, width))


@given(st.lists(st.floats(-50, 150, width=32), min_size=4, max_size=4), SIDE, SIDE)
def test_rescaled_boxes_lie_inside(box, height, width):
    """A detection may reach over the border, and rounding may push one there."""
    found = rescale(np.array([box], "float32"), np.array([60, 100]), np.array([height, width]))[0]
    expected = [np.clip(c * n / m, 0, n) for c, n, m in zip(box, (width, height) * 2, (100, 60) * 2, strict=True)]
    assert (found >= 0).all()
    assert (found <= [width, height] * 2).all()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)


def test_no_boxes_rescale_to_none():
    assert rescale(np.zeros((0, 4), "float32"), np.array([4, 4]), np.array([8, 8])).shape == (0, 4)


# proposals


@pytest.mark.parametrize(("count", "found"), [(5, 3), (3, 3), (2, 3), (2, 0)], ids=["few", "enough", "many", "none"])
def test_proposals_join_their_records(count, found):
    record = fit_boxes(sample_of([[10, 4, 30, 20]]), (30, 40), max_boxes=2)
    before = {name: array.copy() for name, array in record.items()}
    boxes = np.array([[10, 4, 30, 20], [0, 0, 80, 40], [60, 30, 90, 50]], "float32")[:found]
    expected = [[5, 2, 15, 10], [0, 0, 40, 20], [30, 15, 40, 20]]  # halved, and the last one cut
    records = WithProposals([record, record], [boxes[:1], boxes], count)
    joined, kept = records[1], min(count, found)
    assert len(records) == 2
    assert joined["proposals"].dtype == "float32"
    assert joined["proposals"].tolist() == expected[:kept] + [[0] * 4] * (count - kept)
    assert joined["proposal_valid"].tolist() == [True] * kept + [False] * (count - kept)
    assert joined.keys() - {"proposals", "proposal_valid"} == before.keys() == record.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(joined[name], array)
    assert records[0]["proposal_valid"].sum() == min(found, 1)


# mirror images


BOXES = [[3, 2, 11, 9], [0, 0, 40, 24], [20, 5, 30, 20], [1, 0, 2, 1]]
SIZES = [(24, 40), (24, 40), (20, 31), (17, 3)]


def assert_agree(batch):
    """The white pixels of each image are those of its box, its valid part is black else, and the rest padding."""
    for image, boxes, (height, width) in zip(batch["image"], batch["boxes"], batch["valid_size"], strict=True):
        x1, y1, x2, y2 = boxes[0].astype(int)
        expected = np.full_like(image, PADDING)
        expected[:height, :width] = BACKGROUND
        expected[y1:y2, x1:x2] = 255
        np.testing.assert_array_equal(image, expected)
        assert 0 <= x1 < x2 <= width


def test_image_and_boxes_are_mirrored_together(flip):
    flip("all")
    batch = drawn(BOXES, SIZES)
    turned = arrays_of(Mirror(0)(batch))
    assert_agree(turned)
    assert turned["boxes"][:, 0].tolist() == [[29, 2, 37, 9], [0, 0, 40, 24], [1, 5, 11, 20], [1, 0, 2, 1]]
    width = turned["valid_size"][:, 1]
    for name in ("boxes", "proposals"):
        np.testing.assert_array_equal(turned[name][:, 0, 0], width - batch[name][:, 0, 2])
        np.testing.assert_array_equal(turned[name][:, 0, 2], width - batch[name][:, 0, 0])
        np.testing.assert_array_equal(turned[name][:, :, 1::2], batch[name][:, :, 1::2])
        padding = turned[name][:, 1]
        assert (padding[:, 2] == padding[:, 0]).all()  # still without area
    for name in ("classes", "valid_size", "proposal_valid"):
        np.testing.assert_array_equal(turned[name], batch[name])


def test_every_pixel_of_the_valid_part_is_mirrored_and_no_other(flip):
    flip("all")
    batch = drawn(BOXES, SIZES)
    batch["image"] = np.random.default_rng(0).integers(0, 256, batch["image"].shape).astype("uint8")
    turned = arrays_of(Mirror(0)(batch))["image"]
    for found, image, (_, width) in zip(turned, batch["image"], SIZES, strict=True):
        np.testing.assert_array_equal(found[:, :width], image[:, :width][:, ::-1])
        np.testing.assert_array_equal(found[:, width:], image[:, width:])


def test_mirrored_twice_is_as_before(flip):
    flip("all")
    mirror, batch = Mirror(0), drawn(BOXES, SIZES)
    twice = arrays_of(mirror(mirror(batch)))
    for name, values in batch.items():
        np.testing.assert_array_equal(twice[name], values)


def test_each_image_is_turned_by_itself(flip):
    flip([0.49, 0.5, 0.1, 0.9])
    batch = drawn(BOXES, SIZES)
    mixed = arrays_of(Mirror(0)(batch))
    flip("all")
    turned = arrays_of(Mirror(0)(batch))
    flip("none")
    same = arrays_of(Mirror(0)(batch))
    for name in ("image", "boxes", "proposals"):
        np.testing.assert_array_equal(same[name], batch[name])
        for index, source in enumerate((turned, same, turned, same)):
            np.testing.assert_array_equal(mixed[name][index], source[name][index])


def test_a_batch_without_proposals_needs_none(flip):
    flip("all")
    batch = drawn(BOXES, SIZES)
    del batch["proposals"], batch["proposal_valid"]
    turned = arrays_of(Mirror(0)(batch))
    assert turned.keys() == batch.keys()
    assert_agree(turned)


def turned_by(mirror, calls=10, images=40):
    batch = drawn([[0, 0, 2, 2]] * images, [(4, 8)] * images, canvas=(4, 8))
    return [mirror(batch)["boxes"][:, 0, 0] == 6 for _ in range(calls)]


def test_about_half_are_turned_and_others_each_time():
    turned = np.array(turned_by(Mirror(1)))
    assert 160 < turned.sum() < 240  # four standard deviations
    assert len({tuple(row) for row in turned.tolist()}) == len(turned)


def test_the_seed_decides_which():
    first, again, other = (np.array(turned_by(Mirror(seed), calls=2)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_compiled_it_does_the_same():
    backend.set_precision("float32")
    mirror = Mirror(3)

    class Turned(keras.Model):
        def __init__(self):
            super().__init__()
            self.generator, self.built = mirror.generator, True  # the generator's state belongs to the program

        def call(self, batch, training=False):
            return mirror(batch)

    run, batch = backend.forward(Turned(), "xla"), drawn(BOXES[:1] * 12, SIZES[:1] * 12)
    found = arrays_of(run({name: keras.ops.convert_to_tensor(values) for name, values in batch.items()}))
    assert_agree(found)
    assert len(np.unique(found["boxes"][:, 0], axis=0)) == 2
