"""Accuracy: a section for each data set, split and scale, the per-class figures, and what papers print."""

from collections.abc import Iterable, Sequence
from typing import Any

from repro import facts
from repro.harness.record import Result
from repro.registry import ARCHITECTURES
from repro.report import render
from repro.report.pooling import (
    BASELINE,
    CODE,
    DATA_TITLES,
    METRICS,
    SCALES,
    SETUP,
    CodeHash,
    Estimate,
    Pool,
    accuracy_pools,
    agreement,
    data_title,
    estimate,
    heading,
    model_title,
    protocol_notes,
    setup_of,
)
from repro.report.render import Row, Section, Table, columns


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


def _accuracy_row(entry: Pool, task: str, footnotes: list[str]) -> Row:
    first, data, headline = entry.first, entry.first.dataset, next(iter(METRICS[task]))
    cells, values = setup_of(entry)
    cells["id"] = entry.row_id(task[0].upper())
    init = first.init.source if first.init else ""
    seen = [int(r.metrics.get("chain_images_seen", r.images_seen)) for r in entry.results]
    machines, agrees = len({r.machine.id for r in entry.results}), agreement(entry.results, headline)
    if first.model != BASELINE:
        more = f" ({len(entry.results)} runs)" if len(entry.results) > len(entry.seeds) else ""
        cells |= {
            "init": init,
            "epochs": _range((r.epochs for r in entry.results), "g"),
            "images": _range(seen, ",d"),
            "seeds": ", ".join(map(str, entry.seeds)) + more,
            "machines": f"{machines}, {agrees}" if agrees else str(machines),
        }
    values |= {"init": init or None, "epochs": first.epochs, "images_seen": max(seen), "machines": machines}
    values |= {"seeds": " ".join(map(str, entry.seeds)), "machines_agree": agrees or None}
    for name in ("name", "split", "official", "note", "fingerprint"):
        values["dataset" if name == "name" else f"dataset_{name}"] = getattr(data, name, None)
    paper = facts.published(first.model, data.name, data.split)[:1] if data and data.official else []
    for name in METRICS[task]:
        found = estimate(entry.results, lambda r, name=name: r.metrics.get(name))
        printed = paper[0].percent(name) if paper else None
        cells[name] = found.percent() if found else ""
        values |= {f"{name}_{part}": getattr(found, part, None) for part in ("mean", "std", "n")}
        values[f"paper_{name}"] = None if printed is None else round(printed / 100, 6)
    if paper:
        note = f"{paper[0].name}: {_describe(paper[0])}"
        footnotes += [] if note in footnotes else [note]
        cells["paper"] = f"{_printed(paper[0].percent(headline))} [{footnotes.index(note) + 1}]"
        values["paper_source"] = paper[0].source
    return Row(cells["id"], cells, values, entry.files)


