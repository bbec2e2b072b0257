"""Augmentation of images with boxes, against plain loops and colorsys on the numbers that it drew itself; compiled on
the other backend in tests/tasks/test_yolo.py."""

import colorsys
import math

import keras
import numpy as np
import pytest
from keras import ops

from repro import backend
from repro.data.cache import PADDING_GREY
from repro.data.jitter import LEAST_AREA, LEAST_SIDE, Jitter, scale_saturation_and_value, turn_hue
from repro.errors import ReproError

CANVAS = (20, 26)
VALID = ((20, 26), (13, 26), (20, 17), (5, 7))
STILL = {"scale": 0.0, "shift": 0.0, "saturation": 1.0, "exposure": 1.0}
SETTINGS = {
    "flip": STILL | {"flip": True},
    "scale": STILL | {"scale": 0.4},
    "shift": STILL | {"shift": 0.4},
    "smaller": STILL | {"size": 9},
    "larger": STILL | {"size": 37},
    "saturation": STILL | {"saturation": 1.8},
    "exposure": STILL | {"exposure": 2.5},
    "hue": STILL | {"hue": 0.3},
    "all": {"flip": True, "scale": 0.3, "shift": 0.25, "hue": 0.1, "size": 16},
}


class Recorded(Jitter):
    """Keeps the numbers of every draw."""

    def __init__(self, seed, **options):
        super().__init__(seed, **options)
        self.draws = []

    def _uniform(self, shape, low, high):
        drawn = super()._uniform(shape, low, high)
        self.draws.append(numpy(drawn).astype("float64"))
        assert (low <= self.draws[-1]).all()
        assert (self.draws[-1] <= high).all()
        return drawn


