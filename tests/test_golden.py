"""What makes results stale: values that move without a VERSION, and modules that nothing watches."""

import json
import re
from pathlib import Path

import golden_data
import pytest
from golden_data import GROUPS, difference, problem

from repro import backend
from repro.models import faster_rcnn, yolo_v1
from repro.records import versions
from repro.records.versions import version_of, versions_of

GOLDEN = json.loads(golden_data.FILE.read_text())
TESTS = Path(__file__).parent
# random numbers and the last digits are TensorFlow's
NEEDS_KERAS = ("architectures", "data.augment", "data.jitter", "data.detection", "data.instance", "engine.train")
# modules whose numbers are timings, or those of others: where they are tested
ELSEWHERE = {
    "experiments.anchors": "test_anchor_clusters.py",
    "experiments.architectures": "test_models.py",
    "experiments.detector_speed": "test_detector_speed.py",
    "experiments.evaluate": "test_detect_eval.py",
    "experiments.gallery": "test_gallery.py",
    "experiments.generations": "test_generations.py",
    "experiments.lineage": "test_lineage.py",
    "experiments.majority": "test_experiments.py",
    "experiments.mask_overhead": "test_generations.py",
    "experiments.nms_speed": "test_operations.py",
    "experiments.peer": "test_operations.py",
    "experiments.predictions": "test_predictions.py",
    "experiments.roi_speed": "test_operations.py",
    "experiments.search_speed": "test_operations.py",
    "experiments.speed": "test_experiments.py",
    "experiments.train": "test_experiments.py",
}


def check(group: str, name: str) -> None:
    """Fail where the values of an entry have moved, saying what to do."""
    if {group, name} & set(NEEDS_KERAS) and backend.name() != "tensorflow":
        pytest.skip("golden values are TensorFlow's")
    if told := problem(group, name, GROUPS[group][1](name), GOLDEN):
        pytest.fail(told)


@pytest.mark.parametrize("name", GROUPS["architectures"][0])
def test_architectures(name):
    check("architectures", name)


@pytest.mark.parametrize("name", GROUPS["modules"][0])
def test_modules(name):
    check("modules", name)


@pytest.mark.parametrize("name", GROUPS["loaders"][0])
def test_loaders(name):
    check("loaders", name)


# the guard itself


@pytest.mark.parametrize(
    ("name", "function", "changed"),
    [
        ("yolo_v1", yolo_v1.detection_loss, (4.0, 0.5)),  # lambda_coord was 5
        ("faster_rcnn", faster_rcnn.loss, (1.0, 1.0)),  # sigma was 3
        ("fast_rcnn", faster_rcnn.detect, (0.05, 0.4, 100)),  # suppression at 0.3
    ],
)
def test_a_constant_that_moves_is_told(name, function, changed, monkeypatch):
    monkeypatch.setattr(function, "__defaults__", changed)
    monkeypatch.setattr(golden_data, "defaults_of", lambda name: GOLDEN["architectures"][name]["defaults"])
    words = re.escape(f"raise VERSION of models.{name} (or mend what you broke)")
    with pytest.raises(pytest.fail.Exception, match=rf"{words}.*{name} (losses|boxes|best|classes|count)"):
        check("architectures", name)


def test_defaults_that_small_networks_do_not_use_are_watched(monkeypatch):
    found = {"defaults": {"build.nms_threshold": 0.6, "build.new": 1}}
    moved = difference({"defaults": {"build.nms_threshold": 0.7, "build.renamed": 2}}, found, 1e-4)
    assert moved == "defaults build.nms_threshold is 0.6, was 0.7"


def test_an_architecture_without_values_names_the_command():
    told = problem("architectures", "vgg16", {"losses": [1.0]}, {"architectures": {}})
    assert told == "vgg16 has no golden values: `python tests/golden_data.py --write`"
    assert "SMALL" in problem("architectures", "vgg16", {}, {"architectures": {}})


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (1.0, 1.0 + 5e-5, ""),
        (1.0, 1.001, "is 1.001, was 1.0"),
        (None, 0.0, "is 0.0, was None"),
        ([1, 2], [1], "is [1], was [1, 2]"),
        ({"a": [0, {"b": "x"}]}, {"a": [0, {"b": "y"}]}, "a 1 b is y, was x"),
        ({"losses": [1.0]}, {"losses": [1.0004]}, ""),
        ({"a": 1}, {"a": 1, "b": 2}, "b is 2, was None"),
    ],
)
def test_the_first_difference_is_told(old, new, told):
    assert difference(old, new, 1e-4) == told


def test_every_module_with_a_version_is_watched():
    found = {
        path.relative_to(versions.PACKAGE).with_suffix("").as_posix().replace("/", ".")
        for path in versions.PACKAGE.rglob("*.py")
    }
    versioned = {module for module in found if version_of(module) is not None}
    watched = set(GOLDEN["modules"])
    for group in ("architectures", "loaders"):
        for name in GOLDEN[group]:
            watched |= set(versions_of(GROUPS[group][2](name)))
    assert sorted(versioned - watched - set(ELSEWHERE)) == []
    for module, test in ELSEWHERE.items():
        assert module not in watched
        assert (TESTS / test).exists(), f"{test}, which tests {module}, is gone"


def test_values_were_written_at_todays_versions():
    """Raising a VERSION asks for its values to be written anew."""
    behind = {module for module, version in GOLDEN["versions"].items() if version_of(module) not in (None, version)}
    assert behind == set(), f"`{golden_data.COMMAND}`"
