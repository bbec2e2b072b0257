"""Training and scoring detectors: sampling, losses and mirroring inside one compiled step; image to boxes as one
compiled program; scores in the coordinates of the original images."""

import hashlib
import inspect
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from repro import backend, registry
from repro.data.base import open_dataset
from repro.data.cache import decoded
from repro.data.detection import Mirror, WithProposals, fitting, rescale
from repro.data.loader import in_order
from repro.harness import checkpoint
from repro.harness.config import Network, TrainDetector
from repro.harness.inspection import flops_of, parameter_count, parameters
from repro.harness.learner import Learner, make_optimizer
from repro.harness.record import Init, Result, Timing, Xla
from repro.harness.run import Job, Run, checkpoint_path, dataset_of, results_of
from repro.harness.stages import write_stages
from repro.harness.timing import bind, measure, summary
from repro.harness.train import fit, initialise, kept_size_of, scale_of, variables_of
from repro.metrics.coco import coco_ap, coco_protocol
from repro.metrics.detection import detection_protocol, proposal_recall, voc_ap
from repro.proposals.cache import proposals_of

BATCH = 4
MAX_BOXES = 64
Progress = Callable[[float, str], None]


class DetectorLearner(Learner):
    """A detector with its augmentation and its paper's loss. Its network takes a dict of inputs."""

    def __init__(self, *settings: Any, batch_size: int) -> None:
        super().__init__(*settings)
        self.batch_size, self.autocast = batch_size, False  # boxes in bfloat16 would be off by pixels

    def call(self, batch, training=False):
        """Outputs of the network, and the batch as it was augmented."""
        if training:  # Keras leaves the number of images open, which sampling and suppression need
            batch = {
                name: keras.ops.reshape(values, (self.batch_size, *values.shape[1:])) for name, values in batch.items()
            }
        if training and self._augment is not None:
            batch = self._augment(batch)
        return {"outputs": self.network(inputs_of(self.network, batch), training=training), "batch": batch}


class Detector(keras.Model):
    """A network and its decoding as one model: a batch to final boxes, and to proposals where it makes them."""

    def __init__(self, network: keras.Model, detect: Callable[..., dict], options: dict[str, Any]) -> None:
        super().__init__(name="detector", autocast=False)  # boxes in bfloat16 would be off by pixels
        self.network, self._detect, self._options = network, detect, options
        self.built = True  # all it has is built, and JAX asks

    def call(self, batch, training=False):
        outputs = self.network(inputs_of(self.network, batch), training=training)
        found = self._detect(outputs, batch, **self._options)
        extra = {key: outputs[key] for key in ("proposals", "proposal_valid") if key in outputs}
        return found | extra


def inputs_of(network: keras.Model, batch: dict[str, Any]) -> dict[str, Any]:
    """What a network takes of a batch, images as float32."""
    taken = {tensor.name: batch[tensor.name] for tensor in network.inputs}
    return taken | {"image": keras.ops.cast(batch["image"], "float32")}


def build(network: Network, num_classes: int, channels: int, heads: str) -> keras.Model:
    """The network of a configuration; settings of `Network.options` are the model file's."""
    return registry.build(
        network.name, num_classes=network.num_classes or num_classes, input_size=network.input_size,
        channels=network.channels or channels, heads=heads, variant=network.variant, width=network.width,
        depth=network.depth, **network.options,
    )  # fmt: skip


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Give every layer of the inference network the weights it has in the training network."""
    for layer in target.layers:
        if layer.weights:
            layer.set_weights(source.get_layer(layer.name).get_weights())


def records_of(dataset: Any, split: str, config: TrainDetector, limit: int | None = None) -> Any:
    """The records of a split, with selective search's proposals where the network needs them."""
    size, options = kept_size_of(config), config.network.options
    task, fitted = fitting(config.max_boxes or options.get("max_boxes", MAX_BOXES))
    records = decoded(dataset, split, size, task, fit=fitted, limit=limit)
    if not config.proposals:
        return records
    count = options.get("proposals", 2000)
    found = proposals_of(dataset, split, config.proposals, count, limit=limit, **config.search)
    return WithProposals(records, found, count)


