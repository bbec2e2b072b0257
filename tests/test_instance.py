"""Instance segmentation through the harness: a short training, its result, its pictures, `eval` and `predict`."""

import json

import keras
import numpy as np
import pytest
from PIL import Image

from repro import backend, registry
from repro.data.catalog import open_dataset
from repro.data.instance import fit_instances
from repro.data.masks import decode_rle, encode_rle
from repro.errors import ReproError
from repro.experiments.adhoc import evaluation, network_from
from repro.experiments.base import Experiment, job_for
from repro.harness.config import Data, MaskOverhead, Network, TrainInstance
from repro.harness.instance import evaluate, instances_of, train_instances
from repro.harness.instance_eval import evaluate_instances
from repro.harness.mask_overhead import mask_overhead
from repro.harness.objects import objects_of
from repro.harness.predict import predict
from repro.harness.record import read_results
from repro.report.instance import overhead_sections, pictures
from repro.report.tables import build_tables

SHAPES = {"image_size": (64, 96), "max_objects": 3, "min_scale": 0.4, "max_scale": 0.7, "train_size": 8, "val_size": 4,
          "test_size": 6}  # fmt: skip
OPTIONS = {"frozen_stages": 0, "frozen_bn": False, "max_boxes": 3, "rois": 8, "rpn_sample": 16, "max_detections": 5,
           "before_nms": (40, 30), "after_nms": (20, 10)}  # fmt: skip
NETWORK = Network(name="mask_rcnn_fpn", width=1 / 16, depth=0.1, input_size=(64, 64), options=OPTIONS)


