"""R-CNN: its regions and labels, its features on disk, and a whole small run."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

from repro import backend, registry
from repro.data.base import Sample
from repro.data.catalog import open_dataset
from repro.engine.checkpoint import load_arrays, load_weights, read_card
from repro.experiments.architectures import describe
from repro.experiments.train import Train
from repro.facts import paper_value
from repro.files import sha256_of
from repro.metrics.detection import voc_ap
from repro.models import rcnn, vgg
from repro.proposals.cache import Proposals, proposals_of
from repro.records.run import Run, weights_path
from repro.records.settings import Data, Network
from repro.tasks import RCNN, regions
from repro.tasks.objects import objects_of
from tests.reference.boxes import loop_decode, loop_encode, loop_iou
from tests.reference.nms import sequential_class_nms
from tests.support.kinds import run_kind

SIDE, CLASSES = 32, 3
SMALL = {"num_classes": CLASSES, "input_size": (SIDE, SIDE), "channels": 3, "width": 1 / 32, "depth": 0.3}


def fact(name):
    return paper_value("rcnn", name).value


# --- regions

TASK = RCNN(search={"width": None, "min_side": 8, "workers": 1}, num_proposals=12)


class Scenes:
    """A data set of a few given samples."""

    info = SimpleNamespace(classes=("a", "b", "c"))

    def __init__(self, samples):
        self._samples = samples

    def size(self, split):
        return len(self._samples)

    def sample(self, split, index):
        return self._samples[index]


def scene(boxes=(), classes=(), size=(60, 80), channels=3, **flags):
    noise = np.random.default_rng(len(boxes)).integers(0, 256, (*size, channels), dtype=np.uint8)
    flags = {name: np.array(values, bool) for name, values in flags.items()}
    boxes = np.array(boxes, "float32").reshape(-1, 4)
    return Sample("one", noise, boxes=boxes, classes=np.array(classes, "int32"), **flags)


@pytest.fixture
def images(monkeypatch):
    """`Images` of given samples, whose proposals are given too."""

    def make(samples, proposals, limit=None, side=SIDE):
        found = Proposals([(np.array(boxes, "float32").reshape(-1, 4), 0.5) for boxes in proposals])
        monkeypatch.setattr(regions, "proposals_of", lambda *a, limit, **o: found)
        network = Network(name="rcnn", input_size=(side, side))
        return TASK.records(network, Data(name="shapes"), Scenes(samples), "train", limit)

    return make


def test_regions_show_the_proposal_in_its_context(images):
    sample = scene(size=(240, 240))
    found = images([sample], [[]], side=224).regions(0, np.array([[20, 30, 212, 222], [0, 30, 192, 222]], "float32"))
    assert (found.shape, found.dtype) == ((2, 224, 224, 3), np.uint8)
    np.testing.assert_array_equal(found[0], sample.image[14:238, 4:228])
    np.testing.assert_array_equal(found[1, :, 16:], sample.image[14:238, :208])
    np.testing.assert_array_equal(found[1, :, :16], np.broadcast_to(np.round(vgg.MEAN_RGB), (224, 16, 3)))


def test_regions_of_grey_images_and_none(images):
    made = images([scene(channels=1)], [[]])
    assert made.regions(0, np.zeros((0, 4), "float32")).shape == (0, SIDE, SIDE, 1)
    outside = made.regions(0, np.array([[-100, -100, -60, -60]], "float32"))
    assert set(np.unique(outside)) <= {127, 128}


def test_objects_to_learn_from_are_neither_difficult_nor_crowds(images):
    boxes = [[0, 0, 9, 9], [10, 10, 19, 19], [20, 20, 29, 29], [30, 30, 39, 39]]
    difficult, crowd = [False, True, False, False], [False, False, True, False]
    samples = [scene(boxes, [2, 1, 0, 1], difficult=difficult, crowd=crowd), scene(boxes[:1], [2]), scene()]
    made = images(samples, [[], [], []], limit=2)
    assert len(made) == 2
    found, classes = made.objects(0)
    np.testing.assert_array_equal(found, np.array(boxes)[[0, 3]])
    np.testing.assert_array_equal(classes, [2, 1])
    np.testing.assert_array_equal(made.objects(1)[1], [2])
    assert len(images(samples, [[], [], []], limit=9)) == 3


# two objects, of which the second is difficult; half of the first, a little less, far away, on the difficult one
OBJECTS = [[10, 10, 30, 30], [50, 30, 70, 50]]
NEAR = [[10, 10, 30, 20], [10, 10, 30, 19], [60, 0, 80, 20], [50, 30, 70, 50]]
FAR = [[0, 0, 20, 12], [30, 30, 50, 60], [40, 0, 70, 30], [5, 30, 40, 55], [20, 35, 45, 60], [1, 2, 30, 9]]


def labels_by_region(records):
    """Region's bytes to its label; regions of noise are all different."""
    return {records[i]["image"].tobytes(): int(records[i]["label"]) for i in range(len(records))}


