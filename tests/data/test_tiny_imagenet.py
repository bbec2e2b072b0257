"""Tiny ImageNet from a few small files, every way to damage them, and the unpacking of archives."""

import hashlib
import io
import pickle
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from repro.data import download, tiny_imagenet
from repro.data.tiny_imagenet import TinyImageNet
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

WNIDS = ("n02124075", "n01443537", "n12267677")  # Egyptian cat, goldfish, acorn: not in order, as in the official file
LABELS = {"n01443537": 0, "n02124075": 32, "n12267677": 199}
COUNTS = {"n01443537": 3, "n02124075": 1, "n12267677": 2}
VAL = (("val_7.JPEG", "n12267677"), ("val_0.JPEG", "n01443537"), ("val_10.JPEG", "n12267677"))


def save(path, label, mode="RGB", size=(64, 64)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (label, label, label)).convert(mode).save(path, "JPEG")


@pytest.fixture
def folder(tmp_path):
    """A Tiny ImageNet of three classes with 3, 1 and 2 training images, all grey values equal to the label."""
    root = tmp_path / "data" / "tiny-imagenet-200"
    for wnid, count in COUNTS.items():
        for number in range(count):
            path = root / "train" / wnid / "images" / f"{wnid}_{number}.JPEG"
            save(path, LABELS[wnid], "L" if number == 1 else "RGB")
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    for name, wnid in VAL:
        save(root / "val" / "images" / name, LABELS[wnid])
    rows = [f"{name}\t{wnid}\t0\t32\t44\t62\n" for name, wnid in VAL]
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(WNIDS))
    return root


def test_samples(folder):
    data = TinyImageNet()
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [6, 3]
    data = pickle.loads(pickle.dumps(data))
    train = [data.sample("train", index) for index in range(6)]
    assert [sample.image_id for sample in train] == [
        "n01443537_0", "n02124075_0", "n12267677_0", "n01443537_1", "n12267677_1", "n01443537_2",
    ]  # fmt: skip
    val = [data.sample("val", index) for index in range(3)]
    assert [(sample.image_id, sample.label) for sample in val] == [("val_7", 199), ("val_0", 0), ("val_10", 199)]
    for sample in train + val:
        assert (sample.image.dtype, sample.image.shape) == (np.uint8, (64, 64, 3))
        assert abs(float(sample.image.mean()) - sample.label) < 2


def test_classes_are_named_without_the_data():
    classes = TinyImageNet.info.classes
    assert len(set(classes)) == 200
    assert {label: classes[label] for label in LABELS.values()} == {0: "goldfish", 32: "Egyptian cat", 199: "acorn"}
    assert list(tiny_imagenet._NAMES) == sorted(tiny_imagenet._NAMES)


def test_fingerprint_follows_names_labels_and_sizes(folder):
    first = TinyImageNet().fingerprint("train")
    fingerprints = {first, TinyImageNet().fingerprint("val")}
    (folder / "wnids.txt").write_text("\r\n".join(sorted(WNIDS)))  # the same samples
    assert TinyImageNet().fingerprint("train") == first
    images = folder / "train" / "n01443537" / "images"
    (images / "n01443537_2.JPEG").write_bytes(bytes(7))
    fingerprints.add(TinyImageNet().fingerprint("train"))
    (images / "n01443537_2.JPEG").rename(images / "n01443537_3.JPEG")
    fingerprints.add(TinyImageNet().fingerprint("train"))
    annotations = folder / "val" / "val_annotations.txt"
    annotations.write_text(annotations.read_text().replace("n01443537", "n02124075"))
    fingerprints.add(TinyImageNet().fingerprint("val"))
    assert len(fingerprints) == 5


def test_official_means_the_published_counts_and_size(folder, monkeypatch):
    assert TinyImageNet().official("train") == (False, "6 of 100000 images")
    assert TinyImageNet().official("val") == (False, "3 of 10000 images")
    monkeypatch.setattr(TinyImageNet, "counts", {"train": 6, "val": 3})
    monkeypatch.setattr(tiny_imagenet, "_LABELS", {"n01443537": 0, "n02124075": 1, "n12267677": 2})
    assert TinyImageNet().official("train") == (False, "3 images of goldfish instead of 2")
    images = [folder / "train" / wnid / "images" / f"{wnid}_{n}.JPEG" for wnid, n in (("n01443537", 2),) * 2]
    images[1] = folder / "train" / "n02124075" / "images" / "n02124075_1.JPEG"
    images[0].rename(images[1])
    assert TinyImageNet().official("train") == (True, "")
    save(folder / "train" / "n02124075" / "images" / "n02124075_0.JPEG", 32, size=(32, 40))
    assert TinyImageNet().official("train") == (False, "JPEG images of 40x32 instead of JPEG of 64x64")
    assert TinyImageNet().sample("train", 1).image.shape == (40, 32, 3)


def test_missing_data_says_how_to_get_it(tmp_path):
    with pytest.raises(NoDataError) as error:
        TinyImageNet().size("val")
    one_line(error, tmp_path / "data" / "tiny-imagenet-200", "repro data tiny_imagenet")


