"""The headline table of the repository's README, between two markers that only this module writes between."""

from collections.abc import Sequence
from pathlib import Path

from repro.errors import ReproError
from repro.files import atomic_write
from repro.records.result import Result
from repro.report.headline import use_rows
from repro.report.render import markdown_table

BEGIN = "<!-- headline:begin -->"
END = "<!-- headline:end -->"


def headline(kinds: Sequence[type], results: Sequence[Result]) -> str:
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
    if rows:
        parts.append(markdown_table(["model", "data", "scale", "result", "run", "row"], rows))
    return "\n\n".join([*parts, note])


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
