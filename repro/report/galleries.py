"""The same test pictures through every model, from what runs kept beside their results: label maps in colour, the
stages of detectors (objects, proposals, matched anchors, final boxes), and instances.

Pictures of generated data go into tables/. Real photographs are not ours to publish: their galleries are written to
runs/gallery/, where the data is.
"""

import functools
import json
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from repro.data.base import VOID, Info, Sample
from repro.data.cache import letterbox
from repro.data.catalog import open_dataset
from repro.data.masks import decode_rle
from repro.drawing.overlays import draw_boxes, draw_instances, enlarge_masks, grid, legend, resize, rgb
from repro.drawing.palette import colourise, voc_colormap
from repro.errors import ReproError
from repro.records.result import Result
from repro.records.samples import sample_indices
from repro.report.figures import Picture
from repro.report.pooling import canvas_of, grouped, model_rank, model_title, size_text

Draw = Callable[[Sequence[Result], Path], np.ndarray]  # runs and the folder of results to a picture
PUBLISHABLE = ("shapes",)
_MODELS = 6  # side by side, beside picture and truth
_PADDING = (236, 236, 236)
_STAGES = {"proposals": (0, 114, 178), "anchors": (213, 94, 0)}  # before the final boxes
_STAGE = 260  # pixels of a picture of stages
LONGEST = 240  # pixels of a picture of instances
# of each generation what is shown side by side, beside picture and truth
_COMPARED = ("faster_rcnn", "faster_rcnn_resnet101", "yolo_v3", "mask_rcnn", "mask_rcnn_fpn")
_CELL = (160, 280)  # pictures whose longer side is between these are shown as they are


def semantic_pictures(results: Sequence[Result], results_dir: Path) -> dict[str, Picture]:
    """Label maps by file name; of the same test images, on the same canvas."""

    def place(result: Result) -> tuple[str, str, str]:
        data = result.require_dataset()
        return f"{data.name}_{size_text(canvas_of(result))}", data.split, data.fingerprint

    groups = grouped(_newest([result for result in results if result.kind == "train"], "samples"), place)
    shared, pictures = Counter(name for name, *_ in groups), {}
    for (data, _, fingerprint), models in sorted(groups.items()):
        name = f"gallery_{data}" + (f"_{fingerprint[:8]}" if shared[data] > 1 else "")
        for first in range(0, len(models), _MODELS):
            group = models[first : first + _MODELS]
            shown = [
                [title, result.artifacts["samples"].sha256, fingerprint]
                for title, result in zip(titles_of(group), group, strict=True)
            ]
            number = f"_{first // _MODELS + 1}" if first else ""
            pictures[f"{name}{number}.png"] = _picture(shown, _draw_maps, group, results_dir)
    return pictures


def stage_pictures(results: Sequence[Result], results_dir: Path) -> dict[str, Picture]:
    """The stages of detectors by file name."""
    groups = _by_data(results)
    return drawn("stages", groups, lambda r: r.artifacts["stages"].sha256, _draw_stages, results_dir)


def instance_pictures(results: Sequence[Result], results_dir: Path) -> dict[str, Picture]:
    """The same pictures through detectors and instance segmentation, a gallery for each data set that has both."""
    groups = {
        key: [result for result in group if result.model in _COMPARED]
        for key, group in _by_data(results).items()
        if any("instances" in result.artifacts for result in group)
    }
    return drawn("instances", groups, lambda r: r.artifacts[_artifact(r)].sha256, _draw_instances, results_dir)


def _artifact(result: Result) -> str:
    return "instances" if "instances" in result.artifacts else "stages"


def _newest(results: Sequence[Result], artifact: str) -> list[Result]:
    """The newest run of each experiment that kept an artifact, of its first seed, in the order of the models."""
    newest = {
        result.experiment: result
        for result in sorted(results, key=lambda r: (-r.seed, r.started))
        if result.status == "ok" and artifact in result.artifacts and result.dataset
    }
    return sorted(newest.values(), key=lambda r: (model_rank(r.model), model_title(r), r.experiment))


