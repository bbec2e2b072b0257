"""Tables, figures, headline and ledger: pooling, marking, exact regeneration."""

import csv
import io
import itertools
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text

from repro import facts
from repro.errors import ReproError
from repro.experiments import KINDS
from repro.experiments.architectures import describe
from repro.records.result import Dataset, Init, Machine, Result, Timing, Xla, read_result, write_result
from repro.records.versions import version_of
from repro.registry import ARCHITECTURES
from repro.report import cost, curves, figures, pooling, readme, render, scatter, tables

CAMVID = Dataset(name="camvid", version="1", split="test", fingerprint="f" * 16, official=True)
COPY = Dataset(name="camvid", version="1", split="test", fingerprint="e" * 16, official=False, note="JPEG files")
IMAGENET = Dataset(name="imagenet2012", version="5", split="val", fingerprint="d" * 16, official=True)
OLD, NEW = {"engine.train": 0}, {"engine.train": version_of("engine.train")}


ARCHITECTURE = {"kind": "inspect", "config": {"kind": "architectures"}, "experiment": "architectures"}
CLASSIFIED = {"task": "classification", "dataset": IMAGENET, "metrics": {"top1": 0.7, "top5": 0.9, "images": 1}}


def machine(name="m1", accelerator="none", cpu="Xeon", cores=2, driver=""):
    return Machine(id=name, accelerator=accelerator, driver=driver, cpu=cpu, cores=cores, memory_gib=8.0)


def result(run_id, **fields):
    base = {
        "schema_version": 2, "run_id": run_id, "kind": "train", "task": "segmentation", "experiment": "camvid-fcn8s",
        "model": "fcn8s", "variant": "paper", "width": 1.0, "depth": 1.0, "input_size": (360, 480),
        "dataset": CAMVID, "profile": "gpu", "scale": "reduced", "seed": 0,
        "init": Init(source="camvid-fcn16s"),
        "config": {"kind": "train", "network": {"options": {"padding": "same"}}}, "config_hash": "0" * 12,
        "versions": NEW, "code_hash": "b" * 12, "commit": "c", "dirty": False, "depends_on": [], "weights_sha256": None,
        "backend": "tensorflow", "precision": "float32", "tf32": False,
        "xla": Xla(requested=True, used=True), "deterministic": False, "compile_cache": False,
        "machine": machine(), "packages": {}, "epochs": 40.0, "images_seen": 100, "metrics": scores(0.5),
        "protocol": {"void": "not scored"}, "timings": {}, "peak_memory_mib": None,
        "started": "2026-01-01T00:00:00+00:00", "wall_s": 1.0, "status": "ok",
    }  # fmt: skip
    return Result(**(base | fields))


def scores(mean_iou, **extra):
    per_class = {"road": {"accuracy": 0.9, "iou": mean_iou, "dice": 0.8, "pixels": 300}}
    per_class["sky"] = {"accuracy": 0.8, "iou": mean_iou / 2, "dice": 0.7, "pixels": 100}
    names = ("pixel_accuracy", "mean_pixel_accuracy", "frequency_weighted_iou", "mean_dice")
    return {"mean_iou": mean_iou, **dict.fromkeys(names, 0.75), "per_class": per_class, **extra}


def timing(median, unit="ms", n=50):
    return Timing(median=median, p5=median * 0.9, p95=median * 1.1, n=n, unit=unit)


def speed(run_id, where, latency=10.0, **fields):
    timings = {"latency.eager": timing(4 * latency), "latency.graph": timing(2 * latency)}
    timings |= {"latency.xla": timing(latency), "compile.xla": timing(7.0, "s", 1)}
    base = {
        "kind": "speed",
        "experiment": "speed-fcn8s",
        "dataset": None,
        "init": None,
        "task": "",
        "config": {"kind": "speed"},
    }
    metrics = {"batch": 1, "peak_memory_mib": {"latency.xla": 812.0}}
    return result(run_id, **(base | {"machine": where, "timings": timings, "metrics": metrics} | fields))


