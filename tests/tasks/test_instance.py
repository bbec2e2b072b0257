"""Instance segmentation as a kind of experiment: a short training, its result, its pictures, `eval` and `predict`."""

import json

import msgspec
import numpy as np
import pytest
from PIL import Image

from repro.data.catalog import open_dataset
from repro.data.instance import fit_instances
from repro.data.masks import decode_rle, encode_rle
from repro.engine import checkpoint
from repro.engine.checkpoint import Card, read_card
from repro.engine.predict import predict
from repro.errors import ReproError
from repro.experiments import KINDS
from repro.experiments.mask_overhead import MaskOverhead
from repro.experiments.train import Train
from repro.records.run import weights_path
from repro.records.settings import Data, Network
from repro.report.galleries import instance_pictures
from repro.report.tables import build_tables
from repro.runner.adhoc import evaluation
from repro.tasks import Detection, Instance
from repro.tasks.objects import objects_of
from tests.support.kinds import oracle, run_kind, scores

SHAPES = {"image_size": (64, 96), "max_objects": 3, "min_scale": 0.4, "max_scale": 0.7, "train_size": 8, "val_size": 4,
          "test_size": 6}  # fmt: skip
OPTIONS = {"frozen_stages": 0, "frozen_bn": False, "max_boxes": 3, "rois": 8, "rpn_sample": 16, "max_detections": 5,
           "before_nms": (40, 30), "after_nms": (20, 10)}  # fmt: skip
