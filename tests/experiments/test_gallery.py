"""The same pictures through networks that other runs trained: what is kept, what is refused, what is drawn."""

import json

import numpy as np
import pytest

from repro.data.catalog import open_dataset
from repro.data.masks import decode_rle, encode_rle
from repro.drawing.palette import voc_colormap
from repro.errors import ReproError
from repro.experiments import gallery
from repro.experiments.gallery import Gallery
from repro.experiments.train import Train
from repro.presets.choice import all_presets
from repro.records.run import config_hash_of, weights_path
from repro.records.settings import Data, Network
from repro.tasks import Instance, Segmentation
from tests.support.kinds import run_kind

OPTIONS = {"image_size": 64, "max_objects": 2, "min_scale": 0.4, "max_scale": 0.7, "train_size": 8, "val_size": 2,
           "test_size": 5}  # fmt: skip
DATA = Data(name="shapes", options=OPTIONS)
SMALLER = Data(name="shapes", options=OPTIONS | {"image_size": 32, "min_scale": 0.6, "max_scale": 0.9})
RECIPE = {"recipe": "suite", "epochs": 1, "batch_size": 4, "optimizer": "adamw", "learning_rate": 1e-3,
          "compile": "graph"}  # fmt: skip
UNET = Network(name="unet", width=1 / 32, depth=0.5, input_size=(32, 32), options={"padding": "same"})
MASKS = Network(
    name="mask_rcnn_fpn", width=1 / 16, depth=0.1, input_size=(64, 64),
    options={"frozen_stages": 0, "frozen_bn": False, "max_boxes": 2, "rois": 8, "rpn_sample": 16, "max_detections": 5,
             "before_nms": (40, 30), "after_nms": (20, 10)},
)  # fmt: skip
TRAININGS = {
    "tiny-unet": Train(network=UNET, data=SMALLER, task=Segmentation(), **RECIPE),
    # every detection scores more than nothing, so that some are kept
    "tiny-masks": Train(network=MASKS, data=DATA, task=Instance(decoding={"score_threshold": 1e-4}), **RECIPE),
}
GALLERY = Gallery(data=DATA, members={name: kind.network.name for name, kind in TRAININGS.items()})


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """(results folder, results of two networks that trained for a moment, that of their gallery)."""
    folder = tmp_path_factory.mktemp("generations")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("results", "runs", "cache"):
            patch.setenv(f"REPRO_{name.upper()}", str(folder / name))
        patch.setattr(gallery, "LEAST_SCORE", 0.0)
        members = {name: run_kind(kind, experiment=name)[0] for name, kind in TRAININGS.items()}
        (result,) = run_kind(GALLERY, experiment="tiny-gallery", parents=members)
    return folder / "results", members, result


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


def test_the_picture_has_a_column_for_each_network(here):
    _, members, result = here
    pictures = Gallery.figures([*members.values(), result])
    assert {name: picture.private for name, picture in pictures.items()} == {"gallery_generations_shapes.png": False}
    drawn = pictures["gallery_generations_shapes.png"].draw()
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
        gallery._drawn_answer(image, entry, (96, 96), info.classes, voc_colormap()[1:])
        for entry in ({"labels": labels}, found, found | {"masks": [encode_rle(mask)]})
    ]
    # the corner of the object that no tag covers
    assert [picture[79, 79].tolist() for picture in drawn] == [voc_colormap()[3].tolist()] * 3
    assert [picture[90, 4].tolist() for picture in drawn] == [[0, 0, 0]] * 3


def test_a_network_without_weights_here_is_named(here):
    _, members, _ = here
    path = weights_path(members["tiny-unet"])
    away = path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(ReproError, match="tiny-unet has no weights here") as caught:
            run_kind(GALLERY, experiment="tiny-gallery", parents=members)
    finally:
        away.rename(path)
    assert "repro run tiny-unet --profile smoke" in str(caught.value)
    with pytest.raises(ReproError, match="tiny-unet has no weights here"):
        run_kind(GALLERY, experiment="tiny-gallery")


def test_a_network_of_other_classes_is_refused(here):
    weights = weights_path(here[1]["tiny-masks"])
    with pytest.raises(ReproError, match="tiny-masks tells 7 classes apart, penn_fudan has 1"):
        list(gallery._answers("tiny-masks", weights, [], open_dataset("penn_fudan").info))


def test_a_gallery_is_another_where_a_network_it_shows_is(shown):
    _, members, result = shown
    assert GALLERY.needs() == tuple(members)
    assert result.versions.items() >= {"engine.train": 1, "models.unet": 1, "tasks.instance": 1}.items()
    hashes = [member.config_hash for member in members.values()]
    other = Train(network=UNET, data=SMALLER, task=Segmentation(), **RECIPE | {"epochs": 2})
    changed = [config_hash_of(other, result.backend, ()), hashes[1]]
    before, after = (config_hash_of(GALLERY, result.backend, each) for each in (hashes, changed))
    assert before != after


def test_the_gallery_of_the_suite_shows_all_generations():
    kind = all_presets()["shapes-gallery"].configs["smoke"]
    models = [all_presets()[name].configs["smoke"].network.name for name in kind.needs()]
    assert models == ["fcn8s", "unet", "faster_rcnn", "yolo_v3", "mask_rcnn", "mask_rcnn_fpn"]
    assert list(kind.members.values()) == models
