"""Whole detectors timed in one run: what is timed, how many boxes reach NMS, the best batch, groups that fit."""

from types import SimpleNamespace

import keras
import numpy as np
import pytest

from repro import backend
from repro.engine import bench
from repro.errors import ReproError
from repro.experiments import detector_speed as kind
from repro.experiments.architectures import describe
from repro.experiments.detector_speed import DetectorSpeed
from repro.models import fast_rcnn
from repro.ops.nms import class_nms
from repro.records.result import Timing
from repro.records.settings import Network
from repro.tasks import predictors
from tests.support.kinds import run_kind

SMALL = {"input_size": (64, 64), "num_classes": 3}
TINY = DetectorSpeed(
    networks=(
        Network(name="yolo_v2", width=1 / 16, depth=0.2, **SMALL),
        Network(name="faster_rcnn", width=1 / 32, depth=0.3, options={"before_nms": (64, 32), "after_nms": (16, 8)},
                **SMALL),
    ),
    batches=(1, 2), warmup=1, repetitions=3, seconds=1,
)  # fmt: skip
LABELS = ("yolo_v2@64x64", "faster_rcnn@64x64")
PARTS = ("network", "decode", "total", "throughput")


# --- a run


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A run of two networks: its result, what the timed calls gave, what progress said."""
    heard, outputs, measure = [], {}, kind.measure

    def watched(calls, *rest):
        outputs.update({name: call() for name, call in calls.items() if "@" in name})
        return measure(calls, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(tmp_path_factory.mktemp("speed") / "results"))
        patch.setattr(kind, "measure", watched)
        (found,) = run_kind(TINY, experiment="tiny-detectors", progress=lambda *said: heard.append(said))
    return found, outputs, heard


def test_a_run_times_every_stage_of_every_network(tiny):
    found, _, _ = tiny
    assert found.timings.keys() == {f"{label}.{part}" for label in LABELS for part in PARTS}
    for name, timing in found.timings.items():
        assert 0 < timing.p5 <= timing.median <= timing.p95
        assert timing.unit == ("images/s" if name.endswith("throughput") else "ms")
        assert timing.n == 3
    assert (found.status, found.kind, found.scale) == ("ok", "speed", "smoke")
    assert "random" in found.protocol["weights"]


def test_a_run_says_what_its_networks_are(tiny):
    cards = tiny[0].metrics["networks"]
    assert tuple(cards) == LABELS
    for label, settings in zip(LABELS, TINY.networks, strict=True):
        card = cards[label]
        assert (card["model"], card["input_size"], card["num_classes"]) == (settings.name, [64, 64], 3)
        assert (card["width"], card["depth"], card["variant"]) == (settings.width, settings.depth, "paper")
        assert card["throughput_batch"] in TINY.batches
        described = describe(
            settings.name, num_classes=3, input_size=(64, 64), width=settings.width, depth=settings.depth,
            **settings.options,
        )  # fmt: skip
        assert (card["params"], card["flops"]) == (described["params"], described["flops"])
    # 2 x 2 cells of 5 boxes and 3 classes; 8 proposals and 3 classes
    assert 0 < cards[LABELS[0]]["candidates"] <= 60
    assert 0 < cards[LABELS[1]]["candidates"] <= 24
    for card in cards.values():
        assert 0 < card["detections"] <= card["candidates"]


def test_the_network_and_its_decoding_are_the_whole(tiny):
    _, outputs, _ = tiny
    for label in LABELS:
        decoded, total = outputs[f"{label}.decode"], outputs[f"{label}.total"]
        assert int(total["count"][0]) > 0
        for key in ("boxes", "scores", "classes", "count"):
            np.testing.assert_allclose(np.asarray(decoded[key]), np.asarray(total[key]), rtol=1e-3, atol=1e-3)


def test_progress_follows_each_network(tiny):
    heard = tiny[2]
    assert heard == [
        (0.25, f"{LABELS[0]} compiled"), (0.5, f"{LABELS[1]} compiled"), (0.75, f"{LABELS[0]} timed"),
        (1.0, f"{LABELS[1]} timed"),
    ]  # fmt: skip


def test_a_run_fills_its_table(tiny):
    (section,) = DetectorSpeed.sections([tiny[0]])["yolo_speed"]
    assert [row.cells["model"] for row in section.rows] == ["faster_rcnn", "yolo_v2"]
    assert all(row.cells[key] for row in section.rows for key in ("total", "network", "decode", "best", "candidates"))


# --- its parts


@pytest.mark.parametrize(
    ("networks", "scale"),
    [
        ([Network(name="yolo_v2", input_size=(288, 288)), Network(name="yolo_v3", input_size=(608, 608))], "paper"),
        ([Network(name="yolo_v1"), Network(name="faster_rcnn"), Network(name="fast_yolo")], "paper"),
        ([Network(name="yolo_v1"), Network(name="yolo_v2", input_size=(608, 608))], "reduced"),
        ([Network(name="faster_rcnn", input_size=(480, 640))], "reduced"),
        ([Network(name="yolo_v3"), Network(name="yolo_v1", width=0.5)], "smoke"),
        ([Network(name="yolo_v3", depth=0.5)], "smoke"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_scale_is_what_ran(networks, scale):
    assert kind.scale_of(DetectorSpeed(networks=tuple(networks))) == scale


def test_networks_are_called_apart():
    pair = Network(name="yolo_v2"), Network(name="yolo_v2", variant="released")
    assert [kind.label_of(network) for network in pair] == ["yolo_v2@416x416", "yolo_v2-released@416x416"]
    kind.check(DetectorSpeed(networks=pair))
    with pytest.raises(ReproError, match="two networks are called yolo_v2@416x416"):
        kind.check(DetectorSpeed(networks=(pair[0], Network(name="yolo_v2", width=0.5))))
    with pytest.raises(ReproError, match="no network"):
        kind.check(DetectorSpeed(networks=()))


def pooled_detect(outputs, batch):
    return class_nms(outputs["boxes"], outputs["scores"], 0.5, 0.3, 4, per_class_pool=2)


def plain_detect(outputs, batch):
    return {"count": np.zeros(1)}


def test_scores_that_enter_suppression_are_counted():
    """[1,3,2] scores: of the first class three are above 0.3, of which a pool of two enters, of the second one."""
    corners = np.array([[[[0, 0, 8, 8]], [[0, 0, 8, 8]], [[20, 20, 30, 30]]]], "float32")
    scores = np.array([[[0.9, 0.2], [0.8, 0.3], [0.7, 0.31]]], "float32")
    outputs = {name: backend.to_device(value) for name, value in (("boxes", corners), ("scores", scores))}
    assert kind.counts_of(pooled_detect(outputs, {})) == {"detections": 2, "candidates": 3}
    assert kind.counts_of(plain_detect(outputs, {})) == {"detections": 0}


def test_candidates_of_a_detector_of_the_suite():
    """Proposals that are none, and scores up to the threshold, do not count."""
    rng = np.random.default_rng(0)
    raw = rng.normal(0, 2, (1, 12, 5)).astype("float32")
    valid = rng.random((1, 12)) < 0.7
    outputs = {"scores": raw, "deltas": np.zeros((1, 12, 20), "float32"), "proposal_valid": valid}
    outputs["proposals"] = np.tile(np.array([0, 0, 20, 20], "float32"), (1, 12, 1))
    count = 0
    for scores, real in zip(raw[0].astype("float64"), valid[0], strict=True):
        shares = np.exp(scores) / np.exp(scores).sum()
        count += real * sum(share > 0.05 for share in shares[1:])
    outputs = {name: backend.to_device(value) for name, value in outputs.items()}
    batch = {"valid_size": backend.to_device(np.array([[32, 32]], "int32"))}
    assert kind.counts_of(fast_rcnn.detect(outputs, batch))["candidates"] == count > 0


def subject(milliseconds, calls, full=None):
    """A detector whose `total` of n images takes `milliseconds[n]`, and has no room for `full` images."""

    def total(batch):
        calls.append(batch)
        if batch == full:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return batch

    return SimpleNamespace(network=None, programs={"total": total}, times=milliseconds)


@pytest.fixture
def clock(monkeypatch):
    """`measure` without a clock: the time of a call is looked up under the batch it returns."""

    def use(times):
        def fake(calls, *rest):
            ms = times[calls["call"]()]
            return {}, {"call": Timing(median=ms, p5=ms / 2, p95=ms * 2, n=7, unit="ms")}

        monkeypatch.setattr(bench, "measure", fake)
        monkeypatch.setattr(bench, "timed", lambda call: call())
        monkeypatch.setattr(kind, "fits", lambda network, batch: batch <= 16)
        monkeypatch.setattr(predictors, "noise_batch", lambda network, count: count)

    return use


def best_of(times, clock, seconds=60.0, **options):
    clock(times)
    calls = []
    made = subject(times, calls, **options)
    found = kind.throughput(made, DetectorSpeed(networks=(), batches=(1, 2, 4, 8, 16, 32), seconds=seconds))
    return *found, sorted(set(calls))


def test_the_best_batch_has_most_images_a_second(clock):
    timing, best, tried = best_of({1: 10, 2: 12, 4: 16, 8: 40, 16: 80}, clock)
    assert (best, timing) == (4, Timing(median=250, p5=125, p95=500, n=7, unit="images/s"))
    assert tried == [1, 2, 4, 8, 16], "32 do not fit"


def test_batches_end_where_one_is_too_slow_or_memory_is_full(clock):
    """Ten seconds a batch: three calls of 4 s are too many."""
    assert best_of({1: 1000, 2: 4000}, clock)[1:] == (1, [1, 2])
    assert best_of({1: 10, 2: 15}, clock, full=4)[1:] == (2, [1, 2, 4])
    with pytest.raises(RuntimeError, match="RESOURCE"):
        best_of({}, clock, full=1)


def test_networks_that_fit_together_are_timed_together(monkeypatch):
    """Limits of 100 bytes: 25 parameters of four bytes."""
    sizes = {"yolo_v1": 15, "fast_yolo": 10, "yolo_v2": 20, "yolo_v3": 6, "faster_rcnn": 99}
    monkeypatch.setattr(kind, "GROUP_BYTES", 100)
    monkeypatch.setattr(kind, "make", lambda s: SimpleNamespace(label=s.name, parameters=sizes[s.name]))
    config = DetectorSpeed(networks=tuple(Network(name=name) for name in sizes))
    found = [[one.label for one in group] for group in kind.groups(config)]
    assert found == [["yolo_v1", "fast_yolo"], ["yolo_v2"], ["yolo_v3"], ["faster_rcnn"]]


def test_a_batch_fits_by_its_largest_map(monkeypatch):
    """The largest of three maps has 8x8x5 floats of 4 bytes; three of them for two images have 7680."""
    image = keras.Input((8, 8, 3))
    network = keras.Model(image, keras.layers.Conv2D(2, 3)(keras.layers.Conv2D(5, 3, padding="same")(image)))
    monkeypatch.setattr(backend, "accelerator_count", lambda: 0)
    monkeypatch.setattr(kind, "HOST_BYTES", 7680)
    assert [kind.fits(network, batch) for batch in (1, 2, 3)] == [True, True, False]
    monkeypatch.setattr(backend, "accelerator_count", lambda: 1)
    assert kind.fits(network, 3)
