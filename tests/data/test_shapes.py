"""The generated data set: reproducible pixels, labels that agree, options that keep their word."""

import hashlib
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from repro.data import shapes
from repro.data.base import VOID, Sample
from repro.data.shapes import CLASSES, Shapes
from repro.errors import ReproError

DENSE = {"image_size": 48, "min_objects": 3, "max_objects": 8, "crowding": 1.0}
PINNED = ["adf1f4b677d3cbe1", "b43ea78dd31283b3", "4ac3bf2f34c40d56", "9740e88c8c2a95d0", "426fc4d51be91eb9"]


def scenes(count: int, split: str = "train", **options: object) -> list[Sample]:
    data = Shapes(**options)
    return [data.sample(split, index) for index in range(count)]


def digest(sample: Sample) -> str:
    arrays = (sample.image, sample.semantic, sample.boxes, sample.classes, sample.masks)
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()[:16]


def test_pixels_and_labels_are_those_of_this_version():
    """Other bytes than these need a new `VERSION`: old results and caches must not be mixed in."""
    found = [digest(scene) for scene in scenes(3)]
    found += [digest(Shapes(**DENSE, seed=5, void_border=1, max_occlusion=0.4).sample("test", 255))]
    found += [digest(Shapes(image_size=(40, 72), max_scale=0.9).sample("val", 7))]
    assert (shapes.VERSION, found) == (1, PINNED)


def test_a_sample_depends_on_seed_split_and_index_alone():
    first, again = Shapes(), Shapes(**json.loads(json.dumps(Shapes(train_size=9).options)))
    later = again.sample("train", 5), again.sample("train", 2)
    assert digest(first.sample("train", 2)) == digest(later[1])
    assert digest(first.sample("train", 5)) == digest(later[0])
    images = [scene.image for split in ("train", "val", "test") for scene in scenes(20, split, image_size=32)]
    images += [scene.image for scene in scenes(20, image_size=32, seed=1)]
    assert len({image.tobytes() for image in images}) == 80