def numpy(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def noise(seed=0):
    """Images of every shape of valid part, with boxes inside, one without area, and padding between them."""
    rng = np.random.default_rng(seed)
    image = np.full((len(VALID), *CANVAS, 3), PADDING_GREY, "uint8")
    boxes, classes = np.zeros((len(VALID), 6, 4), "float32"), np.full((len(VALID), 6), -1, "int32")
    for b, (height, width) in enumerate(VALID):
        image[b, :height, :width] = rng.integers(0, 256, (height, width, 3))
        for m in (0, 1, 3, 4):
            x, y = np.sort(rng.uniform(0, width, 2)), np.sort(rng.uniform(0, height, 2))
            boxes[b, m], classes[b, m] = (x[0], y[0], x[1], y[1]), m
        boxes[b, 4, 2] = boxes[b, 4, 0]
    return {"image": image, "valid_size": np.array(VALID, "int32"), "boxes": boxes, "classes": classes,
            "original_size": np.array(VALID, "int32") * 3}  # fmt: skip


# --- the reference: one image, one pixel at a time, in float64


def drawn_of(draws, options, b):
    """What was drawn for image b: zoom (y,x), shift (y,x), turned, hue, saturation, exposure."""
    left = list(draws)
    zoom = 1 + left.pop(0)[b] if options["scale"] else np.ones(2)
    shift = left.pop(0)[b] if options["shift"] else np.zeros(2)
    turned = left.pop(0)[b] < 0 if options.get("flip") else False
    hue = left.pop(0)[b] if options.get("hue") else 0.0
    factors = []
    for limit in (options["saturation"], options["exposure"]):
        number = left.pop(0)[b] if limit > 1 else 0.0
        factors.append(1 + number if number >= 0 else 1 / (1 - number))
    assert not left
    return zoom, shift, turned, hue, *factors


def source_weights(place, reach, extent):
    weights = {j: max(0.0, 1 - abs(place - j) / reach) for j in range(extent)}
    total = sum(weights.values())
    return {j: weight / total for j, weight in weights.items() if weight}


def recolour(pixel, hue, saturation, exposure):
    h, s, v = colorsys.rgb_to_hsv(*(pixel / 255))
    return 255 * np.clip(colorsys.hsv_to_rgb((h + hue) % 1, s * saturation, v * exposure), 0, 1)


def reference(image, extent, target, drawn):
    zoom, shift, turned, *colours = drawn
    out, axes = np.full((*target, 3), float(PADDING_GREY)), []
    for axis in (0, 1):
        ratio, lines = target[axis] / image.shape[axis], []
        begin = ratio * extent[axis] * ((1 - zoom[axis]) / 2 + shift[axis])
        for i in range(target[axis]):
            place = (i + 0.5 - begin) / (ratio * zoom[axis]) - 0.5
            if not -0.5 <= place < extent[axis] - 0.5:
                lines.append(None)
                continue
            if axis and turned:
                place = extent[axis] - 1 - place
            lines.append(source_weights(min(max(place, 0), extent[axis] - 1), max(1, 1 / (ratio * zoom[axis])),
                                        extent[axis]))  # fmt: skip
        axes.append(lines)
    for y, rows in enumerate(axes[0]):
        for x, columns in enumerate(axes[1]):
            if rows and columns:
                pixel = sum(a * b * image[i, j].astype(float) for i, a in rows.items() for j, b in columns.items())
                out[y, x] = recolour(pixel, *colours) if colours != [0.0, 1.0, 1.0] else pixel
    return out


def moved_box(box, extent, canvas, target, drawn):
    """Where a box goes, and what is left of it, None for nothing."""
    zoom, shift, turned, *_ = drawn
    x1, y1, x2, y2 = map(float, box)
    if turned:
        x1, x2 = extent[1] - x2, extent[1] - x1
    corners = []
    for axis, (low, high) in ((1, (x1, x2)), (0, (y1, y2))):
        centre = extent[axis] / 2
        low, high = (centre + zoom[axis] * (v - centre) + shift[axis] * extent[axis] for v in (low, high))
        low, high = (v * target[axis] / canvas[axis] for v in (low, high))
        corners.append((low, high, max(low, 0.0), min(high, float(target[axis]))))
    whole = [high - low for low, high, _, _ in corners]
    cut = [end - begin for _, _, begin, end in corners]
    if min(cut) <= 0 or np.prod(cut) < LEAST_AREA * np.prod(whole):
        return None
    if any(left < min(LEAST_SIDE, before) - 1e-9 for left, before in zip(cut, whole, strict=True)):
        return None
    return [corners[0][2], corners[1][2], corners[0][3], corners[1][3]]


@pytest.mark.parametrize("name", SETTINGS)
def test_is_that_of_a_loop(name):
    batch, options = noise(), STILL | {"flip": False} | SETTINGS[name]
    if name == "all":
        options = {"saturation": 1.5, "exposure": 1.5} | SETTINGS[name]
    jitter = Recorded(3, **options)
    found = {key: numpy(value) for key, value in jitter(batch).items()}
    target = (options["size"],) * 2 if options.get("size") else CANVAS
    assert found["image"].shape == (len(VALID), *target, 3)
    assert found["original_size"] is batch["original_size"] or (found["original_size"] == batch["original_size"]).all()
    kept = 0
    for b, extent in enumerate(VALID):
        drawn = drawn_of(jitter.draws, options, b)
        expected = reference(batch["image"][b], extent, target, drawn)
        np.testing.assert_allclose(found["image"][b], expected, atol=0.02)
        for m, (box, kind) in enumerate(zip(batch["boxes"][b], batch["classes"][b], strict=True)):
            where = moved_box(box, extent, CANVAS, target, drawn) if kind >= 0 else None
            assert found["classes"][b, m] == (-1 if where is None else kind)
            np.testing.assert_allclose(found["boxes"][b, m], where or [0] * 4, atol=1e-3)
            kept += where is not None
        for axis in (0, 1):
            end = extent[axis] / 2 * (1 + drawn[0][axis]) + drawn[1][axis] * extent[axis]
            end = min(end * target[axis] / CANVAS[axis], target[axis])
            assert found["valid_size"][b, axis] == max(1, math.ceil(end - 1e-3))
    assert kept > len(VALID)


def test_without_options_nothing_changes():
    batch = noise()
    batch["boxes"][0, 0] = (3, 3, 3.2, 3.3)  # small, but not cut
    found = {key: numpy(value) for key, value in Jitter(0, **STILL)(batch).items()}
    batch["classes"][:, 4] = -1  # has no area
    batch["boxes"][:, 4] = 0
    assert found.keys() == batch.keys()
    for key, value in batch.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("size", [None, 48])
def test_a_box_follows_its_rectangle(size):
    """Dark images with one bright rectangle each, whose box is known."""
    rng, canvas = np.random.default_rng(1), 64
    seen = 0
    for seed in range(10):
        image, boxes = np.zeros((4, canvas, canvas, 3), "uint8"), np.zeros((4, 1, 4), "float32")
        valid = np.stack([rng.integers(40, 65, 4), rng.integers(40, 65, 4)], axis=-1).astype("int32")
        for b in range(4):
            low = [int(rng.integers(0, side - 20)) for side in valid[b]]
            high = [int(rng.integers(start + 12, side + 1)) for start, side in zip(low, valid[b], strict=True)]
            image[b, valid[b, 0] :], image[b, :, valid[b, 1] :] = PADDING_GREY, PADDING_GREY
            image[b, low[0] : high[0], low[1] : high[1]] = 250
            boxes[b, 0] = (low[1], low[0], high[1], high[0])
        batch = {"image": image, "valid_size": valid, "boxes": boxes, "classes": np.zeros((4, 1), "int32")}
        options = {"scale": 0.3, "shift": 0.3, "exposure": 1.2, "size": size}
        found = {key: numpy(value) for key, value in Jitter(seed, flip=True, **options)(batch).items()}
        for b in range(4):
            rows, columns = np.nonzero(found["image"][b].min(-1) > 160)
            if found["classes"][b, 0] < 0:
                assert not len(rows) or min(np.ptp(rows), np.ptp(columns)) < 8
                continue
            edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            np.testing.assert_allclose(found["boxes"][b, 0], edges, atol=1.5)
            assert (found["boxes"][b, 0, [3, 2]] <= found["valid_size"][b]).all()
            seen += 1
    assert seen > 30


def test_boxes_that_keep_too_little_are_padding():
    """The image moves to the right by a quarter; what is over the edge is cut."""
    jitter = Jitter(0, **STILL | {"shift": 0.25})
    jitter._uniform = lambda shape, low, high: ops.broadcast_to(np.array([0.0, 0.25], "float32"), shape)
    boxes = [(0, 0, 4, 4), (70, 10, 90, 20), (73, 10, 93, 20), (73.5, 10, 80, 20), (74.5, 10, 79, 20)]
    batch = {
        "image": np.zeros((1, 100, 100, 3), "uint8"), "valid_size": np.array([[100, 100]], "int32"),
        "boxes": np.array([boxes], "float32"), "classes": np.arange(5, dtype="int32")[None],
    }  # fmt: skip
    found = {key: numpy(value) for key, value in jitter(batch).items()}
    assert found["classes"].tolist() == [[0, 1, 2, 3, -1]]  # of the last, half a pixel is left
    assert found["boxes"][0, 1].tolist() == [95, 10, 100, 20]
    assert found["boxes"][0, 4].tolist() == [0] * 4
    assert found["valid_size"].tolist() == [[100, 100]]
    batch["boxes"][0, 2] = (74, 10, 94.5, 20)  # keeps 5 % of its width
    assert numpy(jitter(batch)["classes"]).tolist() == [[0, 1, -1, 3, -1]]


def test_colours_are_those_of_colorsys():
    rng = np.random.default_rng(2)
    pixels = rng.integers(0, 256, (3, 8, 9, 3)).astype("float32")
    pixels[0, 0] = np.array([[0] * 3, [255] * 3, [9] * 3, [200, 200, 0], [0, 99, 99], [255, 0, 0], [0, 255, 0],
                             [0, 0, 255], [80, 0, 80]])  # fmt: skip
    hue, saturation, exposure = np.array([[0.1, -0.1, 0.5], [1.5, 1 / 1.5, 1], [1, 0.7, 1.4]], "float32")
    found = numpy(scale_saturation_and_value(turn_hue(pixels, hue), saturation, exposure))
    for b, y, x in np.ndindex(pixels.shape[:3]):
        expected = recolour(pixels[b, y, x], hue[b], saturation[b], exposure[b])
        np.testing.assert_allclose(found[b, y, x], expected, atol=2e-2)


def test_factors_are_drawn_both_ways():
    """As Darknet's rand_scale: uniform in [1,2] half the time, else one over such a number."""
    drawn = numpy(Jitter(0)._factor(20000, 2.0))
    assert 0.5 <= drawn.min() < 0.51
    assert 1.99 < drawn.max() <= 2
    assert (drawn > 1).mean() == pytest.approx(0.5, abs=0.02)
    assert drawn[drawn > 1].mean() == pytest.approx(1.5, abs=0.02)
    assert (1 / drawn[drawn < 1]).mean() == pytest.approx(1.5, abs=0.02)


class Given(Jitter):
    """Takes numbers instead of drawing them: TensorFlow draws others when it compiles."""

    def __init__(self, draws, **options):
        super().__init__(0, **options)
        self.draws, self.place = draws, 0

    def __call__(self, batch):
        self.place = 0
        return super().__call__(batch)

    def _uniform(self, shape, low, high):
        self.place += 1
        return ops.convert_to_tensor(self.draws[self.place - 1], dtype="float32")


class Program(keras.Model):
    """A jitter as a model, to compile it."""

    def __init__(self, jitter):
        super().__init__()
        self.jitter, self.generator = jitter, jitter.generator
        self.built = True

    def call(self, batch, training=False):
        return self.jitter(batch)


def test_compiled_as_eager():
    batch, drawing = noise(), Recorded(5, **SETTINGS["all"])
    expected = {key: numpy(value) for key, value in drawing(batch).items()}
    program = Program(Given(drawing.draws, **SETTINGS["all"]))
    tensors = {key: ops.convert_to_tensor(value) for key, value in batch.items()}
    for mode in ("eager", "xla"):
        found = backend.forward(program, mode)(tensors)
        for key, value in expected.items():
            np.testing.assert_allclose(numpy(found[key]), value, rtol=1e-5, atol=2e-2 if key == "image" else 1e-4)


def test_draws_are_a_function_of_the_seed_and_go_on():
    first, same, other = (Jitter(seed, **SETTINGS["all"]) for seed in (5, 5, 6))
    image = numpy(first(noise())["image"])
    np.testing.assert_array_equal(numpy(same(noise())["image"]), image)
    for jitter in (first, other):
        assert (numpy(jitter(noise())["image"]) != image).mean() > 0.3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"scale": -0.1}, "scale"), ({"scale": 1.0}, "scale"), ({"shift": 0.6}, "shift"),
        ({"saturation": 0.9}, "saturation"), ({"exposure": math.inf}, "exposure"), ({"hue": math.nan}, "hue"),
        ({"hue": 0.7}, "hue"), ({"size": -32}, "size"),
    ],
)  # fmt: skip
def test_impossible_options_are_named(options, named):
    with pytest.raises(ReproError, match=named):
        Jitter(0, **options)


def test_what_cannot_be_jittered_is_refused():
    batch = noise()
    with pytest.raises(ReproError, match="proposals"):
        Jitter(0)(batch | {"proposals": batch["boxes"]})
    grey = batch | {"image": batch["image"][..., :1]}
    with pytest.raises(ReproError, match="no hue"):
        Jitter(0, hue=0.1)(grey)
    assert numpy(Jitter(0)(grey)["image"]).shape == (len(VALID), *CANVAS, 1)
