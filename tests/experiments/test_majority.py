"""The majority baseline against its own answer, image by image."""

import numpy as np
import pytest

from repro.data.catalog import open_dataset
from repro.experiments.majority import Majority
from repro.metrics.classification import classification_scores, top_k_correct
from repro.metrics.segmentation import confusion_matrix, segmentation_scores
from repro.records.settings import Data
from repro.tasks import Classification, Segmentation
from tests.support.kinds import run_kind


@pytest.mark.parametrize("task", [Classification(), Segmentation()], ids=lambda task: task.name)
def test_the_majority_baseline_scores_as_its_answer_does_image_by_image(task):
    options = {"image_size": 32, "max_objects": 1, "min_scale": 0.5, "train_size": 24, "val_size": 4, "test_size": 12}
    dataset = open_dataset("shapes", **options)
    trained, asked = ([dataset.sample(split, k) for k in range(dataset.size(split))] for split in ("train", "test"))
    names = task.class_names(dataset.info)
    if task.name == "segmentation":
        seen = np.bincount(np.concatenate([sample.semantic.ravel() for sample in trained]))
        answer = int(seen[: len(names)].argmax())
        shown = [(sample.semantic, np.full_like(sample.semantic, answer)) for sample in asked]
        expected = segmentation_scores(sum(confusion_matrix(*pair, len(names)) for pair in shown), names)
    else:
        seen = np.bincount([sample.label for sample in trained], minlength=len(names))
        answer, labels = int(seen.argmax()), np.array([sample.label for sample in asked])
        hits = [int(top_k_correct(np.tile(seen, (len(labels), 1)), labels, k).sum()) for k in (1, 5)]
        expected = classification_scores(*hits, len(labels))
    (result,) = run_kind(Majority(task=task, data=Data(name="shapes", options=options)))
    assert result.metrics == expected | {"answer": names[answer]}
    assert (result.kind, result.model, result.task, result.scale) == ("eval", "majority", task.name, "smoke")
