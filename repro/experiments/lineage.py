"""R-CNN, Fast R-CNN and Faster R-CNN stage by stage, on the same image, backbone and machine, in one run."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np

from repro import facts, registry
from repro.data.catalog import open_dataset
from repro.engine.timing import PROTOCOL, bind, measure, summary
from repro.experiments.kind import of_kind
from repro.experiments.timed import Timed
from repro.records.result import Result, Timing
from repro.records.run import Progress, dataset_of
from repro.records.settings import Data, Network
from repro.report.cards import headline_rows, scale_sections, timing_values
from repro.report.pooling import CODE, SETUP, Pool, pooled_timing, protocol_notes, row_of, timing_text
from repro.report.render import Row, Section, TableInfo, columns, fixed, number

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_CAPTION = (
    "Milliseconds for one image, median with the 5th to 95th percentile, after warm-up, device synchronised. "
    "`total` is the detector from the image on the device to its final boxes; selective search comes on top of "
    "R-CNN and Fast R-CNN. `x Fast` is the time divided by Fast R-CNN's, once with and once without selective "
    "search. The papers' seconds are those of a Tesla K40 without selective search (Fast R-CNN, Table 4; Faster "
    "R-CNN, Table 5, which needs none)."
)
_RPN_CAPTION = (
    "The 10 ms that Faster R-CNN prints for proposals are the RPN's layers with the selection of proposals, given "
    "the shared map; from the pixels they take the backbone's time too."
)
_GENERATIONS = {
    "rcnn": "R-CNN", "fast_rcnn": "Fast R-CNN", "fast_rcnn_svd": "Fast R-CNN, SVD", "faster_rcnn": "Faster R-CNN",
}  # fmt: skip
_FAST_STAGES = {name: name for name in ("backbone", "roi", "head", "nms")}
# what a stage of the table is in each generation's timings
_STAGES = {
    "rcnn": {"roi": "warp", "head": "network", "classify": "classify", "nms": "nms"}, "fast_rcnn": _FAST_STAGES,
    "fast_rcnn_svd": _FAST_STAGES,
    "faster_rcnn": {name: name for name in ("backbone", "rpn", "propose", "roi", "head", "nms")},
}  # fmt: skip
# Tesla K40: Fast R-CNN, Table 4 (VGG-16, selective search apart), and Faster R-CNN, Table 5
_PRINTED = {
    "rcnn": "rcnn.latency_vgg16", "fast_rcnn": "fast_rcnn.latency_vgg16",
    "fast_rcnn_svd": "fast_rcnn.latency_vgg16_svd", "faster_rcnn": "faster_rcnn.stages_vgg16",
}  # fmt: skip


class Lineage(Timed, tag="lineage", kw_only=True, frozen=True):
    """Time R-CNN, Fast R-CNN and Faster R-CNN on VGG-16, stage by stage, on the first `images` of the test split.

    canvas: (height, width) the images are fitted into; region: R-CNN's warped side; proposals: mode of selective
    search; svd: inner widths of the compressed Fast R-CNN."""

    SUBJECT: ClassVar[str] = "rcnn"  # the first of the line stands for all
    MODULES: ClassVar[tuple[str, ...]] = (
        "models.rcnn",
        "models.fast_rcnn",
        "models.faster_rcnn",
        "proposals.selective_search",
    )
    TABLES: ClassVar[tuple[TableInfo, ...]] = (
        TableInfo("rcnn_lineage_speed", "R-CNN, Fast R-CNN and Faster R-CNN, stage by stage", (_CAPTION,)),
        TableInfo("rpn_speed", "The time of region proposals", (_RPN_CAPTION,)),
    )

    data: Data
    images: int = 1
    canvas: tuple[int, int] = (600, 1000)
    region: int = 224
    proposals: str = "fast"
    search: dict[str, Any] = msgspec.field(default_factory=dict)
    num_proposals: int = 2000
    num_classes: int = 20
    width: float = 1.0
    depth: float = 1.0
    svd: tuple[int, int] = (1024, 256)

    def measure(self, progress: Progress) -> dict[str, Any]:
        """Every stage, image by image."""
        from repro.proposals.selective_search import selective_search
        from repro.tasks.stages import fit_scene

        dataset = open_dataset(self.data.name, **self.data.options)
        dataset.prepare()
        scenes, seconds, sizes = [], [], []
        for index in range(self.images):
            image = dataset.sample(self.data.test, index).image
            # selective search sees the image as it is, as R-CNN's does; its boxes are then mapped to the canvas
            started = time.perf_counter()
            found = selective_search(image, self.proposals, self.num_proposals, **self.search)
            seconds.append(time.perf_counter() - started)
            scenes.append(fit_scene(image, found, self.canvas, self.num_proposals))
            sizes.append(len(found))
            progress(0.1 * (index + 1) / self.images, "selective search")
        timings = {"selective_search": summary(seconds, "ms")}
        detectors: dict[str, tuple[str, dict[str, Any]]] = {
            "faster_rcnn": ("faster_rcnn", {}),
            "fast_rcnn": ("fast_rcnn", {"proposals": self.num_proposals}),
            "fast_rcnn_svd": ("fast_rcnn", {"proposals": self.num_proposals, "svd": self.svd}),
        }
        for done, (prefix, (name, options)) in enumerate(detectors.items()):
            stages = time_detector(name, options, scenes, self)
            timings |= {f"{prefix}.{stage}": timing for stage, timing in stages.items()}
            progress(0.2 + 0.1 * done, f"{prefix} timed")
        timings |= {f"rcnn.{stage}": timing for stage, timing in time_rcnn(scenes, self, progress).items()}
        return dict(
            scale=scale_of(self),
            width=self.width,
            depth=self.depth,
            input_size=self.canvas,
            metrics={"images": self.images, "proposals": sizes, "canvas": list(self.canvas)},
            protocol={
                **PROTOCOL,
                "weights": "random: more boxes reach the last non-maximum suppression than from a trained network",
                "timed region": "stages are compiled one by one; `total` is one program from the image on the device "
                "to the final boxes, without selective search; R-CNN's total is the sum of its stages",
                "selective search": f"{self.proposals} mode, one core, on the image at its own size",
            },
            dataset=dataset_of(dataset, self.data.test),
            timings=timings,
        )

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Stages with their ratios to Fast R-CNN, and the RPN's share."""
        own = of_kind(results, cls)
        return {"rcnn_lineage_speed": lineage_sections(own), "rpn_speed": rpn_sections(own)}

    @classmethod
    def headline(cls, results: Sequence[Result]) -> list[list[str]]:
        """The whole of each generation, a row for each device."""
        names = {name: title for name, title in _GENERATIONS.items() if name != "fast_rcnn_svd"}
        where = "an image to its final boxes, without selective search"
        return headline_rows(of_kind(results, cls), "L", "R-CNN line", where, lambda result: names)


