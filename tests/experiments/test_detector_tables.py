"""Tables and figures of whole detectors and of anchors, from made-up results."""

import msgspec
import pytest

from repro import facts
from repro.experiments import KINDS
from repro.experiments.anchors import Anchors
from repro.experiments.detector_speed import DetectorSpeed
from repro.facts import Fact
from repro.records.result import Dataset
from repro.records.settings import Data, Network
from repro.report.cost import speed_figure
from repro.report.render import Table, to_csv, to_latex, to_markdown
from repro.report.tables import write_tables
from tests.support.results import headline, machine, result, table_of, timing, trained_detector

VOC = Dataset(name="voc2007", version="1", split="trainval", fingerprint="c" * 16, official=True)
COCO = Dataset(name="coco2017", version="1", split="train", fingerprint="d" * 16, official=True)


def fact(value, unit, source):
    return Fact(value=value, unit=unit, source=source, confidence="verified")


PRINTED = {
    "yolo_v1.fps": fact(45, "frames/s", "Table A"),
    "yolo_v2.fps": fact({"288": 91, "416": 67}, "frames/s", "Table B"),
    "yolo_v3.latency": fact({"320": 22, "608": 50}, "ms", "abstract"),
    "faster_rcnn.latency_vgg16": fact({"k40": 198, "titan_x": 125}, "ms", "README"),
    "yolo_v2.average_iou_k5": fact(61.0, "%", "Table C"),
    "yolo_v2.average_iou_k9": fact(67.2, "%", "Table C"),
    "yolo_v2.average_iou_hand_picked": fact(60.9, "%", "Table C"),
    "yolo_v2.anchors_voc": fact([[4, 2], [1, 1], [2, 3], [9, 9], [3, 7]], "cells", "voc.cfg"),
    "yolo_v3.anchors": fact([[10 * k, 13] for k in range(1, 10)], "pixels", "v3.cfg"),
}


@pytest.fixture
def printed(monkeypatch):
    monkeypatch.setattr(facts, "find_fact", PRINTED.get)


def speed_sections(results):
    return DetectorSpeed.sections(results)["yolo_speed"]


def anchor_sections(results):
    return Anchors.sections(results)["anchors"]


def anchor_figure(results):
    return Anchors.figures(results).get("anchors.png")


# --- whole detectors

CARDS = {
    # label: model, size, total ms, candidates
    "yolo_v3@608x608": ("yolo_v3", (608, 608), 40, 80_000),
    "yolo_v2@416x416": ("yolo_v2", (416, 416), 10, 16_900),
    "yolo_v2-released@416x416": ("yolo_v2", (416, 416), 8, 16_900),
    "yolo_v2@288x288": ("yolo_v2", (288, 288), 5, 8_100),
    "faster_rcnn@600x1000": ("faster_rcnn", (600, 1000), 100, 300),
    "yolo_v1@448x448": ("yolo_v1", (448, 448), 20, 980),
    "yolo_v2@352x352": ("yolo_v2", (352, 352), 7, 12_100),
}
CONFIG = msgspec.to_builtins(DetectorSpeed(networks=(Network(name="yolo_v1"),)))


def card(label, **changes):
    model, size, _, candidates = CARDS[label]
    base = {
        "model": model, "variant": "released" if "released" in label else "paper", "width": 1.0, "depth": 1.0,
        "input_size": list(size), "num_classes": 20, "params": 50_000_000, "flops": 30_000_000_000,
        "candidates": candidates, "detections": 100, "throughput_batch": 8,
    }  # fmt: skip
    return base | changes


def timed(run_id="one", factor=1, labels=tuple(CARDS), batch=8, changes=None, **fields):
    timings = {}
    for label in labels:
        ms = factor * CARDS[label][2]
        parts = {"total": ms, "network": 0.75 * ms, "decode": 0.3 * ms}
        timings |= {f"{label}.{part}": timing(value) for part, value in parts.items()}
        timings[f"{label}.throughput"] = timing(2000 / ms, "images/s", 7)
    cards = {label: card(label, throughput_batch=batch, **(changes or {})) for label in labels}
    base = {
        "experiment": "detector-speed", "kind": "speed", "task": "", "model": "detectors", "variant": "",
        "scale": "paper", "init": None, "dataset": None, "input_size": (0, 0), "config": CONFIG, "timings": timings,
        "metrics": {"batch": 1, "networks": cards}, "protocol": {"weights": "random"},
    }  # fmt: skip
    return result(run_id, **base | fields)


