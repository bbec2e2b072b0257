"""Scoring weight files of detectors: a run's own and Darknet's, by the settings of their card; what is refused."""

import msgspec
import numpy as np
import pytest

from repro import backend, registry
from repro.data import coco, voc
from repro.data.catalog import open_dataset
from repro.engine import checkpoint
from repro.errors import ReproError
from repro.experiments.evaluate import Evaluate
from repro.files import sha256_of
from repro.records.settings import Data, Network
from repro.runner.adhoc import evaluation
from repro.tasks import RCNN, Detection, Yolo
from repro.tasks.predictors import DetectorPredictor
from repro.weights.darknet import write_weights
from tests.support.kinds import run_kind, scores

SHAPES = {"image_size": (48, 64), "min_scale": 0.4, "max_scale": 0.7, "train_size": 1, "val_size": 1, "test_size": 5}
SEARCH = {"width": None, "min_side": 8, "workers": 1}
NETWORKS = {
    "yolo_v2": Network(name="yolo_v2", input_size=(64, 64), width=1 / 32, depth=0.1),
    "fast_rcnn": Network(
        name="fast_rcnn", input_size=(32, 32), width=1 / 32, depth=0.1, options={"proposals": 12, "rois": 4}
    ),
}
TASKS = {
    "yolo_v2": Yolo(decoding={"score_threshold": 0.02, "max_detections": 20}),
    "fast_rcnn": Detection(proposals="fast", search=SEARCH, decoding={"score_threshold": 0.01}),
}
DATA = Data(name="shapes", options=SHAPES)


def evaluate(network, weights, task):
    sha256 = sha256_of(weights) if weights.exists() else ""
    return Evaluate(network=network, data=DATA, task=task, weights=str(weights), weights_sha256=sha256)


def result_of(kind, folder, monkeypatch):
    """The result of a kind, and what it told of its progress."""
    monkeypatch.setenv("REPRO_RESULTS", str(folder / "results"))
    heard = []
    (result,) = run_kind(kind, experiment="eval", progress=lambda fraction, note: heard.append(fraction))
    assert heard == [0.2, 0.4, 0.6, 0.8, 1]
    return result


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, tmp_path_factory):
    """Weights as a run leaves them: (network, detector's scores on the test split, weight file, folder)."""
    network, task, folder = NETWORKS[request.param], TASKS[request.param], tmp_path_factory.mktemp(request.param)
    backend.set_seed(0)
    dataset, predictor = open_dataset("shapes", **SHAPES), task.predictor(network, DATA, 7, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        metrics = scores(task, predictor, task.records(network, DATA, dataset, "test"), dataset, "test")
    card = checkpoint.Card(network=msgspec.structs.replace(network, num_classes=7, channels=3), task=task, data=DATA)
    path = folder / "weights.safetensors"
    checkpoint.save_arrays(path, checkpoint.weights_of(predictor.network), msgspec.to_builtins(card))
    return predictor.network, metrics, path, folder


def test_a_file_scores_as_its_run_did(trained, tmp_path, monkeypatch):
    built, metrics, path, _ = trained
    result = result_of(evaluation(built.name, "shapes", path, "test").configs["cpu"], tmp_path, monkeypatch)
    assert metrics["detections"] > 0
    assert {name: result.metrics[name] for name in metrics} == metrics
    assert (result.kind, result.status, result.scale, result.dataset.split) == ("eval", "ok", "smoke", "test")
    assert (result.init.source, result.init.sha256) == ("file", sha256_of(path))
    assert result.weights_sha256 == sha256_of(path)
    threshold = TASKS[built.name].decoding["score_threshold"]
    assert any(f"{threshold:g}" in str(words) for words in result.protocol.values())
    assert f"{built.inputs[0].shape[1]}x" in result.protocol["inference"]
    assert result.metrics["params"] > 0
    assert ("recall" in result.metrics) == ("proposals" in result.protocol) == (built.name == "fast_rcnn")
    assert (tmp_path / "results" / "eval" / result.artifacts["stages"].file).exists()


@pytest.mark.parametrize("trained", ["yolo_v2"], indirect=True)
def test_a_file_of_darknet_scores_with_the_papers_thresholds(trained, tmp_path, monkeypatch):
    built, _, _, folder = trained
    path, network, task = folder / "yolo.weights", NETWORKS["yolo_v2"], Yolo()
    write_weights(path, built)
    result = result_of(evaluate(network, path, task), tmp_path, monkeypatch)
    dataset = open_dataset("shapes", **SHAPES)
    predictor = DetectorPredictor(built, registry.module_of("yolo_v2").detect, {})
    expected = scores(task, predictor, task.records(network, DATA, dataset, "test"), dataset, "test")
    assert {name: result.metrics[name] for name in expected} == expected
    assert result.weights_sha256 == sha256_of(path)

    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ReproError, match="numbers"):
        run_kind(evaluate(network, path, task))


