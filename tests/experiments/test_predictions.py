"""Someone else's predictions: scores of COCO results files and VOC folders, what they leave behind, every bad file."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from repro import paths
from repro.data.catalog import open_dataset
from repro.data.coco import CATEGORY_IDS
from repro.data.masks import encode_rle
from repro.data.voc import CLASSES
from repro.errors import NoDataError, ReproError
from repro.experiments import KINDS
from repro.experiments.predictions import categories_of, predictions_for
from repro.metrics.coco import NAMES
from repro.records.result import read_results
from repro.records.versions import is_stale
from repro.report import readme, tables
from repro.runner.adhoc import scored_predictions
from repro.runner.cite import cite
from repro.runner.publish import table_of
from tests.support import coco_files, voc_files
from tests.support.command_line import assert_refused, repro
from tests.support.messages import one_line

SIZE = (12, 16)
PHOTO = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture
def coco(tmp_path):
    """A COCO whose val2017 has the images 25, 139 and 397 with a dog and a person, a crowd of dogs, and nothing."""
    root = tmp_path / "data" / "coco"
    (root / "annotations").mkdir(parents=True)
    runs = {"counts": [12 * 8, 12 * 4, 12 * 4], "size": SIZE}
    objects = [
        coco_files.thing(1, 25, 18, (2, 2, 8, 6), [[2, 2, 10, 2, 10, 8, 2, 8]]),
        coco_files.thing(2, 25, 1, (10, 0, 5, 12), [[10, 0, 15, 0, 15, 12, 10, 12]]),
        coco_files.thing(3, 139, 18, (8, 0, 4, 12), runs, crowd=1),
        coco_files.thing(4, 139, 18, (0, 0, 4, 4), [[0, 0, 4, 0, 4, 4, 0, 4]]),
    ]
    for part, images in (("val2017", (25, 139, 397)), ("train2017", (9,))):
        (root / part).mkdir()
        content = coco_files.instances([each for each in objects if each["image_id"] in images], images)
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        for image in content["images"]:
            Image.fromarray(PHOTO).save(root / part / image["file_name"], "JPEG")
    return root


@pytest.fixture
def voc(tmp_path):
    """A VOC 2007 whose test split is the images a and b: a dog each, and on b a difficult person."""
    root = voc_files.build(tmp_path / "data" / "VOCdevkit" / "VOC2007", voc_files.LISTS | {"test": ["a", "b"]})
    person = voc_files.thing((1, 1, 4, 4), "<name>person</name><difficult>1</difficult>")
    (root / "Annotations" / "b.xml").write_text(voc_files.annotation(voc_files.thing(), person))
    return root


def rectangle(x, y, width, height, size=SIZE):
    mask = np.zeros(size, bool)
    mask[y : y + height, x : x + width] = True
    return encode_rle(mask)


def entry(image=25, category=18, box=(2, 2, 8, 6), score=0.9, **more):
    return {"image_id": image, "category_id": category, "bbox": list(box), "score": score, **more}


def masked(*values, **more):
    each = entry(*values, **more)
    return each | {"segmentation": rectangle(*each["bbox"])}


GOOD = [
    masked(25, 18, (2, 2, 8, 6), 0.9),
    masked(25, 1, (11, 0, 4, 12), 0.8),  # IoU 48/60
    masked(139, 18, (0, 0, 4, 3), 0.7),  # 12/16
    masked(139, 18, (8, 4, 3, 3), 0.95),  # the crowd's
    masked(397, 1, (0, 0, 5, 5), 0.3),  # nothing there
]


def written(tmp_path, content):
    path = tmp_path / "results.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def folder_of(tmp_path, lines):
    """VOC's files: `lines` by class, the others empty."""
    folder = tmp_path / "comp4"
    folder.mkdir()
    for name in CLASSES:
        (folder / f"comp4_det_test_{name}.txt").write_text("".join(f"{line}\n" for line in lines.get(name, ())))
    return folder


