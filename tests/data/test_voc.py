"""VOC folders from a few small files, every way to damage them, and their archives put there by hand."""

import hashlib
import io
import os
import pickle
import tarfile
import threading
import time
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from repro.data import voc
from repro.data.catalog import open_dataset
from repro.data.voc import Bccd, Voc2007, Voc2012, checked_boxes
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line
from tests.support.voc_files import DOG, LISTS, PHOTO, annotation, build, thing


@pytest.fixture
def folder(tmp_path):
    """A VOC 2007 with the images 5 and 12, 7, and 1, of one dog each."""
    return build(tmp_path / "data" / "VOCdevkit" / "VOC2007")


def test_samples(folder):
    person = "<difficult>1</difficult><name> person </name><pose>Left</pose>"
    parts = "<part><name>head</name><bndbox><xmin>2</xmin><ymin>2</ymin><xmax>3</xmax><ymax>3</ymax></bndbox></part>"
    objects = thing(), thing((1, 1, 16, 12), person + parts), thing((4, 5, 4, 5))
    (folder / "Annotations" / "000012.xml").write_text(annotation(*objects))
    data = open_dataset("voc2007")
    data.prepare()
    assert {split: data.size(split) for split in data.info.splits} == {"train": 2, "val": 1, "trainval": 3, "test": 1}
    sample = data.sample("train", 1)
    assert sample.image_id == "000012"
    np.testing.assert_array_equal(sample.image, np.array(Image.open(folder / "JPEGImages" / "000012.jpg")))
    np.testing.assert_array_equal(sample.boxes, [(2, 1, 9, 11), (0, 0, 16, 12), (3, 4, 4, 5)])
    assert [data.info.classes[label] for label in sample.classes] == ["dog", "person", "dog"]
    assert sample.difficult.tolist() == [False, True, False]
    assert sample.truncated.tolist() == [True, False, True]
    assert [each.dtype for each in (sample.boxes, sample.classes)] == [np.float32, np.int32]
    assert [each.dtype for each in (sample.difficult, sample.truncated)] == [bool, bool]
    assert sample.crowd is sample.masks is sample.label is None
    again = pickle.loads(pickle.dumps(data)).sample("trainval", 2)
    np.testing.assert_array_equal(again.boxes, sample.boxes)


def test_an_image_without_objects_is_a_sample(folder):
    (folder / "Annotations" / "1.xml").write_text(annotation())
    sample = Voc2007().sample("test", 0)
    assert sample.boxes.shape == (0, 4)
    assert sample.classes.shape == sample.difficult.shape == sample.truncated.shape == (0,)
    assert [each.dtype for each in (sample.boxes, sample.classes, sample.difficult)] == [np.float32, np.int32, bool]


def test_voc2012_has_fractions_and_no_test_labels(tmp_path):
    root = build(tmp_path / "data" / "VOCdevkit" / "VOC2012")
    (root / "Annotations" / "000007.xml").write_text(annotation(thing((3.5, 2, 9.25, 11))))
    data = open_dataset("voc2012")
    data.prepare()
    assert data.info.splits == ("train", "val", "trainval")
    np.testing.assert_array_equal(data.sample("val", 0).boxes, [(2.5, 1, 9.25, 11)])
    with pytest.raises(ReproError) as error:
        data.size("test")
    one_line(error, "split of voc2012")


def test_bccd_has_classes_of_its_own(tmp_path):
    root = build(tmp_path / "data" / "BCCD")
    cells = [thing(about=f"<name>{name}</name>") for name in ("Platelets", "RBC", "WBC")]
    for stem in LISTS["trainval"] + LISTS["test"]:
        (root / "Annotations" / f"{stem}.xml").write_text(annotation(*cells))
    data = open_dataset("bccd")
    data.prepare()
    assert data.sample("train", 0).classes.tolist() == [2, 0, 1]
    (root / "Annotations" / "000005.xml").write_text(annotation(thing()))
    with pytest.raises(ReproError) as error:
        data.sample("train", 0)
    one_line(error, root / "Annotations" / "000005.xml", "'dog'", "Platelets, RBC, WBC")


