"""Our operations beside other libraries': the inputs, the peers' answers, one run of each part, and its tables."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from repro import backend
from repro.errors import ReproError
from repro.experiments.nms_speed import NMSSpeed, same_boxes
from repro.experiments.operations import Comparison
from repro.experiments.roi_speed import RoISpeed, relative_differences
from repro.experiments.search_speed import SearchSpeed
from repro.peers import nms as nms_peers
from repro.peers import roi as roi_peers
from repro.peers import selective_search as search_peers
from repro.records.result import read_results, write_result
from repro.records.run import Run
from repro.records.settings import Data
from repro.report.render import Table, to_csv, to_latex, to_markdown
from tests.reference.nms import sequential_class_nms, sequential_nms
from tests.reference.roi import loop_align, loop_max_pool
from tests.support.results import machine, result, timing

IMAGE, LARGE = (128, 160), (320, 480)
QUICK = {"warmup": 1, "repetitions": 3, "seconds": 1.0}
SHAPES = Data(name="shapes", options={"image_size": (48, 64), "max_objects": 2, "test_size": 3})
TINY = {
    "nms": NMSSpeed(
        sizes={"image": IMAGE, "rpn_train": (300, 60), "rpn_test": (100, 20), "detector": (30, 4, 10),
               "yolo": (4, 4, 10)}, **QUICK,
    ),
    "roi": RoISpeed(sizes={"image": IMAGE, "channels": 4, "rois": 20, "trained": 6}, **QUICK),
    "selective_search": SearchSpeed(
        sizes={"width": 80, "boxes": 40, "min_side": 8}, data=SHAPES, images=2, **QUICK
    ),
}  # fmt: skip
ON_TENSORFLOW = pytest.mark.skipif(backend.name() != "tensorflow", reason="TensorFlow is not the backend")
OPENCV = pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="this OpenCV has no ximgproc")


def finished(folder, kind):
    """The one result of a run in a folder."""
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder))
        run = Run("tiny", kind, 0, profile="smoke", backend=backend.name())
        (outcome,) = kind.run([run], lambda fraction, note: heard.append(fraction))
        write_result(folder, run.result(outcome))
    assert heard == sorted(heard)
    assert heard[-1] == 1
    (found,) = read_results(folder)
    return found


def sections_of(*results):
    """What the three kinds make of results."""
    return [section for kind in (NMSSpeed, RoISpeed, SearchSpeed) for section in kind.sections(results)["peers"]]


@pytest.fixture(scope="module", params=list(TINY))
def run(request, tmp_path_factory):
    return finished(tmp_path_factory.mktemp(request.param) / "results", TINY[request.param])


# --- boxes like those of detectors


@pytest.fixture(scope="module")
def scene():
    rng = np.random.default_rng(0)
    objects = nms_peers.some_objects(4, LARGE, rng)
    boxes, scores = nms_peers.region_proposals(objects, LARGE, rng)
    return objects, boxes, scores


def test_proposals_cluster_around_objects_and_their_scores_follow(scene):
    objects, boxes, scores = scene
    assert (np.diff(scores) < 0).all()  # sorted, and no two equal
    assert len(boxes) > 0.9 * 20 * 30 * 9
    assert (boxes >= 0).all()
    assert (boxes <= [480, 320, 480, 320]).all()
    best = nms_peers.box_iou(boxes, objects).max(axis=1)
    assert best[:50].mean() > best[-500:].mean() + 0.3
    assert np.corrcoef(best, scores)[0, 1] > 0.5


def test_heads_give_few_classes_a_high_score(scene):
    objects, boxes, _ = scene
    rng = np.random.default_rng(1)
    own, scores = nms_peers.detector_outputs(boxes[:50], objects, LARGE, 6, rng)
    assert (own.shape, scores.shape) == ((50, 6, 4), (50, 6))
    assert 0.02 < (scores > 0.05).mean() < 0.5
    assert not np.array_equal(own[:, 0], own[:, 1])
    shared, scores = nms_peers.yolo_outputs(5, 6, 3, rng)
    assert (shared.shape, scores.shape) == ((5 * 5 * 5, 1, 4), (5 * 5 * 5, 6))
    assert 0 < (scores > 0.005).mean() < 0.9


# --- the peers' answers, against plain loops


@pytest.mark.parametrize("peer", nms_peers.LIST_PEERS)
def test_peers_keep_the_boxes_of_a_loop(scene, peer):
    _, boxes, scores = scene
    boxes, scores = boxes[:150], scores[:150]
    try:
        call, kept = nms_peers.LIST_PEERS[peer](boxes, scores, 0.5, 30)
    except ImportError as error:
        pytest.skip(str(error))
    expected = sequential_nms(boxes, scores, np.ones(150, bool), 0.5, 30)
    assert kept.tolist() == expected
    assert 10 < len(expected) <= 30
    assert call() is not None


@pytest.mark.parametrize("shared", [True, False], ids=["shared", "own"])
@pytest.mark.parametrize("peer", nms_peers.CLASS_PEERS)
def test_peers_keep_the_detections_of_a_loop(scene, peer, shared):
    objects, boxes, _ = scene
    own, scores = nms_peers.detector_outputs(boxes[:40], objects, LARGE, 3, np.random.default_rng(2))
    own = own[:, :1] if shared else own
    try:
        _, kept = nms_peers.CLASS_PEERS[peer](own, scores, 0.3, 0.05, 8)
    except ImportError as error:
        pytest.skip(str(error))
    found = sequential_class_nms(own, scores, 0.3, 0.05, 8)
    assert kept.tolist() == [c * 40 + i for _, c, i in found]
    assert len({c for _, c, _ in found}) > 1


def test_boxes_are_known_by_their_scores():
    scores = np.array([[0.1, 0.5], [0.4, 0.2], [0.3, 0.6]], "float32")
    found = nms_peers.identify(scores, np.array([0.6, 0.4, 0.1], "float32"), np.array([1.0, 0.0, 0.0]))
    assert found.tolist() == [1 * 3 + 2, 1, 0]


def some_regions():
    """RoIs inside an image of 160 x 208 px on a map of 10 x 13, one of one cell and one without area at its edge."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 1, (10, 2, 2)) * (208, 160)
    rois = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    return np.concatenate([rois, [[40, 40, 41, 41], [208, 160, 208, 160], [0, 0, 208, 160]]])[None].astype("float32")


