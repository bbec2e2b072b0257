"""A table as data, its three written forms (Markdown, CSV, LaTeX), the index, and the folder that holds them.

The same table gives the same text on every machine."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from repro.files import atomic_write
from repro.report.figures import Picture, png_data_hash, write_png

Content = str | Picture
MAX_COLUMNS = 14
EMPTY = "–"
GENERATED = "Generated from the result files by `repro tables`; do not edit."
_LATEX = str.maketrans({
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "±": r"$\pm$", "×": r"$\times$", "–": "--",
    "≥": r"$\geq$", "≤": r"$\leq$", "→": r"$\rightarrow$",
})  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A column. `setup` columns say how a figure came about; they may move into the caption or be folded."""

    key: str
    title: str
    setup: bool = False


@dataclass
class Row:
    """One row: rounded text by column key, exact values for the CSV, and the result files behind it."""

    id: str
    cells: dict[str, str]
    values: dict[str, Any]
    files: tuple[str, ...] = ()

    def put(self, key: str, value: float | None, form: str = "") -> None:
        """A number, exact and as text: in a format, or to three significant digits."""
        self.values[key], self.cells[key] = value, fixed(value, form) if form else number(value)


@dataclass(frozen=True)
class Section:
    """Rows that may be compared with each other, and the notes below them."""

    heading: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    notes: Sequence[str] = ()
    csv: bool = True
    level: int = 3


@dataclass(frozen=True)
class TableInfo:
    """A table to be: its name, its title, and how to read it."""

    name: str
    title: str
    caption: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table(TableInfo):
    """A table with its sections."""

    sections: Sequence[Section] = ()


@dataclass(frozen=True)
class Layout:
    """A section as it is printed: titles, rows of text, and what all rows have in common."""

    titles: list[str]
    rows: list[list[str]]
    common: list[tuple[str, str]]

    @property
    def shared(self) -> list[str]:
        """A line of what all rows have in common, where there is any."""
        lead = "This row" if len(self.rows) == 1 else "All rows, where it applies"
        shared = "; ".join(f"{title} {text}" for title, text in self.common)
        return [f"{lead}: {shared}."] if shared else []


def columns(*specs: str | Column) -> tuple[Column, ...]:
    """Columns from `key:title`, `key` where both are the same; a trailing `*` marks a setup column."""

    def built(spec: str) -> Column:
        key, _, title = spec.removesuffix("*").partition(":")
        return Column(key, title or key, spec.endswith("*"))

    return tuple(spec if isinstance(spec, Column) else built(spec) for spec in specs)


def number(value: float | None, digits: int = 3) -> str:
    """A number to some significant digits without an exponent: 1234, 12.3, 0.0123; empty for None."""
    if value is None or not math.isfinite(value):
        return ""
    if value == 0:
        return "0"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(decimals, 9)}f}"


def fixed(value: float | None, form: str) -> str:
    """A number in a format; empty for None."""
    return "" if value is None else format(value, form)


def arrange(section: Section) -> Layout:
    """Drop empty columns, lift setup columns that say the same in all rows, fold setup beyond MAX_COLUMNS.

    A row to which a setup column does not apply (an empty cell) does not stop it from being lifted."""
    columns, common = [], []
    for column in section.columns:
        texts = {row.cells.get(column.key, "") for row in section.rows} - {""}
        if column.setup and len(texts) == 1:
            common.append((column.title, texts.pop()))
        elif texts:
            columns.append(column)
    spare = len(columns) - MAX_COLUMNS
    folded = [column for column in columns if column.setup][-spare - 1 :] if spare > 0 else []
    kept = [column for column in columns if column not in folded]
    titles = [column.title for column in kept]
    rows = [[row.cells.get(column.key) or EMPTY for column in kept] for row in section.rows]
    if folded:
        where = columns.index(folded[0])
        titles.insert(where, "setup")
        for row, cells in zip(section.rows, rows, strict=True):
            parts = [f"{c.title} {row.cells[c.key]}" for c in folded if row.cells.get(c.key)]
            cells.insert(where, "; ".join(parts) or EMPTY)
    return Layout(titles, rows, common)


def _alignment(layout_rows: list[list[str]], width: int) -> list[str]:
    """`right` for columns of numbers, `left` for text."""
    columns = [[row[index] for row in layout_rows] for index in range(width)]
    numeric = [all(text == EMPTY or text[:1].isdigit() for text in texts) for texts in columns]
    return ["right" if number else "left" for number in numeric]


