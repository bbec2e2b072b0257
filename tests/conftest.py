"""What all tests share: TensorFlow unless KERAS_BACKEND says otherwise, and folders of their own."""

import gc
import os

import pytest
from hypothesis import settings

from repro import backend

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
