"""The three generations timed stage by stage, and the tables made of it: stages, ratios, proposals, recall."""

import msgspec
import numpy as np
import pytest

from repro import backend
from repro.experiments import lineage as kind
from repro.experiments.lineage import Lineage, lineage_sections, rpn_sections
from repro.experiments.train import Train
from repro.facts import paper_value
from repro.records.result import Timing
from repro.records.settings import Data
from repro.report.detectors import recall_sections, training_sections
from repro.tasks.stages import fit_scene
from tests.support.kinds import run_kind
from tests.support.results import headline, machine, result, timing, trained_detector

TINY = Lineage(
    data=Data(name="shapes", options={"image_size": (32, 48), "max_objects": 2, "test_size": 2}), images=2,
    canvas=(32, 48), region=32, search={"width": None, "min_side": 8}, num_proposals=8, num_classes=3, width=1 / 32,
    depth=0.3, svd=(4, 2), warmup=1, repetitions=3, seconds=1,
)  # fmt: skip
DETECTOR = ("backbone", "roi", "head", "nms", "total")
STAGES = {
    "rcnn": ("warp", "network", "classify", "nms", "total"),
    "fast_rcnn": DETECTOR,
    "fast_rcnn_svd": DETECTOR,
    "faster_rcnn": (*DETECTOR, "rpn", "propose"),
}


# --- timing


def scene_of(image, boxes):
    return fit_scene(image, boxes, TINY.canvas, TINY.num_proposals)


def test_a_picture_is_turned_and_fitted_with_its_proposals():
    """40 rows and 20 columns become 20 and 40, and 1.2 times as large fill a canvas of 32x48."""
    image = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
    scene = scene_of(image, np.array([[2, 4, 10, 30], [0, 0, 20, 40]], "float32"))
    assert scene.valid_size == (24, 48)
    assert scene.image.shape == (32, 48, 3)
    assert (scene.image[24:] == 116).all()
    assert scene.proposals.shape == (8, 4)
    np.testing.assert_allclose(scene.proposals[:2], [[4.8, 2.4, 36, 12], [0, 0, 48, 24]], rtol=1e-6)
    assert not scene.proposals[2:].any()


def test_a_picture_that_lies_as_the_canvas_does_stays():
    image = np.random.default_rng(1).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    boxes = np.array([[1, 2, 30, 20]], "float32")
    scene = scene_of(image, boxes)
    assert scene.valid_size == (32, 48)
    np.testing.assert_array_equal(scene.image, image)
    np.testing.assert_array_equal(scene.proposals[:1], boxes)


@pytest.mark.parametrize(
    ("changes", "scale"),
    [
        ({}, "paper"),
        ({"width": 0.5}, "smoke"),
        ({"depth": 0.5}, "smoke"),
        ({"num_proposals": 300}, "reduced"),
        ({"canvas": (480, 640)}, "reduced"),
    ],
    ids=str,
)
def test_scale_is_what_ran(changes, scale):
    assert kind.scale_of(Lineage(data=Data(name="voc2007"), **changes)) == scale


def test_timings_of_pictures_are_pooled():
    found = kind.pooled([Timing(median=2, p5=1, p95=9, n=3, unit="ms"), Timing(median=4, p5=3, p95=5, n=4, unit="ms")])
    assert found == Timing(median=3, p5=1, p95=9, n=7, unit="ms")