@pytest.mark.parametrize("name", ["pool", "align"])
def test_second_formulations_are_those_of_a_loop(name):
    backend.set_precision("float32")
    rng, rois = np.random.default_rng(4), some_regions()
    features = rng.normal(size=(1, 10, 13, 3)).astype("float32")
    upstream = rng.normal(size=(1, 13, 7, 7, 3)).astype("float32")
    peers, loop = {
        "pool": (roi_peers.POOL_PEERS, loop_max_pool), "align": (roi_peers.ALIGN_PEERS, loop_align),
    }[name]  # fmt: skip
    expected, expected_gradient = loop(features, rois, upstream, (7, 7), 1 / 16)
    _, values, nothing = peers["second"](features, rois, (7, 7), 1 / 16)
    assert nothing is None
    np.testing.assert_allclose(values, expected, atol=1e-5)
    _, values, gradient = peers["second"](features, rois, (7, 7), 1 / 16, upstream)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-4, atol=1e-4)


@ON_TENSORFLOW
def test_crops_sample_a_ramp_between_its_corners():
    """A row of cells that hold their column: the larger of the two samples in each half of columns 2 to 8."""
    ramp = np.broadcast_to(np.arange(13, dtype="float32")[None, None, :, None], (1, 10, 13, 1))
    roi = np.float32([[[32, 16, 128, 96]]])
    _, values, gradient = roi_peers.crop_and_resize(ramp, roi, (2, 2), 1 / 16, np.ones((1, 1, 2, 2, 1), "float32"))
    np.testing.assert_allclose(values[0, 0, :, :, 0], [[4, 8], [4, 8]], rtol=1e-5)
    assert gradient.sum() == pytest.approx(4, rel=1e-5)
    assert roi_peers.crop_and_resize(ramp, roi, (2, 2), 1 / 16)[2] is None


