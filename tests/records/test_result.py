"""Result files and versions: written whole, read strictly, stale when they should be."""

import json
import sys

import msgspec
import pytest

from repro import paths
from repro.errors import ReproError
from repro.experiments.majority import Majority
from repro.records import versions
from repro.records.result import Result, read_result, read_results, result_path, write_result
from repro.records.run import Outcome, Run, config_hash_of, find
from repro.records.settings import Data
from repro.runner.plan import Job
from repro.runner.publish import table_of
from repro.tasks.classification import Classification
from repro.tasks.segmentation import Segmentation

KIND = Majority(task=Segmentation(), data=Data(name="shapes"))


def job(**fields) -> Job:
    settings = {"kind": KIND, "profile": "smoke", "backend": "tensorflow", "seeds": (0,), **fields}
    return Job(experiment="some-majority", **settings)


def finish(outcome: Outcome | None = None, error: str | None = None, **fields) -> Result:
    run = Run("some-majority", KIND, 0, profile="smoke", backend="tensorflow", **fields)
    result = run.result(outcome, error)
    write_result(paths.results_dir(), result)
    return result


@pytest.fixture
def finished():
    return finish(Outcome(scale="smoke", metrics={"mean_iou": 1 / 3}, protocol={"void": "not counted"}))


@pytest.fixture
def sources(monkeypatch):
    """The source of every module as the test says, by its name; of others as it is. Nothing of it is remembered."""
    changed, real = {}, versions._source.__wrapped__
    monkeypatch.setattr(versions, "_source", lambda name: changed[name] if name in changed else real(name))

    def change(name: str, source: str | None) -> None:
        changed[name] = source
        versions.version_of.cache_clear()
        versions._imports.cache_clear()

    yield change
    versions.version_of.cache_clear()
    versions._imports.cache_clear()


def test_a_result_is_read_back_as_it_was_written(finished, tmp_path):
    assert read_result(result_path(tmp_path / "results", finished)) == finished
    assert read_results(tmp_path / "results") == [finished]
    assert not list((tmp_path / "results").rglob("*.tmp"))


def test_a_result_is_never_overwritten(finished, tmp_path):
    with pytest.raises(ReproError, match="never overwritten"):
        write_result(tmp_path / "results", finished)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "not valid JSON"),
        (lambda text: "[]", "not a result file: it holds a list"),
        (lambda text: text.replace('"schema_version": 2', '"schema_version": 99'), "schema version 99"),
        (lambda text: text.replace('"status": "ok"', '"status": "fine"'), "not a result file"),
        (lambda text: text.replace('"status": "ok"', '"status": "ok", "extra": 1'), "not a result file"),
        (lambda text: text.replace('"some-majority"', '"another"'), "holds run another"),
    ],
)
def test_a_damaged_result_is_refused_with_its_name_and_the_cure(finished, tmp_path, damage, message):
    path = result_path(tmp_path / "results", finished)
    text = path.read_text()
    assert damage(text) != text
    path.write_text(damage(text))
    with pytest.raises(ReproError, match=message) as caught:
        read_results(tmp_path / "results")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_invalid_result_is_not_written(finished, tmp_path):
    wrong = msgspec.structs.replace(finished, run_id="other", scale="huge")
    with pytest.raises(ReproError, match="scale"):
        write_result(tmp_path / "results", wrong)
    assert not result_path(tmp_path / "results", wrong).exists()


def test_finished_means_this_machine_settings_and_versions(finished, sources):
    def found(result, seed=0):
        return find([result], job().experiment, job().config_hash, seed)

    assert found(finished) == finished
    assert found(finished, 1) is None
    for field, value in (("config_hash", "0" * 12), ("status", "failed"), ("experiment", "another")):
        assert found(msgspec.structs.replace(finished, **{field: value})) is None
    elsewhere = msgspec.structs.replace(finished.machine, id="elsewhere")
    assert found(msgspec.structs.replace(finished, machine=elsewhere)) is None
    assert found(msgspec.structs.replace(finished, code_hash="0" * 12)) is not None  # where from, not what it is worth
    sources("tasks.segmentation", "VERSION = 1000\n")
    assert found(finished) is None


def test_the_settings_of_a_parent_are_part_of_a_jobs_identity():
    other = job(kind=Majority(task=Classification(), data=Data(name="shapes")))
    hashes = {job(needs=needs).config_hash for needs in ((), (job(),), (other,), (job(), other), (other, job()))}
    assert len(hashes) == 5