def escape_markdown(text: str) -> str:
    """Text on one line without HTML."""
    return " ".join(text.split()).replace("<", "&lt;")


def markdown_table(titles: list[str], rows: list[list[str]]) -> str:
    """A Markdown table: numbers stand right-aligned, text left."""
    cells = [[escape_markdown(cell).replace("|", "\\|") for cell in row] for row in rows]
    align = _alignment(rows, len(titles))
    return tabulate(cells, headers=titles, tablefmt="pipe", colalign=align, disable_numparse=True)


def to_markdown(table: Table) -> str:
    """The table as Markdown: reading rules, then each section with what its rows share and its notes."""
    parts = [f"<!-- {GENERATED} -->", f"# {table.title}", *table.caption]
    for section in table.sections:
        layout = arrange(section)
        if section.heading:
            parts.append(f"{'#' * section.level} {section.heading}")
        parts += [escape_markdown(line) for line in layout.shared]
        parts.append(markdown_table(layout.titles, layout.rows))
        if section.notes:
            parts.append("\n".join(f"- {escape_markdown(note)}" for note in section.notes))
    return "\n\n".join(parts) + "\n"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return text.translate(_LATEX)


def to_latex(table: Table) -> str:
    """The table as LaTeX, one `table` a section; needs `booktabs` and `graphicx`."""
    plain = [line.replace("`", "") for line in table.caption]
    parts = [f"% {GENERATED}\n% needs \\usepackage{{booktabs,graphicx}}", *(f"% {line}" for line in plain)]
    for index, section in enumerate(table.sections, 1):
        layout = arrange(section)
        title = f"{table.title}: {section.heading}." if section.heading else f"{table.title}."
        caption = escape_latex(" ".join([title, *layout.shared]))
        align = "".join(side[0] for side in _alignment(layout.rows, len(layout.titles)))
        notes = (note.replace("`", "") for note in section.notes)
        header, *rows = (" & ".join(map(escape_latex, row)) + " \\\\" for row in (layout.titles, *layout.rows))
        lines = ["\\begin{table}", "\\centering", f"\\caption{{{caption}}}"]
        lines.append(f"\\label{{tab:{table.name.replace('_', '-')}-{index}}}")
        lines.append("\\resizebox{\\ifdim\\width>\\linewidth\\linewidth\\else\\width\\fi}{!}{%")
        lines += [f"\\begin{{tabular}}{{{align}}}", "\\toprule", header, "\\midrule", *rows, "\\bottomrule"]
        lines += ["\\end{tabular}}", *(f"\\par\\footnotesize {escape_latex(note)}" for note in notes), "\\end{table}"]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def to_csv(table: Table) -> str:
    """Every row of every section with full-precision numbers; `results` names the files behind it."""
    rows = [(section.heading, row) for section in table.sections if section.csv for row in section.rows]
    frame = pd.DataFrame([{"row": row.id, "section": heading} | row.values for heading, row in rows], dtype=object)
    frame["results"] = [" ".join(row.files) for _, row in rows]
    return frame.to_csv(index=False, lineterminator="\n")


FORMS = {"md": to_markdown, "csv": to_csv, "tex": to_latex}


def _rows_by_id(table: Table) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Row id -> (what the row is, its result files), each id once."""
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for section in table.sections:
        for row in section.rows:
            if row.files:
                setting = " ".join(filter(None, (row.cells.get("backend"), row.cells.get("precision"))))
                text = "; ".join(filter(None, (row.cells.get("model"), setting, section.heading)))
                found.setdefault(row.id or row.cells.get("experiment", ""), (text, row.files))
    return found


def index_json(tables: list[Table], files: dict[str, Content]) -> str:
    """The index for programs: tables, their rows with the result files pooled, and the pictures' hashes."""
    rows = {
        table.name: {key: {"what": what, "results": paths} for key, (what, paths) in _rows_by_id(table).items()}
        for table in tables
    }
    index = {
        "tables": {table.name: {"title": table.title, "rows": rows[table.name]} for table in tables},
        "files": sorted(files),
        "pictures": {name: item.data_hash for name, item in files.items() if isinstance(item, Picture)},
    }
    return json.dumps(index, indent=1, ensure_ascii=False) + "\n"


def indexed_files(path: Path) -> set[str]:
    """The files that an index lists; none where it is missing or damaged."""
    try:
        return {name for name in json.loads(path.read_bytes())["files"] if isinstance(name, str) and "/" not in name}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


