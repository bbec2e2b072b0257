"""Whole detectors side by side, how well clustered anchors cover a data set's boxes, and both as figures."""

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure

from repro import facts
from repro.harness.record import Result, Timing
from repro.registry import ARCHITECTURES
from repro.report.cost import Cost, costs_of, newest_pools
from repro.report.figures import COLOURS, Picture
from repro.report.pooling import (
    BASELINE,
    CODE,
    SCALES,
    SETUP,
    CodeHash,
    Estimate,
    Pool,
    accuracy_pools,
    data_title,
    estimate,
    hardware,
    heading,
    model_rank,
    model_title,
    pool,
    pooled_timing,
    precision_of,
    protocol_notes,
    setup_of,
    size_text,
    speed_pools,
)
from repro.report.render import Row, Section, columns, number
from repro.report.scatter import Panel, Point, rounded, speed_accuracy

CAPTIONS = {
    "yolo_speed": (
        "Whole detectors, interleaved in one run. `total` is one compiled program from one image on the device to its "
        "final boxes, non-maximum suppression inside, in ms: median with the 5th to 95th percentile over n "
        "repetitions; frames/s is 1000 / total. `best batch` is the most images a second of the same program, and the "
        "batch that gives them. `network` ends at the raw outputs, `decode + NMS` starts from them; Faster R-CNN's "
        "network contains the suppression of its proposals. The networks have random weights: `to NMS` and `boxes` "
        "say how many scores of the image enter the last suppression and how many boxes come out. The papers' frames/s "
        "are those of a Titan X and of the papers' own networks; `released` YOLO v2 does less work than its paper's.",
    ),
    "anchors": (
        "How well k centres cover the sizes of the boxes of a training split: the mean over boxes of the IoU with the "
        "nearest centre, both around one point. `fitted` keeps the aspect of images, as this suite's networks see "
        "them; `stretched` takes boxes as shares of their image, as Darknet does. Cells have 32 pixels.",
    ),
}
# how fast a network is on a Titan X: the fact, in frames/s or ms, and which part of it ("side": by the image's side)
_PRINTED = {
    "fast_yolo": ("fast_yolo.fps", ""),
    "yolo_v1": ("yolo_v1.fps", ""),
    "yolo_v2": ("yolo_v2.fps", "side"),
    "yolo_v3": ("yolo_v3.latency", "side"),
    "faster_rcnn": ("faster_rcnn.latency_vgg16", "titan_x"),
}
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


def speed_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """Latency, frames a second, stages and size of each detector, by scale."""
    shown = (*columns("id:row", "model"), *SETUP, *columns("classes*", "driver*", "total:total ms", "n"))
    shown += columns("fps:frames/s", "best:best batch, images/s", "network:network ms", "decode:decode + NMS ms")
    shown += columns("params:params M", "flops:GFLOPs", "candidates:to NMS", "detections:boxes")
    shown += (*columns("paper:paper, frames/s"), *CODE)
    pools = speed_pools((r for r in results if r.config.get("type") == "detector_speed"), "speed", current)
    sections = []
    for scale in SCALES:
        chosen = [entry for entry in pools if entry.first.scale == scale]
        rows = [
            _speed_row(entry, label, card)
            for entry in chosen
            for label, card in sorted(entry.first.metrics["networks"].items(), key=_place)
        ]
        if rows:
            sources = {row.values["model"]: row.values["paper_source"] for row in rows if row.values["paper_source"]}
            said = "; ".join(f"{model}: {source}" for model, source in sources.items())
            notes = protocol_notes(chosen, "Y") + ([f"The papers' frames/s. {said}."] if said else [])
            sections.append(Section(heading(scale, "Whole detectors, an image"), shown, tuple(rows), tuple(notes)))
    return sections