@OPENCV
def test_opencv_finds_a_square_under_the_same_rules():
    image = np.full((60, 120, 3), 30, "uint8")
    image[20:45, 30:70] = (220, 40, 40)
    threads = cv2.getNumThreads()
    with search_peers.one_thread():
        assert cv2.getNumThreads() == 1
        boxes = search_peers.opencv(image, 50, 240, 10)
    assert cv2.getNumThreads() == threads
    assert (boxes >= 0).all()
    assert (boxes <= [120, 60, 120, 60]).all()
    assert nms_peers.box_iou(boxes, np.array([[30, 20, 70, 45]])).max() > 0.8
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    assert (boxes[:, 2:] - boxes[:, :2] >= 5 - 1e-3).all()  # 10 pixels at twice the size
    assert len(search_peers.opencv(image, 1, 240, 10)) == 1


# --- a run of each part


def test_a_run_times_ours_beside_peers_that_agree(run):
    part, metrics = run.model, run.metrics
    assert (run.kind, run.status, run.scale) == ("peer", "ok", "smoke")
    cases = {
        "nms": ["rpn_train", "rpn_test", "detector", "yolo"],
        "roi": ["roi_max_pool", "roi_max_pool_train", "roi_align", "roi_align_train"],
        "selective_search": ["selective_search"],
    }[part]
    assert list(metrics["cases"]) == cases
    assert all(f"{case}.ours" in run.timings for case in cases)
    for key, ratio in metrics["ratio"].items():
        case = key.partition(".")[0]
        assert ratio == pytest.approx(run.timings[f"{case}.ours"].median / run.timings[key].median)
        assert key not in metrics["absent"]
        if ratio <= 1:
            assert key not in metrics["why"]
    assert metrics["ratio"].keys() | {f"{case}.ours" for case in cases} == run.timings.keys()
    if part == "nms":
        assert all(found == {"kept": 1.0} for found in metrics["agreement"].values())
        assert {"rpn_train.keras_cv", "rpn_test.keras_cv"} <= metrics["agreement"].keys()
    if part == "roi":
        others = {key: found for key, found in metrics["agreement"].items() if "crop_and_resize" not in key}
        assert max(gap for found in others.values() for gap in found.values()) < 1e-4
        assert {key for key, found in others.items() if "gradient" in found} >= {
            "roi_max_pool_train.second", "roi_align_train.second"
        }  # fmt: skip
    assert ("torchvision" in str(metrics["absent"])) == (
        part != "selective_search" and not importlib.util.find_spec("torchvision")
    )


def test_a_run_fills_its_section(run):
    (section,) = sections_of(run)
    peers = {row.values["peer"] for row in section.rows}
    expected = {key.partition(".")[2] for key in run.metrics["ratio"]}
    assert peers - {""} == expected
    text = to_markdown(Table("peers", "Peers", (), (section,)))
    assert section.heading in text


def test_selective_search_without_ximgproc_goes_on_alone(tmp_path, monkeypatch):
    monkeypatch.delattr(cv2, "ximgproc", raising=False)
    found = finished(tmp_path / "results", TINY["selective_search"])
    assert "opencv-contrib-python-headless" in found.metrics["absent"]["selective_search.opencv"]
    assert found.timings.keys() == {"selective_search.ours"}
    assert found.timings["selective_search.ours"].n == 2
    assert found.metrics["recall"].keys() == {"ours"}
    (section,) = sections_of(found)
    (row,) = section.rows
    assert row.cells["peer"] == row.cells["ratio"] == ""
    assert row.cells["ours_0.5"]
    assert any("OpenCV (" in note and "has no ximgproc" in note for note in section.notes)


