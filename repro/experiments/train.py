"""Train a network, then score its last weights once on the test split."""

from collections.abc import Iterator, Sequence
from typing import ClassVar

from repro.experiments.kind import Kind
from repro.records.result import Result
from repro.records.run import Outcome, Progress, Run
from repro.report import accuracy, headline
from repro.report.figures import Picture
from repro.report.render import Section, TableInfo
from repro.tasks import AnyTask
from repro.tasks.base import Training

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale

# starts that are no other experiment's weights
PLAIN_INITS = ("random", "imagenet")


class Train(Training, Kind, tag="train"):
    """The settings of `Training`, and the task. Its tables hold the rows of all that has scores: of evaluations and of
    baselines too."""

    RESULT: ClassVar[str] = "train"
    TABLES: ClassVar[tuple[TableInfo, ...]] = accuracy.TABLES

    task: AnyTask

    def task_name(self) -> str:
        """That of its scores."""
        return self.task.TABLE

    def table(self) -> str:
        """One a task."""
        return self.task.TABLE

    def needs(self) -> tuple[str, ...]:
        """What it starts from."""
        return () if self.init in PLAIN_INITS else (self.init,)

    def modules(self) -> tuple[str, ...]:
        """The task and the training loop beside what every kind has."""
        return (*super().modules(), "engine.train", *self.task.modules())

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """The step compiles once for all seeds."""
        from repro.engine.train import train

        yield from train(self, self.task, runs, progress)

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Scores, costs and per-class figures by task; what proposals recall; what training took."""
        return accuracy.sections(results)

    @classmethod
    def figures(cls, results: Sequence[Result]) -> dict[str, Picture | str]:
        """Curves, speed against accuracy, galleries of predictions."""
        return accuracy.figures(results)

    @classmethod
    def headline(cls, results: Sequence[Result]) -> list[list[str]]:
        """A row for each model and data set."""
        return headline.accuracy_rows(results)