def _place(item: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
    label, card = item
    return model_rank(card["model"]), card["variant"], card["input_size"], label


def _speed_row(entry: Pool, label: str, card: dict[str, Any]) -> Row:
    cells, values = setup_of(entry)
    times = {stage: pooled_timing(entry.results, f"{label}.{stage}") for stage in ("total", "network", "decode")}
    total, best = times["total"], pooled_timing(entry.results, f"{label}.throughput")
    batches = sorted({r.metrics["networks"][label]["throughput_batch"] for r in entry.results})
    printed, source = _printed_rate(card)
    depth = "" if card["depth"] == 1 else f", depth {card['depth']:g}"
    cells |= {
        "id": entry.row_id("Y"),
        "model": label.rpartition("@")[0],
        "width": f"{card['width']:g}{depth}",
        "input": size_text(card["input_size"]),
        "classes": str(card["num_classes"]),
        "driver": entry.first.machine.driver,
        "total": _spread(total),
        "n": str(total.n) if total else "",
        "fps": number(1000 / total.median) if total else "",
        "best": f"{number(best.median)} (batch {'/'.join(map(str, batches))})" if best else "",
        "network": _spread(times["network"]),
        "decode": _spread(times["decode"]),
        "params": number(card["params"] / 1e6),
        "flops": number(card["flops"] / 1e9),
        "candidates": f"{card['candidates']:,d}" if card.get("candidates") is not None else "",
        "detections": str(card["detections"]),
        "paper": number(printed) if printed else "",
    }
    values |= {key: card[key] for key in ("model", "variant", "width", "depth", "num_classes", "params", "flops")}
    values |= {"input_height": card["input_size"][0], "input_width": card["input_size"][1]}
    values |= {"driver": cells["driver"] or None, "frames_per_second": 1000 / total.median if total else None}
    for stage, timing in times.items():
        values |= {f"{stage}_ms_{part}": getattr(timing, part, None) for part in ("median", "p5", "p95", "n")}
    values |= {"images_per_second": best.median if best else None, "throughput_batch": "/".join(map(str, batches))}
    values |= {"candidates": card.get("candidates"), "detections": card["detections"]}
    values |= {"paper_frames_per_second": printed, "paper_source": source or None}
    return Row(cells["id"], cells, values, entry.files)


def _spread(timing: Timing | None) -> str:
    if timing is None:
        return ""
    return number(timing.median) + ("" if timing.n == 1 else f" ({number(timing.p5)}–{number(timing.p95)})")


def _printed_rate(card: dict[str, Any]) -> tuple[float | None, str]:
    """Frames a second that a paper prints for a network at this size, and where; for the released one too."""
    key, part = _PRINTED.get(card["model"], ("", ""))
    fact, entry, size = facts.find_fact(key), ARCHITECTURES.get(card["model"]), tuple(card["input_size"])
    if fact is None or entry is None or (card["width"], card["depth"]) != (1, 1):
        return None, ""
    if part == "side":
        value = fact.value.get(str(size[0])) if size[0] == size[1] else None
    else:
        value = (fact.value[part] if part else fact.value) if size == entry.input_size else None
    if value is None:
        return None, ""
    return (1000 / value if fact.unit == "ms" else value), fact.source


def _anchor_pools(results: Sequence[Result], current: CodeHash | None) -> list[Pool]:
    """The clusters of one data set and canvas, pooled over seeds and machines."""

    def key(r: Result) -> tuple[Any, ...]:
        data = (r.dataset.name, r.dataset.split, r.dataset.fingerprint, r.dataset.official)
        return (r.scale, r.experiment, *data, r.config_hash, r.code_hash)

    return pool((r for r in results if r.config.get("type") == "anchors" and r.status == "ok"), key, current)


def anchor_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """The average IoU for each k beside the paper's, and the centres, a section each for every data set."""
    shown = columns("id:row", "k", "by", "input:canvas*", "boxes*", "seeds*", "fitted:average IoU %, fitted")
    shown += (*columns("stretched:average IoU %, stretched", "paper:paper"), *CODE)
    sections, pools = [], _anchor_pools(results, current)
    for entry in sorted(pools, key=lambda entry: SCALES.index(entry.first.scale)):
        first = entry.first
        title = heading(first.scale, f"{data_title(first)}, {first.dataset.split}")
        rows = [_iou_row(entry, k, "k-means") for k in sorted(map(int, first.metrics["clusters"]))]
        rows.append(_iou_row(entry, first.metrics["hand_picked"]["count"], "hand"))
        sections.append(Section(title, shown, tuple(rows), tuple(protocol_notes([entry], "K") + _printed_note())))
        sections += _centre_sections(entry, title)
    return sections


def _averages(entry: Pool, k: int, name: str = "average_iou") -> Estimate | None:
    return estimate(entry.results, lambda r: r.metrics["clusters"].get(str(k), {}).get(name))


def _iou_row(entry: Pool, k: int, by: str) -> Row:
    first = entry.first
    if by == "hand":
        fitted, stretched = estimate(entry.results, lambda r: r.metrics["hand_picked"]["average_iou"]), None
        printed = _printed_iou(_PRINTED_HAND_PICKED, first)
    else:
        fitted, stretched = _averages(entry, k), _averages(entry, k, "average_iou_stretched")
        printed = _printed_iou(_PRINTED_IOU.get(k, ""), first)
    cells = {
        "id": entry.row_id("K"),
        "k": str(k),
        "by": "hand-picked, Faster R-CNN" if by == "hand" else "k-means",
        "input": size_text(first.input_size),
        "boxes": f"{first.metrics['boxes']:,d}",
        "seeds": str(len(entry.seeds)),
        "fitted": fitted.percent() if fitted else "",
        "stretched": stretched.percent() if stretched else "",
        "paper": "" if printed is None else f"{printed:g}",
        "code": "stale" if entry.code == "stale" else "",
    }
    values = {
        "experiment": first.experiment, "dataset": first.dataset.name, "dataset_split": first.dataset.split,
        "scale": first.scale, "canvas": cells["input"], "boxes": first.metrics["boxes"], "k": k, "by": by,
        "average_iou": fitted.mean if fitted else None, "average_iou_std": fitted.std if fitted else None,
        "average_iou_stretched": stretched.mean if stretched else None,
        "paper_average_iou": None if printed is None else printed / 100, "seeds": len(entry.seeds),
        "code": entry.code or "unknown",
    }  # fmt: skip
    return Row(cells["id"], cells, values, entry.files)


def _printed_iou(key: str, result: Result) -> float | None:
    """What the paper prints, in %; it stands beside its own kind of data alone."""
    fact = facts.find_fact(key) if result.dataset.name.startswith("voc") else None
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
    kinds = [name for name, count in _PRINTED_CENTRES if count == k and result.dataset.name.startswith(name)]
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


def anchor_figure(results: Sequence[Result], current: CodeHash | None) -> Picture | None:
    """Average IoU against k, a panel for each data set and scale, with what the paper prints for VOC."""
    panels: dict[str, list[list[Any]]] = {}
    for entry in newest_pools(_anchor_pools(results, current)):
        first = entry.first
        ks = sorted(map(int, first.metrics["clusters"]))
        lines = [
            [f"{name}, {size_text(first.input_size)}", ks, [round(100 * _averages(entry, k, key).mean, 3) for k in ks]]
            for name, key in (("fitted", "average_iou"), ("stretched", "average_iou_stretched"))
        ]
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


def detectors_figure(results: Sequence[Result], current: CodeHash | None) -> Picture | None:
    """mAP against latency of all trained detectors, whatever their input, a panel for each data set, scale and kind of
    machine with two rows or more."""
    panels: dict[tuple[Any, ...], list[tuple[Pool, Cost]]] = {}
    for entry in newest_pools(accuracy_pools(results, "detection", current)):
        first = entry.first
        for cost in costs_of(entry):
            if first.model != BASELINE and first.dataset and cost.latency and _precision(entry):
                machine = cost.runs.first.machine
                data = data_title(first), first.dataset.split, first.dataset.fingerprint
                setting = hardware(machine), machine.driver, first.backend, precision_of(first)
                panels.setdefault((SCALES.index(first.scale), *data, *setting), []).append((entry, cost))
    drawn = []
    for (scale, data, split, _, machine, _, backend, precision), members in sorted(panels.items()):
        if len(members) > 1:
            title = heading(SCALES[scale], f"{data}, {split}")
            drawn.append(Panel(title, f"{machine}, {backend} {precision}", "image", _points(members)))
    return speed_accuracy(drawn, "mAP %") if drawn else None


def _precision(entry: Pool) -> Estimate | None:
    return estimate(entry.results, lambda r: r.metrics.get("map"))


def _points(members: Sequence[tuple[Pool, Cost]]) -> tuple[Point, ...]:
    found, used = [], set()
    widths = {entry.first.width for entry, _ in members}
    for entry, cost in members:
        first = entry.first
        label = f"{model_title(first)}, {size_text(first.input_size)}"
        label += f", width {first.width:g}" if len(widths) > 1 else ""
        label += ", proposals not counted" if first.config.get("proposals") else ""
        label += f", {entry.row_id('D')}" if label in used else ""
        used.add(label)
        seeds = [100 * r.metrics["map"] for r in entry.results if r.metrics.get("map") is not None]
        score = rounded((100 * _precision(entry).mean, min(seeds), max(seeds)))
        latency = rounded((cost.latency.median, cost.latency.p5, cost.latency.p95))
        found.append(Point(label, first.model, latency, score))
    return tuple(found)
