"""The command line as its user sees it: what it lists and plans, what it refuses and how, what a run leaves behind."""

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from repro import backend
from repro.data.shapes import Shapes
from repro.engine import checkpoint
from repro.experiments.majority import Majority
from repro.experiments.train import Train
from repro.files import sha256_of
from repro.presets import PRESETS
from repro.presets.base import Preset
from repro.presets.choice import all_presets
from repro.records import machine
from repro.records.result import Result, read_results
from repro.records.settings import Data, Network
from repro.runner import launch, preflight
from repro.tasks.segmentation import Segmentation
from tests.support.command_line import BACKEND, Answer, assert_refused, python, repro, settle

FCNS = ["fcn32s", "fcn16s", "fcn8s"]
MODELS = [
    "vgg16",
    "googlenet",
    "resnet101",
    "darknet19",
    "darknet53",
    "extraction",
    *FCNS,
    "fcn_googlenet",
    "segnet",
    "unet",
]
MODELS += ["rcnn", "fast_rcnn", "faster_rcnn", "faster_rcnn_resnet101", "yolo_v1", "fast_yolo", "yolo_v2", "yolo_v3"]
MODELS += ["mask_rcnn", "mask_rcnn_fpn"]
DATASETS = ["shapes", "camvid", "isbi2012", "dubai", "voc2012_seg", "voc2007", "voc2012", "bccd", "coco2017"]
DATASETS += ["penn_fudan", "nuclei", "cityscapes_instances"]
DATASETS += ["voc2007_tfds", "voc2012_tfds", "coco2017_tfds", "coco2017_joined", "oxford_iiit_pet", "cityscapes"]
DATASETS += ["tiny_imagenet", "imagenette", "imagenet2012"]
CARD = {
    "network": {
        "name": "fcn8s", "width": 1 / 32, "depth": 0.3, "input_size": [32, 32], "num_classes": 8, "channels": 3,
        "options": {"padding": "same"},
    },
    "task": {"name": "segmentation"}, "data": {"name": "shapes"}, "run": "a/b",
}  # fmt: skip
OTHER = {**CARD, "network": {**CARD["network"], "name": "fcn16s"}}


@pytest.fixture(autouse=True)
def here(monkeypatch, tmp_path):
    settle(monkeypatch, tmp_path)
    yield tmp_path
    machine.capture.cache_clear()


@pytest.fixture
def working_backend(monkeypatch):
    """Spare the process that tries the backend."""
    monkeypatch.setattr(preflight, "check", lambda name: {"ok": True, "accelerators": 0, "error": ""})


