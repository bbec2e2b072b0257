"""Augmentation against plain loops and SciPy, on the numbers that it drew itself."""

import itertools
import math

import keras
import numpy as np
import pytest
from keras import ops
from scipy.interpolate import CubicHermiteSpline
from scipy.ndimage import map_coordinates

from repro.data.augment import Augment
from repro.data.base import VOID
from repro.errors import ReproError

CANVAS = (14, 19)
COUNT = 4
CROP = (8, 11)
SETTINGS = {
    "flip": {"flip": True},
    "jitter": {"jitter": 6},
    "zoom": {"zoom": (0.6, 1.8)},
    "crop": {"crop": CROP},
    "all-separable": {"crop": CROP, "flip": True, "jitter": 2.5, "zoom": (0.8, 1.3), "grey": 0.3},
    "rotate": {"rotate": 180},
    "elastic": {"elastic": 2},
    "grey": {"grey": 0.5},
    "all": {
        "crop": CROP, "flip": True, "jitter": 4, "zoom": (0.7, 1.2), "rotate": 40, "elastic": 1.5, "grey": 0.2,
    },
}  # fmt: skip


class Recorded(Augment):
    """Augmentation that keeps the limits and the numbers of every draw; `given` numbers instead of random ones."""

    def __init__(self, seed, *, given=(), **options):
        super().__init__(seed, **options)
        self.given, self.limits, self.draws = list(given), [], []

    def _keep(self, value, limits):
        value = ops.convert_to_tensor(self.given.pop(0), dtype="float32") if self.given else value
        self.limits.append(limits)
        self.draws.append(np.asarray(ops.convert_to_numpy(value), "float64"))
        return value

    def _uniform(self, count, low, high):
        return self._keep(super()._uniform(count, low, high), (low, high))

    def _normal(self, shape):
        return self._keep(super()._normal(shape), None)


def noise():
    generator = np.random.default_rng(0)
    return {
        "image": generator.integers(0, 256, (COUNT, *CANVAS, 3)).astype("uint8"),
        "semantic": generator.integers(0, 5, (COUNT, *CANVAS)).astype("uint8"),
        "pixel_weight": generator.random((COUNT, *CANVAS), dtype="float32") + 1,
    }


def applied(augment, batch):
    return {name: np.asarray(ops.convert_to_numpy(value)) for name, value in augment(batch).items()}


def cubic(x):
    """Keys' kernel with a = -1/2."""
    x = abs(x)
    if x < 1:
        return 1.5 * x**3 - 2.5 * x**2 + 1
    return -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2 if x < 2 else 0.0


def displaced(grid, y, x):
    """The grid [3,3] at the place (y, x) in 0..2, its border points repeated outside."""
    around = list(itertools.product(range(-1, 4), repeat=2))
    return sum(cubic(y - i) * cubic(x - j) * grid[min(max(i, 0), 2)][min(max(j, 0), 2)] for i, j in around)


def mirrored(index, length):
    while not 0 <= index < length:
        index = -index if index < 0 else 2 * (length - 1) - index
    return index


def source_of(options, draws, canvas, valid):
    """Row and column in the source of each pixel of one image, by the draws of the image in their order: [h,w,2]."""
    draws = iter(draws)
    height, width = options.get("crop", canvas)
    scale = next(draws)
    mirror = np.sign(next(draws)) if options.get("flip") else 1
    origin = [next(draws), next(draws)]
    if "crop" in options:
        for axis, length in enumerate((height, width)):
            origin[axis] += math.floor(next(draws) * (max(valid[axis] - length, 0) + 1))
    angle = math.radians(next(draws)) if options.get("rotate") else 0.0
    grids = next(draws) * options["elastic"] if options.get("elastic") else np.zeros((2, 3, 3))
    places = np.zeros((height, width, 2))
    for i, j in itertools.product(range(height), range(width)):
        y, x = (i - (height - 1) / 2) / scale, mirror * (j - (width - 1) / 2) / scale
        turned = math.cos(angle) * y - math.sin(angle) * x, math.sin(angle) * y + math.cos(angle) * x
        for axis, length in enumerate((height, width)):
            moved = displaced(grids[axis], 2 * i / (height - 1), 2 * j / (width - 1))
            places[i, j, axis] = turned[axis] + (length - 1) / 2 + origin[axis] + moved
    return places


