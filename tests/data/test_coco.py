"""COCO from a few small files, with pycocotools as the oracle, and every way to damage them."""

import contextlib
import hashlib
import io
import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from repro.data import coco
from repro.data.catalog import open_dataset
from repro.data.coco import CATEGORY_IDS, CLASSES, Coco2017
from repro.errors import NoDataError, ReproError
from tests.support.coco_files import CATEGORIES, OBJECTS, PHOTO, TRIANGLE, instances, picture, thing
from tests.support.messages import one_line


@pytest.fixture
def folder(tmp_path):
    """A COCO whose val2017 has the images 25, 139 and 397, of which the last is empty; train2017 has image 9."""
    root = tmp_path / "data" / "coco"
    (root / "annotations").mkdir(parents=True)
    for part, content in (("val2017", instances()), ("train2017", instances([thing(1, image=9)], [9]))):
        (root / part).mkdir()
        (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
        for image in content["images"]:
            Image.fromarray(PHOTO).save(root / part / image["file_name"], "JPEG", quality=95)
    return root


def rewrite(folder, content):
    path = folder / "annotations" / "instances_val2017.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def test_samples(folder):
    data = open_dataset("coco2017")
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [1, 3]
    samples = [data.sample("val", index) for index in range(3)]
    assert [sample.image_id for sample in samples] == ["25", "139", "397"]
    sample = samples[1]
    np.testing.assert_array_equal(sample.image, np.array(Image.open(folder / "val2017" / "000000000139.jpg")))
    expected = np.array([(0, 0, 15.9, 11.7), (2.5, 1, 10, 9.5), (1, 1, 3, 10)], np.float32)
    np.testing.assert_array_equal(sample.boxes, expected)
    assert [CLASSES[label] for label in sample.classes] == ["toothbrush", "dog", "person"]
    assert sample.crowd.tolist() == [False, False, True]
    assert [each.dtype for each in (sample.boxes, sample.classes, sample.crowd)] == [np.float32, np.int32, bool]
    assert sample.difficult is sample.truncated is sample.label is None
    empty = samples[2]
    assert empty.boxes.shape == (0, 4)
    assert empty.masks.shape == (0, 12, 16)
    assert empty.classes.shape == empty.crowd.shape == (0,)
    assert [each.dtype for each in (empty.boxes, empty.classes, empty.crowd, empty.masks)][1:] == [np.int32, bool, bool]


def test_masks_and_classes_are_those_of_pycocotools(folder):
    with contextlib.redirect_stdout(io.StringIO()):
        oracle = COCO(folder / "annotations" / "instances_val2017.json")
    data = Coco2017()
    for index in range(2):
        sample = data.sample("val", index)
        found = sorted(oracle.loadAnns(oracle.getAnnIds([int(sample.image_id)])), key=lambda each: each["id"])
        assert len(found) == len(sample.masks) > 0
        for mask, label, each in zip(sample.masks, sample.classes, found, strict=True):
            np.testing.assert_array_equal(mask, oracle.annToMask(each).astype(bool))
            assert mask.any()
            assert CATEGORY_IDS[label] == each["category_id"]
            assert oracle.loadCats([CATEGORY_IDS[label]])[0]["name"] == CLASSES[label]


def test_category_ids_leave_the_gaps_of_the_release():
    assert len(CATEGORY_IDS) == len(set(CLASSES)) == 80
    named = dict(zip(CATEGORY_IDS, CLASSES, strict=True))
    known = {1: "person", 11: "fire hydrant", 13: "stop sign", 25: "giraffe", 27: "backpack", 28: "umbrella"}
    known |= {31: "handbag", 44: "bottle", 46: "wine glass", 65: "bed", 67: "dining table", 70: "toilet", 72: "tv"}
    known |= {82: "refrigerator", 84: "book", 90: "toothbrush"}
    assert {number: named[number] for number in known} == known


def test_a_loader_in_a_worker_reads_its_annotations_itself(folder):
    data = Coco2017()
    data.prepare()
    content = pickle.dumps(data)
    assert len(content) < 2000
    np.testing.assert_array_equal(pickle.loads(content).sample("val", 1).boxes, data.sample("val", 1).boxes)


def test_rounding_is_clipped_and_what_is_flat_is_left_out(folder):
    flat = thing(918, box=(9.65, 8.33, 1.03, 0.0), mask=[[9.65, 8.33, 9.65, 8.33, 10.68, 8.33, 10.68, 8.33]])
    thin = thing(919, box=(9.65, 8.33, 0, 2.0))
    rewrite(folder, instances([flat, thin, thing(920, box=(-0.5, 1, 17.25, 11.5))]))
    sample = Coco2017().sample("val", 1)
    np.testing.assert_array_equal(sample.boxes, [(0, 1, 16, 12)])
    assert len(sample.masks) == len(sample.classes) == len(sample.crowd) == 1


def compressed(mask):
    """Run lengths as text, by pycocotools."""
    return coco_mask.encode(np.asfortranarray(mask, np.uint8))["counts"].decode()


def masks_of(folder, *segmentations):
    """The masks that objects of image 139 have, each with a box that fits any."""
    objects = [thing(number, box=(0, 0, 16, 12), mask=each) for number, each in enumerate(segmentations, 1)]
    rewrite(folder, instances(objects))
    sample = Coco2017().sample("val", 1)
    assert len(sample.boxes) == len(sample.classes) == len(sample.crowd) == len(sample.masks)
    return sample.masks


def test_run_lengths_as_numbers_and_as_text_are_those_of_pycocotools(folder):
    rng = np.random.default_rng(3)
    noise = [rng.random((12, 16)) < share for share in (0.02, 0.5, 0.98)]
    full, corner = np.ones((12, 16), bool), np.zeros((12, 16), bool)
    corner[0, 0] = corner[-1, -1] = True
    masks = [*noise, full, corner]
    as_text = [{"size": [12, 16], "counts": compressed(mask)} for mask in masks]
    flat = [np.flatnonzero(np.diff(mask.T.ravel().astype(int), prepend=0, append=1 - mask[-1, -1])) for mask in masks]
    as_numbers = [{"size": [12, 16], "counts": np.diff(cuts, prepend=0).tolist()} for cuts in flat]
    np.testing.assert_array_equal(masks_of(folder, *as_text), masks)
    np.testing.assert_array_equal(masks_of(folder, *as_numbers), masks)
    np.testing.assert_array_equal(coco_mask.decode(as_text).transpose(2, 0, 1), masks)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.one_of(st.text(max_size=12), st.text([chr(code) for code in range(40, 120)], max_size=12)))
