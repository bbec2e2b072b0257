"""The baseline every trained network must beat: the most frequent class of the training split, always."""

from collections.abc import Callable
from typing import Any

import numpy as np

from repro.data.base import VOID, open_dataset
from repro.harness.config import Majority
from repro.harness.protocol import class_names_of, protocol
from repro.harness.run import Job, Run, dataset_of
from repro.metrics.classification import classification_scores, top_k_correct
from repro.metrics.segmentation import confusion_matrix, segmentation_scores


def _truth(dataset: Any, config: Majority, split: str, index: int) -> np.ndarray:
    """Every label of one sample that counts: its pixels without void, or its class."""
    sample = dataset.sample(split, index)
    return sample.semantic[sample.semantic != VOID] if config.task == "segmentation" else np.asarray([sample.label])


def majority(job: Job, progress: Callable[[float, str], None]) -> None:
    """Count the training split, answer with its most frequent class, score on the test split. One result."""
    config: Majority = job.config
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    run = Run(job, 0)
    names = class_names_of(dataset, config.task)
    counts = np.zeros(len(names), "int64")
    total = dataset.size(config.data.train) + dataset.size(config.data.test)
    for index in range(dataset.size(config.data.train)):
        counts += np.bincount(_truth(dataset, config, config.data.train, index), minlength=len(names))
        progress((index + 1) / total, "counting")
    answer = int(counts.argmax())
    confusion, hits = np.zeros((len(names), len(names)), "int64"), {1: 0, 5: 0}
    scores = counts[None].astype("float64")
    size = dataset.size(config.data.test)
    for index in range(size):
        truth = _truth(dataset, config, config.data.test, index)
        if config.task == "segmentation":
            confusion += confusion_matrix(truth, np.full_like(truth, answer), len(names))
        else:
            for k in hits:
                hits[k] += int(top_k_correct(scores, truth, k)[0])
        progress((total - size + index + 1) / total, "scoring")
    if config.task == "segmentation":
        metrics = segmentation_scores(confusion, names)
    else:
        metrics = classification_scores(hits[1], hits[5] if len(names) >= 5 else None, size)
    run.finish(
        scale="smoke" if dataset.info.name == "shapes" else "reduced",
        metrics={**metrics, "answer": names[answer]},
        protocol=protocol(config.task),
        dataset=dataset_of(dataset, config.data.test),
    )
