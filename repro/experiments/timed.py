"""What the kinds share that time something: how long they take, and what every such outcome says."""

import abc
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from repro import backend
from repro.engine.bench import prepare
from repro.experiments.kind import Kind
from repro.records.result import Xla
from repro.records.run import Outcome, Progress, Run


class Timed(Kind, frozen=True):
    """A kind that times something anew for each of its runs, in this process, with random weights from seed 0.

    warmup, repetitions: calls of each thing that is timed; seconds: the longest that they may take together."""

    RESULT: ClassVar[str] = "speed"

    precision: str = "float32"
    warmup: int = 10
    repetitions: int = 50
    seconds: float = 60.0

    @abc.abstractmethod
    def measure(self, progress: Progress) -> dict[str, Any]:
        """The fields of an outcome."""

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Measure once a run."""
        for _ in runs:
            fields: dict[str, Any] = {"tf32": prepare(self.precision), "xla": Xla(requested=True, used=True)}
            fields |= self.measure(progress)
            yield Outcome(**{"peak_memory_mib": round(backend.peak_memory_mib(), 1)} | fields)
