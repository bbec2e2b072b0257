"""A new kind of experiment is one file and one line of the list: it is planned, runs, and has its table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from repro import backend
from repro.records.result import read_results

# what the lines of the two lists would do, in every process of the suite
SITE = """
from repro.experiments import KINDS
from repro.presets import PRESETS
from toy_kind import PRESET, Toy

KINDS.append(Toy)
PRESETS.append(PRESET)
"""


@pytest.fixture
def repro(tmp_path):
    """Runs a command line in a process of its own that knows the toy; returns its output."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITE)
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, (site, here, here.parents[1]))),
        "KERAS_BACKEND": "jax" if "jax" in backend.installed() else "tensorflow",
        "CUDA_VISIBLE_DEVICES": "",
    }

    def run(*arguments: str) -> str:
        command = [sys.executable, "-m", "repro", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    return run


def test_a_kind_of_ones_own_is_listed_run_and_shown(repro, tmp_path):
    (entry,) = (each for each in json.loads(repro("list", "experiments", "--json")) if each["name"] == "toy")
    assert (entry["profiles"], entry["seeds"]) == (["smoke"], 2)
    assert "1 ok" in repro("run", "toy", "--profile", "smoke")
    results = read_results(tmp_path / "results")
    assert [(r.kind, r.model, r.seed, r.metrics) for r in results] == [
        ("inspect", "toy", 0, {"square": 1_522_756}),
        ("inspect", "toy", 1, {"square": 1_522_757}),
    ]
    assert all(result.versions == {"toy_kind": 1} for result in results)
    text = (tmp_path / "tables" / "toy.md").read_text()
    assert text.count("# Toys") == 1
    assert "1522756" in text
    assert "What becomes of a number." in text
    assert "toy.md" in (tmp_path / "tables" / "README.md").read_text()
    assert "tables/ are what results/ yield" in repro("tables", "--check")
    assert "finished" in repro("run", "toy", "--profile", "smoke", "--dry-run")
