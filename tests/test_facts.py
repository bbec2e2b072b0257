"""The ledger of claims, the papers and their figures."""

import re
from pathlib import Path

import pytest

from repro import facts
from repro.errors import ReproError


def test_the_ledger_is_complete():
    claims = facts.claims()
    verdicts = [claim.literature_verdict for claim in claims]
    assert len(claims) == len({claim.id for claim in claims}) == len({claim.slug for claim in claims}) == 175
    assert [verdicts.count(word) for word in ("correct", "imprecise", "wrong")] == [106, 52, 17]
    assert all(claim.correct_statement for claim in claims if claim.literature_verdict == "wrong")
    assert {paper for claim in claims for paper in claim.papers} <= set(facts.papers())


def test_every_paper_can_be_cited():
    bibliography = (Path(facts.__file__).parent / "papers.bib").read_text()
    assert len(facts.papers()) == 14
    for paper in facts.papers().values():
        entry = re.search(rf"@\w+\{{{paper.bibtex_key},(.*?)\n\}}", bibliography, re.DOTALL)
        assert entry, paper.bibtex_key
        assert paper.arxiv in entry.group(1)


def test_facts_are_found_by_name_and_errors_by_their_accuracy():
    assert facts.paper_value("fcn", "fcn8s.latency").value == 175
    with pytest.raises(ReproError, match=r"fcn8s\.params"):
        facts.paper_value("fcn", "fcn8s.parms")
    with pytest.raises(ReproError, match="unknown paper"):
        facts.paper_value("fnc", "fcn8s.params")
    best = facts.published("vgg16", "imagenet2012", "val")[0]
    assert (best.percent("top1"), best.percent("top5"), best.percent("mean_iou")) == (73.0, 91.2, None)