def test_a_row_for_each_network_in_the_order_of_the_registry(printed):
    (section,) = speed_sections([timed()])
    assert section.heading == "Whole detectors, an image, paper scale"
    assert [(row.cells["model"], row.cells["input"]) for row in section.rows] == [
        ("faster_rcnn", "600x1000"), ("yolo_v1", "448x448"), ("yolo_v2", "288x288"), ("yolo_v2", "352x352"),
        ("yolo_v2", "416x416"), ("yolo_v2-released", "416x416"), ("yolo_v3", "608x608"),
    ]  # fmt: skip
    row = section.rows[4]
    expected = {
        "total": "10.0 (9.00–11.0)", "n": "50", "fps": "100", "best": "200 (batch 8)", "network": "7.50 (6.75–8.25)",
        "decode": "3.00 (2.70–3.30)", "params": "50.0", "flops": "30.0", "candidates": "16,900", "detections": "100",
        "paper": "67.0", "classes": "20", "width": "1",
    }  # fmt: skip
    assert {key: row.cells[key] for key in expected} == expected
    assert row.values["frames_per_second"] == pytest.approx(100)
    assert row.values["decode_ms_p95"] == pytest.approx(3.3)
    assert (row.values["images_per_second"], row.values["throughput_batch"]) == (pytest.approx(200), "8")
    assert (row.values["input_height"], row.values["input_width"]) == (416, 416)
    assert row.files == ("results/detector-speed/one.json",)
    assert any("weights: random" in note for note in section.notes)


def test_what_the_papers_print_stands_beside_their_own_networks(printed):
    (section,) = speed_sections([timed()])
    found = [row.values["paper_frames_per_second"] for row in section.rows]
    # 125 ms; frames/s; by side, none for 352; the released network has the paper's; 50 ms
    assert found == [8, 45, 91, None, 67, 67, 20]
    assert section.rows[-1].values["paper_source"] == "abstract"
    (note,) = (note for note in section.notes if note.startswith("The papers'"))
    assert all(f"{model}: {source}" in note for model, source in (("yolo_v1", "Table A"), ("faster_rcnn", "README")))


@pytest.mark.parametrize(
    "change", [{"width": 0.5}, {"depth": 0.5}, {"input_size": [512, 512]}, {"input_size": [600, 600]}], ids=str
)
def test_other_networks_have_no_printed_figure(printed, change):
    (section,) = speed_sections([timed(changes=change, scale="smoke")])
    assert {row.values["paper_frames_per_second"] for row in section.rows} == {None}
    assert not any(note.startswith("The papers'") for note in section.notes)


def test_the_facts_of_the_papers_are_found():
    (section,) = speed_sections([timed()])
    found = [row.values["paper_frames_per_second"] for row in section.rows]
    assert found == pytest.approx([1000 / 151, 45, 91, 81, 67, 67, 1000 / 51])
    iou, centres = anchor_sections([clustered()])
    assert [row.cells["paper"] for row in iou.rows] == ["", "", "61", "67.2", "60.9"]
    assert centres.rows[0].cells["paper"] == "34.6 x 38.1"
    _, centres = anchor_sections([clustered(dataset=COCO)])
    assert (centres.rows[0].cells["paper"], centres.rows[-1].cells["paper"]) == ("18.3 x 21.7", "373.0 x 326.0")
    assert anchor_figure([clustered()]).data["paper"] == [[5, 61.0], [9, 67.2]]


def test_the_smaller_networks_say_so(printed):
    changes = {"width": 0.25, "depth": 0.5, "candidates": None}
    (section,) = speed_sections([timed(labels=("yolo_v2@416x416",), changes=changes, scale="smoke")])
    assert section.heading.startswith("Smoke")
    assert section.rows[0].cells["width"] == "0.25, depth 0.5"
    assert section.rows[0].cells["candidates"] == ""


def test_hosts_are_pooled_and_devices_kept_apart(printed):
    cards = {"accelerator": "NVIDIA H200", "driver": "570"}
    runs = [
        timed("a", machine=machine("m1", **cards)),
        timed("b", factor=3, batch=4, machine=machine("m2", **cards)),
        timed("c", factor=10, machine=machine("m1")),
    ]
    (section,) = speed_sections(runs)
    found = {row.cells["hardware"]: row for row in section.rows if row.cells["model"] == "yolo_v1"}
    assert {name: row.values["total_ms_median"] for name, row in found.items()} == {
        "NVIDIA H200": 40, "Xeon (2 cores)": 200,
    }  # fmt: skip
    assert found["NVIDIA H200"].cells["n"] == "100"
    assert found["NVIDIA H200"].cells["best"].endswith("(batch 4/8)")
    assert len(found["NVIDIA H200"].files) == 2


def test_other_results_have_no_row():
    runs = [result("fcn"), timed("failed", status="failed", timings={}, metrics={}), trained_detector("d")]
    assert speed_sections(runs) == anchor_sections(runs) == []
    assert anchor_figure(runs) is None
    assert speed_sections([]) == []


def test_stale_rows_say_so():
    (section,) = speed_sections([timed(versions={"experiments.detector_speed": 0})])
    assert {row.cells["code"] for row in section.rows} == {"stale"}