def test_no_text_of_run_lengths_leads_beyond_the_image(folder, counts):
    rewrite(folder, instances([thing(6, box=(0, 0, 16, 12), mask={"size": [12, 16], "counts": counts})]))
    try:
        shape, message = Coco2017().sample("val", 1).masks.shape, "annotation 6 of"
    except ReproError as error:
        shape, message = (0, 12, 16), str(error)
    assert shape in [(0, 12, 16), (1, 12, 16)]
    assert "annotation 6 of" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "polygon",
    [
        [-5, -4, 5, -4, 5, 6, -5, 6],
        [10, 5, 30, 5, 30, 20, 10, 20],
        [-9, 3, 30, 3, 30, 7, -9, 7],
        [-20, -20, 30, -20, 30, 20, -20, 20],
        [3, -7, 11, 6, 3, 19],
    ],
)
def test_a_polygon_is_cut_at_the_border_as_by_pycocotools(folder, polygon):
    (mask,) = masks_of(folder, [polygon])
    expected = coco_mask.decode(coco_mask.frPyObjects([polygon], 12, 16))[..., 0].astype(bool)
    np.testing.assert_array_equal(mask, expected)
    rows, columns = np.nonzero(mask)
    assert rows.min() == 0 or columns.min() == 0 or rows.max() == 11 or columns.max() == 15
    # the same shape in a larger image, seen through the smaller one: off by what rounds a border of half pixels
    shifted = (np.array(polygon, float).reshape(-1, 2) + 40).ravel().tolist()
    larger = coco_mask.decode(coco_mask.frPyObjects([shifted], 92, 96))[40:52, 40:56, 0].astype(bool)
    assert (mask != larger).sum() <= 6


