"""Instance segmentation: what the mask branch costs, and the found instances of the same test pictures.

Pictures of generated data go into tables/, those of photographs to runs/gallery/, as `repro.report.gallery` says."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from repro import facts
from repro.data.base import open_dataset
from repro.harness.record import Result
from repro.harness.samples import sample_indices
from repro.masks import decode_rle
from repro.report.figures import Picture
from repro.report.gallery import titles_of
from repro.report.overlays import draw_boxes, draw_instances, enlarge_masks, grid
from repro.report.pooling import (
    CODE,
    SCALES,
    SETUP,
    CodeHash,
    Pool,
    heading,
    pooled_timing,
    protocol_notes,
    setup_of,
    size_text,
    speed_pools,
    timing_text,
)
from repro.report.render import Row, Section, columns
from repro.report.stages import drawn, enlarged, groups_of, kept_lines

LONGEST = 240  # pixels of a cell
# side by side, beside picture and truth: what of each generation is shown
_SHOWN = ("faster_rcnn", "faster_rcnn_resnet101", "yolo_v3", "mask_rcnn", "mask_rcnn_fpn")


def overhead_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """The time of an image with the mask branch and without, by scale, beside what is printed."""
    shown = (*columns("id:row", "model"), *SETUP, *columns("driver*", "boxes:boxes ms", "masks:with masks ms", "n"))
    shown += columns(
        "overhead:mask overhead %", "paper:printed overhead %", "params:mask params M", "flops:mask GFLOPs"
    )
    pools = speed_pools((r for r in results if r.config.get("type") == "mask_overhead"), "speed", current)
    printed = facts.find_fact("mask_rcnn.overhead"), facts.find_fact("mask_rcnn_fpn.seconds")
    sections = []
    for scale in SCALES:
        chosen = [entry for entry in pools if entry.first.scale == scale]
        rows = [
            _overhead_row(entry, model, *printed)
            for entry in chosen
            for model in dict.fromkeys(card["model"] for card in entry.first.metrics["networks"].values())
        ]
        if rows:
            notes = [f"Printed: {fact.source} ({fact.note})." for fact in printed if fact]
            title = heading(scale, "The mask branch's share of the time, an image")
            sections.append(Section(title, (*shown, *CODE), tuple(rows), (*protocol_notes(chosen, "O"), *notes)))
    return sections


def _overhead_row(entry: Pool, model: str, *printed: facts.Fact | None) -> Row:
    boxes, masks = (pooled_timing(entry.results, f"{model}.{branch}") for branch in ("boxes", "masks"))
    without, card = (entry.first.metrics["networks"][f"{model}.{branch}"] for branch in ("boxes", "masks"))
    overhead = 100 * (masks.median / boxes.median - 1)
    depth = "" if card["depth"] == 1 else f", depth {card['depth']:g}"
    cells, values = setup_of(entry)
    cells |= {
        "id": entry.row_id("O"), "model": model, "driver": entry.first.machine.driver,
        "width": f"{card['width']:g}{depth}", "input": size_text(card["input_size"]),
        "boxes": timing_text(boxes), "masks": timing_text(masks), "n": str(min(boxes.n, masks.n)),
        "overhead": f"{overhead:.1f}", "params": f"{(card['params'] - without['params']) / 1e6:.2f}",
        "flops": f"{(card['flops'] - without['flops']) / 1e9:.1f}", "paper": _printed_overhead(model, *printed),
    }  # fmt: skip
    values |= {"model": model, "boxes_ms": boxes.median, "masks_ms": masks.median, "overhead": overhead}
    return Row(cells["id"], cells, values, entry.files)


def _printed_overhead(model: str, general: facts.Fact | None, seconds: facts.Fact | None) -> str:
    """The paper's figure for Mask R-CNN as such, and Detectron's for the pyramid."""
    parts = [f"about {general.value:g}"] if general else []
    if seconds and model == "mask_rcnn_fpn":
        parts.append(f"{100 * (seconds.value['masks'] / seconds.value['boxes'] - 1):.1f} (Detectron)")
    return "; ".join(parts)


def pictures(results: Sequence[Result], results_dir: Path) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """The same pictures through detectors and instance segmentation, a gallery for each data set that has both."""
    groups = {
        key: [result for result in group if result.model in _SHOWN]
        for key, group in groups_of(results).items()
        if any("instances" in result.artifacts for result in group)
    }
    return drawn("instances", groups, lambda r: r.artifacts[_artifact(r)].sha256, _draw, results_dir)


def _artifact(result: Result) -> str:
    return "instances" if "instances" in result.artifacts else "stages"


def _draw(group: Sequence[Result], results_dir: Path) -> np.ndarray:
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
