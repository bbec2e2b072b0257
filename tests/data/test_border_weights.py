"""U-Net's weight map against a plain loop and by hand."""

import numpy as np
import pytest

from repro.data.border_weights import border_weights
from tests.reference.border_weights import border_reference


def cells(size=(40, 50), count=7, seed=0):
    """Discs on a background, some of them touching, numbered with gaps."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices(size)
    instances = np.zeros(size, "int32")
    for number in range(count):
        distance = np.hypot(rows - rng.uniform(0, size[0]), columns - rng.uniform(0, size[1]))
        instances[distance < rng.uniform(2, 7)] = 3 * number + 2
    return instances


@pytest.mark.parametrize(("w0", "sigma", "seed"), [(10.0, 5.0, 0), (10.0, 1.0, 1), (3.0, 2.0, 2), (0.0, 5.0, 3)])
def test_border_term_equals_a_plain_loop(w0, sigma, seed):
    instances = cells(seed=seed)
    found = border_weights(instances, w0, sigma, class_balance=False)
    assert found.dtype == "float32"
    np.testing.assert_allclose(found, 1 + border_reference(instances, w0, sigma), rtol=1e-6)
    assert (found[instances > 0] == 1).all()
    assert w0 == 0 or found.max() > 1.2


def test_border_weights_by_hand():
    # one column of background between two cells: d1 = d2 = 1
    instances = np.array([[1, 1, 0, 2, 2, 2]] * 4, "uint8")
    term = 10 * np.exp(-4 / 50)
    balance = np.where(instances == 0, 24 / (2 * 4), 24 / (2 * 20))
    np.testing.assert_allclose(border_weights(instances), balance + np.where(instances == 0, term, 0), rtol=1e-6)


def test_classes_weigh_the_same_in_all():
    instances = cells()
    weights = border_weights(instances, w0=0.0).astype("float64")
    assert weights[instances == 0].sum() == pytest.approx(instances.size / 2)
    assert weights[instances > 0].sum() == pytest.approx(instances.size / 2)


def test_maps_without_borders_have_no_border_term():
    alone = np.zeros((9, 9), "int64")
    assert (border_weights(alone) == 1).all()
    assert (border_weights(alone + 4) == 1).all()
    touching = np.repeat([[1], [2]], 5, axis=0)
    assert (border_weights(touching) == 1).all()
    alone[2:4, 2:4] = 7
    assert (border_weights(alone, class_balance=False) == 1).all()
    np.testing.assert_allclose(np.unique(border_weights(alone)), [81 / (2 * 77), 81 / (2 * 4)], rtol=1e-6)


@pytest.mark.parametrize(
    ("instances", "options"),
    [
        (np.ones((3, 3), bool), {}),
        (np.ones((3, 3)), {}),
        (np.ones((3, 3, 1), int), {}),
        (np.full((3, 3), -1), {}),
        (np.ones((3, 3), int), {"sigma": 0.0}),
        (np.ones((3, 3), int), {"w0": -1.0}),
    ],
)
def test_what_is_no_instance_map_is_refused(instances, options):
    with pytest.raises(ValueError, match=r"instances must be|w0 is"):
        border_weights(instances, **options)
