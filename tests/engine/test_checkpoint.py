"""Weight files, and the state of a training: what is saved by one process fits the same network in another, and nothing
else."""

import keras
import numpy as np
import pytest

from repro.engine import checkpoint
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


def test_arrays_and_card_survive_a_weight_file(tmp_path):
    arrays = {"a/kernel": np.arange(6, dtype="float32").reshape(2, 3).T, "seed": np.array([1, 2], "uint32")}
    checkpoint.save_arrays(tmp_path / "w.safetensors", arrays, {"model": "vgg16"})
    loaded, card = checkpoint.load_arrays(tmp_path / "w.safetensors")
    assert card == {"model": "vgg16"}
    assert loaded.keys() == arrays.keys()
    assert all(np.array_equal(loaded[key], arrays[key]) and loaded[key].dtype == arrays[key].dtype for key in arrays)


@pytest.mark.parametrize("content", [b"", b"not safetensors", None])
def test_a_damaged_weight_file_is_refused(tmp_path, content):
    path = tmp_path / "w.safetensors"
    if content is None:
        checkpoint.save_arrays(path, {"a": np.zeros(1000, "float32")}, {})
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(ReproError, match=str(path)):
        checkpoint.load_arrays(path)


def test_weights_of_another_network_are_refused_unless_only_what_fits_is_wanted():
    import keras

    def network(units):
        return keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(units, name="b")]
        )

    source, target = network(2), network(5)
    weights = checkpoint.weights_of(source)
    with pytest.raises(ReproError, match=r"b/kernel has shape \(4, 5\), the file has shape \(4, 2\)"):
        checkpoint.load_weights(target, weights, "w.safetensors")
    assert checkpoint.load_weights(target, weights, "w.safetensors", partial=True) == 2
    np.testing.assert_array_equal(target.get_layer("a").get_weights()[0], weights["a/kernel"])
    with pytest.raises(ReproError, match="no weight that fits"):
        checkpoint.load_weights(target, {"z/kernel": np.zeros(3)}, "w.safetensors", partial=True)