def test_labels_are_by_an_iou_of_half_and_a_quarter_is_positive(images):
    sample = scene(OBJECTS, [2, 0], difficult=[False, True])
    made = images([sample, scene()], [NEAR, FAR])
    records = regions.RegionRecords(made, seed=0)
    found = labels_by_region(records)
    expected = {}
    for index, boxes in ((0, [OBJECTS[0], *NEAR]), (1, FAR)):
        for box, region in zip(boxes, made.regions(index, np.array(boxes, "float32")), strict=True):
            expected[region.tobytes()] = 3 if index == 0 and loop_iou(box, OBJECTS[0]) >= 0.5 else 0
    assert len(expected) == 11
    assert sorted(found.values()) == [0] * 6 + [3] * 2
    assert found.items() <= expected.items()
    record = records[0]
    np.testing.assert_array_equal(record["valid_size"], [SIDE, SIDE])
    assert record["label"].dtype == "int32"


def test_a_proposal_belongs_to_the_object_it_covers_best(images):
    """IoU 15/25 with the first and 17/23 with the second."""
    sample = scene([[0, 0, 40, 20], [0, 8, 40, 28]], [0, 2])
    made = images([sample], [[[0, 5, 40, 25]]])
    region = made.regions(0, np.array([[0, 5, 40, 25]], "float32"))[0].tobytes()
    assert labels_by_region(regions.RegionRecords(made, seed=0))[region] == 3


def test_the_sample_of_backgrounds_is_a_function_of_the_seed(images):
    made = images([scene(OBJECTS[:1], [1]), scene()], [NEAR[2:], FAR])
    first, again, other = (labels_by_region(regions.RegionRecords(made, seed)) for seed in (0, 0, 1))
    assert list(first.items()) == list(again.items())
    assert sorted(first.values()) == sorted(other.values()) == [0, 0, 0, 2]
    assert {region for region, label in first.items() if label} == {region for region, label in other.items() if label}
    assert first.keys() != other.keys()


def test_where_backgrounds_are_few_all_are_shown(images):
    made = images([scene(OBJECTS, [1, 0])], [NEAR])
    assert sorted(labels_by_region(regions.RegionRecords(made, 0)).values()) == [0, 0, 1, 2, 2]


# --- from features to boxes


def some_boxes(rng, count, size=(60, 80)):
    low = rng.uniform(0, [size[1] - 12, size[0] - 12], (count, 2))
    return np.concatenate([low, low + rng.uniform(6, 40, (count, 2))], axis=1).astype("float32")


def test_features_go_through_the_network_some_at_a_time(monkeypatch):
    monkeypatch.setattr(regions, "REGIONS", 4)
    backend.set_seed(0)
    predictor = regions.RegionPredictor(registry.build("rcnn", **SMALL), num_proposals=12)
    shown = np.random.default_rng(0).integers(0, 256, (10, SIDE, SIDE, 3), dtype=np.uint8)
    expected = predictor.network(shown.astype("float32"), training=False)
    found = predictor.features(shown)
    assert found.keys() == {"scores", "features", "pool5"}
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-4, atol=1e-5)
        assert np.ptp(values, axis=0).max() > 0
    for name, values in predictor.features(shown[:0]).items():
        assert values.shape == (0, expected[name].shape[1])


