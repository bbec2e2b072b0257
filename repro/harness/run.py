"""One run in the making: its identity, its folder, and the result file it ends in."""

import datetime
import functools
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec

from repro import paths, registry
from repro.data.base import LOADERS
from repro.errors import ReproError
from repro.files import canonical_hash
from repro.harness import machine
from repro.harness.codehash import code_hash
from repro.harness.config import (
    Anchors,
    AnyConfig,
    DetectorSpeed,
    Evaluate,
    Gallery,
    Inspect,
    Lineage,
    Majority,
    MaskOverhead,
    Network,
    Operations,
    Peer,
    Predictions,
    Speed,
    Train,
    TrainDetector,
    TrainInstance,
    TrainRCNN,
    TrainYolo,
    network_of,
)
from repro.harness.record import SCHEMA_VERSION, Dataset, Record, Result, Xla, read_result, write_result

_KINDS = {
    Train: "train",
    TrainDetector: "train",
    TrainRCNN: "train",
    TrainYolo: "train",
    TrainInstance: "train",
    Evaluate: "eval",
    Predictions: "eval",
    Majority: "eval",
    Speed: "speed",
    Lineage: "speed",
    DetectorSpeed: "speed",
    MaskOverhead: "speed",
    Anchors: "inspect",
    Operations: "peer",
    Peer: "peer",
    Gallery: "inspect",
    Inspect: "inspect",
}
_HARNESS = {
    Train: ("repro.harness.train",),
    TrainDetector: ("repro.harness.detect", "repro.harness.alternating"),
    TrainRCNN: ("repro.harness.rcnn",),
    TrainYolo: ("repro.harness.yolo",),
    TrainInstance: ("repro.harness.instance",),
    Evaluate: ("repro.harness.train",),
    Predictions: ("repro.harness.predictions",),
    Majority: ("repro.harness.majority",),
    Speed: ("repro.harness.speed",),
    Lineage: ("repro.harness.lineage", "repro.models.faster_rcnn"),
    DetectorSpeed: ("repro.harness.detector_speed",),
    MaskOverhead: ("repro.harness.mask_overhead", "repro.models.mask_rcnn"),
    Anchors: ("repro.harness.anchors",),
    Operations: ("repro.harness.operations",),
    Peer: ("repro.harness.peer",),
    Gallery: ("repro.harness.gallery",),
    Inspect: ("repro.harness.inspection",),
}
# what scores weights, by the network's task, where it is other code than a segmenter's
EVALUATION = {
    "detection": "repro.harness.detect_eval:evaluate_detector",
    "instance": "repro.harness.instance_eval:evaluate_instances",
}


class Job(Record, dict=True):
    """What one process does: one configuration, some seeds. `parent` is the job whose weights it starts from, `others`
    are those whose trained networks it shows."""

    experiment: str
    config: AnyConfig
    profile: str
    backend: str
    seeds: list[int]
    parent: "Job | None" = None
    others: "tuple[Job, ...]" = ()

    @functools.cached_property
    def config_hash(self) -> str:
        """Identity of the settings, those of the jobs it needs included."""
        parent = self.parent.config_hash if self.parent else None
        others = [[job.config_hash for job in self.others]] if self.others else []
        # through JSON, as workers get it: 6 epochs and 6.0 epochs are the same settings
        config = msgspec.json.decode(msgspec.json.encode(self.config), type=AnyConfig)
        return canonical_hash([msgspec.to_builtins(config), self.backend, parent, *others])

    @functools.cached_property
    def code_hash(self) -> str:
        """Identity of the code the job goes through."""
        return code_hash(*modules_of(self.config))

    @property
    def sources(self) -> "tuple[Job, ...]":
        """The jobs whose weights it needs."""
        return (*((self.parent,) if self.parent else ()), *self.others)

    @property
    def kind(self) -> str:
        """The kind of its results."""
        return _KINDS[type(self.config)]


def modules_of(config: AnyConfig) -> set[str]:
    """The modules whose code decides the numbers of a configuration."""
    modules = set(_HARNESS[type(config)])
    network, data = network_of(config), getattr(config, "data", None)
    if network:
        entry = registry.architecture(network.name)
        modules.add(entry.module)
        if isinstance(config, Evaluate) and entry.task in EVALUATION:
            modules = modules - set(_HARNESS[Evaluate]) | {EVALUATION[entry.task].partition(":")[0]}
    if isinstance(config, DetectorSpeed):
        modules |= {registry.architecture(network.name).module for network in config.networks}
    if isinstance(config, Gallery):  # what trains a network decides what it answers
        modules |= {registry.architecture(name).module for name in config.members.values()}
        modules |= {module for kind, names in _HARNESS.items() if issubclass(kind, Train) for module in names}
    if isinstance(config, Inspect):
        modules |= {entry.module for entry in registry.ARCHITECTURES.values()}
    if isinstance(config, Peer):
        modules.add("repro.models.vgg")
    if data:
        modules.add(LOADERS[data.name].partition(":")[0])
    return modules