# -- scores


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_coco_scores_are_those_of_pycocotools(coco, tmp_path, kind):
    path = written(tmp_path, GOOD)
    metrics = scored_predictions("coco2017", "val", path).metrics
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(coco / "annotations" / "instances_val2017.json")
        for each in truth.dataset["annotations"]:  # the fixture's figures are not the masks'
            each["area"] = int(truth.annToMask(each).sum())
        evaluation = COCOeval(truth, truth.loadRes(str(path)), kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = [None if value < 0 else pytest.approx(value, abs=1e-12) for value in evaluation.stats[:9]]
    prefix = {"bbox": "coco", "segm": "mask"}[kind]
    assert [metrics[f"{prefix}_{name}"] for name in NAMES] == expected
    assert 0.5 < metrics[f"{prefix}_ap"] < 1


def test_the_other_scores_of_a_coco_file(coco, tmp_path):
    result = scored_predictions("coco2017", "val", written(tmp_path, GOOD))
    found = result.metrics
    # VOC's rules know no crowds: the first of three dogs is wrong, so that precision is 2/3 at the end; COCO's do
    assert (found["map"], found["map_11_point"]) == (pytest.approx(5 / 6), pytest.approx(5 / 6))
    assert found["per_class"]["dog"] == {"ap": pytest.approx(2 / 3), "objects": 3}
    assert found["coco_ap50"] == pytest.approx(1)
    assert found["per_class"]["bear"] == {"ap": None, "objects": 0}
    assert found["mask_iou_mean"] == pytest.approx((1 + 0.8 + 0.75) / 3)
    assert (found["mask_iou_pairs"], found["mask_iou_matched"]) == (3, 1.0)
    assert (found["images"], found["detections"]) == (3, 5)
    assert {"mask_ap", "mask_iou", "coco_ap", "voc_ap"} <= result.protocol.keys()


def test_masks_are_scored_where_every_detection_has_one(coco, tmp_path):
    without = [{name: value for name, value in GOOD[0].items() if name != "segmentation"}, *GOOD[1:]]
    result = scored_predictions("coco2017", "val", written(tmp_path, without))
    assert not any(name.startswith("mask_") for name in result.metrics)
    assert result.protocol["masks"] == "not scored: 1 of 5 detections have none"
    assert result.metrics["coco_ap"] is not None


def test_masks_without_boxes_have_the_boxes_around_them(coco, tmp_path):
    """As in COCO's own results of instances."""
    plain = scored_predictions("coco2017", "val", written(tmp_path, GOOD)).metrics
    alone = [{name: value for name, value in each.items() if name != "bbox"} for each in GOOD]
    assert scored_predictions("coco2017", "val", written(tmp_path, alone)).metrics == plain


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"segmentation": None}, "neither bbox nor segmentation"),
        ({"segmentation": {"size": [12, 16], "counts": "0"}}, "the mask of entry [0]"),
    ],
)
def test_what_has_no_place_is_named(coco, tmp_path, change, told):
    bad = {name: value for name, value in (GOOD[0] | change).items() if name != "bbox"}
    with pytest.raises(ReproError) as error:
        scored_predictions("coco2017", "val", written(tmp_path, [bad]))
    one_line(error, "entry [0]", told)


def test_ids_are_compared_as_text_and_fields_of_others_passed_over(coco, tmp_path):
    plain = scored_predictions("coco2017", "val", written(tmp_path, GOOD)).metrics
    text = [each | {"image_id": str(each["image_id"]), "id": 7, "area": 3.5} for each in GOOD]
    assert scored_predictions("coco2017", "val", written(tmp_path, text)).metrics == plain


def test_voc_scores(voc, tmp_path):
    """The dog (2, 1, 9, 11) of a is found at once and once more; of b only after a wrong box: precision 1, 1/2, 2/4."""
    dogs = ["a 0.9 3 2 9 11", "a 0.8 3 2 9 10", "", "b 0.7 12 2 16 11", "  b 6e-1 3.0 2 9 11  "]
    result = scored_predictions("voc2007", "test", folder_of(tmp_path, {"dog": dogs, "person": ["b 0.5 1 1 4 4"]}))
    found = result.metrics
    assert found["per_class"]["dog"] == {"ap": pytest.approx((1 + 0.5) / 2), "objects": 2}
    assert found["map"] == pytest.approx(0.75)  # a difficult person is nobody to find
    assert found["map_11_point"] == pytest.approx((6 * 1 + 5 * 0.5) / 11)
    assert found["coco_ap50"] == pytest.approx((51 * 1 + 50 * 0.5) / 101)
    assert result.protocol["masks"] == "not scored: the data set has none"
    assert (found["images"], found["detections"]) == (2, 5)


def test_voc_data_takes_coco_files_and_coco_data_voc_files(voc, tmp_path):
    dog = CLASSES.index("dog") + 1
    boxes = [entry("a", dog, (2, 1, 7, 10)), entry("b", dog, (2, 1, 7, 10), 0.4)]
    assert scored_predictions("voc2007", "test", written(tmp_path, boxes)).metrics["map"] == pytest.approx(1)


def test_category_ids():
    assert list(categories_of(open_dataset("coco2017"))) == list(CATEGORY_IDS)
    assert categories_of(open_dataset("coco2017_tfds"))[90] == 79
    assert categories_of(open_dataset("voc2007")) == {kind + 1: kind for kind in range(20)}
    assert categories_of(open_dataset("nuclei")) == {1: 0}


# -- what it leaves behind


