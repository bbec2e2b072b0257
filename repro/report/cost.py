"""What accuracy costs: parameters, operations, latency and memory beside each row's score, and speed against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repro.records.result import Result, Timing
from repro.report.figures import Picture
from repro.report.pooling import (
    BASELINE,
    METRICS,
    SCALES,
    SETUP,
    Estimate,
    Pool,
    accuracy_pools,
    data_title,
    estimate,
    hardware,
    heading,
    input_text,
    is_tiled,
    model_title,
    pooled_timing,
    precision_of,
    setup_of,
    size_text,
)
from repro.report.render import Row, Section, Table, columns, number
from repro.report.scatter import Panel, Point, rounded, speed_accuracy

CAPTION = (
    "Cost sections: params and GFLOPs (2 x multiply-adds) are those of the network as trained, for one network input. "
    "Latency is one forward pass of one network input (an image, or a tile where images are scored by tiles), XLA, "
    "batch 1, on the device to class scores, with the 5th to 95th percentile in parentheses over n repetitions; rows "
    "on different hardware stand apart. FPS is 1000 / latency, divided by the tiles of an image where there are "
    "several. Memory is the peak of the training process: the accelerator's, or on a CPU what is resident."
)


@dataclass(frozen=True)
class Cost:
    """What one row costs on one kind of machine. Latency in ms; `tiles` of an image, None where nobody counted."""

    runs: Pool
    params: int | None
    flops: int | None
    latency: Timing | None
    tiles: int | None
    peak_memory_mib: float | None

    @property
    def fps(self) -> float | None:
        """Images a second, one at a time."""
        return 1000 / (self.latency.median * self.tiles) if self.latency and self.tiles else None


def _first(runs: Pool, name: str) -> Any:
    return next((r.metrics[name] for r in runs.results if r.metrics.get(name) is not None), None)


def costs_of(entry: Pool) -> list[Cost]:
    """The cost of a row, apart by accelerator (or CPU) and driver: speed never pools different hardware."""
    machines: dict[tuple[str, str], list[Result]] = {}
    for result in entry.results:
        machines.setdefault((hardware(result.machine), result.machine.driver), []).append(result)
    found = []
    for _, members in sorted(machines.items()):
        runs = Pool(entry.key, tuple(members), entry.code)
        peaks = [r.peak_memory_mib for r in members if r.kind == "train" and r.peak_memory_mib]
        cost = Cost(
            runs=runs,
            params=_first(runs, "params"),
            flops=_first(runs, "flops"),
            latency=pooled_timing(members, "latency.xla"),
            tiles=_first(runs, "tiles") or (None if is_tiled(runs.first) else 1),
            peak_memory_mib=max(peaks, default=None),
        )
        found.append(cost)
    return found


def _score(entry: Pool, task: str) -> Estimate | None:
    headline = next(iter(METRICS[task]))
    return estimate(entry.results, lambda r: r.metrics.get(headline))


def _row(entry: Pool, cost: Cost, task: str) -> Row:
    headline, score, latency = next(iter(METRICS[task])), _score(entry, task), cost.latency
    cells, values = setup_of(cost.runs)
    cells |= {
        "id": entry.row_id(task[0].upper()),
        "driver": cost.runs.first.machine.driver,
        "score": score.percent() if score else "",
        "params": number(cost.params / 1e6) if cost.params else "",
        "flops": number(cost.flops / 1e9) if cost.flops else "",
        "latency": f"{number(latency.median)} ({number(latency.p5)}–{number(latency.p95)})" if latency else "",
        "n": str(latency.n) if latency else "",
        "tiles": str(cost.tiles) if cost.tiles and is_tiled(entry.first) else "",
        "fps": number(cost.fps) if cost.fps else "",
        "memory": f"{cost.peak_memory_mib:.0f}" if cost.peak_memory_mib else "",
    }
    values |= {"driver": cells["driver"] or None}
    values |= {f"{headline}_{part}": getattr(score, part, None) for part in ("mean", "std", "n")}
    values |= {"params": cost.params, "flops": cost.flops}
    values |= {f"latency_ms_{part}": getattr(latency, part, None) for part in ("median", "p5", "p95", "n")}
    values |= {"latency_of": "tile" if is_tiled(entry.first) else "image", "tiles_per_image": cost.tiles}
    values |= {"fps": cost.fps, "train_peak_memory_mib": cost.peak_memory_mib}
    return Row(cells["id"], cells, values, cost.runs.files)


def cost_sections(title: str, pools: Sequence[Pool], task: str) -> list[Section]:
    """The costs of a section's rows beside their score; none while no row has any but its memory."""
    found = [(entry, cost) for entry in pools if entry.first.model != BASELINE for cost in costs_of(entry)]
    if not any(cost.params or cost.latency for _, cost in found):
        return []
    shown = (*columns("id:row", "model"), *SETUP, *columns("driver*", f"score:{next(iter(METRICS[task].values()))}"))
    shown += columns("params:params M", "flops:GFLOPs", "latency:latency ms", "n", "tiles:tiles an image", "fps:FPS")
    shown += columns("memory:train peak MiB", "code")
    rows = tuple(_row(entry, cost, task) for entry, cost in found)
    return [Section(f"Cost: {title}", shown, rows, csv=False, level=4)]