def test_exif_orientation_does_not_turn_an_image_away_from_its_boxes(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(folder / "JPEGImages" / "1.jpg", exif=exif)
    assert Voc2007().sample("test", 0).image.shape == (12, 16, 3)


def test_fingerprint_follows_images_annotations_and_order(folder):
    names = folder / "ImageSets" / "Main" / "train.txt"
    fingerprints = [Voc2007().fingerprint("train")]
    names.write_text("\r\n".join(LISTS["train"]))  # the same samples
    assert Voc2007().fingerprint("train") == fingerprints[0]
    Image.fromarray(PHOTO[::-1]).save(folder / "JPEGImages" / "000005.jpg")
    fingerprints.append(Voc2007().fingerprint("train"))
    (folder / "Annotations" / "000005.xml").write_text(annotation(thing((3, 2, 9, 10))))
    fingerprints.append(Voc2007().fingerprint("train"))
    names.write_text("\n".join(LISTS["train"][::-1]))
    fingerprints.append(Voc2007().fingerprint("train"))
    assert len(set(fingerprints)) == 4


def test_official_means_the_published_counts_format_and_size(folder, monkeypatch):
    note = "2 of 2501 images; the longest side is 16 instead of 500 pixels"
    assert Voc2007().official("train") == (False, note)
    assert Voc2007().official("test")[1].startswith("1 of 4952 images")
    monkeypatch.setattr(Voc2007, "counts", {"train": 2})
    assert Voc2007().official("train") == (False, "the longest side is 16 instead of 500 pixels")
    monkeypatch.setattr(Voc2007, "longest_side", 16)
    assert Voc2007().official("train") == (True, "")
    Image.fromarray(PHOTO).save(folder / "JPEGImages" / "000012.jpg", "PNG")
    assert Voc2007().official("train") == (False, "images re-encoded as PNG")


def test_published_counts_add_up():
    for loader, total in ((Voc2007, 9963), (Voc2012, 11540), (Bccd, 364)):
        counts = loader.counts
        assert counts["train"] + counts["val"] == counts["trainval"]
        assert counts["trainval"] + counts.get("test", 0) == total
        assert tuple(counts) == loader.info.splits
    assert len(set(voc.CLASSES)) == 20
    assert list(voc.CLASSES) == sorted(voc.CLASSES)


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["names no image"]),
        (b"\n \n", ["names no image"]),
        (b"000005 -1\n", ["line 1", "'000005 -1'"]),  # a list of one class
        (b"000005\n../../secret\n", ["line 2", "secret"]),
        (b"\x89PNG\r\n", ["line 1"]),
        (b"000005\n000012\n000005\n", ["000005", "line 1", "line 3"]),
        (b"000005\n000001\n000002\n", ["000001.jpg", "like 3 more"]),
    ],
)
def test_bad_lists_are_named(folder, content, parts):
    path = folder / "ImageSets" / "Main" / "train.txt"
    path.write_bytes(content)
    with pytest.raises(ReproError) as error:
        Voc2007().prepare()
    one_line(error, path, *parts)
    assert not isinstance(error.value, NoDataError)


@pytest.mark.parametrize("part", ["JPEGImages/000007.jpg", "Annotations/000007.xml"])
def test_a_missing_file_is_named_before_the_work(folder, part):
    (folder / part).unlink()
    with pytest.raises(ReproError) as error:
        Voc2007().prepare()
    one_line(error, folder / part, "val.txt", "VOCtest_06-Nov-2007.tar")


