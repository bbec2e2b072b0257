"""Result files, weight files and code hashes: written whole, read strictly, stale when they should be."""

import json
import sys

import msgspec
import numpy as np
import pytest

from repro.errors import ReproError
from repro.files import atomic_write, canonical_hash
from repro.harness import checkpoint, codehash
from repro.harness.config import Data, Majority
from repro.harness.record import read_result, read_results, result_path, write_result
from repro.harness.run import Job, Run, current_code_hash, find


@pytest.fixture
def job():
    return Job(
        experiment="some-majority",
        config=Majority(task="segmentation", data=Data(name="shapes")),
        profile="smoke",
        backend="tensorflow",
        seeds=[0],
    )


@pytest.fixture
def finished(job):
    return Run(job, 0).finish(scale="smoke", metrics={"mean_iou": 1 / 3}, protocol={"void": "not counted"})


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
        (lambda text: text.replace('"schema_version": 1', '"schema_version": 99'), "schema version 99"),
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


def test_finished_means_this_machine_config_and_code(finished, job):
    assert find(job, 0, [finished]) == finished
    assert find(job, 1, [finished]) is None
    for field, value in (("config_hash", "0" * 12), ("code_hash", "0" * 12), ("status", "failed")):
        assert find(job, 0, [msgspec.structs.replace(finished, **{field: value})]) is None
    elsewhere = msgspec.structs.replace(finished.machine, id="elsewhere")
    assert find(job, 0, [msgspec.structs.replace(finished, machine=elsewhere)]) is None


def test_the_settings_of_a_parent_are_part_of_a_jobs_identity(job):
    other = msgspec.structs.replace(job, config=Majority(task="classification", data=Data(name="shapes")))
    hashes = {msgspec.structs.replace(job, parent=parent).config_hash for parent in (None, job, other)}
    assert len(hashes) == 3


def test_a_failed_attempt_does_not_block_the_next(job):
    failed = Run(job, 0).fail("FloatingPointError: the loss is nan")
    again = Run(job, 0).finish(scale="smoke", metrics={}, protocol={})
    assert failed.run_id != again.run_id
    assert (failed.status, again.status) == ("failed", "ok")


def test_current_code_hash_recognises_a_fresh_result_and_gives_up_on_a_foreign_config(finished):
    assert current_code_hash(finished) == finished.code_hash
    assert current_code_hash(msgspec.structs.replace(finished, config={"type": "unknown"})) is None


SOURCE = '"""Docstring."""\n\nX = 1  # why\n\n\ndef f():\n    """What."""\n    return "# not a comment"\n'


@pytest.mark.parametrize(
    ("source", "same"),
    [
        (SOURCE.replace("# why", "# another reason"), True),
        (SOURCE.replace("What.", "What else,\n\n    at length."), True),
        (SOURCE.replace("\n\n\n", "\n\n"), True),
        (SOURCE.replace("X = 1", "X = 2"), False),
        (SOURCE.replace("not a comment", "no comment"), False),
    ],
)
def test_the_code_hash_ignores_comments_docstrings_and_blank_lines_only(monkeypatch, source, same):
    def essence(text):
        monkeypatch.setattr(codehash, "_source", lambda module: text)
        return codehash._essence.__wrapped__("any")

    assert (essence(SOURCE) == essence(source)) is same


def test_the_code_hash_follows_imports_and_leaves_out_what_moves_no_number():
    modules = codehash._closure(("repro.harness.train", "repro.models.fcn"))
    assert {"repro.models.vgg", "repro.ops.losses", "repro.metrics.segmentation", "repro.data.cache"} <= set(modules)
    assert not [m for m in modules if m.startswith(("repro.report", "repro.cli", "repro.experiments"))]


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


def test_atomic_write_replaces_whole_files(tmp_path):
    path = tmp_path / "deep" / "file"
    atomic_write(path, b"one")
    atomic_write(path, b"two")
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


def test_canonical_hash_does_not_depend_on_the_order_of_keys():
    assert canonical_hash({"a": 1, "b": [1, 2]}) == canonical_hash({"b": [1, 2], "a": 1})
    assert canonical_hash({"a": 1}) != canonical_hash({"a": 2})


def test_result_json_is_plain(finished, tmp_path):
    fields = json.loads(result_path(tmp_path / "results", finished).read_text())
    assert fields["metrics"] == {"mean_iou": 1 / 3}
    assert fields["packages"]["python"] == ".".join(map(str, sys.version_info[:3]))
