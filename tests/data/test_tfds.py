"""Classification data sets of TFDS, offline: mocked records, nonsense records, and a small real archive."""

import io
import pickle
import sys
import urllib.error
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.download.resource import get_dl_fname

from repro.data import tfds as loader
from repro.data.catalog import open_dataset
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    return tmp_path / "tensorflow_datasets"


@pytest.fixture
def online(monkeypatch):
    """Let the check of the network pass; nothing is fetched."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO())


def encoded(image, kind="JPEG"):
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


GOOD = encoded(Image.new("RGB", (9, 7), "red"))


@pytest.mark.parametrize(("name", "classes"), [("imagenette", 10), ("imagenet2012", 1000)])
def test_mocked_records(name, classes, online, monkeypatch):
    monkeypatch.setattr(loader.ImageNet2012, "archives", ())
    monkeypatch.setattr(loader.ImageNet2012, "disk_bytes", 0)
    with tfds.testing.mock_data(num_examples=4):
        data = open_dataset(name)
        data.prepare()
        samples = [data.sample(split, index) for split in data.info.splits for index in range(4)]
        assert data.size("val") == 4
        assert data.fingerprint("train") != data.fingerprint("val")
        assert data.fingerprint("train") == open_dataset(name).fingerprint("train")
        assert data.official("val") == (False, f"4 of {data.counts['val']} images")
    for sample in samples:
        assert sample.image.dtype == np.uint8
        assert sample.image.shape[2] == 3
        assert 0 <= sample.label < classes
    assert len({sample.image_id for sample in samples[:4]}) == 4


@pytest.mark.parametrize(
    ("name", "split", "expected"),
    [("imagenette", "train", "00f6e32f1477a389"), ("imagenet2012", "val", "f14b462393049061")],
)
def test_fingerprints_stay_what_published_results_say(name, split, expected):
    with tfds.testing.mock_data(num_examples=4):
        assert open_dataset(name).fingerprint(split) == expected


def test_official_needs_the_published_version(monkeypatch):
    data = loader.Imagenette()
    builder = SimpleNamespace(version="1.0.0")
    monkeypatch.setattr(data, "_builder", lambda: builder)
    monkeypatch.setattr(data, "size", lambda split: data.counts[split])
    assert data.official("train") == (True, "")
    builder.version = "1.1.0"
    assert data.official("train") == (False, "version 1.1.0 instead of 1.0.0")


@pytest.mark.parametrize(
    ("image", "label", "part"),
    [
        (GOOD, 10, "label 10"),
        (GOOD, -1, "label -1"),
        (GOOD, None, "NoneType"),
        (None, 3, "NoneType"),
        (np.zeros((4, 5), np.uint8), 3, "ndarray"),
        (b"", 3, "not an image"),
        (GOOD[:-200], 3, "damaged"),
        (encoded(Image.new("CMYK", (3, 2))), 3, "CMYK"),
        (encoded(Image.fromarray(np.zeros((2, 3), np.uint16)), "PNG"), 3, "I;16"),
    ],
)
def test_nonsense_records_are_named(image, label, part):
    records = [{"image": GOOD, "label": np.int64(9)}, {"image": image, "label": label}]
    with tfds.testing.mock_data(as_data_source_fn=lambda *_, **__: records):
        data = open_dataset("imagenette")
        assert data.sample("val", 0).label == 9
        with pytest.raises(ReproError) as error:
            data.sample("val", 1)
    one_line(error, "imagenette/320px-v2", "val 1", part)


def test_no_network_is_told_at_once_and_in_one_line(monkeypatch, data_folder):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(NoDataError) as error:
        open_dataset("imagenette").prepare()
    one_line(error, "imagenette/320px-v2", "https://", "not known", "network")
    with pytest.raises(NoDataError) as error:
        open_dataset("imagenette").size("train")
    one_line(error, data_folder, "repro data imagenette")


KEPT = get_dl_fname(loader.Imagenette.urls[0], loader.Imagenette.info.checksum)


@pytest.mark.parametrize(
    ("path", "fetched"),
    [
        (f"imagenette/{KEPT}", True),
        (KEPT, True),
        ("manual/imagenette2-320.tgz", True),
        ("imagenette/s3_imagenette2-320XYZ.tgz.tmp.0123/imagenette2-320.tgz", False),
        (f"imagenette/{KEPT}.INFO", False),
        (f"extracted/TAR_GZ.{KEPT}/imagenette2-320", False),
    ],
)
def test_only_an_archive_that_is_whole_needs_no_network(path, fetched, monkeypatch, data_folder):
    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    def convert(*_, **__):
        raise OSError("reached the archive")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", convert)
    file = data_folder / "downloads" / path
    file.parent.mkdir(parents=True)
    file.touch()
    with pytest.raises(NoDataError) as error:
        open_dataset("imagenette").prepare()
    one_line(error, "reached the archive" if fetched else "no network")


def test_a_failing_download_is_one_line(online, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("broken\npipe" + 300 * "!")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", fail)
    with pytest.raises(NoDataError) as error:
        open_dataset("imagenette").prepare()
    one_line(error, "imagenette/320px-v2", "broken pipe", "repro data imagenette")


def test_archives_to_fetch_by_hand_are_named(data_folder):
    manual = data_folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "ILSVRC2012_img_val.tar").touch()
    with pytest.raises(NoDataError) as error:
        open_dataset("imagenet2012").prepare()
    one_line(error, f"ILSVRC2012_img_train.tar not found in {manual}", "image-net.org")


def test_the_disk_is_checked_first(monkeypatch):
    monkeypatch.setattr(loader.Imagenette, "disk_bytes", 1 << 60)
    with pytest.raises(NoDataError) as error:
        open_dataset("imagenette").prepare()
    one_line(error, "GiB", "REPRO_DATA")


def test_without_tensorflow(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ReproError) as error:
        open_dataset("imagenette").prepare()
    assert not isinstance(error.value, NoDataError)
    one_line(error, "tensorflow", "pip install")


@pytest.mark.parametrize(("backend", "hidden"), [("jax", [([], "GPU")]), ("tensorflow", [])])
def test_tensorflow_leaves_the_gpu_to_jax(backend, hidden, monkeypatch):
    calls = []
    monkeypatch.setattr("keras.backend.backend", lambda: backend)
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *call: calls.append(call))
    with tfds.testing.mock_data(num_examples=1):
        open_dataset("imagenette")._builder()
    assert calls == hidden


@pytest.fixture
def archive(tmp_path, online, monkeypatch):
    """Imagenette's archive in small: colour tells the class, every third image is grey."""
    root = tmp_path / "archive"
    names = tfds.core.tfds_path("image_classification/imagenette_labels.txt").read_text().split()
    for split, count in (("train", 3), ("val", 1)):
        for label, name in enumerate(names):
            folder = root / "imagenette2-320" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                image = Image.new("RGB", (10 + number, 8), (25 * label,) * 3)
                (image.convert("L") if number == 2 else image).save(folder / f"{name}_{number}.JPEG")
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda *_: str(root))
    monkeypatch.setattr(loader.Imagenette, "counts", {"train": 30, "val": 10})


