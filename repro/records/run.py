"""One run in the making: its identity, its folders, and the result it ends in."""

import datetime
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from repro import paths, registry
from repro.files import canonical_hash
from repro.records import machine
from repro.records.result import SCHEMA_VERSION, Artifact, Dataset, Init, Result, Timing, Xla
from repro.records.settings import Network
from repro.records.versions import code_hash, is_stale

Progress = Callable[[float, str], None]


@dataclass(kw_only=True)
class Outcome:
    """What a run found. Fields as those of `Result`; None keeps what the settings say of the network."""

    scale: str
    metrics: dict[str, Any]
    protocol: dict[str, Any]
    dataset: Dataset | None = None
    init: Init | None = None
    weights_sha256: str | None = None
    tf32: bool = False
    xla: Xla = field(default_factory=lambda: Xla(requested=False, used=False))
    deterministic: bool = False
    epochs: float = 0.0
    images_seen: int = 0
    timings: dict[str, Timing] = field(default_factory=dict)
    peak_memory_mib: float | None = None
    history: dict[str, list[float]] = field(default_factory=dict)
    artifacts: dict[str, Artifact] = field(default_factory=dict)
    model: str | None = None
    variant: str | None = None
    width: float | None = None
    depth: float | None = None
    input_size: tuple[int, int] | None = None


class Run:
    """One seed of an experiment. `kind` are its settings, `parents` the results whose weights it uses, by experiment.

    `result` is called once, with what was found or with the error that ended it."""

    def __init__(
        self,
        experiment: str,
        kind: Any,
        seed: int,
        *,
        profile: str,
        backend: str,
        config_hash: str = "",
        parents: Mapping[str, Result] | None = None,
    ) -> None:
        self.experiment, self.kind, self.seed = experiment, kind, seed
        self.profile, self.backend, self.parents = profile, backend, dict(parents or {})
        self.config_hash = config_hash or config_hash_of(kind, backend, ())
        self.versions: dict[str, int] = dict(kind.versions())
        for parent in self.parents.values():
            self.versions |= parent.versions
        self.start()
        stem, attempt = self._stem(), 1
        while (self.result_folder / f"{stem}-{attempt}.json").exists():
            attempt += 1
        self.run_id = f"{stem}-{attempt}"

    def _stem(self) -> str:
        """What names a run but for the attempt: seed, settings, versions and machine."""
        return f"s{self.seed}-{self.config_hash[:6]}-{canonical_hash(self.versions)[:6]}-{machine.capture().id}"

    def start(self) -> None:
        """Set its clock: of several seeds in one process, each begins where the one before ended."""
        self._started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._clock = time.perf_counter()

    @property
    def folder(self) -> Path:
        """`runs/<experiment>/<run id>`: weights, logs, predictions."""
        return paths.runs_dir() / self.experiment / self.run_id

    @property
    def result_folder(self) -> Path:
        """`results/<experiment>`: the result file and what is published with it."""
        return paths.results_dir() / self.experiment

    def checkpoint(self, phase: str = "") -> Path:
        """Where a phase of training can go on. All attempts share it: after a crash the next starts from there."""
        name = ".".join(filter(None, (self._stem(), phase, "checkpoint.safetensors")))
        return paths.runs_dir() / self.experiment / name

    def artifact(self, name: str) -> Path:
        """Where a file that belongs to the result lies, beside it."""
        return self.result_folder / f"{self.run_id}-{name}"

    def result(self, outcome: Outcome | None = None, error: str | None = None) -> Result:
        """The result of a run that found something, or of one that an error ended."""
        network = getattr(self.kind, "network", None) or Network(name=self.kind.subject())
        entry = registry.ARCHITECTURES.get(network.name)
        commit, dirty = machine.commit()
        outcome = outcome or Outcome(scale="smoke", metrics={}, protocol={})
        known: dict[str, Any] = {"model": network.name, "width": network.width, "depth": network.depth}
        known["variant"] = network.variant or (entry.variants[0] if entry else "")
        known["input_size"] = network.input_size or (entry.input_size if entry else (0, 0))
        found: dict[str, Any] = {each.name: getattr(outcome, each.name) for each in fields(outcome)}
        found |= {name: value for name, value in known.items() if found[name] is None}
        # what follows is checked when the result is written
        found |= {name: getattr(self, name) for name in ("run_id", "experiment", "profile", "seed", "backend")}
        found |= {"kind": self.kind.RESULT, "task": self.kind.task_name(), "config": msgspec.to_builtins(self.kind)}
        found |= {"config_hash": self.config_hash, "versions": dict(sorted(self.versions.items()))}
        found |= {"code_hash": code_hash(), "commit": commit, "dirty": dirty, "packages": machine.packages()}
        found["depends_on"] = [f"{parent.experiment}/{parent.run_id}" for parent in self.parents.values()]
        found |= {"precision": getattr(self.kind, "precision", "float32"), "compile_cache": False}
        found |= {"status": "ok" if error is None else "failed", "error": error, "started": self._started}
        seconds = round(time.perf_counter() - self._clock, 2)
        return Result(schema_version=SCHEMA_VERSION, machine=machine.capture(), wall_s=seconds, **found)


def config_hash_of(kind: Any, backend: str, parents: Iterable[str]) -> str:
    """Identity of settings on a backend, with the identities of what they start from."""
    # as a worker reads it from JSON: 6 epochs and 6.0 epochs are the same settings
    read = msgspec.json.decode(msgspec.json.encode(kind), type=type(kind))
    return canonical_hash([msgspec.to_builtins(read), backend, *parents])


def find(results: Iterable[Result], experiment: str, config_hash: str, seed: int) -> Result | None:
    """The newest result of this machine for an experiment's settings and seed that is not stale, if there is one."""
    wanted = ("ok", experiment, seed, machine.capture().id, config_hash)
    found = [r for r in results if (r.status, r.experiment, r.seed, r.machine.id, r.config_hash) == wanted]
    fresh = [r for r in found if not is_stale(r.versions)]
    return max(fresh, key=lambda result: (result.started, result.run_id), default=None)


def weights_path(result: Result) -> Path:
    """Where a run kept its trained weights."""
    return paths.runs_dir() / result.experiment / result.run_id / "weights.safetensors"


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
