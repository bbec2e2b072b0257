"""Accuracy: a section for each data set, split and scale, the per-class figures, and what papers print."""

from collections.abc import Iterable, Sequence
from typing import Any

from repro import facts, paths
from repro.records.result import Result
from repro.registry import ARCHITECTURES
from repro.report import detectors, galleries, pooling, render
from repro.report.cost import CAPTION as COST
from repro.report.cost import cost_rows, cost_sections, speed_figure
from repro.report.curves import training_figure
from repro.report.figures import Picture
from repro.report.pooling import BASELINE, METRICS, Estimate, Pool, accuracy_pools, data_title, heading, spread
from repro.report.render import Row, Section, Table, TableInfo, columns

_RAND_NOTE = (
    "V_rand: foreground-restricted Rand score after border thinning (Arganda-Carreras et al. 2015), cells at a "
    "probability above one half. The best threshold is chosen on the scored images, as in the ISBI 2012 challenge, so "
    "that its column flatters every row."
)
_OTHER = {"boundary_f1": "boundary F1", "rand_error": "Rand error", "iou": "IoU"}
_POOLED = (
    "A row pools the runs of one experiment on one backend, at one precision, settings and versions of the code: mean "
    "± sample standard deviation over seeds, no ± with one seed; a seed that ran on several machines is averaged "
    "first. `images seen` counts training images, those of the runs it was initialised from included. `machines` says "
    "whether the means of several machines agree: they differ by less than 0.05 points or by at most two standard "
    "errors (undecided: they differ, and one of them ran a single seed)."
)
_COMPARABLE = (
    "Rows in one section share data, split and scale and may be compared; rows of different sections may "
    "not. What else they share (start, images seen, loss, augmentation, width, input) stands above each "
    "section, and where they differ it is a column: a comparison is as fair as these columns say. An input of "
    "`256x256 tiles of 512x512` sees a part of each image at a time, in training and in scoring. `loss`: "
    "cross-entropy, the same mean over pixels unless it says otherwise; median-frequency weights its classes, a "
    "weight map its pixels; a detector's is that of its paper's file. The paper's figure stands only beside the same "
    "official data and split; it was reached with the paper's own training."
)
_AP = (
    "AP is COCO's, of masks and of boxes. A row `without masks` is Faster R-CNN on the same network; rows with another "
    "label differ from the plain one in that alone."
)
_CAPTION = (_POOLED, _COMPARABLE, COST)
TABLES = (
    TableInfo("classification", "Classification", _CAPTION),
    TableInfo("segmentation", "Semantic segmentation", _CAPTION),
    TableInfo("detection", "Object detection", _CAPTION),
    TableInfo("instance", "Instance segmentation", (*_CAPTION, _AP)),
)


def sections(results: Sequence[Result]) -> dict[str, list[Section]]:
    """The scores of every task with their costs, by table; of detectors what proposals recall and training took."""
    found = {task: accuracy_sections(task, results) for task in METRICS}
    found["detection"] += detectors.recall_sections(results)
    return found | {"rcnn_lineage_speed": detectors.training_sections(results)}


def figures(results: Sequence[Result]) -> dict[str, Picture | str]:
    """Curves, speed against accuracy and galleries, and the long tables of costs and classes, by file name."""
    files: dict[str, Picture | str | None] = {}
    for task in METRICS:
        files[f"curves_{task}.png"] = training_figure(results, task)
        files[f"speed_accuracy_{task}.png"] = speed_figure(results, task)
    files["recall_detection.png"] = detectors.recall_figure(results)
    files["speed_accuracy_detectors.png"] = speed_figure(results, "detection", across_inputs=True)
    for draw in (galleries.semantic_pictures, galleries.stage_pictures, galleries.instance_pictures):
        files |= draw(results, paths.results_dir())
    long = {"segmentation_per_class": _per_class_rows(results)}
    long |= {f"{task}_cost": cost_rows(results, task) for task in METRICS}
    for name, rows in long.items():
        if rows:
            files[f"{name}.csv"] = render.to_csv(Table(name, "", (), [Section("", (), rows)]))
    return {name: content for name, content in files.items() if content is not None}


def _describe(score: facts.Score) -> str:
    extra = [part for part in (score.config, score.note) if part]
    extra += ["from memory"] if score.confidence == "memory" else []
    return score.source + (f" ({'; '.join(extra)})" if extra else "")


def _printed(percent: float | None) -> str:
    """A published figure with its own one or two decimals."""
    return "" if percent is None else f"{percent:.2f}".removesuffix("0")


