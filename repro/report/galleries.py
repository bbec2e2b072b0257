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

from repro.data.base import VOID
from repro.data.cache import letterbox
from repro.data.catalog import open_dataset
from repro.data.masks import decode_rle
from repro.drawing.overlays import draw_boxes, draw_instances, enlarge_masks, grid, legend, resize, rgb
from repro.drawing.palette import Palette, colourise, voc_colormap
from repro.errors import ReproError
from repro.records.result import Result
from repro.records.samples import sample_indices
from repro.report.figures import Picture
from repro.report.pooling import canvas_of, model_rank, model_title, size_text

PUBLISHABLE = ("shapes",)
_MODELS = 6  # side by side, beside picture and truth
_PADDING = (236, 236, 236)
_PROPOSED, _ANCHOR = (0, 114, 178), (213, 94, 0)
_STAGE = 260  # pixels of a picture of stages
LONGEST = 240  # pixels of a picture of instances
# of each generation what is shown side by side, beside picture and truth
_COMPARED = ("faster_rcnn", "faster_rcnn_resnet101", "yolo_v3", "mask_rcnn", "mask_rcnn_fpn")
_CELL = (160, 280)  # pictures whose longer side is between these are shown as they are


def _groups(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The newest run with kept predictions of each experiment, first seed first, by what they may share a gallery:
    test images, and the canvas they lie on."""
    newest: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: (-r.seed, r.started)):
        if _is_shown(result):
            newest[result.experiment] = result
    groups: dict[tuple[str, ...], list[Result]] = {}
    for result in sorted(newest.values(), key=lambda r: (model_rank(r.model), model_title(r), r.experiment)):
        name = f"{result.dataset.name}_{size_text(canvas_of(result))}"
        groups.setdefault((name, result.dataset.split, result.dataset.fingerprint), []).append(result)
    shared = Counter(name for name, *_ in groups)
    parts = {}
    for (name, _, fingerprint), group in sorted(groups.items()):
        name += f"_{fingerprint[:8]}" if shared[name] > 1 else ""
        for first in range(0, len(group), _MODELS):
            parts[name + (f"_{first // _MODELS + 1}" if first else "")] = group[first : first + _MODELS]
    return parts


def _is_shown(result: Result) -> bool:
    return result.status == "ok" and result.kind == "train" and "samples" in result.artifacts


def titles_of(group: Sequence[Result]) -> list[str]:
    """A title for each run; runs that would have the same one are told apart by their experiment."""
    titles = [model_title(result) for result in group]
    return [
        f"{title}, {result.experiment}" if titles.count(title) > 1 else title
        for title, result in zip(titles, group, strict=True)
    ]


def _draw(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: picture, truth, each model. Raises ReproError when predictions or data are gone."""
    first = group[0]
    dataset = open_dataset(first.dataset.name, **first.config["data"].get("options", {}))
    dataset.prepare()
    names = dataset.info.semantic_classes
    palette = dataset.info.palette or [tuple(map(int, colour)) for colour in voc_colormap(len(names))]
    canvas = canvas_of(first)
    indices = sample_indices(dataset.size(first.dataset.split))
    columns = [_samples(result, results_dir, canvas, len(indices)) for result in group]
    rows, void, padded = [], False, False
    for number, index in enumerate(indices):
        record = letterbox(dataset.sample(first.dataset.split, index), canvas)
        padding = np.ones(canvas, bool)
        padding[: record["valid_size"][0], : record["valid_size"][1]] = False
        labels = [record["semantic"], *(column[number] for column in columns)]
        rows.append([_painted(rgb(record["image"]), padding), *(_coloured(m, palette, padding) for m in labels)])
        void = void or bool((record["semantic"][~padding] == VOID).any())
        padded = padded or bool(padding.any())
    extra = [("void, not scored", voc_colormap()[VOID])] * void + [("padding", _PADDING)] * padded
    titles, cell = ["image", "truth", *titles_of(group)], _cell(canvas)
    shown = [*names, *(name for name, _ in extra)], [*palette, *(colour for _, colour in extra)]
    return grid(rows, titles, legend=legend(*shown, (max(cell[1], _CELL[0]) + 8) * len(titles)), cell=cell)


def _coloured(labels: np.ndarray, palette: Palette, padding: np.ndarray) -> np.ndarray:
    return _painted(colourise(labels, palette), padding)


def _painted(picture: np.ndarray, padding: np.ndarray) -> np.ndarray:
    return np.where(padding[..., None], np.array(_PADDING, np.uint8), picture)


def _cell(size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) a picture is shown at: reduced where it is large, enlarged by a whole number where small."""
    low, high = _CELL
    longest = max(size)
    scale: Any = high / longest if longest > high else 1 if longest >= low else high // longest
    return round(size[0] * scale), round(size[1] * scale)


def _samples(result: Result, results_dir: Path, canvas: tuple[int, int], count: int) -> list[np.ndarray]:
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


def semantic_pictures(results: Sequence[Result], results_dir: Path) -> dict[str, Picture]:
    """Label maps by file name."""
    pictures = {}
    for name, group in _groups(results).items():
        data = [
            [title, result.artifacts["samples"].sha256, result.dataset.fingerprint]
            for title, result in zip(titles_of(group), group, strict=True)
        ]
        draw = functools.partial(_draw, group, results_dir)
        pictures[f"gallery_{name}.png"] = Picture(data, draw, private=not is_publishable(group[0]))
    return pictures


def is_publishable(result: Result) -> bool:
    """Whether the pictures that a run saw may be shown: photographs are not ours to publish."""
    return result.dataset.name in PUBLISHABLE


def stage_pictures(results: Sequence[Result], results_dir: Path) -> dict[str, Picture]:
    """The stages of detectors by file name."""
    groups = groups_of(results)
    return drawn("stages", groups, lambda r: r.artifacts["stages"].sha256, _draw_stages, results_dir)


def groups_of(results: Sequence[Result]) -> dict[str, list[Result]]:
    """The newest run with kept stages of each experiment, first seed first, by the test images they share."""
    newest: dict[str, Result] = {}
    for result in sorted(results, key=lambda r: (-r.seed, r.started)):
        if result.status == "ok" and "stages" in result.artifacts and result.dataset:
            newest[result.experiment] = result
    groups: dict[str, list[Result]] = {}
    for result in sorted(newest.values(), key=lambda r: (model_rank(r.model), model_title(r), r.experiment)):
        key = f"{result.dataset.name}_{result.dataset.fingerprint[:8]}_{result.metrics['images']}"
        groups.setdefault(key, []).append(result)
    return groups


def drawn(
    what: str,
    groups: dict[str, list[Result]],
    digest: Callable[[Result], str],
    draw: Callable[[Sequence[Result], Path], np.ndarray],
    results_dir: Path,
) -> dict[str, Picture]:
    """A picture `gallery_<what>_<data>.png` of each group. `digest`: of what is drawn of a run."""
    pictures: dict[str, Picture] = {}
    for key, group in sorted(groups.items()):
        data = [[title, digest(result)] for title, result in zip(titles_of(group), group, strict=True)]
        name = f"gallery_{what}_{key.rsplit('_', 2)[0]}.png"
        private = not is_publishable(group[0])
        picture = Picture([key, data], functools.partial(draw, group, results_dir), private)
        pictures[name if name not in pictures else f"gallery_{what}_{key}.png"] = picture
    return pictures


def _draw_stages(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: objects, then proposals and final boxes of each model, and an RPN's matched anchors."""
    first = group[0]
    dataset = open_dataset(first.dataset.name, **first.config["data"].get("options", {}))
    dataset.prepare()
    names, split = dataset.info.classes, first.dataset.split
    indices = sample_indices(first.metrics["images"])
    kept = [kept_lines(result, "stages", results_dir, len(indices)) for result in group]
    titles = ["objects"]
    for title, stages in zip(titles_of(group), kept, strict=True):
        titles += [f"{title}: {stage}" for stage in _shown(stages[0])]
    rows = []
    for number, index in enumerate(indices):
        sample = dataset.sample(split, index)
        image, scale = enlarged(sample.image, _STAGE)
        row = [draw_boxes(image, sample.boxes * scale, sample.classes, names)]
        for stages in kept:
            entry = stages[number]
            for stage in _shown(stages[0]):
                if stage == "final boxes":
                    boxes = np.array(entry["boxes"], float).reshape(-1, 4) * scale
                    row.append(draw_boxes(image, boxes, entry["classes"], names, scores=entry["scores"]))
                else:
                    colour = _ANCHOR if stage == "anchors" else _PROPOSED
                    row.append(_outlined(image, np.array(entry[stage], float).reshape(-1, 4) * scale, colour))
        rows.append(row)
    return grid(rows, titles, cell=(_STAGE, _STAGE))


def _shown(entry: dict[str, Any]) -> list[str]:
    return [stage for stage in ("proposals", "anchors") if stage in entry] + ["final boxes"]


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


def instance_pictures(results: Sequence[Result], results_dir: Path) -> dict[str, Picture]:
    """The same pictures through detectors and instance segmentation, a gallery for each data set that has both."""
    groups = {
        key: [result for result in group if result.model in _COMPARED]
        for key, group in groups_of(results).items()
        if any("instances" in result.artifacts for result in group)
    }
    return drawn("instances", groups, lambda r: r.artifacts[_artifact(r)].sha256, _draw_instances, results_dir)


def _artifact(result: Result) -> str:
    return "instances" if "instances" in result.artifacts else "stages"


def _draw_instances(group: Sequence[Result], results_dir: Path) -> np.ndarray:
    """Rows: pictures. Columns: the true instances, then each model's instances or, where it has none, boxes."""
    first = group[0]
    dataset = open_dataset(first.dataset.name, **first.config["data"].get("options", {}))
    dataset.prepare()
    names, split = dataset.info.classes, first.dataset.split
    indices = sample_indices(first.metrics["images"])
    kept = [kept_lines(result, _artifact(result), results_dir, len(indices)) for result in group]
    rows = []
    for number, index in enumerate(indices):
        sample = dataset.sample(split, index)
        image, _ = enlarged(sample.image, LONGEST)
        truth = draw_instances(image, enlarge_masks(sample.masks, image.shape[:2]), sample.classes, names)
        original = sample.image.shape[:2]
        rows.append([image, truth, *(draw_answer(image, lines[number], original, names) for lines in kept)])
    return grid(rows, ["image", "objects", *titles_of(group)], cell=(LONGEST, LONGEST))


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
