"""Naming every pixel of an image: label maps compared at the original size of the images."""

import io
from collections.abc import Sequence
from typing import Any, ClassVar

import cv2
import msgspec
import numpy as np
from PIL import Image

from repro.data.base import VOID, Info, Sample
from repro.data.cache import decoded, letterbox
from repro.data.frequency import median_frequency_weights
from repro.drawing.overlays import legend, overlay_mask
from repro.drawing.palette import colourise, voc_colormap
from repro.files import atomic_write, sha256_of
from repro.metrics.rand import RandScore, rand_protocol
from repro.metrics.segmentation import confusion_matrix, segmentation_protocol, segmentation_scores
from repro.records.result import Artifact
from repro.records.run import Run
from repro.records.samples import sample_indices
from repro.records.settings import Data, Network
from repro.tasks.base import Evaluator, Training, canvas_of
from repro.tasks.classification import Dense, shares_text

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale


def resized(scores: np.ndarray, valid_size: np.ndarray, original: tuple[int, int]) -> np.ndarray:
    """Class scores [h,w,K] without the padding at the size of the original image, [H,W,K]."""
    scores = scores[: valid_size[0], : valid_size[1]]
    if scores.shape[:2] == tuple(original):
        return scores
    # OpenCV resizes up to 4 channels at a time quickly, more one by one
    planes = [
        cv2.resize(scores[..., k], tuple(original)[::-1], interpolation=cv2.INTER_LINEAR)
        for k in range(scores.shape[2])
    ]
    return np.stack(planes, axis=-1)


def labels_of(scores: np.ndarray) -> np.ndarray:
    """The class of highest score, uint8 [H,W]; of a single score (a sigmoid's), whether it is above 0."""
    chosen = scores[..., 0] > 0 if scores.shape[-1] == 1 else scores.argmax(axis=-1)
    return chosen.astype("uint8")


def probability_of(scores: np.ndarray, label: int) -> np.ndarray:
    """Softmax (of a single score: sigmoid) probability of one class, float32 [H,W]."""
    if scores.shape[-1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=-1)
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return shares[..., label] / shares.sum(axis=-1)


class Overlap(Evaluator):
    """One confusion matrix over all pixels, and the Rand score where a data set's classes are objects' outlines. Label
    maps are compared at their original size or, for curves, at the network's."""

    def __init__(self, dataset: Any, split: str, count: int, curve: bool) -> None:
        self._dataset, self._split, self._curve = dataset, split, curve
        self._names = dataset.info.semantic_classes
        self._confusion = np.zeros((len(self._names), len(self._names)), "int64")
        self._segments = None if curve else dataset.info.segments_class
        self._rand = None if self._segments is None else RandScore()
        self._shown = sample_indices(count)
        self._maps: list[np.ndarray] = []

    def add(self, index: int, prediction: dict[str, Any], record: dict[str, np.ndarray]) -> None:
        """prediction: scores [h,w,K]; record: valid_size and, for curves, semantic."""
        scores, valid = prediction["scores"], record["valid_size"]
        if index in self._shown and not self._curve:
            canvas = np.full(record["semantic"].shape, VOID, "uint8")
            canvas[: valid[0], : valid[1]] = labels_of(scores[: valid[0], : valid[1]])
            self._maps.append(canvas)
        if self._curve:
            truth = record["semantic"][: valid[0], : valid[1]]
        else:
            truth = self._dataset.sample(self._split, index).semantic
        scores = resized(scores, valid, truth.shape)
        self._confusion += confusion_matrix(truth, labels_of(scores), len(self._names))
        if self._rand and self._segments is not None:
            self._rand.add(truth == self._segments, probability_of(scores, self._segments))

    def metrics(self) -> dict[str, Any]:
        """As `segmentation_scores` gives them, with the Rand score where there is one."""
        return segmentation_scores(self._confusion, self._names) | (self._rand.result() if self._rand else {})

    def samples(self, run: Run, predictor: Any, records: Any) -> dict[str, Artifact]:
        """The label maps of some test images, side by side in one indexed PNG. The images lie evenly over the split."""
        path, encoded = run.artifact("samples.png"), io.BytesIO()
        Image.fromarray(np.concatenate(self._maps, axis=1)).save(encoded, "PNG", optimize=True)
        atomic_write(path, encoded.getvalue())
        return {"samples": Artifact(file=path.name, sha256=sha256_of(path))}


