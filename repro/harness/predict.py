"""`repro predict`: a user's own pictures through a trained network."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import keras
import numpy as np
from PIL import Image

from repro import registry
from repro.data.base import Sample, dataset_class
from repro.data.cache import centre_crop, letterbox
from repro.data.images import read_image
from repro.errors import ReproError
from repro.files import atomic_write
from repro.harness import checkpoint
from repro.harness.config import Network
from repro.harness.evaluate import labels_of, outputs_of, resized
from repro.harness.learner import build_network
from repro.harness.protocol import class_names_of
from repro.report.overlays import legend, overlay_mask
from repro.report.palette import colourise, voc_colormap


def predict(network: Network, card: dict, images: list[Path], weights: Path, out: Path) -> list[str]:
    """Write pictures and `predictions.json` to a folder; returns a line to print for each image.

    Segmentation: `<stem>.mask.png` (labels, indexed colours), `<stem>.overlay.png` with a legend, and the share of
    pixels of each class. Classification: the five highest classes with their softmax scores. Detection and instance
    segmentation: see `predict_objects`."""
    info = dataset_class(card["dataset"]).info
    task = registry.architecture(network.name).task
    if network.channels not in (1, 3):
        raise ReproError(f"{weights} takes {network.channels} channels", "repro predict reads grey and RGB images")
    pixels = [read_image(path) for path in images]
    if network.channels == 1:
        pixels = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] for image in pixels]
    if task in ("detection", "instance"):
        from repro.harness.predict_objects import predict_objects

        out.mkdir(parents=True, exist_ok=True)
        return [*predict_objects(network, card, images, pixels, weights, out), f"written to {out}"]
    names = class_names_of(dataset_class(card["dataset"]), task)
    model = build_network(network, network.num_classes)
    checkpoint.load_weights(model, checkpoint.load_arrays(weights)[0], str(weights))
    out.mkdir(parents=True, exist_ok=True)
    size = tuple(card.get("data_size") or network.input_size)
    answers, lines = {}, []
    if task == "segmentation":
        found = label_maps_of(model, pixels, size, card.get("tile_margin"))
    else:
        found = (scores for scores, _ in outputs_of(model, _records(pixels, size, centre_crop)))
    for path, image, answer in zip(images, pixels, found, strict=True):
        if task == "segmentation":
            answers[path.name] = _write_masks(out / path.stem, image, answer, names, info.palette)
        else:
            answers[path.name] = _top(answer, names)
        best = ", ".join(f"{name} {share:.0%}" for name, share in list(answers[path.name].items())[:5])
        lines.append(f"{path.name}: {best}")
    atomic_write(out / "predictions.json", json.dumps(answers, indent=1).encode())
    return [*lines, f"written to {out}"]


def label_maps_of(
    model: keras.Model, images: list[np.ndarray], size: tuple[int, int], tile_margin: int | None
) -> Iterator[np.ndarray]:
    """Yield the class of the highest score of every pixel, uint8 [H,W], of images uint8 [H,W,C] fitted into `size`."""
    found = outputs_of(model, _records(images, size, letterbox), tile_margin=tile_margin)
    for image, (scores, record) in zip(images, found, strict=True):
        yield labels_of(resized(scores, record["valid_size"], image.shape[:2]))


def _records(images: list[np.ndarray], size: tuple[int, int], fit: Callable[..., dict]) -> list[dict]:
    return [fit(Sample("", image, label=0), size) for image in images]


def _top(scores: np.ndarray, names: tuple[str, ...]) -> dict[str, float]:
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    return {names[index]: round(float(shares[index]), 4) for index in np.argsort(-shares, kind="stable")[:5]}


def _write_masks(
    stem: Path, image: np.ndarray, labels: np.ndarray, names: tuple[str, ...], palette
) -> dict[str, float]:
    palette = palette or [tuple(map(int, colour)) for colour in voc_colormap(len(names))]
    mask = Image.fromarray(labels)
    mask.putpalette([value for colour in palette for value in colour])
    mask.save(stem.with_name(f"{stem.name}.mask.png"))
    both = np.concatenate([overlay_mask(image, labels, palette), colourise(labels, palette)], axis=1)
    key = legend(names, palette, both.shape[1])
    Image.fromarray(np.concatenate([both, key])).save(stem.with_name(f"{stem.name}.overlay.png"))
    shares = np.bincount(labels.ravel(), minlength=len(names)) / labels.size
    return {names[k]: round(float(shares[k]), 4) for k in np.argsort(-shares, kind="stable") if shares[k]}