def test_what_cannot_be_scored_is_refused(tmp_path):
    missing = tmp_path / "weights.safetensors"
    for network, task, named in (
        (Network(name="rcnn"), RCNN(), "SVMs"),
        (Network(name="yolo_v2", num_classes=20), Yolo(), "tells 20 classes apart, shapes has 7"),
        (NETWORKS["yolo_v2"], Yolo(), "there is no weight file"),
    ):
        with pytest.raises(ReproError, match=named):
            run_kind(evaluate(network, missing, task))


def test_a_detector_of_one_class_is_no_sigmoid_that_tells_two_apart(tmp_path, monkeypatch):
    monkeypatch.setattr(Yolo, "class_names", lambda task, info: ("a", "b"))
    with pytest.raises(ReproError, match="tells 1 classes apart"):
        run_kind(evaluate(Network(name="yolo_v2", num_classes=1), tmp_path / "weights.safetensors", Yolo()))


# in the order of Darknet's data/coco.names and data/voc.names, which is that of the official weights' outputs
VOC_NAMES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
COCO_NAMES = """person,bicycle,car,motorbike,aeroplane,bus,train,truck,boat,traffic light,fire hydrant,stop sign,
parking meter,bench,bird,cat,dog,horse,sheep,cow,elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,
frisbee,skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,bottle,
wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,broccoli,carrot,hot dog,pizza,donut,cake,chair,sofa,
pottedplant,bed,diningtable,toilet,tvmonitor,laptop,mouse,remote,keyboard,cell phone,microwave,oven,toaster,sink,
refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush""".replace("\n", "").split(",")
SYNONYMS = {"motorbike": "motorcycle", "aeroplane": "airplane", "sofa": "couch", "pottedplant": "potted plant",
            "diningtable": "dining table", "tvmonitor": "tv"}  # fmt: skip


def test_official_weights_have_the_classes_in_the_loaders_order():
    assert VOC_NAMES == voc.CLASSES
    assert tuple(SYNONYMS.get(name, name) for name in COCO_NAMES) == coco.CLASSES
    assert len(np.unique(COCO_NAMES)) == 80


def test_darknet_weights_are_scored_as_the_released_network(tmp_path):
    path = tmp_path / "yolov2-voc.weights"
    path.write_bytes(b"")
    config = evaluation("yolo_v2", "voc2007", path, "test").configs["cpu"]
    assert (config.network.variant, config.network.input_size, config.data.test) == ("released", (416, 416), "test")
    assert evaluation("yolo_v3", "coco2017", path, "val", size=(608, 608)).configs["cpu"].network.input_size == (
        608,
        608,
    )
    assert evaluation("yolo_v2", "voc2007", path, "test", variant="paper").configs["cpu"].network.variant == "paper"
    with pytest.raises(ReproError, match="faster_rcnn reads no Darknet weights"):
        evaluation("faster_rcnn", "voc2007", path, "test")
    with pytest.raises(ReproError, match="says itself"):
        evaluation("yolo_v2", "voc2007", tmp_path / "weights.safetensors", "test", size=(608, 608))
