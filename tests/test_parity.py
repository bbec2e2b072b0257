"""TensorFlow and JAX, eager and compiled, compute the same: outputs, losses, gradients and every shared op."""

import os
import subprocess
import sys

import numpy as np
import pytest

from repro import backend
from tests.parity import ROOT, WORKERS
from tests.parity.parity_worker import CASES, MODES, OPS, STEP_CASES, STEP_MODES

TOLERANCE = 1e-4
REFERENCE = ("tensorflow", "eager")
COMPARISONS = [
    (case, name, mode)
    for cases, modes_of in (((*CASES, *OPS), MODES), ([f"{case}-step" for case in STEP_CASES], STEP_MODES))
    for case in cases
    for name, modes in modes_of.items()
    for mode in modes
    if (name, mode) != REFERENCE
]


@pytest.fixture(scope="session")
def computed(tmp_path_factory):
    """What every installed backend computes on the CPU: {backend: {key: array}}. The workers run side by side."""
    folder = tmp_path_factory.mktemp("parity")
    cpu = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    workers = {
        name: subprocess.Popen(
            [sys.executable, WORKERS / "parity_worker.py", name, folder / f"{name}.npz"],
            env=cpu, stdout=subprocess.DEVNULL, stderr=(folder / f"{name}.log").open("wb"),
        )
        for name in backend.installed()
    }  # fmt: skip
    for name, status in {name: worker.wait() for name, worker in workers.items()}.items():
        assert status == 0, f"the {name} worker failed:\n{(folder / f'{name}.log').read_text()[-3000:]}"
    return {name: dict(np.load(folder / f"{name}.npz")) for name in workers}


@pytest.mark.parametrize(("case", "name", "mode"), COMPARISONS, ids=["-".join(row) for row in COMPARISONS])
def test_agrees_with_tensorflow_eager(computed, case, name, mode):
    for needed in {name, REFERENCE[0]}:
        if needed not in computed:
            pytest.skip(f"{needed} is not installed")
    found = quantities(computed[name], f"{case}/{mode}/")
    expected = quantities(computed[REFERENCE[0]], f"{case}/{REFERENCE[1]}/")
    assert found.keys() == expected.keys() != set()
    errors, scales = {}, {}
    for key, b in expected.items():
        assert (found[key].shape, found[key].dtype) == (b.shape, b.dtype), key
        assert 0 < np.max(np.abs(b)) < np.inf, f"{key} proves nothing: its largest value is {np.max(np.abs(b))}"
        # within a layer: the gradient of a bias in front of a batch normalisation is zero but for rounding
        layer = key.rpartition("/")[0] or key
        scales[layer] = max(scales.get(layer, 0), np.max(np.abs(b)))
    for key, b in expected.items():
        scale = scales[key.rpartition("/")[0] or key]
        errors[key] = np.max(np.abs(found[key].astype("float64") - b)) / scale
    worst = max(errors, key=errors.get)
    assert errors[worst] < TOLERANCE, f"{worst} differs by {errors[worst]:.2g} of its largest value"


def quantities(arrays, prefix):
    return {key.removeprefix(prefix): array for key, array in arrays.items() if key.startswith(prefix)}
