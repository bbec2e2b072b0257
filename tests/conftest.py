"""What all tests share: TensorFlow unless KERAS_BACKEND says otherwise, and folders of their own."""

import gc
import os

import pytest
from hypothesis import settings

from repro import backend
from tests.parity.worker import Worker, compute

# before these are imported: what they assert is explained as it is in a test
pytest.register_assert_rewrite("tests.support")

if "PYTEST_XDIST_WORKER" in os.environ:  # as many processes as cores, so a thread each
    os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"), "1")
backend.select()
settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


# files that take longest, the longest first: begun last, one of them would leave the other processes idle
LONGEST = (
    "tests/test_parity.py", "tests/test_suite.py", "tests/models/test_mask_rcnn.py", "tests/tasks/test_instance.py",
    "tests/test_registry.py", "tests/test_cli.py", "tests/tasks/test_learners.py", "tests/engine/test_train.py",
    "tests/experiments/test_gallery.py", "tests/models/test_yolo_v3.py", "tests/tasks/test_detection.py",
    "tests/tasks/test_yolo.py", "tests/experiments/test_operations.py", "tests/models/test_yolo_v1.py",
    "tests/test_golden.py", "tests/models/test_yolo_v2.py", "tests/ops/test_roi.py", "tests/ops/test_nms.py",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """Begin with the longest files; the order within a file stays."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


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


# modules of cases that build whole networks: in processes of their own, whose memory ends with them
NETWORKS = ("networks", "mask_rcnn")


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Gives what a backend computes of a module of cases (`parity.worker.compute`), here or in a process of its own,
    one for a whole file of tests: call it with the backend's name, the cases' and what they take."""
    folder, here = tmp_path_factory.mktemp("backends"), {}
    workers = {name: Worker(name, folder) for name in backend.installed()}

    def find(name, group, arrays=None):
        if name not in workers:
            pytest.skip(f"{name} is not installed")
        if name != backend.name() or group.startswith(NETWORKS):
            return workers[name].compute(group, arrays)
        if group not in here:
            here[group] = compute(group, arrays or {})
        return here[group]

    yield find
    for worker in workers.values():
        worker.close()
