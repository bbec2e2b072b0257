"""Tables, figures, headline and ledger: pooling, marking, exact regeneration."""

import csv
import io
import json
import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repro import facts
from repro.errors import ReproError
from repro.harness.inspection import describe
from repro.harness.record import Dataset, Init, Machine, Result, Timing, Xla, read_result, write_result
from repro.registry import ARCHITECTURES
from repro.report import figures, pooling, readme, render, tables

CAMVID = Dataset(name="camvid", version="1", split="test", fingerprint="f" * 16, official=True)
COPY = Dataset(name="camvid", version="1", split="test", fingerprint="e" * 16, official=False, note="JPEG files")
IMAGENET = Dataset(name="imagenet2012", version="5", split="val", fingerprint="d" * 16, official=True)
OLD, NEW = "a" * 12, "b" * 12


def machine(name="m1", accelerator="none", cpu="Xeon", cores=2, driver=""):
    return Machine(id=name, accelerator=accelerator, driver=driver, cpu=cpu, cores=cores, memory_gib=8.0)


def result(run_id, **fields):
    base = {
        "schema_version": 1, "run_id": run_id, "kind": "train", "experiment": "camvid-fcn8s",
        "model": "fcn8s", "variant": "paper", "width": 1.0, "depth": 1.0, "input_size": (360, 480),
        "dataset": CAMVID, "profile": "lab", "scale": "reduced", "seed": 0,
        "init": Init(source="camvid-fcn16s"),
        "config": {"type": "train", "network": {"options": {"padding": "same"}}}, "config_hash": "0" * 12,
        "code_hash": NEW, "commit": "c", "dirty": False, "depends_on": [], "weights_sha256": None,
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
    base = {"kind": "speed", "experiment": "speed-fcn8s", "dataset": None, "init": None, "config": {}}
    metrics = {"batch": 1, "peak_memory_mib": {"latency.xla": 812.0}}
    return result(run_id, **(base | {"machine": where, "timings": timings, "metrics": metrics} | fields))


def rows_of(files, name):
    return list(csv.DictReader(io.StringIO(files[f"{name}.csv"])))


def files_of(results, expected=(), current=None):
    return tables.render_all(results, expected, current)


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
        {"code_hash": OLD},
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
    runs = [result("old", code_hash=OLD), result("new", metrics=scores(0.6))]
    today = files_of(runs, current=lambda r: NEW)
    assert [row["code"] for row in rows_of(today, "segmentation")] == ["current", "stale"]
    lines = [line for line in today["segmentation.md"].splitlines() if line.startswith("| S")]
    assert ["stale" in line for line in lines] == [False, True]
    assert "stale" in readme.headline([runs[0]], current_code_hash=lambda r: NEW)
    assert "stale" not in files_of(runs, current=lambda r: None)["segmentation.md"]


def test_experiments_without_a_figure_are_named():
    base = {"model": "fcn8s", "task": "segmentation", "dataset": "camvid", "status": "not run"}
    expected = [
        base | {"experiment": "voc-fcn8s", "status": "no data"},
        base | {"experiment": "camvid-fcn8s"},
        base | {"experiment": "speed-fcn8s", "kind": "speed", "dataset": None},
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
    copy = re.findall(r"^#+ .*CamVid(?! \(copy: JPEG files\)), test split", files["segmentation.md"], re.MULTILINE)
    assert len(copy) == 2, "the official section and its per-class table, nothing else"
    assert "CamVid (copy: JPEG files), test" in readme.headline([result("copy", dataset=COPY)])


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
        result(name, kind="inspect", experiment="architectures", variant=variant, metrics=card | change)
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


def test_peers_show_the_recorded_ratio_and_who_was_absent():
    times = {"ours.latency": timing(4.0), "keras_cv.latency": timing(5.0)}
    metrics = {
        "agreement": {"keras_cv": 2e-6},
        "ratio": {"keras_cv": 0.81},
        "absent": {"torchvision": "no torch"},
    }
    files = files_of([speed("p", machine(), kind="peer", timings=times, metrics=metrics)])
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


def test_writing_is_idempotent_and_does_not_depend_on_order(tmp_path):
    written = tables.write_tables(everything(), tmp_path)
    assert {path.name for path in written} >= {
        "segmentation.md",
        "xla.tex",
        "curves_segmentation.png",
        "index.json",
    }
    assert tables.write_tables(everything()[::-1], tmp_path) == []
    assert tables.check_tables(everything()[::-1], tmp_path) == []


def test_check_finds_every_kind_of_difference(tmp_path):
    tables.write_tables(everything(), tmp_path)
    cell = tmp_path / "segmentation.md"
    cell.write_text(cell.read_text().replace("50.0", "60.0"))
    (tmp_path / "xla.csv").unlink()
    (tmp_path / "peers.md").write_text("left over")
    (tmp_path / "gallery.png").write_bytes(b"somebody else's")
    figures.write_png(tmp_path / "curves_segmentation.png", np.zeros((4, 4, 3), np.uint8), "0" * 64)
    found = tables.check_tables(everything(), tmp_path)
    assert sorted(Path(line.split(": ")[0]).name for line in found) == [
        "curves_segmentation.png", "peers.md", "segmentation.md", "xla.csv",
    ]  # fmt: skip
    assert re.search(r"segmentation.md: line \d+ is not", " ".join(found))
    tables.write_tables(everything(), tmp_path)
    assert tables.check_tables(everything(), tmp_path) == []
    assert (tmp_path / "gallery.png").exists()
    assert not (tmp_path / "peers.md").exists()


def test_the_hash_of_a_picture_follows_the_data_and_not_the_bytes(tmp_path):
    picture = tables.training_figure(everything(), "segmentation", None)
    path = tmp_path / "a.png"
    figures.write_png(path, picture.draw(), picture.data_hash)
    assert figures.png_data_hash(path) == picture.data_hash
    assert (
        tables.training_figure(everything(val_mean_iou=[0.2, 0.5]), "segmentation", None).data_hash != picture.data_hash
    )
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
    text = readme.headline([*smoke, result("real"), speed("s", machine(accelerator="NVIDIA H200"))])
    assert "mIoU 50.0 %" in text
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
    assert "run_all.sh" in readme.headline([])


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
    run = result("v", model="vgg16", experiment="v", dataset=IMAGENET, metrics={"top1": 0.7, "top5": 0.9, "images": 1})
    row = rows_of(files_of([run]), "classification")[0]
    assert (row["paper_top1"], row["paper_top5"]) == ("0.73", "0.912")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_networks_have_the_papers_counts(name):
    card = describe(name)
    assert card["params"] == facts.find_fact(f"{name}.params").value
    assert card["conv_layers"] == facts.find_fact(f"{name}.conv_layers").value