def rows_of(files, name):
    return list(csv.DictReader(io.StringIO(files[f"{name}.csv"])))


def table_of(result):
    return result.task or "xla"


def files_of(results, expected=()):
    return tables.render_all(KINDS, results, expected, table_of)[0]


def headline(results):
    return readme.headline(KINDS, results)


def test_seeds_are_pooled_over_machines_and_lead_to_their_files():
    runs = [
        result("s0-m1", seed=0, metrics=scores(0.50)),
        result("s0-m2", seed=0, metrics=scores(0.52), machine=machine("m2")),
        result("s1-m1", seed=1, metrics=scores(0.55)),
        result("s1-m2", seed=1, metrics=scores(0.57), machine=machine("m2")),
    ]
    files = files_of(runs)
    (row,) = rows_of(files, "segmentation")
    assert float(row["mean_iou_mean"]) == pytest.approx(0.535)
    assert float(row["mean_iou_std"]) == pytest.approx(np.std([0.51, 0.56], ddof=1))
    assert (row["mean_iou_n"], row["runs"], row["machines"], row["machines_agree"]) == (
        "2",
        "4",
        "2",
        "agree",
    )
    assert "53.5 ± 3.5" in files["segmentation.md"]
    index = json.loads(files["index.json"])["tables"]["segmentation"]["rows"][row["row"]]["results"]
    assert index == row["results"].split() == sorted(f"results/camvid-fcn8s/{run.run_id}.json" for run in runs)
    assert all(f"../{path}" in files["README.md"] for path in index)


@pytest.mark.parametrize(
    "change",
    [
        {"scale": "paper"},
        {"precision": "mixed_bfloat16"},
        {"tf32": True},
        {"config_hash": "1" * 12},
        {"versions": OLD},
        {"backend": "jax"},
        {"dataset": COPY},
    ],
    ids=lambda change: next(iter(change)),
)
def test_different_runs_never_share_a_row(change):
    first, second = result("one"), result("two", seed=1, **change)
    found = rows_of(files_of([first, second]), "segmentation")
    assert [row["runs"] for row in found] == ["1", "1"]
    assert len({row["row"] for row in found}) == 2
    assert all(row["mean_iou_std"] == "" for row in found), "one seed has no deviation"


def test_a_row_keeps_its_id_when_other_rows_come():
    alone = rows_of(files_of([result("one")]), "segmentation")[0]["row"]
    others = [result("base", model="majority", experiment="a"), result("one"), result("s1", scale="paper")]
    assert alone in {row["row"] for row in rows_of(files_of(others), "segmentation")}


def test_speed_is_pooled_by_device_never_by_host():
    card = {"accelerator": "NVIDIA H200", "driver": "570"}
    runs = [
        speed("a", machine("m1", cpu="Xeon", **card), 10.0),
        speed("b", machine("m2", cpu="EPYC", cores=64, **card), 12.0),
        speed("c", machine("m1", accelerator="NVIDIA H200", driver="580"), 10.0),
        speed("d", machine("m1"), 50.0),
        speed("e", machine("m3", cores=64), 20.0),
    ]
    found = {row["results"]: row for row in rows_of(files_of(runs), "xla")}
    assert len(found) == 4
    both = found["results/speed-fcn8s/a.json results/speed-fcn8s/b.json"]
    values = [float(both[f"latency.xla_ms_{part}"]) for part in ("median", "p5", "p95", "n")]
    assert values == pytest.approx([11.0, 9.0, 13.2, 100])
    assert float(both["speedup_graph_over_xla"]) == pytest.approx(2.0)


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 1)), min_size=1, max_size=12))
def test_estimate_is_the_mean_of_seed_means(pairs):
    runs = [result(f"r{i}", seed=seed, metrics={"x": value}) for i, (seed, value) in enumerate(pairs)]
    found = pooling.estimate(runs, lambda r: r.metrics["x"])
    means = [np.mean([v for s, v in pairs if s == seed]) for seed in sorted({s for s, _ in pairs})]
    assert found.mean == pytest.approx(np.mean(means))
    assert found.n == len(means)
    assert found.std == (pytest.approx(np.std(means, ddof=1), abs=1e-9) if len(means) > 1 else None)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        ([0.5, 0.5], [], ""),
        ([0.5], [0.5], "agree"),
        ([0.5], [0.6], "undecided"),
        ([0.50, 0.52], [0.51, 0.53], "agree"),
        ([0.50, 0.51], [0.60, 0.61], "differ"),
    ],
)
def test_machines_agree_differ_or_stay_undecided(first, second, verdict):
    runs = [
        result(f"{name}-{seed}", seed=seed, machine=machine(name), metrics=scores(value))
        for name, values in (("m1", first), ("m2", second))
        for seed, value in enumerate(values)
    ]
    assert pooling.agreement(runs, "mean_iou") == verdict


