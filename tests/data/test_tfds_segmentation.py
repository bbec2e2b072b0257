"""Label-map data sets of TFDS, offline: sane records, nonsense records, and small real archives."""

import io
import pickle
import subprocess
import sys
import urllib.error
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from repro.data.base import VOID
from repro.data.tfds_segmentation import Cityscapes, OxfordPets
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 17, 3), np.uint8)
TRIMAP = np.resize(np.array([1, 2, 3], np.uint8), (12, 17))
# the numbers in the label maps of Cityscapes that are classes of its benchmark, in the order of these
NUMBERS = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]


@pytest.fixture(autouse=True)
def data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("REPRO_DATA", str(tmp_path))
    return tmp_path / "tensorflow_datasets"


def encoded(pixels, kind="PNG"):
    stream = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(stream, kind)
    return stream.getvalue()


def pet(mask, image=None):
    image = encoded(PHOTO) if image is None else image
    return {"file_name": b"Sphynx_7.jpg", "image": image, "segmentation_mask": mask}


def mocked(*records):
    return tfds.testing.mock_data(as_data_source_fn=lambda *_, **__: records)


@pytest.mark.parametrize("palette", [False, True])
def test_pets_have_three_classes_in_the_order_of_the_files(palette):
    mask = Image.fromarray(TRIMAP)
    if palette:
        mask = mask.convert("P")
        mask.putdata(TRIMAP.ravel().tolist())
        mask.putpalette(np.random.default_rng(1).integers(0, 256, 768).tolist())
    with mocked(pet(encoded(mask))):
        sample = OxfordPets().sample("test", 0)
    assert sample.image_id == "Sphynx_7"
    np.testing.assert_array_equal(sample.image, PHOTO)
    np.testing.assert_array_equal(sample.semantic, TRIMAP - 1)
    assert sample.semantic.dtype == np.uint8
    assert OxfordPets.info.semantic_classes == ("pet", "background", "border")


def test_cityscapes_has_the_classes_of_the_benchmark():
    numbers = np.resize(np.array([*range(34), 255], np.uint8), (7, 5))
    record = {
        "image_id": b"ulm_000001_000019",
        "image_left": encoded(PHOTO[:7, :5]),
        "segmentation_label": encoded(numbers),
    }
    with mocked(record):
        sample = Cityscapes().sample("val", 0)
    assert sample.image_id == "ulm_000001_000019"
    assert sample.semantic.ravel().tolist() == [NUMBERS.index(n) if n in NUMBERS else VOID for n in numbers.ravel()]
    info = Cityscapes.info
    assert len(info.semantic_classes) == len(set(info.palette)) == 19
    assert dict(zip(info.semantic_classes, info.palette, strict=True))["bicycle"] == (119, 11, 32)
    assert info.semantic_classes[13] == "car"


@pytest.mark.parametrize(
    ("record", "part"),
    [
        (pet(None), "bytes and NoneType"),
        (pet(encoded(TRIMAP), image=PHOTO), "ndarray and bytes"),
        (pet(encoded(TRIMAP[:, :9])), "mask of 12x9 with an image of 12x17"),
        (pet(encoded(TRIMAP - 1)), "labels 0. "),
        (pet(encoded(TRIMAP + 1)), "labels 4. "),
        (pet(encoded(np.arange(204, dtype=np.uint8).reshape(12, 17))), "labels 0, 4, 5, 6, 7, 8, 9, 10 and 193 more"),
        (pet(encoded(TRIMAP)[:-30]), "mask) is damaged"),
        (pet(b"", image=encoded(PHOTO)), "mask) is not an image"),
        (pet(encoded(TRIMAP), image=encoded(PHOTO, "JPEG")[:-200]), "damaged"),
        (pet(encoded(PHOTO)), "mask) is a picture of mode RGB"),
        (pet(encoded(TRIMAP, "JPEG")), "mask) is a JPEG"),
    ],
)
def test_nonsense_records_are_named(record, part):
    with mocked(pet(encoded(TRIMAP)), record):
        data = OxfordPets()
        assert data.sample("test", 0).semantic.max() == 2
        with pytest.raises(ReproError) as error:
            data.sample("test", 1)
    one_line(error, "oxford_iiit_pet test 1 ", part)


