"""The tables as pure functions of the results: architectures, gaps, curves, writing and checking."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from repro import facts
from repro.files import canonical_hash
from repro.harness.record import Result
from repro.report import figures, render, yolo
from repro.report.accuracy import accuracy_sections, per_class_table, published_section
from repro.report.cost import CAPTION as _COST
from repro.report.cost import cost_table, newest_pools, speed_figure
from repro.report.instance import overhead_sections
from repro.report.lineage import lineage_sections, recall_sections, rpn_sections
from repro.report.operations import operation_sections
from repro.report.pooling import (
    CODE,
    DATA_TITLES,
    METRICS,
    SCALES,
    CodeHash,
    Pool,
    accuracy_pools,
    data_title,
    heading,
    model_title,
    pool,
    setup_of,
    size_text,
    task_of,
)
from repro.report.render import Row, Section, Table, columns
from repro.report.stages import recall_figure
from repro.report.timings import peer_sections, xla_sections

Expected = Sequence[dict[str, str]]
TABLES = {
    "architectures": "Architectures",
    "classification": "Classification",
    "segmentation": "Semantic segmentation",
    "detection": "Object detection",
    "instance": "Instance segmentation",
    "rcnn_lineage_speed": "R-CNN, Fast R-CNN and Faster R-CNN, stage by stage",
    "rpn_speed": "The time of region proposals",
    "yolo_speed": "Whole detectors side by side",
    "anchors": "Anchors: clusters of box sizes",
    "xla": "Eager, graph and XLA",
    "peers": "Side by side with peers",
}
_TABLE_OF_KIND = {
    "lineage": "rcnn_lineage_speed", "mask_overhead": "instance", "gallery": "instance",
    "detector_speed": "yolo_speed", "anchors": "anchors", "operations": "peers",
    "speed": "xla", "peer": "peers", "inspect": "architectures",
}  # fmt: skip


def _table_of(result: Result) -> str:
    """The table that a result belongs to."""
    return _TABLE_OF_KIND.get(str(result.config.get("type"))) or _TABLE_OF_KIND.get(result.kind, task_of(result))


def _missing_section(table: str, results: Sequence[Result], expected: Expected) -> list[Section]:
    """Experiments without a figure: failed runs that no later run made good, and what has no result."""

    def same(r: Result) -> tuple[Any, ...]:
        return (r.experiment, r.backend, r.precision, r.config_hash, r.seed)

    done = {same(result) for result in results if result.status == "ok"}
    failed: dict[tuple[Any, ...], list[Result]] = {}
    for result in results:
        if _table_of(result) == table and result.status == "failed" and same(result) not in done:
            failed.setdefault(same(result)[:-1], []).append(result)
    rows = []
    for _, runs in sorted(failed.items()):
        entry = Pool((), tuple(runs))
        reason = " ".join((entry.first.error or "").strip().splitlines()[:1])[:120]
        state = f"failed: {reason}" if reason else "failed"
        rows.append((entry.first.experiment, model_title(entry.first), data_title(entry.first), state, entry.files))
    seen = {result.experiment for result in results}
    for row in sorted(expected, key=lambda row: row["experiment"]):
        here = _TABLE_OF_KIND.get(row.get("kind") or row["task"], row["task"]) == table
        if here and row["experiment"] not in seen:
            data = row.get("dataset") or ""
            rows.append((row["experiment"], row["model"], DATA_TITLES.get(data, data), row["status"], ()))
    names = ("experiment", "model", "data", "state")
    built = tuple(Row("", (cells := dict(zip(names, row, strict=False))), cells, row[4]) for row in rows)
    return [Section("No figure yet", columns(*names), built)] if built else []


def _architecture_row(entry: Pool) -> Row:
    first, metrics = entry.first, entry.first.metrics
    whole = first.width == first.depth == 1
    paper = {name: _printed(first, name) if whole else None for name in ("params", "conv_layers")}
    frozen = facts.find_fact(f"{first.model}.{first.variant}.trainable_params") if whole else None
    pairs = [(metrics[name], fact.value) for name, fact in paper.items() if fact]
    pairs += [(metrics["trainable_params"], frozen.value)] if frozen else []
    exact = ("yes" if all(ours == theirs for ours, theirs in pairs) else "no") if pairs else ""
    citation = facts.papers().get(metrics.get("paper", ""))
    outputs = "; ".join(f"{name} {size_text(shape)}" for name, shape in metrics["outputs"].items())
    convs = paper["conv_layers"].value if paper["conv_layers"] else render.EMPTY
    printed = facts.find_fact(f"{first.model}.params_printed") if whole else None
    setup, _ = setup_of(entry)
    cells = {
        "id": entry.row_id("A"),
        "model": first.model,
        "paper": f"{citation.authors[0].split()[-1]} {citation.year}" if citation else "",
        "variant": first.variant,
        "width": setup["width"],
        "input": size_text(metrics["input_shape"]),
        "outputs": outputs,
        "params": f"{metrics['params']:,}",
        "paper_params": f"{paper['params'].value:,}" if paper["params"] else printed.value if printed else "",
        "convs": f"{metrics['conv_layers']} / {convs}",
        "match": exact,
        "trainable": f"{metrics['trainable_params']:,}",
        "flops": f"{metrics['flops'] / 1e9:.2f}",
        "deviations": str(len(metrics["deviations"])),
        "code": setup["code"],
    }
    values = {
        "model": first.model,
        "paper": metrics.get("paper"),
        "variant": first.variant,
        "width": first.width,
    }
    for name in ("params", "trainable_params", "running_stats", "conv_layers", "flops"):
        values[name] = metrics.get(name)
    values |= {f"params_{role}": count for role, count in metrics.get("params_by_role", {}).items()}
    values |= {f"paper_{name}": fact.value if fact else None for name, fact in paper.items()}
    values |= {
        "exact": exact or None,
        "input": cells["input"],
        "outputs": outputs,
        "deviations": cells["deviations"],
    }
    return Row(cells["id"], cells, values | {"code": entry.code or "unknown"}, entry.files)


def _printed(first: Result, name: str) -> facts.Fact | None:
    """What the papers have of a network: of its variant, or where that makes no difference of all of them."""
    return facts.find_fact(f"{first.model}.{first.variant}.{name}") or facts.find_fact(f"{first.model}.{name}")


def _architecture_sections(results: Sequence[Result], current: CodeHash | None) -> list[Section]:
    def key(r: Result) -> tuple[Any, ...]:
        return (r.model, r.variant, r.width, r.depth, r.input_size, canonical_hash(r.metrics))

    shown = columns("id:row", "model", "paper", "variant", "width*", "input", "outputs", "params")
    shown += columns("paper_params:params, paper", "convs:conv layers ours / paper", "match:exact", "trainable")
    shown += (*columns("flops:GFLOPs", "deviations"), *CODE)
    pools = pool(
        (r for r in results if r.kind == "inspect" and _table_of(r) == "architectures" and r.status == "ok"),
        key,
        current,
    )
    rows, notes = tuple(map(_architecture_row, pools)), []
    told: dict[str, list[str]] = {}
    for entry in pools:
        for text in entry.first.metrics["deviations"]:
            told.setdefault(text, []).append(f"{entry.first.model} ({entry.first.variant})")
    everyone = {f"{entry.first.model} ({entry.first.variant})" for entry in pools}
    for text, models in told.items():
        who = "every network" if everyone == set(models) and len(everyone) > 1 else ", ".join(models)
        notes.append(f"Deviation of {who}: {text}.")
    models = dict.fromkeys(entry.first.model for entry in pools)
    notes += [note for name in models for note in _other_counts(name)]
    found = {f"{entry.first.model} ({entry.first.variant})": _printed(entry.first, "params") for entry in pools}
    sources = [f"{name}: {fact.source}" for name, fact in found.items() if fact]
    notes += [f"Where the papers' counts come from. {'. '.join(sources)}."] if sources else []
    return [Section("", shown, rows, tuple(notes))] if rows else []


def _other_counts(model: str) -> list[str]:
    """What a paper counts by a rule of its own, or prints rounded, so that no column can hold it."""
    layers, printed = facts.find_fact(f"{model}.layers"), facts.find_fact(f"{model}.params_printed")
    notes = [f"{model}: the paper counts {layers.value} layers, {layers.note}."] if layers else []
    return notes + ([f"{model}: the paper prints {printed.value} parameters; {printed.note}."] if printed else [])


_POOLED = (
    "A row pools the runs of one experiment on one backend, at one precision, configuration and state of "
    "the code: mean ± sample standard deviation over seeds, no ± with one seed; a seed that ran on several "
    "machines is averaged first. `images seen` counts training images, those of the runs it was initialised "
    "from included. `machines` says whether the means of several machines agree: they differ by less than "
    "0.05 points or by at most two standard errors (undecided: they differ, and one of them ran a single "
    "seed)."
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
_CAPTIONS: dict[str, tuple[str, ...]] = {
    **yolo.CAPTIONS,
    "classification": (_POOLED, _COMPARABLE, _COST),
    "segmentation": (_POOLED, _COMPARABLE, _COST),
    "detection": (_POOLED, _COMPARABLE, _COST),
    "instance": (
        _POOLED,
        _COMPARABLE,
        _COST,
        "AP is COCO's, of masks and of boxes. A row `without masks` is Faster R-CNN on the same network; rows with "
        "another label differ from the plain one in that alone.",
    ),
    "rcnn_lineage_speed": (
        "Milliseconds for one image, median with the 5th to 95th percentile, after warm-up, device synchronised. "
        "`total` is the detector from the image on the device to its final boxes; selective search comes on top of "
        "R-CNN and Fast R-CNN. `x Fast` is the time divided by Fast R-CNN's, once with and once without selective "
        "search. The papers' seconds are those of a Tesla K40 without selective search (Fast R-CNN, Table 4; Faster "
        "R-CNN, Table 5, which needs none).",
    ),
    "rpn_speed": (
        "The 10 ms that Faster R-CNN prints for proposals are the RPN's layers with the selection of proposals, given "
        "the shared map; from the pixels they take the backbone's time too.",
    ),
    "architectures": (
        "One row is one network as built with its default number of classes. `params` counts weights, "
        "biases, batch-normalisation gamma and beta, frozen or not; GFLOPs are 2 x multiply-adds of one "
        "forward pass. `exact` says whether the parameters and the convolution layers (transposed ones not "
        "counted) equal those of the paper or of its official code to the last digit, and so do the "
        "trainable parameters where the official code freezes some.",
    ),
    "xla": (
        "Times are medians over n repetitions after warm-up, with the 5th to 95th percentile in "
        "parentheses; the device is synchronised, and compile time is measured apart. Rows pool machines "
        "with the same accelerator (or CPU) and driver, never another: median of the runs' medians, lowest "
        "p5, highest p95. Latency is one forward pass. Eager runs operation by operation, graph is "
        "`tf.function`, XLA is one compiled program; JAX has no graph mode, so that these cells stay open. "
        "Scale `paper` is the whole network at its paper's input size.",
    ),
    "peers": (
        "The suite and a peer do the same work in the same run, interleaved, at the same precision. "
        "`ours/peer` below 1 means that the suite is faster. Of networks, the last column is the largest difference "
        "of the outputs relative to the largest output, for equal weights and input; what it is of an operation stands "
        "below its section. Times are medians over n "
        "repetitions with the 5th to 95th percentile in parentheses.",
    ),
}


def _published_latency() -> str:
    found = [facts.paper_value("fcn", key) for key in ("fcn8s.latency", "fcn_vgg16.latency_500x500")]
    parts = [f"{fact.note.split(';')[0]} {fact.value} {fact.unit} ({fact.source})" for fact in found]
    return f"For orientation, the FCN paper printed on a Tesla K40c: {', '.join(parts)}."


def build_tables(results: Sequence[Result], expected: Expected, current: CodeHash | None) -> list[Table]:
    """The tables that have at least one row, in reading order."""
    builders = {
        "xla": xla_sections,
        "peers": lambda found, code: [*peer_sections(found, code), *operation_sections(found, code)],
        "architectures": _architecture_sections,
        "detection": lambda found, code: [*accuracy_sections("detection", found, code), *recall_sections(found, code)],
        "instance": lambda found, code: [*accuracy_sections("instance", found, code), *overhead_sections(found, code)],
        "rcnn_lineage_speed": lineage_sections,
        "rpn_speed": rpn_sections,
        "yolo_speed": yolo.speed_sections,
        "anchors": yolo.anchor_sections,
    }
    built = []
    for name, title in TABLES.items():
        captions = (*_CAPTIONS[name], _published_latency()) if name == "xla" else _CAPTIONS[name]
        build = builders.get(name) or functools.partial(accuracy_sections, name)
        sections, missing = build(results, current), _missing_section(name, results, expected)
        smoke = next((i for i, section in enumerate(sections) if "Smoke, only" in section.heading), len(sections))
        published = [published_section(name)] if name in METRICS else []
        if sections or missing:
            sections[smoke:smoke] = [*missing, *published]
            built.append(Table(name, title, captions, tuple(sections)))
    return built


def training_figure(results: Sequence[Result], task: str, current: CodeHash | None) -> figures.Picture | None:
    """Training curves of a task, pooled like the table's rows; stale runs only where nothing newer exists."""
    metric, title = next(iter(METRICS[task].items()))
    pools = [p for p in accuracy_pools(results, task, current) if p.first.kind == "train" and p.first.history]
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


