"""One prediction path: pictures that belong to no data set through the network of a weight file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from repro.data.catalog import dataset_class
from repro.data.images import read_image
from repro.engine import checkpoint
from repro.engine.checkpoint import Card
from repro.errors import ReproError
from repro.files import atomic_write
from repro.records.settings import Network


def predict(card: Card, paths: Sequence[Path], weights: Path, out: Path) -> list[str]:
    """Write pictures and `predictions.json` to a folder; returns a line to print for each image. What is written is
    told by the `show` of each task.

    Raises ReproError for images a network cannot take, and for networks that need proposals."""
    channels = card.network.channels
    if channels not in (1, 3):
        raise ReproError(f"{weights} takes {channels} channels", "repro predict reads grey and RGB images")
    images = [read_image(path) for path in paths]
    if channels == 1:
        images = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] for image in images]
    found = answers(card, card.network, images, weights)
    loader, told, lines = dataset_class(card.data.name), [], []
    for path, image, answer in zip(paths, images, found, strict=True):
        line, entry, pictures = card.task.show(image, answer, path.name, loader)
        lines.append(line)
        told.append((path.name, entry))
        out.mkdir(parents=True, exist_ok=True)
        for end, picture in pictures.items():
            picture.save(out / f"{path.stem}.{end}")
    lists = all(isinstance(entry, list) for _, entry in told)  # COCO's results are one list
    content = [result for _, entry in told for result in entry] if lists else dict(told)
    atomic_write(out / "predictions.json", msgspec.json.format(msgspec.json.encode(content), indent=1))
    return [*lines, f"written to {out}"]


def answers(card: Card, network: Network, images: Sequence[np.ndarray], weights: Path) -> Iterator[dict[str, Any]]:
    """Yield the answer of a task's network about each picture uint8 [H,W,C], in pixels of the picture.

    network: that of the card, or it at another input size."""
    data = card.data if network is card.network else msgspec.structs.replace(card.data, size=None)
    records = card.task.picture_records(images, network, data)
    classes, channels = network.num_classes, network.channels
    assert classes is not None  # the card of a weight file says both
    assert channels is not None  # the card of a weight file says both
    predictor = card.task.predictor(network, data, classes, channels)
    checkpoint.load_weights(predictor.network, checkpoint.load_arrays(weights)[0], str(weights))
    for image, (prediction, record) in zip(images, predictor.predict(records), strict=True):
        yield card.task.answer(image, prediction, record)