@pytest.mark.parametrize("name", ["fast_rcnn", "faster_rcnn"])
def test_the_stages_one_after_another_are_the_whole_detector(name, monkeypatch):
    """What is timed in parts is what is timed as a whole: `measure` gets calls that give the same boxes."""
    monkeypatch.setattr(backend, "forward", lambda model, mode: lambda inputs: model(inputs, training=False))
    outputs = {}

    def keep(calls, *rest):
        outputs.update({key: call() for key, call in calls.items()})
        return {}, {key: timing(1.0) for key in calls}

    monkeypatch.setattr(kind, "measure", keep)
    rng = np.random.default_rng(0)
    boxes = np.array([[0, 0, 30, 20], [10, 4, 40, 30], [5, 5, 20, 31]], "float32")
    scene = scene_of(rng.integers(0, 256, (32, 48, 3), dtype=np.uint8), boxes)
    backend.set_seed(0)
    options = {"proposals": TINY.num_proposals} if name == "fast_rcnn" else {}
    assert kind.time_detector(name, options, [scene], TINY).keys() == set(STAGES[name])
    nms, total = ({key: np.asarray(value) for key, value in outputs[stage].items()} for stage in ("nms", "total"))
    assert nms["count"][0] > 0
    for key in ("boxes", "scores", "classes", "count"):
        np.testing.assert_allclose(nms[key], total[key], rtol=1e-4, atol=1e-4)
    if name == "faster_rcnn":
        regions, valid = (np.asarray(value) for value in outputs["propose"])
        np.testing.assert_allclose(regions, total["proposals"], atol=1e-3)
        np.testing.assert_array_equal(valid, total["proposal_valid"])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    heard = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(tmp_path_factory.mktemp("lineage") / "results"))
        (found,) = run_kind(TINY, experiment="tiny-lineage", progress=lambda fraction, note: heard.append(fraction))
    assert heard == sorted(heard)
    assert heard[-1] == 1
    return found


def test_a_run_times_every_stage(tiny):
    names = {f"{model}.{stage}" for model, stages in STAGES.items() for stage in stages}
    assert tiny.timings.keys() == names | {"selective_search"}
    assert all(0 < entry.p5 <= entry.median <= entry.p95 and entry.unit == "ms" for entry in tiny.timings.values())
    # every picture three times, or once where one takes long
    once = {name for name, entry in tiny.timings.items() if entry.n == 2}
    assert once == {"selective_search", *(f"rcnn.{stage}" for stage in STAGES["rcnn"])}
    assert {entry.n for name, entry in tiny.timings.items() if name not in once} == {6}
    assert tiny.metrics["images"] == 2
    assert all(1 <= number <= 8 for number in tiny.metrics["proposals"])
    assert (tiny.status, tiny.kind, tiny.scale, tiny.model) == ("ok", "speed", "smoke", "rcnn")


def test_the_total_of_rcnn_is_the_sum_of_its_stages(tiny):
    """Medians of two are means, so that they add up."""
    stages = [tiny.timings[f"rcnn.{stage}"].median for stage in STAGES["rcnn"]]
    assert stages[-1] == pytest.approx(sum(stages[:-1]))


def test_a_run_fills_its_tables(tiny):
    tables = Lineage.sections([tiny])
    assert list(tables) == [info.name for info in Lineage.TABLES]
    (section,) = tables["rcnn_lineage_speed"]
    assert [row.cells["model"] for row in section.rows] == ["R-CNN", "Fast R-CNN", "Fast R-CNN, SVD", "Faster R-CNN"]
    (section,) = tables["rpn_speed"]
    assert len(section.rows) == 6


# --- tables of stages

MS = {
    "rcnn": {"warp": 100, "network": 3700, "classify": 150, "nms": 50, "total": 4000},
    "fast_rcnn": {"backbone": 60, "roi": 10, "head": 25, "nms": 5, "total": 80},
    "fast_rcnn_svd": {"backbone": 60, "roi": 10, "head": 8, "nms": 5, "total": 64},
    "faster_rcnn": {"backbone": 60, "rpn": 4, "propose": 6, "roi": 3, "head": 12, "nms": 5, "total": 100},
}
SEARCH = 320
CONFIG = msgspec.to_builtins(Lineage(data=Data(name="voc2007")))


def timed(run_id="one", models=tuple(MS), search=SEARCH, factor=1, n=50, **fields):
    """A result of timings in ms as above, times `factor`."""
    timings = {f"{model}.{stage}": timing(factor * ms, n=n) for model in models for stage, ms in MS[model].items()}
    timings |= {"selective_search": timing(factor * search, n=1)} if search else {}
    base = {
        "experiment": "lineage", "kind": "speed", "task": "", "model": "rcnn", "scale": "paper", "init": None,
        "config": CONFIG, "timings": timings, "metrics": {"images": 1, "proposals": [1994], "canvas": [600, 1000]},
    }  # fmt: skip
    return result(run_id, **base | fields)


