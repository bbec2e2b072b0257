"""Training and scoring instance segmentation: as detection in `repro.harness.detect`, with masks. The network gives
small masks relative to their boxes; they are pasted into the original image on the host, and scored there."""

import json
import time
from collections.abc import Iterator
from typing import Any

import keras
import msgspec
import numpy as np

from repro import backend, registry
from repro.data.base import open_dataset
from repro.data.cache import decoded
from repro.data.detection import rescale
from repro.data.instance import MirrorInstances, fitting
from repro.data.loader import in_order
from repro.files import atomic_write
from repro.harness import checkpoint
from repro.harness.config import Network, TrainInstance
from repro.harness.detect import (
    BATCH,
    MAX_BOXES,
    Detector,
    DetectorLearner,
    Progress,
    build,
    copy_weights,
    latency_of,
    start_of,
)
from repro.harness.inspection import flops_of, parameter_count, parameters
from repro.harness.learner import make_optimizer
from repro.harness.objects import objects_of, scores_of
from repro.harness.record import Artifact, Result, Xla
from repro.harness.run import Job, Run, checkpoint_path, dataset_of
from repro.harness.samples import sample_indices
from repro.harness.stages import LEAST_SCORE, write_stages
from repro.harness.timing import summary
from repro.harness.train import fit, kept_size_of, scale_of, variables_of
from repro.masks import encode_rle, paste_mask
from repro.metrics.coco import coco_protocol
from repro.metrics.detection import detection_protocol, proposal_recall
from repro.metrics.instance import instance_protocol
from repro.models.mask_rcnn import DETECTION


def train_instances(job: Job, progress: Progress) -> None:
    """Run every seed of a job; the step compiles once. Writes one result a seed."""
    config: TrainInstance = job.config
    tf32 = backend.set_precision(config.precision)
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    names, data = dataset.info.classes, config.data
    train, val, test = (
        records_of(dataset, split, config, limit)
        for split, limit in (
            (data.train, data.train_limit),
            (data.val, config.test_limit),
            (data.test, config.test_limit),
        )
    )
    steps = max(1, round(config.epochs * len(train) / config.batch_size))
    learner = None
    for done, seed in enumerate(job.seeds):
        run = Run(job, seed)
        fresh = make_learner(config, len(names), seed, steps, train)
        start = start_of(fresh.network, job, seed)
        if learner is None:
            learner, detector = fresh, detector_of(config, len(names), dataset.info.channels)
        else:  # the compiled step belongs to the first learner: give it the new start
            for mine, new in zip(variables_of(learner), variables_of(fresh), strict=True):
                mine.assign(new.value)

        def report(fraction: float, note: str, done: int = done, seed: int = seed) -> None:
            progress((done + fraction) / len(job.seeds), f"seed {seed} {note}")

        def validate(learner: DetectorLearner = learner, detector: Detector = detector) -> dict[str, float]:
            copy_weights(learner.network, detector.network)
            found = evaluate(list(instances_of(detector, val)), dataset, data.val, ())
            return {name: found[name] or 0.0 for name in ("map", "mask_ap") if name in found}

        history = fit(learner, config, run, seed, train, validate, steps, report)
        copy_weights(learner.network, detector.network)
        finish(detector, run, dataset, test, history, start, steps, len(train), tf32)
        report(1.0, "scored")


def records_of(dataset: Any, split: str, config: TrainInstance, limit: int | None = None) -> Any:
    """The records of a split, with masks."""
    task, fitted = fitting(config.max_boxes or config.network.options.get("max_boxes", MAX_BOXES))
    return decoded(dataset, split, kept_size_of(config), task, fit=fitted, limit=limit)


def make_learner(config: TrainInstance, num_classes: int, seed: int, steps: int, records: Any) -> DetectorLearner:
    """A learner with fresh weights that are a function of the seed."""
    backend.set_seed(seed)
    batch = {name: value[None] for name, value in records[0].items()}
    network = build(config.network, num_classes, batch["image"].shape[-1], "train")
    augment = MirrorInstances(seed) if config.augment.get("flip") else None
    loss = registry.module_of(config.network.name).loss
    learner = DetectorLearner(network, loss, config.loss_options, augment, batch_size=config.batch_size)
    learner.compile(optimizer=make_optimizer(config, steps), jit_compile=True)
    learner(batch)
    learner.optimizer.build(learner.trainable_variables)
    return learner


def detector_of(config: TrainInstance, num_classes: int, channels: int) -> Detector:
    """The network with its final boxes and masks; `config.test` are options of the network for them."""
    network = msgspec.structs.replace(config.network, options=config.network.options | config.test)
    return Detector(
        build(network, num_classes, channels, "infer"), registry.module_of(config.network.name).detect, {}
    )  # fmt: skip


def instances_of(detector: Detector, records: Any, batch_size: int = BATCH) -> Iterator[tuple[dict, np.ndarray]]:
    """Yield for every record (detections, proposals [P,4]) in pixels of the original image: boxes float32 [n,4],
    scores, classes, and where the network has masks `masks`, n run-length encoded masks of the image."""
    program = backend.forward(detector, "xla")
    for batch, count in in_order(records, min(batch_size, len(records))):
        tensors = {name: keras.ops.convert_to_tensor(values) for name, values in batch.items()}
        found = {name: np.asarray(keras.ops.convert_to_numpy(v)) for name, v in program(tensors).items()}
        for index in range(count):
            sizes = batch["valid_size"][index], batch["original_size"][index]
            kept = int(found["count"][index])
            detections = {name: found[name][index, :kept] for name in ("scores", "classes")}
            detections["boxes"] = rescale(found["boxes"][index, :kept], *sizes)
            if "masks" in found:
                pairs = zip(found["masks"][index, :kept], detections["boxes"], strict=True)
                detections["masks"] = [encode_rle(paste_mask(m, box, tuple(map(int, sizes[1])))) for m, box in pairs]
            proposals = found["proposals"][index][found["proposal_valid"][index]]
            yield detections, rescale(proposals, *sizes)


