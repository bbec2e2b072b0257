"""What the registry's networks count, beside the papers."""

import re

import pytest

from repro import facts
from repro.experiments.architectures import describe
from repro.registry import ARCHITECTURES
from tests.support.results import files_of, result, rows_of

ARCHITECTURE = {"kind": "inspect", "config": {"kind": "architectures"}, "experiment": "architectures"}


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
