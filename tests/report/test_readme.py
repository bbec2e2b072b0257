"""The headline, and the README that shows it."""

import pytest

from repro.errors import ReproError
from repro.records.result import Dataset
from repro.report import readme, render
from tests.support.results import DUBAI, headline, machine, result, scores, speed, trained


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
