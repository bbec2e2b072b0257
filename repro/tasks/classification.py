"""Naming what an image shows: one centre crop, the highest class score."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from repro import backend, registry
from repro.data.base import Info, Sample
from repro.data.cache import centre_crop, decoded
from repro.metrics.classification import classification_protocol, classification_scores, top_k_correct
from repro.records.settings import Data, Network
from repro.tasks.base import Evaluator, Task, Training, canvas_of, input_size_of

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


class TopK(Evaluator):
    """Top-1 and, of five classes or more, top-5 accuracy."""

    def __init__(self, num_classes: int) -> None:
        self._classes, self._hits, self._total = num_classes, {1: 0, 5: 0}, 0

    def add(self, index: int, prediction: dict[str, Any], record: dict[str, np.ndarray]) -> None:
        """prediction: scores [K]; record: label."""
        self._total += 1
        for k in self._hits:
            self._hits[k] += int(top_k_correct(prediction["scores"][None], record["label"][None], k)[0])

    def metrics(self) -> dict[str, Any]:
        """As `classification_scores` gives them."""
        return classification_scores(self._hits[1], self._hits[5] if self._classes >= 5 else None, self._total)


class Dense(Task, frozen=True):
    """What classification and segmentation share: networks that map an image to class scores."""

    LATENCY: ClassVar[str] = "one image or tile of the network's input size, XLA, batch 1, after training"

    def learner(self, settings: Training, num_classes: int, seed: int, steps: int, records: Any) -> Any:
        """As `Task.learner`. Images larger than their network are cropped at random places."""
        from repro.data.augment import Augment
        from repro.tasks.learners import Learner, compiled
        from repro.tasks.networks import build

        backend.set_seed(seed)
        record, wanted = records[0], settings.network
        network = build(wanted, num_classes, record["image"].shape[-1], heads="train")
        size = input_size_of(wanted)
        options = settings.augment if canvas_of(wanted, settings.data) == size else {"crop": size, **settings.augment}
        augment = Augment(seed, **options) if options else None
        learner = Learner(network, registry.module_of(wanted.name).loss, settings.loss_options, augment)
        # a network sees windows of its own size, which the record need not have
        window = {name: value[: size[0], : size[1]] if value.ndim >= 2 else value for name, value in record.items()}
        return compiled(learner, settings, steps, window)

    def predictor(self, network: Network, data: Data, num_classes: int, channels: int, trained: Any = None) -> Any:
        """As `Task.predictor`; the trained network's layers serve here too."""
        from repro.tasks.networks import build, inference_part
        from repro.tasks.predictors import DensePredictor

        model = inference_part(trained) if trained is not None else build(network, num_classes, channels)
        return DensePredictor(model, canvas_of(network, data), getattr(self, "tile_margin", None))


class Classification(Dense, tag="classification", frozen=True):
    """Classification has no settings of its own."""

    TABLE: ClassVar[str] = "classification"
    CURVE: ClassVar[tuple[str, ...]] = ("top1",)

    def records(self, network: Network, data: Data, dataset: Any, split: str, limit: int | None = None) -> Any:
        """Centre crops at the network's input size, with `label`."""
        return decoded(dataset, split, canvas_of(network, data), self.name, limit=limit)

    def evaluator(self, dataset: Any, split: str, count: int, curve: bool = False) -> Evaluator:
        """Top-1 and top-5 accuracy, `TopK`."""
        return TopK(len(dataset.info.classes))

    def protocol(self, network: Network, data: Data, info: Info) -> dict[str, Any]:
        """How a prediction is counted, and what of the image it is of."""
        return {**classification_protocol(), "crop": "one centre crop, no test-time augmentation"}

    def picture_records(self, images: Sequence[np.ndarray], network: Network, data: Data) -> list[dict]:
        """Centre crops at the network's input size."""
        return [centre_crop(Sample("", image, label=0), canvas_of(network, data)) for image in images]

    def show(
        self, image: np.ndarray, answer: dict[str, Any], name: str, loader: Any
    ) -> tuple[str, Any, dict[str, Any]]:
        """The five highest classes with their softmax scores."""
        shares = np.exp(answer["scores"] - answer["scores"].max())
        shares /= shares.sum()
        best = np.argsort(-shares, kind="stable")[:5]
        named = {loader.info.classes[index]: round(float(shares[index]), 4) for index in best}
        return shares_text(name, named), named, {}


def shares_text(name: str, shares: dict[str, float]) -> str:
    """The first five.

    >>> shares_text("tree.png", {"sky": 0.4, "tree": 0.3})
    'tree.png: sky 40%, tree 30%'
    """
    return f"{name}: " + ", ".join(f"{what} {share:.0%}" for what, share in list(shares.items())[:5])
