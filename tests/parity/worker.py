"""A process of another backend, which computes what the tests compare: `python -m tests.parity.worker BACKEND`.

It is started once and imports its backend once. A line `GROUP IN.npz OUT.npz` on its input asks for what a module of
cases (or MODULE/CASE, for one of them) computes of some arrays; each is answered by `done`, or by `failed` and a
traceback among the errors.
"""

import gc
import importlib
import os
import subprocess
import sys
import traceback
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]


class Worker:
    """The other end: starts the process when it is first asked, on the CPU."""

    def __init__(self, backend: str, folder: Path) -> None:
        self.backend, self.folder, self.process, self.found = backend, folder, None, {}

    def compute(self, group: str, arrays: dict[str, np.ndarray] | None = None) -> dict[str, np.ndarray]:
        """What `compute` of a module of cases, or of one of them ("module/case"), gives there of these arrays, the same
        ones at each call."""
        if group not in self.found:
            self.found[group] = self._ask(group, arrays or {})
        return self.found[group]

    def _ask(self, group: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        log = self.folder / f"{self.backend}.log"
        if self.process is None:
            chosen = {"KERAS_BACKEND": self.backend, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}
            # what is compiled runs once, so that optimising it costs more than it saves
            chosen["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
            self.process = subprocess.Popen(
                [sys.executable, "-m", __spec__.name, self.backend], env={**os.environ, **chosen}, cwd=ROOT,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log.open("wb"), text=True,
            )  # fmt: skip
        given, out = (self.folder / f"{self.backend}-{end}.npz" for end in ("in", "out"))
        np.savez(given, **arrays)
        print(group, given, out, sep="\t", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        assert answer == "done\n", f"{self.backend} failed at {group}:\n{log.read_text(errors='replace')[-3000:]}"
        with np.load(out) as found:
            return dict(found)

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.communicate()


def compute(group: str, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a module of cases, or one of them, gives here."""
    module, _, case = group.partition("/")
    return importlib.import_module(f"tests.parity.{module}").compute(arrays, *[case] * bool(case))


def start_from_numpy() -> None:
    """Let NumPy draw what fresh layers start from, and every case overwrites: JAX compiles a program for each shape."""
    from keras.src.backend import random

    def draw(shape, mean=0.0, stddev=1.0, dtype="float32", seed=None):
        return np.random.default_rng(0).normal(mean, stddev, shape).astype(dtype)

    random.truncated_normal = draw


def main() -> None:
    """Answer until the input ends."""
    from repro import backend

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    backend.select(sys.argv[1])
    backend.set_precision("float32")
    start_from_numpy()
    for line in sys.stdin:
        group, given, out = line.rstrip("\n").split("\t")
        try:
            np.savez(out, **compute(group, dict(np.load(given))))
            print("done", file=answers, flush=True)
        except Exception:
            traceback.print_exc()
            print("failed", file=answers, flush=True)
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        gc.collect()


if __name__ == "__main__":
    main()
