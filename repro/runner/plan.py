"""From names and a profile to jobs: what has to run, and what that starts from."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from repro import paths
from repro.errors import ReproError, unknown_name
from repro.experiments import read_kind
from repro.experiments.kind import Kind
from repro.experiments.train import PLAIN_INITS
from repro.presets.base import Preset
from repro.presets.choice import all_presets, choose
from repro.records.result import Result, read_result
from repro.records.run import config_hash_of
from repro.registry import architecture
from repro.runner import preflight
from repro.tasks.base import Training

Trained = TypeVar("Trained", bound=Training)


@dataclass(frozen=True, kw_only=True)
class Job:
    """What one process does: the settings of one kind, some seeds. `needs` are the jobs whose weights it uses."""

    experiment: str
    kind: Kind
    profile: str
    backend: str
    seeds: tuple[int, ...]
    needs: "tuple[Job, ...]" = ()

    @functools.cached_property
    def config_hash(self) -> str:
        """Identity of the settings, those of the jobs it needs included."""
        return config_hash_of(self.kind, self.backend, [need.config_hash for need in self.needs])

    def seed_for(self, seed: int) -> int:
        """Which of its seeds another job's run uses: its own, where there is one of that number."""
        return seed if seed in self.seeds else self.seeds[0]


@dataclass
class Task:
    """A job with what it is worth and what one of its seeds costs in seconds."""

    job: Job
    value: int
    seconds: float
    state: str = "waiting"
    note: str = ""
    todo: list[int] = field(default_factory=list)

    @property
    def cost(self) -> float:
        """Seconds its unfinished seeds should take."""
        return self.seconds * max(1, len(self.todo))


def read_job(order: Mapping[str, Any]) -> Job:
    """A job as it travels to its process, in JSON."""
    read = {"kind": read_kind(order["kind"]), "needs": tuple(map(read_job, order["needs"]))}
    return Job(**{**order, **read, "seeds": tuple(order["seeds"])})


def results_of(experiment: str) -> list[Result]:
    """Every result of an experiment."""
    return [read_result(path) for path in sorted(paths.results_dir().glob(f"{experiment}/*.json"))]


def job_for(
    preset: Preset,
    profile: str,
    backend: str,
    seeds: int | None = None,
    init: str | None = None,
    compile: str | None = None,
) -> Job:
    """The job of a preset, with those of the presets it needs above it. `seeds`, `init` and `compile` are those of
    trainings where they are not the preset's own. Raises ReproError for a bad init, and for a graph on JAX."""
    if backend == "jax":
        if compile == "graph":
            raise ReproError("JAX has no graph mode", "leave --compile out, or choose --backend tensorflow")
        compile = "xla"
    kind, own = preset.configs[profile], None
    if isinstance(kind, Training):
        kind, own = with_init(kind, init), seeds
        kind = msgspec.structs.replace(kind, compile=compile or kind.compile)
    known, needs = all_presets(), []
    for name in kind.needs():
        if profile not in known[name].configs or preset.name in _chain_of(known[name], profile):
            raise ReproError(f"{preset.name} cannot start from {name}", "choose another --init")
        needs.append(job_for(known[name], profile, backend, own, compile=compile))
    return Job(
        experiment=preset.name,
        kind=kind,
        profile=profile,
        backend=backend,
        seeds=tuple(range(own or preset.seeds)),
        needs=tuple(needs),
    )


def with_init(kind: Trained, init: str | None) -> Trained:
    """The settings of a training that starts from `init`, by default from its own; `tiny` becomes an experiment. Raises
    ReproError for an unknown one."""
    init = init or kind.init
    if init == "tiny":
        init = _pretraining_of(kind)
    if init not in PLAIN_INITS and init not in all_presets():
        raise unknown_name("init", init, (*all_presets(), *PLAIN_INITS, "tiny"))
    return msgspec.structs.replace(kind, init=init)


def _chain_of(preset: Preset, profile: str) -> list[str]:
    """The preset's name and those of the presets it starts from."""
    known = all_presets()
    above = [known[name] for name in preset.configs[profile].needs() if name in known]
    return [preset.name, *(name for each in above for name in _chain_of(each, profile))]


def _pretraining_of(kind: Training) -> str:
    """The preset that pretrains a network's backbone on Tiny-ImageNet, at its width: what init `tiny` means."""
    name = kind.network.name
    backbone = architecture(name).backbone
    if not backbone:
        raise ReproError(f"{name} has no backbone to pretrain on Tiny-ImageNet", "use --init random")
    for preset in all_presets().values():
        its = next(iter(preset.configs.values()))
        if not isinstance(its, Training) or its.data.name != "tiny_imagenet":
            continue
        has = (its.network.name, its.network.width, its.network.depth)
        if has == (backbone, kind.network.width, kind.network.depth):
            return preset.name
    raise ReproError(
        f"no pretraining on Tiny-ImageNet has {name}'s width of {kind.network.width:g}", "use --init random"
    )


def plan(
    names: tuple[str, ...],
    profile: str | None,
    seeds: int | None,
    init: str | None,
    backend: str | None,
    compile: str | None = None,
) -> list[Task]:
    """The tasks that names (or a whole profile) stand for, with the experiments they start from.

    Raises ReproError for names, profiles, inits and backends that do not exist or do not fit."""
    choose(names, profile, "smoke")  # a misspelt name should not wait for the preflight
    backend, accelerated, compile = prepare(backend, compile)
    tasks: dict[str, Task] = {}
    for preset, its_profile in choose(names, profile, preflight.profile_for(accelerated)):
        job = job_for(preset, its_profile, backend, seeds, init, compile)
        for each in _with_needs(job):
            known = all_presets()[each.experiment]
            task = Task(job=each, value=known.value, seconds=known.seconds[its_profile])
            # a preset reached twice is one task, with the larger number of seeds
            before = tasks.get(each.experiment)
            if before is None or len(each.seeds) > len(before.job.seeds):
                tasks[each.experiment] = task
    return list(tasks.values())


def prepare(backend: str | None, compile: str | None) -> tuple[str, bool, str | None]:
    """(backend, accelerated, compile) of trainings here: on an accelerator by XLA unless asked for otherwise."""
    backend, accelerated, remarks = preflight.choose(backend)
    for remark in remarks:
        print(f"preflight: {remark}")
    return backend, accelerated, compile or ("xla" if accelerated else None)


def _with_needs(job: Job) -> list[Job]:
    """A job after all that it needs."""
    return [*(each for need in job.needs for each in _with_needs(need)), job]
