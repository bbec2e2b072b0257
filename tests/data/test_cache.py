"""From samples to records: fitting and caching."""

import numpy as np
import pytest

from repro.data.base import VOID, Sample
from repro.data.cache import Mapped, OnDemand, centre_crop, decoded, fit_scale, letterbox
from repro.data.shapes import Shapes
from repro.errors import ReproError


@pytest.fixture
def shapes():
    return Shapes(image_size=(40, 56), train_size=10, val_size=2, test_size=3)


def test_letterbox_keeps_the_aspect_and_pads_with_void():
    image = np.full((20, 40, 3), 200, "uint8")
    semantic = np.full((20, 40), 7, "uint8")
    fields = letterbox(Sample("a", image, semantic=semantic), (32, 32))
    assert fields["valid_size"].tolist() == [16, 32]
    assert (fields["semantic"][:16] == 7).all()
    assert (fields["semantic"][16:] == VOID).all()
    assert (fields["image"][:16] == 200).all()


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1), (37, 53)])
def test_fit_scale_never_leaves_the_canvas_nor_vanishes(size):
    height, width = fit_scale(size, (30, 40))
    assert 1 <= height <= 30
    assert 1 <= width <= 40
    assert height == 30 or width == 40


def test_centre_crop_takes_the_middle():
    image = np.zeros((10, 30, 3), "uint8")
    image[:, 10:20] = 255
    fields = centre_crop(Sample("a", image, label=3), (10, 10))
    assert (fields["image"] == 255).all()
    assert fields["label"] == 3


def test_mapped_and_on_demand_records_are_the_same(shapes, monkeypatch, tmp_path):
    mapped = decoded(shapes, "train", (32, 32), "segmentation")
    monkeypatch.setenv("REPRO_CACHE_GIB", "0.000001")
    on_demand = decoded(shapes, "train", (32, 32), "segmentation", limit=4)
    assert isinstance(mapped, Mapped)
    assert isinstance(on_demand, OnDemand)
    assert (len(mapped), len(on_demand)) == (10, 4)
    for index in range(4):
        assert mapped[index].keys() == on_demand[index].keys()
        assert all(np.array_equal(mapped[index][key], on_demand[index][key]) for key in mapped[index])
    assert [p.name[0] for p in (tmp_path / "runs" / "cache").iterdir()] == ["s"]  # no temporary folder is left


def test_the_cache_tells_data_apart(shapes):
    other = Shapes(image_size=(40, 56), train_size=10, val_size=2, test_size=3, seed=1)
    first, second = (decoded(dataset, "train", (32, 32), "segmentation")[0]["image"] for dataset in (shapes, other))
    assert not np.array_equal(first, second)


def test_a_cache_that_was_cut_short_is_made_again(shapes, monkeypatch):
    real = Shapes.sample

    def breaks(self, split, index):
        if index == 5:
            raise ReproError("image 5 is damaged")
        return real(self, split, index)

    monkeypatch.setattr(Shapes, "sample", breaks)
    with pytest.raises(ReproError, match="image 5"):
        decoded(shapes, "train", (32, 32), "segmentation")
    monkeypatch.setattr(Shapes, "sample", real)
    assert len(decoded(shapes, "train", (32, 32), "segmentation")) == 10


def test_a_full_disk_is_one_line(shapes, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10})())
    with pytest.raises(ReproError, match="REPRO_CACHE"):
        decoded(shapes, "train", (32, 32), "segmentation")
