"""YOLO v2's dimension clusters: how well k centres cover the sizes of a data set's boxes, for each k.

Redmon & Farhadi, "YOLO9000: Better, Faster, Stronger", CVPR 2017, Section 2, Figure 2 and Table 1.
"""

import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure

from repro import facts
from repro.data.catalog import open_dataset
from repro.errors import ReproError
from repro.experiments.kind import Kind, is_generated, of_kind
from repro.records.result import Result
from repro.records.run import Outcome, Progress, Run, dataset_of
from repro.records.settings import Data
from repro.report import pooling
from repro.report.cost import newest_pools
from repro.report.figures import COLOURS, Picture
from repro.report.pooling import CODE, Estimate, Pool, data_title, estimate, heading, size_text
from repro.report.render import Row, Section, TableInfo, columns, fixed

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
CELL = 32  # pixels of the canvas: the unit of anchors in YOLO v2's .cfg files
MOST = 50_000  # sizes that are clustered; the average IoU is that of all
_SHORTER, _LONGER = 600, 1000  # the sides that Faster R-CNN scales images to (Section 3.3 of its paper)
_CAPTION = (
    "How well k centres cover the sizes of the boxes of a training split: the mean over boxes of the IoU with the "
    "nearest centre, both around one point. `fitted` keeps the aspect of images, as this suite's networks see "
    "them; `stretched` takes boxes as shares of their image, as Darknet does. Cells have 32 pixels."
)
_PRINTED_IOU = {5: "yolo_v2.average_iou_k5", 9: "yolo_v2.average_iou_k9"}
_PRINTED_HAND_PICKED = "yolo_v2.average_iou_hand_picked"
# (start of the data set's name, k) -> fact and pixels of its unit on a canvas of 416 pixels
_PRINTED_CENTRES = {
    ("voc", 5): ("yolo_v2.anchors_voc", 32),
    ("coco", 5): ("yolo_v2.anchors_coco", 32),
    ("coco", 9): ("yolo_v3.anchors", 1),
}
_PRINTED_CANVAS = (416, 416)
_SHOWN_CENTRES = (5, 9)


class Anchors(Kind, tag="anchors", frozen=True):
    """Cluster the sizes of a data set's boxes under 1 - IoU (YOLO v2, Section 2), for each k; `size`: (height, width)
    images are fitted into."""

    RESULT: ClassVar[str] = "inspect"
    MODULES: ClassVar[tuple[str, ...]] = ("solvers",)
    TABLES: ClassVar[tuple[TableInfo, ...]] = (TableInfo("anchors", "Anchors: clusters of box sizes", (_CAPTION,)),)

    data: Data
    size: tuple[int, int]
    ks: tuple[int, ...] = tuple(range(1, 16))
    restarts: int = 10

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Cluster the box sizes of the training split; k-means starts from the seed."""
        from repro.solvers import average_iou

        dataset = open_dataset(self.data.name, **self.data.options)
        dataset.prepare()
        sizes = box_sizes(dataset, self.data, self.size, lambda part: progress(0.5 * part, "reading boxes"))
        hand = hand_picked()
        for number, run in enumerate(runs):
            clusters: dict[str, dict[str, Any]] = {}
            for k in self.ks:
                clusters[str(k)] = {
                    **clustered(sizes["fitted"], k, run.seed, self.restarts),
                    "average_iou_stretched": clustered(sizes["stretched"], k, run.seed, self.restarts)["average_iou"],
                }
                done = number + len(clusters) / len(self.ks)
                progress(0.5 + 0.5 * done / len(runs), f"seed {run.seed}, {k} clusters")
            yield Outcome(
                scale=scale_of(self.data, dataset),
                metrics={
                    "images": sizes["images"],
                    "boxes": len(sizes["fitted"]),
                    "clusters": clusters,
                    "hand_picked": {"count": len(hand), "average_iou": average_iou(sizes["faster_rcnn"], hand)},
                },
                protocol=_protocol(self),
                dataset=dataset_of(dataset, self.data.train),
                input_size=self.size,
                deterministic=True,
            )

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """The average IoU for each k beside the paper's, and the centres, for every data set."""
        pools = sorted(_pools(results), key=lambda entry: pooling.SCALES.index(entry.first.scale))
        return {"anchors": [section for entry in pools for section in _sections(entry)]}

    @classmethod
    def figures(cls, results: Sequence[Result]) -> Mapping[str, Picture | str]:
        """Average IoU against k."""
        picture = _figure(_pools(results))
        return {"anchors.png": picture} if picture else {}


