"""`repro cite`: how to refer to one result."""

from pathlib import Path

from repro import __version__, paths
from repro.errors import ReproError, unknown_name
from repro.facts import papers
from repro.records.result import Result, read_result
from repro.registry import ARCHITECTURES


def find_result(name: str) -> Result:
    """A result by its run id, its `experiment/run id` or its path. Raises ReproError when there is none or several."""
    path = Path(name)
    if path.suffix == ".json" and path.exists():
        return read_result(path)
    stem = path.name.removesuffix(".json")
    found = sorted(paths.results_dir().glob(f"{path.parent.name or '*'}/{stem}.json"))
    if not found:
        raise unknown_name("result", stem, [path.stem for path in paths.results_dir().glob("*/*.json")])
    if len(found) > 1:
        choices = " or ".join(f"{path.parent.name}/{path.stem}" for path in found)
        raise ReproError(f"{len(found)} results are called {stem}", f"name {choices}")
    return read_result(found[0])


def cite(name: str) -> str:
    """A sentence that says what the result is and where it came from, and the BibTeX key of its paper."""
    result = find_result(name)
    data = ""
    if result.dataset:
        copy = "" if result.dataset.official else f", {result.dataset.note}"
        data = f" on {result.dataset.name} {result.dataset.split} (fingerprint {result.dataset.fingerprint}{copy})"
    device = result.machine.accelerator if result.machine.accelerator != "none" else result.machine.cpu
    lines = [
        f"Repro {__version__}, result {result.experiment}/{result.run_id} ({result.kind} of {result.model}{data}; "
        f"scale {result.scale}, seed {result.seed}; {result.backend}, {result.precision}, {device}; "
        f"commit {result.commit[:12]}{' with local changes' if result.dirty else ''}, {result.started[:10]})."
    ]
    if result.model in ARCHITECTURES:
        paper = papers()[ARCHITECTURES[result.model].paper]
        lines.append(f"The method: {paper.title} ({paper.year}), key {paper.bibtex_key} in repro/papers.bib.")
    return "\n".join(lines)