def test_the_command_prints_scores_and_keeps_a_result_of_no_model(coco, tmp_path):
    path = written(tmp_path, GOOD)
    answer = repro("eval", "--data", "coco2017", "--split", "val", "--predictions", path)
    assert (answer.status, answer.err) == (0, "")
    (result,) = read_results(paths.results_dir())
    for name in ("map", "map_11_point", "coco_ap", "mask_ap", "mask_iou_mean"):
        assert f"{name:26} {result.metrics[name]:.4f}\n" in answer.out
    assert answer.out.endswith(f"result   {paths.results_dir()}/eval-predictions-coco2017/{result.run_id}.json\n")
    assert (result.kind, result.model, result.backend, result.status) == ("eval", "predictions", "none", "ok")
    assert (result.dataset.name, result.dataset.split, result.dataset.official) == ("coco2017", "val", False)
    assert result.config["predictions"] == str(path)
    assert (result.profile, result.task) == ("cpu", "")
    assert result.versions == predictions_for("coco2017", "val", path).versions()
    assert {"experiments.predictions", "data.coco", "metrics.coco", "metrics.instance"} <= result.versions.keys()
    assert not is_stale(result.versions)
    assert "eval of predictions on coco2017 val" in cite(result.run_id)
    # a second time, and another file, are other results
    scored_predictions("coco2017", "val", path)
    scored_predictions("coco2017", "val", written(tmp_path, GOOD[:3]))
    hashes = [each.config_hash for each in read_results(paths.results_dir())]
    assert sorted(map(hashes.count, set(hashes))) == [1, 2]


def test_no_table_takes_it_for_a_model_of_ours(coco, voc, tmp_path):
    scored_predictions("coco2017", "val", written(tmp_path, GOOD))
    scored_predictions("voc2007", "test", folder_of(tmp_path, {"dog": ["a 0.9 3 2 9 11"]}))
    results = read_results(paths.results_dir())
    assert len(results) == 2
    assert readme.headline(KINDS, results) == readme.headline(KINDS, [])
    with_them, without = (tables.render_all(KINDS, found, (), table_of) for found in (results, []))
    assert with_them == without
    assert repro("tables").status == 0
    assert "predictions" not in (paths.tables_dir() / "README.md").read_text()


# -- what it refuses

FILE = "results.json"
RLE = GOOD[0]["segmentation"]


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["not valid JSON"]),
        (json.dumps(GOOD)[:-9].encode(), ["not valid JSON"]),
        (b"\xff\xfe[", ["not valid JSON"]),
        (b"[" * 100_000, ["not valid JSON"]),
        ({"annotations": GOOD}, ["no COCO results file", "`array`", "a list of {image_id"]),
        ([], ["holds no detection"]),
        ([3], ["`object`", "$[0]"]),
        ([GOOD[0], {"image_id": 25}], ["category_id", "$[1]"]),
        ([entry(score="0.9")], ["`float`", "$[0].score"]),
        ([entry(score=None)], ["$[0].score"]),
        ([entry(score=True)], ["$[0].score"]),
        ([entry(box=(1, 2, 3))], ["$[0].bbox"]),
        ([entry(box=("1", 2, 3, 4))], ["$[0].bbox[0]"]),
        ([entry(image=2.5)], ["$[0].image_id"]),
        ([entry(category="dog")], ["$[0].category_id"]),
        ([entry(segmentation=[[1, 1, 5, 1, 5, 5]])], ["$[0].segmentation"]),
        ([entry(segmentation={"size": SIZE, "counts": [3, 189]})], ["$[0].segmentation.counts", "compressed"]),
        ([entry(), entry(score=float("nan"))], ["entry [1]", "score nan"]),
        ([entry(score=float("inf"))], ["entry [0]", "score inf"]),
        ([entry(box=(float("nan"), 2, 3, 4))], ["entry [0]", "box"]),
        ([entry(box=(1, 2, 10**400, 4))], ["bbox"]),
        ([entry(box=(1, 2, -3, 4))], ["entry [0]", "-3x4 pixels", "no side below 0"]),
        ([entry(box=(1, 2, 3, -0.5))], ["3x-0.5 pixels"]),
        ([entry(), entry(category=12)], ["entry [1]", "category 12", "coco2017", "1 to 90, with gaps"]),
        ([entry(category=0)], ["category 0"]),
        ([entry(), entry(image=9)], ["entry [1]", "image '9'", "split val of coco2017", "'25'", "--split"]),
        ([entry(image="000000000025")], ["image '000000000025'"]),
        ([masked(), entry(segmentation=rectangle(0, 0, 3, 3, (16, 12)))], ["entry [1]", "mask of 16x12", "12x16"]),
        ([entry(segmentation=RLE | {"counts": RLE["counts"] + "1"})], ["entry [0]", "its image is 12x16"]),
        ([entry(segmentation=RLE | {"counts": "ä"})], ["entry [0]", "run lengths"]),
    ],
)
def test_bad_coco_files_are_refused(coco, tmp_path, content, parts):
    path = written(tmp_path, content)
    answer = repro("eval", "--data", "coco2017", "--split", "val", "--predictions", path)
    assert_refused(answer, path, ". ")
    for part in parts:
        assert part in answer.err
    assert not paths.results_dir().exists()