_FIGURES = {"curves": training_figure, "speed_accuracy": speed_figure}
_WHOLE_FIGURES = {
    "recall_detection.png": recall_figure, "anchors.png": yolo.anchor_figure,
    "speed_accuracy_detectors.png": yolo.detectors_figure,
}  # fmt: skip


def render_all(
    results: Sequence[Result],
    expected: Expected,
    current: CodeHash | None,
    pictures: Mapping[str, figures.Picture] = MappingProxyType({}),
) -> dict[str, render.Content]:
    """Every generated file by name: text, or a picture that is yet to be drawn (`pictures` come from elsewhere)."""
    results = sorted(results, key=lambda r: (r.experiment, r.run_id))
    tables = build_tables(results, expected, current)
    files: dict[str, render.Content] = {}
    for table in tables:
        files[f"{table.name}.md"] = render.to_markdown(table)
        files[f"{table.name}.csv"] = render.to_csv(table)
        files[f"{table.name}.tex"] = render.to_latex(table)
    long = [per_class_table(results, current), *(cost_table(results, task, current) for task in METRICS)]
    files |= {f"{table.name}.csv": render.to_csv(table) for table in long if table.sections}
    for task in METRICS:
        drawn = {f"{name}_{task}.png": make(results, task, current) for name, make in _FIGURES.items()}
        files |= {name: picture for name, picture in drawn.items() if picture}
    whole = {name: make(results, current) for name, make in _WHOLE_FIGURES.items()}
    files |= {name: picture for name, picture in whole.items() if picture}
    files |= pictures
    return files | {
        "README.md": render.index_markdown(tables, files),
        "index.json": render.index_json(tables, files),
    }


