"""Detectors trained and scored: coordinates and padding, whole small runs, resumption, pictures learned by heart."""

import dataclasses
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from repro import backend
from repro.data.base import Sample
from repro.data.catalog import open_dataset
from repro.engine import train as training
from repro.engine.checkpoint import load_arrays, load_weights, read_card, state_of, weights_of
from repro.engine.train import fit
from repro.experiments.architectures import describe
from repro.experiments.train import Train
from repro.files import sha256_of
from repro.metrics.detection import proposal_recall
from repro.proposals.cache import proposals_of
from repro.records.result import Result, Xla
from repro.records.run import Run, weights_path
from repro.records.settings import Data, Network
from repro.tasks import Detection
from repro.tasks.base import Phase
from repro.tasks.learners import DetectorLearner, network_inputs, state_variables
from repro.tasks.objects import objects_of
from repro.tasks.predictors import DetectorPredictor
from tests.support.kinds import oracle, run_kind, scores

SEARCH = {"width": None, "min_side": 8, "workers": 1}


def settings(name, side, data, options, **fields):
    """A detector on generated pictures; Faster R-CNN has one scale of anchors. `recall_counts` are the task's."""
    shapes = {"image_size": side, "min_scale": 0.4, "max_scale": 0.7, **data}
    own = {"fast_rcnn": {"proposals": 12}, "faster_rcnn": {"after_nms": (24, 12), "rpn_sample": 32}}[name]
    searched = {"proposals": "fast", "search": SEARCH} if name == "fast_rcnn" else {}
    common = {"frozen_blocks": 0, "max_boxes": 4, "rois": 16, **own, **options}
    counts = {key: fields.pop(key) for key in ("recall_counts",) if key in fields}
    return Train(
        network=Network(name=name, input_size=(side, side), options=common, **fields.pop("network")),
        data=Data(name="shapes", options=shapes), recipe="suite", optimizer="adamw", augment={"flip": True},
        task=Detection(**searched, **counts), **fields,
    )  # fmt: skip


# --- coordinates and scores


def records_of(dataset, split, config, limit=None):
    return config.task.records(config.network, config.data, dataset, split, limit)


@pytest.fixture(scope="module")
def pictures():
    """Six pictures of 48x80 fitted into 64x64: one more than fills a batch, and then some."""
    config = settings("faster_rcnn", 64, {"image_size": (48, 80), "train_size": 6, "max_objects": 3}, {},
                      epochs=1, batch_size=2, learning_rate=1e-3, network={})  # fmt: skip
    dataset = open_dataset("shapes", **config.data.options)
    return dataset, config


def test_boxes_come_back_to_the_original_pictures(pictures):
    dataset, config = pictures
    records, predictor = records_of(dataset, "train", config), oracle((64, 64))
    assert records[0]["valid_size"].tolist() == [38, 64]
    total = sum(len(dataset.sample("train", index).classes) for index in range(6))
    assert total > 6

    found = scores(Detection(recall_counts=(1, 4)), predictor, records, dataset, "train")
    assert (found["map"], found["map_11_point"], found["coco_ap50"]) == (1, pytest.approx(1), pytest.approx(1))
    assert (found["images"], found["detections"]) == (6, total)
    assert found["recall"]["recall"]["0.5"] == [pytest.approx(6 / total), 1]
    assert sum(entry["objects"] for entry in found["per_class"].values()) == found["recall"]["objects"] == total
    assert predictor.batch_size == 4
    for index, (prediction, record) in enumerate(predictor.predict(records)):
        sample = dataset.sample("train", index)
        # 38 rows for 48 are not quite 64 for 80
        np.testing.assert_allclose(prediction["boxes"], sample.boxes, atol=0.7)
        np.testing.assert_array_equal(prediction["classes"], sample.classes)
        np.testing.assert_array_equal(prediction["proposals"], prediction["boxes"])
        np.testing.assert_array_equal(record["image"], records[index]["image"])

    missed = scores(Detection(recall_counts=()), oracle((64, 64), shift=64), records, dataset, "train")
    assert missed["map"] == missed["coco_ap"] == 0
    assert "recall" not in missed


