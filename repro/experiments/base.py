"""What a preset is, and the table of all of them."""

import fnmatch
import functools
from dataclasses import dataclass

import msgspec

from repro.errors import ReproError, unknown_name
from repro.harness.config import AnyConfig, Gallery, Train
from repro.harness.run import Job
from repro.registry import architecture

PROFILES = ("smoke", "lab", "paper")
# starts that are no other experiment's weights
PLAIN_INITS = ("random", "imagenet")
# the optimizer of the suite's own recipes
ADAMW = dict(
    recipe="suite", optimizer="adamw", weight_decay=1e-4, schedule="cosine", warmup=0.05, clip_norm=1.0,
)  # fmt: skip


@dataclass(frozen=True)
class Experiment:
    """A preset. `configs` by profile (absent: not part of it); `value` orders work under a budget; `seconds` is
    what one seed costs by profile (smoke: on 2 CPU cores; lab and paper: on one GPU) until this machine has run it.
    `by_name`: run only when named, since it repeats another preset for a machine without an accelerator."""

    name: str
    about: str
    configs: dict[str, AnyConfig]
    value: int
    seconds: dict[str, float]
    seeds: int = 1
    by_name: bool = False


@functools.cache
def all_experiments() -> dict[str, Experiment]:
    """Every preset by name, in the order they run without a budget."""
    from repro.experiments import classification, detection, instance, segmentation, speed, yolo

    presets = [*speed.PRESETS[:1], *classification.PRESETS, *segmentation.PRESETS, *detection.PRESETS]
    presets += [*yolo.PRESETS, *instance.PRESETS]
    presets += speed.PRESETS[1:]
    return {preset.name: preset for preset in presets}


def choose(patterns: tuple[str, ...], profile: str | None, default: str) -> list[tuple[Experiment, str]]:
    """The presets that names and globs select, each with its profile; without patterns, all of the profile.

    Raises ReproError for a pattern that fits nothing and for a preset without the profile asked for."""
    known = all_experiments()
    if not patterns:
        wanted = profile or default
        return [(e, wanted) for e in known.values() if wanted in e.configs and not e.by_name]
    chosen = []
    for pattern in patterns:
        names = fnmatch.filter(known, pattern)
        if not names:
            raise unknown_name("experiment", pattern, known)
        fitting = [(known[name], _profile_for(known[name], profile, default, name == pattern)) for name in names]
        if not any(its_profile for _, its_profile in fitting):
            raise ReproError(f"no experiment of {pattern} has a {profile} profile", "see `repro list experiments`")
        chosen += fitting
    unique = {experiment.name: (experiment, p) for experiment, p in chosen if p}
    return [unique[name] for name in known if name in unique]


def _profile_for(experiment: Experiment, asked: str | None, default: str, exact: bool) -> str | None:
    if asked is None:
        return default if default in experiment.configs else next(p for p in PROFILES if p in experiment.configs)
    if asked in experiment.configs:
        return asked
    if exact:
        has = " or ".join(f"--profile {p}" for p in PROFILES if p in experiment.configs)
        raise ReproError(f"experiment {experiment.name} has no {asked} profile", f"use {has}")
    return None


def _chain_of(experiment: Experiment, profile: str) -> list[str]:
    """The preset's name and those of the presets it starts from."""
    start = getattr(experiment.configs[profile], "init", None)
    known = all_experiments()
    return [experiment.name, *(_chain_of(known[start], profile) if start in known else ())]


def _pretraining_of(config: Train) -> str:
    """The preset that pretrains a network's backbone on Tiny-ImageNet, at its width: what init `tiny` means."""
    name = config.network.name
    backbone = architecture(name).backbone
    if not backbone:
        raise ReproError(f"{name} has no backbone to pretrain on Tiny-ImageNet", "use --init random")
    for preset in all_experiments().values():
        its = next(iter(preset.configs.values()))
        if not isinstance(its, Train) or its.data.name != "tiny_imagenet":
            continue
        has = (its.network.name, its.network.width, its.network.depth)
        if has == (backbone, config.network.width, config.network.depth):
            return preset.name
    raise ReproError(
        f"no pretraining on Tiny-ImageNet has {name}'s width of {config.network.width:g}", "use --init random"
    )


def job_for(
    experiment: Experiment, profile: str, backend: str, seeds: int | None = None, init: str | None = None
) -> Job:
    """The job of a preset, with those of the presets it needs above it. Raises ReproError for a bad init."""
    config = experiment.configs[profile]
    parent = None
    if isinstance(config, Train):
        if init is not None:
            config = msgspec.structs.replace(config, init=init)
        if config.init == "tiny":
            config = msgspec.structs.replace(config, init=_pretraining_of(config))
        if config.init not in PLAIN_INITS:
            known = all_experiments()
            if config.init not in known:
                raise unknown_name("init", config.init, (*known, *PLAIN_INITS, "tiny"))
            source = known[config.init]
            if profile not in source.configs or experiment.name in _chain_of(source, profile):
                raise ReproError(f"{experiment.name} cannot start from {source.name}", "choose another --init")
            parent = job_for(source, profile, backend, seeds)
    others = ()
    if isinstance(config, Gallery):
        others = tuple(job_for(all_experiments()[name], profile, backend) for name in config.members)
    count = seeds if seeds is not None else experiment.seeds
    numbers = list(range(count)) if isinstance(config, Train) else list(range(experiment.seeds))
    return Job(
        experiment=experiment.name,
        config=config,
        profile=profile,
        backend=backend,
        seeds=numbers,
        parent=parent,
        others=others,
    )
