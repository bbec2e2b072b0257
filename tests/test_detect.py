"""Training and scoring of detectors: coordinates and padding, whole small runs, resumption, pictures learned by heart."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from repro import backend, registry
from repro.data.base import Sample, open_dataset
from repro.data.loader import collate
from repro.harness import detect
from repro.harness.checkpoint import load_arrays, load_weights, sha256_of, state_of
from repro.harness.config import Data, Network, TrainDetector
from repro.harness.inspection import describe
from repro.harness.record import read_results
from repro.harness.run import Job, Run, checkpoint_path
from repro.harness.train import fit, variables_of
from repro.harness.worker import execute
from repro.metrics.detection import proposal_recall
from repro.proposals.cache import proposals_of

SEARCH = {"width": None, "min_side": 8, "workers": 1}


def settings(name, side, data, options, **fields):
    """A detector on generated pictures; Faster R-CNN has one scale of anchors."""
    shapes = {"image_size": side, "min_scale": 0.4, "max_scale": 0.7, **data}
    own = {"fast_rcnn": {"proposals": 12}, "faster_rcnn": {"after_nms": (24, 12), "rpn_sample": 32}}[name]
    searched = {"proposals": "fast", "search": SEARCH} if name == "fast_rcnn" else {}
    common = {"frozen_blocks": 0, "max_boxes": 4, "rois": 16, **own, **options}
    return TrainDetector(
        network=Network(name=name, input_size=(side, side), options=common, **fields.pop("network")),
        data=Data(name="shapes", options=shapes), recipe="suite", optimizer="adamw", augment={"flip": True}, **searched,
        **fields,
    )  # fmt: skip


# --- coordinates and scores


class Oracle(keras.Model):
    """Answers with the objects of its batch, moved to the right; proposes them too."""

    def __init__(self, shift=0.0):
        super().__init__(name="oracle")
        self.shift = shift

    def call(self, batch, training=False):
        real = batch["classes"] >= 0
        boxes = batch["boxes"] + self.shift * np.array([1, 0, 1, 0], "float32")
        count = keras.ops.sum(keras.ops.cast(real, "int32"), axis=1)
        found = {"boxes": boxes, "scores": keras.ops.cast(real, "float32"), "classes": batch["classes"], "count": count}
        return found | {"proposals": boxes, "proposal_valid": real}


@pytest.fixture(scope="module")
def pictures():
    """Six pictures of 48x80 fitted into 64x64: one more than fills a batch, and then some."""
    config = settings("faster_rcnn", 64, {"image_size": (48, 80), "train_size": 6, "max_objects": 3}, {},
                      epochs=1, batch_size=2, learning_rate=1e-3, network={})  # fmt: skip
    dataset = open_dataset("shapes", **config.data.options)
    return dataset, config


def test_boxes_come_back_to_the_original_pictures(pictures):
    dataset, config = pictures
    records, names = detect.records_of(dataset, "train", config), dataset.info.classes
    assert records[0]["valid_size"].tolist() == [38, 64]
    total = sum(len(dataset.sample("train", index).classes) for index in range(6))
    assert total > 6

    found = detect.score(Oracle(), records, dataset, "train", names, counts=(1, 4))
    assert (found["map"], found["map_11_point"], found["coco_ap50"]) == (1, pytest.approx(1), pytest.approx(1))
    assert (found["images"], found["detections"]) == (6, total)
    assert found["recall"]["recall"]["0.5"] == [pytest.approx(6 / total), 1]
    assert sum(entry["objects"] for entry in found["per_class"].values()) == found["recall"]["objects"] == total
    for index, (detections, proposals) in enumerate(detect.predictions_of(Oracle(), records, batch_size=4)):
        sample = dataset.sample("train", index)
        np.testing.assert_allclose(
            detections["boxes"], sample.boxes, atol=0.7
        )  # 38 rows for 48 are not quite 64 for 80
        np.testing.assert_array_equal(detections["classes"], sample.classes)
        np.testing.assert_array_equal(proposals, detections["boxes"])

    missed = detect.score(Oracle(shift=64), records, dataset, "train", names)
    assert missed["map"] == missed["coco_ap"] == 0
    assert "recall" not in missed


def test_truth_is_in_the_original_picture_with_its_flags():
    boxes, classes = np.array([[1, 2, 30, 40], [5, 6, 7, 8]], "float32"), np.array([3, 0], "int32")
    sample = Sample("one", np.zeros((50, 70, 3), "uint8"), boxes=boxes, classes=classes, crowd=np.array([False, True]))
    truth, size = detect.truth_of(SimpleNamespace(sample=lambda split, index: sample), "val", 0)
    assert size == (50, 70)
    np.testing.assert_array_equal(truth["boxes"], boxes)
    assert [truth[name].tolist() for name in ("classes", "difficult", "crowd")] == [[3, 0], [False] * 2, [False, True]]


def test_a_network_gets_what_it_takes():
    network = keras.Model({name: keras.Input((2,), name=name) for name in ("image", "proposals")}, keras.Input((1,)))
    batch = {name: np.ones((1, 2), "uint8") for name in ("image", "proposals", "boxes")}
    taken = detect.inputs_of(network, batch)
    assert taken.keys() == {"image", "proposals"}
    assert keras.backend.standardize_dtype(taken["image"].dtype) == "float32"


# --- whole small runs

COUNTS = (2, 12)


def small_run(name):
    options = {} if name == "fast_rcnn" else {"anchor_scales": (1,), "min_size": 2, "before_nms": (12, 12)}
    return settings(
        name, 32, {"max_objects": 2, "train_size": 6, "val_size": 1, "test_size": 1}, options, epochs=3, batch_size=2,
        learning_rate=1e-3, val_every=2, recall_counts=COUNTS, network={"width": 1 / 32, "depth": 0.3},
    )  # fmt: skip


@dataclasses.dataclass
class Small:
    """Two seeds of one job, its results, its weight files, and what was left of its checkpoints."""

    config: TrainDetector
    results: list
    weights: list
    checkpoints: list


@pytest.fixture(scope="module", params=["fast_rcnn", "faster_rcnn"])
def small(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    config, heard = small_run(request.param), []
    job = Job(experiment="small", config=config, profile="smoke", backend=backend.name(), seeds=[0, 1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        patch.setenv("REPRO_CHECKPOINT_SECONDS", "0")
        execute(job, lambda fraction, note: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[-1] == 1
    results = read_results(folder / "results")
    weights = [folder / "runs" / "small" / result.run_id / "weights.safetensors" for result in results]
    return Small(config, results, weights, list(folder.rglob("*.checkpoint.safetensors")))


def test_the_result_of_a_run_is_whole(small):
    network = small.config.network
    card = describe(
        network.name, num_classes=7, input_size=(32, 32), width=network.width, depth=network.depth, **network.options
    )
    assert [(result.seed, result.status, result.kind) for result in small.results] == [
        (s, "ok", "train") for s in (0, 1)
    ]
    assert not small.checkpoints
    for result, weights in zip(small.results, small.weights, strict=True):
        metrics = result.metrics
        for name in ("map", "map_11_point", "coco_ap", "coco_ap50"):
            assert 0 <= metrics[name] <= 1
        assert (metrics["params"], metrics["images"], metrics["train_images"]) == (card["params"], 1, 6)
        assert len(metrics["per_class"]) == 7
        assert metrics["recall"]["counts"] == [*COUNTS]
        assert result.history["epoch"] == [1, 2, 3]
        assert result.history["val_epoch"] == [2, 3]
        assert len(result.history["val_map"]) == 2
        assert (result.images_seen, metrics["chain_images_seen"], result.scale) == (18, 18, "smoke")
        assert {"epoch", "latency.xla"} <= result.timings.keys()
        assert min(timing.median for timing in result.timings.values()) > 0
        assert result.weights_sha256 == sha256_of(weights)


def test_another_seed_learns_something_else(small):
    first, second = small.results
    assert first.config_hash == second.config_hash
    assert first.history["loss"] != second.history["loss"]
    assert first.weights_sha256 != second.weights_sha256


def test_the_recall_of_selective_search_is_that_of_its_proposals(small):
    if not small.config.proposals:
        pytest.skip("this network proposes regions itself")
    dataset = open_dataset("shapes", **small.config.data.options)
    found = proposals_of(dataset, "test", "fast", 12, **SEARCH)
    expected = proposal_recall([found[0]], [detect.truth_of(dataset, "test", 0)[0]], counts=COUNTS)
    assert [result.metrics["recall"] for result in small.results] == [expected] * 2
    assert expected["objects"] > 0


def test_the_weights_file_alone_gives_the_scores(small):
    config, dataset = small.config, open_dataset("shapes", **small.config.data.options)
    arrays, card = load_arrays(small.weights[1])
    names = dataset.info.classes
    assert (card["model"], card["num_classes"], card["channels"]) == (config.network.name, len(names), 3)
    network = detect.build(config.network, len(names), 3, "infer")
    load_weights(network, arrays, "weights")
    detector = detect.Detector(network, registry.module_of(config.network.name).detect, config.test)
    records = detect.records_of(dataset, "test", config)
    found, result = detect.score(detector, records, dataset, "test", names, COUNTS), small.results[1]
    assert {key: result.metrics[key] for key in found} == found


# --- one learner, twice: broken off and started again, and long enough to know four pictures by heart


@dataclasses.dataclass
class Lesson:
    """A compiled learner, and the state that a fresh one of each seed would have."""

    config: TrainDetector
    dataset: object
    learner: detect.DetectorLearner
    starts: list

    def start(self, seed):
        for variable, value in zip(variables_of(self.learner), self.starts[seed], strict=True):
            variable.assign(value)

    def state(self):
        return list(state_of(variables_of(self.learner)).values())


STEPS = 120


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    config = settings(
        "faster_rcnn", 64, {"max_objects": 1, "train_size": 8},
        {"anchor_scales": (2,), "min_size": 4, "before_nms": (48, 48)}, epochs=4, batch_size=4, learning_rate=2e-3,
        schedule="cosine", warmup=0.05, val_every=1, network={"width": 1 / 8, "depth": 0.3},
    )  # fmt: skip
    dataset = open_dataset("shapes", **config.data.options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(tmp_path_factory.mktemp("lesson") / "results"))
        records = detect.records_of(dataset, "train", config)
    learners = [detect.make_learner(config, dataset.info.classes, seed, STEPS, records) for seed in (0, 1)]
    assert learners[0].jit_compile
    starts = [[np.array(value) for value in state_of(variables_of(learner)).values()] for learner in learners]
    assert any((a != b).any() for a, b in zip(*starts, strict=True))
    return Lesson(config, dataset, learners[0], starts)


def test_a_run_that_was_killed_goes_on_to_the_same_numbers(lesson, monkeypatch):
    """Two steps an epoch, of which the fifth is the last that was begun."""
    monkeypatch.setenv("REPRO_CHECKPOINT_SECONDS", "0")
    records = detect.records_of(lesson.dataset, "train", lesson.config)
    seen = {}

    def train(experiment, report):
        job = Job(experiment=experiment, config=lesson.config, profile="smoke", backend=backend.name(), seeds=[0])
        steps = seen.setdefault(experiment, [])

        def told(fraction, note):
            steps.append(round(8 * fraction))
            report(steps[-1])

        run = Run(job, 0)
        history = fit(lesson.learner, lesson.config, run, 0, records, lambda: {"map": 0.5}, 8, told)
        return history, lesson.state(), checkpoint_path(job, 0)

    def killed(step):
        if step == 5:
            raise KeyboardInterrupt

    lesson.start(0)
    expected, state, _ = train("whole", lambda step: None)
    lesson.start(0)
    with pytest.raises(KeyboardInterrupt):
        train("killed", killed)
    lesson.start(1)  # whatever is not restored will be wrong
    history, resumed, path = train("killed", lambda step: None)
    assert seen == {"whole": [*range(1, 9)], "killed": [1, 2, 3, 4, 5, 5, 6, 7, 8]}
    for key in ("epoch", "loss", "val_map", "val_epoch"):
        assert history[key] == expected[key]
        assert len(history[key]) == 4
    for mine, whole in zip(resumed, state, strict=True):
        np.testing.assert_array_equal(mine, whole)
    assert path.exists()


def test_learns_four_pictures_by_heart(lesson):
    dataset, names = lesson.dataset, lesson.dataset.info.classes
    records = detect.records_of(dataset, "train", lesson.config, limit=4)
    batch = collate([records[index] for index in range(4)])
    assert len(set(batch["classes"][:, 0])) >= 3
    network = detect.build(lesson.config.network, len(names), 3, "infer")
    detector = detect.Detector(network, registry.module_of("faster_rcnn").detect, {})

    def scores():
        detect.copy_weights(lesson.learner.network, network)
        return detect.score(detector, records, dataset, "train", names, (12,))

    lesson.start(0)
    untrained = scores()
    assert untrained["map"] < 0.2
    assert untrained["coco_ap"] < 0.05
    for _ in range(STEPS):
        lesson.learner.train_on_batch(batch)
    learned = scores()
    assert learned["map"] > 0.9
    assert learned["coco_ap"] > 0.5
    assert learned["recall"]["recall"]["0.7"] == [1]
