"""Palettes, and the pictures of reports read pixel by pixel."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from repro.data.base import VOID, Info, Sample
from repro.data.camvid import CamVid
from repro.drawing import overlays
from repro.drawing.palette import colourise, voc_colormap
from repro.errors import ReproError
from tests.support.messages import one_line

CAMVID = CamVid.info.palette
DUBAI = ((60, 16, 152), (132, 41, 246), (110, 193, 228), (254, 221, 58), (226, 169, 41))
GREY = np.full((80, 100, 3), 90, np.uint8)


def reference_colour(label):
    """The loop of VOCcolormap.m: three bits of the label a step, from the highest colour bit down."""
    colour, rest = [0, 0, 0], label
    for step in range(8):
        for channel in range(3):
            colour[channel] |= (rest >> channel & 1) << (7 - step)
        rest >>= 3
    return colour


def test_voc_colours():
    colours = voc_colormap()
    assert colours.tolist() == [reference_colour(label) for label in range(256)]
    assert len(np.unique(colours, axis=0)) == 256
    assert colours[15].tolist() == [192, 128, 128]  # person
    assert colours[VOID].tolist() == [224, 224, 192]
    assert voc_colormap(21).shape == (21, 3)


@settings(deadline=None)
@given(st.data(), st.sampled_from([None, CAMVID]))
def test_labels_are_painted_in_their_colours(data, palette):
    classes = st.integers(0, 254 if palette is None else len(palette) - 1)
    shape = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    labels = data.draw(arrays(np.uint8, shape, elements=st.one_of(classes, st.just(VOID))))
    painted = colourise(labels, palette)
    assert painted.shape == (*shape, 3)
    known = voc_colormap().tolist() if palette is None else palette
    for label, colour in zip(labels.ravel(), painted.reshape(-1, 3).tolist(), strict=True):
        assert colour == list(voc_colormap()[VOID] if label == VOID else known[label])


def test_labels_of_no_class_are_refused():
    labels = np.zeros((3, 4), np.uint8)
    labels[0, 0] = 11
    with pytest.raises(ReproError) as error:
        colourise(labels, CAMVID)
    one_line(error, "label 11", "ends at 10")


def test_overlay_tints_regions_outlines_them_and_spares_void():
    labels = np.zeros((20, 30), np.uint8)
    labels[:, 10:20], labels[:, 20:] = 3, VOID
    drawn = overlays.overlay_mask(np.full((20, 30, 1), 100, np.uint8), labels, CAMVID, alpha=0.25)
    assert drawn[5, 2].tolist() == [107, 107, 107]
    assert drawn[5, 15].tolist() == [107, 91, 107]
    assert drawn[5, 9].tolist() == list(CAMVID[0])
    assert drawn[5, 10].tolist() == list(CAMVID[3])
    assert (drawn[:, 20:] == 100).all()


def test_boxes_are_half_open_and_keep_their_colour():
    palette = [(10, 200, 30), (200, 10, 30)]
    boxes = np.array([[20, 40, 60, 70]], np.float32)
    drawn = overlays.draw_boxes(GREY, boxes, np.array([1]), ["a", "b"], palette)
    rows, columns = np.nonzero((drawn == palette[1]).all(axis=2))
    below = rows >= 40
    assert (columns[below].min(), columns[below].max(), rows[below].max()) == (20, 59, 69)
    assert (drawn[45:65, 25:55] == 90).all()
    assert (rows < 40).any()  # the tag with the name
    scored = overlays.draw_boxes(GREY, boxes, np.array([1]), ["a", "b"], palette, np.array([0.5]))
    assert (scored[:40] != drawn[:40]).any()
    np.testing.assert_array_equal(scored[42:], drawn[42:])


@settings(deadline=None, max_examples=40)
@given(arrays(np.float32, (4, 4), elements=st.floats(-50, 150, width=32)), st.integers(1, 70), st.integers(1, 70))
def test_any_box_can_be_drawn_on_any_picture(boxes, height, width):
    image = np.zeros((height, width, 3), np.uint8)
    drawn = overlays.draw_boxes(image, boxes, np.arange(4), ["name"] * 2, None, np.ones(4))
    assert drawn.shape == image.shape


def test_instances_differ_even_within_a_class():
    masks = np.zeros((3, 80, 100), bool)
    masks[0, 30:60, 5:40], masks[1, 30:60, 50:90] = True, True
    drawn = overlays.draw_instances(GREY, masks)
    first, second = drawn[45, 20].tolist(), drawn[45, 70].tolist()
    assert first != second
    assert [90, 90, 90] not in (first, second)
    assert (drawn[~masks.any(axis=0)] == 90).all()
    tagged = overlays.draw_instances(GREY, masks, np.array([0, 0, 0]), ["cell"])
    changed = np.argwhere((tagged != drawn).any(axis=2))
    assert (changed.min(axis=0) >= [14, 4]).all()
    assert changed.max(axis=0)[0] < 30


def test_legend_wraps_and_shows_every_colour():
    wide = overlays.legend(CamVid.info.semantic_classes, CAMVID, 2000)
    narrow = overlays.legend(CamVid.info.semantic_classes, CAMVID, 150)
    assert (wide.shape[1], narrow.shape[1]) == (2000, 150)
    assert narrow.shape[0] > 5 * wide.shape[0]
    for picture in (wide, narrow):
        assert all((picture == colour).all(axis=2).sum() > 100 for colour in CAMVID)


def test_grid_enlarges_labels_without_new_colours_and_photographs_smoothly():
    labels = np.random.default_rng(0).integers(0, 3, (8, 8)).astype(np.uint8)
    photo = np.random.default_rng(1).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    painted = colourise(labels, CAMVID)
    key = overlays.legend(["a"], [(1, 2, 3)], 100)
    sheet = overlays.grid([[painted, photo]], ["mask", "image"], ["row"], key, cell=(10, 10))
    assert sheet.shape[0] >= 160 + key.shape[0]
    assert sheet.shape[1] >= 320
    for label in np.unique(labels):
        share = (sheet == CAMVID[label]).all(axis=2).sum()
        assert share == (labels == label).sum() * 400
    enlarged = overlays.resize(photo, (160, 160))
    assert len(np.unique(enlarged.reshape(-1, 3), axis=0)) > 5 * 256
    assert (sheet == (1, 2, 3)).all(axis=2).any()
    with pytest.raises(ReproError) as error:
        overlays.grid([[photo]], ["one", "two"])
    one_line(error, "row 0")


class Tiny:
    """Two samples of every kind of annotation, of different sizes."""

    info = Info(
        name="tiny", title="Tiny", source="-", version="1", licence="-", size="-", splits=("train",),
        tasks=("instance",), classes=("disc", "bar"), semantic_classes=("background", "disc", "bar"),
    )  # fmt: skip
    left_out = ()

    def size(self, split):
        return 2

    def sample(self, split, index):
        height, width = (40, 60) if index else (50, 30)
        mask = np.zeros((height, width), bool)
        mask[10:30, 8:24] = True
        sample = Sample(
            f"id-{index}",
            np.random.default_rng(index).integers(0, 90, (height, width, 1)).astype(np.uint8),
            label=index,
            semantic=np.where(mask, 2, 0).astype(np.uint8),
            boxes=np.array([[8, 10, 24, 30]], np.float32)[: 1 - index],
            classes=np.array([1], np.int32)[: 1 - index],
            masks=mask[None][: 1 - index],
        )
        return replace(sample, **dict.fromkeys(self.left_out))


def test_contact_sheet_shows_all_that_a_sample_has():
    data = Tiny()
    full = overlays.contact_sheet(data, "train", 9)
    bar, disc = voc_colormap()[2], voc_colormap()[1]
    assert (full == bar).all(axis=2).sum() > 400  # outline, box, tag and legend
    assert 100 < (full == disc).all(axis=2).sum() < 400  # the legend alone
    for left_out in (("label",), ("semantic",), ("masks",), ("boxes", "classes")):
        data.left_out = left_out
        sheet = overlays.contact_sheet(data, "train", 9)
        assert sheet.shape != full.shape or (sheet != full).any(), left_out
    assert overlays.contact_sheet(Tiny(), "train", 1).shape[0] <= full.shape[0]
    with pytest.raises(ReproError) as error:
        overlays.contact_sheet(data, "train", 0)
    one_line(error, "at least 1")


def a_dataset(classes, palette, channels, sizes, strange=()):
    """A segmentation set of random maps over all classes, with void in a corner; `strange` samples have no mask."""

    class Fake:
        info = Info(
            name="fake", title="Fake", source="-", version="1", licence="-", size="-", splits=("val",),
            tasks=("segmentation",), semantic_classes=tuple(f"class {i}" for i in range(classes)), palette=palette,
            channels=channels,
        )  # fmt: skip

        def size(self, split):
            return len(sizes)

        def sample(self, split, index):
            height, width = sizes[index]
            # broad stripes, so that every class keeps its colour where regions meet
            semantic = (np.arange(width) * classes // width + np.zeros((height, 1))).astype(np.uint8)
            semantic[: height // 4, : width // 4] = VOID
            image = np.full((height, width, channels), 90, np.uint8)
            return Sample(f"{index}", image, semantic=None if index in strange else semantic)

    return Fake()


@pytest.mark.parametrize(
    ("classes", "palette", "channels", "sizes"),
    [
        (2, ((0, 0, 0), (255, 255, 255)), 1, [(512, 512)] * 3),
        (5, DUBAI, 3, [(644, 797), (509, 544)]),
        (21, None, 3, [(375, 500), (500, 333)]),
        (19, tuple((10 * i, 255 - 10 * i, 128) for i in range(19)), 3, [(1024, 2048)]),
        (3, ((128, 0, 0), (0, 0, 0), (224, 224, 192)), 3, [(300, 200), (200, 300)]),
    ],
    ids=["isbi2012", "dubai", "voc2012_seg", "cityscapes", "oxford_iiit_pet"],
)  # fmt: skip
def test_contact_sheets_of_every_kind_of_label_map(classes, palette, channels, sizes):
    sheet = overlays.contact_sheet(a_dataset(classes, palette, channels, sizes), "val", 4)
    assert sheet.shape[1] <= 1280
    colours = voc_colormap(21) if palette is None else palette
    for colour in colours[:classes]:
        assert (sheet == colour).all(axis=2).sum() > 100, "in the legend at least"
    assert (sheet == 90).all(axis=2).sum() > 1000, "the image beside its mask"


def test_contact_sheet_of_a_split_with_and_without_masks():
    sheet = overlays.contact_sheet(a_dataset(3, None, 3, [(50, 60)] * 3, strange=(0, 2)), "val", 3)
    assert (sheet == voc_colormap()[2]).all(axis=2).sum() > 100
    overlays.contact_sheet(a_dataset(3, None, 1, [(50, 60)], strange=(0,)), "val", 1)


def test_long_titles_of_a_grid_take_more_lines_and_none_is_lost():
    picture = np.zeros((20, 20, 3), np.uint8)
    short = overlays.grid([[picture, picture]], ["unet", "segnet"])
    long = overlays.grid([[picture, picture]], ["unet", "segnet (median-frequency loss), camvid-narrow-segnet"])
    assert short.shape[0] < long.shape[0] <= short.shape[0] + 2 * 18
    # the picture is below its title in both, and the short title stands right above it
    top = long.shape[0] - short.shape[0]
    np.testing.assert_array_equal(long[top + 12 :, : 12 + 260], short[12:, : 12 + 260])
