"""Detection data sets of TFDS, offline: sane and nonsense records, and the loaders of both kinds on the same files."""

import io
import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from repro.data.catalog import open_dataset
from repro.data.coco import CATEGORY_IDS, CLASSES, Coco2017
from repro.data.tfds_detection import Coco2017Tfds, Voc2007Tfds, Voc2012Tfds
from repro.data.voc import Voc2007, Voc2012
from repro.errors import ReproError
from tests.support.messages import one_line

RNG = np.random.default_rng(0)
SIZES = [(375, 500), (333, 500), (500, 486), (281, 500), (12, 17), (97, 131)]
LISTS = {"train": ["000005", "000012", "1"], "val": ["000007"], "test": ["000001", "000002"]}


def encoded(pixels, kind="JPEG"):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


PHOTO = encoded(RNG.integers(0, 256, (12, 16, 3), np.uint8))
ROW = {
    "bbox": np.array([(2 / 12, 3 / 16, 11 / 12, 9 / 16), (1 / 12, 1 / 16, 1, 1)], np.float32),
    "label": np.array([11, 19]),
    "is_difficult": np.array([False, True]),
    "is_truncated": np.array([True, False]),
}


def dog(image=PHOTO, name=b"000007.jpg", **changes):
    """A record of VOC with a dog and a difficult monitor."""
    return {"image": image, "image/filename": name, "objects": ROW | changes}


def mocked(*records):
    return tfds.testing.mock_data(as_data_source_fn=lambda *_, **__: records)


def test_voc_records_lose_the_one_that_tfds_leaves():
    with mocked(dog()):
        sample = open_dataset("voc2007_tfds").sample("test", 0)
    assert sample.image_id == "000007"
    assert sample.image.shape == (12, 16, 3)
    np.testing.assert_array_equal(sample.boxes, [(2, 1, 9, 11), (0, 0, 16, 12)])
    assert [Voc2007Tfds.info.classes[label] for label in sample.classes] == ["dog", "tvmonitor"]
    assert sample.difficult.tolist() == [False, True]
    assert sample.truncated.tolist() == [True, False]
    assert sample.crowd is sample.masks is None
    assert [each.dtype for each in (sample.boxes, sample.classes, sample.difficult)] == [np.float32, np.int32, bool]


def test_coco_records_count_from_zero_and_lose_what_is_flat():
    boxes = [(1 / 12, 2.5 / 16, 9.5 / 12, 10 / 16), (3 / 12, 4 / 16, 3 / 12, 5 / 16), (0, 0, 1, 1)]
    objects = {
        "bbox": np.array(boxes, np.float32),
        "label": np.array([16, 5, 79]),
        "is_crowd": np.array([False, False, True]),
        "id": np.array([1, 2, 3]),
        "area": np.array([1, 0, 3]),
    }
    with mocked({"image": PHOTO, "image/filename": b"000000000139.jpg", "image/id": np.int64(139), "objects": objects}):
        sample = open_dataset("coco2017_tfds").sample("val", 0)
    assert sample.image_id == "139"
    np.testing.assert_array_equal(sample.boxes, [(2.5, 1, 10, 9.5), (0, 0, 16, 12)])
    assert [CLASSES[label] for label in sample.classes] == ["dog", "toothbrush"]
    assert sample.crowd.tolist() == [False, True]
    assert sample.difficult is sample.truncated is sample.masks is None


def test_an_image_without_objects_is_a_sample():
    nothing = {key: value[:0] for key, value in ROW.items()}
    with mocked(dog(**nothing), dog(**nothing | {"bbox": np.zeros(0, np.float32)})):
        samples = [Voc2007Tfds().sample("val", index) for index in range(2)]
    for sample in samples:
        assert sample.boxes.shape == (0, 4)
        assert sample.classes.shape == sample.difficult.shape == (0,)


def one_box(*corners):
    return np.array([ROW["bbox"][0], corners], np.float32)


