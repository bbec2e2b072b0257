"""What a score costs: its part of the tables, and speed against accuracy."""

import itertools

import pytest
from matplotlib.text import Text

from repro.report import cost, scatter
from tests.support.results import DUBAI, OLD, files_of, headline, machine, rows_of, scores, trained


def test_costs_stand_beside_the_score():
    runs = [trained("a", latency=10.0), trained("b", seed=1, latency=12.0, mean_iou=0.6, peak_memory_mib=1700.0)]
    files = files_of(runs)
    (row,) = rows_of(files, "segmentation_cost")
    assert (row["params"], row["flops"], row["train_peak_memory_mib"]) == ("1200000", "3400000000", "1700.0")
    values = [float(row[f"latency_ms_{part}"]) for part in ("median", "p5", "p95", "n")]
    assert values == pytest.approx([11.0, 9.0, 13.2, 100])
    assert float(row["fps"]) == pytest.approx(1000 / 11)
    assert (row["latency_of"], float(row["mean_iou_mean"])) == ("image", pytest.approx(0.55))
    assert row["row"] == rows_of(files, "segmentation")[0]["row"]
    section = files["segmentation.md"].split("#### Cost: CamVid, test split, reduced scale")[1].split("####")[0]
    (line,) = (text for text in section.splitlines() if text.startswith("| S"))
    found = [cell.strip() for cell in line.strip("|").split("|")]
    assert found[2:] == ["55.0 ± 7.1", "1.20", "3.40", "11.0 (9.00–13.2)", "100", "90.9", "1700"]


def test_older_results_have_empty_costs_and_alone_no_section():
    old = trained("old", timings={}, metrics=scores(0.4), experiment="old", model="fcn32s")
    assert "Cost:" not in files_of([old])["segmentation.md"]
    assert "segmentation_cost.csv" not in files_of([old])
    files = files_of([old, trained("new")])
    rows = {row["model"]: row for row in rows_of(files, "segmentation_cost")}
    assert (rows["fcn32s"]["params"], rows["fcn32s"]["fps"]) == ("", "")
    assert files["segmentation.md"].count("| fcn32s") == 2


def test_costs_never_pool_hardware():
    runs = [trained("cpu", latency=50.0), trained("gpu", seed=1, machine=machine("m2", "NVIDIA H200", driver="570"))]
    rows = {row["hardware"]: row for row in rows_of(files_of(runs), "segmentation_cost")}
    assert {name: float(row["latency_ms_median"]) for name, row in rows.items()} == {
        "NVIDIA H200": 10.0,
        "Xeon (2 cores)": 50.0,
    }
    assert len({row["row"] for row in rows.values()}) == 1


def test_tiles_are_no_images():
    tiled = {"data": {"size": [512, 512]}, "tile_margin": 32, "input_size": (192, 192), "dataset": DUBAI}
    (row,) = rows_of(files_of([trained("a", **tiled)]), "segmentation_cost")
    assert (row["latency_of"], row["fps"]) == ("tile", ""), "nobody counted the tiles"
    files = files_of([trained("a", more={"tiles": 16}, **tiled)])
    (row,) = rows_of(files, "segmentation_cost")
    assert float(row["fps"]) == pytest.approx(1000 / (16 * 10))
    assert "input 192x192 tiles of 512x512" in files["segmentation.md"]
    assert rows_of(files, "segmentation")[0]["image_width"] == "512"
    assert "160 ms" in headline([trained("a", more={"tiles": 16}, **tiled)])
    assert "10.0 ms a tile" in headline([trained("a", **tiled)])


def speed_panels(runs):
    picture = cost.speed_figure(runs, "segmentation")
    return picture.data["panels"] if picture else []


def test_speed_and_accuracy_are_drawn_by_panel():
    h200 = machine("m2", "NVIDIA H200", driver="570")
    runs = [
        trained("f0", mean_iou=0.50), trained("f1", seed=1, mean_iou=0.54, latency=12.0),
        trained("u", model="unet", latency=20.0, mean_iou=0.6),
        trained("base", model="majority", kind="eval"),
        trained("gf", seed=2, machine=h200, config_hash="2" * 12), trained("gu", model="unet", seed=2, machine=h200),
        trained("alone", model="segnet", scale="smoke"),
        trained("other-size", model="segnet", input_size=(180, 240)),
    ]  # fmt: skip
    panels = speed_panels(runs)
    assert [panel["title"] for panel in panels] == ["CamVid, test, reduced scale"] * 2
    assert [panel["setup"] for panel in panels] == [
        f"input 360x480, {name}, tensorflow float32" for name in ("NVIDIA H200", "Xeon (2 cores)")
    ]
    points = {point["label"]: point for point in panels[1]["points"]}
    assert list(points) == ["fcn8s", "unet"]
    assert points["fcn8s"]["score"] == (52.0, 50.0, 54.0)
    assert points["fcn8s"]["latency"] == (11.0, 9.0, 13.2)
    assert speed_panels(runs[:2]) == [], "one point is no comparison"
    assert "speed_accuracy_segmentation.png" in files_of(runs)
    assert "speed_accuracy_segmentation.png" not in files_of(runs[:2])
    assert "speed accuracy segmentation" in files_of(runs)["README.md"]


def test_stale_points_give_way_and_equal_names_are_told_apart():
    runs = [
        trained("old", versions=OLD), trained("new", latency=11.0),
        trained("unet", model="unet"), trained("again", model="unet", config_hash="3" * 12),
        trained("narrow", model="unet", config_hash="4" * 12, width=0.5),
    ]  # fmt: skip
    (panel,) = speed_panels(runs)
    labels = [point["label"] for point in panel["points"]]
    assert len(labels) == len(set(labels)) == 4
    assert [label.split(",")[0] for label in labels] == ["fcn8s", "unet", "unet", "unet"]
    assert "unet, width 0.5" in labels


def test_labels_of_a_figure_do_not_overlap():
    def at(name, latency, score):
        return scatter.Point(name, name, (latency, 0.95 * latency, 1.05 * latency), (score, score - 1, score + 1))

    crowd = [at(f"model{i}", 10 + 0.1 * i, 40 + 0.2 * (i % 3)) for i in range(6)]
    panel = scatter.Panel("title", "setup", "image", (*crowd, at("slow", 200.0, 41.0)))
    figure = scatter.speed_accuracy([panel], "mIoU %").draw()
    axis = figure.axes[0]
    boxes = [Text.get_window_extent(text, axis.figure.canvas.get_renderer()) for text in axis.texts]
    assert {text.get_text() for text in axis.texts} == {point.label for point in panel.points}
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(axis.bbox.x0 <= box.x0 and box.x1 <= axis.bbox.x1 for box in boxes)
    assert axis.get_xscale() == "log"
