"""Clusters of box sizes: which boxes count, at which size, and what the result says of the centres."""

from types import SimpleNamespace

import numpy as np
import pytest

from repro.data.base import Sample
from repro.data.catalog import open_dataset
from repro.errors import ReproError
from repro.experiments import anchors as kind
from repro.experiments.anchors import Anchors
from repro.records.settings import Data
from tests.reference.boxes import loop_shape_iou
from tests.support.kinds import run_kind

OPTIONS = {"image_size": (48, 64), "train_size": 30}
SHAPES = Anchors(data=Data(name="shapes", options=OPTIONS), size=(64, 64), ks=(1, 2, 5), restarts=2)


class Boxes:
    """A data set of given samples."""

    def __init__(self, *samples, name="voc2007", official=True):
        self.samples, self.info = samples, SimpleNamespace(name=name)
        self._official = official

    def size(self, split):
        return len(self.samples)

    def sample(self, split, index):
        return self.samples[index]

    def official(self, split):
        return self._official, ""


def sample(shape, boxes, **flags):
    return Sample("x", np.zeros((*shape, 3), "uint8"), boxes=np.array(boxes, "float32").reshape(-1, 4), **flags)


def sizes_of(*samples, canvas=(416, 416), limit=None):
    data = Data(name="voc2007", train_limit=limit)
    heard = []
    found = kind.box_sizes(Boxes(*samples), data, canvas, heard.append)
    assert heard == sorted(heard)
    return found


def test_sizes_on_the_canvas_stretched_and_at_the_scale_of_faster_rcnn():
    """An image of 200x400 is enlarged by 1.04 to fit, stretched by 1.04 and 2.08, and by 2.5 to 500x1000."""
    found = sizes_of(sample((200, 400), [[10, 20, 50, 70]]))
    np.testing.assert_allclose(found["fitted"], [[40 * 1.04, 50 * 1.04]], rtol=1e-6)
    np.testing.assert_allclose(found["stretched"], [[40 * 1.04, 50 * 2.08]], rtol=1e-6)
    np.testing.assert_allclose(found["faster_rcnn"], [[100, 125]], rtol=1e-6)
    tall = sizes_of(sample((500, 400), [[0, 0, 40, 50]]), canvas=(250, 400))
    np.testing.assert_allclose(tall["fitted"], [[20, 25]], rtol=1e-6)
    np.testing.assert_allclose(tall["stretched"], [[40, 25]], rtol=1e-6)
    np.testing.assert_allclose(tall["faster_rcnn"], [[60, 75]], rtol=1e-6)


def test_boxes_that_are_not_trained_on_do_not_count():
    boxes = [[0, 0, 10, 20], [0, 0, 30, 40], [0, 0, 50, 60], [5, 5, 5, 9]]
    flags = {"difficult": np.array([0, 1, 0, 0], bool), "crowd": np.array([0, 0, 1, 0], bool)}
    found = sizes_of(sample((416, 416), boxes, **flags), sample((416, 416), []), sample((416, 416), boxes[:2]))
    np.testing.assert_allclose(found["fitted"], [[10, 20], [10, 20], [30, 40]])
    assert found["images"] == 3
    assert len(sizes_of(sample((416, 416), boxes[:1]), sample((416, 416), boxes), limit=1)["fitted"]) == 1


def test_data_without_boxes_is_refused():
    for empty in (Sample("x", np.zeros((4, 4, 3), "uint8")), sample((4, 4), [])):
        with pytest.raises(ReproError, match="train of voc2007 has no boxes"):
            sizes_of(empty)


def test_hand_picked_boxes_are_those_of_faster_rcnn():
    """184x96, 128x128 and 88x176, and two and four times as large."""
    expected = [(scale * w, scale * h) for w, h in ((184, 96), (128, 128), (88, 176)) for scale in (1, 2, 4)]
    assert sorted(map(tuple, kind.hand_picked())) == sorted(expected)


def test_planted_sizes_are_found(monkeypatch):
    """Two kinds of boxes: two centres, which cover all; one centre is one of them or between."""
    sizes = np.repeat([[32.0, 64.0], [160.0, 96.0]], [30, 10], axis=0)
    before = sizes.copy()
    found = kind.clustered(sizes, 2, 0, 3)
    assert found == {"average_iou": 1.0, "pixels": [[32, 64], [160, 96]], "cells": [[1, 2], [5, 3]]}
    one = kind.clustered(sizes, 1, 0, 3)
    (centre,) = one["pixels"]
    np.testing.assert_array_equal(sizes, before)
    assert one["average_iou"] == pytest.approx(np.mean([loop_shape_iou(size, centre) for size in sizes]))
    monkeypatch.setattr(kind, "MOST", 20)
    assert kind.clustered(sizes, 2, 0, 3) == found, "what is clustered is a part, what is averaged over is all"
    with pytest.raises(ReproError, match="lower k"):
        kind.clustered(sizes, 3, 0, 3)


@pytest.mark.parametrize(
    ("name", "official", "limit", "scale"),
    [
        ("voc2007", True, None, "paper"),
        ("voc2007", False, None, "reduced"),
        ("voc2007", True, 10, "reduced"),
        ("shapes", True, None, "smoke"),
    ],
)
def test_scale_is_what_ran(name, official, limit, scale):
    assert kind.scale_of(Data(name=name, train_limit=limit), Boxes(name=name, official=official)) == scale


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(tmp_path_factory.mktemp("anchors") / "results"))
        found = run_kind(SHAPES, (0, 1), "tiny-anchors", progress=lambda fraction, note: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[-1] == pytest.approx(1)
    return found


def test_a_run_clusters_generated_boxes(runs):
    assert [run.seed for run in runs] == [0, 1]
    dataset = open_dataset("shapes", **OPTIONS)
    sides = []
    for index in range(OPTIONS["train_size"]):
        for x1, y1, x2, y2 in dataset.sample("train", index).boxes:
            sides.append((float(x2 - x1), float(y2 - y1)))
    for run in runs:
        metrics = run.metrics
        assert (run.status, run.scale, run.dataset.split) == ("ok", "smoke", "train")
        assert (metrics["images"], metrics["boxes"]) == (30, len(sides))
        assert list(metrics["clusters"]) == ["1", "2", "5"]
        values = [metrics["clusters"][k]["average_iou"] for k in ("1", "2", "5")]
        assert 0.2 < values[0] < values[1] < values[2] < 1
        for k, found in metrics["clusters"].items():
            # 48x64 images fill the width of the canvas: their boxes keep their sizes
            mean = np.mean([max(loop_shape_iou(size, centre) for centre in found["pixels"]) for size in sides])
            assert found["average_iou"] == pytest.approx(mean, abs=1e-3)
            assert len(found["pixels"]) == int(k)
            np.testing.assert_allclose(np.array(found["cells"]) * 32, found["pixels"], atol=6e-3)
            assert 0 < found["average_iou_stretched"] < 1
        hand = [[w * s, h * s] for w, h in ((184, 96), (128, 128), (88, 176)) for s in (1, 2, 4)]
        scale = 12.5  # 48x64 to 600x800
        mean = np.mean([max(loop_shape_iou((w * scale, h * scale), box) for box in hand) for w, h in sides])
        assert metrics["hand_picked"] == {"count": 9, "average_iou": pytest.approx(mean)}


def test_a_run_fills_its_table(runs):
    iou, centres = Anchors.sections(runs)["anchors"]
    assert [row.cells["k"] for row in iou.rows] == ["1", "2", "5", "9"]
    assert iou.rows[0].cells["seeds"] == "2"
    assert [row.cells["number"] for row in centres.rows] == list("12345")