@pytest.mark.parametrize(
    ("record", "part"),
    [
        (dog(image=None), "NoneType and dict"),
        (dog() | {"objects": None}, "bytes and NoneType"),
        (dog(image=np.zeros((4, 5, 3), np.uint8)), "ndarray and dict"),
        (dog(image=b""), "not an image"),
        (dog(image=PHOTO[:-200]), "damaged"),
        (dog(label=np.array([11])), "lists of 2, 1, 2, 2 boxes"),
        (dog(bbox=ROW["bbox"][:1]), "lists of 1, 2, 2, 2 boxes"),
        (dog(bbox=ROW["bbox"][:, :3]), "lists of 1.5, 2, 2, 2 boxes"),
        (dog(is_difficult=np.zeros(3, bool)), "lists of 2, 2, 3, 2 boxes"),
        (dog(label=np.array([11, 20])), "label 20, not one of 0..19"),
        (dog(label=np.array([-1, 3])), "label -1"),
        (dog(bbox=one_box(0.9, 0.2, 0.1, 0.8)), "has no area"),
        (dog(bbox=one_box(0.1, 0.8, 0.9, 0.2)), "has no area"),
        (dog(bbox=one_box(0.1, 0.2, 1.3, 0.8)), "outside its image of 12x16"),
        (dog(bbox=one_box(-0.2, 0.2, 0.9, 0.8)), "outside"),
        (dog(bbox=one_box(0.1, np.nan, 0.9, 0.8)), "(nan, "),
    ],
)
def test_nonsense_records_are_named(record, part):
    with mocked(dog(), record):
        data = Voc2007Tfds()
        assert len(data.sample("test", 0).boxes) == 2
        with pytest.raises(ReproError) as error:
            data.sample("test", 1)
    one_line(error, "voc/2007 test 1", part)


@pytest.mark.parametrize("loader", [Voc2007Tfds, Voc2012Tfds, Coco2017Tfds])
def test_what_tfds_makes_up_is_told_from_data(loader):
    told = 0
    with tfds.testing.mock_data(num_examples=8):
        data = loader()
        assert data.size("train") == 8
        for index in range(8):
            # a row of no objects, or of very few, can be sane by chance
            try:
                sample = data.sample("train", index)
            except ReproError as error:
                told += f"{data.builder} train {index}" in str(error)
            else:
                assert (sample.boxes[:, :2] < sample.boxes[:, 2:]).all()
    assert told >= 4


def test_trainval_is_train_and_then_val():
    with tfds.testing.mock_data(num_examples=3):
        data = Voc2007Tfds()
        assert data.size("trainval") == 6
        assert data.official("trainval") == (False, "6 of 5011 images")
        assert len({data.fingerprint(split) for split in data.info.splits}) == 4
        for beyond in (6, -1):
            with pytest.raises(IndexError):
                data.sample("trainval", beyond)
    with pytest.raises(ReproError) as error:
        Voc2012Tfds().size("test")
    one_line(error, "split of voc2012_tfds", "test")


def test_archives_are_those_tfds_checks():
    for name, official in (("voc2007", Voc2007), ("voc2012", Voc2012), ("coco2017", Coco2017)):
        data = open_dataset(f"{name}_tfds")
        known = tfds.builder_cls(data.builder.split("/")[0]).url_infos
        used = {url: facts for url, facts in known.items() if url in data.urls}
        assert used.keys() == set(data.urls)
        for facts in used.values():
            assert f"sha256:{facts.checksum} (" in data.info.checksum
        assert data.info.name == f"{name}_tfds"
        assert data.info.classes == official.info.classes
        assert tfds.builder(data.builder).version == data.info.version
    voc = tfds.builder("voc/2007").info.features["objects"]["label"]
    assert tuple(voc.names) == Voc2007.info.classes


def test_the_official_loaders_fetch_what_tfds_checks():
    from repro.data.coco import ARCHIVES

    archives = [part.archive for loader in (Voc2007, Voc2012) for part in loader.parts] + list(ARCHIVES.values())
    known = {**tfds.builder_cls("voc").url_infos, **tfds.builder_cls("coco").url_infos}
    checks = {facts.filename: (facts.size, f"sha256:{facts.checksum}") for facts in known.values()}
    assert {each.filename: (each.size, each.checksum) for each in archives}.items() <= checks.items()
    assert len(archives) == 6
    bccd, blood = open_dataset("bccd").parts[0].archive, tfds.builder_cls("bccd").url_infos
    assert [(each.size, f"sha256:{each.checksum}") for each in blood.values()] == [(bccd.size, bccd.checksum)]
    assert [each.filename for each in blood.values()] == [bccd.filename]


def test_importing_needs_no_tensorflow():
    code = "import repro.data.tfds_detection, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


# The same files through both loaders


def voc_object(height, width):
    """One object with all of its XML; corners count from 1 and include both ends."""
    x, y = (np.sort(RNG.integers(1, side + 1, 2)) for side in (width, height))
    name, difficult, truncated = RNG.choice(Voc2007.info.classes), *RNG.integers(0, 2, 2)
    box = f"<xmin>{x[0]}</xmin><ymin>{y[0]}</ymin><xmax>{x[1]}</xmax><ymax>{y[1]}</ymax>"
    flags = f"<pose>Left</pose><truncated>{truncated}</truncated><difficult>{difficult}</difficult>"
    return f"<object><name>{name}</name>{flags}<bndbox>{box}</bndbox></object>"


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO())
    for loader in (Voc2007Tfds, Coco2017Tfds):
        monkeypatch.setattr(loader, "disk_bytes", 0)