def job_of(config, name="tiny-mask", seeds=1):
    experiment = Experiment(name=name, about=name, configs={"smoke": config}, value=1, seconds={"smoke": 1})
    return job_for(experiment, "smoke", backend.name(), seeds=seeds)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds of a network of a few thousand weights, trained for two epochs: their results and where they lie."""
    folder = tmp_path_factory.mktemp("trained")
    config = TrainInstance(
        network=NETWORK, data=Data(name="shapes", options=SHAPES), recipe="suite", epochs=2, batch_size=4, val_every=2,
        optimizer="adamw", learning_rate=1e-3, augment={"flip": True}, test={"score_threshold": 1e-4},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name in ("results", "runs", "cache"):
            patch.setenv(f"REPRO_{name.upper()}", str(folder / name))
        from repro import paths

        runs = paths.runs_dir()
        train_instances(job_of(config, seeds=2), lambda fraction, note: None)
    results = read_results(folder / "results")
    weights = [runs / r.experiment / r.run_id / "weights.safetensors" for r in results]
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


class Oracle(keras.Model):
    """Answers with the objects of a record and their masks, in the coordinates of the canvas."""

    def __init__(self):
        super().__init__()
        self.built = True

    def call(self, batch, training=False):
        masks = keras.ops.cast(batch["masks"], "float32") / 255
        count = keras.ops.sum(keras.ops.cast(batch["classes"] >= 0, "int32"), axis=1)
        scores = keras.ops.where(batch["classes"] >= 0, 0.9, 0.0)
        found = {"boxes": batch["boxes"], "scores": scores, "classes": batch["classes"], "count": count, "masks": masks}
        return found | {"proposals": batch["boxes"], "proposal_valid": batch["classes"] >= 0}


def test_the_truth_itself_has_all_of_both_precisions():
    """Objects through the canvas, relative to their boxes, pasted back and scored: nothing is lost but rounding."""
    dataset = open_dataset("shapes", **SHAPES | {"image_size": (128, 192)})
    records = [fit_instances(dataset.sample("test", index), (64, 64), 3) for index in range(6)]
    found = evaluate(list(instances_of(Oracle(), records, 4)), dataset, "test", (10,))
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
    experiment = evaluation("mask_rcnn_fpn", "shapes", weights[1], "test")
    evaluate_instances(job_for(experiment, "lab", backend.name()), lambda fraction, note: None)
    (again,) = read_results(tmp_path)
    assert again.kind == "eval"
    for name in ("map", "coco_ap", "mask_ap", "mask_iou_mean"):
        assert again.metrics[name] == pytest.approx(results[1].metrics[name], abs=1e-6), name


def test_eval_refuses_data_of_other_classes(trained):
    experiment = evaluation("mask_rcnn_fpn", "penn_fudan", trained[2][0], "test")
    job = job_for(experiment, "lab", backend.name())
    with pytest.raises(ReproError, match="tells 7 classes apart, penn_fudan has 1"):  # before any download
        evaluate_instances(job, lambda fraction, note: None)


def test_predict_writes_pictures_and_coco_results(trained, tmp_path):
    image = open_dataset("shapes", **SHAPES | {"image_size": (50, 80)}).sample("test", 0).image
    picture, out = tmp_path / "a.png", tmp_path / "out"
    Image.fromarray(image).save(picture)
    network, card = network_from("mask_rcnn_fpn", trained[2][0])
    lines = predict(network, card, [picture], trained[2][0], out)
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
    from repro.harness import checkpoint

    options = {
        "frozen_blocks": 0,
        "anchor_scales": (1, 2),
        "min_size": 4,
        "before_nms": (40, 30),
        "after_nms": (20, 10),
    }
    settings = {"width": 1 / 32, "depth": 0.3, "num_classes": 3, "channels": 3}
    model = registry.build("faster_rcnn", input_size=(64, 64), **settings, **options)
    weights, picture = tmp_path / "w.safetensors", tmp_path / "000000000139.png"
    card = {"model": "faster_rcnn", "variant": None, "options": options, "input_size": [64, 64], "dataset": "bccd",
            "dataset_options": {}, "test": {"score_threshold": 0.0}, **settings}  # fmt: skip
    checkpoint.save_arrays(weights, checkpoint.weights_of(model), card)
    Image.fromarray(np.zeros((40, 60, 3), "uint8")).save(picture)
    network, card = network_from("faster_rcnn", weights)
    predict(network, card, [picture], weights, tmp_path / "out")
    found = json.loads((tmp_path / "out" / "predictions.json").read_text())
    assert found
    assert "segmentation" not in found[0]
    assert {entry["image_id"] for entry in found} == {139}  # COCO's own number
    assert (tmp_path / "out" / "000000000139.objects.png").exists()


def test_predict_has_no_proposals_for_fast_rcnn(tmp_path):
    network = Network(name="fast_rcnn", num_classes=3, channels=3)
    with pytest.raises(ReproError, match="fast_rcnn needs"):
        predict(network, {"dataset": "bccd", "input_size": [64, 64]}, [], tmp_path / "w", tmp_path / "out")


def test_tables_and_pictures_of_instances(trained):
    folder, results, _ = trained
    (table,) = [table for table in build_tables(results, (), None) if table.name == "instance"]
    row = table.sections[0].rows[0] if table.sections[0].rows[0].id else table.sections[1].rows[0]
    found = [r for section in table.sections for r in section.rows if r.id == row.id]
    assert "±" in found[0].cells["coco_ap"]
    public, private = pictures(results, folder)
    assert list(public) == ["gallery_instances_shapes.png"]
    assert not private
    drawn = public["gallery_instances_shapes.png"].draw()
    assert drawn.ndim == 3
    assert drawn.shape[1] > 3 * 240


@pytest.fixture(scope="module")
def timed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("timed")
    config = MaskOverhead(networks=(NETWORK,), warmup=1, repetitions=2, seconds=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("REPRO_RESULTS", str(folder))
        mask_overhead(job_of(config, "tiny-overhead"), lambda fraction, note: None)
    return read_results(folder)


def test_overhead_is_the_ratio_of_the_two_times(timed):
    (result,) = timed
    assert (result.status, result.kind, result.scale) == ("ok", "speed", "smoke")
    cards = result.metrics["networks"]
    assert cards["mask_rcnn_fpn.masks"]["params"] > cards["mask_rcnn_fpn.boxes"]["params"]
    (section,) = overhead_sections(timed, None)
    (row,) = section.rows
    times = [result.timings[f"mask_rcnn_fpn.{branch}"].median for branch in ("masks", "boxes")]
    assert row.values["overhead"] == pytest.approx(100 * (times[0] / times[1] - 1))
    assert row.cells["paper"] == "about 20; 5.9 (Detectron)"


def test_run_lengths_of_a_kept_mask_are_json():
    mask = np.zeros((4, 5), bool)
    mask[1, 2] = True
    assert decode_rle(json.loads(json.dumps(encode_rle(mask)))).sum() == 1
