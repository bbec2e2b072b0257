"""`repro tables`: everything that is generated from results/, in one place."""

from pathlib import Path

import msgspec

from repro import paths
from repro.errors import ReproError
from repro.experiments import KINDS, read_kind
from repro.presets import PRESETS
from repro.records.result import Result, read_results
from repro.report import readme, tables


def expected() -> list[dict[str, str]]:
    """A row for each preset: what its cell says while there is no result."""
    rows = []
    for preset in PRESETS:
        kind = next(iter(preset.configs.values()))
        row = {"experiment": preset.name, "model": kind.subject(), "table": kind.table(), "dataset": kind.data_name()}
        rows.append(row | {"status": "not run"})
    return rows


def table_of(result: Result) -> str:
    """The table that a result belongs to, "" where its settings are no longer understood."""
    try:
        return read_kind(result.config).table()
    except (msgspec.ValidationError, ReproError):
        return ""


def write_all() -> list[Path]:
    """Write tables, figures, galleries and the README's headline; returns the files that changed."""
    results = read_results(paths.results_dir())
    public, private = paths.tables_dir(), paths.runs_dir() / "gallery"
    written = tables.write_tables(KINDS, results, public, private, expected=expected(), table_of=table_of)
    path = _readme()
    if path and readme.update_readme(path, readme.headline(KINDS, results)):
        written.append(path)
    return written


def check_all() -> list[str]:
    """What differs between the generated files and what results/ yields, one line each."""
    results = read_results(paths.results_dir())
    found = tables.check_tables(KINDS, results, paths.tables_dir(), expected=expected(), table_of=table_of)
    if path := _readme():
        found += readme.check_readme(path, readme.headline(KINDS, results))
    return found


def _readme() -> Path | None:
    """The README whose headline belongs to these tables: the clone's, unless results live elsewhere."""
    path = paths.tables_dir().parent / "README.md"
    return path if path.exists() else None