def rows_by(sections, key):
    (section,) = sections
    shown = {column.key for column in section.columns}
    assert all(row.cells.keys() & shown >= {key, "id"} for row in section.rows)
    return {row.cells[key]: row for row in section.rows}


def test_stages_and_ratios_of_each_generation():
    rows = rows_by(lineage_sections([timed()]), "model")
    # (selective search and total, over Fast R-CNN's 400), (total over 80), images a second of all
    expected = {
        "R-CNN": (4320 / 400, 50, 1000 / 4320),
        "Fast R-CNN": (1, 1, 2.5),
        "Fast R-CNN, SVD": (384 / 400, 0.8, 1000 / 384),
        "Faster R-CNN": (100 / 400, 1.25, 10),
    }
    assert list(rows) == list(expected)
    for model, (ratio, bare, rate) in expected.items():
        values = rows[model].values
        assert values["whole_over_fast"] == pytest.approx(ratio)
        assert values["total_over_fast"] == pytest.approx(bare)
        assert values["images_per_second"] == pytest.approx(rate)
        assert rows[model].files == ("results/lineage/one.json",)
    cells = {model: row.cells for model, row in rows.items()}
    assert [cells[model]["ratio"] for model in expected] == ["10.8", "1.00", "0.960", "0.250"]
    assert [cells[model]["bare"] for model in expected] == ["50.0", "1.00", "0.800", "1.25"]
    assert [cells[model]["rate"] for model in expected] == ["0.231", "2.50", "2.60", "10.0"]
    assert [cells[model]["search"] for model in expected] == ["320", "320", "320", ""]
    assert [cells[model]["total"] for model in expected] == [
        "4000 (3600–4400)", "80.0 (72.0–88.0)", "64.0 (57.6–70.4)", "100 (90.0–110)",
    ]  # fmt: skip
    assert [cells[model].get("backbone", "") for model in expected] == ["", *["60.0 (54.0–66.0)"] * 3]
    shown = ("rpn", "propose", "roi", "head", "classify", "nms", "n")
    medians = {model: [cells[model].get(key, "").split(" ")[0] for key in shown] for model in expected}
    assert medians["R-CNN"] == ["", "", "100", "3700", "150", "50.0", "50"]
    assert medians["Fast R-CNN"] == ["", "", "10.0", "25.0", "", "5.00", "50"]
    assert medians["Faster R-CNN"] == ["4.00", "6.00", "3.00", "12.0", "", "5.00", "50"]
    assert (rows["R-CNN"].values["head_ms_median"], rows["R-CNN"].values["total_ms_p95"]) == (3700, pytest.approx(4400))
    assert rows["Faster R-CNN"].values["search_ms_median"] is None


def test_the_papers_figures_stand_beside():
    """Seconds of a K40, without selective search."""
    rows = rows_by(lineage_sections([timed()]), "model")
    assert [row.cells["paper"] for row in rows.values()] == ["47 s", "0.32 s", "0.22 s", "0.198 s"]
    assert [row.cells["paper_bare"] for row in rows.values()] == ["147", "1.00", "0.688", "0.619"]
    assert rows["R-CNN"].values["paper_seconds"] == paper_value("rcnn", "rcnn.latency_vgg16").value
    faster = paper_value("faster_rcnn", "faster_rcnn.stages_vgg16")
    assert rows["Faster R-CNN"].values["paper_seconds"] == pytest.approx(faster.value["total"] / 1000)
    assert rows["Faster R-CNN"].values["paper_source"] == faster.source


def test_without_selective_search_the_bare_ratio_stays():
    rows = rows_by(lineage_sections([timed(search=None)]), "model")
    for row, ratio in zip(rows.values(), (50, 1, 0.8, 1.25), strict=True):
        assert row.values["total_over_fast"] == pytest.approx(ratio)
        assert row.cells["search"] == ""
    assert rows["Faster R-CNN"].cells["rate"] == "10.0"


def test_a_generation_that_was_not_timed_has_no_row():
    rows = rows_by(lineage_sections([timed(models=("rcnn", "faster_rcnn"))]), "model")
    assert list(rows) == ["R-CNN", "Faster R-CNN"]
    for row in rows.values():
        assert (row.cells["ratio"], row.cells["bare"], row.values["whole_over_fast"]) == ("", "", None)
        assert row.cells["rate"]
    assert lineage_sections([timed(models=())]) == []