LAUGHS = "".join(f'<!ENTITY e{n + 1} "{f"&e{n};" * 10}">' for n in range(12))
BOMB = f'<!DOCTYPE annotation [<!ENTITY e0 "ha">{LAUGHS}]><annotation>&e12;</annotation>'


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("", ["no element found"]),
        (annotation(thing())[:-5], ["line 1"]),
        ("<annotation>\x00</annotation>", ["not well-formed"]),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', ["klingon"]),
        (BOMB, ["DOCTYPE"]),
        (BOMB.encode("utf-16"), ["DOCTYPE"]),
        ("<html><body>404</body></html>", ["no size", "width is ''"]),
        (annotation().replace("12</h", "tall</h"), ["no size", "height is 'tall'"]),
        (annotation(thing(), "<object><name>cat</name></object>"), ["object 2", "no box", "xmin"]),
        (annotation(thing().replace("ymax", "y")), ["object 1", "ymax is ''"]),
        (annotation(thing((3, "two", 9, 11))), ["object 1", "ymin is 'two'"]),
        (annotation(thing(("nan", 2, 9, 11))), ["object 1", "xmin is 'nan'"]),
        (annotation(thing((3, 2, "inf", 11))), ["object 1", "xmax is 'inf'"]),
        (annotation(thing(about="")), ["object 1", "class", "''"]),
        (annotation(thing(), thing(about="<name>doge</name>")), ["object 2", "'doge'", "did you mean dog"]),
        (annotation(thing(about="<name>Dog</name>")), ["'Dog'", "did you mean dog"]),
        (annotation(thing(about=DOG.replace("0</d", "maybe</d"))), ["object 1", "difficult 'maybe'"]),
        (annotation(thing((3, 2, 2, 11))), ["object 1", "(2, 1, 2, 11)", "no area"]),
        (annotation(thing(), thing((9, 2, 3, 11))), ["object 2", "no area"]),
        (annotation(thing((3, 11, 9, 2))), ["object 1", "no area"]),
        (annotation(thing((3, 2, 18, 11))), ["object 1", "(2, 1, 18, 11)", "outside", "12x16"]),
        (annotation(thing((-1, 2, 9, 11))), ["outside"]),
        (annotation(thing((3, 2, 9, 1e9))), ["outside"]),
        (annotation(thing((17, 2, 17, 11))), ["no area"]),  # what rounding left of it lies beyond the edge
        (annotation(thing(), size=(12, 15)), ["12x15", "12x16"]),
        (annotation(thing(), size=(16, 12)), ["16x12", "12x16"]),
    ],
)
def test_bad_annotations_are_named(folder, content, parts):
    path = folder / "Annotations" / "000007.xml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = Voc2007()
    data.prepare()
    with pytest.raises(ReproError) as error:
        data.sample("val", 0)
    one_line(error, path, *parts)


def test_rounding_is_clipped(folder):
    (folder / "Annotations" / "1.xml").write_text(annotation(thing((0, 0.5, 17, 13)), thing((0, 0, 1, 12.2))))
    np.testing.assert_array_equal(Voc2007().sample("test", 0).boxes, [(0, 0, 16, 12), (0, 0, 1, 12)])


@pytest.mark.parametrize(
    ("damage", "part"), [(lambda content: content[:300], "damaged"), (lambda content: b"<html>", "not an image")]
)
def test_bad_images_are_named(folder, damage, part):
    path = folder / "JPEGImages" / "1.jpg"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ReproError) as error:
        Voc2007().sample("test", 0)
    one_line(error, path, part)


def test_without_the_data_or_a_list(folder, tmp_path):
    with pytest.raises(ReproError) as error:
        Voc2007().size("tran")
    one_line(error, "voc2007", "did you mean train")
    (folder / "ImageSets" / "Main" / "test.txt").unlink()
    assert Voc2007().size("val") == 1
    with pytest.raises(NoDataError) as error:
        Voc2007().size("test")
    one_line(error, "test.txt", "repro data voc2007")
    folder.rename(tmp_path / "VOC")
    with pytest.raises(NoDataError) as error:
        Voc2007().size("train")
    one_line(error, folder, "repro data voc2007")


NUMBER = st.floats(-3, 25, width=32) | st.integers(-3, 25).map(float) | st.just(float("nan"))


@given(st.lists(st.tuples(NUMBER, NUMBER, NUMBER, NUMBER), max_size=4))
def test_clipped_boxes_are_inside_and_others_are_refused(boxes):
    height, width = 12, 16
    expected, bad = [], None
    for number, box in enumerate(boxes):
        x1, y1, x2, y2 = (round(value, 3) for value in box)
        inside = min(x1, y1, x2, y2) >= -1 and max(x1, x2) <= width + 1 and max(y1, y2) <= height + 1
        clipped = [min(max(x1, 0), width), min(max(y1, 0), height), min(max(x2, 0), width), min(max(y2, 0), height)]
        solid = clipped[0] < clipped[2] and clipped[1] < clipped[3]
        if bad is None and not (inside and solid and not any(value != value for value in (x1, y1, x2, y2))):
            bad = number
        expected.append(clipped)
    if bad is None:
        found = checked_boxes(boxes, (height, width), str, "cure")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.array(expected, np.float32).reshape(-1, 4))
    else:
        with pytest.raises(ReproError) as error:
            checked_boxes(boxes, (height, width), lambda i: f"box {i} of x", "cure")
        one_line(error, f"box {bad} of x has", "cure")