def scale_of(settings: Lineage) -> str:
    """Whole networks on the paper's canvas with its number of proposals are "paper", narrower ones "smoke"."""
    if settings.width < 1 or settings.depth < 1:
        return "smoke"
    return "paper" if settings.canvas == (600, 1000) and settings.num_proposals == 2000 else "reduced"


def time_detector(name: str, options: dict[str, Any], scenes: list[Any], settings: Lineage) -> dict[str, Timing]:
    """Backbone, RPN, RoI pooling, head, NMS and the whole of a detector, in ms."""
    from repro.tasks.networks import build
    from repro.tasks.stages import stage_inputs, stage_programs

    size: dict[str, Any] = {"width": settings.width, "depth": settings.depth, "input_size": settings.canvas}
    network = build(Network(name=name, options=options, **size), settings.num_classes, 3)
    programs = stage_programs(network, registry.module_of(name).detect)
    collected: dict[str, list[Timing]] = {}
    for scene in scenes:
        calls = {stage: bind(programs[stage], given) for stage, given in stage_inputs(programs, scene).items()}
        found = measure(calls, settings.warmup, settings.repetitions, settings.seconds / settings.images)[1]
        for stage, timing in found.items():
            collected.setdefault(stage, []).append(timing)
    return {stage: pooled(timings) for stage, timings in collected.items()}


def time_rcnn(scenes: list[Any], settings: Lineage, progress: Progress) -> dict[str, Timing]:
    """R-CNN's stages and their sum, in ms; each image once, after a warm-up with one batch of regions."""
    from repro.tasks.stages import rcnn_seconds, untrained_rcnn

    region = (settings.region, settings.region)
    network = Network(name="rcnn", width=settings.width, depth=settings.depth, input_size=region)
    predictor = untrained_rcnn(network, settings.num_classes, settings.num_proposals)
    seconds: dict[str, list[float]] = {}
    for done, scene in enumerate(scenes, 1):
        found = rcnn_seconds(predictor, scene)
        for stage, value in (found | {"total": sum(found.values())}).items():
            seconds.setdefault(stage, []).append(value)
        progress(0.5 + 0.5 * done / len(scenes), f"R-CNN {done}/{len(scenes)}")
    return {stage: summary(values, "ms") for stage, values in seconds.items()}


def pooled(timings: list[Timing]) -> Timing:
    """Timings of several images as one: the mean of their medians, the widest spread, all repetitions."""
    return Timing(
        median=float(np.mean([timing.median for timing in timings])),
        p5=min(timing.p5 for timing in timings),
        p95=max(timing.p95 for timing in timings),
        n=sum(timing.n for timing in timings),
        unit=timings[0].unit,
    )


def lineage_sections(results: Sequence[Result]) -> list[Section]:
    """Milliseconds an image by stage, with the ratios to Fast R-CNN, by scale."""
    shown = (*columns("id:row", "model"), *SETUP, *columns("driver*", "search:selective search", "backbone"))
    shown += columns("rpn:RPN", "propose:proposals + NMS", "roi:RoI or warp", "head:head or network")
    shown += columns("classify:SVMs + boxes", "nms:NMS", "total", "n", "rate:images/s", "ratio:x Fast, all")
    shown += columns("bare:x Fast, without search", "paper:paper, K40", "paper_bare:paper, x Fast")
    return scale_sections("Milliseconds an image", (*shown, *CODE), results, _generation_rows, _notes)