def test_hosts_are_pooled_and_devices_and_scales_kept_apart():
    card = {"accelerator": "NVIDIA H200", "driver": "570"}
    runs = [
        timed("a", machine=machine("m1", **card)),
        timed("b", factor=3, machine=machine("m2", cores=64, **card)),
        timed("c", factor=10, machine=machine("m1")),
        timed("d", scale="smoke"),
    ]
    paper, smoke = lineage_sections(runs)
    assert smoke.heading.startswith("Smoke")
    assert len(smoke.rows) == 4
    fast = {row.cells["hardware"]: row for row in paper.rows if row.cells["model"] == "Fast R-CNN"}
    assert {name: row.values["total_ms_median"] for name, row in fast.items()} == {
        "NVIDIA H200": 160, "Xeon (2 cores)": 800,
    }  # fmt: skip
    assert (fast["NVIDIA H200"].cells["n"], fast["NVIDIA H200"].cells["driver"]) == ("100", "570")
    assert len(fast["NVIDIA H200"].files) == 2


def test_the_readme_shows_the_three_generations():
    (line,) = (line for line in headline([timed()]).splitlines() if "R-CNN line" in line)
    for generation in ("R-CNN ", "Fast R-CNN ", "Faster R-CNN "):
        assert generation in line


def test_notes_say_how_many_proposals_there_were():
    two = timed("two", metrics={"images": 2, "proposals": [100, 80]}, config_hash="1" * 12)
    (section,) = lineage_sections([timed(), two])
    assert "1 image, 1994 proposals each." in section.notes
    assert "2 images, 80 to 100 proposals each." in section.notes
    other = timed("other", metrics={"images": 1, "proposals": [300]}, config_hash="2" * 12)
    (section,) = lineage_sections([timed(), other])
    text = " ".join(section.notes)
    assert "1994" in text
    assert "300" in text


def test_what_is_not_a_lineage_or_failed_has_no_row():
    other = result("speed", kind="speed", experiment="speed-fcn8s", timings={"latency.xla": timing(1.0)}, config={})
    failed = timed("failed", status="failed", error="killed", timings={}, metrics={})
    for found in ([], [other, failed]):
        assert Lineage.sections(found) == {"rcnn_lineage_speed": [], "rpn_speed": []}
        assert Train.sections(found)["rcnn_lineage_speed"] == Lineage.headline(found) == recall_sections(found) == []


def test_stale_rows_say_so():
    rows = rows_by(lineage_sections([timed(versions={"experiments.lineage": 0})]), "model")
    assert {row.cells["code"] for row in rows.values()} == {"stale"}


# --- region proposals


def test_rows_of_region_proposals():
    rows = rows_by(rpn_sections([timed()]), "what")
    printed = paper_value("faster_rcnn", "faster_rcnn.stages_vgg16").value
    search = paper_value("fast_rcnn", "fast_rcnn.stages_selective_search_vgg16").value["proposal"]
    expected = {
        "RPN layers alone": (4, None, 50),
        "proposals: decode, sort, NMS": (6, None, 50),
        "RPN layers and proposals": (10, printed["proposal"], 50),
        "with the backbone": (70, printed["conv"] + printed["proposal"], 50),
        "whole Faster R-CNN": (100, printed["total"], 50),
        "selective search": (320, search, 1),
    }
    assert {what: (row.values["ms"], row.values["paper_ms"], row.values["n"]) for what, row in rows.items()} == expected
    assert [row.cells["paper"] for row in rows.values()] == ["", "", "10", "151", "198", "1510"]
    assert [row.cells["time"] for row in rows.values()] == [
        "4.00 (3.60–4.40)", "6.00 (5.40–6.60)", "10.0", "70.0", "100 (90.0–110)", "320",
    ]  # fmt: skip
    assert [row.cells["n"] for row in rows.values()] == ["50"] * 5 + ["1"]


def test_region_proposals_that_were_not_timed_have_no_row():
    assert list(rows_by(rpn_sections([timed(search=None)]), "what"))[-1] == "whole Faster R-CNN"
    assert list(rows_by(rpn_sections([timed(models=("rcnn", "fast_rcnn"))]), "what")) == ["selective search"]
    assert rpn_sections([timed(models=("rcnn",), search=None)]) == []


