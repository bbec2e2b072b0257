"""Tables: what shares a row, what is marked, exact regeneration."""

import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest

from repro import facts
from repro.experiments import KINDS
from repro.records.result import read_result, write_result
from repro.report import figures, pooling, render, tables
from tests.support.results import (
    COPY,
    DUBAI,
    IMAGENET,
    OLD,
    everything,
    files_of,
    headline,
    machine,
    result,
    rows_of,
    scores,
    speed,
    table_of,
    timing,
    trained,
)

CLASSIFIED = {"task": "classification", "dataset": IMAGENET, "metrics": {"top1": 0.7, "top5": 0.9, "images": 1}}


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


def test_tables_follow_from_the_files_on_disk(tmp_path):
    runs = everything()
    paths = [write_result(tmp_path / "results", run) for run in runs]
    assert files_of([read_result(path) for path in paths])["segmentation.csv"] == files_of(runs)["segmentation.csv"]


def test_no_results_give_an_index_that_says_so():
    files = files_of([])
    assert set(files) == {"README.md", "index.json"}
    assert "no results yet" in files["README.md"]
    assert "run_all.sh" in headline([])


def test_the_published_figure_of_imagenet_stands_beside_vgg16():
    run = result("v", model="vgg16", experiment="v", **CLASSIFIED)
    row = rows_of(files_of([run]), "classification")[0]
    assert (row["paper_top1"], row["paper_top5"]) == ("0.73", "0.912")
