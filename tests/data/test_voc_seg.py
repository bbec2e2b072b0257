"""VOC 2012 segmentation from a few small files, every way to damage them, and its download from a local server."""

import hashlib
import http.server
import io
import re
import tarfile
import threading
from collections import namedtuple
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from repro.data import download
from repro.data.base import VOID
from repro.data.voc_seg import Voc2012Seg
from repro.drawing.palette import voc_colormap
from repro.errors import NoDataError, ReproError
from tests.support.messages import one_line

PHOTO = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
LABELS = np.resize(np.array([*range(21), VOID], np.uint8), (12, 16))
LISTS = {"train": ["2007_000032", "2007_000039"], "val": ["2007_000033"]}


def save_mask(path, labels):
    mask = Image.fromarray(labels)
    mask.putpalette(voc_colormap().ravel().tolist())
    mask.save(path)


@pytest.fixture
def folder(tmp_path):
    """A VOC 2012 of two and one images whose masks hold every class and void."""
    root = tmp_path / "data" / "VOCdevkit" / "VOC2012"
    for part in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / part).mkdir(parents=True)
    for split, stems in LISTS.items():
        (root / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("\n".join(stems) + "\n")
        for stem in stems:
            Image.fromarray(PHOTO).save(root / "JPEGImages" / f"{stem}.jpg", quality=95)
            save_mask(root / "SegmentationClass" / f"{stem}.png", LABELS)
    return root


def test_samples(folder):
    data = Voc2012Seg()
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [2, 1]
    sample = data.sample("train", 1)
    assert sample.image_id == "2007_000039"
    np.testing.assert_array_equal(sample.image, np.array(Image.open(folder / "JPEGImages" / "2007_000039.jpg")))
    np.testing.assert_array_equal(sample.semantic, LABELS)
    assert len(data.info.semantic_classes) == 21
    assert data.info.semantic_classes[15] == "person"


def test_exif_orientation_does_not_turn_an_image_away_from_its_mask(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = folder / "JPEGImages" / "2007_000032.jpg"
    Image.fromarray(PHOTO).save(path, exif=exif)
    assert Voc2012Seg().sample("train", 0).image.shape == (12, 16, 3)


def test_fingerprint_follows_images_masks_and_order(folder):
    names = folder / "ImageSets" / "Segmentation" / "train.txt"
    fingerprints = [Voc2012Seg().fingerprint("train")]
    names.write_text("\r\n".join(LISTS["train"]))  # the same samples
    assert Voc2012Seg().fingerprint("train") == fingerprints[0]
    Image.fromarray(PHOTO[::-1]).save(folder / "JPEGImages" / "2007_000032.jpg")
    fingerprints.append(Voc2012Seg().fingerprint("train"))
    save_mask(folder / "SegmentationClass" / "2007_000032.png", LABELS[::-1])
    fingerprints.append(Voc2012Seg().fingerprint("train"))
    names.write_text("\n".join(LISTS["train"][::-1]))
    fingerprints.append(Voc2012Seg().fingerprint("train"))
    assert len(set(fingerprints)) == 4


def test_official_means_the_published_counts_format_and_size(folder, monkeypatch):
    assert Voc2012Seg().official("train") == (
        False,
        "2 of 1464 images; the longest side is 16 instead of 500 pixels",
    )
    assert Voc2012Seg().official("val")[1].startswith("1 of 1449 images; ")
    monkeypatch.setattr(Voc2012Seg, "counts", {"train": 2, "val": 1})
    assert Voc2012Seg().official("train") == (False, "the longest side is 16 instead of 500 pixels")
    monkeypatch.setattr(Voc2012Seg, "longest_side", 16)
    assert Voc2012Seg().official("train") == (True, "")
    Image.fromarray(PHOTO).save(folder / "JPEGImages" / "2007_000039.jpg", "PNG")
    assert Voc2012Seg().official("train") == (False, "images re-encoded as PNG")


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["names no image"]),
        (b"\n \n", ["names no image"]),
        (b"2007_000032 1\n", ["line 1", "'2007_000032 1'"]),
        (b"2007_000032\n../../secret\n", ["line 2", "secret"]),
        (b"\x89PNG\r\n", ["line 1"]),
        (b"2007_000032\n2007_000039\n2007_000032\n", ["2007_000032", "line 1", "line 3"]),
        (b"2007_000032\n2012_000001\n2012_000002\n", ["2012_000001.jpg", "like 3 more"]),
        (None, ["does not exist"]),
    ],
)
def test_bad_lists_are_named(folder, content, parts):
    path = folder / "ImageSets" / "Segmentation" / "train.txt"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ReproError) as error:
        Voc2012Seg().prepare()
    one_line(error, path, *parts)
    assert not isinstance(error.value, NoDataError)


@pytest.mark.parametrize("part", ["JPEGImages/2007_000033.jpg", "SegmentationClass/2007_000033.png"])
def test_a_missing_file_is_named_before_the_work(folder, part):
    (folder / part).unlink()
    with pytest.raises(ReproError) as error:
        Voc2012Seg().prepare()
    one_line(error, folder / part, "val.txt")