def _protocol(settings: Anchors) -> dict[str, str]:
    return {
        "distance": "1 - IoU of boxes that share their centre; a centre is the median of its boxes, the best "
        f"of {settings.restarts} starts",
        "boxes": f"of the training split, without difficult and crowd objects; at most {MOST} are clustered, "
        "all are averaged over",
        "fitted": f"images fitted into {size_text(settings.size)}, their aspect kept",
        "stretched": "images stretched to the canvas, which gives a box its share of the image",
        "hand-picked": "the nine of Faster R-CNN, with images at its scale",
    }


def scale_of(data: Data, dataset: Any) -> str:
    """All boxes of a published training split are "paper", a part of them "reduced"; generated data is "smoke"."""
    if is_generated(data):
        return "smoke"
    return "paper" if data.train_limit is None and dataset.official(data.train)[0] else "reduced"


def clustered(sizes: np.ndarray, k: int, seed: int, restarts: int) -> dict[str, Any]:
    """The k centres of sizes [N,2] in pixels, in pixels and in cells, smallest first, and the average IoU of the sizes
    with the best of them. Raises ReproError for fewer different sizes than k."""
    from repro.solvers import average_iou, kmeans_boxes

    some = sizes.copy()  # k-means works in place where there is one cluster
    if len(sizes) > MOST:
        some = sizes[np.random.default_rng(seed).choice(len(sizes), MOST, replace=False)]
    centres = kmeans_boxes(some, k, seed=seed, restarts=restarts)
    return {
        "average_iou": average_iou(sizes, centres),
        "pixels": np.round(centres, 2).tolist(),
        "cells": np.round(centres / CELL, 5).tolist(),
    }


def hand_picked() -> np.ndarray:
    """Width and height [9,2] of Faster R-CNN's anchors, in pixels of its scale."""
    from repro.ops.anchors import base_anchors

    boxes = base_anchors().astype("float64")
    return boxes[:, 2:] - boxes[:, :2]


def box_sizes(dataset: Any, data: Data, canvas: tuple[int, int], progress: Callable[[float], None]) -> dict[str, Any]:
    """Width and height float64 [N,2] of the boxes that are trained on, in pixels: `fitted` into the canvas,
    `stretched` to it, and at the scale of `faster_rcnn`; and the number of `images`.

    Raises ReproError for a data set without boxes."""
    from repro.data.cache import fit_scale

    total = dataset.size(data.train)
    images = min(data.train_limit or total, total)
    sizes: dict[str, list[np.ndarray]] = {"fitted": [], "stretched": [], "faster_rcnn": []}
    for index in range(images):
        sample = dataset.sample(data.train, index)
        if sample.boxes is None:
            break
        boxes = sample.boxes[sample.learned()].astype("float64")
        sides = boxes[:, 2:] - boxes[:, :2]
        sides = sides[(sides > 0).all(axis=1)]
        original = np.asarray(sample.image.shape[:2], "float64")
        sizes["fitted"].append(sides * (fit_scale(sample.image.shape[:2], canvas) / original)[::-1])
        sizes["stretched"].append(sides * (canvas / original)[::-1])
        sizes["faster_rcnn"].append(sides * min(_SHORTER / original.min(), _LONGER / original.max()))
        progress((index + 1) / images)
    if not any(map(len, sizes["fitted"])):
        raise ReproError(f"{data.train} of {dataset.info.name} has no boxes", "give a data set for detection")
    return {name: np.concatenate(found) for name, found in sizes.items()} | {"images": images}


