"""R-CNN beside Fast and Faster R-CNN stage by stage, the RPN's share of it, and what proposals recall."""

from collections.abc import Sequence
from typing import Any

from repro import facts
from repro.harness.record import Result, Timing
from repro.report.pooling import (
    CODE,
    SCALES,
    SETUP,
    CodeHash,
    Pool,
    accuracy_pools,
    data_title,
    estimate,
    heading,
    model_title,
    pooled_timing,
    protocol_notes,
    setup_of,
    speed_pools,
    timing_text,
)
from repro.report.render import Row, Section, columns, number
from repro.report.stages import proposer_of

_GENERATIONS = {
    "rcnn": "R-CNN", "fast_rcnn": "Fast R-CNN", "fast_rcnn_svd": "Fast R-CNN, SVD", "faster_rcnn": "Faster R-CNN",
}  # fmt: skip
# what a stage of the table is in each generation's timings
_STAGES = {
    "rcnn": {"roi": "warp", "head": "network", "classify": "classify", "nms": "nms"},
    "fast_rcnn": {"backbone": "backbone", "roi": "roi", "head": "head", "nms": "nms"},
    "fast_rcnn_svd": {"backbone": "backbone", "roi": "roi", "head": "head", "nms": "nms"},
    "faster_rcnn": {"backbone": "backbone", "rpn": "rpn", "propose": "propose", "roi": "roi", "head": "head",
                    "nms": "nms"},
}  # fmt: skip
# Tesla K40: Fast R-CNN, Table 4 (VGG-16, selective search apart), and Faster R-CNN, Table 5
_PRINTED = {
    "rcnn": "rcnn.latency_vgg16",
    "fast_rcnn": "fast_rcnn.latency_vgg16",
    "fast_rcnn_svd": "fast_rcnn.latency_vgg16_svd",
    "faster_rcnn": "faster_rcnn.stages_vgg16",
}


def _lineages(results: Sequence[Result], current: CodeHash | None) -> list[Pool]:
    chosen = [r for r in results if r.config.get("type") == "lineage"]
    return speed_pools(chosen, "speed", current)


def _proposals(entry: Pool, model: str) -> Timing | None:
    """Selective search's time; Faster R-CNN needs none."""
    return None if model == "faster_rcnn" else pooled_timing(entry.results, "selective_search")


def _whole(entry: Pool, model: str) -> float | None:
    """Milliseconds from the image to its final boxes, proposals included."""
    total, search = pooled_timing(entry.results, f"{model}.total"), _proposals(entry, model)
    return total.median + (search.median if search else 0.0) if total else None


def _printed_seconds(model: str) -> tuple[float | None, str]:
    fact = facts.find_fact(_PRINTED[model])
    if fact is None:
        return None, ""
    value = fact.value
    if isinstance(value, dict):
        value = value.get("total")
    return (value / 1000 if fact.unit == "ms" else value), fact.source


def _row(entry: Pool, model: str) -> Row:
    cells, values = setup_of(entry)
    cells |= {"id": entry.row_id("L"), "model": _GENERATIONS[model], "driver": entry.first.machine.driver}
    values |= {"generation": model, "driver": cells["driver"] or None}
    times = {key: pooled_timing(entry.results, f"{model}.{name}") for key, name in _STAGES[model].items()}
    times |= {"search": _proposals(entry, model), "total": pooled_timing(entry.results, f"{model}.total")}
    for key, timing in times.items():
        cells[key] = timing_text(timing)
        values |= {f"{key}_ms_{part}": getattr(timing, part, None) for part in ("median", "p5", "p95", "n")}
    whole, reference = _whole(entry, model), _whole(entry, "fast_rcnn")
    own, fast = (pooled_timing(entry.results, f"{name}.total") for name in (model, "fast_rcnn"))
    ratio = whole / reference if whole and reference else None
    bare = own.median / fast.median if own and fast else None
    printed, source = _printed_seconds(model)
    printed_fast, _ = _printed_seconds("fast_rcnn")
    printed_bare = printed / printed_fast if printed and printed_fast else None
    cells |= {
        "n": str(own.n) if own else "",
        "rate": number(1000 / whole) if whole else "",
        "ratio": number(ratio) if ratio else "",
        "bare": number(bare) if bare else "",
        "paper": f"{printed:g} s" if printed else "",
        "paper_bare": number(printed_bare) if printed_bare else "",
    }
    values |= {"images_per_second": 1000 / whole if whole else None, "whole_over_fast": ratio}
    values |= {"total_over_fast": bare, "paper_seconds": printed, "paper_source": source or None}
    values |= {"paper_over_fast": printed_bare}
    return Row(cells["id"], cells, values, entry.files)