def test_settings_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ReproError, match="size of nms"):
        finished(tmp_path / "results", NMSSpeed(sizes={"rois": 3}))
    assert RoISpeed(sizes={"rois": 3}).all_sizes()["channels"] == 512
    with pytest.raises(TypeError, match="data"):
        SearchSpeed()


def test_a_reason_is_given_only_where_ours_is_slower():
    found = Comparison(NMSSpeed())
    found.add("yolo", "YOLO", {"ours": timing(2.0), "tf_image": timing(1.0), "keras_cv": timing(4.0)})
    assert found.ratio == {"yolo.tf_image": 2.0, "yolo.keras_cv": 0.5}
    assert found.why.keys() == {"yolo.tf_image"}


def test_agreement_is_that_of_sets_and_of_the_largest_value():
    a, b = np.array([1, 2, 3]), np.array([3, 2, 9, 4])
    assert same_boxes((a,), (b,)) == {"kept": 2 / 5}
    assert same_boxes((a[:0],), (b[:0],)) == {"kept": 1.0}
    values = np.array([1.0, -4.0]), np.array([1.0, -4.4])
    assert relative_differences((values[0], None), (values[1], None)) == {"values": pytest.approx(0.4 / 4.4)}


OTHER = [name for name in backend.installed() if name != backend.name()]


@pytest.mark.parametrize("name", OTHER)
@pytest.mark.parametrize("part", ["nms", "roi"])
def test_the_other_backend_agrees_too(tmp_path, name, part):
    environment = {**os.environ, "KERAS_BACKEND": name, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "-1"}
    environment |= {"PYTHONPATH": str(Path(__file__).parents[2])}
    code = f"""from pathlib import Path
from repro import backend
backend.select()
from tests.experiments.test_operations import TINY, finished
finished(Path({str(tmp_path / "results")!r}), TINY[{part!r}])"""
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-3000:]
    (found,) = read_results(tmp_path / "results")
    agreement = [gaps for key, gaps in found.metrics["agreement"].items() if "crop" not in key]
    assert len(agreement) >= 2
    for gaps in agreement:
        assert gaps.get("kept", 1.0) == 1.0
        assert max(gaps.get("values", 0), gaps.get("gradient", 0)) < 1e-4
    assert ("tf_image" in str(found.metrics["absent"])) == (name == "jax" and part == "nms")


# --- the report


def nms_run(run_id, ours=10.0, **fields):
    metrics = {
        "cases": {"rpn_test": "RPN, test: 6000 boxes, at most 300, IoU 0.7", "yolo": "YOLO: 845 boxes"},
        "ratio": {"rpn_test.tf_image": ours / 20, "yolo.tf_image": ours / 4},
        "agreement": {"rpn_test.tf_image": {"kept": 1.0}, "yolo.tf_image": {"kept": 0.995}},
        "absent": {"rpn_test.torchvision": "No module named 'torch'", "yolo.torchvision": "No module named 'torch'",
                   "yolo.keras_cv": "takes other boxes"},
        "why": {"yolo.tf_image": "it stops early"},
    }  # fmt: skip
    timings = {"rpn_test.ours": timing(ours), "rpn_test.tf_image": timing(20.0)}
    timings |= {"yolo.ours": timing(ours), "yolo.tf_image": timing(4.0, n=7)}
    base = {
        "kind": "peer", "experiment": "operations-nms", "model": "nms", "dataset": None, "init": None,
        "config": {"kind": "nms_speed"}, "metrics": metrics, "timings": timings, "scale": "paper",
        "variant": "", "protocol": {"spread": "median"},
    }  # fmt: skip
    return result(run_id, **base | fields)


