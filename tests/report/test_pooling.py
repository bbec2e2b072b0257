"""Seeds pooled over machines, and whether machines agree."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro.report import pooling
from tests.support.results import machine, result, scores


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=12))
def test_estimate_is_the_mean_of_seed_means(pairs):
    runs = [result(f"r{i}", seed=seed, metrics={"x": value}) for i, (seed, value) in enumerate(pairs)]
    found = pooling.estimate(runs, lambda r: r.metrics["x"])
    means = [np.mean([v for s, v in pairs if s == seed]) for seed in sorted({s for s, _ in pairs})]
    assert found.mean == pytest.approx(np.mean(means))
    assert found.n == len(means)
    assert found.std == (pytest.approx(np.std(means, ddof=1), abs=1e-9) if len(means) > 1 else None)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([0.5, 0.5], [], ""),
        ([0.5], [0.5], "agree"),
        ([0.5], [0.6], "undecided"),
        ([0.50, 0.52], [0.51, 0.53], "agree"),
        ([0.50, 0.51], [0.60, 0.61], "differ"),
    ],
)
def test_machines_agree_differ_or_stay_undecided(first, second, verdict):
    runs = [
        result(f"{name}-{seed}", seed=seed, machine=machine(name), metrics=scores(value))
        for name, values in (("m1", first), ("m2", second))
        for seed, value in enumerate(values)
    ]
    assert pooling.agreement(runs, "mean_iou") == verdict