def lineage_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """Milliseconds an image by stage, with the ratios to Fast R-CNN, by scale; then what training took."""
    shown = (*columns("id:row", "model"), *SETUP, *columns("driver*", "search:selective search", "backbone"))
    shown += columns("rpn:RPN", "propose:proposals + NMS", "roi:RoI or warp", "head:head or network")
    shown += columns("classify:SVMs + boxes", "nms:NMS", "total", "n", "rate:images/s", "ratio:x Fast, all")
    shown += columns(
        "bare:x Fast, without search", "paper:paper, K40", "paper_bare:paper, x Fast", *(column.key for column in CODE)
    )
    sections, pools = [], _lineages(results, current)
    for scale in SCALES:
        chosen = [entry for entry in pools if entry.first.scale == scale]
        rows = tuple(
            _row(entry, model)
            for entry in chosen
            for model in _GENERATIONS
            if pooled_timing(entry.results, f"{model}.total")
        )
        if rows:
            notes = protocol_notes(chosen, "L")
            counts: dict[int, list[int]] = {}
            for result in (r for entry in chosen for r in entry.results):
                counts.setdefault(result.metrics["images"], []).extend(result.metrics["proposals"])
            notes += [
                f"{count} image{'s' if count > 1 else ''}, {_range(found)} proposals each."
                for count, found in counts.items()
            ]
            sections.append(Section(heading(scale, "Milliseconds an image"), shown, rows, tuple(notes)))
    return sections + _training_sections(results, current)


def _range(counts: list[int]) -> str:
    least, most = min(counts), max(counts)
    return str(most) if least == most else f"{least} to {most}"


def _training_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """Training time and disk of the trained detectors."""
    shown = (*columns("id:row", "model", "data*"), *SETUP, *columns("images:training images", "seeds"))
    shown += columns("training:training s", "parts", "each:s an image", "disk:disk an image, KiB", "map:mAP %")
    shown += CODE
    groups: dict[str, list[Row]] = {}
    for entry in accuracy_pools(results, "detection", current):
        first = entry.first
        seconds = [_training_seconds(result) for result in entry.results]
        images = int(first.metrics.get("train_images") or 0)
        if first.kind != "train" or not images:
            continue
        mean = sum(seconds) / len(seconds)
        cells, values = setup_of(entry)
        parts = first.metrics.get("training_seconds", {})
        disk = first.metrics.get("feature_bytes", 0) / 1024
        cells |= {
            "id": entry.row_id("D"), "data": data_title(first), "images": f"{images:,d}",
            "seeds": str(len(entry.seeds)), "training": number(mean),
            "parts": ", ".join(f"{name} {number(value)}" for name, value in parts.items()),
            "each": number(mean / images), "disk": number(disk) if disk else "0",
            "map": estimate(entry.results, lambda r: r.metrics["map"]).percent(),
        }  # fmt: skip
        values |= {"training_seconds": mean, "train_images": images, "feature_kib": disk}
        groups.setdefault(first.scale, []).append(Row(cells["id"], cells, values, entry.files))
    return [
        Section(heading(scale, "Training"), shown, tuple(groups[scale]), csv=False)
        for scale in SCALES
        if scale in groups
    ]


def _training_seconds(result: Result) -> float:
    parts = result.metrics.get("training_seconds")
    return sum(parts.values()) if parts else sum(result.history.get("seconds", ()))


