"""The ISBI 2012 loader and the reader of TIFF stacks: small stacks of 30 pages, and every way to damage them."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from repro.data.catalog import dataset_class
from repro.data.images import read_stack
from repro.data.isbi2012 import SLICES, Isbi2012
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (SLICES, 12, 16), np.uint8)
CELLS = RNG.random((SLICES, 12, 16)) > 0.3


def write(path, pages, **options):
    first, *others = [page if isinstance(page, Image.Image) else Image.fromarray(page) for page in pages]
    first.save(path, save_all=True, append_images=others, **options)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    (tmp_path / "ISBI2012").mkdir()
    write(tmp_path / "ISBI2012" / "train-volume.tif", IMAGES)
    write(tmp_path / "ISBI2012" / "train-labels.tif", CELLS * np.uint8(255), compression="packbits")
    return tmp_path / "ISBI2012"


@pytest.mark.parametrize("compression", [None, "packbits", "tiff_lzw", "tiff_adobe_deflate"])
def test_stacks_are_read_page_by_page(tmp_path, compression):
    write(tmp_path / "stack.tif", IMAGES, **({"compression": compression} if compression else {}))
    stack = read_stack(tmp_path / "stack.tif")
    assert stack.dtype == np.uint8
    np.testing.assert_array_equal(stack, IMAGES)


def test_samples(folder):
    data = Isbi2012(fold=1)
    data.prepare()
    sample = data.sample("test", 2)
    assert sample.image_id == "slice-08"
    assert sample.image.shape == (12, 16, 1)
    np.testing.assert_array_equal(sample.image[..., 0], IMAGES[8])
    assert sample.semantic.dtype == np.uint8
    np.testing.assert_array_equal(sample.semantic, CELLS[8])
    assert sample.pixel_weight is None
    sample.image[:] = 0
    sample.semantic[:] = 0
    np.testing.assert_array_equal(data.sample("test", 2).image[..., 0], IMAGES[8])
    np.testing.assert_array_equal(data.sample("test", 2).semantic, CELLS[8])
    info = data.info
    assert dict(zip(info.semantic_classes, info.palette, strict=True))["cell"] == (255, 255, 255)
    assert (info.semantic_classes[info.segments_class], info.channels) == ("cell", 1)


@pytest.mark.parametrize("folds", [2, 3, 5, 6, 10])
def test_splits_are_blocks_that_cover_the_stack(folder, folds):
    tested = []
    for fold in range(folds):
        data = Isbi2012(folds=folds, fold=fold)
        numbers = {
            split: [int(data.sample(split, i).image_id[-2:]) for i in range(data.size(split))]
            for split in data.info.splits
        }
        assert sorted(number for found in numbers.values() for number in found) == list(range(SLICES))
        start = fold * SLICES // folds
        assert numbers["test"] == list(range(start, start + SLICES // folds))
        after = (numbers["test"][-1] + 1) % SLICES
        assert numbers["val"] == [after, after + 1, after + 2]
        assert data.official("test") == (
            False,
            f"fold {fold + 1} of {folds} of the 30 labelled slices; the test labels are private",
        )
        tested += numbers["test"]
    assert tested == list(range(SLICES))


def test_fingerprint_follows_slices_labels_and_fold(folder):
    def fingerprints(**options):
        return [Isbi2012(**options).fingerprint(split) for split in ("train", "val", "test")]

    before = fingerprints()
    assert before == fingerprints()
    known = {*before, *fingerprints(fold=1)}
    assert len(known) == 6
    changed = IMAGES.copy()
    changed[7, 3, 3] ^= 1
    write(folder / "train-volume.tif", changed)
    after = fingerprints()
    assert (after[0], after[2]) == (before[0], before[2])
    assert after[1] not in known
    labels = CELLS * np.uint8(255)
    labels[7, 3, 3] ^= 255
    write(folder / "train-labels.tif", labels)
    assert fingerprints()[1] not in {*known, after[1]}


def test_weights_are_those_of_the_4_connected_cells(folder, monkeypatch):
    """A diagonal membrane, one pixel wide, parts two cells."""
    asked = []

    def border_weights(instances):
        asked.append(instances)
        return np.where(instances > 0, 2.0, 0.5).astype(np.float32)

    monkeypatch.setitem(sys.modules, "repro.data.border_weights", SimpleNamespace(border_weights=border_weights))
    labels = np.full((SLICES, 12, 16), 255, np.uint8)
    labels[:, np.arange(12), np.arange(12)] = 0
    write(folder / "train-labels.tif", labels)
    data = Isbi2012(weight_map=True)
    assert data.options == {"folds": 5, "fold": 0, "weight_map": True}
    for index in (1, 1, 2):
        sample = data.sample("train", index)
        np.testing.assert_array_equal(sample.pixel_weight, np.where(sample.semantic, 2.0, 0.5))
        sample.pixel_weight[:] = 0
    assert len(asked) == 2  # once a slice
    assert asked[0].max() == 2
    assert asked[0][0, 11] != asked[0][11, 0]


def test_missing_folder_says_what_to_fetch_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    with pytest.raises(NoDataError) as error:
        Isbi2012().prepare()
    one_line(error, tmp_path / "ISBI2012", "train-volume.tif", "imagej.net", "REPRO_DATA")
    assert Isbi2012().size("train") == 21


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"folds": 4}, ("folds 4", "2, 3, 5, 6, 10")),
        ({"folds": 15}, ("folds 15", "of 3 or more")),
        ({"folds": 1}, ("folds 1",)),
        ({"folds": True}, ("folds True",)),
        ({"folds": "5"}, ("folds '5'",)),
        ({"fold": 5}, ("fold 5", "0 to 4")),
        ({"fold": -1}, ("fold -1",)),
        ({"folds": 10, "fold": 1.5}, ("fold 1.5", "0 to 9")),
        ({"fold": False}, ("fold False",)),
        ({"weight_map": "yes"}, ("weight_map 'yes'",)),
    ],
)
def test_impossible_options_are_refused(options, parts):
    with pytest.raises(ReproError) as error:
        Isbi2012(**options)
    one_line(error, *parts)


def replace(name, change):
    """Write a file anew with its pages changed by a function of the list of arrays."""

    def damage(folder):
        pages = change(list(read_stack(folder / name)))
        (folder / name).unlink()
        write(folder / name, pages)

    return damage


def strange(pages):
    pages[4][2, 3], pages[4][5, 6] = 7, 128
    return pages


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda folder: (folder / "train-labels.tif").unlink(), ("train-labels.tif does not exist",)),
        (lambda folder: (folder / "train-labels.tif").write_bytes(b"<html>"), ("train-labels.tif is not an image",)),
        (replace("train-labels.tif", lambda pages: pages[:29]), ("train-labels.tif has 29 pages instead of 30",)),
        (replace("train-volume.tif", lambda pages: pages[:1]), ("train-volume.tif has 1 pages",)),
        (replace("train-volume.tif", lambda pages: pages * 2), ("train-volume.tif has 60 pages",)),
        (replace("train-labels.tif", strange), ("page 5 of", "train-labels.tif holds the labels 7, 128")),
        (
            replace("train-volume.tif", lambda pages: [*pages[:2], pages[2][:, :15], *pages[3:]]),
            ("page 3 of", "train-volume.tif is 12x15, page 1 is 12x16"),
        ),
        (
            replace("train-labels.tif", lambda pages: [page[1:] for page in pages]),
            ("train-labels.tif has pages of 11x16, train-volume.tif of 12x16",),
        ),
        (
            replace("train-volume.tif", lambda pages: [page.astype(np.uint16) for page in pages]),
            ("page 1 of", "train-volume.tif has pixels of mode I;16"),
        ),
        (
            replace("train-labels.tif", lambda pages: [*pages[:9], Image.fromarray(pages[9]).convert("RGB"), *pages]),
            ("page 10 of", "mode RGB"),
        ),
    ],
)
def test_unfit_stacks_are_named(folder, damage, parts):
    damage(folder)
    with pytest.raises(ReproError) as error:
        Isbi2012().prepare()
    assert not isinstance(error.value, NoDataError)
    one_line(error, folder, *parts)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", ["train-volume.tif", "train-labels.tif"])
def test_truncated_stacks_are_named(folder, name):
    content = (folder / name).read_bytes()
    for share in (0.05, 0.4, 0.9, 0.99):
        (folder / name).write_bytes(content[: int(share * len(content))])
        with pytest.raises(ReproError) as error:
            Isbi2012().prepare()
        one_line(error, folder / name)
    assert "damaged" in str(error.value) or "pages instead" in str(error.value)


def test_unknown_splits_are_named(folder):
    for ask in (Isbi2012().size, Isbi2012().official, Isbi2012().fingerprint):
        with pytest.raises(ReproError) as error:
            ask("trian")
        one_line(error, "trian", "train")


def test_it_is_registered():
    assert dataset_class("isbi2012") is Isbi2012