def _by_data(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The runs with kept stages, by the test images they share."""

    def place(result: Result) -> str:
        data = result.require_dataset()
        return f"{data.name}_{data.fingerprint[:8]}_{result.metrics['images']}"

    return grouped(_newest(results, "stages"), place)


def titles_of(group: Sequence[Result]) -> list[str]:
    """A title for each run; runs that would have the same one are told apart by their experiment."""
    titles = [model_title(result) for result in group]
    return [
        f"{title}, {result.experiment}" if titles.count(title) > 1 else title
        for title, result in zip(titles, group, strict=True)
    ]


def drawn(
    what: str, groups: dict[str, list[Result]], digest: Callable[[Result], str], draw: Draw, results_dir: Path
) -> dict[str, Picture]:
    """A picture `gallery_<what>_<data>.png` of each group. `digest`: of what is drawn of a run."""
    pictures: dict[str, Picture] = {}
    for key, group in sorted(groups.items()):
        data = [[title, digest(result)] for title, result in zip(titles_of(group), group, strict=True)]
        name = f"gallery_{what}_{key.rsplit('_', 2)[0]}.png"
        name = name if name not in pictures else f"gallery_{what}_{key}.png"
        pictures[name] = _picture([key, data], draw, group, results_dir)
    return pictures


def _picture(data: Any, draw: Draw, group: Sequence[Result], results_dir: Path) -> Picture:
    private = group[0].require_dataset().name not in PUBLISHABLE
    return Picture(data, functools.partial(draw, group, results_dir), private)


def shown_images(result: Result, count: int | None = None) -> tuple[Info, list[Sample]]:
    """The card of a run's data set and the sampled test images, of the first `count` or of all. Raises NoDataError."""
    data = result.require_dataset()
    dataset = open_dataset(data.name, **result.config["data"].get("options", {}))
    dataset.prepare()
    indices = sample_indices(dataset.size(data.split) if count is None else count)
    return dataset.info, [dataset.sample(data.split, index) for index in indices]


def _draw_maps(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: picture, truth, each model. Raises ReproError when predictions or data are gone."""
    canvas, (info, samples) = canvas_of(group[0]), shown_images(group[0])
    palette = info.palette or [tuple(map(int, colour)) for colour in voc_colormap(len(info.semantic_classes))]
    columns = [_label_maps(result, results_dir, canvas, len(samples)) for result in group]
    rows, void, padded = [], False, False
    for sample, *maps in zip(samples, *columns, strict=True):
        record = letterbox(sample, canvas)
        padding = np.ones(canvas, bool)
        padding[: record["valid_size"][0], : record["valid_size"][1]] = False
        row = [rgb(record["image"]), *(colourise(labels, palette) for labels in (record["semantic"], *maps))]
        rows.append([np.where(padding[..., None], np.array(_PADDING, np.uint8), picture) for picture in row])
        void |= bool((record["semantic"][~padding] == VOID).any())
        padded |= bool(padding.any())
    extra = [("void, not scored", voc_colormap()[VOID])] * void + [("padding", _PADDING)] * padded
    names = [*info.semantic_classes, *(name for name, _ in extra)]
    titles, cell = ["image", "truth", *titles_of(group)], _cell(canvas)
    key = legend(names, [*palette, *(colour for _, colour in extra)], (max(cell[1], _CELL[0]) + 8) * len(titles))
    return grid(rows, titles, legend=key, cell=cell)


def _cell(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) a picture is shown at: reduced where it is large, enlarged by a whole number where small."""
    low, high = _CELL
    longest = max(size)
    scale: Any = high / longest if longest > high else 1 if longest >= low else high // longest
    return round(size[0] * scale), round(size[1] * scale)


def _label_maps(result: Result, results_dir: Path, canvas: tuple[int, int], count: int) -> list[np.ndarray]:
    """The kept label maps of a run, `count` of [H,W] of the canvas."""
    path = results_dir / result.experiment / result.artifacts["samples"].file
    cure = f"restore it, or run {result.experiment} again"
    try:
        kept = np.asarray(Image.open(path))
    except OSError:
        raise ReproError(f"{path} is missing or damaged", cure) from None
    if kept.shape != (canvas[0], count * canvas[1]):
        raise ReproError(f"{path} does not hold {count} label maps of {size_text(canvas)}", cure)
    return np.split(kept, count, axis=1)


def _kept_images(
    group: Sequence[Result], artifact: Callable[[Result], str], results_dir: Path
) -> tuple[Sequence[str], list[tuple[Any, ...]]]:
    """The names of the classes; each test image followed by what each run kept of it."""
    info, samples = shown_images(group[0], group[0].metrics["images"])
    kept = [kept_lines(result, artifact(result), results_dir, len(samples)) for result in group]
    return info.classes, list(zip(samples, *kept, strict=True))


def _draw_stages(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: objects, then proposals and final boxes of each model, and an RPN's matched anchors."""
    names, images = _kept_images(group, lambda result: "stages", results_dir)
    shown = [[stage for stage in _STAGES if stage in entry] for entry in images[0][1:]]
    titles, rows = ["objects"], []
    for title, stages in zip(titles_of(group), shown, strict=True):
        titles += [f"{title}: {stage}" for stage in (*stages, "final boxes")]
    for sample, *entries in images:
        image, scale = enlarged(sample.image, _STAGE)
        row = [draw_boxes(image, sample.boxes * scale, sample.classes, names)]
        for entry, stages in zip(entries, shown, strict=True):
            row += [_outlined(image, np.reshape(entry[stage], (-1, 4)) * scale, _STAGES[stage]) for stage in stages]
            row.append(draw_answer(image, entry, sample.image.shape[:2], names))
        rows.append(row)
    return grid(rows, titles, cell=(_STAGE, _STAGE))


def _draw_instances(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: the true instances, then each model's instances or, where it has none, boxes."""
    names, images = _kept_images(group, _artifact, results_dir)
    rows = []
    for sample, *entries in images:
        image, _ = enlarged(sample.image, LONGEST)
        truth = draw_instances(image, enlarge_masks(sample.masks, image.shape[:2]), sample.classes, names)
        rows.append([image, truth, *(draw_answer(image, entry, sample.image.shape[:2], names) for entry in entries)])
    return grid(rows, ["image", "objects", *titles_of(group)], cell=(LONGEST, LONGEST))


def enlarged(image: np.ndarray, longest: int) -> tuple[np.ndarray, float]:
    """An image [H,W,C] in RGB, its longest side that of a cell, so that lines and letters are sharp, and its scale."""
    scale = longest / max(image.shape[:2])
    size = round(image.shape[0] * scale), round(image.shape[1] * scale)
    return resize(rgb(image), size), scale


def _outlined(image: np.ndarray, boxes: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for x1, y1, x2, y2 in boxes:
        draw.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour)
    return np.array(picture)


def kept_lines(result: Result, artifact: str, results_dir: Path, count: int) -> list[dict[str, Any]]:
    """What a run kept of its `count` sampled test images. Raises ReproError where that is gone or damaged."""
    path = results_dir / result.experiment / result.artifacts[artifact].file
    try:
        kept = [json.loads(line) for line in path.read_text().splitlines()]
    except (OSError, ValueError):
        raise ReproError(f"{path} is missing or damaged", f"restore it, or run {result.experiment} again") from None
    if len(kept) != count:
        raise ReproError(f"{path} does not hold {count} images", f"run {result.experiment} again")
    return kept


def draw_answer(
    image: np.ndarray,
    entry: dict[str, Any],
    original: tuple[int, int],
    names: Sequence[str],
    colours: np.ndarray | None = None,
) -> np.ndarray:
    """The kept instances or, where a network has none, boxes over an enlarged image; they are in pixels of the
    original (height, width). `colours`: of each class, where instances of one are to look the same."""
    classes, scores = entry["classes"], entry["scores"]
    if "masks" in entry:
        masks = np.array([decode_rle(mask) for mask in entry["masks"]], bool).reshape(-1, *original)
        palette = None if colours is None else colours[np.array(classes, int)]
        return draw_instances(image, enlarge_masks(masks, image.shape[:2]), classes, names, palette, scores)
    boxes = np.array(entry["boxes"], float).reshape(-1, 4) * (max(image.shape[:2]) / max(original))
    return draw_boxes(image, boxes, classes, names, scores=scores)
