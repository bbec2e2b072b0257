"""Pictures from disk: photographs as RGB, label maps as class numbers, and a plain word on damaged files."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from repro.errors import ReproError

_EXTENSIONS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
_ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
_DEEP_MODES = ("I;16", "I")  # what Pillow calls 16-bit grey, by version
_NO_CLASS = -1


def read_image(path: Path, upright: bool = True) -> np.ndarray:
    """Read a photograph as RGB uint8 [H,W,3], turned upright by its EXIF orientation unless told otherwise.

    Grey and palette pictures become RGB; transparent pixels are laid over white. Raises ReproError naming
    the file when it is missing, damaged or no picture, and for 16-bit, float and CMYK samples, whose
    conversion to 8-bit RGB is not unique."""
    return decode_image(read_bytes(path), str(path), upright)


def decode_image(content: bytes, name: str, upright: bool = True) -> np.ndarray:
    """Decode an encoded photograph to RGB uint8 [H,W,3], as `read_image` does; errors call it `name`.

    `upright=False` ignores the EXIF orientation, as TensorFlow's decoders do."""
    image = _open(content, name)
    if upright:
        image = _turn_upright(image)
    if image.mode in _ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    elif image.mode not in ("1", "L", "P", "RGB"):
        raise ReproError(f"{name} has pixels of mode {image.mode}", "convert it to 8-bit RGB")
    return np.array(image.convert("RGB"))


def read_labels(path: Path) -> np.ndarray:
    """Read a grey or palette picture as class numbers uint8 [H,W]; stored values are kept as they are.

    Raises ReproError naming the file when it is missing, damaged or no picture, when its pixels are not
    single 8-bit numbers, and for JPEG, whose compression changes class numbers."""
    return decode_labels(read_bytes(path), str(path))


def decode_labels(content: bytes, name: str) -> np.ndarray:
    """Decode an encoded label map to class numbers uint8 [H,W], as `read_labels` does; errors call it `name`."""
    image = _open(content, name)
    _check_kind(image, name, ("1", "L", "P"), "a label map", "give a grey or palette PNG of class numbers")
    labels = np.array(image).astype(np.uint8)
    if image.format == "PNG" and image.mode == "L":
        # Pillow stretches 2- and 4-bit grey to 0..255; byte 24 of a PNG is its bit depth
        labels //= {2: 85, 4: 17}.get(content[24], 1)
    return labels


def read_colours(path: Path) -> np.ndarray:
    """Read a label map whose classes are colours as RGB uint8 [H,W,3]; palettes are looked up, opacity is dropped.

    Raises ReproError naming the file when it is missing, damaged or no picture, when pixels are not 8-bit RGB or
    are transparent, and for JPEG, whose compression changes colours."""
    image = _open(read_bytes(path), str(path))
    _check_kind(image, str(path), ("P", "RGB", "RGBA"), "a label map in colours", "give a PNG in RGB")
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        raise ReproError(f"{path} has transparent pixels", "give a PNG in RGB")
    return np.array(image.convert("RGB"))


def read_map(path: Path) -> np.ndarray:
    """Read a 16-bit grey PNG as numbers int32 [H,W].

    Raises ReproError naming the file when it is missing, damaged or another kind of picture."""
    image = _open(read_bytes(path), str(path))
    if image.format != "PNG" or image.mode not in _DEEP_MODES:
        raise ReproError(f"{path} is a {image.format} of mode {image.mode}, not a 16-bit grey PNG", "fetch it again")
    return np.array(image).astype(np.int32)


def class_table(classes: Mapping[int, int]) -> np.ndarray:
    """The class of every number of a label map for `to_classes`; numbers that are not among the keys are no labels."""
    table = np.full(256, _NO_CLASS, np.int16)
    table[list(classes)] = list(classes.values())
    return table


def to_classes(labels: np.ndarray, table: np.ndarray, name: str, cure: str) -> np.ndarray:
    """The classes uint8 of the numbers uint8 of a label map, by a table of `class_table`.

    Raises ReproError with this cure, calling the map `name`, for numbers that are no labels."""
    classes = table[labels]
    strange = classes == _NO_CLASS
    if strange.any():
        raise ReproError(f"{name} holds the labels {few(np.unique(labels[strange]))}", cure)
    return classes.astype(np.uint8)


