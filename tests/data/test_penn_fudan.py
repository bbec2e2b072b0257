"""Penn-Fudan from a few small files: masks and boxes, the split, the archive, and every way to damage them."""

import functools
import http.server
import itertools
import threading
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from repro.data import penn_fudan
from repro.data.catalog import open_dataset
from repro.data.penn_fudan import PennFudan
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
# the third person is behind the first, in two parts; nobody has number 2
NUMBERS = np.zeros((12, 16), np.uint8)
NUMBERS[1:12, 3:7] = 1
NUMBERS[4:6, 0:3] = NUMBERS[4:7, 7:16] = 3
SPLITS = {
    "train": ["FudanPed00001", "FudanPed00052", "PennPed00001", "PennPed00068"],
    "val": ["FudanPed00053", "FudanPed00061", "PennPed00069", "PennPed00079"],
    "test": ["FudanPed00062", "FudanPed00074", "PennPed00080", "PennPed00096"],
}


@pytest.fixture
def folder(tmp_path):
    """A Penn-Fudan of the first and the last image of each run, one of which is a JPEG."""
    root = tmp_path / "data" / "PennFudanPed"
    (root / "PNGImages").mkdir(parents=True)
    (root / "PedMasks").mkdir()
    for stems in SPLITS.values():
        for stem in stems:
            kind = "jpg" if stem == "FudanPed00001" else "png"
            Image.fromarray(PHOTO).save(root / "PNGImages" / f"{stem}.{kind}")
            Image.fromarray(NUMBERS).save(root / "PedMasks" / f"{stem}_mask.png")
    (root / "readme.txt").write_text("170 images")
    return root


def test_samples(folder):
    data = open_dataset("penn_fudan")
    data.prepare()
    for split, stems in SPLITS.items():
        assert [data.sample(split, index).image_id for index in range(data.size(split))] == stems
    sample = data.sample("test", 1)
    np.testing.assert_array_equal(sample.image, PHOTO)
    np.testing.assert_array_equal(sample.masks, [NUMBERS == 1, NUMBERS == 3])
    np.testing.assert_array_equal(sample.boxes, [(3, 1, 7, 12), (0, 4, 16, 7)])
    assert sample.classes.tolist() == [0, 0]
    assert sample.crowd.tolist() == [False, False]
    fields = (sample.boxes, sample.classes, sample.masks, sample.crowd)
    assert [each.dtype for each in fields] == [np.float32, np.int32, bool, bool]
    assert data.sample("train", 0).image.shape == PHOTO.shape
    assert data.info.classes == ("person",)


def test_an_image_with_nobody(folder):
    Image.fromarray(np.zeros_like(NUMBERS)).save(folder / "PedMasks" / "FudanPed00001_mask.png")
    sample = PennFudan().sample("train", 0)
    assert sample.boxes.shape == (0, 4)
    assert sample.masks.shape == (0, 12, 16)
    assert sample.classes.shape == sample.crowd.shape == (0,)


def test_every_image_is_in_one_split_and_neighbours_stay_together():
    stems = penn_fudan._STEMS
    assert {split: len(names) for split, names in stems.items()} == {"train": 120, "val": 20, "test": 30}
    everything = [f"FudanPed{n:05}" for n in range(1, 75)] + [f"PennPed{n:05}" for n in range(1, 97)]
    assert sorted(stem for names in stems.values() for stem in names) == everything
    split_of = {stem: split for split, names in stems.items() for stem in names}
    borders = sum(split_of[one] != split_of[other] for one, other in itertools.pairwise(everything))
    assert borders == 5


def test_official_says_what_differs(folder):
    own = "no official split, the suite's own"
    assert PennFudan().official("train") == (False, f"{own}; 4 of 120 images; images re-encoded as JPEG")
    assert PennFudan().official("val") == (False, f"{own}; 4 of 20 images")


def test_fingerprint_follows_images_masks_and_names(folder):
    fingerprints = [PennFudan().fingerprint("val")]
    assert PennFudan().fingerprint("val") in fingerprints
    Image.fromarray(PHOTO[::-1]).save(folder / "PNGImages" / "PennPed00069.png")
    fingerprints.append(PennFudan().fingerprint("val"))
    Image.fromarray(NUMBERS[::-1]).save(folder / "PedMasks" / "PennPed00069_mask.png")
    fingerprints.append(PennFudan().fingerprint("val"))
    (folder / "PNGImages" / "PennPed00069.png").rename(folder / "PNGImages" / "PennPed00070.png")
    (folder / "PedMasks" / "PennPed00069_mask.png").rename(folder / "PedMasks" / "PennPed00070_mask.png")
    fingerprints.append(PennFudan().fingerprint("val"))
    assert len(set(fingerprints)) == 4