@pytest.mark.parametrize(
    ("loader", "split", "count", "part"),
    [(OxfordPets, "test", 20, "has a mask of "), (Cityscapes, "val", 1, "holds the labels 34, 35, 36, 37, 38")],
)
def test_what_tfds_makes_up_is_told_from_data(loader, split, count, part):
    told = 0
    with tfds.testing.mock_data(num_examples=count):
        data = loader()
        assert data.size(split) == count
        for index in range(count):
            with pytest.raises(ReproError) as error:
                data.sample(split, index)
            one_line(error, f"{data.builder} {split} {index} ")
            told += part in str(error.value)
    # TFDS itself refuses the others, for boxes that are inside out
    assert told > count / 5


def test_pets_keep_a_tenth_of_train_for_validation():
    records = [pet(encoded(TRIMAP)) | {"file_name": f"{index}.jpg".encode()} for index in range(25)]
    with mocked(*records):
        data = OxfordPets()
        ids = {split: [data.sample(split, i).image_id for i in range(data.size(split))] for split in data.info.splits}
        assert data.fingerprint("train") != data.fingerprint("val")
        assert data.fingerprint("val") == OxfordPets().fingerprint("val")
        assert data.official("val") == (False, "2 of 368 images")
        for split, beyond in (("val", 2), ("val", -1), ("train", 23)):
            with pytest.raises(IndexError):
                data.sample(split, beyond)
    everything = [str(index) for index in range(25)]
    assert ids == {"train": everything[:-2], "val": everything[-2:], "test": everything}


def test_official_tells_what_the_splits_are(monkeypatch):
    builder = SimpleNamespace(version="4.0.0")
    for loader in (OxfordPets, Cityscapes):
        monkeypatch.setattr(loader, "_builder", lambda _: builder)
    stored = {"train": [None] * 3680, "test": [None] * 3669}
    data = OxfordPets()
    for split in data.info.splits:
        data._records[split] = data._part(split, stored[data.stored[split]])
    assert data.official("test") == (True, "")
    assert data.official("train") == (False, "train without the 368 kept for validation")
    assert data.official("val") == (False, "the last 368 of train, as none is published")
    data._records["test"] = stored["test"][1:]
    assert data.official("test") == (False, "3668 of 3669 images")
    city = Cityscapes()
    city._records = {"val": [None] * 500}
    assert city.official("val") == (False, "version 4.0.0 instead of 1.0.0")
    builder.version = "1.0.0"
    assert city.official("val") == (True, "")
    assert data.official("train") == (False, "version 1.0.0 instead of 4.0.0")


def test_archives_are_those_tfds_checks():
    known = tfds.builder_cls("oxford_iiit_pet").url_infos
    assert set(OxfordPets.urls) == known.keys()
    for archive in known.values():
        assert f"{archive.checksum} ({archive.filename.removesuffix('.tar.gz')})" in OxfordPets.info.checksum
    for loader in (OxfordPets, Cityscapes):
        assert tfds.builder(loader.builder).version == loader.info.version