def test_stale_rows_are_marked_and_come_after_current_ones():
    runs = [result("old", versions=OLD), result("new", metrics=scores(0.6))]
    today = files_of(runs)
    assert [row["code"] for row in rows_of(today, "segmentation")] == ["current", "stale"]
    lines = re.findall(r"^\| S[0-9a-f]{6} .*", today["segmentation.md"], re.MULTILINE)
    assert ["stale" in line for line in lines] == [False, True]
    assert "stale" in headline([runs[0]])
    assert "stale" not in headline([runs[1]])
    renamed = result("renamed", versions={"models.gone": 3})
    assert "stale" not in files_of([renamed])["segmentation.md"], "a module that was renamed moved no number"


def test_experiments_without_a_figure_are_named():
    base = {"model": "fcn8s", "table": "segmentation", "dataset": "camvid", "status": "not run"}
    expected = [
        base | {"experiment": "voc-fcn8s", "status": "no data"},
        base | {"experiment": "camvid-fcn8s"},
        base | {"experiment": "speed-fcn8s", "table": "xla", "dataset": ""},
    ]
    broken = result("bad", experiment="broken", status="failed", error="loss is not finite\ntrace", metrics={})
    retried = result("worse", status="failed", error="killed", metrics={})
    files = files_of([result("fine"), broken, retried], expected)
    states = {row["experiment"]: row["state"] for row in rows_of(files, "segmentation") if row["state"]}
    assert states == {"voc-fcn8s": "no data", "broken": "failed: loss is not finite"}
    assert rows_of(files, "xla")[0]["state"] == "not run"
    assert "results/broken/bad.json" in files["README.md"]


def test_a_copy_never_stands_under_the_benchmarks_name_or_beside_its_figures():
    files = files_of([result("copy", dataset=COPY), result("official", experiment="official")])
    rows = {row["experiment"]: row for row in rows_of(files, "segmentation")}
    assert rows["camvid-fcn8s"]["paper_mean_iou"] == ""
    assert (rows["official"]["paper_mean_iou"], rows["official"]["paper_source"]) == (
        "0.4983",
        "SegNet paper Table 3",
    )
    copy = re.findall(
        r"^#+ .*CamVid(?! \(not official: JPEG files\)), test split", files["segmentation.md"], re.MULTILINE
    )
    assert len(copy) == 2, "the official section and its per-class table, nothing else"
    assert "CamVid (not official: JPEG files), test" in headline([result("copy", dataset=COPY)])


def test_sections_put_the_baseline_first_and_smoke_last():
    baseline = result("base", kind="eval", model="majority", experiment="z-majority", init=None, input_size=(0, 0))
    again = msgspec.structs.replace(baseline, experiment="y-majority")
    smoke = result("smoke", experiment="a-smoke", scale="smoke", model="fcn32s")
    text = files_of([smoke, result("r"), baseline, again, result("s", experiment="b", model="fcn32s")])[
        "segmentation.md"
    ]
    sections = re.findall(r"^### (.*)", text, re.MULTILINE)
    assert "only to show that the suite works" in sections[-1]
    assert sum("Smoke" in title for title in sections) == 1
    models = re.findall(r"^\| S\w+ \| (majority class|fcn\w+)", text, re.MULTILINE)
    assert models == ["majority class", "fcn32s", "fcn8s", "fcn32s"]


