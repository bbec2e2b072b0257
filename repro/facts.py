"""What the papers print and what the study note claims, read from `papers.toml` and `claims.toml`."""

import functools
from pathlib import Path
from typing import Any, Literal

import msgspec

from repro.errors import ReproError, unknown_name

Confidence = Literal["verified", "memory"]
_HERE = Path(__file__).parent


class Part(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """Base of everything read from the two files: a misspelt key is an error, not a silent gap."""


class Fact(Part, frozen=True):
    """One figure of a paper with its unit, where it stands and how sure we are of it."""

    value: Any
    unit: str
    source: str
    confidence: Confidence
    note: str = ""


class Score(Part, frozen=True):
    """One row of a published result table: metric -> value in `unit`, on one split of one data set.

    `models` are the architectures of this suite that the row may stand beside; `name` is the paper's own."""

    name: str
    models: list[str]
    dataset: str
    split: str
    value: dict[str, float]
    unit: str
    source: str
    confidence: Confidence
    config: str = ""
    note: str = ""

    def percent(self, metric: str) -> float | None:
        """A metric in percent, None where the paper has none. An error rate answers for its accuracy."""
        if metric in self.value:
            return self.value[metric]
        error = self.value.get(f"{metric}_error")
        return None if error is None else round(100 - error, 4)


class Paper(Part, frozen=True):
    """A paper: its citation, its facts by key, and its published scores."""

    bibtex_key: str
    title: str
    authors: list[str]
    venue: str
    year: int
    arxiv: str = ""
    arxiv_extended: str = ""
    facts: dict[str, Fact] = {}
    scores: list[Score] = []


class Check(Part, frozen=True):
    """How a claim is decided: by what kind of experiment, in which way, and what the figure must show."""

    type: Literal["unit_test", "benchmark", "ablation", "demo", "literature"]
    how: str
    metric: str


class Claim(Part, frozen=True):
    """A statement of the study note, how it is checked, and what the literature says of it."""

    id: str
    slug: str
    section: str
    quote: str
    kind: Literal["qualitative", "architecture", "metric-definition", "speed", "accuracy", "application"]
    check: Check
    source: str
    papers: list[str]
    literature_verdict: Literal["correct", "imprecise", "wrong"]
    paper_value: str = ""
    correct_statement: str = ""


class _Ledger(Part, frozen=True):
    claims: list[Claim]


def _read(name: str, kind: Any) -> Any:
    path = _HERE / name
    try:
        return msgspec.toml.decode(path.read_bytes(), type=kind)
    except (msgspec.DecodeError, OSError) as error:
        raise ReproError(f"{path} cannot be read: {error}", "restore it from the repository") from None


@functools.cache
def papers() -> dict[str, Paper]:
    """The fourteen papers by short name (`vgg16`, `fcn`, ...). Raises ReproError when the file is damaged."""
    return _read("papers.toml", dict[str, Paper])


@functools.cache
def claims() -> list[Claim]:
    """The ledger in the note's order. Raises ReproError when the file is damaged."""
    return _read("claims.toml", _Ledger).claims


def paper_value(paper: str, key: str) -> Fact:
    """One fact, such as `paper_value("fcn", "fcn8s.params")`. Raises ReproError for unknown names."""
    if paper not in papers():
        raise unknown_name("paper", paper, papers())
    facts = papers()[paper].facts
    if key not in facts:
        raise unknown_name(f"fact of {paper}", key, facts)
    return facts[key]


def find_fact(key: str) -> Fact | None:
    """The fact with this key in whichever paper has it, None when no paper has it."""
    return next((paper.facts[key] for paper in papers().values() if key in paper.facts), None)


def published(model: str, dataset: str, split: str) -> list[Score]:
    """Published scores that may stand beside a model on one split of the official data set, best match first.

    `val` and `validation` name the same split."""
    aliases = {split, "validation"} if split == "val" else {split}
    return [
        score
        for paper in papers().values()
        for score in paper.scores
        if model in score.models and score.dataset == dataset and score.split in aliases
    ]
