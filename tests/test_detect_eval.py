"""Scoring weight files of detectors: a run's own and Darknet's, by the settings of their card; what is refused."""

import msgspec
import numpy as np
import pytest

from repro import backend, registry
from repro.data import coco, voc
from repro.data.catalog import open_dataset
from repro.errors import ReproError
from repro.experiments.adhoc import evaluation
from repro.harness import checkpoint, detect
from repro.harness.config import Data, Evaluate, Network, TrainDetector
from repro.harness.detect_eval import as_trained, evaluate_detector
from repro.harness.record import read_results
from repro.harness.run import Job
from repro.weights.darknet import write_weights

SHAPES = {"image_size": (48, 64), "min_scale": 0.4, "max_scale": 0.7, "train_size": 1, "val_size": 1, "test_size": 5}
SEARCH = {"width": None, "min_side": 8, "workers": 1}
NETWORKS = {
    "yolo_v2": Network(name="yolo_v2", input_size=(64, 64), width=1 / 32, depth=0.1),
    "fast_rcnn": Network(
        name="fast_rcnn", input_size=(32, 32), width=1 / 32, depth=0.1, options={"proposals": 12, "rois": 4}
    ),
}
DETECT = {"yolo_v2": {"score_threshold": 0.02, "max_detections": 20}, "fast_rcnn": {"score_threshold": 0.01}}


def job_of(network, weights, data="shapes", options=SHAPES):
    sha256 = checkpoint.sha256_of(weights) if weights.exists() else ""
    config = Evaluate(
        network=network, data=Data(name=data, options=options), weights=str(weights), weights_sha256=sha256
    )
    return Job(experiment="eval", config=config, profile="lab", backend=backend.name(), seeds=[0])


def score(job, folder, monkeypatch):
    """The result of a job, and what it told of its progress."""
    monkeypatch.setenv("REPRO_RESULTS", str(folder / "results"))
    heard = []
    evaluate_detector(job, lambda fraction, note: heard.append((fraction, note)))
    (result,) = read_results(folder / "results")
    assert [fraction for fraction, _ in heard] == [0.2, 0.4, 0.6, 0.8, 1]
    return result


@pytest.fixture(scope="module", params=NETWORKS)
def trained(request, tmp_path_factory):
    """Weights as a run leaves them: (network, detector's scores on the test split, weight file, card)."""
    network, folder = NETWORKS[request.param], tmp_path_factory.mktemp(request.param)
    backend.set_seed(0)
    searched = {"proposals": "fast", "search": SEARCH} if network.name == "fast_rcnn" else {}
    config = TrainDetector(
        network=network, data=Data(name="shapes", options=SHAPES), recipe="suite", epochs=1, batch_size=1,
        optimizer="sgd", learning_rate=0.1, test=DETECT[network.name], **searched,
    )  # fmt: skip
    dataset = open_dataset("shapes", **SHAPES)
    built = detect.build(network, 7, 3, "infer")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        records = detect.records_of(dataset, "test", config)
        detector = detect.Detector(built, registry.module_of(network.name).detect, config.test)
        metrics = detect.score(detector, records, dataset, "test", dataset.info.classes, config.recall_counts)
    card = {"model": network.name, "test": config.test, "proposals": config.proposals, "search": config.search}
    path = folder / "weights.safetensors"
    checkpoint.save_arrays(path, checkpoint.weights_of(built), card)
    return built, metrics, path, folder


def test_a_file_scores_as_its_run_did(trained, tmp_path, monkeypatch):
    built, metrics, path, _ = trained
    network = msgspec.structs.replace(NETWORKS[built.name], num_classes=7)
    result = score(job_of(network, path), tmp_path, monkeypatch)
    assert metrics["detections"] > 0
    assert {name: result.metrics[name] for name in metrics} == metrics
    assert (result.kind, result.status, result.scale, result.dataset.split) == ("eval", "ok", "smoke", "test")
    assert (result.init.source, result.init.sha256) == ("file", checkpoint.sha256_of(path))
    assert result.weights_sha256 == checkpoint.sha256_of(path)
    threshold = DETECT[built.name]["score_threshold"]
    assert any(f"{threshold:g}" in str(words) for words in result.protocol.values())
    assert f"{built.inputs[0].shape[1]}x" in result.protocol["inference"]
    assert result.metrics["params"] > 0
    assert ("recall" in result.metrics) == ("proposals" in result.protocol) == (built.name == "fast_rcnn")
    assert (tmp_path / "results" / "eval" / result.artifacts["stages"].file).exists()


@pytest.mark.parametrize("trained", ["yolo_v2"], indirect=True)
def test_a_file_of_darknet_scores_with_the_papers_thresholds(trained, tmp_path, monkeypatch):
    built, _, _, folder = trained
    path = folder / "yolo.weights"
    write_weights(path, built)
    result = score(job_of(NETWORKS["yolo_v2"], path), tmp_path, monkeypatch)
    dataset = open_dataset("shapes", **SHAPES)
    config = as_trained(job_of(NETWORKS["yolo_v2"], path).config, {})
    detector = detect.Detector(built, registry.module_of("yolo_v2").detect, {})
    records = detect.records_of(dataset, "test", config)
    expected = detect.score(detector, records, dataset, "test", dataset.info.classes)
    assert {name: result.metrics[name] for name in expected} == expected
    assert result.weights_sha256 == checkpoint.sha256_of(path)

    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(ReproError, match="numbers"):
        evaluate_detector(job_of(NETWORKS["yolo_v2"], path), lambda *_: None)


def test_what_cannot_be_scored_is_refused(tmp_path):
    missing = tmp_path / "weights.safetensors"
    for network, named in (
        (Network(name="rcnn"), "SVMs"),
        (Network(name="yolo_v2", num_classes=20), "tells 20 classes apart, shapes has 7"),
        (NETWORKS["yolo_v2"], "there is no weight file"),
    ):
        with pytest.raises(ReproError, match=named):
            evaluate_detector(job_of(network, missing), lambda *_: None)


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
    config = evaluation("yolo_v2", "voc2007", path, "test").configs["lab"]
    assert (config.network.variant, config.network.input_size, config.data.test) == ("released", (416, 416), "test")
    assert evaluation("yolo_v3", "coco2017", path, "val", size=(608, 608)).configs["lab"].network.input_size == (
        608,
        608,
    )
    assert evaluation("yolo_v2", "voc2007", path, "test", variant="paper").configs["lab"].network.variant == "paper"
    with pytest.raises(ReproError, match="faster_rcnn reads no Darknet weights"):
        evaluation("faster_rcnn", "voc2007", path, "test")
    with pytest.raises(ReproError, match="says itself"):
        evaluation("yolo_v2", "voc2007", tmp_path / "weights.safetensors", "test", size=(608, 608))
