"""Scoring the weights of an instance segmentation network on a split of a data set."""

from collections.abc import Callable
from pathlib import Path

from repro import backend
from repro.data.base import open_dataset
from repro.data.cache import OnDemand
from repro.data.instance import fitting
from repro.errors import ReproError
from repro.harness import checkpoint
from repro.harness.config import Evaluate, TrainInstance
from repro.harness.detect_eval import MAX_BOXES
from repro.harness.inspection import flops_of, parameter_count, parameters
from repro.harness.instance import detector_of, evaluate, instances_of, protocol_of, write_instances
from repro.harness.record import Init, Xla
from repro.harness.run import Job, Run, dataset_of
from repro.harness.stages import write_stages
from repro.harness.train import kept_size_of


def evaluate_instances(job: Job, progress: Callable[[float, str], None]) -> None:
    """Score a weight file on a split, with the options it was scored with in its own run. Writes one result.

    Raises ReproError for a data set with another number of classes, and for a file that does not fit."""
    config: Evaluate = job.config
    run, split = Run(job, job.seeds[0]), config.data.test
    tf32 = backend.set_precision(config.precision)
    dataset = open_dataset(config.data.name, **config.data.options)
    names = dataset.info.classes
    if config.network.num_classes != len(names):
        raise ReproError(
            f"{config.weights} tells {config.network.num_classes} classes apart, {config.data.name} has {len(names)}",
            "score it on the data set it was trained for",
        )
    dataset.prepare()
    arrays, card = checkpoint.load_arrays(Path(config.weights))
    settings = TrainInstance(
        network=config.network, data=config.data, precision=config.precision, test=card.get("test", {}),
        recipe="suite", epochs=0, batch_size=1, optimizer="sgd", learning_rate=0,
    )  # fmt: skip
    detector = detector_of(settings, len(names), dataset.info.channels)
    checkpoint.load_weights(detector.network, arrays, config.weights)
    task, fit = fitting(max(MAX_BOXES, config.network.options.get("max_boxes", 0)))
    records, predicted = OnDemand(dataset, split, kept_size_of(settings), task, fit=fit), []
    for found in instances_of(detector, records):
        predicted.append(found)
        progress(len(predicted) / len(records), f"image {len(predicted)}/{len(records)}")
    metrics = evaluate(predicted, dataset, split, settings.recall_counts)
    network = detector.network
    metrics |= {"params": parameter_count(parameters(network)[0]), "flops": sum(map(flops_of, network.layers))}
    run.finish(
        scale="smoke" if dataset.info.name == "shapes" else "reduced",
        metrics=metrics,
        protocol=protocol_of(settings),
        dataset=dataset_of(dataset, split),
        init=Init(source="file", sha256=config.weights_sha256),
        weights_sha256=config.weights_sha256,
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
        artifacts=write_stages(network, predicted, records, run) | write_instances(predicted, run),
    )
