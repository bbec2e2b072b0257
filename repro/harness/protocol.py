"""What is scored and how, in words; needs no backend."""

from typing import Any

from repro.metrics.classification import classification_protocol
from repro.metrics.segmentation import segmentation_protocol


def class_names_of(dataset: Any, task: str) -> tuple[str, ...]:
    """The classes a network of this task tells apart on a data set."""
    return dataset.info.semantic_classes if task == "segmentation" else dataset.info.classes


def protocol(task: str) -> dict[str, str]:
    """How scores are obtained, in words, for the result and the caption of its table."""
    if task == "classification":
        return {**classification_protocol(), "crop": "one centre crop, no test-time augmentation"}
    resize = "class scores resized bilinearly to the original image, then the highest; no test-time augmentation"
    return {**segmentation_protocol(), "resolution": resize}
