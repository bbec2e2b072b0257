"""One evaluation: a predictor goes through records, an evaluator takes in what it says."""

from typing import Any

from repro.records.run import Progress
from repro.tasks.base import Evaluator


def evaluate(predictor: Any, records: Any, evaluator: Evaluator, report: Progress | None = None) -> dict[str, Any]:
    """The scores of a predictor on records."""
    total = len(records)
    for index, (prediction, record) in enumerate(predictor.predict(records)):
        evaluator.add(index, prediction, record)
        if report:
            report((index + 1) / total, f"scored {index + 1}/{total}")
    return evaluator.metrics()
