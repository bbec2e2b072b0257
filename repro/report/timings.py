"""Times: eager, graph and XLA side by side, and ours beside peers."""

import statistics
from collections.abc import Iterable, Sequence

from repro.harness.record import Result, Timing
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
    speed_pools,
)
from repro.report.render import Row, Section, columns, number


def _ratio(a: Timing | None, b: Timing | None) -> float | None:
    return a.median / b.median if a and b and b.median else None


def _repetitions(timings: Iterable[Timing | None]) -> str:
    return "/".join(dict.fromkeys(str(timing.n) for timing in timings if timing))


_SPEED = (*columns("id:row", "model"), *SETUP, *columns("driver*", "cache:compile cache*", "runs*"), *CODE)


def _speed_row(entry: Pool, letter: str, names: Sequence[str]) -> tuple[Row, dict[str, Timing | None]]:
    """A row with the setup of a timing run and its timings, and the pooled timings themselves."""
    cells, values = setup_of(entry)
    cached = any(result.compile_cache for result in entry.results)
    cells |= {"id": entry.row_id(letter), "runs": str(len(entry.results)), "cache": "on" if cached else "off"}
    cells["driver"] = values["driver"] = entry.first.machine.driver
    timings = {name: pooled_timing(entry.results, name) for name in names}
    for name, timing in timings.items():
        if timing:
            short = number(timing.median)
            cells[name] = short if timing.n == 1 else f"{short} ({number(timing.p5)}–{number(timing.p95)})"
            unit = timing.unit.replace("/", "_per_")
            values |= {f"{name}_{unit}_{part}": getattr(timing, part) for part in ("median", "p5", "p95", "n")}
    return Row(cells["id"], cells, values, entry.files), timings


def _xla_row(entry: Pool) -> Row:
    forward, step = [[f"{kind}.{mode}" for mode in ("graph", "xla")] for kind in ("latency", "train_step")]
    compiles = [f"{kind}.{mode}" for kind in ("compile", "compile_train") for mode in ("graph", "xla")]
    row, timings = _speed_row(entry, "X", ("latency.eager", *forward, *step, *compiles, "throughput.xla"))
    metrics = entry.first.metrics
    row.cells["batch"] = str(metrics.get("batch", 1))
    row.cells["train_batch"] = str(metrics.get("train_batch", ""))
    row.cells["n"] = _repetitions(timings[name] for name in ("latency.eager", *forward))
    row.cells["step_n"] = _repetitions(timings[name] for name in step)
    for name, (graph, xla) in (("speedup", forward), ("step_speedup", step)):
        ratio = _ratio(timings[graph], timings[xla])
        row.cells[name] = "" if ratio is None else f"{ratio:.2f}"
        row.values[f"{name}_graph_over_xla"] = ratio
    if timings["throughput.xla"]:
        row.cells["throughput"] = f"{number(timings['throughput.xla'].median)} (batch {metrics['throughput_batch']})"
        row.values["throughput_batch"] = metrics["throughput_batch"]
    for name, keys in (("memory", ("latency.xla", "forward")), ("step_memory", ("train_step.xla", "train"))):
        peaks = [r.metrics.get("peak_memory_mib", {}).get(key) for r in entry.results for key in keys]
        peak = max((value for value in peaks if value), default=None)
        row.cells[name] = "" if peak is None else f"{peak:.0f}"
        row.values[f"{name}_mib"] = peak
    peaks = [r.peak_memory_mib for r in entry.results if r.peak_memory_mib]
    row.values["peak_memory_mib"] = max(peaks, default=None)
    return row


def xla_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """Inference and training step, by scale."""
    inference = (
        *_SPEED,
        *columns("batch*", "latency.eager:eager ms", "latency.graph:graph ms", "latency.xla:XLA ms"),
    )
    inference += columns("n", "speedup:graph/XLA", "compile.graph:graph compile s", "compile.xla:XLA compile s")
    inference += columns("throughput:XLA images/s", "memory:peak MiB")
    training = (
        *_SPEED,
        *columns("train_batch:batch*", "train_step.graph:graph step ms", "train_step.xla:XLA step ms"),
    )
    training += columns("step_n:n", "step_speedup:graph/XLA", "compile_train.graph:graph compile s")
    training += columns("compile_train.xla:XLA compile s", "step_memory:peak MiB")
    sections = []
    whole = ("lineage", "detector_speed")  # have tables of their own
    pools = speed_pools([r for r in results if r.config.get("type") not in whole], "speed", current)
    for scale in SCALES:
        chosen = [entry for entry in pools if entry.first.scale == scale]
        rows, notes = tuple(map(_xla_row, chosen)), protocol_notes(chosen, "X")
        missed = [e.row_id("X") for e in chosen if any(r.xla.requested and not r.xla.used for r in e.results)]
        notes += [f"XLA was asked for and did not run in {', '.join(missed)}."] if missed else []
        if rows:
            sections.append(Section(heading(scale, "Inference"), inference, rows, tuple(notes)))
        steps = tuple(row for row in rows if row.cells["step_n"])
        if steps:
            sections.append(Section(heading(scale, "Training step"), training, steps, csv=False))
    return sections


def _peer_row(entry: Pool, peer: str) -> Row:
    row, timings = _speed_row(entry, "P", ("ours.latency", f"{peer}.latency"))
    recorded = [r.metrics.get("ratio", {}).get(peer) for r in entry.results]
    recorded = [ratio for ratio in recorded if ratio is not None]
    ratio = statistics.median(recorded) if recorded else _ratio(*timings.values())
    gaps = [r.metrics.get("agreement", {}).get(peer) for r in entry.results]
    gap = max((gap for gap in gaps if gap is not None), default=None)
    cells = row.cells | {
        "peer": peer,
        "theirs": row.cells[f"{peer}.latency"],
        "n": _repetitions(timings.values()),
        "ratio": "" if ratio is None else f"{ratio:.2f}",
        "agreement": "" if gap is None else f"{gap:.1e}",
    }
    values = {key.replace(f"{peer}.", "peer."): value for key, value in row.values.items()}
    values |= {"peer": peer, "ours_over_peer": ratio, "largest_relative_difference": gap}
    return Row(row.id, cells, values, row.files)


def peer_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """Ours beside each peer, by scale."""
    shown = (*_SPEED, *columns("peer", "ours.latency:ours ms", "theirs:peer ms", "n", "ratio:ours/peer"))
    shown += columns("agreement:largest relative difference")
    sections = []
    pools = speed_pools([r for r in results if r.config.get("type") != "operations"], "peer", current)
    for scale in SCALES:
        chosen = [entry for entry in pools if entry.first.scale == scale]
        rows, notes = [], protocol_notes(chosen, "P")
        for entry in chosen:
            timed = {name for result in entry.results for name in result.timings if name.endswith(".latency")}
            peers = sorted(name.removesuffix(".latency") for name in timed - {"ours.latency"})
            rows += [_peer_row(entry, peer) for peer in peers]
            absent = {peer for result in entry.results for peer in result.metrics.get("absent", {})} - set(peers)
            notes += [f"Not installed for {entry.row_id('P')}: {', '.join(sorted(absent))}."] if absent else []
        if rows:
            sections.append(Section(heading(scale, "Same work, same run"), shown, tuple(rows), tuple(notes)))
    return sections
