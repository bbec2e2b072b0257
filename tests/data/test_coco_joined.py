"""COCO's masks joined with the images of TensorFlow Datasets, offline, beside the official layout."""

import io
import json
import pickle

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from repro.data.catalog import open_dataset
from repro.data.coco import Coco2017
from repro.data.tfds import TfdsDataset
from repro.errors import NoDataError, ReproError
from tests.support.coco_files import OBJECTS, PHOTO, instances, thing
from tests.support.messages import one_line


def encoded(pixels=PHOTO):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def record(number, image=None):
    return {"image": encoded() if image is None else image, "image/id": np.int64(number)}


RECORDS = [record(397), record(25), record(139)]  # in another order than the annotations


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "data" / "coco"
    (root / "annotations").mkdir(parents=True)
    for part, content in (("val2017", instances()), ("train2017", instances([thing(1, image=9)], [9]))):
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
    return root


def mocked(records=RECORDS):
    return tfds.testing.mock_data(as_data_source_fn=lambda *_, **__: records)


def test_samples_are_those_of_the_official_layout(folder):
    (folder / "val2017").mkdir()
    for number in (397, 139, 25):
        Image.fromarray(PHOTO).save(folder / "val2017" / f"{number:012}.jpg", "JPEG")
    official = Coco2017()
    wanted = {(sample := official.sample("val", index)).image_id: sample for index in range(3)}
    with mocked():
        data = pickle.loads(pickle.dumps(open_dataset("coco2017_joined")))
        samples = [data.sample("val", index) for index in range(data.size("val"))]
    assert [sample.image_id for sample in samples] == ["397", "25", "139"]
    for sample in samples:
        np.testing.assert_array_equal(sample.image, PHOTO)
        for name in ("boxes", "classes", "masks", "crowd"):
            np.testing.assert_array_equal(getattr(sample, name), getattr(wanted[sample.image_id], name))
    assert [len(sample.masks) for sample in samples] == [0, 1, 3]


def test_prepare_needs_both_and_reads_the_annotations(folder, monkeypatch):
    # TFDS's own part has its tests
    fetched = []
    monkeypatch.setattr(TfdsDataset, "prepare", lambda self: fetched.append(self.builder))
    monkeypatch.setattr(TfdsDataset, "fingerprint", lambda self, split: "0" * 16)
    with mocked():
        data = open_dataset("coco2017_joined")
        data.prepare()
        assert fetched == ["coco/2017"]
        before = data.fingerprint("val")
        (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(instances(OBJECTS[:1])))
        assert data.fingerprint("val") != before
        (folder / "annotations" / "instances_train2017.json").unlink()
        with pytest.raises(NoDataError) as error:
            open_dataset("coco2017_joined").sample("train", 0)
    one_line(error, folder / "annotations" / "instances_train2017.json", "repro data coco2017_joined")


def test_a_part_of_the_annotations_is_not_the_official_ones(folder, monkeypatch):
    monkeypatch.setattr(TfdsDataset, "official", lambda self, split: (True, ""))
    data = open_dataset("coco2017_joined")
    assert data.official("val") == (False, "4 of 36781 annotations")
    monkeypatch.setitem(Coco2017.counts, "val", (3, 4))
    assert data.official("val") == (True, "")
    monkeypatch.setattr(TfdsDataset, "official", lambda self, split: (False, "3 of 5000 images"))
    assert data.official("val") == (False, "3 of 5000 images")


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (record(11), "is image 11, which"),
        (record(25, encoded(PHOTO[:5])), "is 5x16, in"),
        (record(25, encoded()[:40]), "coco/2017 val 0"),
        ({"image": None, "image/id": None}, "holds NoneType and NoneType"),
    ],
)
def test_records_that_do_not_fit_are_named(folder, bad, told):
    with mocked([bad]), pytest.raises(ReproError) as error:
        open_dataset("coco2017_joined").sample("val", 0)
    one_line(error, told, "coco/2017 val 0")
