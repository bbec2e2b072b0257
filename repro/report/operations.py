"""Operations of ours beside other libraries': times, ratios, agreement, what selective search recalls."""

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from repro.harness.record import Result
from repro.report.pooling import (
    CODE,
    SCALES,
    SETUP,
    CodeHash,
    Pool,
    data_title,
    heading,
    pooled_timing,
    protocol_notes,
    setup_of,
    speed_pools,
    timing_text,
)
from repro.report.render import Row, Section, columns, number

_TITLES = {
    "nms": "Non-maximum suppression",
    "roi": "RoI pooling and RoIAlign",
    "selective_search": "Selective search",
}
_PEERS = {
    "tf_image": "tf.image",
    "tf_image_padded": "tf.image, padded, XLA",
    "tf_image_loop": "tf.image, class by class",
    "keras_cv": "keras-cv",
    "torchvision": "torchvision",
    "second": "second formulation, XLA",
    "crop_and_resize": "tf.image.crop_and_resize + max pooling",
    "opencv": "OpenCV",
}
_LETTER = "O"
_OTHER = (
    "tf.image.crop_and_resize with max pooling is another operation, timed because early TensorFlow detectors use it "
    "in RoI pooling's place: there is no agreement to tell."
)


def _of(results: Iterable[Result], metric: str, key: str) -> list[Any]:
    found = (result.metrics.get(metric, {}).get(key) for result in results)
    return [value for value in found if value is not None]


def _agreement(entry: Pool, key: str) -> tuple[str, dict[str, float | None]]:
    """The worst over runs: the least share of kept boxes, the largest differences."""
    runs = _of(entry.results, "agreement", key)
    values = {name: [run[name] for run in runs if name in run] for name in ("kept", "values", "gradient")}
    kept = min(values["kept"], default=None)
    gaps = {name: max(values[name], default=None) for name in ("values", "gradient")}
    parts = [] if kept is None else [f"{100 * kept:.1f} % kept by both"]
    parts += [f"{name} {gap:.0e}" for name, gap in gaps.items() if gap is not None]
    text = ", ".join(parts)
    return text, {"kept_by_both": kept, **{f"largest_difference_{name}": gap for name, gap in gaps.items()}}


def _row(entry: Pool, case: str, peer: str) -> Row:
    cells, values = setup_of(entry)
    key = f"{case}.{peer}"
    mine, theirs = pooled_timing(entry.results, f"{case}.ours"), pooled_timing(entry.results, key)
    ratios = _of(entry.results, "ratio", key)
    ratio = statistics.median(ratios) if ratios else None
    title = _of(entry.results, "cases", case)[0]
    agreement, exact = _agreement(entry, key)
    cells |= {
        "id": entry.row_id(_LETTER), "model": title, "driver": entry.first.machine.driver,
        "data": data_title(entry.first), "ours": timing_text(mine), "peer": _PEERS.get(peer, peer),
        "theirs": timing_text(theirs),
        "n": "/".join(dict.fromkeys(str(timing.n) for timing in (mine, theirs) if timing)),
        "ratio": "" if ratio is None else number(ratio), "agreement": agreement,
    }  # fmt: skip
    values |= {"case": case, "peer": peer, "driver": cells["driver"] or None, "ours_over_peer": ratio, **exact}
    for who, timing in (("ours", mine), ("peer", theirs)):
        values |= {f"{who}_{part}": getattr(timing, part, None) for part in ("median", "p5", "p95", "n", "unit")}
    return Row(cells["id"], cells, values, entry.files)


def _search_row(entry: Pool, case: str, peer: str) -> Row:
    """A row of selective search: with recalls and boxes of both in place of the agreement."""
    row = _row(entry, case, peer)
    for who, name in (("ours", "ours"), ("peer", peer)):
        recalls = _of(entry.results, "recall", name)
        for threshold in ("0.5", "0.7"):
            shares = [run[threshold] for run in recalls if run.get(threshold) is not None]
            share = statistics.fmean(shares) if shares else None
            row.cells[f"{who}_{threshold}"] = "" if share is None else f"{100 * share:.1f}"
            row.values[f"{who}_recall_{threshold}"] = share
        counts = _of(entry.results, "boxes", name)
        row.cells[f"{who}_boxes"] = f"{statistics.fmean(counts):.0f}" if counts else ""
        row.values[f"{who}_boxes"] = statistics.fmean(counts) if counts else None
    return row