def test_unknown_split(folder):
    with pytest.raises(ReproError) as error:
        TinyImageNet().size("test")
    one_line(error, "tiny_imagenet", "train, val")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["names no class"]),
        (b"n01443537\ngoldfish\n", ["line 2", "'goldfish'", "WordNet id"]),
        (b"n01443537\tgoldfish\n", ["line 1"]),
        (b"n01443537\n\nn00000001\n", ["line 3", "n00000001", "no class"]),
        (b"n01443537\nn01443537\n", ["line 2", "before"]),
        (b"\xff\xfen\x000\x001\x00", ["line 1"]),
        (None, ["does not exist"]),
    ],
)
def test_bad_wnids_are_named(folder, content, parts):
    path = folder / "wnids.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    for split in ("train", "val"):
        with pytest.raises(ReproError) as error:
            TinyImageNet().size(split)
        one_line(error, path, *parts)
        assert not isinstance(error.value, NoDataError)


def test_class_folders_that_are_missing_or_empty(folder):
    images = folder / "train" / "n02124075" / "images"
    for change, part in ((images.joinpath("n02124075_0.JPEG").unlink, "no images"), (images.rmdir, "does not exist")):
        change()
        with pytest.raises(ReproError) as error:
            TinyImageNet().prepare()
        one_line(error, images, part, "tiny-imagenet-200.zip")


@pytest.mark.parametrize(
    ("row", "parts"),
    [
        ("val_7.JPEG", ["line 4", "''"]),
        ("val_7.JPEG n01443537 0 0 1 1", ["line 4"]),
        ("val_7.JPEG\tn02085620\t0\t0\t1\t1", ["line 4", "n02085620", "wnids.txt"]),
        ("val_9.JPEG\tn01443537\t0\t0\t1\t1", ["line 4", "val_9.JPEG", "missing"]),
        ("../images/val_0.JPEG\tn01443537\t0\t0\t1\t1", ["line 4", "missing"]),
        ("val_7.JPEG\tn01443537\t0\t0\t1\t1", ["line 4", "val_7.JPEG", "again"]),
    ],
)
def test_bad_annotations_are_named(folder, row, parts):
    path = folder / "val" / "val_annotations.txt"
    with open(path, "a") as file:
        file.write(f"{row}\n")
    with pytest.raises(ReproError) as error:
        TinyImageNet().prepare()
    one_line(error, path, *parts)


def test_images_without_annotation_are_named(folder):
    path = folder / "val" / "val_annotations.txt"
    path.write_text(path.read_text().splitlines()[0])
    with pytest.raises(ReproError) as error:
        TinyImageNet().prepare()
    one_line(error, path, "val_0.JPEG", "like 1 more")


def test_a_truncated_image_is_named(folder):
    path = folder / "val" / "images" / "val_0.JPEG"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(ReproError) as error:
        TinyImageNet().sample("val", 1)
    one_line(error, path, "damaged")


# The archive


def test_an_archive_put_there_by_hand_is_unpacked_without_the_test_images(folder, tmp_path, monkeypatch):
    root = tmp_path / "fresh"
    root.mkdir()
    path = root / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny-imagenet-200/test/images/test_0.JPEG", b"")
        for file in sorted(folder.rglob("*")):
            archive.write(file, f"tiny-imagenet-200/{file.relative_to(folder)}")
    content = path.read_bytes()
    url, checksum = "http://127.0.0.1:9/tiny-imagenet-200.zip", f"md5:{hashlib.md5(content).hexdigest()}"
    published = replace(tiny_imagenet.ARCHIVE, url=url, size=len(content), unpacked=0, checksum=checksum)
    monkeypatch.setattr(TinyImageNet, "archive", published)
    monkeypatch.setenv("REPRO_DATA", str(root))
    TinyImageNet().prepare()
    assert TinyImageNet().size("train") == 6
    assert not (root / "tiny-imagenet-200" / "test").exists()
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(NoDataError) as error:
        download.install(published, root, "elsewhere")
    one_line(error, path, checksum.removeprefix("md5:"), "delete it")


def write_archive(path, kind):
    """A tar or zip with a good file below `top` and then one that leads elsewhere."""
    name = "top/sub/../../../evil" if kind == "up" else "top/evil"
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("top/good", bytes(2000))
            archive.writestr(name, bytes(2000))
        return
    with tarfile.open(path, "w") as archive:
        for member in (tarfile.TarInfo("top/good"), tarfile.TarInfo(name)):
            if kind in LINKS and member.name == name:
                member.type, member.linkname = LINKS[kind], str(path.with_name("secret"))
            member.size = 2000 if member.isfile() else 0
            archive.addfile(member, io.BytesIO(bytes(2000)))


LINKS = {"symlink": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "pipe": tarfile.FIFOTYPE}


@pytest.mark.parametrize(
    ("suffix", "kind"),
    [(suffix, kind) for suffix in (".tar", ".zip") for kind in ("up", "cut", "cut between files", "other", "text")]
    + [(".tar", kind) for kind in LINKS]
    + [(".zip", "changed")],
)
def test_archives_that_are_not_unpacked(tmp_path, suffix, kind):
    path, root = tmp_path / f"a{suffix}", tmp_path / "root"
    path.with_name("secret").write_bytes(b"secret")
    root.mkdir()
    write_archive(path, kind)
    content = path.read_bytes()
    damaged = {
        "cut": content[:2000],
        "cut between files": content[:2560],
        "text": b"hello",
        "changed": content[:500] + b"x" + content[501:],
    }
    path.write_bytes(damaged.get(kind, content))
    with pytest.raises(NoDataError) as error:
        download.extract(path, root, "nothing" if kind == "other" else "top")
    one_line(error, path, "delete")
    assert list(root.iterdir()) == []
    assert not (tmp_path / "evil").exists()