def make_learner(config: TrainDetector, names: tuple[str, ...], seed: int, steps: int, records: Any) -> DetectorLearner:
    """A learner with fresh weights that are a function of the seed."""
    backend.set_seed(seed)
    network = build(config.network, len(names), records[0]["image"].shape[-1], "train")
    return compiled_learner(config, network, registry.module_of(config.network.name).loss, seed, steps, records)


def compiled_learner(
    config: TrainDetector, network: keras.Model, loss: Callable[..., Any], seed: int, steps: int, records: Any
) -> DetectorLearner:
    """A learner of a network with weights."""
    batch = {name: value[None] for name, value in records[0].items()}
    augment = Mirror(seed) if config.augment.get("flip") else None
    learner = DetectorLearner(network, loss, config.loss_options, augment, batch_size=config.batch_size)
    learner.compile(optimizer=make_optimizer(config, steps), jit_compile=True)
    learner(batch)
    learner.optimizer.build(learner.trainable_variables)
    return learner


def train_detector(
    job: Job,
    progress: Progress,
    make: Callable[..., DetectorLearner] | None = None,
    start: Callable[..., Any] | None = None,
) -> None:
    """Run every seed of a job; the step compiles once. Writes one result a seed.

    `make` and `start`: what stands in for `make_learner` and `start_of`."""
    make, start_from = make or make_learner, start or start_of
    config: TrainDetector = job.config
    tf32 = backend.set_precision(config.precision)
    dataset = open_dataset(config.data.name, **config.data.options)
    dataset.prepare()
    names, data = dataset.info.classes, config.data
    records = {
        split: records_of(dataset, split, config, limit)
        for split, limit in (
            (data.train, data.train_limit),
            (data.val, config.test_limit),
            (data.test, config.test_limit),
        )
    }
    steps = max(1, round(config.epochs * len(records[data.train]) / config.batch_size))
    module, learner, detector = registry.module_of(config.network.name), None, None
    for done, seed in enumerate(job.seeds):
        run = Run(job, seed)
        fresh = make(config, names, seed, steps, records[data.train])
        start = start_from(fresh.network, job, seed)
        if learner is None:
            learner = fresh
            network = build(config.network, len(names), dataset.info.channels, "infer")
            detector = Detector(network, module.detect, config.test)
        else:  # the compiled step belongs to the first learner: give it the new start
            for mine, new in zip(variables_of(learner), variables_of(fresh), strict=True):
                mine.assign(new.value)

        def report(fraction: float, note: str, done: int = done, seed: int = seed) -> None:
            progress((done + fraction) / len(job.seeds), f"seed {seed} {note}")

        def validate(learner: Learner = learner, detector: Detector = detector) -> dict[str, float]:
            copy_weights(learner.network, detector.network)
            found = score(detector, records[data.val], dataset, data.val, names)
            return {"map": found["map"]}

        if config.phases == "alternating":
            from repro.harness.alternating import alternate, forget

            trained, history = alternate(
                config, learner.network, run, seed, names, records[data.train], dataset.info.channels, steps, report
            )
            copy_weights(trained, detector.network)
        else:
            history = fit(learner, config, run, seed, records[data.train], validate, steps, report)
            copy_weights(learner.network, detector.network)
        finish(detector, run, dataset, names, records[data.test], history, start, steps, len(records[data.train]), tf32)
        if config.phases == "alternating":
            forget(run, seed)
        report(1.0, "scored")


