"""The Dubai loader: a few small tiles, and every way to damage them."""

import json

import numpy as np
import pytest
from PIL import Image

from repro.data.base import VOID
from repro.data.catalog import dataset_class
from repro.data.dubai import Dubai
from repro.data.images import read_colours
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
HEX = ("3C1098", "8429F6", "6EC1E4", "FEDD3A", "E2A929", "9B9B9B", "000000")
COLOURS = np.array([list(bytes.fromhex(code)) for code in HEX], np.uint8)
CODES = np.resize(np.arange(7), (12, 16))
TITLES = ("Water", "Land (unpaved area)", "Road", "Building", "Vegetation", "Unlabeled")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Eight tiles of two images, whose masks hold every class, "Unlabeled" and black."""
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    root = tmp_path / "Semantic segmentation dataset"
    for tile in range(1, 9):
        for part in ("images", "masks"):
            (root / f"Tile {tile}" / part).mkdir(parents=True)
        for number in (2, 1):
            stem = f"image_part_00{number}"
            Image.fromarray(PHOTO + np.uint8(tile)).save(root / f"Tile {tile}" / "images" / f"{stem}.jpg")
            Image.fromarray(COLOURS[CODES]).save(root / f"Tile {tile}" / "masks" / f"{stem}.png")
    # the published colours are others than those of the masks
    classes = [{"title": title, "color": "#50E3C2"} for title in TITLES]
    (root / "classes.json").write_text(json.dumps({"classes": classes, "tags": []}))
    return root


def test_samples(folder):
    data = Dubai()
    data.prepare()
    sample = data.sample("test", 2)
    assert sample.image_id == "tile8_image_part_001"
    np.testing.assert_array_equal(sample.image, np.array(Image.open(folder / "Tile 8/images/image_part_001.jpg")))
    assert sample.semantic.dtype == np.uint8
    np.testing.assert_array_equal(sample.semantic, np.array([0, 1, 2, 3, 4, VOID, VOID])[CODES])
    assert [f"{r:02X}{g:02X}{b:02X}" for r, g, b in data.info.palette] == list(HEX[:5])
    assert data.info.semantic_classes == ("building", "land", "road", "vegetation", "water")


def test_whole_tiles_are_kept_apart(folder):
    data, tiles = Dubai(), {}
    for split in data.info.splits:
        ids = [data.sample(split, i).image_id for i in range(data.size(split))]
        assert len(set(ids)) == len(ids)
        tiles[split] = {image_id.split("_")[0] for image_id in ids}
    assert sum(len(found) for found in tiles.values()) == len(set.union(*tiles.values())) == 8
    assert {split: len(found) for split, found in tiles.items()} == {"train": 5, "val": 1, "test": 2}


def test_never_official_and_reduced_copies_say_so(folder, monkeypatch):
    assert Dubai().official("val") == (
        False,
        "no official split; whole tiles kept apart; 2 of 9 images; images reduced to 16 pixels",
    )
    monkeypatch.setattr(Dubai, "counts", {"train": 10, "val": 2, "test": 4})
    monkeypatch.setattr("repro.data.dubai._LONGEST_SIDE", dict.fromkeys(range(1, 9), 16))
    assert Dubai().official("val") == (False, "no official split; whole tiles kept apart")


def test_fingerprint_follows_images_and_masks_but_not_other_tiles(folder):
    fingerprints = {Dubai().fingerprint("train")}
    Image.fromarray(PHOTO).save(folder / "Tile 3" / "images" / "image_part_001.jpg")
    assert {Dubai().fingerprint("train")} == fingerprints
    Image.fromarray(PHOTO).save(folder / "Tile 4" / "images" / "image_part_001.jpg")
    fingerprints.add(Dubai().fingerprint("train"))
    Image.fromarray(COLOURS[CODES * 0]).save(folder / "Tile 4" / "masks" / "image_part_001.png")
    fingerprints.add(Dubai().fingerprint("train"))
    (folder / "Tile 4").rename(folder / "Tile 9")
    (folder / "Tile 2").rename(folder / "Tile 4")
    (folder / "Tile 9").rename(folder / "Tile 2")
    fingerprints.add(Dubai().fingerprint("train"))
    assert len(fingerprints) == 4


def test_masks_may_be_palette_or_opaque_pictures(folder):
    mask = Image.fromarray(COLOURS[CODES])
    for name, image in {"palette": mask.quantize(7, dither=Image.Dither.NONE), "rgba": mask.convert("RGBA")}.items():
        image.save(folder / f"{name}.png")
        np.testing.assert_array_equal(read_colours(folder / f"{name}.png"), COLOURS[CODES], err_msg=name)


def test_missing_folder_says_what_to_fetch_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    with pytest.raises(NoDataError) as error:
        Dubai().prepare()
    one_line(error, tmp_path / "Semantic segmentation dataset", "humansintheloop", "REPRO_DATA")


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


def classes_json(text):
    return lambda folder: (folder / "classes.json").write_text(text)


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (
            remove("Tile 2/masks/image_part_001.png", "Tile 2/masks/image_part_002.png"),
            ("Tile 2/images/image_part_001.jpg has no mask, like 1 more",),
        ),
        (remove("Tile 7/images/image_part_002.jpg"), ("Tile 7/masks/image_part_002.png has no image",)),
        (lambda folder: (folder / "Tile 8").rename(folder / "Tile 08"), ("Tile 8/images does not exist",)),
        (classes_json("{"), ("classes.json is damaged (JSONDecodeError",)),
        (classes_json('{"tags": []}'), ("classes.json is damaged (KeyError",)),
        (classes_json("[]"), ("classes.json is damaged (TypeError",)),
        (classes_json('{"classes": [{"title": ["a"]}]}'), ("classes.json is damaged (TypeError",)),
        (lambda folder: (folder / "classes.json").write_bytes(b"\xff\xfe{"), ("classes.json is damaged",)),
        (classes_json('{"classes": [{"title": "Car"}]}'), ("classes.json has other classes", "Building", "Car")),
    ],
)
def test_incomplete_copies_are_refused(folder, damage, parts):
    damage(folder)
    with pytest.raises(ReproError) as error:
        Dubai().prepare()
    assert not isinstance(error.value, NoDataError)
    one_line(error, folder, *parts)


def test_classes_json_may_be_missing(folder):
    remove("classes.json")(folder)
    Dubai().prepare()


def painted(*places):
    colours = COLOURS[CODES].copy()
    for row, column in places:
        colours[row, column] = (0x3C, 0x10, 0x99)
    return Image.fromarray(colours)


CLEAR = Image.fromarray(COLOURS[CODES]).convert("RGBA")
CLEAR.putpixel((3, 3), (60, 16, 152, 254))


@pytest.mark.parametrize(
    ("mask", "parts"),
    [
        (painted((5, 7)), ("colour #3C1099 at row 5, column 7, which",)),
        (painted((5, 7), (5, 9), (11, 0)), ("row 5, column 7, like 2 more",)),
        (Image.fromarray(COLOURS[CODES][:, :15]), ("12x15", "12x16")),
        (Image.fromarray(COLOURS[CODES]).convert("L"), ("mode L",)),
        (CLEAR, ("transparent",)),
    ],
)
def test_masks_that_do_not_fit_are_refused(folder, mask, parts):
    path = folder / "Tile 1" / "masks" / "image_part_002.png"
    mask.save(path)
    Dubai().sample("val", 0)
    with pytest.raises(ReproError) as error:
        Dubai().sample("val", 1)
    one_line(error, path, *parts)


@pytest.mark.parametrize("name", ["images/image_part_001.jpg", "masks/image_part_001.png"])
def test_truncated_files_are_named(folder, name):
    path = folder / "Tile 1" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ReproError) as error:
        Dubai().sample("val", 0)
    one_line(error, path, "damaged")


def test_masks_as_jpeg_are_refused(folder):
    path = folder / "Tile 1" / "masks" / "image_part_001.png"
    Image.fromarray(COLOURS[CODES]).save(path, "JPEG")
    with pytest.raises(ReproError) as error:
        Dubai().sample("val", 0)
    one_line(error, path, "a JPEG")


def test_unknown_splits_are_named(folder):
    with pytest.raises(ReproError) as error:
        Dubai().size("tets")
    one_line(error, "tets", "test")


def test_it_is_registered():
    assert dataset_class("dubai") is Dubai
