"""Looking presets up: by name, glob and profile."""

import fnmatch

from repro.errors import ReproError, unknown_name
from repro.presets import PRESETS
from repro.presets.base import PROFILES, Preset


def all_presets() -> dict[str, Preset]:
    """Every preset by name, in the order they run without a budget."""
    return {preset.name: preset for preset in PRESETS}


def choose(patterns: tuple[str, ...], profile: str | None, default: str) -> list[tuple[Preset, str]]:
    """The presets that names and globs select, each with its profile; without patterns, all of the profile.

    Raises ReproError for a pattern that fits nothing and for a preset without the profile asked for."""
    known = all_presets()
    if not patterns:
        wanted = profile or default
        return [(preset, wanted) for preset in PRESETS if wanted in preset.configs]
    chosen: dict[str, str] = {}
    for pattern in patterns:
        names = fnmatch.filter(known, pattern)
        if not names:
            raise unknown_name("experiment", pattern, known)
        fitting = {name: _profile_for(known[name], profile, default, name == pattern) for name in names}
        if not any(fitting.values()):
            raise ReproError(f"no experiment of {pattern} has a {profile} profile", "see `repro list experiments`")
        chosen |= {name: its_profile for name, its_profile in fitting.items() if its_profile}
    return [(preset, chosen[name]) for name, preset in known.items() if name in chosen]


def _profile_for(preset: Preset, asked: str | None, default: str, exact: bool) -> str | None:
    if asked is None:
        return default if default in preset.configs else next(p for p in PROFILES if p in preset.configs)
    if asked in preset.configs:
        return asked
    if exact:
        has = " or ".join(f"--profile {p}" for p in PROFILES if p in preset.configs)
        raise ReproError(f"experiment {preset.name} has no {asked} profile", f"use {has}")
    return None