# --- anchors


def clustered(run_id="k", base=0.4, size=(416, 416), ks=(1, 2, 5, 9), **fields):
    """Average IoU base + k / 100; stretched, 0.05 more. Centres of k: 32 x 64 pixels and multiples."""
    clusters = {
        str(k): {
            "average_iou": base + k / 100, "average_iou_stretched": base + 0.05 + k / 100,
            "pixels": [[32.0 * i, 64.0 * i] for i in range(1, k + 1)],
            "cells": [[1.0 * i, 2.0 * i] for i in range(1, k + 1)],
        }
        for k in ks
    }  # fmt: skip
    base = {
        "experiment": "anchors-voc", "kind": "inspect", "task": "", "model": "anchors", "variant": "", "scale": "paper",
        "init": None, "dataset": VOC, "input_size": size, "protocol": {"distance": "1 - IoU"},
        "config": msgspec.to_builtins(Anchors(data=Data(name="voc2007"), size=size)),
        "metrics": {"images": 10, "boxes": 12608, "clusters": clusters,
                    "hand_picked": {"count": 9, "average_iou": 0.6}},
    }  # fmt: skip
    return result(run_id, **base | fields)


def test_average_iou_for_each_k_beside_the_papers(printed):
    iou, _ = anchor_sections([clustered(), clustered("l", base=0.42, seed=1)])
    assert iou.heading == "PASCAL VOC 2007, trainval, paper scale"
    by = {(row.cells["k"], row.values["by"]): row for row in iou.rows}
    assert list(by) == [("1", "k-means"), ("2", "k-means"), ("5", "k-means"), ("9", "k-means"), ("9", "hand")]
    five, nine, hand = by["5", "k-means"], by["9", "k-means"], by["9", "hand"]
    assert (five.cells["fitted"], five.cells["stretched"], five.cells["paper"]) == ("46.0 ± 1.4", "51.0 ± 1.4", "61")
    assert (nine.values["average_iou"], nine.values["paper_average_iou"]) == (pytest.approx(0.5), pytest.approx(0.672))
    assert (hand.cells["fitted"], hand.cells["stretched"], hand.cells["paper"]) == ("60.0 ± 0.0", "", "60.9")
    assert by["1", "k-means"].cells["paper"] == ""
    assert (five.cells["boxes"], five.cells["seeds"], five.cells["input"]) == ("12,608", "2", "416x416")
    assert any("61 % with 5 clusters (Table C)" in note for note in iou.notes)
    assert len(five.files) == 2


def test_other_data_has_no_figure_of_the_paper_beside_it(printed):
    iou, centres = anchor_sections([clustered(dataset=COCO)])
    assert {row.cells["paper"] for row in iou.rows} == {""}
    papers = {(row.cells["k"], row.cells["number"]): row.cells["paper"] for row in centres.rows}
    assert papers["5", "1"] == "", "the fact is not there"
    assert (papers["9", "1"], papers["9", "9"]) == ("10.0 x 13.0", "90.0 x 13.0")
    assert centres.notes == ("The papers' centres, on their canvas of 416x416: 9: v3.cfg.",)


def test_centres_are_those_of_the_best_seed_beside_the_authors(printed):
    other = clustered("l", base=0.42, seed=1)
    other.metrics["clusters"]["5"]["pixels"][0] = [30.0, 60.0]
    _, centres = anchor_sections([clustered(), other])
    rows = [row for row in centres.rows if row.cells["k"] == "5"]
    assert [row.cells["number"] for row in rows] == list("12345")
    assert [row.cells["pixels"] for row in rows[:2]] == ["30.0 x 60.0", "64.0 x 128.0"]
    assert rows[1].cells["cells"] == "2.00 x 4.00"
    # of 32 pixels each, smallest area first
    assert [row.cells["paper"] for row in rows] == [
        "32.0 x 32.0", "64.0 x 96.0", "128.0 x 64.0", "96.0 x 224.0", "288.0 x 288.0",
    ]  # fmt: skip
    assert len(centres.rows) == 14


def test_the_authors_centres_hold_for_their_canvas(printed):
    _, centres = anchor_sections([clustered(size=(608, 608))])
    assert {row.cells["paper"] for row in centres.rows} == {""}
    assert centres.notes == ()


def test_without_five_or_nine_there_are_no_centres(printed):
    (section,) = anchor_sections([clustered(ks=(1, 2))])
    assert [row.cells["k"] for row in section.rows] == ["1", "2", "9"]


