"""`repro list`: what there is."""

from typing import Any

import msgspec
from tabulate import tabulate

from repro import paths
from repro.data.catalog import LOADERS, dataset_class
from repro.facts import claims
from repro.presets import PRESETS
from repro.presets.base import PROFILES
from repro.registry import ARCHITECTURES


def listing(what: str) -> list[dict[str, Any]]:
    """One dict an entry: models, datasets, experiments, claims or tables."""
    make = {"models": _models, "datasets": _datasets, "experiments": _experiments, "claims": _claims, "tables": _tables}
    return make[what]()


def show(what: str) -> str:
    """The same as a table to read: the most telling columns, long texts cut."""
    rows = []
    for entry in listing(what):
        flat = {key: ", ".join(map(str, v)) if isinstance(v, list) else v for key, v in entry.items()}
        rows.append({key: _cut(value) for key, value in flat.items() if not isinstance(value, dict)})
    return tabulate(rows, headers="keys") if rows else f"no {what} yet"


def _cut(value: Any, length: int = 60) -> Any:
    return f"{value[: length - 1]}…" if isinstance(value, str) and len(value) > length else value


def _models() -> list[dict[str, Any]]:
    return [
        {
            "name": entry.name,
            "task": entry.task,
            "paper": entry.paper,
            "input": [*entry.input_size, entry.channels],
            "classes": entry.num_classes,
            "variants": list(entry.variants),
        }
        for entry in ARCHITECTURES.values()
    ]


def _datasets() -> list[dict[str, Any]]:
    fields = ("name", "title", "tasks", "splits", "size", "licence", "source", "checksum", "manual")
    cards = (dataset_class(name).info for name in LOADERS)
    rows = ({field: getattr(info, field) for field in fields} for info in cards)
    return [{key: list(v) if isinstance(v, tuple) else v for key, v in row.items()} for row in rows]


def _experiments() -> list[dict[str, Any]]:
    return [
        {
            "name": preset.name,
            "profiles": [profile for profile in PROFILES if profile in preset.configs],
            "seeds": preset.seeds,
            "about": preset.about,
        }
        for preset in PRESETS
    ]


def _claims() -> list[dict[str, Any]]:
    return [msgspec.to_builtins(claim) for claim in claims()]


def _tables() -> list[dict[str, Any]]:
    files = sorted(paths.tables_dir().glob("*.md"))
    return [{"name": path.stem, "file": f"tables/{path.name}"} for path in files if path.stem != "README"]
