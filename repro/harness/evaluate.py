"""Scoring a network on a split: one compiled forward pass, scores at the original size of the images."""

import io
import math
from collections.abc import Callable
from typing import Any

import cv2
import keras
import numpy as np
from PIL import Image

from repro import backend
from repro.data.base import VOID
from repro.data.loader import in_order
from repro.files import atomic_write
from repro.harness.checkpoint import sha256_of
from repro.harness.record import Artifact
from repro.harness.run import Run
from repro.harness.samples import sample_indices
from repro.harness.tiles import kept_size, overlap_tile
from repro.metrics.classification import classification_scores, top_k_correct
from repro.metrics.rand import RandScore
from repro.metrics.segmentation import confusion_matrix, segmentation_scores

BATCH = 8


def outputs_of(network: keras.Model, records: Any, batch_size: int = BATCH, tile_margin: int | None = None):
    """Yield, record by record, (scores, record) of a network under XLA. scores is a NumPy array [...].

    With a `tile_margin`, or where a network answers for less than it sees, the valid part of each image is scored
    by overlapping tiles (see `repro.harness.tiles`)."""
    compiled = backend.forward(network, "xla")

    def forward(images: np.ndarray) -> np.ndarray:
        tensor = keras.ops.cast(keras.ops.convert_to_tensor(images), "float32")
        return np.asarray(keras.ops.convert_to_numpy(compiled(tensor)["scores"]), "float32")

    kept = kept_of(network, records[0]["image"].shape[:2], tile_margin)
    if kept:
        size = tuple(network.input_shape[1:3])
        for record in (records[index] for index in range(len(records))):
            valid = record["valid_size"]
            yield overlap_tile(forward, record["image"][: valid[0], : valid[1]], size, kept, batch_size), record
        return
    for batch, count in in_order(records, min(batch_size, len(records))):
        scores = forward(batch["image"])
        for index in range(count):
            yield scores[index], {name: values[index] for name, values in batch.items()}


def kept_of(network: keras.Model, canvas: tuple[int, int], tile_margin: int | None) -> tuple[int, int] | None:
    """(height, width) of what each tile answers for, None where images of a canvas are scored whole."""
    size, answered = tuple(network.input_shape[1:3]), tuple(network.output["scores"].shape[1:-1])
    if tile_margin is None and answered in ((), size) and tuple(canvas) == size:
        return None
    return kept_size(size, answered, tile_margin or 0)


def tiles_of(network: keras.Model, canvas: tuple[int, int], tile_margin: int | None) -> int:
    """How many tiles cover a canvas."""
    kept = kept_of(network, canvas, tile_margin)
    return math.prod(-(-side // part) for side, part in zip(canvas, kept, strict=True)) if kept else 1


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


def score(
    network: keras.Model,
    records: Any,
    names: tuple[str, ...],
    *,
    dataset: Any = None,
    split: str = "",
    tile_margin: int | None = None,
    progress: Callable[[float, str], None] = lambda fraction, note: None,
) -> dict[str, Any]:
    """Metrics of a network over records. With `dataset` and `split`, label maps are compared at their original
    size; without, at the network's input size (for curves)."""
    confusion = np.zeros((len(names), len(names)), "int64")
    hits = {1: 0, 5: 0}
    semantic = "semantic" in records[0]
    segments = dataset.info.segments_class if dataset else None
    rand = None if segments is None else RandScore()
    for index, (scores, record) in enumerate(outputs_of(network, records, tile_margin=tile_margin)):
        if semantic:
            truth, valid = record["semantic"], record["valid_size"]
            truth = dataset.sample(split, index).semantic if dataset else truth[: valid[0], : valid[1]]
            scores = resized(scores, valid, truth.shape)
            confusion += confusion_matrix(truth, labels_of(scores), len(names))
            if rand:
                rand.add(truth == segments, probability_of(scores, segments))
        else:
            for k in hits:
                hits[k] += int(top_k_correct(scores[None], record["label"][None], k)[0])
        progress((index + 1) / len(records), f"scored {index + 1}/{len(records)}")
    if semantic:
        return segmentation_scores(confusion, names) | (rand.result() if rand else {})
    return classification_scores(hits[1], hits[5] if len(names) >= 5 else None, len(records))


def write_samples(network: keras.Model, records: Any, run: Run, tile_margin: int | None = None) -> dict[str, Artifact]:
    """Keep the predicted label maps of some test images, side by side in one indexed PNG beside the result. The
    images lie evenly over the split (`sample_indices`)."""
    if "semantic" not in records[0]:
        return {}
    maps = []
    few = [records[index] for index in sample_indices(len(records))]
    for scores, record in outputs_of(network, few, tile_margin=tile_margin):
        canvas, valid = np.full(record["semantic"].shape, VOID, "uint8"), record["valid_size"]
        canvas[: valid[0], : valid[1]] = labels_of(scores[: valid[0], : valid[1]])
        maps.append(canvas)
    path = run.result_folder / f"{run.run_id}-samples.png"
    encoded = io.BytesIO()
    Image.fromarray(np.concatenate(maps, axis=1)).save(encoded, "PNG", optimize=True)
    atomic_write(path, encoded.getvalue())
    return {"samples": Artifact(file=path.name, sha256=sha256_of(path))}