@pytest.mark.parametrize("label", [21, 128, 254])
def test_labels_that_are_no_class(folder, label):
    save_mask(folder / "SegmentationClass" / "2007_000033.png", np.full((12, 16), label, np.uint8))
    with pytest.raises(ReproError) as error:
        Voc2012Seg().sample("val", 0)
    one_line(error, "2007_000033.png", f"labels {label}", "255 is void")


def test_bad_pictures_are_named(folder):
    image, mask = folder / "JPEGImages" / "2007_000033.jpg", folder / "SegmentationClass" / "2007_000033.png"
    sound = mask.read_bytes()

    def fails(*parts):
        with pytest.raises(ReproError) as error:
            Voc2012Seg().sample("val", 0)
        one_line(error, *parts)

    mask.write_bytes(sound[:150])
    fails(mask, "damaged")
    Image.fromarray(PHOTO).save(mask)
    fails(mask, "mode RGB", "class numbers")
    save_mask(mask, LABELS[:, :15])
    fails(mask, "12x15", "12x16")
    mask.write_bytes(sound)
    image.write_bytes(image.read_bytes()[:300])
    fails(image, "damaged")
    image.unlink()
    image.mkdir()
    fails(image)


def test_unknown_split(folder):
    with pytest.raises(ReproError) as error:
        Voc2012Seg().size("tran")
    one_line(error, "voc2012_seg", "did you mean train")


def test_without_the_data_or_its_segmentation_part(folder, tmp_path):
    (folder / "SegmentationClass").rename(folder / "elsewhere")
    with pytest.raises(NoDataError) as error:
        Voc2012Seg().prepare()
    one_line(error, folder / "SegmentationClass", "VOCtrainval_11-May-2012.tar")
    folder.rename(tmp_path / "VOC")
    with pytest.raises(NoDataError) as error:
        Voc2012Seg().size("train")
    one_line(error, folder, "repro data voc2012_seg")


# The download


def respond(content, stop=None, ranges=True, length=True, code=200, kind="application/x-tar"):
    """An answer of the server: `content` from the byte asked for, cut after `stop` bytes."""

    def answer(handler):
        asked = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range") or "") if ranges else None
        start = int(asked[1]) if asked else 0
        handler.send_response(206 if start else code)
        handler.send_header("Content-Type", kind)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if length:
            handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        handler.wfile.write(content[start:][:stop])

    return answer


def later(handler):
    """A wrong answer: bytes from further on than the one asked for."""
    handler.send_response(206)
    handler.send_header("Content-Range", "bytes 1500-1999/*")
    handler.end_headers()
    handler.wfile.write(bytes(500))


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.headers.get("Range"))
        answers = self.server.answers
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *_):
        pass


Site = namedtuple("Site", "server content root")


