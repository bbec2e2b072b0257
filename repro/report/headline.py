"""The rows of the README's headline: the best models of each use, and the scores of every task at the best scale."""

from collections.abc import Container, Sequence

from repro.records.result import Result
from repro.report import cost, pooling
from repro.report.render import EMPTY, number

_USES = {"camvid": "Driving", "cityscapes": "Driving", "isbi2012": "Medical", "dubai": "Satellite"}
_BEST = 3
_SHOWN = {
    "segmentation": {"mean_iou": "mIoU", "pixel_accuracy": "pixel acc.", "mean_dice": "Dice"},
    "classification": {"top1": "top-1", "top5": "top-5"},
    "detection": {"map": "mAP", "coco_ap": "COCO AP"},
    "instance": {"mask_ap": "mask AP", "coco_ap": "box AP"},
}


def _mean_iou(entry: pooling.Pool) -> pooling.Estimate | None:
    return pooling.estimate(entry.results, lambda r: r.metrics.get("mean_iou"))


def use_rows(results: Sequence[Result]) -> tuple[list[list[str]], set[str]]:
    """A row for each use and data set, at the best scale there is, and the data sets that have one."""
    groups: dict[tuple[object, ...], list[pooling.Pool]] = {}
    for entry in cost.newest_pools(pooling.accuracy_pools(results, "segmentation")):
        first = entry.first
        if first.dataset and first.dataset.name in _USES and _mean_iou(entry):
            where = pooling.SCALES.index(first.scale), pooling.data_title(first), first.dataset.split
            use = _USES[first.dataset.name], first.dataset.name
            groups.setdefault((*use, *where, first.dataset.fingerprint), []).append(entry)
    rows: dict[str, list[str]] = {}
    for (use, data, *_), pools in sorted(groups.items(), key=lambda item: item[0]):
        if data not in rows and any(entry.first.model != pooling.BASELINE for entry in pools):
            rows[data] = [use, *_ranking(pools)]
    return list(rows.values()), set(rows)


def _ranking(pools: Sequence[pooling.Pool]) -> list[str]:
    """Data, the best models (`unet 81.2 ± 0.3 %, 12.3 ms`, row), the baseline, and what the best share."""
    ranked = sorted(pools, key=lambda entry: -_mean_iou(entry).mean)
    best = [entry for entry in ranked if entry.first.model != pooling.BASELINE][:_BEST]
    baseline = [entry for entry in ranked if entry.first.model == pooling.BASELINE][:1]
    settings = [
        (
            f"width {entry.first.width:g}",
            pooling.input_text(entry.first),
            " + ".join(sorted({pooling.hardware(result.machine) for result in entry.results})),
        )
        for entry in best
    ]
    shared = [text for text in settings[0] if all(text in setting for setting in settings)]
    cells = []
    for entry, setting in zip(best, settings, strict=True):
        own = [text for text in setting if text not in shared] + ["stale"] * (entry.code == "stale")
        cells.append(", ".join([*_score_and_speed(entry), *own, f"`{entry.row_id('S')}`"]))
    cells += [""] * (_BEST - len(best))
    cells.append(f"{_mean_iou(baseline[0]).percent()} %" if baseline else "")
    first = best[0].first
    data = f"{pooling.data_title(first)}, {first.dataset.split}"
    return [data, *(cell or EMPTY for cell in cells), ", ".join([f"{first.scale} scale", *shared])]


def _score_and_speed(entry: pooling.Pool) -> list[str]:
    """`unet 81.2 ± 0.3 %` and, where one kind of machine timed it, `12.3 ms` of an image or `12.3 ms a tile`."""
    timed = [found for found in cost.costs_of(entry) if found.latency]
    text = [f"{pooling.model_title(entry.first)} {_mean_iou(entry).percent()} %"]
    if len(timed) == 1:
        tiles = timed[0].tiles
        text.append(f"{number(timed[0].latency.median * (tiles or 1))} ms" + ("" if tiles else " a tile"))
    return text


def best_pools(pools: list[pooling.Pool], same: Sequence[tuple[str, ...]]) -> list[pooling.Pool]:
    """Of the pools with the same key: best scale, then current code, TensorFlow, float32, most seeds."""
    chosen: dict[tuple[str, ...], pooling.Pool] = {}

    def rank(entry: pooling.Pool) -> tuple[object, ...]:
        first, code = entry.first, entry.code == "stale"
        plain = first.backend != "tensorflow", pooling.precision_of(first) != "float32"
        return pooling.SCALES.index(first.scale), code, *plain, -len(entry.seeds), repr(entry.key)

    for key, entry in zip(same, pools, strict=True):
        if key not in chosen or rank(entry) < rank(chosen[key]):
            chosen[key] = entry
    return list(chosen.values())


def accuracy_rows(results: Sequence[Result]) -> list[list[str]]:
    """A row for each model, data, split and start of every task, without the data sets that `use_rows` shows, and
    without the smoke rows of a model that has been measured."""
    _, shown = use_rows(results)
    return [row for task in _SHOWN for row in _task_rows(results, task, shown)]


def _task_rows(results: Sequence[Result], task: str, aside: Container[str]) -> list[list[str]]:
    pools = pooling.accuracy_pools(results, task)

    def same(entry: pooling.Pool) -> tuple[str, ...]:
        first = entry.first
        split, init = first.dataset.split if first.dataset else "", first.init.source if first.init else ""
        return pooling.model_title(first), pooling.data_title(first), split, init

    chosen = best_pools(pools, [same(p) for p in pools])
    measured = {entry.first.model for entry in chosen if entry.first.scale != "smoke"}
    chosen = [
        entry
        for entry in chosen
        if not (entry.first.dataset and entry.first.dataset.name in aside)
        and (entry.first.scale != "smoke" or entry.first.model not in measured)
    ]
    rows = []
    for entry in sorted(chosen, key=lambda p: (pooling.SCALES.index(p.first.scale), same(p)[1:3], pools.index(p))):
        title, data, split, init = same(entry)
        parts = []
        for metric, name in _SHOWN[task].items():
            found = pooling.estimate(entry.results, lambda r, metric=metric: r.metrics.get(metric))
            parts += [f"{name} {found.percent()} %"] if found else []
        baseline = entry.first.model == pooling.BASELINE
        size, seeds = pooling.size_text(entry.first.input_size), len(entry.seeds)
        run = f"width {entry.first.width:g}, {size}, init {init}, {seeds} seed{'s' if seeds > 1 else ''}"
        state = " (stale)" if entry.code == "stale" else ""
        row_id = f"`{entry.row_id(task[0].upper())}`"
        run = "no training" if baseline else run
        rows.append([title, f"{data}, {split}", entry.first.scale, ", ".join(parts) + state, run, row_id])
    return rows
