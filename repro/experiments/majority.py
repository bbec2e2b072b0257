"""The baseline every trained network must beat: the most frequent class of the training split, always."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from repro.data.base import VOID
from repro.data.catalog import open_dataset
from repro.experiments.kind import Kind, is_generated
from repro.metrics.classification import classification_scores
from repro.metrics.segmentation import segmentation_scores
from repro.records.run import Outcome, Progress, Run, dataset_of
from repro.records.settings import Data, Network
from repro.tasks.classification import Classification
from repro.tasks.segmentation import Segmentation

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class Majority(Kind, tag="majority", frozen=True):
    """Answer every question with the training split's most frequent class. Its rows stand beside those of training."""

    RESULT: ClassVar[str] = "eval"

    task: Classification | Segmentation
    data: Data

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Count the labels of both splits: of one answer to all questions the scores follow from them."""
        dataset = open_dataset(self.data.name, **self.data.options)
        dataset.prepare()
        names = self.task.class_names(dataset.info)
        seen = self._counts(dataset, self.data.train, len(names), lambda done: progress(done / 2, "counting"))
        asked = self._counts(dataset, self.data.test, len(names), lambda done: progress((1 + done) / 2, "scoring"))
        # the Rand score is of segments, which a single answer has none of
        info = dataclasses.replace(dataset.info, segments_class=None)
        for _ in runs:
            yield Outcome(
                scale="smoke" if is_generated(self.data) else "reduced",
                metrics={**self._scores(seen, asked, names), "answer": names[int(seen.argmax())]},
                protocol=self.task.protocol(Network(name="majority"), Data(name=self.data.name), info),
                dataset=dataset_of(dataset, self.data.test),
            )

    def _counts(self, dataset: Any, split: str, num_classes: int, report: Any) -> np.ndarray:
        """How often a split has each class, int64 [K]: of its pixels without void, or of its images."""
        counts, size = np.zeros(num_classes, "int64"), dataset.size(split)
        for index in range(size):
            sample = dataset.sample(split, index)
            dense = self.task.name == "segmentation"
            labels = sample.semantic[sample.semantic != VOID] if dense else np.array([sample.label])
            counts += np.bincount(labels, minlength=num_classes)
            report((index + 1) / size)
        return counts

    def _scores(self, seen: np.ndarray, asked: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
        if self.task.name == "segmentation":
            confusion = np.zeros((len(names), len(names)), "int64")
            confusion[:, seen.argmax()] = asked
            return segmentation_scores(confusion, names)
        ranked = asked[np.argsort(-seen, kind="stable")]  # of equal counts the lower class first, as of equal scores
        return classification_scores(ranked[0], ranked[:5].sum() if len(names) >= 5 else None, asked.sum())