def cost_table(results: Sequence[Result], task: str) -> Table:
    """The costs of every row of a task in long form, a line for each kind of machine, for the CSV."""
    rows = []
    for entry in accuracy_pools(results, task):
        first = entry.first
        where = {"dataset": first.dataset.name, "dataset_split": first.dataset.split} if first.dataset else {}
        lines = [] if first.model == BASELINE else [_row(entry, cost, task) for cost in costs_of(entry)]
        rows += [Row(row.id, row.cells, where | row.values, row.files) for row in lines]
    has_cost = any(row.values["params"] or row.values["latency_ms_median"] for row in rows)
    return Table(f"{task}_cost", "", (), (Section("", (), tuple(rows)),) if has_cost else ())


def newest_pools(pools: Sequence[Pool]) -> list[Pool]:
    """Without stale rows of which there is a current one: same experiment, backend and precision."""

    def setting(entry: Pool) -> tuple[str, ...]:
        return entry.first.experiment, entry.first.backend, precision_of(entry.first)

    fresh = {setting(entry) for entry in pools if entry.code != "stale"}
    return [entry for entry in pools if entry.code != "stale" or setting(entry) not in fresh]


def speed_figure(results: Sequence[Result], task: str, across_inputs: bool = False) -> Picture | None:
    """Score against latency: a panel for each data set, scale, kind of machine and, unless `across_inputs`, input,
    that has two rows or more."""
    points: dict[tuple[Any, ...], list[tuple[Pool, Cost]]] = {}
    for entry in newest_pools(accuracy_pools(results, task)):
        for cost in costs_of(entry):
            if entry.first.model != BASELINE and cost.latency and _score(entry, task):
                points.setdefault(_panel_key(entry, cost, across_inputs), []).append((entry, cost))
    panels = []
    for (scale, *_), members in sorted(points.items()):
        if len(members) > 1:
            first, machine = members[0][0].first, members[0][1].runs.first.machine
            where = f"{data_title(first)}, {first.dataset.split}" if first.dataset else ""
            seen = "" if across_inputs else f"input {input_text(first)}, "
            setup = f"{seen}{hardware(machine)}, {first.backend} {precision_of(first)}"
            unit = "tile" if is_tiled(first) else "image"
            drawn = _points(members, task, across_inputs)
            panels.append(Panel(heading(SCALES[scale], where), setup, unit, drawn))
    return speed_accuracy(panels, next(iter(METRICS[task].values()))) if panels else None


def _panel_key(entry: Pool, cost: Cost, across_inputs: bool) -> tuple[Any, ...]:
    first, machine = entry.first, cost.runs.first.machine
    data = (data_title(first), first.dataset.split, first.dataset.fingerprint) if first.dataset else ("", "", "")
    seen = "" if across_inputs else input_text(first)
    return SCALES.index(first.scale), *data, seen, hardware(machine), machine.driver, first.backend, precision_of(first)


def _points(members: Sequence[tuple[Pool, Cost]], task: str, across_inputs: bool) -> tuple[Point, ...]:
    headline = next(iter(METRICS[task]))
    widths = {entry.first.width for entry, _ in members}
    found, used = [], set()
    for entry, cost in members:
        first = entry.first
        label = model_title(first) + (f", {size_text(first.input_size)}" if across_inputs else "")
        label += f", width {first.width:g}" if len(widths) > 1 else ""
        label += ", proposals not counted" if across_inputs and proposals_mode(first) else ""
        label += f", {entry.row_id(task[0].upper())}" if label in used else ""
        used.add(label)
        seeds = [100 * r.metrics[headline] for r in entry.results if r.metrics[headline] is not None]
        score = rounded((100 * _score(entry, task).mean, min(seeds), max(seeds)))
        latency = rounded((cost.latency.median, cost.latency.p5, cost.latency.p95))
        found.append(Point(label, first.model, latency, score))
    return tuple(found)


def proposals_mode(result: Result) -> str:
    """The mode of selective search that proposes the regions of a detector, "" where it proposes them itself."""
    return (result.config.get("task") or {}).get("proposals") or ""