def _pools(results: Sequence[Result]) -> list[Pool]:
    """The clusters of one data set and canvas, pooled over seeds and machines."""

    def key(r: Result) -> tuple[Any, ...]:
        data = r.require_dataset()
        which = (data.name, data.split, data.fingerprint, data.official)
        return (r.scale, r.experiment, *which, r.config_hash, tuple(sorted(r.versions.items())))

    return pooling.pool(of_kind(results, Anchors), key)


def _sections(entry: Pool) -> list[Section]:
    shown = columns("id:row", "k", "by", "input:canvas*", "boxes*", "seeds*", "fitted:average IoU %, fitted")
    shown += (*columns("stretched:average IoU %, stretched", "paper:paper"), *CODE)
    first = entry.first
    title = heading(first.scale, f"{data_title(first)}, {first.require_dataset().split}")
    rows = [_iou_row(entry, k, "k-means") for k in sorted(map(int, first.metrics["clusters"]))]
    rows.append(_iou_row(entry, first.metrics["hand_picked"]["count"], "hand"))
    notes = (*pooling.protocol_notes([entry], "K"), *_printed_note())
    return [Section(title, shown, tuple(rows), notes), *_centre_sections(entry, title)]


def _averages(entry: Pool, k: int, name: str = "average_iou") -> Estimate | None:
    return estimate(entry.results, lambda r: r.metrics["clusters"].get(str(k), {}).get(name))


def _iou_row(entry: Pool, k: int, by: str) -> Row:
    first, data = entry.first, entry.first.require_dataset()
    if by == "hand":
        fitted, stretched = estimate(entry.results, lambda r: r.metrics["hand_picked"]["average_iou"]), None
        printed = _printed_iou(_PRINTED_HAND_PICKED, first)
    else:
        fitted, stretched = _averages(entry, k), _averages(entry, k, "average_iou_stretched")
        printed = _printed_iou(_PRINTED_IOU.get(k, ""), first)
    cells = {"id": entry.row_id("K"), "k": str(k), "input": size_text(first.input_size)}
    cells |= {"by": "hand-picked, Faster R-CNN" if by == "hand" else "k-means", "paper": fixed(printed, "g")}
    cells |= {"boxes": f"{first.metrics['boxes']:,d}", "seeds": str(len(entry.seeds))}
    cells |= {"fitted": fitted.percent() if fitted else "", "stretched": stretched.percent() if stretched else ""}
    cells["code"] = "stale" if entry.code == "stale" else ""
    values: dict[str, Any] = {"experiment": first.experiment, "dataset": data.name, "dataset_split": data.split}
    values |= {"scale": first.scale, "canvas": cells["input"], "boxes": first.metrics["boxes"], "k": k, "by": by}
    values |= {"average_iou": fitted.mean if fitted else None, "average_iou_std": fitted.std if fitted else None}
    values |= {"average_iou_stretched": stretched.mean if stretched else None}
    values |= {"paper_average_iou": None if printed is None else printed / 100}
    values |= {"seeds": len(entry.seeds), "code": entry.code}
    return Row(cells["id"], cells, values, entry.files)


def _printed_iou(key: str, result: Result) -> float | None:
    """What the paper prints, in %; it stands beside its own kind of data alone."""
    fact = facts.find_fact(key) if result.require_dataset().name.startswith("voc") else None
    return fact.value if fact else None


def _printed_note() -> list[str]:
    named = [(f"{k} clusters", key) for k, key in _PRINTED_IOU.items()]
    found = [(what, facts.find_fact(key)) for what, key in [*named, ("9 hand-picked boxes", _PRINTED_HAND_PICKED)]]
    said = [f"{fact.value:g} % with {what} ({fact.source})" for what, fact in found if fact]
    return [f"On PASCAL VOC the paper prints {', '.join(said)}."] if said else []


