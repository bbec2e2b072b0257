"""What accuracy costs: parameters, operations, latency and memory beside each row's score, and speed against it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from repro.records.result import Result, Timing
from repro.report import pooling
from repro.report.figures import Picture, rounded
from repro.report.pooling import BASELINE, METRICS, Pool, accuracy_pools, hardware, is_tiled, precision_of, spread
from repro.report.render import Row, Section, columns, number
from repro.report.scatter import Panel, Point, speed_accuracy

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


def costs_of(entry: Pool) -> list[Cost]:
    """The cost of a row, apart by accelerator (or CPU) and driver: speed never pools different hardware."""
    machines = pooling.grouped(entry.results, lambda r: (hardware(r.machine), r.machine.driver))
    found = []
    for _, members in sorted(machines.items()):
        peaks = [r.peak_memory_mib for r in members if r.kind == "train" and r.peak_memory_mib]
        known = {
            name: next((r.metrics[name] for r in members if r.metrics.get(name) is not None), None)
            for name in ("params", "flops", "tiles")
        }
        cost = Cost(
            runs=Pool(entry.key, tuple(members), entry.code),
            params=known["params"],
            flops=known["flops"],
            latency=pooling.pooled_timing(members, "latency.xla"),
            tiles=known["tiles"] or (None if is_tiled(members[0]) else 1),
            peak_memory_mib=max(peaks, default=None),
        )
        found.append(cost)
    return found


def _row(entry: Pool, cost: Cost, task: str) -> Row:
    headline, latency, tiled = next(iter(METRICS[task])), cost.latency, is_tiled(entry.first)
    row, score = pooling.row_of(cost.runs, task[0].upper()), entry.score(headline)
    row.cells |= {
        "score": score.percent() if score else "",
        "params": number(cost.params / 1e6) if cost.params else "",
        "flops": number(cost.flops / 1e9) if cost.flops else "",
        "latency": pooling.timing_text(latency),
        "n": str(latency.n) if latency else "",
        "tiles": str(cost.tiles) if cost.tiles and tiled else "",
    }
    row.values |= {"driver": row.cells["driver"] or None, **spread(headline, score)}
    row.values |= {"params": cost.params, "flops": cost.flops, **spread("latency_ms", latency, pooling.OF_TIMES)}
    row.values |= {"latency_of": "tile" if tiled else "image", "tiles_per_image": cost.tiles}
    row.put("fps", cost.fps)
    row.put("train_peak_memory_mib", cost.peak_memory_mib, ".0f")
    return row


def cost_sections(title: str, pools: Sequence[Pool], task: str) -> list[Section]:
    """The costs of a section's rows beside their score; none while no row has any but its memory."""
    found = [(entry, cost) for entry in pools if entry.first.model != BASELINE for cost in costs_of(entry)]
    if not any(cost.params or cost.latency for _, cost in found):
        return []
    score = f"score:{next(iter(METRICS[task].values()))}"
    shown = columns("id:row", "model", *pooling.SETUP, "driver*", score, "params:params M", "flops:GFLOPs")
    shown += columns("latency:latency ms", "n", "tiles:tiles an image", "fps:FPS")
    shown += columns("train_peak_memory_mib:train peak MiB", *pooling.CODE)
    rows = [_row(entry, cost, task) for entry, cost in found]
    return [Section(f"Cost: {title}", shown, rows, csv=False, level=4)]


def cost_rows(results: Sequence[Result], task: str) -> list[Row]:
    """The costs of every row of a task in long form, a line for each kind of machine, for the CSV."""
    rows = []
    for entry in accuracy_pools(results, task):
        data = entry.first.dataset
        where = {"dataset": data.name, "dataset_split": data.split} if data else {}
        for cost in costs_of(entry) if entry.first.model != BASELINE else ():
            row = _row(entry, cost, task)
            row.values = where | row.values
            rows.append(row)
    return rows if any(row.values["params"] or row.values["latency_ms_median"] for row in rows) else []


def newest_pools(pools: Sequence[Pool]) -> list[Pool]:
    """Without stale rows of which there is a current one: same experiment, backend and precision."""

    def setting(entry: Pool) -> tuple[str, ...]:
        return entry.first.experiment, entry.first.backend, precision_of(entry.first)

    fresh = {setting(entry) for entry in pools if entry.code != "stale"}
    return [entry for entry in pools if entry.code != "stale" or setting(entry) not in fresh]


def speed_figure(results: Sequence[Result], task: str, across_inputs: bool = False) -> Picture | None:
    """Score against latency: a panel for each data set, scale, kind of machine and, unless `across_inputs`, input,
    that has two rows or more."""
    metric, metric_title = next(iter(METRICS[task].items()))

    def place(point: tuple[Pool, Cost]) -> tuple[Any, ...]:
        first, machine = point[0].first, point[1].runs.first.machine
        data = first.dataset
        where = (pooling.data_title(first), data.split, data.fingerprint) if data else ("", "", "")
        seen = "" if across_inputs else pooling.input_text(first)
        how = hardware(machine), machine.driver, first.backend, precision_of(first)
        return pooling.SCALES.index(first.scale), *where, seen, *how

    points = [
        (entry, cost)
        for entry in newest_pools(accuracy_pools(results, task))
        for cost in costs_of(entry)
        if entry.first.model != BASELINE and cost.latency and entry.score(metric)
    ]
    panels = []
    for key, members in sorted(pooling.grouped(points, place).items()):
        scale, data, split, _, seen, device, _, backend, precision = key
        if len(members) > 1:
            title = pooling.heading(pooling.SCALES[scale], f"{data}, {split}" if data else "")
            setup = (f"input {seen}, " if seen else "") + f"{device}, {backend} {precision}"
            unit = "tile" if is_tiled(members[0][0].first) else "image"
            panels.append(Panel(title, setup, unit, _points(members, task, across_inputs)))
    return speed_accuracy(panels, metric_title) if panels else None


def _points(members: Sequence[tuple[Pool, Cost]], task: str, across_inputs: bool) -> tuple[Point, ...]:
    headline = next(iter(METRICS[task]))
    widths = {entry.first.width for entry, _ in members}
    found, used = [], set()
    for entry, cost in members:
        first = entry.first
        label = pooling.model_title(first) + (f", {pooling.size_text(first.input_size)}" if across_inputs else "")
        label += f", width {first.width:g}" if len(widths) > 1 else ""
        label += ", proposals not counted" if across_inputs and proposals_mode(first) else ""
        label += f", {entry.row_id(task[0].upper())}" if label in used else ""
        used.add(label)
        seeds = [100 * r.metrics[headline] for r in entry.results if r.metrics[headline] is not None]
        score, latency = entry.score(headline), cost.latency
        assert score is not None  # rows without one were left out
        assert latency is not None  # rows without one were left out
        mean, low, high = rounded((100 * score.mean, min(seeds), max(seeds)))
        median, p5, p95 = rounded((latency.median, latency.p5, latency.p95))
        found.append(Point(label, first.model, (median, p5, p95), (mean, low, high)))
    return tuple(found)


def proposals_mode(result: Result) -> str:
    """The mode of selective search that proposes the regions of a detector, "" where it proposes them itself."""
    return (result.config.get("task") or {}).get("proposals") or ""
