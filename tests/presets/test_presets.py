"""The presets: every one can be built, paper presets are the paper's, names and profiles lead where they should."""

import keras
import msgspec
import pytest

from repro import paths, registry
from repro.data.catalog import dataset_class, open_dataset
from repro.errors import ReproError
from repro.experiments import KINDS, read_kind
from repro.experiments.evaluate import Evaluate
from repro.experiments.majority import Majority
from repro.experiments.speed import Speed
from repro.experiments.train import Train
from repro.presets import PRESETS
from repro.presets.base import PROFILES, Preset
from repro.presets.choice import all_presets, choose
from repro.records.result import write_result
from repro.records.run import Outcome, Run
from repro.records.settings import Data, Network
from repro.runner import plan, preflight
from repro.runner.cite import cite
from repro.runner.plan import job_for, read_job
from repro.runner.publish import expected
from repro.tasks import task_for
from repro.tasks.learners import make_optimizer

CONFIGS = [
    pytest.param(preset, profile, id=f"{preset.name}-{profile}") for preset in PRESETS for profile in preset.configs
]


@pytest.mark.parametrize(("preset", "profile"), CONFIGS)
def test_every_preset_can_be_built(preset, profile):
    kind = preset.configs[profile]
    job = job_for(preset, profile, "tensorflow")
    assert read_job(msgspec.json.decode(msgspec.json.encode(job))).config_hash == job.config_hash
    assert len(job.config_hash) == 12
    assert kind.versions()
    assert profile in PROFILES
    assert preset.seconds.keys() == preset.configs.keys()
    assert preset.seconds[profile] > 0
    if isinstance(kind, Train | Majority):
        info = open_dataset(kind.data.name, **kind.data.options).info
        assert {kind.data.train, kind.data.val, kind.data.test} <= set(info.splits)
    network = getattr(kind, "network", None)
    if network:
        entry = registry.architecture(network.name)
        classes = entry.num_classes
        if isinstance(kind, Train):
            assert type(kind.task) is type(task_for(network.name))
            classes = len(kind.task.class_names(dataset_class(kind.data.name).info))
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
    "preset", [p for p in PRESETS for c in p.configs.values() if getattr(c, "recipe", "") == "paper"]
)
def test_paper_presets_are_what_the_papers_file_says(preset):
    kind = preset.configs["paper"]
    recipe = registry.module_of(kind.network.name).recipe("paper", kind.network.name)
    written = msgspec.to_builtins(kind)
    written |= written["task"]
    assert {key: written[key] for key in recipe if key != "drops"} == {k: v for k, v in recipe.items() if k != "drops"}
    assert list(kind.drops) == recipe.get("drops", [])


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("fcn8s", "tasks.segmentation"),
        ("yolo_v3", "tasks.yolo"),
        ("mask_rcnn", "tasks.instance"),
        ("mask_rcnn_fpn", "tasks.instance"),
    ],
)
def test_the_code_of_an_evaluation_is_that_which_scores(name, module):
    kind = Evaluate(
        network=Network(name=name), data=Data(name="shapes"), task=task_for(name), weights="a", weights_sha256="0" * 64
    )
    assert module in kind.versions()
    assert registry.architecture(name).module.removeprefix("repro.") in kind.versions()
    assert "engine.train" not in kind.versions()


def test_a_gallery_goes_through_the_code_of_all_that_it_shows():
    job = job_for(all_presets()["shapes-gallery"], "smoke", "tensorflow")
    assert len(job.needs) == 6
    for need in job.needs:
        # the kind only says what to train; a run takes its version over from its parents
        assert need.kind.versions().keys() - job.kind.versions().keys() <= {"experiments.train"}


def test_the_rows_of_a_chain_share_one_budget():
    for prefix, profile in (("shapes", "smoke"), ("camvid-narrow", "cpu"), ("camvid", "gpu")):
        configs = [all_presets()[f"{prefix}-{net}"].configs[profile] for net in ("fcn32s", "fcn16s", "fcn8s")]
        budgets = {
            (c.epochs, c.batch_size, c.optimizer, c.learning_rate, c.schedule, c.network.width, c.network.input_size)
            for c in configs
        }
        assert len(budgets) == 1
        assert [c.init for c in configs][1:] == [f"{prefix}-fcn32s", f"{prefix}-fcn16s"]


def test_profiles_are_for_machines():
    smoke, cpu, gpu, paper = ({preset.name for preset, _ in choose((), profile, "smoke")} for profile in PROFILES)
    assert {preset.name for preset, _ in choose((), None, "smoke")} == smoke
    assert "shapes-fcn8s" in smoke
    assert not [name for name in smoke if name.startswith("camvid")]
    assert {"camvid-narrow-fcn8s", "camvid-narrow-majority", "shapes-mask-rcnn-fpn-softmax"} <= cpu - smoke - gpu
    assert {"camvid-fcn8s", "camvid-majority"} <= gpu - cpu
    assert not [name for name in gpu if "-narrow" in name]
    # what trains nothing takes either machine whole
    assert {"speed-vgg16", "peer-vgg16", "operations-roi", "lineage", "detector-speed", "anchors-voc2007"} <= cpu & gpu
    for preset in PRESETS:
        both = preset.configs.keys() & {"cpu", "gpu"}
        assert len({id(preset.configs[profile]) for profile in both}) <= 1
    assert "architectures" in smoke & cpu & gpu & paper