class Segmentation(Dense, tag="segmentation", frozen=True):
    """tile_margin: None scores whole images; a number scores by overlapping tiles, of whose outputs so many pixels at
    each side are dropped."""

    TABLE: ClassVar[str] = "segmentation"
    CURVE: ClassVar[tuple[str, ...]] = ("mean_iou",)

    tile_margin: int | None = None

    def class_names(self, info: Info) -> tuple[str, ...]:
        """The classes of pixels, the background among them where it is labelled."""
        return info.semantic_classes

    def measured(self, settings: Training, dataset: Any) -> tuple[Training, dict[str, Any]]:
        """Class weights by median frequency, counted on the training split."""
        if settings.loss_options.get("class_weights") != "median_frequency":
            return settings, {}
        names = self.class_names(dataset.info)
        weights = median_frequency_weights(dataset, settings.data.train, len(names))
        options = {**settings.loss_options, "class_weights": weights}
        shown = ", ".join(f"{weight:.3g}" for weight in weights)
        words = {"class_weights": f"median frequency: {shown}"}
        return msgspec.structs.replace(settings, loss_options=options), words

    def records(self, network: Network, data: Data, dataset: Any, split: str, limit: int | None = None) -> Any:
        """Images fitted into the canvas, with `semantic` and `pixel_weight` where the data set has one."""
        return decoded(dataset, split, canvas_of(network, data), self.name, limit=limit)

    def evaluator(self, dataset: Any, split: str, count: int, curve: bool = False) -> Evaluator:
        """One confusion matrix over all pixels, `Overlap`."""
        return Overlap(dataset, split, count, curve)

    def protocol(self, network: Network, data: Data, info: Info) -> dict[str, Any]:
        """The metrics, and how images larger than the network are scored."""
        resize = "class scores resized bilinearly to the original image, then the highest; no test-time augmentation"
        words = {**segmentation_protocol(), "resolution": resize}
        words |= rand_protocol() if info.segments_class is not None else {}
        if data.size or self.tile_margin is not None:
            fitted = f"images fitted into {data.size[0]}x{data.size[1]}, " if data.size else ""
            tiles = f"mirrored at the border, scored by tiles; {self.tile_margin or 0} pixels dropped at each side of "
            words["inference"] = f"{fitted}{tiles}an output"
        return words

    def picture_records(self, images: Sequence[np.ndarray], network: Network, data: Data) -> list[dict]:
        """Images fitted into the canvas."""
        return [letterbox(Sample("", image, label=0), canvas_of(network, data)) for image in images]

    def answer(self, image: np.ndarray, prediction: dict[str, Any], record: dict[str, np.ndarray]) -> dict[str, Any]:
        """`labels` uint8 [H,W] of the picture."""
        return {"labels": labels_of(resized(prediction["scores"], record["valid_size"], image.shape[:2]))}

    def show(
        self, image: np.ndarray, answer: dict[str, Any], name: str, loader: Any
    ) -> tuple[str, Any, dict[str, Any]]:
        """The share of pixels of each class; `mask.png` (labels, indexed colours) and `overlay.png` with a legend."""
        labels, names = answer["labels"], loader.info.semantic_classes
        palette = loader.info.palette or [tuple(map(int, colour)) for colour in voc_colormap(len(names))]
        mask = Image.fromarray(labels)
        mask.putpalette([value for colour in palette for value in colour])
        both = np.concatenate([overlay_mask(image, labels, palette), colourise(labels, palette)], axis=1)
        overlay = Image.fromarray(np.concatenate([both, legend(names, palette, both.shape[1])]))
        shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
        order = np.argsort(-shares, kind="stable")
        named = {names[k]: round(float(shares[k]), 4) for k in order if shares[k]}
        return shares_text(name, named), named, {"mask.png": mask, "overlay.png": overlay}
