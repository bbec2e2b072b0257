"""Pictures for reports: masks, boxes and instances drawn over images, and grids of them with titles.

Every picture is an RGB uint8 array [H,W,3]; grids lie on white.
"""

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from repro.data.base import VOID, Info, Sample
from repro.data.cache import fit_scale
from repro.data.masks import tight_boxes
from repro.drawing.palette import Palette, colourise, voc_colormap
from repro.errors import ReproError

_MARGIN = 12
_GAP = 8
_MIN_CELL = 160
_INK = (32, 32, 32)
_GREY = (110, 110, 110)
_FLAT_COLOURS = 64
_SHEET_CELL = (200, 260)
_SHEET_WIDTH = 1280
_MIN_SHEET_WIDTH = 560
_LEGEND_CLASSES = 40
_TITLE_LINE = 18
_TITLE_LINES = 3


def legend(names: Sequence[str], colours: Palette, width: int, size: int = 13) -> np.ndarray:
    """Coloured swatches with names, wrapped to `width` pixels, in letters of `size` pixels.

    Returns RGB uint8 [height needed, width, 3]."""
    font = ImageFont.load_default(size)
    swatch, row = size + 2, size + 10
    spots, x, y = [], 0, 0
    for name in names:
        step = swatch + 6 + math.ceil(font.getlength(name)) + 16
        if x and x + step - 16 > width:
            x, y = 0, y + row
        spots.append((x, y))
        x += step
    picture = Image.new("RGB", (width, y + row), "white")
    draw = ImageDraw.Draw(picture)
    for name, colour, (x, y) in zip(names, np.asarray(colours), spots, strict=False):
        top = y + (row - swatch) // 2
        draw.rectangle((x, top, x + swatch - 1, top + swatch - 1), fill=_rgb_tuple(colour), outline=_GREY)
        draw.text((x + swatch + 6, y + row / 2), name, fill=_INK, font=font, anchor="lm")
    return np.array(picture)


def overlay_mask(
    image: np.ndarray, labels: np.ndarray, palette: Palette | None = None, alpha: float = 0.5
) -> np.ndarray:
    """Tint an image [H,W,C] with the colours of its labels uint8 [H,W]; void pixels keep the image.

    The pixels where two labels meet carry the full colour, so that regions stay apart at any `alpha`."""
    picture = rgb(image).astype(np.float32)
    colours = colourise(labels, palette)
    weight = np.where(_borders(labels), 1.0, alpha)
    weight[labels == VOID] = 0.0
    return np.rint(picture + weight[..., None] * (colours - picture)).astype(np.uint8)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    classes: np.ndarray,
    names: Sequence[str],
    palette: Palette | None = None,
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """Draw boxes [M,4] (x1,y1,x2,y2; pixels, half-open) with class names, and scores [M] where given.

    Class c has the colour `palette[c]` (None: colour c + 1 of the VOC map, whose 0 is background)."""
    colours = _table(palette, 1)
    picture = Image.fromarray(rgb(image))
    draw = ImageDraw.Draw(picture)
    texts = [_caption(names, int(c), None if scores is None else scores[i]) for i, c in enumerate(classes)]
    fills = [_rgb_tuple(colours[int(c)]) for c in classes]
    for box, fill in zip(boxes, fills, strict=True):
        _rectangle(draw, box, fill)
    tags = _Tags(draw, picture.size)
    for box, fill, text in zip(boxes, fills, texts, strict=True):
        tags.add(box, fill, text)
    return np.array(picture)


def draw_instances(
    image: np.ndarray,
    masks: np.ndarray,
    classes: np.ndarray | None = None,
    names: Sequence[str] = (),
    palette: Palette | None = None,
    scores: np.ndarray | None = None,
    alpha: float = 0.4,
) -> np.ndarray:
    """Tint and outline masks bool [M,H,W], each instance in a colour of its own or of `palette[i]`.

    With `classes` [M], every instance is tagged with its class name, and its score [M] where given."""
    colours = _distinct(len(masks)) if palette is None else np.asarray(palette)
    picture = rgb(image).astype(np.float32)
    for mask, colour in zip(masks, colours, strict=False):
        weight = np.where(_borders(mask), 1.0, alpha) * mask
        picture += weight[..., None] * (colour - picture)
    drawn = Image.fromarray(np.rint(picture).astype(np.uint8))
    if classes is not None:
        tags = _Tags(ImageDraw.Draw(drawn), drawn.size)
        for i, (mask, colour) in enumerate(zip(masks, colours, strict=False)):
            if mask.any():
                text = _caption(names, int(classes[i]), None if scores is None else scores[i])
                tags.add(tight_boxes(mask[None])[0], _rgb_tuple(colour), text)
    return np.array(drawn)


