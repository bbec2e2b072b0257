"""Pictures and masks from disk: every kind that is read, and every way to damage them."""

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from repro.data import images
from repro.errors import ReproError
from tests.support.messages import one_line

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