def _peers(entry: Pool, case: str) -> list[str]:
    """Who was timed beside us, as ordered in `_PEERS`; nobody ("") where all are absent."""
    timed = {name for result in entry.results for name in result.timings if name.startswith(f"{case}.")}
    peers = {name.removeprefix(f"{case}.") for name in timed} - {"ours"}
    order = {name: index for index, name in enumerate(_PEERS)}
    return sorted(peers, key=lambda peer: (order.get(peer, len(order)), peer)) or [""]


def _slower(entry: Pool, rows: Sequence[Row]) -> list[str]:
    """Where ours takes longer, by how much and why."""
    told: dict[str, list[str]] = {}
    for row in rows:
        ratio = row.values["ours_over_peer"]
        if ratio is not None and ratio > 1:
            reasons = _of(entry.results, "why", f"{row.values['case']}.{row.values['peer']}")
            about = f"{number(ratio)} times {row.cells['peer']}'s time ({row.cells['model'].partition(':')[0]})"
            told.setdefault(reasons[0] if reasons else "", []).append(about)
    return [
        f"{entry.row_id(_LETTER)}: ours takes {'; '.join(abouts)}{f': {reason}' if reason else ''}."
        for reason, abouts in told.items()
    ]


def _absent(entry: Pool) -> list[str]:
    """Who is missing, in which cases and why; the cases are left out where it is missing in all."""
    cases = {case for result in entry.results for case in result.metrics.get("cases", {})}
    missing: dict[tuple[str, str], set[str]] = {}
    for result in entry.results:
        for key, reason in result.metrics.get("absent", {}).items():
            case, _, peer = key.partition(".")
            if key not in result.timings:
                missing.setdefault((peer, reason), set()).add(case)
    parts = []
    for (peer, reason), found in sorted(missing.items()):
        where = "" if found >= cases else f" in {', '.join(sorted(found))}"
        parts.append(f"{_PEERS.get(peer, peer)}{where} ({reason})")
    return [f"Not compared in {entry.row_id(_LETTER)}: {'; '.join(parts)}."] if parts else []


def operation_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """A section for NMS, RoI operations and selective search each, by scale."""
    pools = speed_pools([r for r in results if r.config.get("type") == "operations"], "peer", current)
    return [
        section
        for scale in SCALES
        for part in _TITLES
        if (section := _section(part, scale, [e for e in pools if (e.first.model, e.first.scale) == (part, scale)]))
    ]


def _section(part: str, scale: str, pools: Sequence[Pool]) -> Section | None:
    search = part == "selective_search"
    unit = "s" if search else "ms"
    shown = (*columns("id:row", "model:case", "data*"), *SETUP, *columns("driver*", f"ours:ours {unit}", "peer"))
    shown += columns(f"theirs:peer {unit}", "n", "ratio:ours/peer")
    if search:
        shown += columns("ours_0.5:our recall % at 0.5", "peer_0.5:peer's at 0.5", "ours_0.7:our recall % at 0.7")
        shown += columns("peer_0.7:peer's at 0.7", "ours_boxes:our boxes", "peer_boxes:peer's boxes")
    else:
        shown += columns("agreement")
    rows, notes = [], protocol_notes(pools, _LETTER)
    for entry in pools:
        cases = list(dict.fromkeys(case for result in entry.results for case in result.metrics["cases"]))
        row_of = _search_row if search else _row
        own = [row_of(entry, case, peer) for case in cases for peer in _peers(entry, case)]
        rows += own
        notes += _slower(entry, own) + _absent(entry)
    if any(row.values["peer"] == "crop_and_resize" for row in rows):
        notes.append(_OTHER)
    return Section(heading(scale, _TITLES[part]), (*shown, *CODE), tuple(rows), tuple(notes)) if rows else None