def sampled(image, y, x, dense):
    """Bilinear value [C] of [H,W,C] at one place; outside, mirrored if dense, else the border repeated."""
    height, width, total = *image.shape[:2], 0.0
    if not dense:
        y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    for i, j in itertools.product((math.floor(y), math.floor(y) + 1), (math.floor(x), math.floor(x) + 1)):
        weight = (1 - abs(y - i)) * (1 - abs(x - j))
        total = total + weight * image[mirrored(i, height), mirrored(j, width)].astype("float64")
    return total


@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("options", SETTINGS.values(), ids=SETTINGS)
def test_agrees_with_plain_loops(options, padded):
    augment, batch = Recorded(5, **options), noise()
    valid = np.asarray([(14, 9), (5, 19), (11, 13), CROP] if padded else [CANVAS] * COUNT, "int32")
    out = applied(augment, batch | ({"valid_size": valid} if padded else {}))
    assert [out[name].dtype for name in batch] == ["float32", "int32", "float32"]
    sure_of = 0
    for index in range(COUNT):
        draws = [draw[index] for draw in augment.draws]
        places = source_of(options, draws, CANVAS, valid[index])
        for i, j in itertools.product(*map(range, places.shape[:2])):
            y, x = places[i, j]
            value = sampled(batch["image"][index], y, x, options.get("rotate") or options.get("elastic"))
            if "grey" in options:
                value = np.clip(value * (1 + draws[-2]) + draws[-1] * 127.5, 0, 255)
            np.testing.assert_allclose(out["image"][index, i, j], value, atol=0.05)
            if min(abs(y % 1 - 0.5), abs(x % 1 - 0.5)) < 1e-4:
                continue  # half-way between two pixels either is the nearest
            row, column = round(y), round(x)
            inside = 0 <= row < valid[index][0] and 0 <= column < valid[index][1]
            label, weight = (
                batch[name][index][row, column] if inside else None for name in ("semantic", "pixel_weight")
            )
            assert out["semantic"][index, i, j] == (label if inside else VOID)
            assert out["pixel_weight"][index, i, j] == (weight if inside else 0)
            sure_of += 1
    assert sure_of > 0.9 * out["semantic"].size


@pytest.mark.parametrize("options", [{}, {"crop": CANVAS}, {"rotate": 1e-6, "elastic": 1e-6}])
def test_settings_that_do_nothing_change_nothing(options):
    batch = noise()
    out = applied(Augment(0, **options), batch)
    np.testing.assert_allclose(out["image"], batch["image"], atol=0.02)
    np.testing.assert_array_equal(out["semantic"], batch["semantic"])
    np.testing.assert_array_equal(out["pixel_weight"], batch["pixel_weight"])


def test_only_some_are_mirrored():
    augment, image = Augment(3, flip=True), noise()["image"]
    out = [(applied(augment, {"image": image})["image"][i], image[i]) for _ in range(5) for i in range(COUNT)]
    flipped = [np.allclose(one, other[:, ::-1], atol=1e-3) for one, other in out]
    kept = [np.allclose(one, other, atol=1e-3) for one, other in out]
    assert all(a != b for a, b in zip(flipped, kept, strict=True))
    assert 2 < sum(flipped) < len(out) - 2


def test_a_quarter_turn_is_that_of_numpy():
    batch = noise()
    batch = {name: value[:, :, : CANVAS[0]] for name, value in batch.items()}
    turned = Recorded(0, given=[[1] * 4, [0] * 4, [0] * 4, [90, -90, 180, 0]], rotate=180)
    out = applied(turned, batch)
    for name, value in batch.items():
        for index, turns in enumerate((-1, 1, 2, 0)):
            np.testing.assert_allclose(out[name][index], np.rot90(value[index], turns), atol=0.02)