@pytest.fixture
def pictures(tmp_path):
    """Two pictures of another size than the network's, one wide and one high, the second without colours."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(Shapes(image_size=(40, 64)).sample("test", 0).image).save(folder / "wide.png")
    Image.fromarray(Shapes(image_size=(64, 40)).sample("test", 1).image).convert("L").save(folder / "high.jpg")
    return folder


# -- what there is


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("models", MODELS),
        ("datasets", DATASETS),
        ("experiments", ["architectures", "shapes-vgg16", *(f"shapes-{net}" for net in FCNS), "peer-vgg16"]),
        ("tables", []),
    ],
)
def test_list(what, names):
    found = [entry["name"] for entry in json.loads(repro("list", what, "--json").out)]
    assert len(found) == len(set(found))
    assert [name for name in found if name in names] == names
    assert what == "experiments" or found == names
    text = repro("list", what)
    assert text.status == 0
    assert all(name in text.out for name in found)


def test_list_claims():
    claims = json.loads(repro("list", "claims", "--json").out)
    assert len(claims) == len({claim["id"] for claim in claims}) == 175
    assert "C001" in repro("list", "claims").out


@pytest.mark.parametrize("form", ["--results {} list tables --json", "list tables --results={} --json"])
def test_results_may_stand_anywhere(form, tmp_path):
    (tmp_path / "there" / "tables").mkdir(parents=True)
    (tmp_path / "there" / "tables" / "speed.md").touch()
    answer = repro(*form.format(tmp_path / "there" / "results").split())
    assert json.loads(answer.out) == [{"name": "speed", "file": "tables/speed.md"}]


def test_a_reader_that_stops_is_no_error():
    command = [sys.executable, "-m", "repro", "list", "claims", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"[\n"
        process.stdout.close()
        assert process.stderr.read() == b""


DESCRIBE = """
import contextlib, io, json, resource, sys
from repro.cli import run_cli
unit = 2**20 if sys.platform == "darwin" else 2**10
for line in json.load(sys.stdin):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run_cli(["describe", *line.split()])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(json.dumps([line, status, out.getvalue(), err.getvalue(), peak]))
"""


@pytest.fixture(scope="module")
def described():
    """`repro describe`: by line, the answer and the peak memory of the process so far in MiB. One process for all:
    it is Keras that takes its time."""
    lines = [
        "vgg16 --width 0.1 --json", "vgg16 --json", *(f"{net} --json" for net in FCNS),
        "fcn8s --json --variant released", "fcn8s --json --classes 11 --size 360x480", "fcn8s",
        "vgg16 --size 16x16", "vgg16 --size big", "vgg16 --size 0x224", "fcn8s --width 0", "fcn8s --depth 1.5",
        "vgg16 --classes 0", "fcn8s --variant release",
    ]  # fmt: skip
    environment = {**os.environ, "KERAS_BACKEND": BACKEND}
    process = python("-c", DESCRIBE, input=json.dumps(lines), env=environment)
    assert process.returncode == 0, process.stderr
    rows = (json.loads(row) for row in process.stdout.splitlines())
    return {line: (Answer(status, out, err), peak) for line, status, out, err, peak in rows}


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        ("vgg16", {"params": 138_357_544, "trainable_params": 138_357_544, "conv_layers": 13,
                   "input_shape": [224, 224, 3], "outputs": {"scores": [1000]}, "task": "classification"}),
        ("fcn32s", {"params": 136_152_917, "outputs": {"scores": [500, 500, 21]}}),
        ("fcn16s", {"params": 134_815_994, "outputs": {"scores": [500, 500, 21]}}),
        ("fcn8s", {"params": 134_489_759, "paper": "fcn", "variant": "paper", "task": "segmentation"}),
        ("fcn8s --variant released", {"params": 134_489_759, "trainable_params": 134_362_751, "variant": "released"}),
        ("fcn8s --classes 11 --size 360x480", {"input_shape": [360, 480, 3], "outputs": {"scores": [360, 480, 11]}}),
    ],
)  # fmt: skip
def test_describe(described, line, fields):
    name, *options = line.split()
    card = json.loads(described[" ".join([name, "--json", *options])][0].out)
    assert list(card) == [
        "name", "task", "paper", "variant", "input_shape", "params", "params_by_role", "trainable_params",
        "running_stats", "conv_layers", "outputs", "flops", "deviations",
    ]  # fmt: skip
    assert {**card, **fields} == card
    assert card["name"] == name
    assert sum(count for role, count in card["params_by_role"].items() if role != "frozen") == card["params"]
    assert card["flops"] > 2 * card["params"]
    assert all(isinstance(text, str) and text for text in card["deviations"])


def test_describe_in_words(described):
    text = described["fcn8s"][0].out
    assert "134,489,759" in text
    assert "deviations from the paper:\n  - " in text


def test_describe_takes_no_memory_for_the_weights(described):
    # VGG-16's weights are 528 MiB
    assert described["vgg16 --json"][1] - described["vgg16 --width 0.1 --json"][1] < 200


# -- what it refuses


@pytest.mark.parametrize(
    ("line", "culprit", "cure"),
    [
        ("vgg16 --size 16x16", "16x16", "at least 32x32"),
        ("vgg16 --size big", "'big'", "HEIGHTxWIDTH"),
        ("vgg16 --size 0x224", "'0x224'", "HEIGHTxWIDTH"),
        ("fcn8s --width 0", "width 0 of fcn8s", "above 0 and up to 1"),
        ("fcn8s --depth 1.5", "depth 1.5 of fcn8s", "above 0 and up to 1"),
        ("vgg16 --classes 0", "0 classes for vgg16", "at least 1"),
        ("fcn8s --variant release", "'release'", "did you mean released?"),
    ],
)
def test_describe_refuses(described, line, culprit, cure):
    assert_refused(described[line][0], culprit, cure)


@pytest.mark.parametrize(
    ("line", "culprit", "cure"),
    [
        ("describe fcn8", "'fcn8'", "did you mean fcn8s"),
        ("data camvi", "'camvi'", "did you mean camvid?"),
        ("data camvid", "data/CamVid does not exist", "copy the folder CamVid"),
        ("data shapes --split tset", "'tset'", "did you mean test?"),
        ("data shapes --preview --count 0", "0 samples", "at least 1"),
        ("train fcn8s --data shapse", "'shapse'", "did you mean shapes or cityscapes?"),
        ("train fcn8s --data imagenette", "imagenette has no labels for segmentation", "repro list datasets"),
        ("train fcn8s --data shapes --size 16x16 --padding same", "16x16", "larger --size"),
        ("train fcn8s --data shapes --size 32x32x3", "'32x32x3'", "HEIGHTxWIDTH"),
        ("train fcn8s --data shapes --width 0", "width 0 of fcn8s", "above 0 and up to 1"),
        ("train fcn8s --data shapes --variant release", "'release'", "did you mean released?"),
        ("train fcn8s --data shapes --init imagnet", "'imagnet'", "did you mean imagenet"),
        ("train fcn8s --data shapes --epochs 0", "epochs 0", "above 0"),
        ("train fcn8s --data shapes --learning-rate inf", "learning_rate inf", "above 0"),
        ("train fcn8s --data shapes --seed -1", "seed -1", "from 0"),
        ("train fcn8s --data shapes --compile graph --backend jax", "JAX has no graph mode", "--backend tensorflow"),
        ("train vgg16 --data shapes --padding same", "vgg16 has no padding", "leave it out"),
        ("speed vgg16 --depth nan", "depth nan of vgg16", "above 0 and up to 1"),
        ("run shapes-fcn8", "'shapes-fcn8'", "did you mean shapes-fcn8s"),
        ("run no-*", "'no-*'", "known: "),
        ("run shapes-fcn8s --profile gpu", "shapes-fcn8s has no gpu profile", "--profile smoke"),
        ("run shapes-f* --profile cpu", "shapes-f*", "repro list experiments"),
        ("run shapes-fcn8s --compile graph --backend jax", "JAX has no graph mode", "--backend tensorflow"),
        ("run shapes-fcn8s --seeds 0", "0 seeds", "--seeds 1"),
        ("run shapes-fcn8s --budget abc", "'abc'", "25m"),
        ("run shapes-fcn16s --init shapes-fcn8s", "shapes-fcn16s cannot start from shapes-fcn8s", "another --init"),
        ("predict fcn8s --weights none", "no image", "name images or folders"),
    ],
)
def test_bad_input_is_refused_in_one_line(working_backend, here, line, culprit, cure):
    assert_refused(repro(*line.split()), culprit, cure)
    assert not list(here.glob("results/*/*")), "what cannot run must not leave a failed result"


@pytest.mark.parametrize(
    "line", ["", "fly", "list planes", "run --wings", "train fcn8s", "train fcn8s --data shapes --seed x"]
)
def test_a_misspelt_command_is_refused_with_the_way_to_its_help(line):
    answer = repro(*line.split())
    assert answer.status not in (0, None)
    assert "--help" in answer.err
    assert "Traceback" not in answer.err


def test_an_error_is_one_line_whatever_libraries_have_to_say(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", backend.installed()[0])  # TensorFlow has a lot
    process = python("-m", "repro", "describe", "vgg16", "--size", "16x16")
    assert_refused(Answer(process.returncode, process.stdout, process.stderr), "16x16", "at least 32x32")
    assert process.stdout == ""


@pytest.mark.parametrize("command", ["tables", "tables --check", "run shapes-majority --dry-run"])
@pytest.mark.parametrize(
    ("content", "words", "cure"),
    [
        ('{"schema_version": 2, ', "is not valid JSON", "delete it and run the experiment again"),
        ('{"schema_version": 99}', "has schema version 99", "use the release that wrote it"),
        ('{"schema_version": 2, "run_id": "bad"}', "is not a result file", "delete it and run the experiment again"),
        ("[1, 2]", "is not a result file: it holds a list", "delete it and run the experiment again"),
    ],
    ids=["cut", "future", "other", "list"],
)
def test_a_damaged_result_stops_before_the_work(working_backend, here, command, content, words, cure):
    path = here / "results" / "shapes-majority" / "bad.json"
    path.parent.mkdir(parents=True)
    path.write_text(content)
    answer = repro(*command.split())
    assert_refused(answer, path, cure)
    assert words in answer.err


def test_a_folder_that_cannot_be_written_is_refused_in_one_line(working_backend, here):
    (here / "file").touch()
    answer = repro("run", "shapes-majority", "--dry-run", "--results", here / "file" / "results")
    assert_refused(answer, here / "file", "check the path")


@pytest.mark.parametrize("command", ["eval fcn8s --data shapes --weights", "predict fcn8s {} --weights"])
@pytest.mark.parametrize(
    ("damage", "words", "cure"),
    [
        ("missing", "there is no weight file", "repro train"),
        ("cut", "is damaged", "repro train"),
        ("empty", "is damaged", "repro train"),
        ("foreign", "is damaged or not a weight file of this suite", "repro train"),
        ("checkpoint", "does not say what network", "repro train"),
        ("other", "holds weights of fcn16s, not of fcn8s", "name the right model"),
    ],
)
def test_a_bad_weight_file_is_refused_in_one_line(here, pictures, command, damage, words, cure):
    path = here / "weights.safetensors"
    arrays = {"conv1_1/kernel": np.zeros((3, 3, 3, 2), "float32")}
    if damage == "foreign":
        save_file(arrays, path)
    elif damage != "missing":
        card = {"step": 3, "history": {}} if damage == "checkpoint" else OTHER
        checkpoint.save_arrays(path, arrays, card)
    if damage in ("cut", "empty"):
        path.write_bytes(path.read_bytes()[: -100 if damage == "cut" else 0])
    answer = repro(*command.format(pictures / "wide.png").split(), path)
    assert_refused(answer, path, cure)
    assert words in answer.err


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("missing.png", "give an image"),
        ("text.png", "is not an image"),
        ("empty", "it takes .bmp"),
        ("wide.jpg", "share a name"),
    ],
)
def test_predict_refuses_what_is_no_picture(here, pictures, name, cure):
    checkpoint.save_arrays(here / "weights.safetensors", {"a": np.zeros(1, "float32")}, CARD)
    (pictures / "text.png").write_text("no picture")
    (pictures / "empty").mkdir()
    Image.new("RGB", (40, 40)).save(pictures / "wide.jpg")
    images = [pictures / "wide.png", pictures / name]
    answer = repro("predict", "fcn8s", *images, "--weights", here / "weights.safetensors", "--out", here / "out")
    assert_refused(answer, pictures / name, cure)
    assert not (here / "out").exists()


# -- what it plans and shows


def planned(answer: Answer) -> list[str]:
    assert answer.status == 0, answer.err
    return [line.split()[0] for line in answer.out.splitlines()]


def test_a_plan_brings_what_it_starts_from(working_backend, here):
    answer = repro("run", "shapes-fcn8s", "--dry-run", "--seeds", 2)
    assert planned(answer) == ["shapes-fcn32s", "shapes-fcn16s", "shapes-fcn8s"]
    assert all("smoke" in line and BACKEND in line and "seeds 0,1" in line for line in answer.out.splitlines())
    assert planned(repro("run", "shapes-fcn8s", "--init", "random", "--dry-run")) == ["shapes-fcn8s"]
    assert not (here / "results").exists()


def test_with_a_budget_the_most_valuable_go_first(working_backend):
    known = all_presets()
    plain = planned(repro("run", "--profile", "smoke", "--dry-run"))
    first = planned(repro("run", "--profile", "smoke", "--dry-run", "--budget", "25m"))
    assert plain == [name for name, preset in known.items() if "smoke" in preset.configs]
    assert sorted(first) == sorted(plain)
    assert first != plain
    values = [known[name].value for name in first]
    assert values == sorted(values, reverse=True)


@pytest.mark.parametrize("options", [[], ["--split", "val", "--count", 2]])
def test_preview_of_a_data_set(options):
    answer = repro("data", "shapes", "--preview", *options)
    path = Path(answer.out.splitlines()[-1].removeprefix("contact sheet: "))
    assert path.name == ("shapes-val.png" if options else "shapes-train.png")
    assert "512 images" in answer.out
    assert "fingerprint" in answer.out
    sheet = np.asarray(Image.open(path).convert("RGB"))
    assert min(sheet.shape[:2]) >= 96
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 100


# -- what it runs


@dataclass
class Trained:
    """A training from the command line."""

    folder: Path
    answer: Answer
    result: Result
    weights: Path


TRAIN = "train fcn8s --data shapes --size 32x32 --width 0.05 --depth 0.3 --padding same --epochs 3 --batch-size 16"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A network of some thousand weights, trained until it tells some classes apart."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        settle(patch, folder)
        answer = repro(*TRAIN.split(), "--learning-rate", 0.02)
    assert answer.status == 0, answer.err
    (result,) = read_results(folder / "results")
    weights = folder / "runs" / "train-fcn8s-shapes" / result.run_id / "weights.safetensors"
    return Trained(folder, answer, result, weights)


def test_train_says_and_keeps_what_it_reached(trained):
    result = trained.result
    assert (result.status, result.model, result.input_size, result.backend) == ("ok", "fcn8s", (32, 32), BACKEND)
    assert result.metrics["chain_images_seen"] == result.images_seen == 3 * 512
    assert f"mean_iou                   {result.metrics['mean_iou']:.4f}\n" in trained.answer.out
    assert f"weights  {trained.weights}\n" in trained.answer.out
    assert result.weights_sha256 == sha256_of(trained.weights)
    assert trained.answer.err == ""


def test_eval_scores_weights_as_their_training_did(trained, monkeypatch):
    settle(monkeypatch, trained.folder)
    answer = repro("eval", "fcn8s", "--data", "shapes", "--weights", trained.weights)
    assert answer.status == 0, answer.err
    (again,) = (result for result in read_results(trained.folder / "results") if result.kind == "eval")
    of_training = ("chain_images_seen", "train_images")
    assert again.metrics == {k: v for k, v in trained.result.metrics.items() if k not in of_training}
    assert again.artifacts["samples"].sha256 == trained.result.artifacts["samples"].sha256
    assert again.weights_sha256 == trained.result.weights_sha256
    # one class for every pixel would score the same whatever the weights are
    assert sum(scores["iou"] > 0 for scores in again.metrics["per_class"].values()) > 1


def test_predict_writes_pictures_and_shares(trained, pictures, here):
    out = here / "out"
    command = ["-m", "repro", "predict", "fcn8s", pictures, "--weights", trained.weights, "--out", out]
    process = python(*command, env={**os.environ, "KERAS_BACKEND": BACKEND})
    assert process.returncode == 0, process.stderr
    shares = json.loads((out / "predictions.json").read_text())
    assert list(shares) == ["high.jpg", "wide.png"]
    for name, size in (("high", (64, 40)), ("wide", (40, 64))):
        mask = np.asarray(Image.open(out / f"{name}.mask.png"))
        overlay = np.asarray(Image.open(out / f"{name}.overlay.png"))
        assert mask.shape == size
        assert overlay.shape[0] > size[0]  # the legend
        assert overlay.shape[1:] == (2 * size[1], 3)
        classes = ("background", *Shapes.info.classes)
        found = next(value for key, value in shares.items() if key.startswith(name))
        counted = np.bincount(mask.ravel(), minlength=8) / mask.size
        assert found == pytest.approx({classes[k]: counted[k] for k in np.flatnonzero(counted)}, abs=1e-4)


@pytest.fixture
def presets():
    """In place of the suite's: runs that are killed, diverge, lack their data, and one that goes well."""
    small = {"image_size": 32, "max_objects": 1, "min_scale": 0.5, "val_size": 4, "test_size": 8}
    data = Data(name="shapes", options={**small, "train_size": 24})
    network = Network(name="fcn8s", width=0.05, depth=0.3, input_size=(32, 32), options={"padding": "same"})
    kinds = {
        "killed": Majority(task=Segmentation(), data=Data(name="shapes", options={**small, "train_size": 20_000})),
        "diverging": Train(network=network, task=Segmentation(), data=data, recipe="suite", epochs=2, batch_size=8,
                           optimizer="sgd", learning_rate=1e30),
        "absent": Majority(task=Segmentation(), data=Data(name="camvid")),
        "well": Majority(task=Segmentation(), data=data),
    }  # fmt: skip
    before = PRESETS[:]
    PRESETS[:] = [Preset(name, name, {"smoke": kind}, 1, {"smoke": 5}) for name, kind in kinds.items()]
    yield kinds
    PRESETS[:] = before