@settings(max_examples=40, deadline=None)
@given(
    image_size=st.sampled_from([32, (40, 64), (64, 40)]),
    seed=st.integers(0, 2**40),
    most=st.integers(1, 9),
    max_occlusion=st.floats(0, 0.95),
    crowding=st.floats(0, 1),
    void_border=st.integers(0, 3),
)
def test_all_labels_describe_one_scene(image_size, seed, most, max_occlusion, crowding, void_border):
    data = Shapes(
        image_size=image_size,
        seed=seed,
        max_objects=most,
        max_occlusion=max_occlusion,
        crowding=crowding,
        void_border=void_border,
    )
    scene = data.sample("val", 3)
    height, width = data.options["image_size"]
    assert (scene.image.shape, scene.image.dtype) == ((height, width, 3), np.uint8)
    assert (scene.semantic.shape, scene.semantic.dtype) == ((height, width), np.uint8)
    assert (scene.masks.shape[1:], scene.masks.dtype) == ((height, width), bool)
    assert (scene.boxes.dtype, scene.classes.dtype) == (np.float32, np.int32)
    assert 1 <= len(scene.masks) == len(scene.boxes) == len(scene.classes) <= most

    assert scene.masks.sum(0).max() == 1
    semantic = np.zeros((height, width), int)
    for mask, (x1, y1, x2, y2), kind in zip(scene.masks, scene.boxes.astype(int), scene.classes, strict=True):
        semantic[mask] = kind + 1
        inside = mask[y1:y2, x1:x2]
        assert inside.sum() == mask.sum() > 0
        assert all(edge.any() for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    kept = scene.semantic != VOID
    assert (scene.semantic[kept] == semantic[kept]).all()
    assert kept.all() == (void_border == 0)
    assert scene.label == scene.classes[max(range(len(scene.masks)), key=lambda k: scene.masks[k].sum())]


@pytest.mark.parametrize("max_occlusion", [0.0, 0.3, 0.7])
def test_masks_are_what_later_objects_leave_and_enough_of_it(monkeypatch, max_occlusion):
    tried, accepted = [], []
    draw, colour = shapes._draw, shapes._contrasting

    def watched_draw(*arguments):
        tried.append(draw(*arguments))
        return tried[-1]

    def watched_colour(*arguments):
        accepted.append(tried[-1])
        return colour(*arguments)

    monkeypatch.setattr(shapes, "_draw", watched_draw)
    monkeypatch.setattr(shapes, "_contrasting", watched_colour)
    hidden = []
    for index in range(30):
        accepted.clear()
        masks = Shapes(**DENSE, max_occlusion=max_occlusion).sample("train", index).masks
        in_front = np.zeros_like(masks[0])
        for mask, (window, outline) in zip(masks[::-1], accepted[::-1], strict=False):
            whole = np.zeros_like(mask)
            whole[window] = outline
            assert (mask == whole & ~in_front).all()
            hidden.append(1 - mask.sum() / whole.sum())
            in_front |= whole
    assert max(hidden) <= max_occlusion + 1e-9
    assert max_occlusion == 0 or max(hidden) > max_occlusion - 0.1


AREAS = {
    "disc": math.pi,
    "ring": 0.7 * math.pi,
    "square": 2.0,
    "bar": 4 * 0.95 * 0.3,
    "triangle": 0.75 * math.sqrt(3),
    "star": 1.1226,  # a pentagram: 10 triangles of sides 1 and 0.382 at 36 degrees
    "cross": 4 * (2 * 0.95 * 0.27 - 0.27**2),
}


@pytest.mark.parametrize("name", CLASSES)
def test_outlines_have_their_area_and_stay_in_their_circle(name):
    turn = (0.8, 0.6)
    window, mask = shapes._draw(name, 130.3, 120.8, 100.0, turn, 300, 300)
    rows, columns = np.nonzero(mask)
    reach = np.hypot(columns + window[1].start + 0.5 - 130.3, rows + window[0].start + 0.5 - 120.8).max()
    assert mask.sum() / 100**2 == pytest.approx(AREAS[name], rel=0.01)
    assert 98 < reach <= 100.1


def test_directions_cover_the_circle():
    rng = np.random.default_rng(0)
    turns = np.array([shapes._direction(rng) for _ in range(4000)])
    assert np.hypot(*turns.T) == pytest.approx(1)
    counts, _ = np.histogram(np.arctan2(turns[:, 1], turns[:, 0]), bins=16, range=(-np.pi, np.pi))
    assert counts.min() > 0.75 * 250
    assert counts.max() < 1.25 * 250


def test_colour_does_not_tell_the_class_but_objects_stand_out():
    colours, contrasts = [[] for _ in CLASSES], []
    for scene in scenes(500, image_size=32, max_objects=1, min_scale=0.3, max_scale=0.6):
        inside = scene.image[scene.masks[0]].mean(0)
        colours[scene.label].append(inside)
        contrasts.append(abs(inside - scene.image[~scene.masks[0]].mean(0)).sum())
    assert min(len(drawn) for drawn in colours) > 40
    assert np.array([np.mean(drawn, 0) for drawn in colours]) == pytest.approx(128, abs=25)
    assert np.quantile(contrasts, 0.05) > 90


def test_texture_exceeds_the_pixel_noise_in_objects_and_background():
    for scene in scenes(60, max_objects=1, min_scale=0.3):
        for region in (scene.image[scene.masks[0]], scene.image[~scene.masks[0]]):
            assert region.std(0).max() > 1.2 * shapes.NOISE / math.sqrt(3)


def test_scale_and_count_stay_in_their_range():
    found = scenes(80, image_size=(64, 96), min_objects=2, max_objects=4, min_scale=0.25, max_scale=0.5)
    assert {len(scene.masks) for scene in found} == {2, 3, 4}
    alone = scenes(150, image_size=(64, 96), max_objects=1, min_scale=0.25, max_scale=0.5)
    sides = np.array([scene.boxes[0, 2:] - scene.boxes[0, :2] for scene in alone if CLASSES[scene.label] == "disc"])
    assert 15 <= sides.min() < 20
    assert 28 < sides.max() <= 33


def test_crowding_brings_objects_together():
    def spread(crowding: float) -> float:
        found = scenes(60, min_objects=3, max_objects=3, max_scale=0.2, crowding=crowding)
        centres = [(scene.boxes[:, :2] + scene.boxes[:, 2:]) / 2 for scene in found]
        return float(np.mean([np.linalg.norm(np.diff(three, axis=0), axis=1).mean() for three in centres]))

    assert spread(1.0) < 0.5 * spread(0.0)
    assert spread(1.0) < spread(0.5) < spread(0.0)


def test_void_rim_lies_around_objects_on_what_is_below_them():
    for scene, plain in zip(scenes(10, **DENSE, void_border=2), scenes(10, **DENSE), strict=True):
        assert (scene.image == plain.image).all()
        void = scene.semantic == VOID
        expected = np.zeros_like(void)
        for front in range(len(plain.masks)):
            below = ~plain.masks[front:].any(0)
            for row, column in np.argwhere(plain.masks[front]):
                near = (slice(max(row - 2, 0), row + 3), slice(max(column - 2, 0), column + 3))
                expected[near] |= below[near]
        assert (void == expected).all()


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"image_size": 8}, "image_size 8"),
        ({"image_size": (64, 64, 3)}, "image_size"),
        ({"image_size": 64.0}, "image_size 64.0"),
        ({"seed": -1}, "seed -1"),
        ({"min_objects": 0}, "min_objects 0"),
        ({"min_objects": 7}, "max_objects 6"),
        ({"max_objects": True}, "max_objects True"),
        ({"min_scale": 0.6}, "max_scale 0.5"),
        ({"max_scale": 1.5}, "max_scale 1.5"),
        ({"min_scale": 0.01}, "min_scale 0.01 .* 1.0 pixels.* 0.042"),
        ({"max_occlusion": 1.0}, "max_occlusion 1 "),
        ({"crowding": float("nan")}, "crowding nan"),
        ({"crowding": "high"}, "crowding 'high'"),
        ({"void_border": -1}, "void_border -1"),
        ({"val_size": 0}, "val_size 0"),
        ({"min_objects": 500, "max_objects": 500}, "no room for 500 objects"),
    ],
)
def test_impossible_options_are_refused(options, culprit):
    with pytest.raises(ReproError, match=culprit):
        Shapes(**options)