def _range(values: Iterable[float], form: str) -> str:
    ordered = sorted(set(values))
    return "–".join(dict.fromkeys(format(value, form) for value in (ordered[0], ordered[-1])))


def _paper_cell(score: facts.Score, task: str) -> str:
    """The published headline figure, or the first that the paper has, with its name."""
    printed = {title: _printed(score.percent(name)) for name, title in METRICS[task].items()}
    title, text = next(((title, text) for title, text in printed.items() if text), ("", ""))
    return text if title == next(iter(printed)) else f"{title.removesuffix(' %')} {text}".strip()


def _training(entry: Pool) -> dict[str, str]:
    """How a row was trained, where it was."""
    config = entry.first.config
    loss = pooling.loss_text(entry.first)
    if not loss:
        return {}
    augment = ", ".join(pooling.settings(config.get("augment") or {})) or "none"
    batch, rate = (config.get(name) for name in ("batch_size", "learning_rate"))
    return {"loss": loss, "augment": augment, "batch": str(batch or ""), "rate": f"{rate:g}" if rate else ""}


def _accuracy_row(entry: Pool, task: str, footnotes: list[str]) -> Row:
    first, data, trained = entry.first, entry.first.dataset, _training(entry)
    row = pooling.row_of(entry, task[0].upper())
    init = first.init.source if first.init else ""
    seen = [int(r.metrics.get("chain_images_seen", r.images_seen)) for r in entry.results]
    machines = len({r.machine.id for r in entry.results})
    agrees = pooling.agreement(entry.results, next(iter(METRICS[task])))
    if first.model != BASELINE:
        more = f" ({len(entry.results)} runs)" if len(entry.results) > len(entry.seeds) else ""
        row.cells |= trained | {
            "init": init,
            "epochs": _range((r.epochs for r in entry.results), "g"),
            "images": _range(seen, ",d"),
            "seeds": ", ".join(map(str, entry.seeds)) + more,
            "machines": f"{machines}, {agrees}" if agrees else str(machines),
        }
    row.values |= {"init": init or None, "epochs": first.epochs, "images_seen": max(seen), "machines": machines}
    row.values |= {"seeds": " ".join(map(str, entry.seeds)), "machines_agree": agrees or None}
    row.values |= dict(zip(("image_height", "image_width"), pooling.canvas_of(first), strict=True))
    row.values |= {name: trained.get(name) for name in ("loss", "augment", "rate")}
    for name in ("name", "split", "official", "note", "fingerprint"):
        row.values["dataset" if name == "name" else f"dataset_{name}"] = getattr(data, name, None)
    published = facts.published(first.model, data.name, data.split) if data and data.official else []
    paper = published[0] if published else None
    for name in METRICS[task]:
        found, printed = entry.score(name), paper.percent(name) if paper else None
        row.cells[name] = found.percent() if found else ""
        row.values |= spread(name, found)
        row.values[f"paper_{name}"] = None if printed is None else round(printed / 100, 6)
    if first.metrics.get("rand_threshold") is not None:
        row.values["rand_threshold"] = " ".join(f"{r.metrics['rand_threshold']:g}" for r in entry.results)
    if paper:
        note = f"{paper.name}: {_describe(paper)}"
        footnotes += [] if note in footnotes else [note]
        row.cells["paper"] = f"{_paper_cell(paper, task)} [{footnotes.index(note) + 1}]"
        row.values["paper_source"] = paper.source
    return row


def accuracy_sections(task: str, results: Sequence[Result]) -> list[Section]:
    """The sections of a task, one for each data set, split and scale, with its costs and its per-class sections."""
    titles = METRICS[task]
    shown = columns("id:row", "model", "init*", "epochs*", "images:images seen*", *pooling.TRAINING, *pooling.SETUP)
    shown += columns("seeds*", "machines*", *(f"{name}:{title}" for name, title in titles.items()))
    shown += columns(f"paper:paper {next(iter(titles.values()))}", *pooling.CODE)

    def place(entry: Pool) -> tuple[Any, ...]:
        data = entry.first.dataset
        where = (data.split, data.fingerprint) if data else ("", "")
        return pooling.SCALES.index(entry.first.scale), data_title(entry.first), *where

    groups = pooling.grouped(accuracy_pools(results, task), place)
    alike = [key[:3] for key in groups]
    sections: list[Section] = []
    for (scale, title, split, fingerprint), pools in sorted(groups.items()):
        text = f"{title}, {split} split"
        text += f", {fingerprint[:8]}" if alike.count((scale, title, split)) > 1 else ""
        footnotes: list[str] = []
        rows = [_accuracy_row(entry, task, footnotes) for entry in pools]
        lead, notes = heading(pooling.SCALES[scale], text), _notes(pools, task, footnotes)
        sections += [Section(lead, shown, rows, notes), *cost_sections(lead, pools, task)]
        if task == "segmentation":
            sections += _per_class_sections(lead, pools, rows)
    return sections