def test_failures_are_recorded_and_stop_nothing(presets, working_backend, here, monkeypatch):
    listen = launch._messages

    def kill_when_it_speaks(process):
        for message in listen(process):
            if b'"experiment":"killed"' in Path(process.args[-1]).read_bytes():
                process.kill()
            yield message

    monkeypatch.setattr(launch, "_messages", kill_when_it_speaks)
    answer = repro("run", "--profile", "smoke")
    assert answer.status == 1
    assert "1 ok, 1 no data, 2 failed" in answer.out
    assert "data/CamVid does not exist" in answer.out
    assert answer.err == ""
    results = {result.experiment: result for result in read_results(here / "results")}
    assert {name: result.status for name, result in results.items()} == {
        "killed": "failed", "diverging": "failed", "well": "ok",
    }  # fmt: skip
    assert "SIGKILL" in results["killed"].error
    assert re.search(r"loss is (nan|inf) at step [123] of 6, learning rate 1e\+30", results["diverging"].error)
    assert all(result.error in answer.out for result in results.values() if result.error)
    assert (here / "tables" / "README.md").exists()
    # failures are to be done again, what went well is not
    plan = {line.split()[0]: line for line in repro("run", "--profile", "smoke", "--dry-run").out.splitlines()}
    assert list(plan) == list(presets)
    assert [name for name, line in plan.items() if line.endswith("finished")] == ["well"]