def test_the_figure_has_a_panel_for_each_data_set_and_the_papers_points(printed):
    picture = anchor_figure([clustered(), clustered("c", dataset=COCO, experiment="anchors-coco")])
    titles = [title for title, _ in picture.data["panels"]]
    assert titles == ["COCO 2017, paper scale", "PASCAL VOC 2007, paper scale"]
    fitted, stretched, hand = picture.data["panels"][1][1]
    assert fitted == ["fitted, 416x416", [1, 2, 5, 9], [41, 42, 45, 49]]
    assert stretched[2] == [46, 47, 50, 54]
    assert hand == ["hand-picked, Faster R-CNN", [9], [60]]
    assert picture.data["paper"] == [[5, 61.0], [9, 67.2]]
    figure = picture.draw()
    assert [len(axis.lines) for axis in figure.axes] == [4, 4]
    again = anchor_figure([clustered("c", dataset=COCO, experiment="anchors-coco"), clustered()])
    assert again.data_hash == picture.data_hash


# --- speed against accuracy


def detectors_figure(results):
    return speed_figure(results, "detection", across_inputs=True)


def detector(run_id, model, score, ms, size, **fields):
    proposals = "fast" if model == "fast_rcnn" else ""
    config = {"kind": "train", "network": {"name": model}, "task": {"name": "detection", "proposals": proposals}}
    base = {"experiment": f"voc-{run_id}", "input_size": size, "timings": {"latency.xla": timing(ms)}, "config": config}
    return trained_detector(run_id, model, score, **base | fields)


def test_detectors_of_all_inputs_share_a_panel(printed):
    runs = [
        detector("faster", "faster_rcnn", 0.7, 200, (600, 1000)),
        detector("v2", "yolo_v2", 0.7, 10, (416, 416)),
        detector("v2-more", "yolo_v2", 0.6, 10, (416, 416), experiment="voc-v2", seed=1),
        detector("small", "yolo_v2", 0.6, 5, (288, 288)),
        detector("fast", "fast_rcnn", 0.65, 300, (600, 1000)),
        detector("smoke", "yolo_v2", 0.1, 1, (64, 64), scale="smoke"),
        detector("gpu", "yolo_v2", 0.7, 1, (416, 416), machine=machine(accelerator="NVIDIA H200")),
    ]
    picture = detectors_figure(runs)
    (panel,) = picture.data["panels"]
    assert panel["title"] == "PASCAL VOC 2007, test, reduced scale"
    assert panel["setup"] == "Xeon (2 cores), tensorflow float32"
    points = {point["label"]: point for point in panel["points"]}
    assert points.keys() == {
        "faster_rcnn, 600x1000", "yolo_v2, 416x416", "yolo_v2, 288x288",
        "fast_rcnn, 600x1000, proposals not counted",
    }  # fmt: skip
    assert points["yolo_v2, 416x416"]["score"] == (65, 60, 70)
    assert points["yolo_v2, 416x416"]["latency"] == (10, 9, 11)
    (axis,) = picture.draw().axes
    assert axis.get_xscale() == "log"
    assert axis.get_ylabel() == "mAP %"
    assert detectors_figure(runs[:1]) is None
    assert detectors_figure([]) is None


def test_equal_points_are_told_apart():
    runs = [
        detector("a", "yolo_v2", 0.7, 10, (416, 416)),
        detector("b", "yolo_v2", 0.6, 12, (416, 416)),
        detector("c", "yolo_v2", 0.6, 12, (416, 416), width=0.5),
    ]
    (panel,) = detectors_figure(runs).data["panels"]
    labels = [point["label"] for point in panel["points"]]
    assert len(set(labels)) == 3
    assert sum("width 0.5" in label for label in labels) == 1


def test_tables_can_be_written(printed):
    for kind, sections in (
        (DetectorSpeed, speed_sections([timed()])),
        (Anchors, anchor_sections([clustered(), clustered("c", dataset=COCO)])),
    ):
        (info,) = kind.TABLES
        table = Table(info.name, info.title, info.caption, tuple(sections))
        text = to_markdown(table)
        assert info.caption[0] in text
        assert to_latex(table).count(r"\begin{table}") == len(sections)
        assert len(to_csv(table).splitlines()) == 1 + sum(len(s.rows) for s in sections if s.csv)


def test_the_index_leads_from_their_rows_to_the_result_files(printed, tmp_path):
    folder = tmp_path / "tables"
    write_tables(KINDS, [timed(), clustered()], folder, tmp_path / "private", table_of=table_of)
    index = (folder / "README.md").read_text()
    for run_id, experiment in (("one", timed().experiment), ("k", clustered().experiment)):
        assert f"results/{experiment}/{run_id}.json" in index
    assert {"anchors.png", "anchors.md", "yolo_speed.md"} <= {path.name for path in folder.iterdir()}


def test_the_readme_shows_the_times_of_whole_detectors(printed):
    text = headline([timed()])
    (line,) = (line for line in text.splitlines() if "whole detectors" in line)
    for label in CARDS:
        assert f"{label} " in line
    assert "random weights" in line
