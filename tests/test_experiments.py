"""The presets: every one can be built, paper presets are the paper's, names and profiles lead where they should."""

import keras
import msgspec
import pytest

from repro import registry
from repro.data.base import dataset_class, open_dataset
from repro.errors import ReproError
from repro.experiments.base import all_experiments, choose, job_for
from repro.experiments.cite import cite
from repro.experiments.publish import expected
from repro.harness.config import AnyConfig, Data, Evaluate, Majority, Network, Speed, Train, network_of
from repro.harness.learner import make_optimizer
from repro.harness.protocol import class_names_of
from repro.harness.run import Job, Run, modules_of

CONFIGS = [
    pytest.param(experiment, profile, id=f"{experiment.name}-{profile}")
    for experiment in all_experiments().values()
    for profile in experiment.configs
]


@pytest.mark.parametrize(("experiment", "profile"), CONFIGS)
def test_every_preset_can_be_built(experiment, profile):
    config = experiment.configs[profile]
    job = job_for(experiment, profile, "tensorflow")
    assert msgspec.json.decode(msgspec.json.encode(job), type=Job).config_hash == job.config_hash
    assert len(job.code_hash) == 12
    assert modules_of(config)
    assert experiment.seconds[profile] > 0
    if isinstance(config, Train | Majority):
        info = open_dataset(config.data.name, **config.data.options).info
        assert {config.data.train, config.data.val, config.data.test} <= set(info.splits)
    network = network_of(config)
    if network:
        entry = registry.architecture(network.name)
        classes = entry.num_classes
        if isinstance(config, Train):
            classes = len(class_names_of(dataset_class(config.data.name), entry.task))
            assert classes > (entry.task not in ("detection", "instance"))  # one kind of object is enough
        with keras.StatelessScope(initialize_variables=False):
            model = registry.build(
                network.name, num_classes=classes, input_size=network.input_size, variant=network.variant,
                width=network.width, depth=network.depth, **network.options,
            )  # fmt: skip
        if entry.paper.startswith("yolo") and entry.task == "detection":
            boxes = {"yolov1": 10, "yolov2": 25 + 4 * classes, "yolov3": 15 + 2 * classes}[entry.paper]
            answer = model.output["stride32" if entry.paper == "yolov3" else "grid"]
            assert answer.shape[-1] == classes + boxes
            return
        background = entry.task in ("detection", "instance")  # which is no class of the data set
        assert model.output["scores"].shape[-1] == classes + background


@pytest.mark.parametrize(
    "experiment",
    [e for e in all_experiments().values() for c in e.configs.values() if getattr(c, "recipe", "") == "paper"],
)
def test_paper_presets_are_what_the_papers_file_says(experiment):
    config = experiment.configs["paper"]
    recipe = registry.module_of(config.network.name).recipe("paper", config.network.name)
    written = msgspec.to_builtins(config)
    assert {key: written[key] for key in recipe if key != "drops"} == {k: v for k, v in recipe.items() if k != "drops"}
    assert list(config.drops) == recipe.get("drops", [])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("fcn8s", "train"),
        ("yolo_v3", "detect_eval"),
        ("mask_rcnn", "instance_eval"),
        ("mask_rcnn_fpn", "instance_eval"),
    ],
)
def test_the_code_of_an_evaluation_is_that_which_scores(name, module):
    config = Evaluate(network=Network(name=name), data=Data(name="shapes"), weights="a", weights_sha256="0" * 64)
    assert f"repro.harness.{module}" in modules_of(config)
    assert registry.architecture(name).module in modules_of(config)


def test_a_gallery_goes_through_the_code_of_all_that_it_shows():
    job = job_for(all_experiments()["shapes-gallery"], "smoke", "tensorflow")
    for other in job.others:
        assert modules_of(other.config) <= modules_of(job.config)


def test_the_rows_of_a_chain_share_one_budget():
    for prefix, profile in (("shapes", "smoke"), ("camvid-narrow", "lab"), ("camvid", "lab")):
        configs = [all_experiments()[f"{prefix}-{net}"].configs[profile] for net in ("fcn32s", "fcn16s", "fcn8s")]
        budgets = {
            (c.epochs, c.batch_size, c.optimizer, c.learning_rate, c.schedule, c.network.width, c.network.input_size)
            for c in configs
        }
        assert len(budgets) == 1
        assert [c.init for c in configs][1:] == [f"{prefix}-fcn32s", f"{prefix}-fcn16s"]