def covered(counts, half, most, average):
    return {"counts": list(counts), "objects": 7, "recall": {"0.5": half, "0.7": most}, "average_recall": average}


def test_training_stands_below_with_its_parts_and_disk():
    parts = {"fine-tuning": 90.0, "features": 20.0, "SVMs": 6.0, "box regression": 4.0}
    more = {"training_seconds": parts, "feature_bytes": 4096}
    rows = rows_by(training_sections([trained_detector("a"), trained_detector("b", "rcnn", 0.25, more=more)]), "model")
    assert {model: row.values["training_seconds"] for model, row in rows.items()} == {"faster_rcnn": 10, "rcnn": 120}
    assert [rows["rcnn"].cells[key] for key in ("images", "training", "each", "disk", "map", "seeds")] == [
        "20", "120", "6.00", "4.00", "25.0", "1",
    ]  # fmt: skip
    assert rows["rcnn"].cells["parts"] == "fine-tuning 90.0, features 20.0, SVMs 6.00, box regression 4.00"
    assert [rows["faster_rcnn"].cells[key] for key in ("parts", "each", "disk")] == ["", "0.500", "0"]


def test_training_of_several_seeds_is_their_mean():
    runs = [trained_detector("a", score=0.4, seconds=[10]), trained_detector("b", score=0.6, seconds=[30], seed=1)]
    (row,) = rows_by(training_sections(runs), "model").values()
    assert (row.cells["seeds"], row.cells["training"], row.cells["each"]) == ("2", "20.0", "1.00")
    assert row.cells["map"].startswith("50.0")
    assert row.files == ("results/voc-faster_rcnn/a.json", "results/voc-faster_rcnn/b.json")


def test_training_without_images_or_of_others_has_no_row():
    assert (
        training_sections(
            [trained_detector("a", more={"train_images": 0}), trained_detector("b", kind="eval"), result("c")]
        )
        == []
    )


def test_recall_by_the_number_of_proposals():
    own = covered((10, 300), [0.5, 0.9], [0.2, 0.75], [0.3, 0.625])
    search = covered((10, 2000), [0.25, 1.0], [0.1, None], [0.2, 0.7])
    (section,) = recall_sections([trained_detector("a", recall=own), trained_detector("b", "fast_rcnn", recall=search)])
    assert [column.title for column in section.columns if column.key.startswith("n")] == [
        "10 boxes", "300 boxes", "2000 boxes",
    ]  # fmt: skip
    cells = {(row.cells["model"], row.cells["iou"]): row.cells for row in section.rows}
    assert cells.keys() == {
        (model, iou) for model in ("fast_rcnn", "faster_rcnn") for iou in ("0.5", "0.7", "0.5 to 0.95")
    }
    found = {key: [row.get(f"n{count}", "") for count in (10, 300, 2000)] for key, row in cells.items()}
    assert found["faster_rcnn", "0.5"] == ["50.0", "90.0", ""]
    assert found["faster_rcnn", "0.7"] == ["20.0", "75.0", ""]
    assert found["faster_rcnn", "0.5 to 0.95"] == ["30.0", "62.5", ""]
    assert found["fast_rcnn", "0.5"] == ["25.0", "", "100.0"]
    assert found["fast_rcnn", "0.7"] == ["10.0", "", ""]
    assert [cells[model, "0.5"]["by"] for model in ("faster_rcnn", "fast_rcnn")] == ["RPN", "selective search, fast"]


def test_recall_of_several_seeds_is_their_mean():
    runs = [
        trained_detector("a", recall=covered((10,), [0.4], [0.2], [0.1])),
        trained_detector("b", recall=covered((10,), [0.6], [0.3], [0.2]), seed=1),
    ]
    (section,) = recall_sections(runs)
    assert [row.cells["n10"].split(" ")[0] for row in section.rows] == ["50.0", "25.0", "15.0"]


def test_without_proposals_there_is_no_recall():
    assert recall_sections([trained_detector("a"), trained_detector("b", "rcnn")]) == []