def accuracy_sections(task: str, results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    """The sections of a task, one for each data set, split and scale, with its per-class sections."""
    titles, letter = METRICS[task], task[0].upper()
    before = columns("id:row", "model", "init*", "epochs*", "images:images seen*")
    scores = columns(*(f"{name}:{title}" for name, title in titles.items()))
    paper = columns(f"paper:paper {next(iter(titles.values()))}")
    shown = (*before, *SETUP, *columns("seeds*", "machines*"), *scores, *paper, *CODE)
    groups: dict[tuple[Any, ...], list[Pool]] = {}
    for entry in accuracy_pools(results, task, current):
        data = entry.first.dataset
        where = (data.split, data.fingerprint) if data else ("", "")
        groups.setdefault((SCALES.index(entry.first.scale), data_title(entry.first), *where), []).append(entry)
    alike = [key[:3] for key in groups]
    sections: list[Section] = []
    for key, pools in sorted(groups.items(), key=lambda item: item[0]):
        scale, title, split, fingerprint = key
        text = f"{title}, {split} split" + (f", {fingerprint[:8]}" if alike.count(key[:3]) > 1 else "")
        footnotes: list[str] = []
        rows = tuple(_accuracy_row(entry, task, footnotes) for entry in pools)
        notes = protocol_notes(pools, letter)
        inits = {(r.init.source, r.init.note) for entry in pools for r in entry.results if r.init and r.init.note}
        notes += [f"Init {source}: {note}." for source, note in sorted(inits)]
        absent = sorted({str(name) for entry in pools for name in entry.first.metrics.get("absent_classes", ())})
        notes += [f"Not in this split, hence in no mean: {', '.join(absent)}."] if absent else []
        notes += [f"[{index}] {note}." for index, note in enumerate(footnotes, 1)]
        sections.append(Section(heading(SCALES[scale], text), shown, rows, tuple(notes)))
        if task == "segmentation":
            sections += _per_class_sections(sections[-1].heading, pools, rows)
    return sections


def _class_value(entry: Pool, name: str, quantity: str) -> Estimate | None:
    return estimate(entry.results, lambda r: r.metrics.get("per_class", {}).get(name, {}).get(quantity))


def _per_class_sections(title: str, pools: Sequence[Pool], rows: Sequence[Row]) -> list[Section]:
    """Per-class IoU with the classes as rows and at most twelve models side by side."""
    classes = list(dict.fromkeys(name for entry in pools for name in entry.first.metrics.get("per_class", {})))
    pixels = {name: next((v for p in pools if (v := _class_value(p, name, "pixels"))), None) for name in classes}
    total = sum(value.mean for value in pixels.values() if value)
    sections = []
    for start in range(0, len(pools) if classes else 0, render.MAX_COLUMNS - 2):
        chosen = list(zip(pools, rows, strict=True))[start : start + render.MAX_COLUMNS - 2]
        names = (f"{row.id}:{row.cells['model']} {row.id} {row.cells['code']}".strip() for _, row in chosen)
        shown = columns("class", "share:pixels %", *names)
        lines = []
        for name in classes:
            share = pixels[name]
            cells = {"class": name, "share": f"{100 * share.mean / total:.1f}" if share and total else ""}
            found = {row.id: _class_value(entry, name, "iou") for entry, row in chosen}
            lines.append(Row("", cells | {key: value.percent() if value else "" for key, value in found.items()}, {}))
        sections.append(Section(f"IoU % per class: {title}", shown, tuple(lines), csv=False, level=4))
    return sections


def per_class_table(results: Sequence[Result], current: CodeHash | None) -> Table:
    """Per-class figures of every segmentation row in long form, for the CSV."""
    rows = []
    for entry in accuracy_pools(results, "segmentation", current):
        for name in entry.first.metrics.get("per_class", {}):
            values: dict[str, Any] = {
                "model": model_title(entry.first),
                "scale": entry.first.scale,
                "class": name,
            }
            for quantity in ("iou", "accuracy", "dice", "pixels"):
                found = _class_value(entry, name, quantity)
                values |= {f"{quantity}_{part}": getattr(found, part, None) for part in ("mean", "std", "n")}
            rows.append(Row(entry.row_id("S"), {}, values, entry.files))
    return Table("segmentation_per_class", "", (), (Section("", (), tuple(rows)),) if rows else ())


def published_section(task: str) -> Section:
    """What the papers print for the suite's models, on whatever data, as a section of its own."""
    own = {name for name, entry in ARCHITECTURES.items() if entry.task == task}
    rows = []
    for score in (score for paper in facts.papers().values() for score in paper.scores if own & set(score.models)):
        cells = {name: _printed(score.percent(name)) for name in METRICS[task]}
        data = f"{DATA_TITLES.get(score.dataset, score.dataset)}, {score.split}"
        rows.append(Row("", cells | {"name": score.name, "data": data, "source": _describe(score)}, {}))
    scores = (f"{name}:{title}" for name, title in METRICS[task].items())
    shown = columns("name:model", "data", *scores, "source")
    return Section("Published, for orientation", shown, tuple(rows), csv=False)