def test_chain_counts_the_images_of_the_runs_it_started_from():
    row = rows_of(files_of([result("r", metrics=scores(0.5, chain_images_seen=1234))]), "segmentation")[0]
    assert row["images_seen"] == "1234"


def test_architectures_compare_every_count():
    card = {
        "paper": "fcn", "input_shape": [500, 500, 3], "params": 134489759, "trainable_params": 134362751,
        "running_stats": 0, "conv_layers": 18, "outputs": {"scores": [500, 500, 21]}, "flops": 1e9,
        "deviations": ["one"],
    }  # fmt: skip
    runs = [
        result(
            name,
            kind="inspect",
            config={"kind": "architectures"},
            experiment="architectures",
            variant=variant,
            metrics=card | change,
        )
        for name, variant, change in (
            ("a", "released", {}),
            ("b", "paper", {"conv_layers": 17}),
            ("c", "released", {"trainable_params": 134489759}),
        )
    ]
    files = files_of(runs)
    assert {row["results"][-6]: row["exact"] for row in rows_of(files, "architectures")} == {
        "a": "yes",
        "b": "no",
        "c": "no",
    }
    assert "Deviation of every network: one." in files["architectures.md"]


DUBAI = Dataset(name="dubai", version="1", split="test", fingerprint="c" * 16, official=False, note="no official split")


def trained(run_id, model="fcn8s", latency=10.0, mean_iou=0.5, data=None, tile_margin=None, more=None, **fields):
    """A training result as it is written today: with the cost of the network beside its scores."""
    config = {
        "kind": "train", "network": {"options": {"padding": "same"}}, "data": {"name": "camvid"} | (data or {}),
        "loss_options": {}, "augment": {"flip": True, "jitter": 8, "zoom": [0.9, 1.4]}, "batch_size": 8,
        "task": {"name": "segmentation", "tile_margin": tile_margin},
    }  # fmt: skip
    config |= fields.pop("config", {})
    metrics = scores(mean_iou, params=1_200_000, flops=3_400_000_000, **(more or {}))
    base = {"model": model, "experiment": f"camvid-{model}", "config": config, "metrics": metrics}
    base |= {"timings": {"latency.xla": timing(latency)}, "peak_memory_mib": 1500.4}
    return result(run_id, **(base | fields))


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


@pytest.mark.parametrize(
    ("options", "data", "text"),
    [
        ({}, {}, "cross-entropy"),
        ({"class_weights": "median_frequency"}, {}, "cross-entropy, median-frequency"),
        ({"class_weights": [1.0, 2.0]}, {}, "cross-entropy, class weights"),
        ({"kind": "dice"}, {}, "Dice"),
        ({"kind": "sigmoid"}, {"options": {"weight_map": True}}, "sigmoid cross-entropy, weight map"),
        ({"reduction": "sum"}, {"options": {"weight_map": False}}, "cross-entropy, reduction sum"),
    ],
)
def test_the_loss_is_named(options, data, text):
    assert pooling.loss_text(result("r", config={"kind": "train", "loss_options": options, "data": data})) == text
    assert pooling.loss_text(result("r", kind="eval", config={"kind": "evaluate"})) == ""