_HOW_TO_READ = """\
Every number here is computed from the files in `results/`; nothing is typed by hand. `repro tables`
writes this folder again, `repro tables --check` tells whether it still is what the results yield.

- **Forms.** `.md` and `.tex` are rounded for reading; `.csv` has full precision (fractions, not percent),
  with mean, standard deviation and n as columns of their own and the result files in the last column.
- **Row ids** (such as `S3f2a1b`) follow from what was pooled, so that they stay when other rows come and
  go. The lists below lead from each id to the result files behind it; `index.json` says the same to
  programs.
- **Scale.** `paper` is the paper's own scale, `reduced` a smaller one; `smoke` proves that the suite
  works and says nothing about the method. They never share a row.
- **Not official.** A data set whose files or split are not the published ones carries "(not official: why)"
  after its name. Its figures are not comparable with the benchmark's, and no published figure stands beside
  them.
- **Cost.** Below each section of scores stand the parameters, operations, latency, images a second and
  training memory of its rows, apart by hardware; the figures `speed accuracy` draw the two against each
  other, a panel for each data set, scale, input and kind of machine. Where images are scored by tiles, one
  latency is that of a tile.
- **Galleries** show the same test images through every model: photographs are not ours to publish, so that
  only those of generated data are here, the others in `runs/gallery/` of the machine that made them.
- **Stale** rows were made by another version of their code than today's; `repro run` makes them again. `no data`, \
`not run`
  and `failed` stand where a figure is missing.
- **Citing.** Give the table, the row id and the commit of this folder; `repro cite RESULT` prints the
  reference of one result file. Compare rows within a section only."""


def index_markdown(tables: list[Table], files: dict[str, Content]) -> str:
    """`README.md` of the tables: how to read and cite a cell, and every row's result files."""
    parts = [f"<!-- {GENERATED} -->", "# Tables", _HOW_TO_READ]
    pictures = [name for name, item in sorted(files.items()) if isinstance(item, Picture)]
    rows = []
    for table in tables:
        forms = (name for name in files if name.startswith((f"{table.name}.", f"{table.name}_")))
        links = ", ".join(f"[{name.removeprefix(table.name).lstrip('._')}]({name})" for name in forms)
        rows.append([f"[{table.title}]({table.name}.md)", links, str(len(_rows_by_id(table)))])
    rows += [[f"Figure: {name.removesuffix('.png').replace('_', ' ')}", f"[png]({name})", ""] for name in pictures]
    parts.append(markdown_table(["what", "files", "rows"], rows) if rows else "There are no results yet.")
    for table in tables:
        lines = []
        for key, (what, paths) in _rows_by_id(table).items():
            links = ", ".join(f"[{Path(path).stem}](../{path})" for path in paths)
            lines.append(f"- `{key}` {escape_markdown(what)}: {links}")
        parts += [f"## {table.title}: result files by row", "\n".join(lines)] if lines else []
    return "\n\n".join(parts) + "\n"


def write_files(files: dict[str, Content], folder: Path, owned: set[str]) -> list[Path]:
    """Write files whose content changed, delete owned ones no longer produced; returns what was touched."""
    touched = []
    for path, content, _ in differences(files, folder, owned):
        if content is None:
            path.unlink()
        elif isinstance(content, Picture):
            write_png(path, content.draw(), content.data_hash)
        else:
            atomic_write(path, content.encode())
        touched.append(path)
    return touched


def differences(files: dict[str, Content], folder: Path, owned: set[str]) -> Iterator[tuple[Path, Content | None, str]]:
    """The files that are not as they should be: path, content (None where there should be none), what is wrong."""
    for name in sorted(owned | set(files)):
        path, content = folder / name, files.get(name)
        if content is None:
            problem = "left over, no result yields it any more" if path.exists() else ""
        elif not path.exists():
            problem = "missing"
        elif isinstance(content, Picture):
            same = png_data_hash(path) == content.data_hash
            problem = "" if same else "shows other data than the results yield"
        else:
            found = path.read_bytes()
            lines = zip_longest(found.decode(errors="replace").splitlines(), content.splitlines())
            first = next((number for number, (a, b) in enumerate(lines, 1) if a != b), 1)
            problem = "" if found == content.encode() else f"line {first} is not what the results yield"
        if problem:
            yield path, content, problem
