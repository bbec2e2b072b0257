"""What makes results stale: values that move without a VERSION, and modules that nothing watches."""

import json
import re
from pathlib import Path

import pytest

from repro import backend
from repro.models import faster_rcnn, fpn, yolo_v1
from repro.records import versions
from repro.records.versions import version_of, versions_of
from tests.golden import values
from tests.golden.values import GROUPS, difference, problem

GOLDEN = json.loads(values.FILE.read_text())
TESTS = Path(__file__).parent
# random numbers and the last digits are TensorFlow's
NEEDS_KERAS = ("architectures", "data.augment", "data.jitter", "data.detection", "data.instance", "engine.train")
# kinds of experiments whose numbers are seconds alone
TIMED = ("detector_speed", "mask_overhead", "nms_speed", "peer", "roi_speed", "search_speed", "speed")
# the other kinds: where their numbers are tested
KINDS = {
    "anchors": "experiments/test_detector_tables.py",
    "architectures": "test_registry.py",
    "evaluate": "experiments/test_evaluate.py",
    "gallery": "experiments/test_gallery.py",
    "lineage": "experiments/test_lineage.py",
    "majority": "experiments/test_majority.py",
    "predictions": "experiments/test_predictions.py",
    "train": "tasks/test_learners.py",
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


@pytest.mark.parametrize("name", GROUPS["papers"][0])
def test_papers(name):
    check("papers", name)


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
    words = re.escape(f"raise VERSION of models.{name} (or mend what you broke)")
    with pytest.raises(pytest.fail.Exception, match=rf"{words}.*{name} (losses|all) "):
        check("architectures", name)


def test_constants_that_small_networks_do_not_use_are_watched(monkeypatch):
    monkeypatch.setattr(fpn, "STRIDES", (4, 8, 16, 32, 66))
    monkeypatch.setattr(fpn, "NEW", 1, raising=False)
    with pytest.raises(pytest.fail.Exception, match=r"VERSION of models.fpn .*constants STRIDES 4 is 66, was 64"):
        check("papers", "models.fpn")


def test_an_architecture_without_values_names_the_command():
    told = problem("architectures", "vgg16", {"losses": [1.0]}, {"architectures": {}})
    assert told == "vgg16 has no golden values: `python -m tests.golden.values --write`"
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


def test_values_are_not_written_anew_unless_a_version_was_raised(monkeypatch, tmp_path, capsys):
    file, moved = tmp_path / "golden.json", {"ap": 0.5}
    monkeypatch.setattr(values, "FILE", file)
    monkeypatch.setattr(values, "GROUPS", {"modules": (["metrics.coco"], lambda name: moved, lambda name: name)})
    monkeypatch.setattr("sys.argv", ["values.py", "--write"])
    before = {"modules": {"metrics.coco": {"ap": 0.25}}, "versions": versions_of("metrics.coco")}
    file.write_text(json.dumps(before))
    assert values.main() == 1
    assert "raise VERSION of metrics.coco (or mend what you broke)" in capsys.readouterr().out
    assert json.loads(file.read_text()) == before
    file.write_text(json.dumps(before | {"versions": {"metrics.coco": 0, "metrics.detection": 1}}))
    assert values.main() == 0
    assert json.loads(file.read_text()) == {"modules": {"metrics.coco": moved}, "versions": versions_of("metrics.coco")}


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
    elsewhere = {f"experiments.{kind}" for kind in (*TIMED, *KINDS)}
    assert sorted(versioned - watched - elsewhere) == []
    assert sorted(test for test in KINDS.values() if not (TESTS / test).exists()) == []


def test_values_were_written_at_todays_versions():
    """Raising a VERSION asks for its values to be written anew."""
    behind = {module for module, version in GOLDEN["versions"].items() if version_of(module) not in (None, version)}
    assert behind == set(), f"`{values.COMMAND}`"