def test_a_named_preset_runs_in_the_profile_it_has():
    assert [(p.name, at) for p, at in choose(("camvid-fcn8s",), None, "smoke")] == [("camvid-fcn8s", "gpu")]
    assert [(p.name, at) for p, at in choose(("camvid-narrow-fcn8s",), None, "gpu")] == [("camvid-narrow-fcn8s", "cpu")]
    assert [(p.name, at) for p, at in choose(("speed-vgg16",), None, "gpu")] == [("speed-vgg16", "gpu")]
    assert {at for _, at in choose(("speed-*",), "smoke", "gpu")} == {"smoke"}
    with pytest.raises(ReproError, match="--profile gpu"):
        choose(("camvid-fcn8s",), "smoke", "smoke")
    with pytest.raises(ReproError, match="shapes-fcn8s"):
        choose(("shapes-fcn9s",), None, "smoke")


def test_init_can_be_changed_but_not_to_nonsense():
    preset = all_presets()["shapes-fcn16s"]
    assert [need.experiment for need in job_for(preset, "smoke", "jax").needs] == ["shapes-fcn32s"]
    assert job_for(preset, "smoke", "jax", init="random").needs == ()
    assert job_for(preset, "smoke", "jax", seeds=3).needs[0].seeds == (0, 1, 2)
    for init in ("nothing", "shapes-fcn16s", "camvid-fcn32s", "tiny"):
        with pytest.raises(ReproError):
            job_for(preset, "smoke", "jax", init=init)


@pytest.mark.parametrize(
    ("name", "profile", "start"),
    [
        ("voc-narrow-faster-rcnn", "cpu", "tiny-imagenet-narrow-vgg16"),
        ("voc2007-yolo-v3", "gpu", "tiny-imagenet-darknet53"),
    ],
)
def test_tiny_means_the_backbone_pretrained_at_the_same_width(name, profile, start):
    job = job_for(all_presets()[name], profile, "jax", init="tiny")
    assert job.kind.init == start
    assert [need.experiment for need in job.needs] == [start]


def test_how_a_step_is_compiled_can_be_asked_for(monkeypatch):
    def planned(accelerators, backend, compile):
        found = {"ok": True, "accelerators": accelerators, "error": ""}
        monkeypatch.setattr(preflight, "check", lambda name: found)
        tasks = plan.plan(("made-up",), None, None, None, backend, compile)
        return tasks[0].job.kind.compile

    kind = msgspec.structs.replace(all_presets()["shapes-fcn32s"].configs["smoke"], compile="graph")
    monkeypatch.setattr("repro.presets.choice.PRESETS", [Preset("made-up", "", {"smoke": kind}, 1, {"smoke": 1})])
    assert planned(0, "tensorflow", None) == "graph"
    assert planned(0, "tensorflow", "xla") == "xla"
    assert planned(1, "tensorflow", None) == "xla"  # whatever the preset says
    assert planned(1, "tensorflow", "graph") == "graph"
    assert planned(0, "jax", None) == "xla"
    with pytest.raises(ReproError, match="JAX has no graph mode"):
        planned(0, "jax", "graph")


def test_tables_expect_every_preset():
    rows = {row["experiment"]: row for row in expected()}
    assert rows.keys() == all_presets().keys()
    assert rows["camvid-fcn8s"] == {
        "experiment": "camvid-fcn8s",
        "model": "fcn8s",
        "table": "segmentation",
        "dataset": "camvid",
        "status": "not run",
    }
    assert rows["shapes-majority-label"]["table"] == "classification"
    assert rows["speed-vgg16"]["table"] == "xla"


def test_settings_are_told_apart_when_read_back():
    for preset in PRESETS:
        for kind in preset.configs.values():
            written = msgspec.json.encode(kind)
            read = read_kind(msgspec.json.decode(written))
            assert type(read) is type(kind)
            assert msgspec.json.decode(msgspec.json.encode(read)) == msgspec.json.decode(written)
    tags = [kind.__struct_config__.tag for kind in KINDS]
    assert len(set(tags)) == len(tags)


def _rates(schedule, steps=100, **fields):
    config = all_presets()["shapes-vgg16"].configs["smoke"]
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


def test_speed_presets_are_the_whole_network_but_for_smoke():
    seen = 0
    for preset in PRESETS:
        kind = preset.configs.get("gpu")
        if isinstance(kind, Speed):
            size = (360, 480) if preset.name.startswith("speed-camvid-") else None
            assert (kind.network.width, kind.network.depth, kind.network.input_size) == (1, 1, size)
            seen += 1
    assert seen > 10


def test_a_citation_says_what_ran_and_whose_method_it_is():
    job = job_for(all_presets()["shapes-fcn8s"], "smoke", "tensorflow")
    run = Run(job.experiment, job.kind, 0, profile="smoke", backend="tensorflow", config_hash=job.config_hash)
    result = run.result(Outcome(scale="smoke", metrics={}, protocol={}))
    write_result(paths.results_dir(), result)
    for name in (result.run_id, f"shapes-fcn8s/{result.run_id}", f"{result.run_id}.json"):
        text = cite(name)
        assert result.run_id in text
        assert "scale smoke, seed 0" in text
        assert "long2015fcn" in text
    with pytest.raises(ReproError, match=result.run_id):
        cite(result.run_id[:-1] + "7")