def test_rows_show_ratio_why_and_who_is_absent():
    (section,) = sections_of(nms_run("a"))
    assert section.heading == "Non-maximum suppression, paper scale"
    cells = {row.cells["model"].partition(":")[0]: row.cells for row in section.rows}
    assert [cells["YOLO"][key] for key in ("ours", "peer", "theirs", "n", "ratio", "agreement")] == [
        "10.0 (9.00–11.0)", "tf.image", "4.00 (3.60–4.40)", "50/7", "2.50", "99.5 % kept by both",
    ]  # fmt: skip
    assert cells["RPN, test"]["ratio"] == "0.500"
    row_id = section.rows[0].id
    assert f"{row_id}: ours takes 2.50 times tf.image's time (YOLO): it stops early." in section.notes
    (absent,) = (note for note in section.notes if note.startswith("Not compared"))
    assert "torchvision (No module named 'torch')" in absent
    assert "keras-cv in yolo (takes other boxes)" in absent
    table = Table("peers", "Peers", (), (section,))
    assert "99.5 % kept by both" in to_markdown(table)
    assert "0.995" in to_csv(table)
    assert "tabular" in to_latex(table)


def test_runs_are_pooled_and_the_worst_agreement_is_shown():
    worse = nms_run("b", ours=14.0, machine=machine("m2"))
    worse.metrics["agreement"]["rpn_test.tf_image"] = {"kept": 0.9}
    (section,) = sections_of(nms_run("a"), worse)
    row = next(row for row in section.rows if row.values["case"] == "rpn_test")
    assert row.values["ours_over_peer"] == pytest.approx(0.6)
    assert row.values["ours_median"] == pytest.approx(12)
    assert row.values["kept_by_both"] == 0.9
    assert len(row.files) == 2


def test_differences_of_values_and_gradients_and_what_is_another_operation():
    run = nms_run(
        "a", model="roi", config={"kind": "roi_speed"},
        metrics={
            "cases": {"roi_max_pool_train": "RoI max pooling"}, "absent": {}, "why": {},
            "ratio": {"roi_max_pool_train.second": 0.5, "roi_max_pool_train.crop_and_resize": 2.0},
            "agreement": {"roi_max_pool_train.second": {"values": 0.0, "gradient": 2e-7},
                          "roi_max_pool_train.crop_and_resize": {}},
        },
        timings={f"roi_max_pool_train.{who}": timing(1.0) for who in ("ours", "second", "crop_and_resize")},
    )  # fmt: skip
    (section,) = sections_of(run)
    second, crop = section.rows
    assert second.cells["agreement"] == "values 0e+00, gradient 2e-07"
    assert crop.cells["agreement"] == ""
    assert any("another operation" in note for note in section.notes)
    assert any(note.endswith("2.00 times tf.image.crop_and_resize + max pooling's time (RoI max pooling).")
               for note in section.notes)  # fmt: skip


def test_recalls_of_both_stand_in_the_row_of_selective_search():
    run = nms_run(
        "a", model="selective_search", config={"kind": "search_speed"},
        metrics={
            "cases": {"selective_search": "Selective search, fast"}, "absent": {}, "why": {}, "agreement": {},
            "ratio": {"selective_search.opencv": 0.5},
            "recall": {"ours": {"0.5": 0.9, "0.7": 0.75}, "opencv": {"0.5": 0.8, "0.7": None}},
            "boxes": {"ours": 1800.4, "opencv": 1100.0},
        },
        timings={"selective_search.ours": timing(0.5, "s", 40), "selective_search.opencv": timing(1.0, "s", 40)},
    )  # fmt: skip
    (section,) = sections_of(run)
    (row,) = section.rows
    names = ("ours_0.5", "peer_0.5", "ours_0.7", "peer_0.7", "ours_boxes", "peer_boxes", "ratio")
    assert [row.cells[name] for name in names] == ["90.0", "80.0", "75.0", "", "1800", "1100", "0.500"]
    assert row.values["ours_recall_0.7"] == 0.75
    assert "our recall % at 0.5" in to_markdown(Table("peers", "Peers", (), (section,)))


def test_others_and_failures_have_no_row():
    other = result("a", kind="peer", config={"kind": "peer"}, metrics={})
    assert sections_of(other, nms_run("b", status="failed", metrics={})) == []
    (stale,) = sections_of(nms_run("a", versions={"experiments.nms_speed": 0}))
    assert {row.cells["code"] for row in stale.rows} == {"stale"}
