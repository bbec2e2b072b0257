"""What the pictures of a detector need, kept beside its result: proposals, matched anchors, final boxes."""

import json
from typing import Any

import keras
import numpy as np

from repro.data.detection import rescale
from repro.files import atomic_write
from repro.harness.checkpoint import sha256_of
from repro.harness.record import Artifact
from repro.harness.run import Run
from repro.harness.samples import sample_indices
from repro.ops.anchors import inside_image
from repro.ops.matching import label_anchors

PROPOSALS = 20  # the best, of an image
LEAST_SCORE = 0.3  # of a final box


def write_stages(
    network: keras.Model | None, found: list[tuple[dict, Any]], records: Any, run: Run
) -> dict[str, Artifact]:
    """Write the stages of the sampled test images, a line of JSON each; boxes are in pixels of the original image.

    `found`: (detections, proposals or None) of every test image, in order. Anchors are those of an RPN, if there is
    one, that its training would call positive for the image's objects."""
    propose = next((layer for layer in network.layers if layer.name == "propose"), None) if network else None
    kept = []
    for index in sample_indices(len(found)):
        detections, proposals = found[index]
        chosen = detections["scores"] >= LEAST_SCORE
        entry = {
            "boxes": _rounded(detections["boxes"][chosen]),
            "scores": [round(float(score), 3) for score in detections["scores"][chosen]],
            "classes": [int(kind) for kind in detections["classes"][chosen]],
        }
        if proposals is not None:
            entry["proposals"] = _rounded(proposals[:PROPOSALS])
        if propose is not None:
            entry["anchors"] = _rounded(_matched(propose.anchors, records[index]))
        kept.append(entry)
    path = run.result_folder / f"{run.run_id}-stages.jsonl"
    atomic_write(path, "".join(f"{json.dumps(entry)}\n" for entry in kept).encode())
    return {"stages": Artifact(file=path.name, sha256=sha256_of(path))}


def _matched(anchors: np.ndarray, record: dict[str, np.ndarray]) -> np.ndarray:
    boxes, classes, size = (record[name][None] for name in ("boxes", "classes", "valid_size"))
    labels, _ = label_anchors(anchors, boxes, classes >= 0, inside_image(anchors, size))
    positive = np.asarray(keras.ops.convert_to_numpy(labels))[0] == 1
    return rescale(anchors[positive], record["valid_size"], record["original_size"])


def _rounded(boxes: np.ndarray) -> list[list[float]]:
    return np.round(np.asarray(boxes, "float64"), 1).tolist()
