"""Training curves of a task, pooled like the rows of its table."""

from collections.abc import Sequence

from repro.records.result import Result
from repro.report import figures
from repro.report.cost import newest_pools
from repro.report.pooling import METRICS, SCALES, accuracy_pools, data_title, heading, model_title


def training_figure(results: Sequence[Result], task: str) -> figures.Picture | None:
    """Training curves of a task, pooled like the table's rows; stale runs only where nothing newer exists."""
    metric, title = next(iter(METRICS[task].items()))
    pools = [p for p in accuracy_pools(results, task) if p.first.kind == "train" and p.first.history]
    pools = newest_pools(pools)
    pools.sort(key=lambda p: (SCALES.index(p.first.scale), data_title(p.first)))
    curves, used = [], set()
    for entry in pools:
        first = entry.first
        panel = heading(first.scale, data_title(first))
        label = model_title(first) + (f" from {first.init.source}" if first.init else "")
        label += f", {entry.row_id(task[0].upper())}" if (panel, label) in used else ""
        used.add((panel, label))
        loss = figures.pool_lines([_series(result.history, "loss", 1) for result in entry.results])
        score = figures.pool_lines([_series(result.history, f"val_{metric}", 100) for result in entry.results])
        curves.append(figures.Curve(panel, label, len(entry.seeds), loss, score))
    return figures.training_curves(curves, title) if curves else None


def _series(history: dict[str, list[float]], name: str, scale: float) -> tuple[list[float], list[float]]:
    values = [scale * value for value in history.get(name, [])]
    keys = ("val_epoch", "epoch") if name.startswith("val_") else ("epoch",)
    epochs = next((history[key] for key in keys if len(history.get(key, ())) == len(values)), None)
    return epochs or [float(epoch) for epoch in range(1, len(values) + 1)], values