def generated_names(tables_dir: Path) -> set[str]:
    """Every file that this module may own in the folder of the tables; others are left alone."""
    names = {f"{name}.{form}" for name in TABLES for form in ("md", "csv", "tex")}
    names |= {f"{name}_{task}.png" for name in _FIGURES for task in METRICS}
    names |= {f"{task}_cost.csv" for task in METRICS} | {path.name for path in tables_dir.glob("gallery_*.png")}
    return names | {*_WHOLE_FIGURES, "segmentation_per_class.csv", "README.md", "index.json"}


def write_tables(
    results: Sequence[Result],
    tables_dir: Path,
    *,
    expected: Expected = (),
    current_code_hash: CodeHash | None = None,
    pictures: Mapping[str, figures.Picture] = MappingProxyType({}),
) -> list[Path]:
    """Write what the results yield: files whose content changed; generated files no longer produced go.

    `expected` rows (experiment, model, task or kind, dataset, status) stand where an experiment has no
    result; `current_code_hash` gives a result's code hash today (None: unknown), and rows of other code
    are marked stale; `pictures` are galleries by file name. Returns the files written or deleted."""
    files = render_all(results, expected, current_code_hash, pictures)
    return render.write_files(files, tables_dir, generated_names(tables_dir))


def check_tables(
    results: Sequence[Result],
    tables_dir: Path,
    *,
    expected: Expected = (),
    current_code_hash: CodeHash | None = None,
    pictures: Mapping[str, figures.Picture] = MappingProxyType({}),
) -> list[str]:
    """Differences between the folder and what the results yield, one line each; empty when up to date."""
    files = render_all(results, expected, current_code_hash, pictures)
    return render.check_files(files, tables_dir, generated_names(tables_dir))