# The archives: fetching itself is tested with VOC 2012's segmentation


@pytest.fixture
def archives(tmp_path, monkeypatch):
    """Both archives of a small VOC 2007, put into an empty data folder by hand."""
    root = tmp_path / "data"
    root.mkdir()
    parts = []
    for part, splits in zip(Voc2007.parts, (("train", "val", "trainval"), ("test",)), strict=True):
        source = build(tmp_path / splits[0], {split: LISTS[split] for split in splits})
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(source, part.inside)
        content = stream.getvalue()
        (root / part.archive.filename).write_bytes(content)
        checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        facts = {"size": len(content), "unpacked": len(content), "checksum": checksum}
        parts.append(
            replace(part, archive=replace(part.archive, url=f"http://127.0.0.1:9/{part.archive.filename}", **facts))
        )
    monkeypatch.setattr(Voc2007, "parts", tuple(parts))
    monkeypatch.setenv("no_proxy", "*")
    return root


def left_over(root):
    return [path.name for path in root.iterdir() if path.name.startswith(".") and path.suffix != ".lock"]


def test_two_archives_become_one_folder_once(archives, monkeypatch):
    opened, extract = [], voc.extract

    def slowly(path, *places):
        opened.append(path.name)
        time.sleep(0.05)
        extract(path, *places)

    monkeypatch.setattr(voc, "extract", slowly)
    threads = [threading.Thread(target=Voc2007().prepare) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    data = Voc2007()
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [2, 1, 3, 1]
    assert opened == [part.archive.filename for part in Voc2007.parts]
    assert left_over(archives) == []


def test_only_the_missing_archive_is_unpacked_and_nothing_is_overwritten(archives):
    main = build(archives / "VOCdevkit" / "VOC2007", {"trainval": ["mine"], "train": ["mine"], "val": ["mine"]})
    own = annotation(thing((1, 1, 2, 2)))
    (main / "Annotations" / "1.xml").write_text(own)
    (archives / Voc2007.parts[0].archive.filename).write_bytes(b"never opened")
    data = Voc2007()
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [1, 1, 1, 1]
    assert (main / "Annotations" / "1.xml").read_text() == own


def test_a_merge_that_was_stopped_goes_on(archives, monkeypatch):
    moves = []

    def move(source, target):
        moves.append(target)
        if len(moves) == 3:
            raise OSError(28, "No space left on device")
        os.rename(source, target)

    monkeypatch.setattr(voc.os, "replace", move)
    with pytest.raises(NoDataError) as error:
        Voc2007().prepare()
    one_line(error, archives, "No space left", "make room")
    assert left_over(archives) == []
    Voc2007().prepare()
    assert Voc2007().sample("trainval", 2).image_id == "000012"
    markers = [moves.index(archives / Voc2007.folder / part.marker) for part in Voc2007.parts]
    assert {target.name for target in moves[markers[0] + 1 : markers[1]]} == {"1.jpg", "1.xml"}  # lists come last


def test_an_archive_that_is_damaged_or_cannot_be_had(archives, monkeypatch):
    test = archives / Voc2007.parts[1].archive.filename
    content = test.read_bytes()
    test.write_bytes(content[:-1])
    with pytest.raises(NoDataError) as error:
        Voc2007().prepare()
    one_line(error, test, f"{len(content) - 1} bytes", "repro data voc2007")
    test.unlink()
    with pytest.raises(NoDataError) as error:
        Voc2007().prepare()
    one_line(error, "127.0.0.1:9", test)
    free = namedtuple("usage", "total used free")(0, 0, 100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    with pytest.raises(NoDataError) as error:
        Voc2007().prepare()
    one_line(error, "voc2007 needs", "GiB", "REPRO_DATA")


def test_a_data_folder_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "file"))
    with pytest.raises(NoDataError) as error:
        Bccd().prepare()
    one_line(error, tmp_path / "file", "REPRO_DATA")
