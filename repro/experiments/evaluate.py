"""Score the weights of a file on a split of a data set."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import ClassVar

from repro import backend
from repro.data.catalog import open_dataset
from repro.errors import ReproError
from repro.experiments.kind import Kind, is_generated
from repro.records.result import Init, Xla
from repro.records.run import Outcome, Progress, Run, dataset_of
from repro.records.settings import Data, Network
from repro.tasks import AnyTask, Segmentation

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
OFFICIAL = ".weights"  # the ending of Darknet's files


class Evaluate(Kind, tag="evaluate", frozen=True):
    """`weights`: a run's .safetensors, or the authors' .weights of the YOLO line. `task`: with the settings that they
    were scored with in their own run. Its rows stand beside those of training."""

    RESULT: ClassVar[str] = "eval"

    network: Network
    data: Data
    task: AnyTask
    weights: str
    weights_sha256: str
    precision: str = "float32"

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Score the file. Raises ReproError for a data set with another number of classes, for a file that does not
        fit, and for R-CNN, whose SVMs are not in its network."""
        from repro.engine import checkpoint
        from repro.engine.evaluate import evaluate
        from repro.weights.darknet import read_weights

        tf32, task, split = backend.set_precision(self.precision), self.task, self.data.test
        dataset = open_dataset(self.data.name, **self.data.options)
        names = task.class_names(dataset.info)
        known = self.network.num_classes or len(names)
        sigmoid = isinstance(task, Segmentation) and (known, len(names)) == (1, 2)  # it tells two classes apart
        if known != len(names) and not sigmoid:
            raise ReproError(
                f"{self.weights} tells {known} classes apart, {self.data.name} has {len(names)}",
                "score it on the data set it was trained for",
            )
        dataset.prepare()
        records = task.scored_records(self.network, self.data, dataset, split)
        predictor = task.predictor(self.network, self.data, len(names), dataset.info.channels)
        if self.weights.endswith(OFFICIAL):
            read_weights(Path(self.weights), predictor.network)
        else:
            arrays, _ = checkpoint.load_arrays(Path(self.weights))
            checkpoint.load_weights(predictor.network, arrays, self.weights)
        evaluator = task.evaluator(dataset, split, len(records))
        metrics = evaluate(predictor, records, evaluator, progress)
        for run in runs:
            yield Outcome(
                scale="smoke" if is_generated(self.data) else "reduced",
                metrics=metrics | predictor.cost(),
                protocol=task.protocol(self.network, self.data, dataset.info),
                dataset=dataset_of(dataset, split),
                init=Init(source="file", sha256=self.weights_sha256),
                weights_sha256=self.weights_sha256,
                tf32=tf32,
                xla=Xla(requested=True, used=True),
                peak_memory_mib=round(backend.peak_memory_mib(), 1),
                artifacts=evaluator.samples(run, predictor, records),
            )
