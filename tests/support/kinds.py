"""What several test modules use: kinds of experiments run in this process, predictors that know the truth."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from repro import backend
from repro.engine.evaluate import evaluate
from repro.experiments.kind import Kind
from repro.records.result import Result
from repro.records.run import Progress, Run
from repro.runner.worker import write_results
from repro.tasks.base import Task
from repro.tasks.predictors import DetectorPredictor


def run_kind(
    kind: Kind,
    seeds: Sequence[int] = (0,),
    experiment: str = "x",
    parents: Mapping[str, Result] | None = None,
    *,
    profile: str = "smoke",
    progress: Progress = lambda fraction, note: None,
) -> list[Result]:
    """Run a kind for each seed, as a worker does, and write its results. `parents`: the results whose weights every
    seed uses, by experiment."""
    runs = [Run(experiment, kind, seed, profile=profile, backend=backend.name(), parents=parents) for seed in seeds]
    return write_results(kind, runs, progress)


def scores(task: Task, predictor: Any, records: Any, dataset: Any, split: str) -> dict[str, Any]:
    """All scores of a predictor on the records of a split."""
    return evaluate(predictor, records, task.evaluator(dataset, split, len(records)))


def oracle(size: tuple[int, int], shift: float = 0.0) -> DetectorPredictor:
    """Answers with the objects of its batch and their masks, moved to the right; proposes them too."""
    image = keras.Input((*size, 3), name="image")
    network = keras.Model({"image": image}, {"image": keras.layers.Identity()(image)})
    return DetectorPredictor(network, _truth, {"shift": shift})


def _truth(outputs: dict, batch: dict, shift: float) -> dict[str, Any]:
    real, ops = batch["classes"] >= 0, keras.ops
    boxes = batch["boxes"] + ops.convert_to_tensor([shift, 0, shift, 0], "float32")
    found = {"boxes": boxes, "classes": batch["classes"], "proposals": boxes, "proposal_valid": real}
    if "masks" in batch:
        found["masks"] = ops.cast(batch["masks"], "float32") / 255
    return found | {"scores": ops.cast(real, "float32"), "count": ops.sum(ops.cast(real, "int32"), axis=1)}
