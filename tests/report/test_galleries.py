"""Galleries: who shares one, in which order, and what is painted where."""

import numpy as np
import pytest
from PIL import Image

from repro.data.base import VOID, Info, Sample
from repro.drawing import overlays
from repro.drawing.palette import voc_colormap
from repro.errors import NoDataError, ReproError
from repro.records.result import Artifact, Dataset
from repro.records.samples import sample_indices
from repro.report import galleries, tables
from tests.support.results import result

PALETTE = ((200, 0, 0), (0, 0, 200))
CANVAS = (40, 60)
COUNT = 9


class Film:
    """Grey images [40,40,1], whose class changes with the index, a row of void at the top."""

    info = Info(
        name="film", title="Film", source="-", version="1", licence="-", size="-", splits=("test",),
        tasks=("segmentation",), semantic_classes=("off", "on"), palette=PALETTE, channels=1,
    )  # fmt: skip

    def __init__(self, **options):
        self.options = options

    def prepare(self):
        pass

    def size(self, split):
        return COUNT

    def sample(self, split, index):
        semantic = np.full((40, 40), index % 2, np.uint8)
        semantic[0] = VOID
        return Sample(f"{index}", np.full((40, 40, 1), 10 * index, np.uint8), semantic=semantic)


@pytest.fixture
def film(monkeypatch):
    monkeypatch.setattr(galleries, "open_dataset", lambda name, **options: Film(**options))


def kept(folder, run_id, labels=1, model="fcn8s", name="film", fingerprint="a" * 16, size=CANVAS, shape=None, **fields):
    """A training result whose predictions [count,H,W] (one label, padding void) lie in a folder."""
    height, width = shape or CANVAS
    maps = np.full((len(sample_indices(COUNT)), height, width), labels, np.uint8)
    maps[:, :, 40:] = VOID
    config = {"kind": "train", "network": {}, "data": {"name": name, "size": size}, "label": fields.pop("label", "")}
    base = {
        "experiment": f"{name}-{model}", "model": model, "input_size": CANVAS, "config": config,
        "dataset": Dataset(name=name, version="1", split="test", fingerprint=fingerprint, official=True),
        "artifacts": {"samples": Artifact(file=f"{run_id}-samples.png", sha256="0" * 64)},
    }  # fmt: skip
    run = result(run_id, **(base | fields))
    (folder / run.experiment).mkdir(exist_ok=True)
    Image.fromarray(np.concatenate(list(maps), axis=1)).save(folder / run.experiment / f"{run_id}-samples.png")
    return run


def written(results, folder):
    """The names of the private galleries that `repro tables` writes for results, into a folder below."""

    class Kind:
        TABLES = ()

        @staticmethod
        def sections(results):
            return {}

        @staticmethod
        def figures(results):
            return galleries.semantic_pictures(results, folder)

    paths = tables.write_tables([Kind], results, folder / "tables", folder / "private", table_of=lambda result: "")
    return [path.name for path in paths if path.parent.name == "private"]


@pytest.fixture
def grids(monkeypatch):
    """What galleries hand to the grid: (rows, titles)."""
    calls = []

    def spy(rows, titles, **settings):
        calls.append((rows, titles))
        return overlays.grid(rows, titles, **settings)

    monkeypatch.setattr(galleries, "grid", spy)
    return calls


@pytest.mark.parametrize(("count", "indices"), [(9, [0, 2, 4, 6]), (233, [0, 58, 116, 174]), (2, [0, 1]), (0, [])])
def test_samples_lie_evenly_over_the_split(count, indices):
    assert sample_indices(count) == indices


def test_pictures_truth_and_predictions_belong_together(tmp_path, film, grids):
    (picture,) = galleries.semantic_pictures(
        [kept(tmp_path, "a"), kept(tmp_path, "u", labels=0, model="unet")], tmp_path
    ).values()
    sheet = picture.draw()
    ((rows, titles),) = grids
    assert titles == ["image", "truth", "fcn8s", "unet"]
    assert len(rows) == 4
    for index, (image, truth, fcn, unet) in zip(sample_indices(COUNT), rows, strict=True):
        assert image.shape == (*CANVAS, 3)
        assert (image[:, :40] == 10 * index).all()
        assert (truth[1:, :40] == PALETTE[index % 2]).all()
        assert (truth[0, :40] == voc_colormap()[VOID]).all()
        assert (fcn[:, :40] == PALETTE[1]).all()
        assert (unet[:, :40] == PALETTE[0]).all()
        assert all((shown[:, 40:] == galleries._PADDING).all() for shown in (image, truth, fcn, unet))
    # the legend names void and padding besides the classes: their swatches lie below the last row
    legend = sheet[-40:]
    for colour in (*PALETTE, voc_colormap()[VOID], galleries._PADDING):
        assert (legend == colour).all(axis=2).sum() > 100


