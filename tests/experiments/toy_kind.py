"""A kind of experiment that nothing in the package knows, in one file: settings, what it runs, its table, a preset."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from repro.experiments.kind import Kind, of_kind
from repro.presets.base import Preset
from repro.records.result import Result
from repro.records.run import Outcome, Progress, Run
from repro.report.render import Row, Section, TableInfo, columns

VERSION = 1


class Toy(Kind, tag="toy"):
    """Square a number, and add the seed."""

    RESULT: ClassVar[str] = "inspect"
    TABLES: ClassVar[tuple[TableInfo, ...]] = (TableInfo("toy", "Toys", ("What becomes of a number.",)),)

    number: int

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """An outcome for each seed."""
        for done, run in enumerate(runs, 1):
            progress(done / len(runs), "squared")
            yield Outcome(scale="smoke", metrics={"square": self.number**2 + run.seed}, protocol={})

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """A row for each result."""
        rows = []
        for result in of_kind(results, cls):
            values = {"number": result.config["number"], "seed": result.seed, "square": result.metrics["square"]}
            cells = {name: str(value) for name, value in values.items()}
            rows.append(Row("", cells, values, (f"{result.experiment}/{result.run_id}",)))
        return {"toy": [Section("Squares", columns("number", "seed", "square"), tuple(rows))]} if rows else {}


PRESET = Preset("toy", "a number and its square", {"smoke": Toy(number=1234)}, 1, {"smoke": 1}, seeds=2)
