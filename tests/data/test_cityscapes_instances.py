"""Cityscapes instances from a few small files: maps, groups, what is ignored, and every way to damage them."""

import numpy as np
import pytest
from PIL import Image

from repro.data.catalog import open_dataset
from repro.data.cityscapes_instances import CityscapesInstances
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
# road, a group of bicycles in two places, two persons side by side, a car, a caravan, a trailer, a licence plate's 0
VALUES = np.full((12, 16), 7, np.int32)
VALUES[0:2, 0:2] = VALUES[10:12, 12:16] = 33
VALUES[3:8, 4:6] = 24000
VALUES[3:9, 6:7] = 24013
VALUES[2:5, 9:16] = 26999
VALUES[6:7, 9:11] = 29000
VALUES[8:9, 9:11] = 30001
VALUES[11, 0] = 0
SCENES = {
    "train": ["bochum_000000_000313", "aachen_000001_000019", "aachen_000000_000019"],
    "val": ["lindau_000000_000019"],
}
PARTS = ("leftImg8bit", "gtFine")


def image_of(folder, split, scene):
    return folder / "leftImg8bit" / split / scene.partition("_")[0] / f"{scene}_leftImg8bit.png"


def map_of(folder, split, scene, kind="instanceIds"):
    return folder / "gtFine" / split / scene.partition("_")[0] / f"{scene}_gtFine_{kind}.png"


def write_map(path, values, kind=np.uint16):
    Image.fromarray(np.asarray(values).astype(kind)).save(path)


@pytest.fixture
def folder(tmp_path):
    """A Cityscapes of two cities, with the other files of the official archives beside the maps."""
    root = tmp_path / "data" / "cityscapes"
    for split, scenes in SCENES.items():
        for scene in scenes:
            for path in (image_of(root, split, scene), map_of(root, split, scene)):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(PHOTO).save(image_of(root, split, scene))
            write_map(map_of(root, split, scene), VALUES)
            write_map(map_of(root, split, scene, "labelIds"), VALUES % 256, np.uint8)
            map_of(root, split, scene).with_name(f"{scene}_gtFine_polygons.json").write_text("{}")
    (root / "gtFine" / "train" / ".DS_Store").mkdir()
    return root


def test_samples(folder):
    data = open_dataset("cityscapes_instances")
    data.prepare()
    for split, scenes in SCENES.items():
        assert [data.sample(split, index).image_id for index in range(data.size(split))] == sorted(scenes)
    sample = data.sample("val", 0)
    np.testing.assert_array_equal(sample.image, PHOTO)
    np.testing.assert_array_equal(sample.masks, [value == VALUES for value in (33, 24000, 24013, 26999)])
    np.testing.assert_array_equal(sample.boxes, [(0, 0, 16, 12), (4, 3, 6, 8), (6, 3, 7, 9), (9, 2, 16, 5)])
    assert [data.info.classes[label] for label in sample.classes] == ["bicycle", "person", "person", "car"]
    assert sample.crowd.tolist() == [True, False, False, False]
    fields = (sample.boxes, sample.classes, sample.masks, sample.crowd)
    assert [each.dtype for each in fields] == [np.float32, np.int32, bool, bool]


def test_an_image_without_objects(folder):
    write_map(map_of(folder, "val", "lindau_000000_000019"), np.full((12, 16), 23))
    sample = CityscapesInstances().sample("val", 0)
    assert sample.boxes.shape == (0, 4)
    assert sample.masks.shape == (0, 12, 16)
    assert sample.classes.shape == sample.crowd.shape == (0,)


def test_every_class_has_its_label(folder):
    labels = [24, 25, 26, 27, 28, 31, 32, 33]
    values = np.zeros((12, 16), np.int32)
    values.flat[:8], values.flat[8:16] = labels, [1000 * label + 7 for label in labels]
    write_map(map_of(folder, "val", "lindau_000000_000019"), values)
    sample = CityscapesInstances().sample("val", 0)
    assert sample.classes.tolist() == [*range(8), *range(8)]
    assert sample.crowd.tolist() == [True] * 8 + [False] * 8
    names = ("person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle")
    assert CityscapesInstances.info.classes == names