def evaluate(predicted: list[tuple[dict, Any]], dataset: Any, split: str, counts: tuple[int, ...]) -> dict[str, Any]:
    """Average precisions of boxes and masks, and the recall of proposals at `counts`."""
    predictions, proposals = zip(*predicted, strict=True)
    objects = objects_of(dataset, split, len(predictions))
    metrics = scores_of(predictions, objects, dataset.info.classes, masks="masks" in predictions[0])
    metrics |= {name: metrics[name] or 0.0 for name in ("map", "map_11_point")}
    if counts:
        metrics["recall"] = proposal_recall(proposals, objects.truths, counts=counts)
    return metrics


def protocol_of(config: TrainInstance) -> dict[str, Any]:
    """How the scores are obtained, in words."""
    canvas = "x".join(map(str, kept_size_of(config)))
    chosen = {name: config.test.get(name, config.network.options.get(name, value)) for name, value in DETECTION.items()}
    return {
        **detection_protocol(), **coco_protocol(), **instance_protocol(),
        "inference": f"images fitted into {canvas}; boxes and masks mapped back and scored in the original image; one "
        "scale, no flip at test time",
        **({"images": f"the first {config.test_limit} of the split"} if config.test_limit else {}),
        "detections": f"scores above {chosen['score_threshold']:g}, non-maximum suppression at IoU "
        f"{chosen['nms_threshold']:g} in each class, the best {chosen['max_detections']} of an image; masks cut at 0.5",
        "selection": "last weights; the validation split only draws the curve",
        "latency": "one image to final boxes and their small masks as one program, XLA, batch 1; without pasting",
    }  # fmt: skip


def card_of(network: Network, dataset: Any, **more: Any) -> dict[str, Any]:
    """What weights say of themselves: the network and the data set they are of."""
    return {
        "model": network.name, "variant": network.variant, "width": network.width, "depth": network.depth,
        "num_classes": network.num_classes or len(dataset.info.classes), "channels": dataset.info.channels,
        "options": network.options, "dataset": dataset.info.name, "dataset_options": dataset.options, **more,
    }  # fmt: skip


def finish(
    detector: Detector,
    run: Run,
    dataset: Any,
    records: Any,
    history: dict,
    start: tuple,
    steps: int,
    train_images: int,
    tf32: bool,
) -> Result:
    """Score the last weights once on the test split, keep them, time one image, and write the result."""
    config: TrainInstance = run.job.config
    init, depends_on, seen_before = start
    network, split = detector.network, config.data.test
    started = time.perf_counter()
    predicted = list(instances_of(detector, records))
    metrics = evaluate(predicted, dataset, split, config.recall_counts)
    scoring = time.perf_counter() - started
    metrics |= {
        "train_images": train_images,
        "params": parameter_count(parameters(network)[0]),
        "flops": sum(map(flops_of, network.layers)),
        "chain_images_seen": steps * config.batch_size + seen_before,
    }
    weights = run.folder / "weights.safetensors"
    more = {"input_size": list(kept_size_of(config)), "test": config.test, "run": f"{run.job.experiment}/{run.run_id}"}
    checkpoint.save_arrays(weights, checkpoint.weights_of(network), card_of(config.network, dataset, **more))
    result = run.finish(
        scale=scale_of(config, dataset, init, kept_size_of(config)),
        metrics=metrics,
        protocol=protocol_of(config),
        dataset=dataset_of(dataset, split),
        init=init,
        depends_on=depends_on,
        weights_sha256=checkpoint.sha256_of(weights),
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        deterministic=backend.accelerator_count() == 0,
        epochs=config.epochs,
        images_seen=steps * config.batch_size,
        timings={
            "epoch": summary(history["seconds"][1:] or history["seconds"], "s"),  # the first compiles
            "latency.xla": latency_of(detector, records),
            "scoring": summary([scoring / len(records)], "ms"),
        },
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
        history={key: value for key, value in history.items() if value},
        artifacts=write_stages(network, predicted, records, run) | write_instances(predicted, run),
    )
    checkpoint_path(run.job, run.seed).unlink(missing_ok=True)
    return result


def write_instances(predicted: list[tuple[dict, Any]], run: Run) -> dict[str, Artifact]:
    """Keep the instances of the sampled test images for the galleries, a line of JSON each; nothing without masks."""
    if "masks" not in predicted[0][0]:
        return {}
    lines = []
    for index in sample_indices(len(predicted)):
        found = predicted[index][0]
        chosen = np.flatnonzero(found["scores"] >= LEAST_SCORE)
        lines.append({
            "masks": [found["masks"][k] for k in chosen],
            "scores": [round(float(found["scores"][k]), 3) for k in chosen],
            "classes": [int(found["classes"][k]) for k in chosen],
        })  # fmt: skip
    path = run.result_folder / f"{run.run_id}-instances.jsonl"
    atomic_write(path, "".join(f"{json.dumps(line)}\n" for line in lines).encode())
    return {"instances": Artifact(file=path.name, sha256=checkpoint.sha256_of(path))}