def test_elastic_deformation_is_that_of_scipy():
    augment, batch = Recorded(8, elastic=3), noise()
    out = applied(augment, batch)
    for index in range(COUNT):
        grids = 3 * augment.draws[-1][index]
        places = np.stack(np.meshgrid(*map(np.arange, CANVAS), indexing="ij"))
        for axis in range(2):
            field = grids[axis]
            for along, length in enumerate(CANVAS):  # Catmull-Rom: the slope at a point is that between its neighbours
                around = np.pad(field, [(1, 1) if along == a else (0, 0) for a in range(2)], mode="edge")
                slopes = np.diff(around, axis=along)
                slopes = (np.delete(slopes, 0, along) + np.delete(slopes, -1, along)) / 2
                field = CubicHermiteSpline(range(3), field, slopes, axis=along)(np.linspace(0, 2, length))
            np.testing.assert_allclose(field[:: CANVAS[0] - 1, :: CANVAS[1] - 1], grids[axis][::2, ::2], atol=1e-6)
            places = places + np.stack([field, 0 * field] if axis == 0 else [0 * field, field])
        for channel in range(3):
            expected = map_coordinates(
                batch["image"][index, ..., channel].astype("float64"), places, order=1, mode="mirror"
            )
            np.testing.assert_allclose(out["image"][index, ..., channel], expected, atol=0.05)
        assert np.abs(places - np.indices(CANVAS)).max() > 3


def two_labels():
    """Blocks of two labels, which the image and the weights tell too."""
    labels = np.kron(np.random.default_rng(1).integers(0, 2, (COUNT, 4, 5)), np.ones((4, 4), "int64"))
    labels = labels[:, : CANVAS[0], : CANVAS[1]].astype("uint8")
    image = np.repeat(200 * labels[..., None], 3, axis=-1)
    return {"image": image, "semantic": labels, "pixel_weight": labels + np.float32(1)}


def check_two_labels(out):
    scored, shown = out["semantic"] != VOID, out["image"][..., 0]
    # the nearest pixel has a weight of at least 1/4 in the image, hence more than 3/4 of 200 needs a label of 1
    sure = scored & ((shown > 151) | (shown < 49))
    assert sure.mean() > 0.4
    np.testing.assert_array_equal(out["semantic"][sure], shown[sure] > 100)
    np.testing.assert_array_equal(out["pixel_weight"], np.where(scored, out["semantic"] + 1, 0))


@pytest.mark.parametrize("name", ["all-separable", "all"])
def test_labels_and_weights_stay_on_what_they_describe(name):
    check_two_labels(applied(Augment(2, **{**SETTINGS[name], "grey": 0.0}), two_labels()))


def test_outside_is_void_and_mirrored():
    batch = noise()
    height, firsts = CANVAS[0], (4, -9, 30, -55)
    out = applied(Recorded(0, given=[[1] * 4, firsts, [0] * 4, [0] * 4], rotate=1), batch)
    for index, first in enumerate(firsts):
        rows = [mirrored(first + row, height) for row in range(height)]
        np.testing.assert_allclose(out["image"][index], batch["image"][index][rows], atol=1e-3)
        outside = np.asarray([not 0 <= first + row < height for row in range(height)])
        assert (out["semantic"][index][outside] == VOID).all()
        assert (out["pixel_weight"][index][outside] == 0).all()
        assert (out["semantic"][index][~outside] != VOID).all()


def test_windows_lie_everywhere_inside_the_valid_part():
    places = np.broadcast_to(np.stack(np.indices(CANVAS), axis=-1), (COUNT, *CANVAS, 2))
    image = np.concatenate([places, places[..., :1]], axis=-1).astype("uint8")  # rows, columns, rows
    valid = np.asarray([[10, 12], CANVAS, [3, 14], CROP], "int32")
    semantic = np.where((image[..., 0] < valid[:, :1, None]) & (image[..., 1] < valid[:, 1:, None]), 1, VOID)
    batch = {"image": image, "semantic": semantic.astype("uint8"), "valid_size": valid, "label": np.arange(COUNT)}
    augment, seen = Augment(0, crop=CROP), [(set(), set()) for _ in range(COUNT)]
    for _ in range(60):
        out = applied(augment, batch)
        assert set(out) == {"image", "semantic", "label"}
        np.testing.assert_array_equal(out["label"], batch["label"])
        first = np.rint(out["image"][:, 0, 0, :2])
        shown = first[:, None, None] + np.stack(np.indices(CROP), axis=-1)
        np.testing.assert_allclose(out["image"][..., :2], shown, atol=1e-4)
        outside = np.broadcast_to(np.indices(CROP)[0] >= 3, (COUNT, *CROP)) & (np.arange(COUNT) == 2)[:, None, None]
        np.testing.assert_array_equal(out["semantic"] == VOID, outside)
        for (tops, lefts), (top, left) in zip(seen, first, strict=True):
            tops.add(int(top))
            lefts.add(int(left))
    assert seen == [({0, 1, 2}, {0, 1}), (set(range(7)), set(range(9))), ({0}, set(range(4))), ({0}, {0})]


