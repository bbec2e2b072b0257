"""The headline table of the repository's README, between two markers that only this module writes between: the best
models of each use, and the scores of every task at the best scale."""

from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any

from repro.errors import ReproError
from repro.files import atomic_write
from repro.records.result import Result
from repro.report import cost, pooling
from repro.report.pooling import BASELINE, SCALES, Estimate, Pool, data_title, model_title
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


def headline(kinds: Sequence[Any], results: Sequence[Result]) -> str:
    """The headline as Markdown: a row for each use of segmentation with its best models, then the rows of each kind."""
    results = sorted(results, key=lambda r: (r.experiment, r.run_id))
    uses, _ = use_rows(results)
    rows = [row for kind in kinds for row in kind.headline(results)]
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
    parts += [markdown_table(["model", "data", "scale", "result", "run", "row"], rows)] if rows else []
    return "\n\n".join([*parts, note])


def row(entry: Pool, letter: str, title: str, where: str, found: Sequence[str], run: str) -> list[str]:
    """A row of the headline: model, data, scale, result, run, row."""
    state = " (stale)" if entry.code == "stale" else ""
    return [title, where, entry.first.scale, ", ".join(found) + state, run, f"`{entry.row_id(letter)}`"]


def best_pools(pools: Sequence[Pool], same: Callable[[Pool], object]) -> list[Pool]:
    """Of the pools with the same key: best scale, then current code, TensorFlow, float32, most seeds."""

    def rank(entry: Pool) -> tuple[object, ...]:
        first, code = entry.first, entry.code == "stale"
        plain = first.backend != "tensorflow", pooling.precision_of(first) != "float32"
        return SCALES.index(first.scale), code, *plain, -len(entry.seeds), repr(entry.key)

    return [min(group, key=rank) for group in pooling.grouped(pools, same).values()]


def use_rows(results: Sequence[Result]) -> tuple[list[list[str]], set[str]]:
    """A row for each use and data set, at the best scale there is, and the data sets that have one."""

    def place(entry: Pool) -> tuple[object, ...]:
        first, data = entry.first, entry.first.require_dataset()
        return _USES[data.name], data.name, SCALES.index(first.scale), data_title(first), data.split, data.fingerprint

    pools = [
        entry
        for entry in cost.newest_pools(pooling.accuracy_pools(results, "segmentation"))
        if entry.first.dataset and entry.first.dataset.name in _USES and entry.score("mean_iou")
    ]
    rows: dict[str, list[str]] = {}
    for (use, data, *_), group in sorted(pooling.grouped(pools, place).items()):
        if data not in rows and any(entry.first.model != BASELINE for entry in group):
            rows[data] = [use, *_ranking(group)]
    return list(rows.values()), set(rows)


def _ranking(pools: Sequence[Pool]) -> list[str]:
    """Data, the best models (`unet 81.2 ± 0.3 %, 12.3 ms`, row), the baseline, and what the best share."""
    ranked = sorted(pools, key=lambda entry: -_mean_iou(entry).mean)
    best = [entry for entry in ranked if entry.first.model != BASELINE][:_BEST]
    baseline = [f"{_mean_iou(entry).percent()} %" for entry in ranked if entry.first.model == BASELINE]
    settings = [(f"width {entry.first.width:g}", pooling.input_text(entry.first), entry.hardware) for entry in best]
    shared = [text for text in settings[0] if all(text in setting for setting in settings)]
    cells = [EMPTY] * (_BEST + 1)
    for place, (entry, setting) in enumerate(zip(best, settings, strict=True)):
        own = [text for text in setting if text not in shared] + ["stale"] * (entry.code == "stale")
        cells[place] = ", ".join([*_score_and_speed(entry), *own, f"`{entry.row_id('S')}`"])
    cells[_BEST] = baseline[0] if baseline else EMPTY
    first, split = best[0].first, best[0].first.require_dataset().split
    return [f"{data_title(first)}, {split}", *cells, ", ".join([f"{first.scale} scale", *shared])]


def _score_and_speed(entry: Pool) -> list[str]:
    """`unet 81.2 ± 0.3 %` and, where one kind of machine timed it, `12.3 ms` of an image or `12.3 ms a tile`."""
    timed = [(found.latency, found.tiles) for found in cost.costs_of(entry) if found.latency]
    text = [f"{model_title(entry.first)} {_mean_iou(entry).percent()} %"]
    if len(timed) == 1:
        latency, tiles = timed[0]
        text.append(f"{number(latency.median * (tiles or 1))} ms" + ("" if tiles else " a tile"))
    return text


def _mean_iou(entry: Pool) -> Estimate:
    score = entry.score("mean_iou")
    assert score is not None  # rows without one were left out
    return score


def accuracy_rows(results: Sequence[Result]) -> list[list[str]]:
    """A row for each model, data, split and start of every task, without the data sets that `use_rows` shows, and
    without the smoke rows of a model that has been measured."""
    _, shown = use_rows(results)
    return [line for task in _SHOWN for line in _task_rows(results, task, shown)]


def _task_rows(results: Sequence[Result], task: str, aside: Container[str]) -> list[list[str]]:
    def same(entry: Pool) -> tuple[str, ...]:
        first = entry.first
        split, init = first.dataset.split if first.dataset else "", first.init.source if first.init else ""
        return model_title(first), data_title(first), split, init

    pools = pooling.accuracy_pools(results, task)
    chosen = best_pools(pools, same)
    measured = {entry.first.model for entry in chosen if entry.first.scale != "smoke"}
    rows = []
    for entry in sorted(chosen, key=lambda p: (SCALES.index(p.first.scale), same(p)[1:3], pools.index(p))):
        first, (title, data, split, init) = entry.first, same(entry)
        if (first.scale == "smoke" and first.model in measured) or (first.dataset and first.dataset.name in aside):
            continue
        scores = {name: entry.score(metric) for metric, name in _SHOWN[task].items()}
        found = [f"{name} {score.percent()} %" for name, score in scores.items() if score]
        size, seeds = pooling.size_text(first.input_size), f"{len(entry.seeds)} seed" + "s" * (len(entry.seeds) > 1)
        run = "no training" if first.model == BASELINE else f"width {first.width:g}, {size}, init {init}, {seeds}"
        rows.append(row(entry, task[0].upper(), title, f"{data}, {split}", found, run))
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