def test_a_data_set_without_gaps_says_its_categories(voc, tmp_path):
    path = written(tmp_path, [entry("a", 21)])
    assert_refused(repro("eval", "--data", "voc2007", "--predictions", path), path, "its category ids are 1 to 20")


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("a 0.9 3 2 9", ["line 2", "'a 0.9 3 2 9'", "image_id score xmin"]),
        ("a 0.9 3 2 9 11 4", ["line 2"]),
        ("a 0.9 3 2 nine 11", ["line 2"]),
        ("0.9 a 3 2 9 11", ["line 2"]),
        ("a nan 3 2 9 11", ["line 2", "score nan"]),
        ("a 0.9 3 2 inf 11", ["line 2", "box"]),
        ("a 0.9 9 2 3 11", ["line 2", "-5x10 pixels"]),
        ("000005 0.9 3 2 9 11", ["line 2", "image '000005'", "split test of voc2007", "'a'"]),
    ],
)
def test_bad_voc_lines_are_refused(voc, tmp_path, line, parts):
    folder = folder_of(tmp_path, {"dog": ["b 0.5 3 2 9 11", line]})
    answer = repro("eval", "--data", "voc2007", "--predictions", folder)
    assert_refused(answer, folder / "comp4_det_test_dog.txt", ". ")
    for part in parts:
        assert part in answer.err


def test_bad_voc_folders_are_refused(voc, tmp_path):
    folder = folder_of(tmp_path, {})
    command = ["eval", "--data", "voc2007", "--predictions", folder]
    assert_refused(repro(*command), folder, "holds no detection")
    (folder / "comp3_det_val_dog.txt").touch()
    assert_refused(repro(*command), folder / "comp3_det_val_dog.txt", "keep one of them")
    (folder / "comp3_det_val_dog.txt").rename(folder / "comp4_det_test_wolf.txt")
    assert_refused(repro(*command), folder / "comp4_det_test_wolf.txt", "unknown class")
    (folder / "comp4_det_test_wolf.txt").rename(folder / "notes.txt")
    (folder / "comp4_det_test_cat.txt").unlink()
    assert_refused(repro(*command), folder, "an empty comp4_det_test_cat.txt")
    for path in folder.glob("comp4*"):
        path.unlink()
    assert_refused(repro(*command), folder, "no file like comp4_det_test_aeroplane.txt")


def test_what_cannot_be_scored_is_refused(coco, tmp_path):
    path = written(tmp_path, GOOD)
    for data, split, file, culprit in (
        ("coco2017", "val", tmp_path / "none.json", tmp_path / "none.json"),
        ("coco2017", "test", path, "unknown split of coco2017 'test'"),
        ("coco", "val", path, "unknown data set 'coco'"),
        ("camvid", "val", path, "camvid has no objects to find"),
    ):
        answer = repro("eval", "--data", data, "--split", split, "--predictions", file)
        assert_refused(answer, culprit, ". ")
    with pytest.raises(NoDataError):
        scored_predictions("nuclei", "test", written(tmp_path, [entry(category=1)]))
    assert not paths.results_dir().exists()


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        ("fcn8s --predictions {}", "leave NAME out"),
        ("--predictions {} --weights w.safetensors --size 64", "leave --weights and --size out"),
        ("--predictions {} --backend jax --variant paper", "leave --variant and --backend out"),
        ("", "give NAME and --weights FILE, or --predictions FILE"),
        ("fcn8s", "give NAME and --weights FILE"),
        ("--weights w.safetensors", "give NAME and --weights FILE"),
    ],
)
def test_impossible_combinations_are_refused(tmp_path, arguments, cure):
    answer = repro("eval", "--data", "coco2017", *arguments.format(written(tmp_path, GOOD)).split())
    assert_refused(answer, "score", cure)


def test_a_damaged_data_set_is_refused_before_a_result_is_written(coco, tmp_path):
    (coco / "val2017" / "000000000397.jpg").write_bytes(b"<html>")
    with pytest.raises(ReproError, match=r"000000000397\.jpg"):
        scored_predictions("coco2017", "val", written(tmp_path, GOOD))
    assert not paths.results_dir().exists()