def current_code_hash(result: Result) -> str | None:
    """The hash today's code gives for the configuration of a result; None when it is no longer understood."""
    try:
        return code_hash(*modules_of(msgspec.convert(result.config, AnyConfig)))
    except (msgspec.ValidationError, ReproError, KeyError):
        return None


def find(job: Job, seed: int, results: Iterable[Result]) -> Result | None:
    """The newest ok result of this machine for a job and seed under today's code, if there is one."""
    wanted = ("ok", job.experiment, seed, machine.capture().id, job.config_hash, job.code_hash)
    found = [r for r in results if (r.status, r.experiment, r.seed, r.machine.id, r.config_hash, r.code_hash) == wanted]
    return max(found, key=lambda result: (result.started, result.run_id), default=None)


def results_of(experiment: str) -> list[Result]:
    """Every result of an experiment."""
    return [read_result(path) for path in sorted(paths.results_dir().glob(f"{experiment}/*.json"))]


def weights_path(run_id: str, experiment: str) -> Path:
    """Where a run keeps its trained weights."""
    return paths.runs_dir() / experiment / run_id / "weights.safetensors"


def run_stem(job: Job, seed: int) -> str:
    """What names a run but for the attempt: seed, configuration, code and machine."""
    return f"s{seed}-{job.config_hash[:6]}-{job.code_hash[:6]}-{machine.capture().id}"


def checkpoint_path(job: Job, seed: int) -> Path:
    """Where training can go on. All attempts share it: after a crash the next one starts from there."""
    return paths.runs_dir() / job.experiment / f"{run_stem(job, seed)}.checkpoint.safetensors"


class Run:
    """One seed of a job. Use `finish` or `fail` once; both write the result file."""

    def __init__(self, job: Job, seed: int) -> None:
        self.job, self.seed = job, seed
        self.started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._clock = time.perf_counter()
        stem, attempt = run_stem(job, seed), 1
        while (self.result_folder / f"{stem}-{attempt}.json").exists():
            attempt += 1
        self.run_id = f"{stem}-{attempt}"

    @property
    def folder(self) -> Path:
        """`runs/<experiment>/<run id>`: weights, checkpoints, logs, predictions."""
        return paths.runs_dir() / self.job.experiment / self.run_id

    @property
    def result_folder(self) -> Path:
        """`results/<experiment>`: the result file and what is published with it."""
        return paths.results_dir() / self.job.experiment

    def finish(self, *, scale: str, metrics: dict[str, Any], protocol: dict[str, Any], **fields: Any) -> Result:
        """Write the result of a run that went well."""
        return self._write(status="ok", scale=scale, metrics=metrics, protocol=protocol, **fields)

    def fail(self, error: str) -> Result:
        """Write the result of a run that did not."""
        return self._write(status="failed", scale="smoke", metrics={}, protocol={}, error=error)

    def _write(self, **fields: Any) -> Result:
        job, config = self.job, self.job.config
        network = network_of(config) or Network(name=_label(config))
        known = network.name in registry.ARCHITECTURES
        entry = registry.architecture(network.name) if known else None
        commit, dirty = machine.commit()
        base = {
            "schema_version": SCHEMA_VERSION,
            "run_id": self.run_id,
            "kind": job.kind,
            "experiment": job.experiment,
            "model": network.name,
            "variant": network.variant or (entry.variants[0] if entry else ""),
            "width": network.width,
            "depth": network.depth,
            "input_size": network.input_size or (entry.input_size if entry else (0, 0)),
            "dataset": None,
            "profile": job.profile,
            "seed": self.seed,
            "init": None,
            "config": msgspec.to_builtins(config),
            "config_hash": job.config_hash,
            "code_hash": job.code_hash,
            "commit": commit,
            "dirty": dirty,
            "depends_on": [],
            "weights_sha256": None,
            "backend": job.backend,
            "precision": getattr(config, "precision", "float32"),
            "tf32": False,
            "xla": Xla(requested=False, used=False),
            "deterministic": False,
            "compile_cache": False,
            "machine": machine.capture(),
            "packages": machine.packages(),
            "epochs": 0.0,
            "images_seen": 0,
            "timings": {},
            "peak_memory_mib": None,
            "started": self.started,
            "wall_s": round(time.perf_counter() - self._clock, 2),
        }
        result = Result(**(base | fields))
        write_result(paths.results_dir(), result)
        return result


def _label(config: AnyConfig) -> str:
    if isinstance(config, Operations):
        return config.part
    names = {Majority: "majority", Peer: "vgg16", Inspect: "architectures", Lineage: "rcnn", DetectorSpeed: "detectors"}
    return names.get(type(config), type(config).__name__.lower())


def dataset_of(dataset: Any, split: str) -> Dataset:
    """What a result says of the data it was scored on."""
    official, note = dataset.official(split)
    return Dataset(
        name=dataset.info.name,
        version=dataset.info.version,
        split=split,
        fingerprint=dataset.fingerprint(split),
        official=official,
        note=note,
    )