def test_all_of_a_profile_leaves_out_what_must_be_named():
    smoke = {experiment.name for experiment, _ in choose((), None, "smoke")}
    lab = {experiment.name for experiment, _ in choose((), "lab", "smoke")}
    assert "shapes-fcn8s" in smoke
    assert not [name for name in smoke if name.startswith("camvid")]
    assert "camvid-fcn8s" in lab
    assert not [name for name in lab if name.startswith("camvid-narrow")]


def test_a_named_preset_runs_in_the_profile_it_has():
    assert [(e.name, p) for e, p in choose(("camvid-fcn8s",), None, "smoke")] == [("camvid-fcn8s", "lab")]
    assert [(e.name, p) for e, p in choose(("speed-vgg16",), None, "lab")] == [("speed-vgg16", "lab")]
    assert {p for _, p in choose(("speed-*",), "smoke", "lab")} == {"smoke"}
    with pytest.raises(ReproError, match="--profile lab"):
        choose(("camvid-fcn8s",), "smoke", "smoke")
    with pytest.raises(ReproError, match="shapes-fcn8s"):
        choose(("shapes-fcn9s",), None, "smoke")


def test_init_can_be_changed_but_not_to_nonsense():
    experiment = all_experiments()["shapes-fcn16s"]
    assert job_for(experiment, "smoke", "jax").parent.experiment == "shapes-fcn32s"
    assert job_for(experiment, "smoke", "jax", init="random").parent is None
    assert job_for(experiment, "smoke", "jax", seeds=3).parent.seeds == [0, 1, 2]
    for init in ("nothing", "shapes-fcn16s", "camvid-fcn32s", "tiny"):
        with pytest.raises(ReproError):
            job_for(experiment, "smoke", "jax", init=init)


def test_tables_expect_every_preset():
    rows = {row["experiment"]: row for row in expected()}
    assert rows.keys() == all_experiments().keys()
    assert rows["camvid-fcn8s"] == {
        "experiment": "camvid-fcn8s",
        "model": "fcn8s",
        "task": "segmentation",
        "dataset": "camvid",
        "status": "not run",
    }
    assert rows["shapes-majority-label"]["task"] == "classification"
    assert rows["speed-vgg16"]["task"] == "speed"


def test_configs_are_told_apart_when_read_back():
    for experiment in all_experiments().values():
        for config in experiment.configs.values():
            assert type(msgspec.json.decode(msgspec.json.encode(config), type=AnyConfig)) is type(config)


def _rates(schedule, steps=100, **fields):
    config = all_experiments()["shapes-vgg16"].configs["smoke"]
    config = msgspec.structs.replace(config, schedule=schedule, learning_rate=1.0, **fields)
    rate = make_optimizer(config, steps)._learning_rate
    return [float(keras.ops.convert_to_numpy(rate(step))) for step in range(steps)] if callable(rate) else rate


def test_schedules():
    steps = _rates("step", drops=(0.5, 0.75))
    assert [steps[10], steps[60], steps[90]] == pytest.approx([1, 0.1, 0.01])
    cosine = _rates("cosine", warmup=0.1)
    assert cosine[0] == 0
    assert max(cosine) == pytest.approx(1, abs=0.01)
    assert cosine.index(max(cosine)) == pytest.approx(10, abs=1)
    assert cosine[55] == pytest.approx(0.5, abs=0.02)
    assert cosine[-1] < 0.01


def test_speed_presets_are_the_whole_network_in_lab():
    for experiment in all_experiments().values():
        config = experiment.configs.get("lab")
        if isinstance(config, Speed):
            size = (360, 480) if experiment.name.startswith("speed-camvid-") else None
            assert (config.network.width, config.network.depth, config.network.input_size) == (1, 1, size)


def test_a_citation_says_what_ran_and_whose_method_it_is():
    job = job_for(all_experiments()["shapes-fcn8s"], "smoke", "tensorflow")
    result = Run(job, 0).finish(scale="smoke", metrics={}, protocol={})
    for name in (result.run_id, f"shapes-fcn8s/{result.run_id}", f"{result.run_id}.json"):
        text = cite(name)
        assert result.run_id in text
        assert "scale smoke, seed 0" in text
        assert "long2015fcn" in text
    with pytest.raises(ReproError, match=result.run_id):
        cite(result.run_id[:-1] + "7")