def test_too_few_places_are_an_error_not_a_poorer_scene():
    data = Shapes(image_size=32, min_objects=5, max_objects=5, min_scale=0.44, max_occlusion=0.0)
    with pytest.raises(ReproError, match="no room for 5 objects"):
        data.sample("train", 0)


def test_only_samples_of_a_split_can_be_read():
    data = Shapes(val_size=3)
    assert [data.size(split) for split in data.info.splits] == [512, 3, 256]
    assert data.sample("val", np.int64(2)).image_id == "val-000002"
    for index in (3, -1):
        with pytest.raises(ReproError, match=f"shapes/val has no sample {index}"):
            data.sample("val", index)
    for call in (data.size, data.fingerprint, lambda split: data.sample(split, 0)):
        with pytest.raises(ReproError, match=r"unknown split of shapes 'tran'\. did you mean train"):
            call("tran")


def test_fingerprint_follows_whatever_changes_the_samples(monkeypatch):
    reference = Shapes().fingerprint("train")
    assert reference == Shapes(image_size=(96, 96), test_size=9).fingerprint("train")
    changes = {
        "image_size": 64,
        "seed": 1,
        "min_objects": 2,
        "max_objects": 5,
        "min_scale": 0.2,
        "max_scale": 0.4,
        "max_occlusion": 0.5,
        "crowding": 0.5,
        "void_border": 1,
        "train_size": 9,
    }
    changed = [Shapes(**{name: value}).fingerprint("train") for name, value in changes.items()]
    changed += [Shapes().fingerprint("val"), Shapes(test_size=128).fingerprint("test")]
    monkeypatch.setattr(shapes, "VERSION", 2)
    changed += [Shapes().fingerprint("train")]
    assert len({reference, *changed}) == 14
    assert changes.keys() | {"val_size", "test_size"} == Shapes().options.keys()