def _centre_sections(entry: Pool, title: str) -> list[Section]:
    """Width x height of the centres of the best seed, smallest first, the paper's beside them."""
    shown = columns("id:row", "k", "number:centre", "cells:in cells", "pixels:in pixels", "paper:paper, in pixels")
    rows, sources = [], []
    for k in _SHOWN_CENTRES:
        found = [r.metrics["clusters"][str(k)] for r in entry.results if str(k) in r.metrics["clusters"]]
        if not found:
            continue
        best = max(found, key=lambda each: each["average_iou"])
        printed, source = _printed_centres(entry.first, k)
        sources += [f"{k}: {source}"] if source else []
        for place, (cells, pixels) in enumerate(zip(best["cells"], best["pixels"], strict=True)):
            row = {"id": entry.row_id("K"), "k": str(k), "number": str(place + 1)}
            row |= {"cells": _sides(cells, 2), "pixels": _sides(pixels, 1)}
            row["paper"] = _sides(printed[place], 1) if printed else ""
            rows.append(Row(row["id"], row, {}, entry.files))
    notes = (f"The papers' centres, on their canvas of 416x416: {'; '.join(sources)}.",) if sources else ()
    centres = Section(f"Centres: {title}", shown, tuple(rows), notes, csv=False, level=4)
    return [centres] if rows else []


def _printed_centres(result: Result, k: int) -> tuple[list[list[float]], str]:
    """The authors' anchors of this data set in pixels, smallest area first, and where they stand."""
    data = result.require_dataset().name
    kinds = [name for name, count in _PRINTED_CENTRES if count == k and data.startswith(name)]
    if not kinds or result.input_size != _PRINTED_CANVAS:
        return [], ""
    key, unit = _PRINTED_CENTRES[kinds[0], k]
    fact = facts.find_fact(key)
    if fact is None:
        return [], ""
    centres = [[unit * width, unit * height] for width, height in fact.value]
    return sorted(centres, key=lambda sides: sides[0] * sides[1]), fact.source


def _sides(sides: Sequence[float], digits: int) -> str:
    return " x ".join(f"{side:.{digits}f}" for side in sides)


def _figure(pools: Sequence[Pool]) -> Picture | None:
    """Average IoU against k, a panel for each data set and scale, with what the paper prints for VOC."""
    panels: dict[str, list[list[Any]]] = {}
    for entry in newest_pools(pools):
        first = entry.first
        ks = sorted(map(int, first.metrics["clusters"]))
        lines: list[list[Any]] = []
        for name, key in (("fitted", "average_iou"), ("stretched", "average_iou_stretched")):
            means = [found.mean for k in ks if (found := _averages(entry, k, key))]
            lines.append([f"{name}, {size_text(first.input_size)}", ks, [round(100 * mean, 3) for mean in means]])
        hand = first.metrics["hand_picked"]
        lines.append(["hand-picked, Faster R-CNN", [hand["count"]], [round(100 * hand["average_iou"], 3)]])
        panels.setdefault(heading(first.scale, data_title(first)), []).extend(lines)
    printed = [(k, facts.find_fact(key)) for k, key in _PRINTED_IOU.items()]
    points = [[k, fact.value] for k, fact in printed if fact]
    data = {"panels": sorted(panels.items()), "paper": points}
    return Picture(data, lambda: _draw_clusters(sorted(panels.items()), points)) if panels else None


def _draw_clusters(panels: list[tuple[str, list[list[Any]]]], printed: list[list[float]]) -> Figure:
    figure = Figure(figsize=(8, 4 * len(panels)), layout="constrained")
    for axis, (title, lines) in zip(figure.subplots(len(panels), 1, squeeze=False)[:, 0], panels, strict=True):
        for index, (label, ks, values) in enumerate(lines):
            style = {"marker": "s", "linestyle": ""} if len(ks) == 1 else {"marker": "o", "markersize": 3}
            axis.plot(ks, values, color=COLOURS[index % len(COLOURS)], label=label, **style)
        if printed:
            axis.plot(*zip(*printed, strict=True), "kx", label="YOLO v2's paper, PASCAL VOC")
        axis.set_title("\n".join(textwrap.wrap(title, 100)), loc="left", fontsize=11)
        axis.set(xlabel="clusters", ylabel="average IoU %")
        axis.set_xticks(sorted({k for _, ks, _ in lines for k in ks}))
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, loc="lower right")
    return figure
