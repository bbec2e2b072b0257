"""The folder of the tables as a pure function of the results: what the kinds of experiments give, put together.

Knows no kind: each is asked for its sections, figures and headline."""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from repro.errors import NoDataError
from repro.records.result import Result
from repro.report import render
from repro.report.accuracy import published_section
from repro.report.figures import Picture
from repro.report.pooling import DATA_TITLES, METRICS, Pool, data_title, grouped, model_title
from repro.report.render import Row, Section, Table, columns

Expected = Sequence[dict[str, str]]
TableOf = Callable[[Result], str]


def _sections(kinds: Sequence[Any], results: Sequence[Result]) -> dict[str, list[Section]]:
    """The sections of every table: those of the kind that brings it along, then what others add."""
    parts = [(name, kind, sections) for kind in kinds for name, sections in kind.sections(results).items()]
    found: dict[str, list[Section]] = {}
    for name, _, sections in sorted(parts, key=lambda part: all(part[0] != table.name for table in part[1].TABLES)):
        found.setdefault(name, []).extend(sections)
    return found


def _missing_section(table: str, results: Sequence[Result], expected: Expected, table_of: TableOf) -> list[Section]:
    """Experiments without a figure: failed runs that no later run made good, and what has no result."""

    def same(r: Result) -> tuple[Any, ...]:
        return (r.experiment, r.backend, r.precision, r.config_hash)

    done = {(same(result), result.seed) for result in results if result.status == "ok"}
    failed = [r for r in results if r.status == "failed" and (same(r), r.seed) not in done and table_of(r) == table]
    rows = []
    for _, runs in sorted(grouped(failed, same).items()):
        first, files = runs[0], Pool((), tuple(runs)).files
        reason = " ".join((first.error or "").strip().splitlines()[:1])[:120]
        state = f"failed: {reason}" if reason else "failed"
        rows.append((first.experiment, model_title(first), data_title(first), state, files))
    seen = {result.experiment for result in results}
    for row in sorted(expected, key=lambda row: row["experiment"]):
        if row["table"] == table and row["experiment"] not in seen:
            data = row.get("dataset") or ""
            rows.append((row["experiment"], row["model"], DATA_TITLES.get(data, data), row["status"], ()))
    names = ("experiment", "model", "data", "state")
    built = [Row("", cells := dict(zip(names, texts, strict=True)), cells, files) for *texts, files in rows]
    return [Section("No figure yet", columns(*names), built)] if built else []


def build_tables(kinds: Sequence[Any], results: Sequence[Result], expected: Expected, table_of: TableOf) -> list[Table]:
    """The tables that have at least one row, in reading order. What is missing, and what papers print, stands between
    the figures that count and those of smoke runs."""
    found, built = _sections(kinds, results), []
    for info in (info for kind in kinds for info in kind.TABLES):
        sections = found.get(info.name, [])
        missing = _missing_section(info.name, results, expected, table_of)
        smoke = next((i for i, section in enumerate(sections) if "Smoke, only" in section.heading), len(sections))
        if sections or missing:
            published = [published_section(info.name)] if info.name in METRICS else []
            sections[smoke:smoke] = [*missing, *published]
            built.append(Table(info.name, info.title, info.caption, sections))
    return built


def render_all(
    kinds: Sequence[Any], results: Sequence[Result], expected: Expected, table_of: TableOf
) -> tuple[dict[str, render.Content], dict[str, Picture]]:
    """Every generated file by name, text or a picture that is yet to be drawn; and the pictures that are private."""
    results = sorted(results, key=lambda r: (r.experiment, r.run_id))
    tables = build_tables(kinds, results, expected, table_of)
    files: dict[str, render.Content] = {
        f"{table.name}.{form}": write(table) for table in tables for form, write in render.FORMS.items()
    }
    private: dict[str, Picture] = {}
    for kind in kinds:
        for name, content in kind.figures(results).items():
            (private if isinstance(content, Picture) and content.private else files)[name] = content
    index = {"README.md": render.index_markdown(tables, files), "index.json": render.index_json(tables, files)}
    return files | index, private


def write_tables(
    kinds: Sequence[Any],
    results: Sequence[Result],
    folder: Path,
    private_folder: Path,
    *,
    expected: Expected = (),
    table_of: TableOf,
) -> list[Path]:
    """Write what the results yield: files whose content changed; generated files no longer produced go. Galleries of
    photographs, which are not ours to publish, go to a folder of their own, where their data is.

    `expected` rows (experiment, model, table, dataset, status) stand where an experiment has no result; `table_of` is
    the table of a failed result. Returns the files written or deleted."""
    files, private = render_all(kinds, results, expected, table_of)
    written = render.write_files(files, folder, generated_names(kinds, folder))
    for name, picture in private.items():
        with contextlib.suppress(NoDataError):
            written += render.write_files({name: picture}, private_folder, set())
    return written


def check_tables(
    kinds: Sequence[Any], results: Sequence[Result], folder: Path, *, expected: Expected = (), table_of: TableOf
) -> list[str]:
    """Differences between the folder and what the results yield, one line each; empty when up to date."""
    files, _ = render_all(kinds, results, expected, table_of)
    found = render.differences(files, folder, generated_names(kinds, folder))
    return [f"{path}: {problem}" for path, _, problem in found]


def generated_names(kinds: Sequence[Any], folder: Path) -> set[str]:
    """The files of the folder that may be generated: those its index lists, and the forms of every table; others are
    left alone."""
    names = {f"{table.name}.{form}" for kind in kinds for table in kind.TABLES for form in render.FORMS}
    names |= {path.name for path in folder.glob("gallery_*.png")}
    return names | render.indexed_files(folder / "index.json") | {"README.md", "index.json"}
