"""Train a network, then score its last weights once on the test split."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from repro.experiments.kind import Kind
from repro.records.result import Result
from repro.records.run import Outcome, Progress, Run
from repro.report import accuracy, readme
from repro.report.figures import Picture
from repro.report.render import Section, TableInfo
from repro.tasks import AnyTask
from repro.tasks.base import Training

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
# starts that are no other experiment's weights
PLAIN_INITS = ("random", "imagenet")


class Train(Training, Kind, tag="train", frozen=True):
    """The settings of `Training`, and the task. Its tables hold the rows of all that has scores: of evaluations and of
    baselines too."""

    RESULT: ClassVar[str] = "train"
    MODULES: ClassVar[tuple[str, ...]] = ("engine.train",)
    TABLES: ClassVar[tuple[TableInfo, ...]] = accuracy.TABLES

    task: AnyTask

    def needs(self) -> tuple[str, ...]:
        """The experiment that it starts from, if any."""
        return () if self.init in PLAIN_INITS else (self.init,)

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Train and score every seed, see `repro.engine.train`. The step compiles once."""
        from repro.engine.train import train

        yield from train(self, self.task, runs, progress)

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Scores, costs and per-class figures by task; what proposals recall; what training took."""
        return accuracy.sections(results)

    @classmethod
    def figures(cls, results: Sequence[Result]) -> Mapping[str, Picture | str]:
        """Curves, speed against accuracy, galleries, and the long tables of costs and classes."""
        return accuracy.figures(results)

    @classmethod
    def headline(cls, results: Sequence[Result]) -> list[list[str]]:
        """The best row of each model, data set, split and start, of every task."""
        return readme.accuracy_rows(results)
