"""The cache of proposals: what it gives, what it computes again, and the files it refuses."""

import dataclasses

import numpy as np
import pytest

from repro import paths
from repro.data.shapes import Shapes
from repro.errors import ReproError
from repro.proposals import cache
from repro.proposals.cache import proposals_of
from repro.proposals.selective_search import selective_search
from tests.support.messages import one_line

OPTIONS = {"width": 48, "min_side": 8, "workers": 1}


def shapes(**options):
    return Shapes(**{"image_size": (40, 48), "train_size": 5, "val_size": 3, **options})


def files():
    return sorted(path.name for path in paths.cache_dir().glob("*")) if paths.cache_dir().exists() else []


def the_file():
    (name,) = files()
    return paths.cache_dir() / name


@pytest.fixture
def searched(monkeypatch):
    """The number of images searched so far, as a list of their seeds."""
    seeds = []

    def counted(image, **options):
        seeds.append(options["seed"])
        return selective_search(image, **options)

    monkeypatch.setattr(cache, "selective_search", counted)
    return seeds


def same(proposals, others):
    assert len(proposals) == len(others)
    for boxes, other in zip(proposals, others, strict=True):
        np.testing.assert_array_equal(boxes, other)


def test_proposals_are_those_of_every_image(searched):
    dataset, heard = shapes(), []
    proposals = proposals_of(dataset, "train", progress=lambda *state: heard.append(state), **OPTIONS)
    same(proposals, [selective_search(dataset.sample("train", i).image, width=48, min_side=8) for i in range(5)])
    assert all(boxes.dtype == np.float32 for boxes in proposals)
    assert heard == [(i, 5) for i in range(1, 6)]
    seconds = [proposals.seconds(i) for i in range(5)]
    assert min(seconds) > 0

    again = proposals_of(dataset, "train", progress=lambda *state: heard.append(state), **OPTIONS)
    same(again, list(proposals))
    assert [again.seconds(i) for i in range(5)] == seconds
    assert (len(searched), len(heard)) == (5, 5)


def test_processes_find_the_same_boxes():
    one = list(proposals_of(shapes(), "train", **OPTIONS))
    the_file().unlink()
    same(proposals_of(shapes(), "train", **{**OPTIONS, "workers": 2}), one)


@pytest.mark.parametrize(
    "change",
    [{"mode": "single"}, {"max_boxes": 7}, {"seed": 1}, {"width": 60}, {"min_side": 4}, {"split": "val"}, {"data": 1}],
    ids=str,
)
def test_what_changes_the_boxes_has_a_file_of_its_own(change, searched):
    proposals_of(shapes(), "val", limit=1, **OPTIONS)
    split, data = change.get("split", "train"), shapes(seed=change.get("data", 0))
    options = {name: value for name, value in change.items() if name not in ("split", "data")}
    if "split" not in change:
        proposals_of(shapes(), "train", limit=1, **OPTIONS)
    before = len(searched)
    proposals_of(data, split, limit=1, **{**OPTIONS, **options})
    assert len(searched) - before == (0 if change == {"split": "val"} else 1)
    assert len(files()) == len(searched)


def test_more_images_are_added_to_those_there(searched):
    dataset = shapes()
    two = proposals_of(dataset, "train", limit=2, **OPTIONS)
    assert (len(two), len(searched)) == (2, 2)
    every = proposals_of(dataset, "train", **OPTIONS)
    assert (len(every), len(searched)) == (5, 5)
    same(two, list(every)[:2])
    same(proposals_of(dataset, "train", limit=3, **OPTIONS), list(every)[:3])
    assert len(proposals_of(dataset, "train", limit=99, **OPTIONS)) == 5
    assert len(searched) == 5
    the_file()


def interrupt(dataset, after):
    """Compute the split, but fail at the image after so many."""

    def progress(done, total):
        if done == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        proposals_of(dataset, "train", progress=progress, **OPTIONS)


def test_interrupted_work_goes_on(searched, monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 2)
    dataset = shapes(train_size=9)
    interrupt(dataset, after=6)  # two files of two images; the last two are lost
    assert (len(searched), len(files())) == (6, 2)
    interrupt(dataset, after=7)
    assert (len(searched), len(files())) == (9, 3)
    proposals = proposals_of(dataset, "train", **OPTIONS)
    assert len(searched) == 12
    same(proposals, [selective_search(dataset.sample("train", i).image, width=48, min_side=8) for i in range(9)])
    the_file()