def enlarge_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Masks bool [M,H,W] at another size (height, width), by the nearest pixel."""
    rows, columns = (np.arange(side) * old // side for side, old in zip(size, masks.shape[1:], strict=True))
    return masks[:, rows][:, :, columns]


def grid(
    rows: Sequence[Sequence[np.ndarray]],
    column_titles: Sequence[str],
    row_titles: Sequence[str] | None = None,
    legend: np.ndarray | None = None,
    cell: tuple[int, int] = (200, 260),
) -> np.ndarray:
    """Lay pictures out in rows under column titles (in up to 3 lines), beside row titles, above a legend (a picture).

    Each picture is scaled into `cell` (height, width; at least 160) with its aspect kept: label maps, known
    by their few colours, without smoothing. Raises ReproError when a row and the titles differ in length."""
    for number, row in enumerate(rows):
        if len(row) != len(column_titles):
            problem = f"row {number} of a grid has {len(row)} pictures for {len(column_titles)} column titles"
            raise ReproError(problem, "give one picture a column")
    height, width = max(cell[0], _MIN_CELL), max(cell[1], _MIN_CELL)
    title_font, row_font = ImageFont.load_default(15), ImageFont.load_default(14)
    left = _MARGIN
    if row_titles:
        left += max(math.ceil(row_font.getlength(title)) for title in row_titles) + _MARGIN
    wrapped = [_wrap(title, title_font, width) for title in column_titles]
    top = _MARGIN + (8 + _TITLE_LINE * max(map(len, wrapped)) if any(column_titles) else 0)
    total_width = left + len(column_titles) * (width + _GAP) - _GAP + _MARGIN
    bottom = top + len(rows) * (height + _GAP) - _GAP + _MARGIN
    if legend is not None:
        total_width = max(total_width, left + legend.shape[1] + _MARGIN)
    canvas = Image.new("RGB", (total_width, bottom + (0 if legend is None else legend.shape[0] + _GAP)), "white")
    draw = ImageDraw.Draw(canvas)
    for j, lines in enumerate(wrapped):
        centre = left + j * (width + _GAP) + width / 2
        for line, text in enumerate(reversed(lines)):
            draw.text((centre, top - 8 - _TITLE_LINE * (line + 0.5)), text, _INK, title_font, anchor="mm")
    for i, row in enumerate(rows):
        y = top + i * (height + _GAP)
        if row_titles:
            draw.text((left - _MARGIN, y + height / 2), row_titles[i], _INK, row_font, anchor="rm")
        for j, array in enumerate(row):
            picture = resize(rgb(array), fit_scale(array.shape[:2], (height, width)))
            x = left + j * (width + _GAP) + (width - picture.shape[1]) // 2
            canvas.paste(Image.fromarray(picture), (x, y + (height - picture.shape[0]) // 2))
    if legend is not None:
        canvas.paste(Image.fromarray(legend), (left, bottom))
    return np.array(canvas)


def contact_sheet(dataset: Any, split: str, count: int) -> np.ndarray:
    """The first `count` samples of a split (all, if fewer) with everything the data set says of them.

    A sample shows its image, then its mask over it, then its boxes and instances, with label and id below; a
    legend of the classes closes the sheet. Raises ReproError where a sample is damaged or `count` below 1."""
    if count < 1:
        raise ReproError(f"a preview of {count} samples is impossible", "ask for at least 1")
    samples = [dataset.sample(split, index) for index in range(min(count, dataset.size(split)))]
    rows = [_panels(sample, dataset.info) for sample in samples]
    height, width = (max(panel.shape[axis] for row in rows for panel in row) for axis in (0, 1))
    tiles = [
        _tile(row, (height, width), _title_of(sample, dataset.info)) for row, sample in zip(rows, samples, strict=True)
    ]
    tile_height, tile_width = tiles[0].shape[:2]
    columns = max(1, min(len(tiles), _SHEET_WIDTH // (tile_width + _MARGIN)))
    sheet_width = max(columns * (tile_width + _MARGIN) + _MARGIN, _MIN_SHEET_WIDTH)
    key = _class_legend(samples, dataset.info, sheet_width - 2 * _MARGIN)
    top = _MARGIN + 32
    bottom = top + math.ceil(len(tiles) / columns) * (tile_height + _GAP)
    sheet = Image.new("RGB", (sheet_width, bottom + key.shape[0] + _MARGIN), "white")
    heading = f"{dataset.info.title}: {split}, {len(samples)} of {dataset.size(split)}"
    font = ImageFont.load_default(18)
    ImageDraw.Draw(sheet).text((_MARGIN, _MARGIN + 10), heading, _INK, font, anchor="lm")
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        place = (_MARGIN + column * (tile_width + _MARGIN), top + row * (tile_height + _GAP))
        sheet.paste(Image.fromarray(tile), place)
    sheet.paste(Image.fromarray(key), (_MARGIN, bottom))
    return np.array(sheet)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale an RGB uint8 picture to (height, width): without smoothing when its colours are as few as a label
    map's, else bicubic to enlarge and Lanczos to shrink."""
    if size == image.shape[:2]:
        return image
    smooth = Image.Resampling.LANCZOS if size[0] < image.shape[0] else Image.Resampling.BICUBIC
    colours = np.unique(image.reshape(-1, 3) @ np.array([1 << 16, 1 << 8, 1]))
    method = Image.Resampling.NEAREST if len(colours) <= _FLAT_COLOURS else smooth
    return np.array(Image.fromarray(image).resize((size[1], size[0]), method))