def test_truth_is_in_the_original_picture_with_its_flags():
    boxes, classes = np.array([[1, 2, 30, 40], [5, 6, 7, 8]], "float32"), np.array([3, 0], "int32")
    sample = Sample("one", np.zeros((50, 70, 3), "uint8"), boxes=boxes, classes=classes, crowd=np.array([False, True]))
    ids, (truth,), sizes = objects_of(SimpleNamespace(sample=lambda split, index: sample), "val", 1)
    assert (ids, sizes) == (["one"], [(50, 70)])
    np.testing.assert_array_equal(truth["boxes"], boxes)
    assert [truth[name].tolist() for name in ("classes", "difficult", "crowd")] == [[3, 0], [False] * 2, [False, True]]


def test_a_network_gets_what_it_takes():
    inputs = {name: keras.Input((2,), name=name) for name in ("image", "proposals")}
    network = keras.Model(inputs, keras.layers.Add()([*inputs.values()]))
    batch = {name: np.ones((1, 2), "uint8") for name in ("image", "proposals", "boxes")}
    taken = network_inputs(network, batch)
    assert taken.keys() == {"image", "proposals"}
    assert keras.backend.standardize_dtype(taken["image"].dtype) == "float32"


# --- whole small runs

COUNTS = (2, 12)


def small_run(name):
    """Fast R-CNN as small as can be, Faster R-CNN large enough to learn a few pictures by heart."""
    narrow = name == "fast_rcnn"
    options = {} if narrow else {"anchor_scales": (2,), "min_size": 4, "before_nms": (48, 48)}
    data = {"max_objects": 2 if narrow else 1, "train_size": 6, "val_size": 1, "test_size": 1}
    return settings(
        name, 32 if narrow else 64, data, options, epochs=3, batch_size=2, learning_rate=1e-3, val_every=2,
        recall_counts=COUNTS, network={"width": 1 / 32 if narrow else 1 / 8, "depth": 0.3},
    )  # fmt: skip


@dataclasses.dataclass
class Small:
    """Two seeds of one kind: results, weight files, checkpoints left; its compiled learner and predictor, and the state
    each seed began with."""

    config: Train
    dataset: object
    results: list[Result]
    weights: list
    checkpoints: list
    learner: DetectorLearner
    predictor: DetectorPredictor
    starts: list

    def start(self, seed):
        for variable, value in zip(state_variables(self.learner), self.starts[seed], strict=True):
            variable.assign(value)

    def fit(self, name, seed, records, steps, validate=None, report=lambda fraction, note: None):
        run = Run(name, self.config, seed, profile="smoke", backend=backend.name())
        return fit(Phase("", self.learner, records, seed), self.config, run, steps, validate, report)