def prepared(monkeypatch, file_format):
    available = file_format == "array_record"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: available)
    data = open_dataset("imagenette")
    data.prepare()
    return data


def test_both_file_formats_give_the_same_samples_in_any_order(archive, monkeypatch, tmp_path):
    seen = {}
    for file_format in ("array_record", "tfrecord"):
        monkeypatch.setenv("REPRO_DATA", str(tmp_path / file_format))
        data = prepared(monkeypatch, file_format)
        files = list((tmp_path / file_format).rglob("*train*"))
        assert file_format in files[0].name
        assert data.official("train") == (True, "")
        forward = [data.sample("train", index) for index in range(30)]
        backward = [pickle.loads(pickle.dumps(data)).sample("train", index) for index in (29, 7, 8, 0)]
        for sample, other in zip((forward[i] for i in (29, 7, 8, 0)), backward, strict=True):
            assert sample.image_id == other.image_id
            np.testing.assert_array_equal(sample.image, other.image)
        for sample in forward:
            assert abs(float(sample.image.mean()) - 25 * sample.label) < 2
        seen[file_format] = (data.fingerprint("train"), [sample.label for sample in forward])
        with pytest.raises(IndexError):
            data.sample("train", 30)
    assert seen["array_record"] == seen["tfrecord"]
    assert np.bincount(seen["tfrecord"][1]).tolist() == [3] * 10


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_damaged_record_files_are_named(archive, monkeypatch, file_format, data_folder):
    prepared(monkeypatch, file_format)
    (file,) = data_folder.rglob("*train*")
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    for cut in (True, False):
        if not cut:
            file.unlink()
        with pytest.raises(ReproError) as error:
            open_dataset("imagenette").sample("train", 29)
        one_line(error, "imagenette/320px-v2 train", file.parent)