def test_models_stand_in_the_order_of_the_registry_with_titles_of_their_own(tmp_path, film, grids):
    models = ("unet", "segnet", "fcn8s", "fcn32s", "fcn_googlenet")
    runs = [kept(tmp_path, f"r{i}", model=model) for i, model in enumerate(models)]
    runs.append(kept(tmp_path, "b", model="segnet", label="median frequency", experiment="film-segnet-balanced"))
    runs.append(kept(tmp_path, "old", model="unet", started="2025-01-01T00:00:00+00:00", labels=0))
    runs.append(kept(tmp_path, "seed", model="unet", seed=1, labels=0))
    (picture,) = galleries.semantic_pictures(runs, tmp_path).values()
    picture.draw()
    ((rows, titles),) = grids
    order = ["fcn32s", "fcn8s", "fcn_googlenet", "segnet", "segnet (median frequency)", "unet"]
    assert titles == ["image", "truth", *order]
    assert (rows[0][-1][:, :40] == PALETTE[1]).all(), "the newest run of the first seed"


def test_rows_without_a_label_are_told_apart_by_their_experiment(tmp_path, film):
    runs = [kept(tmp_path, "a"), kept(tmp_path, "b", experiment="film-narrow")]
    (picture,) = galleries.semantic_pictures(runs, tmp_path).values()
    assert [title for title, *_ in picture.data] == ["fcn8s, film-fcn8s", "fcn8s, film-narrow"]


def test_a_gallery_is_of_one_canvas_and_of_the_same_test_images(tmp_path):
    runs = [
        kept(tmp_path, "whole", size=None),
        kept(tmp_path, "tiles", model="unet", input_size=(20, 20)),
        kept(tmp_path, "other-canvas", model="segnet", size=(80, 80)),
        kept(tmp_path, "isbi", model="unet", name="isbi2012", fingerprint="b" * 16),
        kept(tmp_path, "fold2", model="unet", name="isbi2012", fingerprint="c" * 16, experiment="fold2"),
        kept(tmp_path, "failed", model="fcn32s", status="failed"),
        kept(tmp_path, "none", model="fcn16s", artifacts={}),
        kept(tmp_path, "evaluated", model="fcn16s", experiment="weights", kind="eval"),
    ]
    found = galleries.semantic_pictures(runs, tmp_path)
    assert {name: [title for title, *_ in picture.data] for name, picture in found.items()} == {
        "gallery_film_40x60.png": ["fcn8s", "unet"],
        "gallery_film_80x80.png": ["segnet"],
        "gallery_isbi2012_40x60_bbbbbbbb.png": ["unet"],
        "gallery_isbi2012_40x60_cccccccc.png": ["unet"],
    }


def test_many_models_are_dealt_to_several_galleries(tmp_path):
    runs = [kept(tmp_path, f"r{i}", experiment=f"film-{i}", label=f"{i}") for i in range(8)]
    found = galleries.semantic_pictures(runs, tmp_path)
    assert [len(found[name].data) for name in ("gallery_film_40x60.png", "gallery_film_40x60_2.png")] == [6, 2]


def test_only_generated_pictures_are_published(tmp_path, monkeypatch):
    runs = [kept(tmp_path, "a"), kept(tmp_path, "s", name="shapes")]
    pictures = galleries.semantic_pictures(runs, tmp_path)
    assert {name: picture.private for name, picture in pictures.items()} == {
        "gallery_shapes_40x60.png": False,
        "gallery_film_40x60.png": True,
    }

    def absent(name, **options):
        raise NoDataError("no film", "fetch it")

    monkeypatch.setattr(galleries, "open_dataset", absent)
    assert written(runs[:1], tmp_path) == []


def test_a_gallery_is_drawn_again_only_when_its_data_change(tmp_path, film):
    runs = [kept(tmp_path, "a")]
    assert written(runs, tmp_path) == ["gallery_film_40x60.png"]
    assert written(runs, tmp_path) == []


def test_lost_and_unfit_predictions_name_the_experiment(tmp_path, film):
    run = kept(tmp_path, "a", shape=(40, 50))
    with pytest.raises(ReproError, match=r"a-samples.png does not hold 4 label maps of 40x60\. .*film-fcn8s"):
        galleries.semantic_pictures([run], tmp_path)["gallery_film_40x60.png"].draw()
    (tmp_path / "film-fcn8s" / "a-samples.png").unlink()
    with pytest.raises(ReproError, match="missing or damaged"):
        galleries.semantic_pictures([run], tmp_path)["gallery_film_40x60.png"].draw()


@pytest.mark.parametrize(
    ("canvas", "cell"),
    [((64, 64), (256, 256)), ((180, 240), (180, 240)), ((512, 512), (280, 280)), ((1024, 2048), (140, 280))],
)
def test_cells_keep_the_aspect_and_a_readable_size(canvas, cell):
    assert galleries._cell(canvas) == cell