def offer(monkeypatch, folder):
    """Let TFDS find everything it downloads unpacked in a folder; returns the set that will hold what it asked for."""
    asked = set()

    def find(_, urls):
        asked.update(urls.values())
        return dict.fromkeys(urls, str(folder))

    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", find)
    return asked


def agree(first, second, split, fields):
    """Both loaders have the same samples in a split; returns how many objects were compared."""
    samples = [
        {sample.image_id: sample for sample in (data.sample(split, index) for index in range(data.size(split)))}
        for data in (first, second)
    ]
    assert samples[0].keys() == samples[1].keys()
    for image_id, expected in samples[0].items():
        for field in ("image", "boxes", "classes", *fields):
            one, other = (getattr(sample, field) for sample in (expected, samples[1][image_id]))
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)
    return sum(len(sample.boxes) for sample in samples[0].values())


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_voc_is_the_same_from_its_folder_and_from_tfds(offline, tmp_path, monkeypatch, file_format):
    root = tmp_path / "data" / "VOCdevkit" / "VOC2007"
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    sizes = iter(SIZES)
    for split, stems in LISTS.items():
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for stem in stems:
            height, width = next(sizes)
            Image.new("RGB", (width, height), "red").save(root / "JPEGImages" / f"{stem}.jpg")
            objects = "".join(voc_object(height, width) for _ in range(0 if stem == "1" else 40))
            if stem == "000012":  # as two boxes of VOC 2012 are
                objects = voc_object(height, width).split("<bndbox>")[0] + (
                    "<bndbox><xmin>45.70000076293945</xmin><ymin>3.300000190734863</ymin><xmax>281.70000076293945</xmax>"
                    "<ymax>200</ymax></bndbox></object>"
                )
            stated = f"<size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
            (root / "Annotations" / f"{stem}.xml").write_text(f"<annotation>{stated}{objects}</annotation>")
    (root / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(LISTS["train"] + LISTS["val"]))
    asked = offer(monkeypatch, tmp_path / "data")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: file_format == "array_record")
    stored = Voc2007Tfds()
    stored.prepare()
    assert asked == set(Voc2007Tfds.urls)
    assert any(file_format in path.name for path in tmp_path.rglob("*voc-train*"))
    stored = pickle.loads(pickle.dumps(stored))
    folder = Voc2007()
    counts = [agree(folder, stored, split, ("difficult", "truncated")) for split in folder.info.splits]
    assert counts == [41, 40, 81, 80]
    assert [stored.sample("trainval", index).image_id for index in range(4)].index("000007") == 3


def test_coco_is_the_same_from_its_folder_and_from_tfds(offline, tmp_path, monkeypatch):
    root = tmp_path / "data" / "coco"
    (root / "annotations").mkdir(parents=True)
    categories = [{"id": i, "name": name} for i, name in zip(CATEGORY_IDS, CLASSES, strict=True)]
    number = 100
    for part, images in (("train2017", (9, 25)), ("val2017", (139, 285, 632)), ("test2017", (1,))):
        (root / part).mkdir()
        pictures, objects = [], []
        for image, (height, width) in zip(images, SIZES, strict=False):
            name = f"{image:012}.jpg"
            Image.new("RGB", (width, height), "blue").save(root / part / name)
            pictures.append({"id": image, "file_name": name, "height": height, "width": width})
            for flat in [False] * (0 if image == 285 else 40) + [True]:
                x, y = np.round(RNG.random(2) * (width - 9, height - 9), 2)
                far = np.round(RNG.random(2) * (width - x - 1, height - y - 1) + 0.5, 2)
                box = [float(value) for value in (x, y, far[0], 0 if flat else far[1])]
                objects.append(
                    {
                        "id": number,
                        "image_id": image,
                        "category_id": int(RNG.choice(CATEGORY_IDS)),
                        "bbox": box,
                        "area": 3.5,
                        "iscrowd": int(RNG.integers(0, 2)),
                        "segmentation": [[1, 1, 5, 1, 5, 5]],
                    }
                )
                number += 1
        kind = "image_info" if part == "test2017" else "instances"
        content = {"images": pictures, "annotations": objects, "categories": categories}
        (root / "annotations" / f"{kind}_{part}.json").write_text(json.dumps(content))
    asked = offer(monkeypatch, root)
    stored, folder = Coco2017Tfds(), Coco2017()
    stored.prepare()
    assert asked == set(Coco2017Tfds.urls)
    assert stored.official("val") == (False, "3 of 5000 images")
    assert [agree(folder, stored, split, ("crowd",)) for split in folder.info.splits] == [80, 80]