def test_an_object_whose_mask_has_no_pixel_is_left_out(folder):
    beside = [[-9, 2, -3, 2, -3, 8, -9, 8]], [[20, 2, 25, 2, 25, 8, 20, 8]], [[2, -9, 9, -9, 9, -2, 2, -2]]
    below = [[2, 14, 9, 14, 9, 20, 2, 20]]
    sliver = [[3.1, 2.1, 3.2, 2.1, 3.2, 2.2, 3.1, 2.2]]
    nothing = {"size": [12, 16], "counts": [192]}, {"size": [12, 16], "counts": compressed(np.zeros((12, 16)))}
    masks = masks_of(folder, *beside, below, sliver, *nothing, TRIANGLE)
    assert len(masks) == 1
    assert masks.any()
    partly = masks_of(folder, [TRIANGLE[0], beside[0][0]])
    np.testing.assert_array_equal(partly, masks)


def test_exif_orientation_does_not_turn_an_image_away_from_its_objects(folder):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(PHOTO).save(folder / "val2017" / "000000000025.jpg", exif=exif)
    assert Coco2017().sample("val", 0).image.shape == (12, 16, 3)


def test_a_grey_image_and_a_png_named_jpg_are_read(folder):
    Image.fromarray(PHOTO).save(folder / "val2017" / "000000000025.jpg", "PNG")  # as the official 000000320612.jpg
    Image.fromarray(PHOTO[..., 0]).save(folder / "val2017" / "000000000139.jpg")
    np.testing.assert_array_equal(Coco2017().sample("val", 0).image, PHOTO)
    assert Coco2017().sample("val", 1).image.shape == (12, 16, 3)


def test_fingerprint_follows_annotations_and_images(folder):
    fingerprints = [Coco2017().fingerprint(split) for split in ("train", "val")]
    assert Coco2017().fingerprint("val") == fingerprints[1]
    rewrite(folder, instances([*OBJECTS[:3], thing(5, image=25, box=(14, 11, 1, 1))]))
    fingerprints.append(Coco2017().fingerprint("val"))
    Image.fromarray(PHOTO).save(folder / "val2017" / "000000000025.jpg", quality=50)
    fingerprints.append(Coco2017().fingerprint("val"))
    assert len(set(fingerprints)) == 4


def test_official_means_the_published_counts(folder, monkeypatch):
    assert Coco2017().official("train") == (False, "1 of 118287 images; 1 of 860001 annotations")
    monkeypatch.setattr(Coco2017, "counts", {"val": (3, 5)})
    assert Coco2017().official("val") == (False, "4 of 5 annotations")
    monkeypatch.setattr(Coco2017, "counts", {"val": (3, 4)})
    assert Coco2017().official("val") == (True, "")


