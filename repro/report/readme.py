"""The headline table of the repository's README, between two markers that only this module writes between."""

from collections.abc import Sequence
from pathlib import Path

from repro.errors import ReproError
from repro.files import atomic_write
from repro.harness.record import Result
from repro.report import pooling
from repro.report.render import markdown_table, number

BEGIN = "<!-- headline:begin -->"
END = "<!-- headline:end -->"
_SHOWN = {
    "segmentation": {"mean_iou": "mIoU", "pixel_accuracy": "pixel acc.", "mean_dice": "Dice"},
    "classification": {"top1": "top-1", "top5": "top-5"},
}


def headline(results: Sequence[Result], *, current_code_hash: pooling.CodeHash | None = None) -> str:
    """The headline rows as Markdown: accuracy and latency of each model at the best scale there is.

    Accuracy has one row per model, data, split and initialisation; latency one per model and device."""
    results = sorted(results, key=lambda r: (r.experiment, r.run_id))
    rows = [row for task in _SHOWN for row in _accuracy(results, task, current_code_hash)]
    rows += _latency(results, current_code_hash)
    if not rows:
        return "There are no results yet: `./run_all.sh` makes them."
    note = (
        "Best scale there is for each model; `smoke` rows only show that the suite works. "
        "Rows and their result files: [tables/README.md](tables/README.md)."
    )
    return markdown_table(["model", "data", "scale", "result", "run", "row"], rows) + "\n\n" + note


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


def _accuracy(results: Sequence[Result], task: str, current: pooling.CodeHash | None) -> list[list[str]]:
    pools = pooling.accuracy_pools(results, task, current)

    def same(entry: pooling.Pool) -> tuple[str, ...]:
        first = entry.first
        split, init = first.dataset.split if first.dataset else "", first.init.source if first.init else ""
        return pooling.model_title(first), pooling.data_title(first), split, init

    rows = []
    for entry in sorted(
        _best(pools, [same(p) for p in pools]),
        key=lambda p: (pooling.SCALES.index(p.first.scale), same(p)[1:3], pools.index(p)),
    ):
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
