"""Training state: what is saved by one process fits the same network in another, and nothing else."""

import keras
import numpy as np
import pytest

from repro.engine.checkpoint import load_arrays, restore, save_arrays, state_of
from repro.errors import ReproError
from repro.ops.dropout import HalfDropout
from repro.tasks.learners import state_variables


def _learner(units: int = 3) -> keras.Model:
    """A compiled network with state of every kind: weights, moments of an optimizer, a generator of dropout."""
    image = keras.Input((4,))
    x = HalfDropout(name="drop")(keras.layers.Dense(units, name="fc1_1")(image))
    model = keras.Model(image, keras.layers.Dense(1, name="fc2")(x))
    model.compile(optimizer=keras.optimizers.AdamW(0.1), loss="mse")
    return model


def test_a_run_goes_on_whatever_ran_before_it_in_its_process(tmp_path):
    _learner().train_on_batch(np.ones((2, 4)), np.ones((2, 1)))  # another seed, which took the first names
    learner = _learner()
    learner.train_on_batch(np.ones((2, 4)), np.ones((2, 1)))
    save_arrays(tmp_path / "checkpoint.safetensors", state_of(state_variables(learner)), {})

    keras.utils.clear_session()  # names count from the start again, as in a process of its own
    resumed = _learner()
    resumed.optimizer.build(resumed.trainable_variables)
    paths = [[variable.path for variable in state_variables(model)] for model in (learner, resumed)]
    assert paths[0] != paths[1]
    state, _ = load_arrays(tmp_path / "checkpoint.safetensors")
    restore(state_variables(resumed), state, "the checkpoint")
    for before, after in zip(state_variables(learner), state_variables(resumed), strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


def test_state_of_another_network_is_refused():
    learner, other = _learner(), _learner(units=5)
    for model in (learner, other):
        model.optimizer.build(model.trainable_variables)
    with pytest.raises(ReproError, match=r"the checkpoint does not fit: fc1_1/kernel has shape \(4, 5\)"):
        restore(state_variables(other), state_of(state_variables(learner)), "the checkpoint")
