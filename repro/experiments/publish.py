"""`repro tables`: everything that is generated from results/, in one place."""

from pathlib import Path

from repro import paths
from repro.experiments.base import all_experiments
from repro.harness.config import (
    Anchors,
    DetectorSpeed,
    Gallery,
    Inspect,
    Lineage,
    Majority,
    MaskOverhead,
    Operations,
    Peer,
    Speed,
    network_of,
)
from repro.harness.record import Result, read_results
from repro.harness.run import current_code_hash
from repro.registry import architecture
from repro.report import gallery, generations, instance, readme, stages, tables
from repro.report.figures import Picture

_KINDS = {
    Speed: "speed", Lineage: "lineage", DetectorSpeed: "detector_speed", MaskOverhead: "mask_overhead",
    Anchors: "anchors", Operations: "operations",
    Peer: "peer", Gallery: "gallery", Inspect: "inspect",
}  # fmt: skip
# what stands in the place of a model's name where an experiment is not about one network
_ABOUT = {
    Majority: "majority", Lineage: "R-CNN line", DetectorSpeed: "detectors", Anchors: "k-means",
    Operations: "operations", Gallery: "gallery", MaskOverhead: "Mask R-CNN",
}  # fmt: skip


def expected() -> list[dict[str, str]]:
    """A row for each preset outside smoke: what its cell says while there is no result."""
    rows = []
    for experiment in all_experiments().values():
        config = next(iter(experiment.configs.values()))
        network, data = network_of(config), getattr(config, "data", None)
        task = getattr(config, "task", None) or (architecture(network.name).task if network else "")
        rows.append(
            {
                "experiment": experiment.name,
                "model": network.name if network else _ABOUT.get(type(config), "vgg16"),
                "task": _KINDS.get(type(config), task),
                "dataset": data.name if data else "",
                "status": "not run",
            }
        )
    return rows


def _readme() -> Path | None:
    """The README whose headline belongs to these tables: the clone's, unless results live elsewhere."""
    path = paths.tables_dir().parent / "README.md"
    return path if path.exists() else None


def _current(results: list[Result]):
    known: dict[str, str | None] = {}

    def lookup(result: Result) -> str | None:
        key = f"{result.config_hash} {result.kind}"
        if key not in known:
            known[key] = current_code_hash(result)
        return known[key]

    return lookup


def _pictures(results: list[Result]) -> tuple[dict[str, Picture], dict[str, Picture]]:
    """Galleries, stages of detectors, instances and generations by file name: to publish, and to keep here."""
    public, private = {}, {}
    for part in (gallery, stages, instance, generations):
        published, kept = part.pictures(results, paths.results_dir())
        public |= published
        private |= kept
    return public, private


def write_all() -> list[Path]:
    """Write tables, figures, galleries and the README's headline; returns the files that changed."""
    results = read_results(paths.results_dir())
    current = _current(results)
    public, private = _pictures(results)
    written = tables.write_tables(
        results, paths.tables_dir(), expected=expected(), current_code_hash=current, pictures=public
    )
    written += gallery.write_private(private, paths.runs_dir() / "gallery")
    if _readme() and readme.update_readme(_readme(), readme.headline(results, current_code_hash=current)):
        written.append(_readme())
    return written


def check_all() -> list[str]:
    """What differs between the generated files and what results/ yields, one line each."""
    results = read_results(paths.results_dir())
    current = _current(results)
    public, _ = _pictures(results)
    found = tables.check_tables(
        results, paths.tables_dir(), expected=expected(), current_code_hash=current, pictures=public
    )
    if _readme():
        found += readme.check_readme(_readme(), readme.headline(results, current_code_hash=current))
    return found