def without(key, content=None):
    return {name: value for name, value in (content or instances()).items() if name != key}


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (b"", ["truncated"]),
        (json.dumps(instances())[:-90].encode(), ["truncated"]),
        (b"<html>", ["malformed"]),
        (b"\xff\xfe{}", ["malformed"]),
        (b"[" * 100_000, []),
        ([], ["object"]),
        (without("images"), ["images"]),
        (without("annotations"), ["annotations"]),
        (without("categories"), ["categories"]),
        (instances([without("bbox", thing(1))]), ["bbox", "annotations[0]"]),
        (instances([thing(1), without("image_id", thing(2))]), ["image_id", "annotations[1]"]),
        (instances([without("segmentation", thing(1))]), ["segmentation"]),
        (instances([thing(1, box=(1, 2, 3))]), ["bbox"]),
        (instances([thing(1, box=(1, 2, "3", 4))]), ["bbox"]),
        (instances([thing(1, box=(1, 2, float("nan"), 4))]), ["malformed"]),
        (instances([thing(1, crowd=2)]), ["iscrowd"]),
        (instances([thing("a")]), ["annotations[0].id"]),
        (instances(images=()), ["names no image"]),
        (instances(images=(139, 25, 139)), ["2 images with the id 139"]),
        (instances([thing(4), thing(6), thing(4)]), ["2 annotations with the id 4"]),
        (instances(categories=[*CATEGORIES, CATEGORIES[7]]), ["2 categories with the id 8"]),
        (instances([thing(4, image=7)]), ["annotation 4", "image 7"]),
        (instances([thing(4, category=12)]), ["annotation 4", "category 12"]),
        (instances([thing(4, category=2)], categories=CATEGORIES[:1]), ["annotation 4", "category 2"]),
        (instances(categories=[{"id": 12, "name": "street sign"}]), ["category 12", "street sign", "no category"]),
        (instances(categories=[{"id": 5, "name": "plane"}]), ["category 5", "'plane'", "airplane"]),
        (instances(images=(139, 25, 1, 2)), ["000000000001.jpg", "like 1 more", "val2017.zip"]),
        (instances([]) | {"images": [picture(3) | {"file_name": "../val2017/x.jpg"}]}, ["image 3", "../val"]),
    ],
)
def test_bad_annotation_files_are_named(folder, content, parts):
    path = rewrite(folder, content)
    with pytest.raises(ReproError) as error:
        Coco2017().prepare()
    one_line(error, path, *parts)
    assert not isinstance(error.value, NoDataError)


@pytest.mark.parametrize(
    ("each", "part"),
    [
        (thing(6, box=(2, 1, 15.5, 3)), "box (2, 1, 17.5, 4), which is outside its image of 12x16"),
        (thing(6, box=(-2, 1, 5, 3)), "outside"),
        (thing(6, box=(2, 1, 3, 1e12)), "outside"),
        (thing(6, box=(5, 1, -3, 3)), "(5, 1, 2, 4), which has no area"),
        (thing(6, box=(5, 8, 3, -3)), "no area"),
        (thing(6, box=(16.2, 1, 0.5, 3)), "no area"),
        (thing(6, mask=None), "no polygons or runs"),
        (thing(6, mask="03:OG"), "no polygons or runs"),
        (thing(6, mask=[[1, 2, "3", 4, 5, 6]]), "no polygons or runs"),
        (thing(6, mask={"size": [12, 16]}), "counts"),
        (thing(6, mask=[]), "without a polygon"),
        (thing(6, mask=[TRIANGLE[0], [1, 1, 5, 5]]), "polygon (1, 1, 5, 5)"),
        (thing(6, mask=[[*TRIANGLE[0], 3]]), "polygon (2.5, 1, 10, 1.25, 6, 9.5, ...)"),
        (thing(6, mask=[[1, 1, 1e30, 1, 5, 5]]), "polygon (1, 1, 1e+30"),
        (thing(6, mask={"counts": [5, 5], "size": [12, 16]}), "10 pixels in 12x16"),
        (thing(6, mask={"counts": [5, 500], "size": [12, 16]}), "505 pixels"),
        (thing(6, mask={"counts": [100, 92], "size": [16, 12]}), "192 pixels in 16x12"),
        (thing(6, mask={"counts": [-8, 200], "size": [12, 16]}), "no polygons or runs"),
        (thing(6, mask={"counts": [2**70], "size": [12, 16]}), "no polygons or runs"),
        (thing(6, mask={"counts": [], "size": [12, 16]}), "0 pixels"),
        (thing(6, mask={"counts": "03:OG2001", "size": [12, 16]}), "runs of"),
        (thing(6, mask={"counts": "q", "size": [12, 16]}), "no compressed run lengths"),
        (thing(6, mask={"counts": "", "size": [12, 16]}), "no compressed run lengths"),
        (thing(6, mask={"counts": compressed(PHOTO[..., 0] > 99), "size": [16, 12]}), "192 pixels in 16x12"),
        (thing(6, mask={"counts": compressed(PHOTO[..., 0] > 99)[:-1], "size": [12, 16]}), "runs of"),
        (thing(6, mask={"counts": compressed(np.ones((12, 17))), "size": [12, 16]}), "runs of 204 pixels"),
        (thing(6, mask={"counts": compressed(PHOTO[..., 0] > 99) + "\u00e9", "size": [12, 16]}), "no compressed"),
        (thing(6, mask=[[1, 1, 5, 5]]), "polygon (1, 1, 5, 5)"),
        (thing(6, mask=[[]]), "polygon ()"),
        (thing(6, mask=[[1, 1]]), "polygon (1, 1)"),
    ],
)
def test_bad_objects_are_named(folder, each, part):
    path = rewrite(folder, instances([thing(2), each]))
    data = Coco2017()
    data.prepare()
    with pytest.raises(ReproError) as error:
        data.sample("val", 1)
    one_line(error, f"annotation 6 of {path}", part)