def test_rows_say_what_they_were_trained_with_where_it_differs():
    balanced = {"loss_options": {"class_weights": "median_frequency"}, "label": "balanced", "augment": {}}
    runs = [
        result("base", kind="eval", model="majority", experiment="z", init=None, input_size=(0, 0)),
        trained("plain"),
        trained(
            "balanced", model="segnet", config=balanced, width=0.5, protocol={"void": "not scored", "weights": "1, 2"}
        ),
    ]
    files = files_of(runs)
    title, _, *lines = [text for text in files["segmentation.md"].splitlines() if text.startswith("|")][:5]
    shown = [cell.strip() for cell in title.strip("|").split("|")]
    rows = [dict(zip(shown, (cell.strip() for cell in line.strip("|").split("|")), strict=True)) for line in lines]
    assert [(row["model"], row["loss"], row["augmentation"], row["width"]) for row in rows] == [
        ("majority class", render.EMPTY, render.EMPTY, render.EMPTY),
        ("fcn8s", "cross-entropy", "flip, jitter 8, zoom 0.9 to 1.4", "1"),
        ("segnet (balanced)", "cross-entropy, median-frequency", "none", "0.5"),
    ]
    assert "init camvid-fcn16s; " in files["segmentation.md"], "shared by all that were trained, hence lifted"
    (note,) = re.findall(r"^- Protocol: .*", files["segmentation.md"], re.MULTILINE)
    assert note == f"- Protocol: void: not scored; weights: 1, 2 ({rows[2]['row']})."


def test_rand_scores_stand_where_there_are_any():
    rand = {"rand_score": 0.91, "rand_score_best": 0.93, "rand_threshold": 0.6}
    files = files_of([trained("isbi", more=rand, dataset=DUBAI), trained("plain", experiment="camvid")])
    sections = files["segmentation.md"].split("\n### ")
    assert [("V_rand %" in text, "V_rand:" in text) for text in sections[1:3]] == [(False, False), (True, True)]
    rows = {row["dataset"]: row for row in rows_of(files, "segmentation")}
    assert (rows["dubai"]["rand_score_mean"], rows["dubai"]["rand_threshold"]) == ("0.91", "0.6")
    assert rows["camvid"]["rand_score_mean"] == ""