def start_of(network: keras.Model, job: Job, seed: int) -> tuple[Init, list[str], int]:
    """Give a fresh network the start its configuration names, as `initialise`; ResNet-101 has ImageNet weights too."""
    backbone = registry.architecture(job.config.network.name).backbone
    if job.config.init != "imagenet" or backbone != "resnet101":
        return initialise(network, job, seed, results_of(job.parent.experiment) if job.parent else [])
    from repro.models.resnet import from_keras_applications

    try:
        source = keras.applications.ResNet101(weights="imagenet")
    except Exception as error:  # Keras raises bare Exception when a download fails
        return Init(source="random", note=f"no ImageNet weights: {str(error).splitlines()[0][:100]}"), [], 0
    note = f"{from_keras_applications(network, source)} layers of keras.applications.ResNet101"
    return Init(source="imagenet", sha256=digest_of(source), note=note), [], 0


def digest_of(model: keras.Model) -> str:
    """SHA-256 of all weights of a model, in order."""
    digest = hashlib.sha256()
    for array in model.get_weights():
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def predictions_of(detector: Detector, records: Any, batch_size: int = BATCH):
    """Yield for every record (detections, proposals) in pixels of the original image: boxes float32 [n,4], scores,
    classes; proposals [P,4] or None."""
    program = backend.forward(detector, "xla")
    for batch, count in in_order(records, min(batch_size, len(records))):
        tensors = {name: keras.ops.convert_to_tensor(values) for name, values in batch.items()}
        found = {name: np.asarray(keras.ops.convert_to_numpy(v)) for name, v in program(tensors).items()}
        for index in range(count):
            sizes = batch["valid_size"][index], batch["original_size"][index]
            kept = int(found["count"][index])
            detections = {name: found[name][index, :kept] for name in ("scores", "classes")}
            detections["boxes"] = rescale(found["boxes"][index, :kept], *sizes)
            proposals = None
            source = found if "proposals" in found else batch  # selective search's
            if "proposals" in source:
                proposals = rescale(source["proposals"][index][source["proposal_valid"][index]], *sizes)
            yield detections, proposals


def truth_of(dataset: Any, split: str, index: int) -> tuple[dict[str, np.ndarray], tuple[int, int]]:
    """What a sample's objects are, in the original image, and the size of that."""
    sample = dataset.sample(split, index)
    none = np.zeros(len(sample.classes), bool)
    flags = {"difficult": sample.difficult, "crowd": sample.crowd}
    truth = {"boxes": sample.boxes, "classes": sample.classes}
    truth |= {name: none if value is None else value for name, value in flags.items()}
    return truth, sample.image.shape[:2]


def score(
    detector: Detector, records: Any, dataset: Any, split: str, names: tuple[str, ...], counts: tuple[int, ...] = ()
) -> dict[str, Any]:
    """Average precisions of a detector over the records of a split, and the recall of its proposals at `counts`."""
    predictions, proposals = zip(*predictions_of(detector, records), strict=True)
    return scores_of(predictions, proposals if counts else (None,), dataset, split, names, counts)


def scores_of(
    predictions: Any, proposals: Any, dataset: Any, split: str, names: tuple[str, ...], counts: tuple[int, ...]
) -> dict[str, Any]:
    """VOC's and COCO's average precisions of predictions, `map` being VOC's (all points, IoU 0.5)."""
    truths, sizes = zip(*(truth_of(dataset, split, index) for index in range(len(predictions))), strict=True)
    areas = voc_ap(predictions, truths, len(names))
    metrics = {
        "map": areas["mean"] or 0.0,
        "map_11_point": voc_ap(predictions, truths, len(names), eleven_point=True)["mean"] or 0.0,
        "per_class": {
            name: {"ap": value, "objects": int(sum((truth["classes"] == kind).sum() for truth in truths))}
            for kind, (name, value) in enumerate(zip(names, areas["ap"], strict=True))
        },
        **{f"coco_{name}": value for name, value in coco_ap(predictions, truths, sizes, len(names)).items()},
        "images": len(predictions),
        "detections": sum(len(found["scores"]) for found in predictions),
    }
    if counts and proposals[0] is not None:
        metrics["recall"] = proposal_recall(proposals, truths, counts=counts)
    return metrics


