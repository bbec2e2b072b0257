"""The suite as a whole: killed anywhere, it goes on to the same numbers; it works where only JAX is installed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from repro import backend
from repro.engine.checkpoint import load_arrays
from repro.records.result import read_results

SMALL_SUITE = Path(__file__).parent / "support" / "small_suite.py"


def _start(results: Path) -> subprocess.Popen:
    # a session of its own, so that the kill reaches the suite and whatever it has started
    command = [sys.executable, str(SMALL_SUITE), str(results), os.environ["KERAS_BACKEND"]]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _finish(results: Path) -> str:
    process = _start(results)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def _progress(results: Path) -> int:
    """Something that grows: how many files the suite has written so far."""
    return sum(1 for path in results.parent.rglob("*") if path.suffix in (".json", ".safetensors", ".png"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    _finish(results)
    return results


def _accuracy(results: Path) -> dict:
    return {
        result.experiment: (
            {key: value for key, value in result.metrics.items() if key != "peak_memory_mib"},
            result.history.get("loss"),
            result.history.get("val_mean_iou"),
        )
        for result in read_results(results)
        if result.kind in ("train", "eval")
    }


def _timing_cells(results: Path) -> set:
    return {(result.experiment, name) for result in read_results(results) for name in result.timings}


def _weights(results: Path) -> dict:
    paths = (results.parent / "runs").rglob("weights.safetensors")
    return {path.parents[1].name: load_arrays(path)[0] for path in paths}


@pytest.mark.slow
def test_killed_at_several_points_it_ends_with_the_same_numbers(undisturbed, tmp_path):
    results = tmp_path / "killed" / "results"
    chance = random.Random(0)
    kills = 0
    for _ in range(5):
        process = _start(results)
        seen, deadline = _progress(results), time.monotonic() + 120
        # let it write something new, then strike at a moment of no significance
        while process.poll() is None and _progress(results) == seen and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(chance.uniform(0, 0.6))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
        process.stdout.close()
    assert kills >= 3
    _finish(results)
    assert _accuracy(results) == _accuracy(undisturbed)
    assert _timing_cells(results) == _timing_cells(undisturbed)
    killed, whole = _weights(results), _weights(undisturbed)
    assert killed.keys() == whole.keys()
    for experiment in whole:
        for name, array in whole[experiment].items():
            np.testing.assert_array_equal(killed[experiment][name], array, err_msg=f"{experiment} {name}")


def test_a_finished_suite_is_not_run_again(undisturbed):
    before = {result.run_id: result.started for result in read_results(undisturbed)}
    output = _finish(undisturbed)
    assert output.count("finished") == 4
    assert {result.run_id: result.started for result in read_results(undisturbed)} == before


@pytest.mark.slow
def test_lost_weights_are_trained_again_for_the_run_that_needs_them(undisturbed):
    """FCN-16s must be redone and starts from FCN-32s, whose result is there but whose weights are gone."""
    child = next(result for result in read_results(undisturbed) if result.experiment == "small-fcn16s")
    parent = next(result for result in read_results(undisturbed) if result.experiment == "small-fcn32s")
    (undisturbed / "small-fcn16s" / f"{child.run_id}.json").unlink()
    weights = undisturbed.parent / "runs" / "small-fcn32s" / parent.run_id / "weights.safetensors"
    weights.unlink()
    output = _finish(undisturbed)
    assert "'small-fcn32s': 'ok', 'small-fcn16s': 'ok'" in output
    again = [result for result in read_results(undisturbed) if result.experiment == "small-fcn16s"]
    assert [result.metrics for result in again] == [child.metrics]
    assert again[0].depends_on[0].startswith("small-fcn32s/")
    assert again[0].metrics["chain_images_seen"] == 2 * parent.metrics["chain_images_seen"]


_ONLY_JAX = """
import sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "tensorflow_datasets", "keras_cv"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
import importlib, importlib.util, pkgutil
real = importlib.util.find_spec
def find_spec(name, package=None):
    return None if name in ("tensorflow", "tensorflow_datasets", "keras_cv") else real(name, package)
importlib.util.find_spec = find_spec
from repro import backend
print(backend.select())
import repro
names = [m.name for m in pkgutil.walk_packages(repro.__path__, "repro.") if not m.name.endswith("__main__")]
for name in names:
    importlib.import_module(name)
print(len(names))
from repro.experiments.architectures import describe
print(describe("fcn8s")["params"])
"""


@pytest.mark.skipif("jax" not in backend.installed(), reason="JAX is not installed")
def test_every_module_imports_where_only_jax_is_installed():
    environment = {key: value for key, value in os.environ.items() if key != "KERAS_BACKEND"}
    done = subprocess.run([sys.executable, "-c", _ONLY_JAX], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    chosen, modules, params = done.stdout.split()
    assert (chosen, params) == ("jax", "134489759")
    assert int(modules) > 30


def test_results_of_the_clone_are_readable_and_named_after_their_experiments():
    """The committed results, whatever they are, hold no path of the machine they were made on."""
    clone = Path(__file__).resolve().parents[1] / "results"
    for result in read_results(clone):
        text = json.dumps(result.config) + (result.error or "")
        assert str(Path.home()) not in text
        assert result.status == "ok"