def rpn_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """The RPN's layers alone, with its backbone, its proposals with NMS, beside selective search, by scale."""
    shown = (*columns("id:row", "what"), *SETUP, *columns("driver*", "time:ms", "n", "paper:paper, K40 ms"), *CODE)
    stages = _fact_value("faster_rcnn.stages_vgg16")
    search = _fact_value("fast_rcnn.stages_selective_search_vgg16")
    parts = (
        ("RPN layers alone", ("faster_rcnn.rpn",), None),
        ("proposals: decode, sort, NMS", ("faster_rcnn.propose",), None),
        ("RPN layers and proposals", ("faster_rcnn.rpn", "faster_rcnn.propose"), stages.get("proposal")),
        ("with the backbone", ("faster_rcnn.backbone", "faster_rcnn.rpn", "faster_rcnn.propose"),
         _sum(stages, "conv", "proposal")),
        ("whole Faster R-CNN", ("faster_rcnn.total",), stages.get("total")),
        ("selective search", ("selective_search",), search.get("proposal")),
    )  # fmt: skip
    sections = []
    for scale in SCALES:
        rows = []
        for entry in _lineages(results, current):
            if entry.first.scale != scale:
                continue
            for what, names, printed in parts:
                timings = [pooled_timing(entry.results, name) for name in names]
                if any(timing is None for timing in timings):
                    continue
                cells, values = setup_of(entry)
                total = sum(timing.median for timing in timings)
                cells |= {"id": entry.row_id("R"), "what": what, "driver": entry.first.machine.driver}
                cells["time"] = timing_text(timings[0]) if len(timings) == 1 else number(total)
                cells["n"] = str(min(timing.n for timing in timings))
                cells["paper"] = "" if printed is None else f"{printed:g}"
                values |= {"what": what, "ms": total, "n": int(cells["n"]), "paper_ms": printed}
                rows.append(Row(cells["id"], cells, values, entry.files))
        if rows:
            sections.append(Section(heading(scale, "Region proposals, an image"), shown, tuple(rows)))
    return sections


def _fact_value(key: str) -> dict[str, Any]:
    fact = facts.find_fact(key)
    return fact.value if fact is not None and isinstance(fact.value, dict) else {}


def _sum(values: dict[str, Any], *names: str) -> float | None:
    return sum(values[name] for name in names) if all(name in values for name in names) else None


def recall_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """How many objects the proposals of each detector cover, by their number."""
    pools = [p for p in accuracy_pools(results, "detection", current) if p.first.metrics.get("recall")]
    sections = []
    for scale in SCALES:
        chosen = [p for p in pools if p.first.scale == scale]
        counts = sorted({count for p in chosen for count in p.first.metrics["recall"]["counts"]})
        shown = columns(
            "id:row",
            "model",
            "by:proposals by",
            "data*",
            "iou:IoU",
            *(f"n{count}:{count} boxes" for count in counts),
            "code",
        )
        rows = []
        for entry in chosen:
            for level in _recalls(entry.first):
                cells = {"id": entry.row_id("D"), "model": model_title(entry.first), "data": data_title(entry.first)}
                cells |= {
                    "by": proposer_of(entry.first),
                    "iou": level,
                    "code": "stale" if entry.code == "stale" else "",
                }
                for place, count in enumerate(entry.first.metrics["recall"]["counts"]):
                    mean = estimate(entry.results, lambda r, at=(level, place): _recalls(r)[at[0]][at[1]])
                    cells[f"n{count}"] = mean.percent() if mean else ""
                rows.append(Row(cells["id"], cells, {}, entry.files))
        if rows:
            sections.append(Section(heading(scale, "Recall % of proposals"), shown, tuple(rows), csv=False))
    return sections


def _recalls(result: Result) -> dict[str, list[float | None]]:
    """Recall by IoU, a figure for each number of proposals."""
    found = result.metrics["recall"]
    return {**found["recall"], "0.5 to 0.95": found["average_recall"]}