def few(values: Sequence[Any] | np.ndarray) -> str:
    """The first eight of some values and how many more there are, for a message."""
    return ", ".join(map(str, values[:8])) + (f" and {len(values) - 8} more" if len(values) > 8 else "")


def read_stack(path: Path) -> np.ndarray:
    """Read a TIFF of many pages as grey uint8 [N,H,W].

    Raises ReproError naming the file, and the page where one is to blame, when it is missing, damaged or no
    picture, and when a page is not 8-bit grey or is of another size than the first."""
    pages: list[np.ndarray] = []
    try:
        with Image.open(path) as image:
            for number in range(getattr(image, "n_frames", 1)):
                image.seek(number)
                _check_page(image, path, number, pages)
                pages.append(np.array(image))
    except ReproError:
        raise
    # as for single pictures, damage comes as all kinds of errors
    except Exception as error:
        raise _unreadable(f"page {len(pages) + 1} of {path}" if pages else str(path), error) from None
    return np.stack(pages)


def probe(path: Path) -> tuple[str, tuple[int, int]]:
    """Format ("PNG", "JPEG", ...) and (height, width) of a picture, from its header alone.

    Raises ReproError naming the file when it is missing or no picture."""
    try:
        with Image.open(path) as image:
            return image.format or "", (image.height, image.width)
    except Exception as error:
        raise _unreadable(str(path), error) from None


def find_images(paths: list[Path]) -> list[Path]:
    """The pictures that files and folders stand for: files as given, folders by their pictures in name order.

    Each picture comes once. Raises ReproError for a missing path and for a folder without a picture."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = [item for item in sorted(path.iterdir()) if is_image(item)]
            if not inside:
                raise ReproError(f"no image in {path}", f"it takes {', '.join(sorted(_EXTENSIONS))}")
            found.update(dict.fromkeys(inside))
        elif path.exists():
            found[path] = None
        else:
            raise ReproError(f"{path} does not exist", "give an image or a folder of images")
    if not found:
        raise ReproError("no image was given", "give images or folders of images")
    return list(found)


def is_image(path: Path) -> bool:
    """Whether a visible file is named like a picture."""
    return path.suffix.lower() in _EXTENSIONS and not path.name.startswith(".") and path.is_file()


def _check_kind(image: Image.Image, name: str, modes: tuple[str, ...], wanted: str, cure: str) -> None:
    if image.format == "JPEG" or image.mode not in modes:
        kind = "a JPEG" if image.format == "JPEG" else f"a picture of mode {image.mode}"
        raise ReproError(f"{name} is {kind}, not {wanted}", cure)


def _check_page(image: Image.Image, path: Path, number: int, pages: list[np.ndarray]) -> None:
    name, size = f"page {number + 1} of {path}", (image.height, image.width)
    if image.mode != "L":
        raise ReproError(f"{name} has pixels of mode {image.mode}", "convert it to 8-bit grey")
    if pages and pages[0].shape != size:
        first, this = (f"{height}x{width}" for height, width in (pages[0].shape, size))
        raise ReproError(f"{name} is {this}, page 1 is {first} (height x width)", "fetch it again")


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises ReproError naming it when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(str(path), error) from None


def _open(content: bytes, name: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    # Pillow reports damage as OSError, SyntaxError, ValueError, struct.error and others, by format
    except Exception as error:
        raise _unreadable(name, error) from None
    return image


def _turn_upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    # a broken EXIF block says nothing about the pixels, which were decoded already
    except Exception:
        return image


def _unreadable(name: str, error: Exception) -> ReproError:
    if isinstance(error, FileNotFoundError):
        return ReproError(f"{name} does not exist", "check the path, or fetch it again")
    if isinstance(error, UnidentifiedImageError):
        return ReproError(f"{name} is not an image", "fetch it again, or take it out of the folder")
    if isinstance(error, OSError) and error.strerror:
        return ReproError(f"cannot read {name}: {error.strerror}", "check the path and its permissions")
    reason = " ".join(str(error).split()) or type(error).__name__
    return ReproError(f"{name} is damaged ({reason})", "fetch it again")