@pytest.fixture(scope="module", params=["fast_rcnn", "faster_rcnn"])
def small(request, tmp_path_factory):
    folder, config = tmp_path_factory.mktemp(request.param), small_run(request.param)
    heard, learners, starts, predictors = [], [], [], []

    def learner(task, *arguments, make=Detection.learner):
        learners.append(make(task, *arguments))
        starts.append([np.array(value) for value in state_of(state_variables(learners[-1])).values()])
        return learners[-1]

    def predictor(task, *arguments, make=Detection.predictor):
        predictors.append(make(task, *arguments))
        return predictors[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        patch.setenv("REPRO_CHECKPOINT_SECONDS", "0")
        patch.setattr(Detection, "learner", learner)
        patch.setattr(Detection, "predictor", predictor)
        results = run_kind(config, (0, 1), "small", progress=lambda fraction, note: heard.append(fraction))
        weights = [weights_path(result) for result in results]
    assert heard == sorted(heard)
    assert heard[-1] == 1
    left = list(folder.rglob("*.checkpoint.safetensors"))
    dataset = open_dataset("shapes", **config.data.options)
    return Small(config, dataset, results, weights, left, learners[0], *predictors, starts)


def test_the_result_of_a_run_is_whole(small):
    network = small.config.network
    sizes = {"input_size": network.input_size, "width": network.width, "depth": network.depth}
    card = describe(network.name, num_classes=7, **sizes, **network.options)
    assert [(result.seed, result.status) for result in small.results] == [(0, "ok"), (1, "ok")]
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
        assert result.xla == Xla(requested=True, used=True)
        assert result.weights_sha256 == sha256_of(weights)
    assert small.learner.jit_compile


def test_another_seed_learns_something_else(small):
    first, second = small.results
    assert first.config_hash == second.config_hash
    assert first.history["loss"] != second.history["loss"]
    assert first.weights_sha256 != second.weights_sha256
    assert any((a != b).any() for a, b in zip(*small.starts, strict=True))


@pytest.mark.parametrize("small", ["fast_rcnn"], indirect=True)
def test_the_recall_of_selective_search_is_that_of_its_proposals(small):
    found = proposals_of(small.dataset, "test", "fast", 12, **SEARCH)
    expected = proposal_recall([found[0]], [objects_of(small.dataset, "test", 1).truths[0]], counts=COUNTS)
    assert [result.metrics["recall"] for result in small.results] == [expected] * 2
    assert expected["objects"] > 0


def test_the_weights_file_gives_the_scores(small):
    arrays, card = load_arrays(small.weights[0])[0], read_card(small.weights[0])
    assert card.network.name == small.config.network.name
    assert (card.network.num_classes, card.network.channels) == (len(small.dataset.info.classes), 3)
    assert card.task == small.config.task
    load_weights(small.predictor.network, arrays, "weights")  # in place of the second seed's
    records, metrics = records_of(small.dataset, "test", small.config), small.results[0].metrics
    found = scores(small.config.task, small.predictor, records, small.dataset, "test")
    assert {key: metrics[key] for key in found} == found
    assert found["detections"] > 0


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_same_numbers(small, monkeypatch):
    """Three steps an epoch; the fifth is the last that was begun."""
    monkeypatch.setenv("REPRO_CHECKPOINT_SECONDS", "0")
    monkeypatch.setattr(training, "READ_STEPS", 1)
    records, val = (records_of(small.dataset, split, small.config) for split in ("train", "val"))
    seen = []

    def validate():
        small.predictor.load(small.learner.network)
        return {"map": scores(Detection(), small.predictor, val, small.dataset, "val")["map"]}

    def told(fraction, note):
        seen.append(round(9 * fraction))
        if len(seen) == 5:
            raise KeyboardInterrupt

    def train():
        return small.fit("killed", 1, records, 9, validate, told)

    small.start(1)
    with pytest.raises(KeyboardInterrupt):
        train()
    small.start(0)  # whatever is not restored will be wrong
    history, expected = train(), small.results[1].history
    assert seen == [1, 2, 3, 4, 5, 4, 5, 6, 7, 8, 9]
    for key in ("epoch", "loss", "val_map", "val_epoch"):
        assert history[key] == expected[key]
    found, kept = weights_of(small.learner.network), load_arrays(small.weights[1])[0]
    assert kept
    for name, values in kept.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


class Repeated:
    """Some records, again and again, as one long epoch."""

    def __init__(self, records, times):
        self._records, self._times = records, times

    def __len__(self):
        return len(self._records) * self._times

    def __getitem__(self, index):
        return self._records[index % len(self._records)]


@pytest.mark.parametrize("small", ["faster_rcnn"], indirect=True)
def test_learns_four_pictures_by_heart(small):
    steps = 160
    records = records_of(small.dataset, "train", small.config, limit=4)
    assert len({int(records[index]["classes"][0]) for index in range(4)}) >= 3

    def scored():
        small.predictor.load(small.learner.network)
        return scores(Detection(recall_counts=(12,)), small.predictor, records, small.dataset, "train")

    small.start(0)
    untrained = scored()
    assert untrained["map"] < 0.2
    assert untrained["coco_ap"] < 0.05
    small.fit("by-heart", 0, Repeated(records, steps // 2), steps)
    learned = scored()
    assert learned["map"] > 0.9
    assert learned["coco_ap"] > 0.5
    assert learned["recall"]["recall"]["0.7"] == [1]
