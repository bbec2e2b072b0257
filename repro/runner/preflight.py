"""Before anything runs: which backend works here, on what, and with XLA or not.

`python -m repro.runner.preflight BACKEND` tries one backend in a process of its own and prints what it found.
"""

import importlib.util
import json
import os
import subprocess
import sys
import time
from typing import Any

from repro import backend, paths
from repro.errors import ReproError
from repro.files import atomic_write, canonical_hash
from repro.records import machine


def check(name: str) -> dict:
    """`{"ok", "accelerators", "seconds", "error"}` of a backend, tried in a process of its own; remembered."""
    key = canonical_hash([name, machine.packages(), machine.capture().driver, os.environ.get("CUDA_VISIBLE_DEVICES")])
    path = paths.runs_dir() / "preflight" / f"{name}-{key}.json"
    if path.exists():
        return json.loads(path.read_text())
    command = [sys.executable, "-m", "repro.runner.preflight", name]
    environment = {**os.environ, "KERAS_BACKEND": name}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)
    lines = done.stdout.strip().splitlines()
    if done.returncode == 0 and lines:
        answer = {"ok": True, "error": "", **json.loads(lines[-1])}
        atomic_write(path, json.dumps(answer).encode())
        return answer
    error = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
    return {"ok": False, "accelerators": 0, "seconds": 0.0, "error": error[:300]}


def choose(wanted: str | None) -> tuple[str, bool, list[str]]:
    """(backend, accelerated, remarks). Without a wish: TensorFlow, unless only JAX can use the accelerator.

    Raises ReproError when the backend asked for, or every one, fails."""
    card = machine.capture().accelerator
    names = (wanted,) if wanted else (backend.default(), *(b for b in backend.installed() if b != backend.default()))
    remarks, working = [], []
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise ReproError(f"backend {name} is not installed", f"use {' or '.join(backend.installed())}")
        found = check(name)
        if not found["ok"]:
            remarks.append(f"{name} fails the preflight: {found['error']}")
            continue
        if found["accelerators"] or card == "none":
            return name, bool(found["accelerators"]), remarks
        remarks.append(f"{name} does not see the {card}")
        working.append(name)
    if working:
        remarks.append(f"going on with {working[0]} on the CPU; install the [gpu] or [jax-cuda] extra to use the card")
        return working[0], False, remarks
    raise ReproError("; ".join(remarks), "see `repro doctor`")


def profile_for(accelerated: bool) -> str:
    """The profile that runs by default."""
    return "gpu" if accelerated else "smoke"


def try_out() -> dict[str, Any]:
    """Compile and run what every experiment needs: a convolution's train step, and a while loop like NMS's.

    Returns `{"backend", "accelerators", "seconds"}`; raises whatever the backend raises."""
    import keras
    import numpy as np

    started = time.perf_counter()
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(4, 3), keras.layers.Flatten()])
    model.add(keras.layers.Dense(2))
    model.compile(optimizer="sgd", loss="mse", jit_compile=True)
    loss = model.train_on_batch(np.ones((2, 16, 16, 3), "float32"), np.ones((2, 2), "float32"))
    if not np.isfinite(loss):
        raise FloatingPointError(f"a convolution's train step gave a loss of {loss}")

    class FixedPoint(keras.layers.Layer):
        """Greedy suppression in miniature: iterate to the fixed point of a while loop."""

        def call(self, scores):
            ops = keras.ops
            beaten = ops.triu(ops.ones((8, 8), "bool"), k=1)

            def step(keep, before):
                return ~ops.any(beaten & keep[:, None], axis=0), keep

            start = (ops.ones((8,), "bool"), ops.zeros((8,), "bool"))
            keep, _ = ops.while_loop(lambda keep, before: ops.any(keep != before), step, start, maximum_iterations=9)
            return scores * ops.cast(keep, scores.dtype)

        def compute_output_shape(self, input_shape):
            return input_shape

    scores = keras.Input((8,))
    suppress = keras.Model(scores, FixedPoint()(scores))
    kept = keras.ops.convert_to_numpy(backend.forward(suppress, "xla")(backend.to_device(np.ones((1, 8), "float32"))))
    if kept.tolist() != [[1, 0, 0, 0, 0, 0, 0, 0]]:
        raise ArithmeticError(f"a compiled while loop gave {kept.tolist()}")
    return {
        "backend": backend.name(),
        "accelerators": backend.accelerator_count(),
        "seconds": round(time.perf_counter() - started, 2),
    }


if __name__ == "__main__":
    backend.select(sys.argv[1])
    print(json.dumps(try_out()))