def damage(how, path):
    content = path.read_bytes()
    middle = len(content) // 2
    damaged = {
        "truncated": content[:-100],
        "half": content[:middle],
        "empty": b"",
        "flipped": content[:middle] + bytes([content[middle] ^ 255]) + content[middle + 1 :],
        "text": b"not an archive",
    }
    path.write_bytes(damaged[how])


@pytest.mark.parametrize("how", ["truncated", "half", "empty", "flipped", "text"])
def test_damaged_file_is_refused(how):
    proposals_of(shapes(), "train", **OPTIONS)
    damage(how, the_file())
    with pytest.raises(ReproError) as error:
        proposals_of(shapes(), "train", **OPTIONS)
    one_line(error, the_file(), "damaged", "delete it")


def test_damaged_interrupted_work_is_refused(monkeypatch):
    monkeypatch.setattr(cache, "SHARD", 2)
    interrupt(shapes(), after=3)
    damage("half", the_file())
    with pytest.raises(ReproError) as error:
        proposals_of(shapes(), "train", **OPTIONS)
    one_line(error, the_file(), "delete it")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("boxes", lambda boxes: boxes[:-1]),
        ("boxes", lambda boxes: boxes.astype(np.float64)),
        ("counts", lambda counts: counts[:-1]),
        ("counts", lambda counts: counts * [1, 1, 1, 1, -1]),
        ("seconds", lambda seconds: seconds[:-1]),
        ("header", lambda header: np.array("[1]")),
        ("header", lambda header: np.array([{"a pickle": 1}], object)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(name, change):
    proposals_of(shapes(), "train", **OPTIONS)
    path = the_file()
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **{**arrays, name: change(arrays[name])})
    with pytest.raises(ReproError) as error:
        proposals_of(shapes(), "train", **OPTIONS)
    one_line(error, path, "damaged", "delete it")


def test_file_of_other_images_is_refused():
    proposals_of(shapes(), "train", **OPTIONS)
    first = the_file()
    content = first.read_bytes()
    first.unlink()
    proposals_of(shapes(seed=1), "train", **OPTIONS)
    second = the_file()
    second.write_bytes(content)
    with pytest.raises(ReproError) as error:
        proposals_of(shapes(seed=1), "train", **OPTIONS)
    one_line(error, second, "another dataset_options", "delete it")


class Renamed(Shapes):
    """Another data set, or another copy, with the scenes of shapes."""

    def __init__(self, name="shapes", content="", **options):
        super().__init__(**options)
        self.info = dataclasses.replace(Shapes.info, name=name)
        self._content = content

    def fingerprint(self, split):
        return self._content or super().fingerprint(split)


@pytest.mark.parametrize(
    ("other", "key"), [({"name": "bccd"}, "dataset"), ({"content": "0123456789abcdef"}, "fingerprint")]
)
def test_file_of_another_data_set_is_refused(other, key):
    options = shapes().options
    proposals_of(shapes(), "train", **OPTIONS)
    content = the_file().read_bytes()
    the_file().unlink()
    proposals_of(Renamed(**other, **options), "train", **OPTIONS)
    path = the_file()
    path.write_bytes(content)
    with pytest.raises(ReproError) as error:
        proposals_of(Renamed(**other, **options), "train", **OPTIONS)
    if key == "fingerprint":
        one_line(error, path, "another fingerprint", "0123456789abcdef")
    else:
        one_line(error, path, "another dataset:", "bccd")


def test_bad_requests():
    dataset = shapes()
    for options, part in (({"limit": 0}, "limit of 0"), ({"mode": "fats"}, "fats"), ({"max_boxes": 0}, "max_boxes 0")):
        with pytest.raises(ReproError) as error:
            proposals_of(dataset, "train", **{**OPTIONS, **options})
        one_line(error, part)
    with pytest.raises(ReproError) as error:
        proposals_of(dataset, "trian", **OPTIONS)
    one_line(error, "trian")
    dataset.size = lambda split: 0
    with pytest.raises(ReproError) as error:
        proposals_of(dataset, "train", **OPTIONS)
    one_line(error, "split train of shapes is empty")
    assert files() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_image_that_cannot_be_searched_is_named(workers):
    dataset = shapes()
    sample = dataset.sample

    def damaged(split, index):
        found = sample(split, index)
        return found if index != 2 else dataclasses.replace(found, image=found.image[:, :, 0])

    dataset.sample = damaged
    with pytest.raises(ReproError) as error:
        proposals_of(dataset, "train", **{**OPTIONS, "workers": workers})
    one_line(error, "image 2 of shapes/train", "uint8 [40, 48]")
    assert files() == []
