"""The same test images through networks that other runs trained: label maps, boxes and instances for a picture."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from repro import backend, registry
from repro.data.base import open_dataset
from repro.errors import ReproError
from repro.files import atomic_write
from repro.harness import checkpoint
from repro.harness.config import Gallery
from repro.harness.learner import build_network
from repro.harness.predict import label_maps_of
from repro.harness.predict_objects import detector_from, objects_in
from repro.harness.record import Artifact, Result, Xla
from repro.harness.run import Job, Run, dataset_of, find, results_of, weights_path
from repro.harness.samples import sample_indices
from repro.masks import encode_rle

# weak networks are sure of little, and an empty picture says less than a wrong box with its score
LEAST_SCORE, MOST = 0.1, 3


def gallery(job: Job, progress: Callable[[float, str], None]) -> None:
    """Show the sampled images of the test split to the network of every job in `job.others`. Writes one result, and
    beside it a line of JSON for each network and image: run-length encoded `labels`, one mask a class, or the `boxes`,
    `scores` and `classes` of the best three that score 0.1 or more, with their `masks` where the network has them, in
    the original image.

    Raises ReproError where a network has no weights here, and for one of other classes than the data's."""
    config: Gallery = job.config
    run, split = Run(job, 0), config.data.test
    tf32 = backend.set_precision(config.precision)
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    indices = sample_indices(dataset.size(split))
    images = [dataset.sample(split, index).image for index in indices]
    lines, sources = [], []
    for member in job.others:
        source = _source(member)
        for entry in _answers(member, source, images, dataset.info):
            lines.append({"experiment": member.experiment, "model": source.model} | entry)
        sources.append(source)
        progress(len(sources) / len(job.others), f"{member.experiment} shown")
    path = run.result_folder / f"{run.run_id}-gallery.jsonl"
    atomic_write(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    run.finish(
        scale="smoke" if dataset.info.name == "shapes" else "reduced",
        metrics={"images": len(indices), "networks": [source.model for source in sources]},
        protocol={
            "images": "test images, whole; segmentation networks, which were trained on scenes of their own, see them "
            "at their own scale",
            "shown": f"the class of the highest score at each pixel; the best {MOST} boxes or instances of an image "
            f"that score {LEAST_SCORE:g} or more",
        },
        dataset=dataset_of(dataset, split),
        depends_on=[f"{source.experiment}/{source.run_id}" for source in sources],
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        artifacts={"gallery": Artifact(file=path.name, sha256=checkpoint.sha256_of(path))},
    )


def _source(member: Job) -> Result:
    """The run whose weights stand for an experiment."""
    result = find(member, member.seeds[0], results_of(member.experiment))
    if result is None or not weights_path(result.run_id, result.experiment).exists():
        cure = f"repro run {member.experiment} --profile {member.profile}"
        raise ReproError(f"{member.experiment} has no weights here", cure)
    return result


def _answers(member: Job, source: Result, images: list[np.ndarray], info: Any) -> list[dict[str, Any]]:
    """What a network makes of each image, ready for JSON."""
    path = weights_path(source.run_id, source.experiment)
    arrays, card = checkpoint.load_arrays(path)
    network = member.config.network
    task = registry.architecture(network.name).task
    known = info.semantic_classes if task == "segmentation" else info.classes
    if card["num_classes"] != len(known):
        problem = f"{member.experiment} tells {card['num_classes']} classes apart, {info.name} has {len(known)}"
        raise ReproError(problem, "show a network of the same classes")
    network = msgspec.structs.replace(network, num_classes=card["num_classes"], channels=card["channels"])
    if task == "segmentation":
        size = images[0].shape[:2]
        model = build_network(msgspec.structs.replace(network, input_size=size), card["num_classes"])
        checkpoint.load_weights(model, arrays, str(path))
        maps = label_maps_of(model, images, size, card.get("tile_margin"))
        return [{"labels": [encode_rle(labels == k) for k in range(len(known))]} for labels in maps]
    detector = detector_from(network, card)
    checkpoint.load_weights(detector.network, arrays, str(path))
    found = objects_in(detector, images, tuple(card["input_size"]))
    return [_kept(objects) for objects in found]


def _kept(objects: dict[str, Any]) -> dict[str, Any]:
    order = np.argsort(-objects["scores"], kind="stable")[:MOST]
    chosen = order[objects["scores"][order] >= LEAST_SCORE]
    entry = {
        "boxes": np.asarray(objects["boxes"], float)[chosen].round(1).tolist(),
        "scores": [round(float(objects["scores"][k]), 3) for k in chosen],
        "classes": [int(objects["classes"][k]) for k in chosen],
    }
    return entry | ({"masks": [objects["masks"][k] for k in chosen]} if "masks" in objects else {})
