"""Nuclei in COCO's format from a few small files: masks from compressed run lengths, and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from repro.data.catalog import open_dataset
from repro.data.nuclei import Nuclei
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
ROUND = np.hypot(np.arange(12)[:, None] - 5, np.arange(16) - 9) < 4.2
EDGE = np.zeros((12, 16), bool)
EDGE[8:, :3] = True


def nucleus(number, mask, image=1, category=1):
    rows, columns = np.nonzero(mask)
    box = [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]
    counts = coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()
    return {
        "id": number, "image_id": image, "category_id": category, "iscrowd": 0, "area": float(mask.sum()),
        "bbox": list(map(float, box)), "segmentation": {"size": list(mask.shape), "counts": counts},
    }  # fmt: skip


def instances(*objects, categories=((1, "nucleus"),), kind="png"):
    images = [{"id": number, "file_name": f"{number:016x}.{kind}", "height": 12, "width": 16} for number in (2, 1)]
    named = [{"id": number, "name": name, "supercategory": "cell"} for number, name in categories]
    return {"info": {}, "images": images, "annotations": list(objects), "categories": named}


def write(folder, split, content):
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def folder(tmp_path):
    """Two images a split, the second of them empty; those of the test set are JPEG."""
    root = tmp_path / "data" / "nuclei"
    (root / "annotations").mkdir(parents=True)
    for split, kind in (("train", "png"), ("val", "png"), ("test", "jpg")):
        content = instances(nucleus(8, EDGE), nucleus(5, ROUND), kind=kind)
        write(root, split, content)
        (root / split).mkdir()
        for image in content["images"]:
            Image.fromarray(PHOTO).save(root / split / image["file_name"])
    return root


def test_samples(folder):
    data = open_dataset("nuclei")
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [2, 2, 2]
    sample, empty = data.sample("val", 0), data.sample("val", 1)
    assert (sample.image_id, empty.image_id) == ("1", "2")
    np.testing.assert_array_equal(sample.image, PHOTO)
    np.testing.assert_array_equal(sample.masks, [ROUND, EDGE])
    np.testing.assert_array_equal(sample.boxes, [(5, 1, 14, 10), (0, 8, 3, 12)])
    assert sample.classes.tolist() == [0, 0]
    assert not sample.crowd.any()
    fields = (sample.boxes, sample.classes, sample.masks, sample.crowd)
    assert [each.dtype for each in fields] == [np.float32, np.int32, bool, bool]
    assert empty.masks.shape == (0, 12, 16)
    assert data.sample("test", 0).image.shape == PHOTO.shape


def test_never_official(folder):
    assert Nuclei().official("train") == (False, "not the challenge's format and split")
    assert Nuclei().official("test") == (
        False,
        "not the challenge's format and split; images re-encoded as JPEG",
    )


def test_fingerprint_follows_masks(folder):
    before = Nuclei().fingerprint("train")
    assert Nuclei().fingerprint("train") == before
    write(folder, "train", instances(nucleus(8, EDGE), nucleus(5, EDGE)))
    assert Nuclei().fingerprint("train") != before


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (instances(nucleus(1, ROUND), nucleus(1, EDGE)), ["2 annotations with the id 1"]),
        (instances(nucleus(1, ROUND, image=3)), ["annotation 1", "image 3"]),
        (instances(nucleus(1, ROUND, category=2)), ["annotation 1", "category 2"]),
        (instances(categories=[(1, "cell")]), ["category 1", "'cell'", "nucleus"]),
        (instances(categories=[(1, "nucleus"), (2, "cell")]), ["category 2", "no category"]),
        (instances(kind="tif"), ["0000000000000001.tif", "like 1 more"]),
        ([], ["no COCO instances file"]),
    ],
)
def test_bad_annotation_files_are_named(folder, content, parts):
    path = write(folder, "train", content)
    with pytest.raises(ReproError) as error:
        Nuclei().prepare()
    one_line(error, path, *parts)
    assert not isinstance(error.value, NoDataError)


def test_a_mask_of_another_size_is_named(folder):
    turned = nucleus(4, EDGE.T)["segmentation"]
    path = write(folder, "train", instances(nucleus(4, EDGE) | {"segmentation": turned}))
    with pytest.raises(ReproError) as error:
        Nuclei().sample("train", 0)
    one_line(error, f"annotation 4 of {path}", "16x12")


def test_without_the_data(folder, tmp_path):
    with pytest.raises(ReproError) as error:
        Nuclei().size("stage1")
    one_line(error, "split of nuclei")
    folder.rename(tmp_path / "elsewhere")
    with pytest.raises(NoDataError) as error:
        Nuclei().prepare()
    one_line(error, folder, "stage1_train", "Kaggle")
