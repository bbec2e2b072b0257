"""The command line, run in this process or in one of its own."""

import contextlib
import io
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from repro import backend
from repro.cli import run_cli
from repro.records import machine

# starts faster than TensorFlow
BACKEND = "jax" if "jax" in backend.installed() else "tensorflow"


@dataclass
class Answer:
    """What one command line did."""

    status: int
    out: str
    err: str


def repro(*arguments: object) -> Answer:
    """Run a command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = run_cli([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
    return Answer(status, out.getvalue(), err.getvalue())


def python(*arguments: object, **options) -> subprocess.CompletedProcess:
    """Run Python in a process of its own."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def assert_refused(answer: Answer, culprit: object, cure: str) -> None:
    """One line that names the culprit and the cure, and a status that says failure."""
    assert answer.status != 0
    assert answer.err.startswith("repro: ")
    assert len(answer.err.splitlines()) == 1, answer.err
    assert "Traceback" not in answer.err
    assert str(culprit) in answer.err
    assert cure in answer.err


def settle(patch: pytest.MonkeyPatch, folder: Path) -> None:
    """Keep results, runs and data of what follows in a folder; without a network there is no data in it."""
    patch.setenv("REPRO_RESULTS", str(folder / "results"))
    patch.setenv("REPRO_DATA", str(folder / "data"))
    patch.setenv("KERAS_BACKEND", BACKEND)
    patch.setenv("CUDA_VISIBLE_DEVICES", "")  # on the CPU equal weights give equal scores
    patch.setenv("JAX_COMPILATION_CACHE_DIR", str(folder.parent / "jax"))
    patch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    machine.capture.cache_clear()  # it names the folder