def test_official_means_the_published_counts_format_and_size(folder, monkeypatch):
    assert CityscapesInstances().official("train") == (
        False,
        "3 of 2975 images; images of 12x16 instead of 1024x2048",
    )
    monkeypatch.setattr(CityscapesInstances, "counts", {"train": 3, "val": 1})
    assert CityscapesInstances().official("val") == (False, "images of 12x16 instead of 1024x2048")
    monkeypatch.setattr(CityscapesInstances, "shape", (12, 16))
    assert CityscapesInstances().official("val") == (True, "")
    path = image_of(folder, "val", "lindau_000000_000019")
    path.unlink()
    Image.fromarray(PHOTO).save(path.with_suffix(".jpg"))
    assert CityscapesInstances().official("val") == (False, "images re-encoded as JPEG")


def test_fingerprint_follows_maps_and_images(folder):
    fingerprints = [CityscapesInstances().fingerprint(split) for split in ("train", "val")]
    assert CityscapesInstances().fingerprint("val") == fingerprints[1]
    write_map(map_of(folder, "val", "lindau_000000_000019"), VALUES[::-1])
    fingerprints.append(CityscapesInstances().fingerprint("val"))
    Image.fromarray(np.zeros_like(PHOTO)).save(image_of(folder, "val", "lindau_000000_000019"))
    fingerprints.append(CityscapesInstances().fingerprint("val"))
    assert len(set(fingerprints)) == 4


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda folder: map_of(folder, "train", SCENES["train"][0]).unlink(), ["leftImg8bit.png has no mask"]),
        (lambda folder: image_of(folder, "train", SCENES["train"][1]).unlink(), ["instanceIds.png has no image"]),
        (
            lambda folder: (folder / "gtFine/train/bochum").rename(folder / "elsewhere"),
            ["gtFine/train/bochum does not exist"],
        ),
        (
            lambda folder: (folder / "leftImg8bit/train/bochum").rename(folder / "elsewhere"),
            ["leftImg8bit/train/bochum does not exist"],
        ),
        (
            lambda folder: [(folder / part / "val/lindau").rename(folder / part / "l") for part in PARTS],
            ["holds no images of the split val"],
        ),
    ],
)
def test_incomplete_copies_are_refused(folder, damage, parts):
    damage(folder)
    with pytest.raises(ReproError) as error:
        CityscapesInstances().prepare()
    assert not isinstance(error.value, NoDataError)
    one_line(error, folder, "gtFine_trainvaltest.zip", *parts)


@pytest.mark.parametrize(
    ("values", "kind", "part"),
    [
        (VALUES[:, :15], np.uint16, "is 12x15, its image 12x16"),
        (np.where(VALUES == 7, 34, VALUES), np.uint16, "values 34, which are no label"),
        (np.where(VALUES == 7, 7001, VALUES), np.uint16, "values 7001"),
        (np.where(VALUES == 7, 65535, VALUES), np.uint16, "values 65535"),
        (np.arange(192).reshape(12, 16), np.uint16, "values 34, 35, 36, 37, 38, 39, 40, 41 and 150 more"),
        (VALUES % 256, np.uint8, "a PNG of mode L"),
        (PHOTO, np.uint8, "a PNG of mode RGB"),
    ],
)
def test_maps_that_make_no_sense_are_named(folder, values, kind, part):
    path = map_of(folder, "val", "lindau_000000_000019")
    write_map(path, values, kind)
    with pytest.raises(ReproError) as error:
        CityscapesInstances().sample("val", 0)
    one_line(error, path, part)


@pytest.mark.parametrize("content", [b"", b"<html>", None])
@pytest.mark.parametrize("of", [image_of, map_of])
def test_damaged_files_are_named(folder, of, content):
    path = of(folder, "val", "lindau_000000_000019")
    path.write_bytes(path.read_bytes()[:60] if content is None else content)
    with pytest.raises(ReproError) as error:
        CityscapesInstances().sample("val", 0)
    one_line(error, path)


def test_without_the_data(folder, tmp_path):
    with pytest.raises(ReproError) as error:
        CityscapesInstances().size("test")
    one_line(error, "split of cityscapes_instances", "test")
    (folder / "gtFine").rename(tmp_path / "elsewhere")
    with pytest.raises(NoDataError) as error:
        CityscapesInstances().prepare()
    one_line(error, folder / "gtFine" / "train", "cityscapes-dataset.com", "REPRO_DATA")
