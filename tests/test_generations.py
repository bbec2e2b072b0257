"""The same pictures through networks that other runs trained: what is kept, what is refused, what is drawn."""

import json

import numpy as np
import pytest

from repro import backend, paths
from repro.data.base import open_dataset
from repro.errors import ReproError
from repro.experiments.base import Experiment, all_experiments, job_for
from repro.harness.config import Data, Gallery, Network, Train, TrainInstance
from repro.harness.gallery import _answers, gallery
from repro.harness.record import read_results
from repro.harness.run import Job, weights_path
from repro.harness.worker import execute
from repro.masks import decode_rle, encode_rle
from repro.report import generations
from repro.report.palette import voc_colormap

OPTIONS = {"image_size": 64, "max_objects": 2, "min_scale": 0.4, "max_scale": 0.7, "train_size": 8, "val_size": 2,
           "test_size": 5}  # fmt: skip
DATA = Data(name="shapes", options=OPTIONS)
SMALLER = Data(name="shapes", options=OPTIONS | {"image_size": 32, "min_scale": 0.6, "max_scale": 0.9})
RECIPE = {"recipe": "suite", "epochs": 1, "batch_size": 4, "optimizer": "adamw", "learning_rate": 1e-3}
UNET = Network(name="unet", width=1 / 32, depth=0.5, input_size=(32, 32), options={"padding": "same"})
MASKS = Network(
    name="mask_rcnn_fpn", width=1 / 16, depth=0.1, input_size=(64, 64),
    options={"frozen_stages": 0, "frozen_bn": False, "max_boxes": 2, "rois": 8, "rpn_sample": 16, "max_detections": 5,
             "before_nms": (40, 30), "after_nms": (20, 10)},
)  # fmt: skip


def job_of(name, config):
    return job_for(Experiment(name, name, {"smoke": config}, 1, {"smoke": 1}), "smoke", backend.name())


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(results folder, the job of the gallery, its result) of two networks that trained for a moment."""
    folder = tmp_path_factory.mktemp("generations")
    members = (
        job_of("tiny-unet", Train(network=UNET, data=SMALLER, **RECIPE)),
        # every detection scores more than nothing, so that some are kept
        job_of("tiny-masks", TrainInstance(network=MASKS, data=DATA, test={"score_threshold": 1e-4}, **RECIPE)),
    )
    config = Gallery(data=DATA, members={job.experiment: job.config.network.name for job in members})
    job = Job(
        experiment="tiny-gallery", config=config, profile="smoke", backend=backend.name(), seeds=[0], others=members
    )
    with pytest.MonkeyPatch.context() as patch:
        for name in ("results", "runs", "cache"):
            patch.setenv(f"REPRO_{name.upper()}", str(folder / name))
        patch.setattr("repro.harness.gallery.LEAST_SCORE", 0.0)
        for each in (*members, job):
            execute(each, lambda fraction, note: None)
        (result,) = (r for r in read_results(paths.results_dir()) if r.experiment == "tiny-gallery")
    return folder / "results", job, result


@pytest.fixture
def here(shown, monkeypatch):
    """The folders of the gallery's run are those of the test."""
    monkeypatch.setenv("REPRO_RESULTS", str(shown[0]))
    return shown


def test_every_network_answers_every_image_in_its_own_pixels(shown):
    folder, _, result = shown
    path = folder / result.experiment / result.artifacts["gallery"].file
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["model"] for line in lines] == ["unet"] * 4 + ["mask_rcnn_fpn"] * 4
    for line in lines[:4]:  # trained at 32x32, shown 64x64
        masks = np.array([decode_rle(mask) for mask in line["labels"]])
        assert masks.shape == (8, 64, 64)
        assert (masks.sum(axis=0) == 1).all()
    assert any(line["masks"] for line in lines[4:])
    for line in lines[4:]:
        assert len(line["boxes"]) == len(line["masks"]) == len(line["scores"]) == len(line["classes"])
        assert all(mask["size"] == [64, 64] for mask in line["masks"])
    assert (result.kind, result.scale, result.metrics) == (
        "inspect", "smoke", {"images": 4, "networks": ["unet", "mask_rcnn_fpn"]},
    )  # fmt: skip
    assert [name.partition("/")[0] for name in result.depends_on] == ["tiny-unet", "tiny-masks"]


def test_the_picture_has_a_column_for_each_network(shown):
    folder, _, result = shown
    public, private = generations.pictures([result], folder)
    assert (list(public), private) == (["gallery_generations_shapes.png"], {})
    drawn = generations._draw([result], folder)
    assert drawn.shape[1] > 4 * 240
    assert drawn.shape[0] > 4 * 240


def test_colours_are_those_of_classes_in_label_maps_boxes_and_instances():
    info = open_dataset("shapes").info
    image = np.zeros((96, 96, 3), np.uint8)
    mask = np.zeros((96, 96), bool)
    mask[32:80, 32:80] = True
    labels = [encode_rle(~mask), *(encode_rle(mask & (k == 2)) for k in range(7))]
    found = {"boxes": [[32, 32, 80, 80]], "scores": [0.9], "classes": [2]}
    drawn = [
        generations._answer(image, entry, (96, 96), info.classes, voc_colormap()[1:])
        for entry in ({"labels": labels}, found, found | {"masks": [encode_rle(mask)]})
    ]
    # the corner of the object that no tag covers
    assert [picture[79, 79].tolist() for picture in drawn] == [voc_colormap()[3].tolist()] * 3
    assert [picture[90, 4].tolist() for picture in drawn] == [[0, 0, 0]] * 3


def test_a_network_without_weights_here_is_named(here):
    source = next(r for r in read_results(here[0]) if r.experiment == "tiny-unet")
    path = weights_path(source.run_id, source.experiment)
    away = path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(ReproError, match="tiny-unet has no weights here") as caught:
            gallery(here[1], lambda fraction, note: None)
    finally:
        away.rename(path)
    assert "repro run tiny-unet --profile smoke" in str(caught.value)


def test_a_network_of_other_classes_is_refused(here):
    source = next(r for r in read_results(here[0]) if r.experiment == "tiny-masks")
    with pytest.raises(ReproError, match="tiny-masks tells 7 classes apart, penn_fudan has 1"):
        _answers(here[1].others[1], source, [], open_dataset("penn_fudan").info)


def test_a_gallery_is_another_where_a_network_it_shows_is(shown):
    _, job, _ = shown
    other = job_of("tiny-unet", Train(network=UNET, data=SMALLER, **RECIPE | {"epochs": 2}))
    changed = Job(
        experiment=job.experiment, config=job.config, profile="smoke", backend=job.backend, seeds=[0],
        others=(other, job.others[1]),
    )  # fmt: skip
    assert changed.config_hash != job.config_hash


def test_the_gallery_of_the_suite_shows_all_generations():
    job = job_for(all_experiments()["shapes-gallery"], "smoke", "tensorflow")
    models = [other.config.network.name for other in job.others]
    assert models == ["fcn8s", "unet", "faster_rcnn", "yolo_v3", "mask_rcnn", "mask_rcnn_fpn"]
    assert [source.experiment for source in job.sources] == list(job.config.members)
    assert list(job.config.members.values()) == models