def test_what_is_drawn_and_in_which_order():
    options = {"zoom": (0.5, 2.0), "flip": True, "jitter": 32}
    more = {"crop": CROP, "rotate": 30, "elastic": 10, "grey": 0.2}
    shape, generator = (COUNT,), keras.random.SeedGenerator(11)
    kept = [(0.5, 2.0), (-1.0, 1.0), (-32, 32), (-32, 32)]
    limits = [*kept, (0.0, 1.0), (0.0, 1.0), (-30, 30), None, (-0.2, 0.2), (-0.2, 0.2)]
    expected = [keras.random.uniform(shape, low, high, seed=generator) for low, high in kept]
    without, augment = Recorded(11, **options), Recorded(11, **options, **more)
    for each, count in ((without, 4), (augment, 10)):
        each(noise())
        assert each.limits == limits[:count]
        for draw, value in zip(each.draws, expected, strict=False):
            np.testing.assert_array_equal(draw, ops.convert_to_numpy(value))
    for _ in range(25):
        augment(noise())
    for kind, limit in enumerate(limits):
        numbers = np.stack(augment.draws[kind::10])
        low, high = limit or (-math.inf, math.inf)
        assert (low <= numbers).all()
        assert (numbers <= high).all()
        assert limit is None or np.ptp(numbers) > 0.9 * (high - low)
    assert abs(np.std(augment.draws[7::10]) - 1) < 0.1


def test_a_seed_repeats_and_two_calls_differ():
    options, batch = SETTINGS["all"], noise()
    first, second = Augment(4, **options), Augment(4, **options)
    images = [applied(augment, batch)["image"] for augment in (first, second, first, second, Augment(5, **options))]
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[2], images[3])
    assert not np.allclose(images[0], images[2])
    assert not np.allclose(images[0], images[4])


class Augmenting(keras.Model):
    def __init__(self, augment):
        super().__init__()
        self.augment, self.state = augment, augment.generator

    def call(self, batch):
        return self.augment(batch)


def test_compiled_it_still_draws_anew_from_its_seed():
    # TensorFlow draws other numbers compiled than eager; with given numbers tests/test_parity.py compares the two
    model = Augmenting(Augment(4, **{**SETTINGS["all"], "grey": 0.0}))
    model.compile(jit_compile=True)
    fresh = ops.convert_to_numpy(model.augment.generator.state)
    first, second = (model.predict_on_batch(two_labels()) for _ in range(2))
    model.augment.generator.state.assign(fresh)
    again = model.predict_on_batch(two_labels())
    check_two_labels(first)
    check_two_labels(second)
    assert not np.allclose(first["image"], second["image"])
    np.testing.assert_array_equal(first["image"], again["image"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jitter": -1}, "jitter is -1"),
        ({"rotate": -5}, "rotate is -5"),
        ({"rotate": 181}, "at most 180"),
        ({"elastic": -0.1}, "elastic is -0.1"),
        ({"elastic": math.nan}, "elastic is nan"),
        ({"grey": 1.5}, "at most 1"),
        ({"zoom": (1.4, 0.9)}, "low <= high"),
        ({"zoom": (0.0, 1.0)}, "low <= high"),
        ({"zoom": (1.0,)}, "low <= high"),
        ({"crop": (0, 8)}, "crop is"),
        ({"crop": (8,)}, "crop is"),
        ({"crop": (8.5, 8)}, "crop is"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(ReproError, match=message):
        Augment(0, **options)


@pytest.mark.parametrize("crop", [(15, 8), (8, 20)])
def test_a_crop_larger_than_the_image_is_refused(crop):
    with pytest.raises(ReproError, match="from an image of 14x19"):
        Augment(0, crop=crop)(noise())
