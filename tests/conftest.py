"""What all tests share: TensorFlow unless KERAS_BACKEND says otherwise, and folders of their own."""

import gc
import os

import pytest
from hypothesis import settings

from repro import backend
from tests.parity.worker import Worker, compute

# before these are imported: what they assert is explained as it is in a test
pytest.register_assert_rewrite("tests.support")

backend.select()
settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def weightless():
    """Calls a function that builds a network of any size, without the memory of its weights."""
    import keras

    def build(function, *names, **settings):
        with keras.StatelessScope(initialize_variables=False):
            return function(*names, **settings)

    yield build
    # Keras remembers variables without values, and would give them some at the end of its next stateless scope
    keras.utils.clear_session(free_memory=False)


@pytest.fixture(autouse=True)
def own_folders(monkeypatch, tmp_path):
    """No test reads the clone's data or writes its results."""
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("REPRO_CACHE", raising=False)


@pytest.fixture(autouse=True, scope="module")
def _memory():
    """Networks and programs of one file of tests do not outlive it: together they would fill the machine."""
    yield
    backend.forward.cache_clear()
    gc.collect()


@pytest.fixture(scope="session")
def computed(tmp_path_factory):
    """Gives what a backend computes of a module of cases (`parity.worker.compute`), here or in the process of the
    other one: call it with the backend's name, the cases' and what they take."""
    folder, here = tmp_path_factory.mktemp("backends"), {}
    workers = {name: Worker(name, folder) for name in backend.installed() if name != backend.name()}

    def find(name, group, arrays=None):
        if name == backend.name():
            if group not in here:
                here[group] = compute(group, arrays or {})
            return here[group]
        if name not in workers:
            pytest.skip(f"{name} is not installed")
        return workers[name].compute(group, arrays)

    yield find
    for worker in workers.values():
        worker.close()
