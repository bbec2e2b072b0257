"""Scoring a network on a split: one compiled forward pass, scores at the original size of the images."""

import io
from collections.abc import Callable
from typing import Any

import cv2
import keras
import numpy as np
from PIL import Image

from repro import backend
from repro.data.loader import in_order
from repro.files import atomic_write
from repro.harness.checkpoint import sha256_of
from repro.harness.record import Artifact
from repro.harness.run import Run
from repro.metrics.classification import classification_scores, top_k_correct
from repro.metrics.segmentation import confusion_matrix, segmentation_scores

BATCH = 8
SAMPLES = 4  # test images whose predictions are kept with the result, for the gallery


def outputs_of(network: keras.Model, records: Any, batch_size: int = BATCH):
    """Yield, record by record, (scores, record) of a network under XLA. scores is a NumPy array [...]."""
    batch_size = min(batch_size, len(records))
    forward = backend.forward(network, "xla")
    for batch, count in in_order(records, batch_size):
        images = keras.ops.cast(keras.ops.convert_to_tensor(batch["image"]), "float32")
        scores = np.asarray(keras.ops.convert_to_numpy(forward(images)["scores"]), "float32")
        for index in range(count):
            yield scores[index], {name: values[index] for name, values in batch.items()}


def label_map(scores: np.ndarray, valid_size: np.ndarray, original: tuple[int, int]) -> np.ndarray:
    """Class scores [h,w,K] to labels uint8 [H,W] of the original image: cut the padding, resize, take the highest."""
    scores = scores[: valid_size[0], : valid_size[1]]
    if scores.shape[:2] != original:
        # OpenCV resizes up to 4 channels at a time quickly, more one by one
        planes = [
            cv2.resize(scores[..., k], original[::-1], interpolation=cv2.INTER_LINEAR) for k in range(scores.shape[2])
        ]
        scores = np.stack(planes, axis=-1)
    return scores.argmax(axis=-1).astype("uint8")


def score(
    network: keras.Model,
    records: Any,
    names: tuple[str, ...],
    *,
    dataset: Any = None,
    split: str = "",
    progress: Callable[[float, str], None] = lambda fraction, note: None,
) -> dict[str, Any]:
    """Metrics of a network over records. With `dataset` and `split`, label maps are compared at their original
    size; without, at the network's input size (for curves)."""
    confusion = np.zeros((len(names), len(names)), "int64")
    hits = {1: 0, 5: 0}
    semantic = "semantic" in records[0]
    for index, (scores, record) in enumerate(outputs_of(network, records)):
        if semantic:
            truth = dataset.sample(split, index).semantic if dataset else record["semantic"]
            valid = record["valid_size"] if dataset else np.asarray(truth.shape)
            confusion += confusion_matrix(truth, label_map(scores, valid, truth.shape), len(names))
        else:
            for k in hits:
                hits[k] += int(top_k_correct(scores[None], record["label"][None], k)[0])
        progress((index + 1) / len(records), f"scored {index + 1}/{len(records)}")
    if semantic:
        return segmentation_scores(confusion, names)
    return classification_scores(hits[1], hits[5] if len(names) >= 5 else None, len(records))


def write_samples(network: keras.Model, records: Any, names: tuple[str, ...], run: Run) -> dict[str, Artifact]:
    """Keep the predicted label maps of the first test images, side by side in one indexed PNG beside the result."""
    if "semantic" not in records[0]:
        return {}
    few = [records[index] for index in range(min(SAMPLES, len(records)))]
    maps = [scores.argmax(axis=-1).astype("uint8") for scores, _ in outputs_of(network, few)]
    path = run.result_folder / f"{run.run_id}-samples.png"
    encoded = io.BytesIO()
    Image.fromarray(np.concatenate(maps, axis=1)).save(encoded, "PNG", optimize=True)
    atomic_write(path, encoded.getvalue())
    return {"samples": Artifact(file=path.name, sha256=sha256_of(path))}