def test_the_identity_of_settings_is_that_of_what_a_worker_reads():
    whole = msgspec.structs.replace(KIND, data=Data(name="shapes", options={"min_scale": (1, 2)}))
    assert config_hash_of(KIND, "jax", ()) != config_hash_of(KIND, "tensorflow", ())
    read = msgspec.json.decode(msgspec.json.encode(whole), type=Majority)
    assert read != whole  # a list in place of a tuple
    assert config_hash_of(read, "jax", ()) == config_hash_of(whole, "jax", ())


def test_a_failed_attempt_does_not_block_the_next():
    failed = finish(error="FloatingPointError: the loss is nan")
    again = finish(Outcome(scale="smoke", metrics={}, protocol={}))
    assert failed.run_id != again.run_id
    assert (failed.status, again.status) == ("failed", "ok")


def test_the_table_of_a_result_is_that_of_its_settings_or_none(finished):
    assert table_of(finished) == "segmentation"
    assert table_of(msgspec.structs.replace(finished, config={"kind": "unknown"})) == ""


SOURCE = '''"""Docstring."""

import repro.data.base

VERSION = 3  # raised when its numbers change on purpose


def f():
    """What."""
    return "# not a comment"
'''


@pytest.mark.parametrize(
    ("source", "stale"),
    [
        (SOURCE.replace("# raised when", "# to be raised when"), False),
        (SOURCE.replace("What.", "What else,\n\n    at length."), False),
        (SOURCE.replace("\n\n\n", "\n\n"), False),
        (SOURCE.replace("def f", "def renamed"), False),
        (SOURCE.replace("# not a comment", "another text"), False),
        (SOURCE.replace("VERSION = 3", "VERSION = 4"), True),
        (SOURCE.replace("VERSION = 3", "VERSION = 2"), True),
    ],
)
def test_raising_a_version_makes_results_stale_and_rewriting_code_does_not(finished, sources, source, stale):
    sources("data.shapes", SOURCE)
    run = Run("some-majority", KIND, 0, profile="smoke", backend="tensorflow")
    result = run.result(Outcome(scale="smoke", metrics={}, protocol={}))
    assert result.versions["data.shapes"] == 3
    assert not versions.is_stale(result.versions)
    sources("data.shapes", source)
    assert versions.is_stale(result.versions) is stale


def test_a_module_that_is_gone_makes_nothing_stale(finished, sources):
    sources("metrics.segmentation", None)
    assert "metrics.segmentation" in finished.versions
    assert not versions.is_stale(finished.versions)


def test_the_versions_of_a_parent_count(finished, sources):
    parent = msgspec.structs.replace(finished, versions=finished.versions | {"models.fcn": 1}, experiment="parent")
    child = finish(Outcome(scale="smoke", metrics={}, protocol={}), parents={"parent": parent})
    assert child.depends_on == [f"parent/{parent.run_id}"]
    assert not versions.is_stale(child.versions)
    sources("models.fcn", "VERSION = 2\n")
    assert versions.is_stale(child.versions)
    assert not versions.is_stale(finished.versions)


def test_versions_follow_what_is_built_on_and_leave_out_what_moves_no_number():
    found = versions.versions_of("models.faster_rcnn", "tasks.detection", "engine.train")
    assert {"models.vgg", "models.resnet", "metrics.detection", "data.cache", "engine.train"} <= found.keys()
    assert not [name for name in found if name.startswith(("report", "cli", "runner", "presets", "drawing"))]


def test_a_module_that_should_have_a_version_and_has_none_is_noticed(sources):
    sources("data.shapes", "VERSIONS = 3\n")
    with pytest.raises(ValueError, match=r"data\.shapes has no VERSION"):
        KIND.versions()


def test_the_constants_that_are_read_are_those_of_the_modules():
    from repro.data import shapes
    from repro.experiments import train
    from repro.models import fcn
    from repro.tasks import detection

    for module in (shapes, train, fcn, detection):
        assert versions.version_of(module.__name__.removeprefix("repro.")) == module.VERSION


def test_result_json_is_plain(finished, tmp_path):
    fields = json.loads(result_path(tmp_path / "results", finished).read_text())
    assert fields["metrics"] == {"mean_iou": 1 / 3}
    assert fields["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