def _notes(pools: Sequence[Pool], rows: Sequence[Row]) -> list[str]:
    counts: dict[int, list[int]] = {}
    for result in (r for entry in pools for r in entry.results):
        counts.setdefault(result.metrics["images"], []).extend(result.metrics["proposals"])
    return protocol_notes(pools, "L") + [
        f"{count} image{'s' if count > 1 else ''}, {_range(found)} proposals each." for count, found in counts.items()
    ]


def _range(counts: list[int]) -> str:
    least, most = min(counts), max(counts)
    return str(most) if least == most else f"{least} to {most}"


def _generation_rows(entry: Pool) -> list[Row]:
    return [_row(entry, model) for model in _GENERATIONS if pooled_timing(entry.results, f"{model}.total")]


def _row(entry: Pool, model: str) -> Row:
    row = row_of(entry, "L")
    times = {key: pooled_timing(entry.results, f"{model}.{name}") for key, name in _STAGES[model].items()}
    own, fast = (pooled_timing(entry.results, f"{name}.total") for name in (model, "fast_rcnn"))
    times |= {"search": _search(entry, model), "total": own}
    whole, reference = _whole(entry, model), _whole(entry, "fast_rcnn")
    ratio = whole / reference if whole and reference else None
    bare = own.median / fast.median if own and fast else None
    printed, source = _printed_seconds(model)
    printed_fast, _ = _printed_seconds("fast_rcnn")
    printed_bare = printed / printed_fast if printed and printed_fast else None
    rate = 1000 / whole if whole else None
    row.cells |= {key: timing_text(timing) for key, timing in times.items()}
    row.cells |= {"model": _GENERATIONS[model], "n": str(own.n) if own else "", "rate": number(rate)}
    row.cells |= {"ratio": number(ratio), "bare": number(bare), "paper_bare": number(printed_bare)}
    row.cells["paper"] = f"{printed:g} s" if printed else ""
    row.values |= {"generation": model, "driver": row.cells["driver"] or None} | timing_values(times)
    row.values |= {"images_per_second": rate, "whole_over_fast": ratio, "total_over_fast": bare}
    row.values |= {"paper_seconds": printed, "paper_source": source or None, "paper_over_fast": printed_bare}
    return row


def _search(entry: Pool, model: str) -> Timing | None:
    """Selective search's time; Faster R-CNN needs none."""
    return None if model == "faster_rcnn" else pooled_timing(entry.results, "selective_search")


def _whole(entry: Pool, model: str) -> float | None:
    """Milliseconds from the image to its final boxes, proposals included."""
    total, search = pooled_timing(entry.results, f"{model}.total"), _search(entry, model)
    return total.median + (search.median if search else 0.0) if total else None


def _printed_seconds(model: str) -> tuple[float | None, str]:
    fact = facts.find_fact(_PRINTED[model])
    if fact is None:
        return None, ""
    value: Any = fact.value.get("total") if isinstance(fact.value, dict) else fact.value
    return (value / 1000 if fact.unit == "ms" else value), fact.source


def rpn_sections(results: Sequence[Result]) -> list[Section]:
    """The RPN's layers alone, with its backbone, its proposals with NMS, beside selective search, by scale."""
    shown = (*columns("id:row", "what"), *SETUP, *columns("driver*", "time:ms", "n", "paper:paper, K40 ms"), *CODE)
    return scale_sections("Region proposals, an image", shown, results, _proposal_rows)


def _proposal_rows(entry: Pool) -> Iterator[Row]:
    stages = _fact_value("faster_rcnn.stages_vgg16")
    search = _fact_value("fast_rcnn.stages_selective_search_vgg16")
    both = stages["conv"] + stages["proposal"] if {"conv", "proposal"} <= stages.keys() else None
    parts = (
        ("RPN layers alone", ("faster_rcnn.rpn",), None),
        ("proposals: decode, sort, NMS", ("faster_rcnn.propose",), None),
        ("RPN layers and proposals", ("faster_rcnn.rpn", "faster_rcnn.propose"), stages.get("proposal")),
        ("with the backbone", ("faster_rcnn.backbone", "faster_rcnn.rpn", "faster_rcnn.propose"), both),
        ("whole Faster R-CNN", ("faster_rcnn.total",), stages.get("total")),
        ("selective search", ("selective_search",), search.get("proposal")),
    )
    for what, names, printed in parts:
        timings = [timing for name in names if (timing := pooled_timing(entry.results, name))]
        if len(timings) < len(names):
            continue
        row, total, n = row_of(entry, "R"), sum(t.median for t in timings), min(t.n for t in timings)
        time_text = timing_text(timings[0]) if len(timings) == 1 else number(total)
        row.cells |= {"what": what, "time": time_text, "n": str(n), "paper": fixed(printed, "g")}
        row.values |= {"what": what, "ms": total, "n": n, "paper_ms": printed}
        yield row


def _fact_value(key: str) -> dict[str, Any]:
    fact = facts.find_fact(key)
    return fact.value if fact is not None and isinstance(fact.value, dict) else {}