def remove(*names):
    return lambda folder: [(folder / name).unlink() for name in names]


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (remove("PedMasks/PennPed00001_mask.png"), ["PennPed00001.png has no mask"]),
        (remove("PNGImages/PennPed00001.png", "PNGImages/PennPed00080.png"), ["_mask.png has no image, like 1 more"]),
        (lambda folder: (folder / "PedMasks").rename(folder / "masks"), ["PedMasks does not exist"]),
        (
            lambda folder: Image.fromarray(PHOTO).save(folder / "PNGImages" / "PennPed00001.jpeg"),
            ["PennPed00001.png", "share a name"],
        ),
        (
            lambda folder: [path.rename(path.with_name(path.name.replace("68", "97"))) for path in both(folder, 68)],
            ["PennPed00097.png is no image of Penn-Fudan"],
        ),
        (
            lambda folder: [path.unlink() for stem in SPLITS["val"] for path in folder.glob(f"P*/{stem}*")],
            ["holds no images of the split val"],
        ),
    ],
)
def test_incomplete_copies_are_refused(folder, damage, parts):
    damage(folder)
    with pytest.raises(ReproError) as error:
        PennFudan().prepare()
    assert not isinstance(error.value, NoDataError)
    one_line(error, folder, *parts)


def both(folder, number):
    return list(folder.glob(f"P*/PennPed{number:05}*"))


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("PedMasks/PennPed00080_mask.png", NUMBERS[:, :15], "is 12x15, its image 12x16"),
        ("PedMasks/PennPed00080_mask.png", PHOTO, "mode RGB"),
        ("PedMasks/PennPed00080_mask.png", b"<html>", "not an image"),
        ("PNGImages/PennPed00080.png", b"<html>", "not an image"),
        ("PNGImages/PennPed00080.png", None, "damaged"),
    ],
)
def test_bad_files_are_named(folder, name, content, part):
    path = folder / name
    if isinstance(content, np.ndarray):
        Image.fromarray(content).save(path)
    else:
        path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(ReproError) as error:
        PennFudan().sample("test", 2)
    one_line(error, path, part)


def test_without_the_data(tmp_path):
    with pytest.raises(ReproError) as error:
        PennFudan().size("trian")
    one_line(error, "split of penn_fudan", "train")
    with pytest.raises(NoDataError) as error:
        PennFudan().size("train")
    one_line(error, tmp_path / "data" / "PennFudanPed", "repro data penn_fudan")


# The download, which has no checksum


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture
def packed(folder, tmp_path, monkeypatch):
    """The archive as a server on this machine offers it; the data folder is empty."""
    path = tmp_path / "site" / "PennFudanPed.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        for each in sorted(folder.rglob("*.*")):
            archive.write(each, each.relative_to(folder.parent))
    monkeypatch.setenv("REPRO_DATA", str(tmp_path / "fresh"))
    monkeypatch.setenv("no_proxy", "*")
    handler = functools.partial(Quiet, directory=path.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    url, size = f"http://127.0.0.1:{server.server_port}/{path.name}", path.stat().st_size
    monkeypatch.setattr(PennFudan, "archive", replace(PennFudan.archive, url=url, size=size, unpacked=size))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield path
    server.shutdown()
    server.server_close()
    thread.join()


def test_the_archive_is_fetched_once(packed, folder, tmp_path):
    PennFudan().prepare()
    assert (tmp_path / "fresh" / packed.name).read_bytes() == packed.read_bytes()
    packed.unlink()
    PennFudan().prepare()
    before = PennFudan().fingerprint("test")
    folder.rename(tmp_path / "fresh" / "PennFudanPed2")
    assert PennFudan().fingerprint("test") == before
    assert PennFudan().size("train") == 4


def test_an_archive_put_there_by_hand_is_unpacked(packed, tmp_path):
    (tmp_path / "fresh").mkdir()
    packed.rename(tmp_path / "fresh" / packed.name)
    PennFudan().prepare()
    assert PennFudan().size("val") == 4


def test_bytes_changed_on_the_way_are_noticed(packed, tmp_path):
    content = bytearray(packed.read_bytes())
    content[len(content) // 2] ^= 1
    packed.write_bytes(content)
    with pytest.raises(NoDataError) as error:
        PennFudan().prepare()
    one_line(error, tmp_path / "fresh" / packed.name, "CRC-32")
    assert not (tmp_path / "fresh" / "PennFudanPed").exists()


@pytest.mark.parametrize(
    ("damage", "parts"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), ["offers", "PennFudanPed.zip"]),
        (lambda path: path.unlink(), ["404", "PennFudanPed.zip by hand"]),
    ],
)
def test_another_file_is_refused(packed, damage, parts):
    damage(packed)
    with pytest.raises(NoDataError) as error:
        PennFudan().prepare()
    one_line(error, *parts)