def test_overlaps_are_the_highest_of_each_class():
    rng = np.random.default_rng(1)
    proposals, truth, classes = some_boxes(rng, 9), some_boxes(rng, 5), np.array([2, 0, 2, 2, 0])
    expected = np.zeros((9, 4))
    for p, proposal in enumerate(proposals):
        for box, kind in zip(truth, classes, strict=True):
            expected[p, kind] = max(expected[p, kind], loop_iou(proposal, box))
    found = regions.class_overlaps(proposals, truth, classes, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.dtype == "float32"
    assert (found[:, [0, 2]] > 0).any(axis=0).all()
    assert not regions.class_overlaps(proposals, truth[:0], classes[:0], 4).any()


def test_examples_are_the_regions_close_to_an_object(monkeypatch):
    truth, classes = np.array([[0, 0, 40, 20], [40, 20, 60, 60]], "float32"), np.array([2, 0])
    moved = [[0, 0, 40, 12], [0, 0, 40, 13], [4, 0, 40, 20], [44, 22, 62, 60], [20, 0, 60, 20]]  # the first is at 0.6
    boxes = np.concatenate([np.array(moved, "float32"), truth])
    features = np.arange(7 * 5, dtype="float32").reshape(7, 5)
    examples = [[], [], []]
    regions.collect_box_examples(examples, features, boxes, truth, classes)
    for kind, rows, box in ((2, (1, 2, 5), truth[0]), (0, (3, 6), truth[1]), (1, (), None)):
        assert len(examples[kind]) == len(rows)
        for row, (feature, target) in zip(rows, examples[kind], strict=True):
            np.testing.assert_array_equal(feature, features[row])
            np.testing.assert_allclose(target, loop_encode(box, boxes[row]), atol=1e-6)
    assert not np.any(examples[0][-1][1])

    regions.collect_box_examples(examples, features, boxes, truth[:0], classes[:0])
    monkeypatch.setattr(regions, "BOX_SAMPLES", 4)
    regions.collect_box_examples(examples, features, boxes, truth, classes)
    assert [len(rows) for rows in examples] == [4, 0, 4]


def test_deltas_are_each_class_regression():
    rng = np.random.default_rng(2)
    pool5, weights = rng.normal(size=(6, 5)).astype("float32"), rng.normal(size=(2, 6, 4)).astype("float32")
    features = rng.normal(size=(6, 7)).astype("float32")
    svms, bias = rng.normal(size=(7, 3)).astype("float32"), rng.normal(size=3).astype("float32")
    predictor = regions.RegionPredictor(registry.build("rcnn", **SMALL), num_proposals=12)
    predictor.solved = {
        "weights": svms, "bias": bias, "scale": 0.25, "boxes": [weights[0], None, weights[1]], "box_scale": 0.5,
    }  # fmt: skip
    scores, found = predictor.classify({"features": features, "pool5": pool5})
    for region, kind in np.ndindex(6, 3):
        expected = sum(0.25 * features[region, i] * svms[i, kind] for i in range(7)) + bias[kind]
        assert scores[region, kind] == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for kind, own in ((0, weights[0]), (2, weights[1])):
        for region, values in enumerate(pool5):
            expected = [sum(0.5 * values[i] * own[i, d] for i in range(5)) + own[5, d] for d in range(4)]
            np.testing.assert_allclose(found[region, kind], expected, rtol=1e-4, atol=1e-5)
    assert (found.shape, found.dtype) == ((6, 3, 4), "float32")
    assert not found[:, 1].any()


@pytest.fixture(scope="module")
def decoder():
    """A predictor of at most 9 detections that score more than -1, compiled."""
    predictor = regions.RegionPredictor(registry.build("rcnn", **SMALL), num_proposals=16)
    predictor._programs["svm"] = backend.forward(regions.Decode(regions.SVM_THRESHOLD, 9), "xla")
    return predictor


@pytest.mark.parametrize("number", [0, 2, 16])
def test_decoded_boxes_are_those_of_numpy(decoder, number):
    rng, size = np.random.default_rng(number), (60, 80)
    proposals = some_boxes(rng, number)
    scores = rng.normal(-0.5, 1, (number, CLASSES)).astype("float32")
    deltas = rng.normal(0, 0.2, (number, CLASSES, 4)).astype("float32")
    boxes = np.zeros((number, CLASSES, 4), "float32")
    for region, kind in np.ndindex(number, CLASSES):
        x1, y1, x2, y2 = loop_decode(deltas[region, kind], proposals[region])
        boxes[region, kind] = max(x1, 0), max(y1, 0), min(x2, size[1]), min(y2, size[0])
    best = sequential_class_nms(boxes, scores, rcnn.NMS_IOU, -1.0, 9)
    assert 1 < len(best) < 9 if number == 2 else len(best) == min(number, 9)

    found = decoder.decode("svm", proposals, deltas, scores, size)
    np.testing.assert_array_equal(found["classes"], [kind for _, kind, _ in best])
    np.testing.assert_allclose(found["scores"], [-score for score, *_ in best], rtol=1e-6)
    expected = np.array([boxes[region, kind] for _, kind, region in best]).reshape(-1, 4)
    np.testing.assert_allclose(found["boxes"], expected, atol=1e-3)


# --- a whole small run

RUN = Train(
    network=Network(name="rcnn", width=1 / 32, depth=0.3, input_size=(SIDE, SIDE)),
    data=Data(
        name="shapes",
        options={
            "image_size": 32, "max_objects": 2, "min_scale": 0.4, "max_scale": 0.7, "train_size": 6, "val_size": 1,
            "test_size": 3,
        },
    ),
    recipe="suite", epochs=1, batch_size=8, optimizer="adamw", learning_rate=1e-3, augment={"flip": True}, task=TASK,
)  # fmt: skip


@dataclasses.dataclass
class Small:
    """Two seeds, of which the first broke off at its SVMs once and was started again."""

    folder: object
    results: list
    weights: list
    kept: int  # files of features when the SVMs began
    left: int  # and after the failure
    checkpoint: bool  # whether there was one then


def run_small(**options):
    return run_kind(RUN, (0, 1), "small-rcnn", **options)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rcnn")
    kept, heard = [], []

    def broken(*arguments, **options):
        kept.append(len(list(folder.rglob("features/*.npz"))))
        raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        with patch.context() as inner:
            inner.setattr(regions, "train_svms", broken)
            with pytest.raises(RuntimeError, match="killed"):
                run_small()
        run = Run("small-rcnn", RUN, 0, profile="smoke", backend=backend.name())
        left, checkpoint = len(list(folder.rglob("features"))), run.checkpoint().exists()
        results = run_small(progress=lambda fraction, note: heard.append(fraction))
        weights = [weights_path(result) for result in results]
    assert heard == sorted(heard)
    assert heard[-1] == 1
    return Small(folder, results, weights, *kept, left, checkpoint)


def test_features_are_on_the_disk_only_while_they_are_needed(small):
    assert small.kept == RUN.data.options["train_size"]
    assert small.left == 0
    assert not list(small.folder.rglob("features"))
    assert small.checkpoint
    assert not list(small.folder.rglob("*.checkpoint.safetensors"))


def test_the_result_of_a_run_is_whole(small):
    assert [(result.seed, result.status) for result in small.results] == [(0, "ok"), (1, "ok")]
    for result, weights in zip(small.results, small.weights, strict=True):
        metrics, network = result.metrics, describe("rcnn", **SMALL | {"num_classes": 7})
        for name in ("map", "map_11_point", "map_unrefined", "map_softmax", "coco_ap"):
            assert 0 <= metrics[name] <= 1
        assert (metrics["params"], metrics["flops"]) == (network["params"], 12 * network["flops"])
        assert (metrics["images"], metrics["train_images"], result.scale) == (3, 6, "smoke")
        assert metrics["detections"] > 0
        stages = {"proposals", "warp", "network", "SVMs and boxes", "NMS"}
        assert result.timings.keys() == {"epoch", "scoring", *(f"stage.{name}" for name in stages)}
        assert {result.timings[f"stage.{name}"].n for name in stages} == {2}  # the first image compiles
        assert min(timing.median for timing in result.timings.values()) > 0
        assert not {"latency", "selection"} & result.protocol.keys()  # no single program, and no curve
        assert result.weights_sha256 == sha256_of(weights)


def test_counts_of_a_run_are_those_of_its_data(small, monkeypatch):
    """Positives of the SVMs are the objects; features take 16 bits each, overlaps 32, and an archive some more."""
    dataset = open_dataset("shapes", **RUN.data.options)
    samples = [dataset.sample("train", index) for index in range(6)]
    objects = np.bincount(np.concatenate([sample.classes for sample in samples]), minlength=7)
    proposals = proposals_of(dataset, "train", "fast", 12, **TASK.search)
    number = np.mean([len(boxes) for boxes in proposals])
    for result in small.results:
        assert result.metrics["svm_positives"] == objects.tolist()
        assert 0 < result.metrics["feature_bytes"] - number * (128 * 2 + 7 * 4) < 1000


def test_the_time_of_training_is_that_of_its_parts(small):
    for result in small.results:
        seconds = result.metrics["training_seconds"]
        assert list(seconds) == ["fine-tuning", "features", "SVMs", "box regression"]
        assert min(seconds.values()) >= 0
        # what was done before a run broke off is counted too
        assert seconds["fine-tuning"] >= sum(result.history["seconds"]) - 0.01


def test_another_seed_learns_something_else(small):
    first, second = small.results
    assert first.config_hash == second.config_hash
    assert first.history["loss"] != second.history["loss"]
    assert first.weights_sha256 != second.weights_sha256
    assert first.images_seen == second.images_seen > 0


def test_the_weights_file_alone_gives_the_scores(small):
    result, dataset = small.results[1], open_dataset("shapes", **RUN.data.options)
    path = small.weights[1]
    arrays, card = load_arrays(path)[0], read_card(path)
    assert (card.network.name, card.task, card.run) == ("rcnn", TASK, f"{result.experiment}/{result.run_id}")
    names = dataset.info.classes
    predictor = TASK.predictor(RUN.network, RUN.data, len(names), 3)
    load_weights(predictor.network, arrays, str(path))
    scale, box_scale = arrays["svm/scales"]
    predictor.solved = {
        "weights": arrays["svm/weights"], "bias": arrays["svm/bias"], "scale": scale, "box_scale": box_scale,
        "boxes": [arrays.get(f"boxes/{name}") for name in names],
    }  # fmt: skip
    assert predictor.solved["weights"].shape == (128, 7)
    assert any(boxes is not None for boxes in predictor.solved["boxes"])
    found = [prediction for prediction, _ in predictor.predict(TASK.records(RUN.network, RUN.data, dataset, "test"))]
    truths = objects_of(dataset, "test", 3).truths
    for name, metric in (("full", "map"), ("unrefined", "map_unrefined"), ("softmax", "map_softmax")):
        areas = voc_ap([prediction[name] for prediction in found], truths, len(names))
        assert areas["mean"] == pytest.approx(result.metrics[metric], abs=1e-6)
    moved = [[prediction[name]["boxes"].tolist() for prediction in found] for name in ("full", "unrefined")]
    assert sum(map(len, moved[0])) == result.metrics["detections"] > 0
    assert moved[0] != moved[1]