@pytest.fixture
def site(folder, tmp_path, monkeypatch):
    """A server on this machine that offers the small VOC 2012 as a tar file; the data folder is empty."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(folder, "VOCdevkit/VOC2012")
    content = stream.getvalue()
    root = tmp_path / "fresh"
    monkeypatch.setenv("REPRO_DATA", str(root))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "_PAUSES", (0, 0))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.answers = [], [respond(content)]
    checksum = f"sha256:{hashlib.sha256(content).hexdigest()}"
    url = f"http://127.0.0.1:{server.server_port}/VOCtrainval_11-May-2012.tar"
    archive = replace(Voc2012Seg.archive, url=url, size=len(content), unpacked=len(content), checksum=checksum)
    monkeypatch.setattr(Voc2012Seg, "archive", archive)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield Site(server, content, root)
    server.shutdown()
    server.server_close()
    thread.join()


def refused(site, *parts):
    """The download ends in one line without data and without leftovers but what can be gone on from."""
    with pytest.raises(NoDataError) as error:
        Voc2012Seg().prepare()
    one_line(error, *parts)
    left = {path.name for path in site.root.iterdir()} if site.root.is_dir() else set()
    name = Voc2012Seg.archive.filename
    assert left <= {name, f"{name}.part", f".{name}.lock"}
    return left


def test_the_archive_is_fetched_checked_and_unpacked_once(site, folder):
    Voc2012Seg().prepare()
    Voc2012Seg().prepare()
    assert site.server.asked == [None]
    unpacked = site.root / "VOCdevkit" / "VOC2012"
    for path in folder.rglob("*"):
        if path.is_file():
            assert (unpacked / path.relative_to(folder)).read_bytes() == path.read_bytes()
    assert (site.root / Voc2012Seg.archive.filename).read_bytes() == site.content
    np.testing.assert_array_equal(Voc2012Seg().sample("val", 0).semantic, LABELS)


def test_a_cut_connection_is_taken_up_where_it_broke(site):
    site.server.answers = [
        respond(site.content, stop=1000),
        respond(b"", code=503, ranges=False),
        respond(site.content, stop=500),
        respond(site.content),
    ]
    Voc2012Seg().prepare()
    assert site.server.asked == [None, "bytes=1000-", "bytes=1000-", "bytes=1500-"]


def test_a_second_call_goes_on_where_the_first_gave_up(site):
    site.server.answers = [respond(site.content, stop=1000), respond(b"", code=503, ranges=False)]
    left = refused(site, "answers 503", "repro data voc2012_seg", "goes on", site.root)
    assert site.server.asked == [None, "bytes=1000-", "bytes=1000-"]
    assert "VOCtrainval_11-May-2012.tar.part" in left
    site.server.answers = [respond(site.content)]
    Voc2012Seg().prepare()
    assert site.server.asked[3:] == ["bytes=1000-"]


@pytest.mark.parametrize("length", [True, False])
def test_a_server_without_ranges_sends_everything_again(site, length):
    site.server.answers = [respond(site.content, 1000), respond(site.content, ranges=False, length=length)]
    Voc2012Seg().prepare()
    assert site.server.asked == [None, "bytes=1000-"]


@pytest.mark.parametrize(
    ("answer", "parts"),
    [
        (respond(b"<html>log in</html>", kind="text/html"), ["19 bytes of text/html"]),
        (respond(b"<html>log in</html>", kind="text/html", length=False), ["unknown number of bytes of text/html"]),
        (respond(b"gone", code=404), ["404", "by hand"]),
        (respond(bytes(5000)), ["5000 bytes"]),
        (lambda handler: handler.wfile.write(b"no HTTP at all\r\n\r\n"), ["no HTTP at all"]),
        (lambda handler: None, ["closed connection"]),
    ],
)
def test_nonsense_is_refused_at_once_and_leaves_nothing(site, answer, parts):
    site.server.answers = [answer]
    refused(site, site.server.server_port, *parts)
    assert site.server.asked == [None]
    assert (site.root / "VOCtrainval_11-May-2012.tar.part").stat().st_size == 0


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (respond(bytes(5000)), "5000 bytes"),
        (respond(b"gone", code=404, ranges=False), "404"),
        (later, "from 1500 on, asked for those from 1000 on"),
    ],
)
def test_nonsense_on_resuming_is_refused_at_once(site, answer, part):
    site.server.answers = [respond(site.content, stop=1000), answer]
    refused(site, part)
    assert site.server.asked == [None, "bytes=1000-"]


def test_more_than_the_archive_is_cut_off(site):
    site.root.mkdir()
    (site.root / "VOCtrainval_11-May-2012.tar.part").write_bytes(2 * site.content)
    site.server.answers = [respond(site.content + b"more", length=False)]
    Voc2012Seg().prepare()
    assert site.server.asked == [None]


def test_a_wrong_checksum_deletes_what_came(site):
    changed = bytearray(site.content)
    changed[600] ^= 1
    site.server.answers = [respond(bytes(changed))]
    left = refused(site, hashlib.sha256(changed).hexdigest(), hashlib.sha256(site.content).hexdigest())
    assert left == {".VOCtrainval_11-May-2012.tar.lock"}


def test_without_a_network_it_says_so_at_once(site, monkeypatch):
    monkeypatch.setattr(download, "_PAUSES", (60,))
    monkeypatch.setattr(Voc2012Seg, "archive", replace(Voc2012Seg.archive, url="http://127.0.0.1:9/VOC.tar"))
    refused(site, "127.0.0.1:9", "refused", site.root / "VOC.tar")


def test_the_disk_is_checked_before_the_first_byte(site, monkeypatch):
    free = namedtuple("usage", "total used free")(0, 0, 2 * len(site.content) - 1001)
    monkeypatch.setattr("shutil.disk_usage", lambda _: free)
    refused(site, "GiB", "REPRO_DATA")
    assert site.server.asked == []
    (site.root / "VOCtrainval_11-May-2012.tar.part").write_bytes(site.content[:1001])  # now the rest fits
    Voc2012Seg().prepare()


def test_a_disk_that_fills_up(site):
    site.root.mkdir()
    (site.root / "VOCtrainval_11-May-2012.tar.part").symlink_to("/dev/full")
    refused(site, site.root, "No space left", "make room")


def test_a_data_folder_that_cannot_be(site):
    site.root.write_bytes(b"")
    with pytest.raises(NoDataError) as error:
        Voc2012Seg().prepare()
    one_line(error, site.root, "REPRO_DATA")


def test_an_archive_put_there_by_hand_is_used_or_named(site):
    target = site.root / "VOCtrainval_11-May-2012.tar"
    site.root.mkdir()
    target.write_bytes(site.content[:-1])
    refused(site, target, f"{len(site.content) - 1} bytes", "delete it")
    target.write_bytes(site.content)
    Voc2012Seg().prepare()
    assert site.server.asked == []


def test_processes_that_start_together_fetch_once(site):
    threads = [threading.Thread(target=Voc2012Seg().prepare) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert site.server.asked == [None]
    assert Voc2012Seg().size("train") == 2
