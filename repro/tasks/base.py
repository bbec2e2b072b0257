"""What a task is to the rest of the suite: records to learn from, a learner, a predictor, scores and pictures.

A task is a struct of the settings that inference and scoring depend on, so that the weights of a run carry them along.
Its methods import Keras when they are called: settings are read where no backend is chosen yet.
"""

import abc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
import numpy as np

from repro import registry
from repro.data.base import Info
from repro.records.result import Artifact
from repro.records.run import Progress, Run
from repro.records.settings import Data, Network


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a network is trained.

    recipe: "paper" when the numbers are the paper's own, "suite" when they are ours. drops: fractions of the run after
    which schedule "step" divides the rate by 10. warmup: share of the run in which a cosine's rate grows; burn_in: of
    the others', as Darknet has it. init: random, imagenet, tiny or an experiment's name. compile: how the step is
    compiled, by XLA or as TensorFlow's graph. val_every: epochs between scores on the validation split (for the curves;
    nothing is selected by them). loss_options: for the loss of the model's file; class_weights "median_frequency"
    counts the training split. label: tells apart rows of one model on one data set."""

    network: Network
    data: Data
    recipe: str
    epochs: float
    batch_size: int
    optimizer: Literal["sgd", "adamw"]
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 0.0
    schedule: Literal["constant", "step", "cosine"] = "constant"
    drops: tuple[float, ...] = ()
    warmup: float = 0.0
    burn_in: float = 0.0
    clip_norm: float | None = None
    loss_options: dict[str, Any] = {}
    augment: dict[str, Any] = {}
    init: str = "random"
    precision: str = "float32"
    compile: Literal["xla", "graph"] = "xla"
    val_every: int = 5
    label: str = ""


class Phase(NamedTuple):
    """A part of training that has a checkpoint of its own; `seed`: of the order of its records."""

    name: str
    learner: Any
    records: Any
    seed: int


class Evaluator:
    """Takes in predictions one by one and gives the scores of all. What a task scores, and how, is in its subclass."""

    @abc.abstractmethod
    def add(self, index: int, prediction: dict[str, Any], record: dict[str, np.ndarray]) -> None:
        """Take in the prediction for a record, number `index` of its split."""

    @abc.abstractmethod
    def metrics(self) -> dict[str, Any]:
        """The scores; None where there is nothing to score."""

    def seconds(self) -> dict[str, list[float]]:
        """How long each prediction took, by its stages, where the predictor tells."""
        return {}

    def samples(self, run: Run, predictor: Any, records: Any) -> dict[str, Artifact]:
        """Keep beside the result what pictures of some test images need."""
        return {}


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="name"):
    """A task and its settings. The tag names the module below `repro.tasks`."""

    TABLE: ClassVar[str]  # of its scores
    CURVE: ClassVar[tuple[str, ...]] = ()  # metrics that are drawn against the epoch
    LATENCY: ClassVar[str] = ""  # what the latency in a result is of, in words

    @property
    def name(self) -> str:
        """The task's name in settings."""
        return str(self.__struct_config__.tag)

    def modules(self) -> tuple[str, ...]:
        """The modules whose versions decide its numbers."""
        return (f"tasks.{self.name}",)

    def class_names(self, info: Info) -> tuple[str, ...]:
        """The classes a network of this task tells apart on a data set."""
        return info.classes

    def check(self, settings: Training) -> None:
        """Raise ReproError for settings that cannot be."""

    def measured(self, settings: Training, dataset: Any) -> tuple[Training, dict[str, Any]]:
        """The settings with what is counted on the training split filled in, and that in words."""
        return settings, {}

    @abc.abstractmethod
    def records(self, network: Network, data: Data, dataset: Any, split: str, limit: int | None = None) -> Any:
        """The records of a split, of its first `limit` images where given: `len(records)`, `records[i]`."""

    def scored_records(self, network: Network, data: Data, dataset: Any, split: str) -> Any:
        """The records of a split that are looked at once and not learned from."""
        return self.records(network, data, dataset, split, data.test_limit)

    def training_records(self, records: Any, seed: int) -> Any:
        """What is learned from, drawn from the records of the training split."""
        return records

    @abc.abstractmethod
    def learner(self, settings: Training, num_classes: int, seed: int, steps: int, records: Any) -> Any:
        """A learner with fresh weights that are a function of the seed, ready to train for `steps` steps."""

    def phase_names(self) -> tuple[str, ...]:
        """The names of `phases`, which name their checkpoints."""
        return ("",)

    def phases(
        self, settings: Training, learner: Any, records: Any, seed: int, steps: int, num_classes: int
    ) -> Iterator[Phase]:
        """The parts of training, one after another; each is asked for when the one before has ended. At the end the
        learner's network holds the trained weights."""
        yield Phase("", learner, records, seed)

    @abc.abstractmethod
    def predictor(self, network: Network, data: Data, num_classes: int, channels: int, trained: Any = None) -> Any:
        """From batches to predictions. It has weights of its own, or shares those of the `trained` network."""

    def complete(self, predictor: Any, records: Any, folder: Path, seconds: float, report: Progress) -> dict[str, Any]:
        """What remains to be learned after the network, whose training took `seconds`. Returns metrics of it."""
        return {}

    def extra_weights(self, predictor: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
        """What `complete` learned, as named arrays for the weight file."""
        return {}

    @abc.abstractmethod
    def evaluator(self, dataset: Any, split: str, count: int, curve: bool = False) -> Evaluator:
        """Scores of the first `count` images of a split; `curve`: only what is drawn against the epoch."""

    @abc.abstractmethod
    def protocol(self, network: Network, data: Data, info: Info) -> dict[str, Any]:
        """How the scores are obtained, in words."""

    @abc.abstractmethod
    def picture_records(self, images: Sequence[np.ndarray], network: Network, data: Data) -> list[dict]:
        """Records of pictures uint8 [H,W,C] that belong to no data set."""

    def answer(self, image: np.ndarray, prediction: dict[str, Any], record: dict[str, np.ndarray]) -> dict[str, Any]:
        """A prediction in pixels of its picture, ready to be drawn or kept."""
        return prediction

    def show(
        self, image: np.ndarray, answer: dict[str, Any], name: str, loader: Any
    ) -> tuple[str, Any, dict[str, Any]]:
        """An answer about a file of this name, with the classes of a loader: a line to print, what goes into
        `predictions.json`, and PIL images to write by the end of their file names."""
        raise NotImplementedError(f"{self.name} has no pictures to show")


def input_size_of(network: Network) -> tuple[int, int]:
    """(height, width) that a network sees at a time."""
    height, width = network.input_size or registry.architecture(network.name).input_size
    return height, width


def canvas_of(network: Network, data: Data) -> tuple[int, int]:
    """(height, width) images are fitted into."""
    height, width = data.size or input_size_of(network)
    return height, width