def protocol_of(config: TrainDetector) -> dict[str, Any]:
    """How the scores are obtained, in words."""
    canvas = "x".join(map(str, kept_size_of(config)))
    return {
        **detection_protocol(), **coco_protocol(),
        "inference": f"images fitted into {canvas}; boxes mapped back and scored in the original image; one scale, "
        "no flip at test time",
        **({"images": f"the first {config.test_limit} of the split"} if config.test_limit else {}),
        **({"proposals": f"selective search, {config.proposals} mode"} if config.proposals else {}),
        **thresholds_of(config.network.name, config.test),
    }  # fmt: skip


def thresholds_of(name: str, options: dict[str, Any]) -> dict[str, str]:
    """What of a network's boxes becomes a detection, in words; R-CNN's has no decoding of its own."""
    detect = getattr(registry.module_of(name), "detect", None)
    if detect is None:
        return {}
    default = {key: parameter.default for key, parameter in inspect.signature(detect).parameters.items()} | options
    return {
        "detections": f"scores above {default['score_threshold']:g}, non-maximum suppression at IoU "
        f"{default['nms_threshold']:g} in each class, the best {default['max_detections']} of an image"
    }


def finish(
    detector: Detector,
    run: Run,
    dataset: Any,
    names: tuple[str, ...],
    records: Any,
    history: dict,
    start: tuple,
    steps: int,
    train_images: int,
    tf32: bool,
) -> Result:
    """Score the last weights once on the test split, keep them, time one image, and write the result."""
    config: TrainDetector = run.job.config
    init, depends_on, seen_before = start
    network, split = detector.network, config.data.test
    started = time.perf_counter()
    predicted = list(predictions_of(detector, records))
    metrics = scores_of(*zip(*predicted, strict=True), dataset, split, names, config.recall_counts)
    scoring = time.perf_counter() - started
    metrics |= {
        "train_images": train_images,
        "params": parameter_count(parameters(network)[0]),
        "flops": sum(map(flops_of, network.layers)),
    }
    images = steps * config.batch_size * (4 if config.phases == "alternating" else 1)
    weights = run.folder / "weights.safetensors"
    card = {
        "model": config.network.name, "variant": config.network.variant, "width": config.network.width,
        "depth": config.network.depth, "input_size": list(kept_size_of(config)),
        "num_classes": config.network.num_classes or len(names), "channels": dataset.info.channels,
        "options": config.network.options, "dataset": config.data.name, "dataset_options": config.data.options,
        "proposals": config.proposals, "search": config.search, "test": config.test,
        "run": f"{run.job.experiment}/{run.run_id}",
    }  # fmt: skip
    checkpoint.save_arrays(weights, checkpoint.weights_of(network), card)
    result = run.finish(
        scale=scale_of(config, dataset, init, kept_size_of(config)),
        metrics={**metrics, "chain_images_seen": images + seen_before},
        protocol={
            **protocol_of(config),
            "selection": "last weights; the validation split only draws the curve",
            "latency": "one image to final boxes as one program, XLA, batch 1; without selective search",
        },
        dataset=dataset_of(dataset, split),
        init=init,
        depends_on=depends_on,
        weights_sha256=checkpoint.sha256_of(weights),
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        deterministic=backend.accelerator_count() == 0,
        epochs=config.epochs,
        images_seen=images,
        timings={
            "epoch": summary(history["seconds"][1:] or history["seconds"], "s"),  # the first compiles
            "latency.xla": latency_of(detector, records),
            "scoring": summary([scoring / len(records)], "ms"),
        },
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
        history={key: value for key, value in history.items() if value},
        artifacts=write_stages(network, predicted, records, run),
    )
    checkpoint_path(run.job, run.seed).unlink(missing_ok=True)
    return result


def latency_of(detector: Detector, records: Any) -> Timing:
    """How long one image takes, on the device to its final boxes."""
    batch = {name: backend.to_device(value[None]) for name, value in records[0].items()}
    call = bind(backend.forward(detector, "xla"), batch)
    return measure({"xla": call}, warmup=10, repetitions=50, seconds=10)[1]["xla"]
