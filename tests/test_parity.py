"""TensorFlow and JAX, eager and compiled, compute the same: outputs, losses, gradients and every shared op."""

import numpy as np
import pytest

from tests.parity.networks import CASES, MODES, NETWORK_MODES, OPS, STEP_CASES

TOLERANCE = 1e-4
REFERENCE = ("tensorflow", "eager")
COMPARISONS = [
    pytest.param(case, name, mode, marks=() if case in OPS else pytest.mark.slow, id=f"{case}-{name}-{mode}")
    for cases, modes_of in ((OPS, MODES), ((*CASES, *(f"{case}-step" for case in STEP_CASES)), NETWORK_MODES))
    for case in cases
    for name, modes in modes_of.items()
    for mode in modes
    if (name, mode) != REFERENCE
]


@pytest.mark.parametrize(("case", "name", "mode"), COMPARISONS)
def test_agrees_with_tensorflow_eager(computed, case, name, mode):
    found = quantities(computed(name, f"networks/{case}"), f"{mode}/")
    expected = quantities(computed(REFERENCE[0], f"networks/{case}"), f"{REFERENCE[1]}/")
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