def test_published_figures_keep_their_own_metrics():
    text = files_of([trained("a")])["segmentation.md"].split("### Published, for orientation")[1]
    (line,) = (line for line in text.splitlines() if "challenge test (private labels)" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[:3] == ["U-Net", "ISBI 2012 EM, challenge test (private labels)", render.EMPTY]
    assert "warping error 0.0003529; Rand error 0.0382" in cells
    assert "not comparable" in line
    assert "V_rand" not in text.replace("than V_rand", "")
    assert facts.published("unet", "isbi2012", "test") == []


def test_a_published_figure_without_the_headline_metric_says_what_it_is():
    run = result(
        "g", model="googlenet", task="classification", dataset=IMAGENET, metrics={"top1": 0.7, "top5": 0.9, "images": 1}
    )
    files = files_of([run])
    row = rows_of(files, "classification")[0]
    assert (row["paper_top1"], row["paper_top5"]) == ("", "0.9085")
    assert "top-5 90.85 [1]" in files["classification.md"]


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


def test_the_headline_ranks_the_models_of_a_use():
    runs = [
        *(trained(model, model=model, mean_iou=value) for model, value in
          (("fcn32s", 0.3), ("fcn16s", 0.4), ("fcn8s", 0.5), ("unet", 0.6))),
        trained("smoke", model="segnet", scale="smoke", mean_iou=0.9),
        result("base", kind="eval", model="majority", experiment="z", init=None, metrics=scores(0.05)),
        trained("dubai", model="segnet", dataset=DUBAI, experiment="dubai-segnet", mean_iou=0.7),
        trained("shapes", model="unet", scale="smoke", experiment="shapes-unet", mean_iou=0.2,
                dataset=Dataset(name="shapes", version="1", split="test", fingerprint="0" * 16, official=True)),
    ]  # fmt: skip
    lines = [line for line in headline(runs).splitlines() if line.startswith("| ")]
    uses = {line.split("|")[1].strip(): [cell.strip() for cell in line.split("|")[2:-1]] for line in lines[1:3]}
    assert [cell.split(" ")[0] for cell in uses["Driving"][1:4]] == ["unet", "fcn8s", "fcn16s"]
    assert uses["Driving"][1].startswith("unet 60.0 %, 10.0 ms, `S")
    assert uses["Driving"][4] == "5.0 %"
    assert uses["Driving"][5] == "reduced scale, width 1, 360x480, Xeon (2 cores)"
    assert uses["Satellite"][0] == "Dubai from above (not official: no official split), test"
    assert uses["Satellite"][2:5] == [render.EMPTY] * 3
    assert len(lines) == 3, "the smoke row of a model that has been measured is left out"


def test_peers_show_the_recorded_ratio_and_who_was_absent():
    times = {"ours.latency": timing(4.0), "keras_cv.latency": timing(5.0)}
    metrics = {
        "agreement": {"keras_cv": 2e-6},
        "ratio": {"keras_cv": 0.81},
        "absent": {"torchvision": "no torch"},
    }
    files = files_of([speed("p", machine(), kind="peer", config={"kind": "peer"}, timings=times, metrics=metrics)])
    (row,) = rows_of(files, "peers")
    assert (row["peer"], row["ours_over_peer"], row["largest_relative_difference"]) == (
        "keras_cv",
        "0.81",
        "2e-06",
    )
    assert "Not installed for" in files["peers.md"]


def test_markdown_lifts_what_is_common_and_stays_narrow():
    shown = render.columns("id", *(f"s{i}*" for i in range(20)), "score")
    rows = tuple(
        render.Row(
            str(n),
            {"id": str(n), "score": "1", "s0": "same"} | {f"s{i}": f"{n}{i}" for i in range(1, 20)},
            {},
        )
        for n in range(2)
    )
    layout = render.arrange(render.Section("", shown, rows))
    assert layout.common == [("s0", "same")]
    assert len(layout.titles) == len(layout.rows[0]) == render.MAX_COLUMNS
    folded = layout.rows[1][layout.titles.index("setup")]
    kept = [title for title in layout.titles if title.startswith("s") and title[1:].isdigit()]
    assert {part.split()[0] for part in folded.split("; ")} | set(kept) == {f"s{i}" for i in range(1, 20)}


def test_latex_prints_special_characters_as_they_stand():
    label = r"50% & a_b #1 {x} ~ ^ $5 \ <y>"
    runs = [result("r", config={"label": label}), result("s", seed=1, config={"label": label})]
    text = files_of(runs)["segmentation.tex"]
    escaped = r"50\% \& a\_b \#1 \{x\} \textasciitilde{} \textasciicircum{} \$5 \textbackslash{} "
    escaped += r"\textless{}y\textgreater{}"
    assert escaped in text
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == text.count(r"\end{tabular}")
    outside = re.sub(r"\\begin\{table\}.*?\\end\{table\}", "", text, flags=re.DOTALL)
    assert all(line.startswith("%") for line in outside.splitlines() if line), "captions are comments, line by line"


def test_a_pipe_does_not_break_a_markdown_table():
    line = render.markdown_table(["a", "b"], [["x|y", "1 < 2"]]).splitlines()[-1]
    assert len(re.split(r"(?<!\\)\|", line)) == 4


HISTORY = {
    "loss": [2.0, 1.0, 0.5, 0.4],
    "epoch": [1.0, 2.0, 3.0, 4.0],
    "val_epoch": [2.0, 4.0],
    "val_mean_iou": [0.2, 0.4],
}


def everything(**change):
    where = machine(accelerator="NVIDIA H200", driver="570")
    return [result("r", history=HISTORY | change), result("q", seed=1, history=HISTORY), speed("s", where)]


def write(results, folder):
    return tables.write_tables(KINDS, results, folder, folder / "private", table_of=table_of)


def check(results, folder):
    return tables.check_tables(KINDS, results, folder, table_of=table_of)


def test_writing_is_idempotent_and_does_not_depend_on_order(tmp_path):
    written = write(everything(), tmp_path)
    assert {path.name for path in written} >= {
        "segmentation.md",
        "xla.tex",
        "curves_segmentation.png",
        "index.json",
    }
    assert write(everything()[::-1], tmp_path) == []
    assert check(everything()[::-1], tmp_path) == []


def test_check_finds_every_kind_of_difference(tmp_path):
    write(everything(), tmp_path)
    cell = tmp_path / "segmentation.md"
    cell.write_text(cell.read_text().replace("50.0", "60.0"))
    (tmp_path / "xla.csv").unlink()
    (tmp_path / "peers.md").write_text("left over")
    (tmp_path / "gallery.png").write_bytes(b"somebody else's")
    figures.write_png(tmp_path / "curves_segmentation.png", np.zeros((4, 4, 3), np.uint8), "0" * 64)
    found = check(everything(), tmp_path)
    assert sorted(Path(line.split(": ")[0]).name for line in found) == [
        "curves_segmentation.png", "peers.md", "segmentation.md", "xla.csv",
    ]  # fmt: skip
    assert re.search(r"segmentation.md: line \d+ is not", " ".join(found))
    write(everything(), tmp_path)
    assert check(everything(), tmp_path) == []
    assert (tmp_path / "gallery.png").exists()
    assert not (tmp_path / "peers.md").exists()


def test_the_hash_of_a_picture_follows_the_data_and_not_the_bytes(tmp_path):
    picture = curves.training_figure(everything(), "segmentation")
    path = tmp_path / "a.png"
    figures.write_png(path, picture.draw(), picture.data_hash)
    assert figures.png_data_hash(path) == picture.data_hash
    assert curves.training_figure(everything(val_mean_iou=[0.2, 0.5]), "segmentation").data_hash != picture.data_hash
    (curve,) = picture.data["curves"]
    assert curve["metric"]["epochs"] == (2.0, 4.0)
    assert curve["seeds"] == 2
    path.write_bytes(path.read_bytes()[:100])
    assert figures.png_data_hash(path) is None
    assert figures.png_data_hash(tmp_path / "absent.png") is None


def test_a_picture_that_is_no_image_is_refused(tmp_path):
    with pytest.raises(ReproError, match="uint8"):
        figures.write_png(tmp_path / "a.png", np.zeros((4, 4)), "0" * 64)


def test_headline_takes_the_best_scale_and_the_readme_keeps_its_text(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{readme.BEGIN}\nold\n{readme.END}\n\nText below.\n")
    smoke = [result(f"smoke{seed}", seed=seed, scale="smoke", metrics=scores(0.1)) for seed in range(2)]
    text = headline([*smoke, result("real"), speed("s", machine(accelerator="NVIDIA H200"))])
    assert "fcn8s 50.0 %" in text
    assert "10.0 %" not in text
    assert "XLA 10.0 ms" in text
    assert readme.check_readme(path, text)
    assert readme.update_readme(path, text)
    assert readme.check_readme(path, text) == []
    assert not readme.update_readme(path, text)
    assert path.read_text().startswith("# Title\n")
    assert path.read_text().endswith(f"{readme.END}\n\nText below.\n")


@pytest.mark.parametrize("text", ["no markers", f"{readme.BEGIN} only", f"{readme.END} {readme.BEGIN}"])
def test_a_readme_without_markers_is_an_error_a_user_can_act_on(tmp_path, text):
    path = tmp_path / "README.md"
    path.write_text(text)
    with pytest.raises(ReproError, match="headline"):
        readme.update_readme(path, "x")


def test_tables_follow_from_the_files_on_disk(tmp_path):
    runs = everything()
    paths = [write_result(tmp_path / "results", run) for run in runs]
    assert files_of([read_result(path) for path in paths])["segmentation.csv"] == files_of(runs)["segmentation.csv"]


def test_no_results_give_an_index_that_says_so():
    files = files_of([])
    assert set(files) == {"README.md", "index.json"}
    assert "no results yet" in files["README.md"]
    assert "run_all.sh" in headline([])


def test_the_ledger_is_complete():
    claims = facts.claims()
    verdicts = [claim.literature_verdict for claim in claims]
    assert len(claims) == len({claim.id for claim in claims}) == len({claim.slug for claim in claims}) == 175
    assert [verdicts.count(word) for word in ("correct", "imprecise", "wrong")] == [106, 52, 17]
    assert all(claim.correct_statement for claim in claims if claim.literature_verdict == "wrong")
    assert {paper for claim in claims for paper in claim.papers} <= set(facts.papers())


def test_every_paper_can_be_cited():
    bibliography = (Path(facts.__file__).parent / "papers.bib").read_text()
    assert len(facts.papers()) == 14
    for paper in facts.papers().values():
        entry = re.search(rf"@\w+\{{{paper.bibtex_key},(.*?)\n\}}", bibliography, re.DOTALL)
        assert entry, paper.bibtex_key
        assert paper.arxiv in entry.group(1)


def test_facts_are_found_by_name_and_errors_by_their_accuracy():
    assert facts.paper_value("fcn", "fcn8s.latency").value == 175
    with pytest.raises(ReproError, match=r"fcn8s\.params"):
        facts.paper_value("fcn", "fcn8s.parms")
    with pytest.raises(ReproError, match="unknown paper"):
        facts.paper_value("fnc", "fcn8s.params")
    best = facts.published("vgg16", "imagenet2012", "val")[0]
    assert (best.percent("top1"), best.percent("top5"), best.percent("mean_iou")) == (73.0, 91.2, None)


def test_the_published_figure_of_imagenet_stands_beside_vgg16():
    run = result("v", model="vgg16", experiment="v", **CLASSIFIED)
    row = rows_of(files_of([run]), "classification")[0]
    assert (row["paper_top1"], row["paper_top5"]) == ("0.73", "0.912")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_have_the_papers_counts(name):
    card = describe(name)
    if name == "fcn_googlenet":  # the paper prints 6M; what it would print of the upsampling nobody knows
        without = card["params"] - card["params_by_role"]["frozen"]
        assert without == facts.find_fact("fcn_googlenet.params_without_upsampling").value
        assert f"{without / 1e6:.0f}M" == facts.find_fact("fcn_googlenet.params_printed").value
        return
    # nobody printed how many channels its RPN has: VGG-16's are taken
    key = "params_rpn_512" if name == "faster_rcnn_resnet101" else "params"
    assert card["params"] == facts.find_fact(f"{name}.{key}").value
    assert card["conv_layers"] == facts.find_fact(f"{name}.conv_layers").value


def test_googlenet_has_the_papers_counts_with_its_auxiliary_heads():
    assert describe("googlenet", heads="train")["params"] == facts.find_fact("googlenet.params_with_aux_heads").value


def test_counts_by_a_papers_own_rule_are_told_and_decide_nothing():
    card = {
        "paper": "unet", "input_shape": [572, 572, 1], "params": 31030658, "trainable_params": 31030658,
        "running_stats": 0, "conv_layers": 19, "outputs": {"scores": [388, 388, 2]}, "flops": 1e9, "deviations": [],
    }  # fmt: skip
    printed = card | {"paper": "fcn", "params": 7801413}
    runs = [
        result("u", model="unet", metrics=card, **ARCHITECTURE),
        result("g", model="fcn_googlenet", metrics=printed, **ARCHITECTURE),
    ]
    files = files_of(runs)
    assert {row["model"]: row["exact"] for row in rows_of(files, "architectures")} == {
        "unet": "yes",
        "fcn_googlenet": "",
    }
    assert "unet: the paper counts 23 layers, 18 convolutions of 3x3, 4 up-convolutions" in files["architectures.md"]
    (line,) = (text for text in files["architectures.md"].splitlines() if "| fcn_googlenet" in text)
    assert re.search(r"\| +7,801,413 +\| +6M +\|", line)
    (line,) = (text for text in files["architectures.md"].splitlines() if "| unet" in text)
    assert "19 / 19" in line