@pytest.mark.parametrize(
    ("damage", "part"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:300]), "damaged"),
        (lambda path: path.write_bytes(b"<html>"), "not an image"),
        (lambda path: Image.fromarray(PHOTO[:11]).save(path), "is 11x16, in"),
    ],
)
def test_bad_images_are_named(folder, damage, part):
    path = folder / "val2017" / "000000000025.jpg"
    damage(path)
    with pytest.raises(ReproError) as error:
        Coco2017().sample("val", 0)
    one_line(error, path, part)


def test_without_the_data(folder, tmp_path):
    with pytest.raises(ReproError) as error:
        Coco2017().size("test")
    one_line(error, "split of coco2017")
    (folder / "annotations" / "instances_val2017.json").unlink()
    with pytest.raises(ReproError) as error:
        Coco2017().prepare()
    one_line(error, "instances_val2017.json")
    (folder / "train2017").rename(tmp_path / "elsewhere")
    with pytest.raises(NoDataError) as error:
        Coco2017().size("train")
    one_line(error, folder / "train2017", "repro data coco2017")
    folder.rename(tmp_path / "gone")
    with pytest.raises(NoDataError) as error:
        Coco2017().size("val")
    one_line(error, folder, "repro data coco2017")


def test_archives_put_there_by_hand_are_unpacked(folder, tmp_path, monkeypatch):
    root = tmp_path / "fresh"
    (root / "coco").mkdir(parents=True)
    monkeypatch.setenv("REPRO_DATA", str(root))
    archives = {}
    (folder / "annotations" / "captions_val2017.json").write_text("{}")
    for part, archive in coco.ARCHIVES.items():
        packed = root / "coco" / archive.filename
        with zipfile.ZipFile(packed, "w") as file:
            for path in sorted((folder / part).iterdir()):
                file.write(path, f"{part}/{path.name}")
        size = packed.stat().st_size
        checksum = f"sha256:{hashlib.sha256(packed.read_bytes()).hexdigest()}"
        archives[part] = replace(archive, size=size, unpacked=size, checksum=checksum)
    monkeypatch.setattr(coco, "ARCHIVES", archives)
    data = Coco2017()
    data.prepare()
    assert [data.size(split) for split in data.info.splits] == [1, 3]
    names = sorted(path.name for path in (root / "coco" / "annotations").iterdir())
    assert names == ["instances_train2017.json", "instances_val2017.json"]