NETWORK = Network(name="mask_rcnn_fpn", width=1 / 16, depth=0.1, input_size=(64, 64), options=OPTIONS)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of a network of a few thousand weights, trained for two epochs: their results and where they lie."""
    folder = tmp_path_factory.mktemp("trained")
    kind = Train(
        network=NETWORK, data=Data(name="shapes", options=SHAPES), recipe="suite", epochs=2, batch_size=4, val_every=2,
        optimizer="adamw", learning_rate=1e-3, augment={"flip": True}, compile="graph",
        task=Instance(decoding={"score_threshold": 1e-4}),
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder / "results"))
        results = run_kind(kind, (0, 1), "tiny-mask")
        weights = [weights_path(result) for result in results]
    return folder / "results", results, weights


def test_a_result_says_all_of_boxes_and_masks(trained):
    _, results, weights = trained
    assert [(r.status, r.seed, r.kind, r.scale, r.model) for r in results] == [
        ("ok", seed, "train", "smoke", "mask_rcnn_fpn") for seed in (0, 1)
    ]
    for result in results:
        for name in ("map", "coco_ap", "mask_ap", "mask_ap50", "mask_iou_matched"):
            assert 0 <= result.metrics[name] <= 1
        assert {"val_map", "val_mask_ap"} <= set(result.history)
        assert result.protocol["detections"].startswith("scores above 0.0001, ")
        assert {"instances", "stages"} == set(result.artifacts)
        assert result.timings["latency.xla"].median > 0
        assert result.metrics["recall"]["counts"] == [10, 30, 100, 300]
    assert results[0].weights_sha256 != results[1].weights_sha256
    assert all(path.exists() for path in weights)


def test_kept_instances_are_masks_of_the_original_image(trained):
    folder, results, _ = trained
    path = folder / results[0].experiment / results[0].artifacts["instances"].file
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(lines) == 4
    for line in lines:
        assert len(line["masks"]) == len(line["scores"]) == len(line["classes"])
        assert all(mask["size"] == [64, 96] for mask in line["masks"])


def test_the_truth_itself_has_all_of_both_precisions():
    """Objects through the canvas, relative to their boxes, pasted back and scored: nothing is lost but rounding."""
    dataset = open_dataset("shapes", **SHAPES | {"image_size": (128, 192)})
    records = [fit_instances(dataset.sample("test", index), (64, 64), 3) for index in range(6)]
    found = scores(Instance(recall_counts=(10,)), oracle((64, 64)), records, dataset, "test")
    assert found["map"] == 1
    assert found["mask_ap50"] == pytest.approx(1)
    assert found["mask_ap"] > 0.95
    assert found["mask_iou_mean"] > 0.93
    assert found["mask_iou_pairs"] == sum(entry["objects"] for entry in found["per_class"].values())
    assert found["recall"]["recall"]["0.7"] == [1.0]


def test_truths_are_the_samples_with_their_areas():
    dataset = open_dataset("shapes", **SHAPES)
    _, truths, sizes = objects_of(dataset, "test", 3)
    assert sizes == [(64, 96)] * 3
    for index, truth in enumerate(truths):
        masks = dataset.sample("test", index).masks
        np.testing.assert_array_equal([decode_rle(mask) for mask in truth["masks"]], masks)
        assert truth["area"].tolist() == masks.sum(axis=(1, 2)).tolist()


def test_eval_gives_the_scores_of_the_run(trained, tmp_path, monkeypatch):
    _, results, weights = trained
    monkeypatch.setenv("REPRO_RESULTS", str(tmp_path))
    (again,) = run_kind(evaluation("mask_rcnn_fpn", "shapes", weights[1], "test").configs["cpu"])
    assert again.kind == "eval"
    for name in ("map", "coco_ap", "mask_ap", "mask_iou_mean"):
        assert again.metrics[name] == pytest.approx(results[1].metrics[name], abs=1e-6), name


def test_eval_refuses_data_of_other_classes(trained):
    kind = evaluation("mask_rcnn_fpn", "penn_fudan", trained[2][0], "test").configs["cpu"]
    with pytest.raises(ReproError, match="tells 7 classes apart, penn_fudan has 1"):  # before any download
        run_kind(kind)


def test_predict_writes_pictures_and_coco_results(trained, tmp_path):
    image = open_dataset("shapes", **SHAPES | {"image_size": (50, 80)}).sample("test", 0).image
    picture, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(image).save(picture)
    lines = predict(read_card(trained[2][0]), [picture], trained[2][0], out)
    assert lines[0].startswith("a.png: ")
    assert np.array(Image.open(out / "a.objects.png")).shape == (50, 80, 3)
    found = json.loads((out / "predictions.json").read_text())
    assert 0 < len(found) <= 5
    for entry in found:
        assert entry["image_id"] == "a.png"
        assert 1 <= entry["category_id"] <= 7
        x, y, width, height = entry["bbox"]
        assert x >= 0
        assert y >= 0
        assert x + width <= 80.01
        assert y + height <= 50.01
        assert decode_rle(entry["segmentation"]).shape == (50, 80)


def test_predict_draws_the_boxes_of_a_detector(tmp_path):
    options = {
        "frozen_blocks": 0,
        "anchor_scales": (1, 2),
        "min_size": 4,
        "before_nms": (40, 30),
        "after_nms": (20, 10),
    }
    network = Network(
        name="faster_rcnn", width=1 / 32, depth=0.3, num_classes=3, channels=3, input_size=(64, 64), options=options
    )
    task, data = Detection(decoding={"score_threshold": 0.0}), Data(name="bccd")
    weights, picture = tmp_path / "w.safetensors", tmp_path / "000000000139.png"
    model = task.predictor(network, data, 3, 3).network
    card = msgspec.to_builtins(Card(network=network, task=task, data=data))
    checkpoint.save_arrays(weights, checkpoint.weights_of(model), card)
    Image.fromarray(np.zeros((40, 60, 3), "uint8")).save(picture)
    predict(read_card(weights), [picture], weights, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert found
    assert "segmentation" not in found[0]
    assert {entry["image_id"] for entry in found} == {139}  # COCO's own number
    assert (tmp_path / "out" / "000000000139.objects.png").exists()


def test_predict_has_no_proposals_for_fast_rcnn(tmp_path):
    network = Network(name="fast_rcnn", num_classes=3, channels=3)
    card = Card(network=network, task=Detection(proposals="fast"), data=Data(name="bccd"))
    with pytest.raises(ReproError, match="fast_rcnn needs"):
        predict(card, [], tmp_path / "w", tmp_path / "out")


def test_tables_and_pictures_of_instances(trained):
    folder, results, _ = trained
    (table,) = [
        table for table in build_tables(KINDS, results, (), lambda result: "instance") if table.name == "instance"
    ]
    row = table.sections[0].rows[0] if table.sections[0].rows[0].id else table.sections[1].rows[0]
    found = [r for section in table.sections for r in section.rows if r.id == row.id]
    assert "±" in found[0].cells["coco_ap"]
    pictures = instance_pictures(results, folder)
    assert list(pictures) == ["gallery_instances_shapes.png"]
    assert not pictures["gallery_instances_shapes.png"].private
    drawn = pictures["gallery_instances_shapes.png"].draw()
    assert drawn.ndim == 3
    assert drawn.shape[1] > 3 * 240


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    kind = MaskOverhead(networks=(NETWORK,), warmup=1, repetitions=2, seconds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(tmp_path_factory.mktemp("timed")))
        return run_kind(kind, experiment="tiny-overhead")


def test_overhead_is_the_ratio_of_the_two_times(timed):
    (result,) = timed
    assert (result.status, result.kind, result.scale) == ("ok", "speed", "smoke")
    cards = result.metrics["networks"]
    assert cards["mask_rcnn_fpn.masks"]["params"] > cards["mask_rcnn_fpn.boxes"]["params"]
    (section,) = MaskOverhead.sections(timed)["instance"]
    (row,) = section.rows
    times = [result.timings[f"mask_rcnn_fpn.{branch}"].median for branch in ("masks", "boxes")]
    assert row.values["overhead"] == pytest.approx(100 * (times[0] / times[1] - 1))
    assert row.cells["paper"] == "about 20; 5.9 (Detectron)"


def test_run_lengths_of_a_kept_mask_are_json():
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    assert decode_rle(json.loads(json.dumps(encode_rle(mask)))).sum() == 1
