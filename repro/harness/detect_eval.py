"""Scoring the weights of a detector: a run's .safetensors, or the authors' .weights of the YOLO line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from repro import backend, registry
from repro.darknet_format import read_weights
from repro.data.base import open_dataset
from repro.data.cache import OnDemand
from repro.data.detection import WithProposals, fitting
from repro.errors import ReproError
from repro.harness import checkpoint
from repro.harness.config import Evaluate, TrainDetector
from repro.harness.detect import Detector, build, predictions_of, protocol_of, scores_of
from repro.harness.inspection import flops_of, parameter_count, parameters
from repro.harness.record import Init, Xla
from repro.harness.run import Job, Run, dataset_of
from repro.harness.stages import write_stages
from repro.harness.train import kept_size_of
from repro.proposals.cache import proposals_of

OFFICIAL = ".weights"  # the ending of Darknet's files
MAX_BOXES = 256  # more than any image of COCO has


def evaluate_detector(job: Job, progress: Callable[[float, str], None]) -> None:
    """Score a detector's weight file on a split of a data set, with the options and the kind of proposals that it was
    scored with in its own run. Writes one result.

    Raises ReproError for R-CNN, for a data set with another number of classes, and for a file that does not fit."""
    config: Evaluate = job.config
    name, split = config.network.name, config.data.test
    if name == "rcnn":
        raise ReproError("the SVMs that R-CNN detects with are not in its network", "`repro run` trains and scores it")
    run = Run(job, job.seeds[0])
    tf32 = backend.set_precision(config.precision)
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    names = dataset.info.classes
    known = config.network.num_classes or len(names)
    if known != len(names):
        raise ReproError(
            f"{config.weights} tells {known} classes apart, {config.data.name} has {len(names)}",
            "score it on the data set it was trained for",
        )
    network = build(config.network, len(names), dataset.info.channels, "infer")
    settings = as_trained(config, load(network, config.weights))
    records = records_to_score(dataset, split, settings)
    detector = Detector(network, registry.module_of(name).detect, settings.test)
    predicted = []
    for found in predictions_of(detector, records):
        predicted.append(found)
        progress(len(predicted) / len(records), f"image {len(predicted)}/{len(records)}")
    metrics = scores_of(*zip(*predicted, strict=True), dataset, split, names, settings.recall_counts)
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
        artifacts=write_stages(network, predicted, records, run),
    )


def load(network: Any, weights: str) -> dict[str, Any]:
    """Fill a network from a file. Returns the file's card; Darknet's have none. Raises ReproError when it does not
    fit."""
    if weights.endswith(OFFICIAL):
        read_weights(weights, network)
        return {}
    arrays, card = checkpoint.load_arrays(Path(weights))
    checkpoint.load_weights(network, arrays, weights)
    return card


def as_trained(config: Evaluate, card: dict[str, Any]) -> TrainDetector:
    """What of a training run's settings its scores depend on, as the card of its weights tells."""
    return TrainDetector(
        network=config.network, data=config.data, precision=config.precision,
        proposals=card.get("proposals", ""), search=card.get("search", {}), test=card.get("test", {}),
        recipe="suite", epochs=0, batch_size=1, optimizer="sgd", learning_rate=0,
    )  # fmt: skip


def records_to_score(dataset: Any, split: str, config: TrainDetector) -> Any:
    """The records of a split, each decoded when it is asked for, since they are looked at once; with selective search's
    proposals where the network needs them."""
    options = config.network.options
    task, fit = fitting(max(MAX_BOXES, options.get("max_boxes", 0)))
    records = OnDemand(dataset, split, kept_size_of(config), task, fit=fit)
    if not config.proposals:
        return records
    count = options.get("proposals", 2000)
    return WithProposals(records, proposals_of(dataset, split, config.proposals, count, **config.search), count)
