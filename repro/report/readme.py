"""The headline table of the repository's README, between two markers that only this module writes between."""

from collections.abc import Container, Sequence
from pathlib import Path

from repro.errors import ReproError
from repro.files import atomic_write
from repro.harness.record import Result
from repro.report import cost, pooling
from repro.report.render import EMPTY, markdown_table, number

BEGIN = "<!-- headline:begin -->"
END = "<!-- headline:end -->"
_USES = {"camvid": "Driving", "cityscapes": "Driving", "isbi2012": "Medical", "dubai": "Satellite"}
_BEST = 3
_SHOWN = {
    "segmentation": {"mean_iou": "mIoU", "pixel_accuracy": "pixel acc.", "mean_dice": "Dice"},
    "classification": {"top1": "top-1", "top5": "top-5"},
    "detection": {"map": "mAP", "coco_ap": "COCO AP"},
    "instance": {"mask_ap": "mask AP", "coco_ap": "box AP"},
}
_GENERATIONS = {"rcnn": "R-CNN", "fast_rcnn": "Fast R-CNN", "faster_rcnn": "Faster R-CNN"}


def headline(results: Sequence[Result], *, current_code_hash: pooling.CodeHash | None = None) -> str:
    """The headline as Markdown: a row for each use of segmentation with its best models, then the other rows.

    Those show accuracy and latency at the best scale there is: accuracy has one row per model, data, split and
    initialisation; latency one per model and device."""
    results = sorted(results, key=lambda r: (r.experiment, r.run_id))
    uses, shown = _uses(results, current_code_hash)
    rows = [row for task in _SHOWN for row in _accuracy(results, task, current_code_hash, shown)]
    rows += _latency(results, current_code_hash) + _whole_detectors(results, current_code_hash)
    if not uses and not rows:
        return "There are no results yet: `./run_all.sh` makes them."
    note = (
        "Best scale there is for each model; `smoke` rows only show that the suite works. "
        "Rows and their result files: [tables/README.md](tables/README.md)."
    )
    parts = []
    if uses:
        ranks = ("best mIoU", "second", "third", "most frequent class")
        parts.append(markdown_table(["use", "data", *ranks, "run"], uses))
        parts.append("What else differs between these rows: [tables/segmentation.md](tables/segmentation.md).")
    if rows:
        parts.append(markdown_table(["model", "data", "scale", "result", "run", "row"], rows))
    return "\n\n".join([*parts, note])


def _mean_iou(entry: pooling.Pool) -> pooling.Estimate | None:
    return pooling.estimate(entry.results, lambda r: r.metrics.get("mean_iou"))


def _uses(results: Sequence[Result], current: pooling.CodeHash | None) -> tuple[list[list[str]], set[str]]:
    """A row for each use and data set, at the best scale there is, and the data sets that have one."""
    groups: dict[tuple[object, ...], list[pooling.Pool]] = {}
    for entry in cost.newest_pools(pooling.accuracy_pools(results, "segmentation", current)):
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


def _best(pools: list[pooling.Pool], same: Sequence[tuple[str, ...]]) -> list[pooling.Pool]:
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


def _accuracy(
    results: Sequence[Result], task: str, current: pooling.CodeHash | None, aside: Container[str]
) -> list[list[str]]:
    """The rows of a task, without the data sets that are shown elsewhere, and without the smoke rows of a model that
    has been measured."""
    pools = pooling.accuracy_pools(results, task, current)

    def same(entry: pooling.Pool) -> tuple[str, ...]:
        first = entry.first
        split, init = first.dataset.split if first.dataset else "", first.init.source if first.init else ""
        return pooling.model_title(first), pooling.data_title(first), split, init

    chosen = _best(pools, [same(p) for p in pools])
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


def _latency(results: Sequence[Result], current: pooling.CodeHash | None) -> list[list[str]]:
    pools = pooling.speed_pools(results, "speed", current)
    same = [(pooling.model_title(p.first), pooling.hardware(p.first.machine)) for p in pools]
    rows = []
    for entry in _best(pools, same):
        first = entry.first
        parts = []
        for mode, name in (("xla", "XLA"), ("graph", "graph"), ("eager", "eager")):
            timing = pooling.pooled_timing(entry.results, f"latency.{mode}")
            parts += [f"{name} {number(timing.median)} ms"] if timing else []
        device, precision = pooling.hardware(first.machine), pooling.precision_of(first)
        run = f"width {first.width:g}, {device}, {first.backend} {precision}"
        state = " (stale)" if entry.code == "stale" else ""
        where = f"{pooling.size_text(first.input_size)}, batch {first.metrics.get('batch', 1)}"
        if parts:
            row_id = f"`{entry.row_id('X')}`"
            rows.append([pooling.model_title(first), where, first.scale, ", ".join(parts) + state, run, row_id])
    return rows


def _whole_detectors(results: Sequence[Result], current: pooling.CodeHash | None) -> list[list[str]]:
    """A row for the R-CNN line and one for the detectors of one run, by device: images or frames a second."""
    rows = []
    for kind, letter, title in (("lineage", "L", "R-CNN line"), ("detector_speed", "Y", "whole detectors")):
        pools = pooling.speed_pools([r for r in results if r.config.get("type") == kind], "speed", current)
        for entry in _best(pools, [(pooling.hardware(p.first.machine),) for p in pools]):
            first = entry.first
            names = _GENERATIONS if kind == "lineage" else {label: label for label in first.metrics["networks"]}
            totals = {name: pooling.pooled_timing(entry.results, f"{key}.total") for key, name in names.items()}
            shown = ", ".join(f"{name} {number(total.median)} ms" for name, total in totals.items() if total)
            state = " (stale)" if entry.code == "stale" else ""
            where = "an image to its final boxes, without selective search" if kind == "lineage" else "an image"
            run = f"random weights, {pooling.hardware(first.machine)}, {first.backend} {pooling.precision_of(first)}"
            rows.append([title, where, first.scale, shown + state, run, f"`{entry.row_id(letter)}`"])
    return rows


def _split(readme_path: Path) -> tuple[str, str, str]:
    """The README before, between and after the markers. Raises ReproError unless there is one pair."""
    try:
        text = readme_path.read_text(encoding="utf-8")
    except OSError as error:
        raise ReproError(f"cannot read {readme_path}: {error.strerror}", "restore it from the repository") from None
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise ReproError(f"{readme_path} has no place for the headline table", f"put {BEGIN} and {END} into it, once")
    before, _, rest = text.partition(BEGIN)
    between, _, after = rest.partition(END)
    return before, between, after


def update_readme(readme_path: Path, text: str) -> bool:
    """Put the headline between the markers; True when the file changed. Raises ReproError without markers."""
    before, between, after = _split(readme_path)
    if between.strip() == text.strip():
        return False
    atomic_write(readme_path, f"{before}{BEGIN}\n{text.strip()}\n{END}{after}".encode())
    return True


def check_readme(readme_path: Path, text: str) -> list[str]:
    """One line when the headline in the README is not this text, else none."""
    stale = _split(readme_path)[1].strip() != text.strip()
    return [f"{readme_path}: the headline table is not what the results yield"] if stale else []