def _notes(pools: Sequence[Pool], task: str, footnotes: Sequence[str]) -> list[str]:
    notes = pooling.protocol_notes(pools, task[0].upper())
    inits = {(r.init.source, r.init.note) for entry in pools for r in entry.results if r.init and r.init.note}
    notes += [f"Init {source}: {note}." for source, note in sorted(inits)]
    absent = sorted({str(name) for entry in pools for name in entry.first.metrics.get("absent_classes", ())})
    notes += [f"Not in this split, hence in no mean: {', '.join(absent)}."] if absent else []
    notes += [_RAND_NOTE] if any("rand_score" in entry.first.metrics for entry in pools) else []
    return notes + [f"[{index}] {note}." for index, note in enumerate(footnotes, 1)]


def _class_value(entry: Pool, name: str, quantity: str) -> Estimate | None:
    return pooling.estimate(entry.results, lambda r: r.metrics.get("per_class", {}).get(name, {}).get(quantity))


def _per_class_sections(title: str, pools: Sequence[Pool], rows: Sequence[Row]) -> list[Section]:
    """Per-class IoU with the classes as rows and at most twelve models side by side."""
    classes = list(dict.fromkeys(name for entry in pools for name in entry.first.metrics.get("per_class", {})))
    pixels = {name: next((v.mean for p in pools if (v := _class_value(p, name, "pixels"))), None) for name in classes}
    total, most, sections = sum(filter(None, pixels.values())), render.MAX_COLUMNS - 2, []
    for start in range(0, len(pools) if classes else 0, most):
        chosen = list(zip(pools, rows, strict=True))[start : start + most]
        names = (f"{row.id}:{row.cells['model']} {row.id} {row.cells['code']}".strip() for _, row in chosen)
        lines = []
        for name in classes:
            share = pixels[name]
            cells = {"class": name, "share": render.fixed(share and 100 * share / total, ".1f")}
            found = {row.id: _class_value(entry, name, "iou") for entry, row in chosen}
            lines.append(Row("", cells | {key: value.percent() for key, value in found.items() if value}, {}))
        shown = columns("class", "share:pixels %", *names)
        sections.append(Section(f"IoU % per class: {title}", shown, lines, csv=False, level=4))
    return sections


def _per_class_rows(results: Sequence[Result]) -> list[Row]:
    """Per-class figures of every segmentation row in long form, for the CSV."""
    rows = []
    for entry in accuracy_pools(results, "segmentation"):
        for name in entry.first.metrics.get("per_class", {}):
            values = {"model": pooling.model_title(entry.first), "scale": entry.first.scale, "class": name}
            for quantity in ("iou", "accuracy", "dice", "pixels"):
                values |= spread(quantity, _class_value(entry, name, quantity))
            rows.append(Row(entry.row_id("S"), {}, values, entry.files))
    return rows


def published_section(task: str) -> Section:
    """What the papers print for the suite's models, on whatever data, as a section of its own.

    Scores in other metrics than the suite's stand in a column of their own, in the paper's unit."""
    own = {name for name, entry in ARCHITECTURES.items() if entry.task == task}
    rows = []
    for score in (score for paper in facts.papers().values() for score in paper.scores if own & set(score.models)):
        cells = {name: _printed(score.percent(name)) for name in METRICS[task]}
        data = f"{pooling.DATA_TITLES.get(score.dataset, score.dataset)}, {score.split}"
        cells |= {"name": score.name, "data": data, "other": _other(score, task), "source": _describe(score)}
        rows.append(Row("", cells, {}))
    scores = (f"{name}:{title}" for name, title in METRICS[task].items())
    shown = columns("name:model", "data", *scores, "other:other metrics", "source")
    return Section("Published, for orientation", shown, rows, csv=False)


def _other(score: facts.Score, task: str) -> str:
    """The metrics of a published row that no column of ours holds: `Rand error 0.0382; warping error 0.000353`."""
    known = {spelling for name in METRICS[task] for spelling in (name, f"{name}_error")}
    unit = f" {score.unit}" if score.unit == "%" else ""
    found = {name: value for name, value in score.value.items() if name not in known}
    return "; ".join(f"{_OTHER.get(name, name.replace('_', ' '))} {value}{unit}" for name, value in found.items())
