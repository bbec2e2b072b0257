"""What is scored and how, in words; needs no backend."""

from typing import Any

from repro.metrics.classification import classification_protocol
from repro.metrics.rand import rand_protocol
from repro.metrics.segmentation import segmentation_protocol


def class_names_of(dataset: Any, task: str) -> tuple[str, ...]:
    """The classes a network of this task tells apart on a data set."""
    return dataset.info.semantic_classes if task == "segmentation" else dataset.info.classes


def protocol(
    task: str, size: tuple[int, int] | None = None, tile_margin: int | None = None, rand: bool = False
) -> dict[str, str]:
    """How scores are obtained, in words, for the result and the caption of its table. `size` images are fitted into,
    where it is not the network's input, and `tile_margin` as in `Train`; `rand`: the Rand score is among them."""
    if task == "classification":
        return {**classification_protocol(), "crop": "one centre crop, no test-time augmentation"}
    resize = "class scores resized bilinearly to the original image, then the highest; no test-time augmentation"
    words = {**segmentation_protocol(), "resolution": resize} | (rand_protocol() if rand else {})
    if size or tile_margin is not None:
        words["inference"] = (
            f"images fitted into {size[0]}x{size[1]}, " if size else ""
        ) + f"mirrored at the border, scored by tiles; {tile_margin or 0} pixels dropped at each side of an output"
    return words