def test_no_network_and_archives_to_fetch_by_hand(monkeypatch, data_folder):
    def refuse(*_, **__):
        raise urllib.error.URLError("Name or service\nnot known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    with pytest.raises(NoDataError) as error:
        OxfordPets().prepare()
    one_line(error, "oxford_iiit_pet", OxfordPets.urls[0], "not known", "repro data oxford_iiit_pet")
    manual = data_folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    (manual / "images.tar.gz").touch()
    with pytest.raises(NoDataError) as error:
        OxfordPets().prepare()
    one_line(error, OxfordPets.urls[1])
    (manual / "gtFine_trainvaltest.zip").touch()
    with pytest.raises(NoDataError) as error:
        Cityscapes().prepare()
    one_line(error, f"leftImg8bit_trainvaltest.zip not found in {manual}", "cityscapes-dataset.com")


def test_unknown_splits_are_named():
    with pytest.raises(ReproError) as error:
        Cityscapes().size("test")
    one_line(error, "split of cityscapes", "test")


def test_importing_needs_no_tensorflow():
    code = "import repro.data.tfds_segmentation, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """The pets' archives in small: picture n is n + 4 wide, and its mask begins with n % 3 + 1."""
    folder = tmp_path / "archive"
    for part in ("images", "annotations/trimaps"):
        (folder / part).mkdir(parents=True)
    for split, numbers in (("trainval", range(20)), ("test", range(20, 23))):
        lines = [f"pug_{number} 26 2 1\n" for number in numbers]
        (folder / "annotations" / f"{split}.txt").write_text("".join(lines))
        for number in numbers:
            mask = np.full((9, number + 4), 2, np.uint8)
            mask[0, 0] = number % 3 + 1
            Image.new("RGB", mask.shape[::-1], (10 * number,) * 3).save(folder / "images" / f"pug_{number}.jpg")
            Image.fromarray(mask).save(folder / "annotations" / "trimaps" / f"pug_{number}.png")
    found = {"images": str(folder), "annotations": str(folder)}
    monkeypatch.setattr(tfds.download.DownloadManager, "download_and_extract", lambda *_: found)
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: io.BytesIO())


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
def test_pets_from_their_archives(pets, monkeypatch, file_format, data_folder):
    available = file_format == "array_record"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: available)
    data = OxfordPets()
    data.prepare()
    assert any(file_format in path.name for path in data_folder.rglob("*train*"))
    assert [data.size(split) for split in data.info.splits] == [18, 2, 3]
    seen = set()
    for split in data.info.splits:
        samples = [data.sample(split, index) for index in range(data.size(split))]
        last = pickle.loads(pickle.dumps(data)).sample(split, data.size(split) - 1)
        assert last.image_id == samples[-1].image_id
        for sample in samples:
            number = int(sample.image_id.removeprefix("pug_"))
            assert (number >= 20) == (split == "test")
            assert sample.image.shape[:2] == sample.semantic.shape == (9, number + 4)
            assert abs(float(sample.image.mean()) - 10 * number) < 2
            assert sample.semantic[0, 0] == number % 3
            assert (sample.semantic.ravel()[1:] == 1).all()
            seen.add(number)
    assert seen == set(range(23))


def test_cityscapes_from_its_archives(data_folder, monkeypatch):
    monkeypatch.setattr(Cityscapes, "disk_bytes", 0)
    manual = data_folder / "downloads" / "manual"
    manual.mkdir(parents=True)
    with (
        zipfile.ZipFile(manual / "leftImg8bit_trainvaltest.zip", "w") as images,
        zipfile.ZipFile(manual / "gtFine_trainvaltest.zip", "w") as masks,
    ):
        for split, count in (("train", 3), ("val", 2), ("test", 1)):
            for number in range(count):
                stem = f"{split}/ulm/ulm_000000_{number:06d}"
                mask = np.full((12, 17), 7 + number, np.uint8)
                images.writestr(f"leftImg8bit/{stem}_leftImg8bit.png", encoded(PHOTO))
                masks.writestr(f"gtFine/{stem}_gtFine_labelIds.png", encoded(mask))
    data = Cityscapes()
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [3, 2]
    assert data.official("val") == (False, "2 of 500 images")
    for index in range(3):
        sample = data.sample("train", index)
        np.testing.assert_array_equal(sample.image, PHOTO)
        number = int(sample.image_id.removeprefix("ulm_000000_"))
        assert np.unique(sample.semantic).tolist() == [(0, 1, VOID)[number]]