def rgb(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H,W,1] or [H,W,3] as [H,W,3]."""
    return np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image


def _panels(sample: Sample, info: Info) -> list[np.ndarray]:
    image = rgb(sample.image)
    size = fit_scale(image.shape[:2], _SHEET_CELL)
    shown = resize(image, size)
    panels = [shown]
    if sample.semantic is not None:
        panels.append(overlay_mask(shown, _nearest(sample.semantic, size), info.palette))
    if sample.boxes is not None or sample.masks is not None:
        classes = np.zeros(0, np.int32) if sample.classes is None else sample.classes
        drawn = shown
        if sample.masks is not None:
            masks = [_nearest(mask, size) for mask in sample.masks]
            drawn = draw_instances(drawn, np.array(masks).reshape(-1, *size))
        if sample.boxes is not None:
            scale = np.array([size[1] / image.shape[1], size[0] / image.shape[0]] * 2)
            drawn = draw_boxes(drawn, sample.boxes * scale, classes, info.classes, _class_colours(info))
        panels.append(drawn)
    return panels


def _tile(panels: Sequence[np.ndarray], cell: tuple[int, int], title: str) -> np.ndarray:
    height, width = cell
    tile = Image.new("RGB", (len(panels) * (width + 2) - 2, height + 22), "white")
    for column, panel in enumerate(panels):
        x = column * (width + 2) + (width - panel.shape[1]) // 2
        tile.paste(Image.fromarray(panel), (x, (height - panel.shape[0]) // 2))
    font = ImageFont.load_default(13)
    ImageDraw.Draw(tile).text((0, height + 11), _shorten(title, font, tile.width), _INK, font, anchor="lm")
    return np.array(tile)


def _title_of(sample: Sample, info: Info) -> str:
    if sample.label is None:
        return sample.image_id
    return f"{_name(info.classes, sample.label)} ({sample.image_id})"


def _class_legend(samples: Sequence[Sample], info: Info, width: int) -> np.ndarray:
    if info.semantic_classes and any(sample.semantic is not None for sample in samples):
        names, colours = info.semantic_classes, _table(info.palette, 0)
        masks = [sample.semantic for sample in samples if sample.semantic is not None]
        present = {int(label) for mask in masks for label in np.unique(mask)} - {VOID}
    elif info.classes and any(sample.boxes is not None for sample in samples):
        names, colours = info.classes, _class_colours(info)
        present = {int(c) for sample in samples if sample.classes is not None for c in sample.classes}
    else:
        return np.full((0, width, 3), 255, np.uint8)
    chosen = sorted(present) if len(names) > _LEGEND_CLASSES else range(len(names))
    return legend([names[i] for i in chosen], [colours[i] for i in chosen], width)


def _class_colours(info: Info) -> np.ndarray:
    """Colours of foreground classes: those of the semantic classes of the same name, where there are any."""
    known = dict(zip(info.semantic_classes, _table(info.palette, 0), strict=False))
    default = zip(info.classes, _table(None, 1), strict=False)
    return np.array([known.get(name, colour) for name, colour in default])


def _table(palette: Palette | None, first: int) -> np.ndarray:
    return voc_colormap()[first:] if palette is None else np.asarray(palette, np.uint8)


def _distinct(count: int) -> np.ndarray:
    # hues a golden angle apart: neighbours in the list differ most, and any number of them can be had
    hues = [(number * 0.61803398875 + 0.02) % 1 for number in range(count)]
    return np.array([colorsys.hsv_to_rgb(hue, 0.85, 1.0) for hue in hues]).reshape(-1, 3) * 255


def _borders(labels: np.ndarray) -> np.ndarray:
    """Pixels whose left, right, upper or lower neighbour has another label."""
    edges = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edges[1:] |= down
    edges[:-1] |= down
    edges[:, 1:] |= right
    edges[:, :-1] |= right
    return edges


def _rectangle(draw: ImageDraw.ImageDraw, box: np.ndarray, fill: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = (round(float(value)) for value in box)
    x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)
    # a light rim keeps dark colours visible on dark pictures
    draw.rectangle((x1 - 1, y1 - 1, x2 + 1, y2 + 1), outline="white", width=1)
    draw.rectangle((x1, y1, x2, y2), outline=fill, width=2)


class _Tags:
    """Class names at boxes: above one, or inside it or below it where that is taken or off the picture."""

    def __init__(self, draw: ImageDraw.ImageDraw, size: tuple[int, int]) -> None:
        self._draw, self._size = draw, size
        self._taken: list[tuple[int, int, int]] = []
        self._font = ImageFont.load_default(12)

    def add(self, box: np.ndarray, fill: tuple[int, int, int], text: str) -> None:
        width, height = math.ceil(self._font.getlength(text)) + 6, 16
        x = min(max(round(float(box[0])) - 1, 0), max(self._size[0] - width, 0))
        top, bottom = round(float(box[1])), round(float(box[3]))
        inside = min(max(top, 0), self._size[1] - height)
        places = [y for y in (top - height, inside, bottom) if 0 <= y <= self._size[1] - height] or [inside]
        y = next((y for y in places if self._free(x, y, width, height)), places[0])
        self._taken.append((x, y, width))
        self._draw.rectangle((x, y, x + width - 1, y + height - 1), fill=fill)
        red, green, blue = fill
        ink = "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"
        self._draw.text((x + 3, y + height / 2), text, ink, self._font, anchor="lm")

    def _free(self, x: int, y: int, width: int, height: int) -> bool:
        return all(
            x >= left + wide or left >= x + width or abs(y - above) >= height for left, above, wide in self._taken
        )


def _caption(names: Sequence[str], label: int, score: float | None) -> str:
    name = _name(names, label)
    return name if score is None else f"{name} {score:.2f}"


def _name(names: Sequence[str], label: int) -> str:
    return names[label] if label < len(names) else f"class {label}"


def _nearest(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.array(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def _shorten(text: str, font: Any, width: float) -> str:
    while len(text) > 1 and font.getlength(text) > width:
        text = text.removesuffix("…")[:-1] + "…"
    return text


def _wrap(text: str, font: Any, width: float) -> list[str]:
    """A title in as few lines as `width` allows, broken at spaces; what is still too long is shortened."""
    lines: list[str] = []
    for word in text.split():
        if lines and (font.getlength(f"{lines[-1]} {word}") <= width or len(lines) == _TITLE_LINES):
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [_shorten(line, font, width) for line in lines]


def _rgb_tuple(colour: Sequence[int] | np.ndarray) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in colour)
    return red, green, blue
