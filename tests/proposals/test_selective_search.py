"""Selective search against a plain search over all pairs of pixel sets, its parts against loops and other libraries."""

import colorsys

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage
from skimage.color import rgb2lab

from repro.data.shapes import Shapes
from repro.errors import ReproError
from repro.proposals import selective_search as module
from repro.proposals.selective_search import (
    MODES,
    colour_bins,
    colour_planes,
    describe,
    greedy_merges,
    initial_regions,
    merged_boxes,
    selective_search,
    texture_bins,
)
from tests.support.messages import one_line

SIMILARITIES = pytest.mark.parametrize("similarity", ["CTSF", "TSF", "F", "S"])


def scene(side=64, index=0):
    return Shapes(image_size=side).sample("train", index)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def as_set(boxes):
    return {tuple(box) for box in boxes.tolist()}


class Reference:
    """Regions as lists of pixels, compared one pair at a time; nothing is carried over from region to region."""

    def __init__(self, labels, colours, textures):
        self.labels, self.colours, self.textures = labels, colours, textures
        self.known = {}  # similarities, None of pairs that do not touch: a region never changes
        self.regions = {label: [] for label in range(labels.max() + 1)}
        for y, x in np.ndindex(labels.shape):
            self.regions[labels[y, x]].append((y, x))

    def histogram(self, pixels, bins, count):
        counts = np.zeros((bins.shape[2], count))
        for y, x in pixels:
            for channel in range(bins.shape[2]):
                counts[channel, bins[y, x, channel]] += 1
        return counts / counts.sum()

    def box(self, pixels):
        y, x = zip(*pixels, strict=True)
        return min(x), min(y), max(x) + 1, max(y) + 1

    def similarity(self, i, j, kinds):
        a, b, area = self.regions[i], self.regions[j], self.labels.size
        x1, y1, x2, y2 = self.box(a + b)
        terms = {
            "C": lambda: np.minimum(self.histogram(a, self.colours, 25), self.histogram(b, self.colours, 25)).sum(),
            "T": lambda: np.minimum(self.histogram(a, self.textures, 10), self.histogram(b, self.textures, 10)).sum(),
            "S": lambda: 1 - (len(a) + len(b)) / area,
            "F": lambda: 1 - ((x2 - x1) * (y2 - y1) - len(a) - len(b)) / area,
        }
        return sum(terms[kind]() for kind in kinds)

    def touch(self, i, j):
        near = {(y + dy, x + dx) for y, x in self.regions[i] for dy in (-1, 0, 1) for dx in (-1, 0, 1)}
        return not near.isdisjoint(self.regions[j])

    def similarities(self, kinds):
        """Of all pairs that touch, the older region first, the older pairs first."""
        labels = sorted(self.regions)
        pairs = [(i, j) for i in labels for j in labels if i < j]
        for pair in pairs:
            if pair not in self.known:
                self.known[pair] = self.similarity(*pair, kinds) if self.touch(*pair) else None
        return {pair: self.known[pair] for pair in pairs if self.known[pair] is not None}

    def merge(self, i, j, new):
        self.regions[new] = self.regions.pop(i) + self.regions.pop(j)


def segmented(side, k, space="hsv", index=0):
    planes = colour_planes(scene(side, index).image, space)
    return initial_regions(planes, k), colour_bins(planes), texture_bins(planes)


@SIMILARITIES
def test_hierarchy_is_that_of_a_plain_search(similarity):
    labels, colours, textures = segmented(32, 8)
    reference, count = Reference(labels, colours, textures), labels.max() + 1
    assert count > 12
    merges, boxes = [], []
    while len(reference.regions) > 1:
        similarities = reference.similarities(similarity)
        merges.append(max(similarities, key=similarities.get))  # the first of equals
        reference.merge(*merges[-1], count + len(merges) - 1)
        boxes.append(reference.box(reference.regions[count + len(merges) - 1]))
    regions = describe(labels, colours, textures)
    found = greedy_merges(regions, similarity)
    np.testing.assert_array_equal(found, merges)
    np.testing.assert_array_equal(merged_boxes(regions.boxes, found), boxes)


@SIMILARITIES
@given(labels=hnp.arrays(np.int64, hnp.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.integers(0, 5)))
def test_every_merge_is_of_the_most_similar_that_touch(similarity, labels):
    labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)  # regions need not even be connected
    colours, textures = noise(*labels.shape, 3) // 11, noise(*labels.shape, 24, seed=1) // 26
    reference, count = Reference(labels, colours, textures), labels.max() + 1
    merges = greedy_merges(describe(labels, colours, textures), similarity)
    assert len(merges) == count - 1
    for new, pair in enumerate(map(tuple, merges.tolist()), count):
        similarities = reference.similarities(similarity)
        assert similarities[pair] >= max(similarities.values()) - 1e-9
        reference.merge(*pair, new)
    assert len(reference.regions) == 1


def test_regions_are_described_as_by_loops():
    labels, colours, textures = segmented(32, 8, "lab")
    reference, regions = Reference(labels, colours, textures), describe(labels, colours, textures)
    for label, pixels in reference.regions.items():
        assert regions.sizes[label] == len(pixels)
        assert tuple(regions.boxes[label]) == reference.box(pixels)
        np.testing.assert_allclose(regions.colour[label], reference.histogram(pixels, colours, 25).ravel(), rtol=1e-12)
        np.testing.assert_allclose(
            regions.texture[label], reference.histogram(pixels, textures, 10).ravel(), rtol=1e-12
        )
    labels_of = sorted(reference.regions)
    touching = [(i, j) for i in labels_of for j in labels_of if i < j and reference.touch(i, j)]
    np.testing.assert_array_equal(regions.pairs, touching)
    assert regions.area == 32 * 32


def test_texture_is_that_of_gaussian_derivatives():
    plane, radius = noise(9, 11).astype(np.float64), 4
    offsets = np.arange(-radius, radius + 1)
    gauss = np.exp(-(offsets**2) / 2) / np.exp(-(offsets**2) / 2).sum()
    padded = np.pad(plane, radius, mode="edge")
    gradient = np.zeros((*plane.shape, 2))
    for y, x in np.ndindex(plane.shape):
        window = padded[y : y + 2 * radius + 1, x : x + 2 * radius + 1]
        gradient[y, x] = (gauss @ window) @ (offsets * gauss), (offsets * gauss) @ (window @ gauss)
    bins = texture_bins(plane[:, :, None].astype(np.uint8))
    assert bins.shape == (9, 11, 8)
    angles = {0: 0, 1: 180, 2: 90, 3: 270, 4: 45, 5: 225, 6: 315, 7: 135}  # the order of the bins, degrees
    for channel, angle in angles.items():
        along = gradient @ [np.cos(np.radians(angle)), np.sin(np.radians(angle))]
        position = 10 * along / along.max()
        expected = np.clip(np.floor(position), 0, 9)
        clear = abs(position - position.round()) > 1e-3  # not at the border of two bins
        np.testing.assert_array_equal(bins[..., channel][clear], expected[clear])


def test_colour_spaces():
    image = np.concatenate([noise(6, 7, 3), np.zeros((1, 7, 3), np.uint8), np.full((1, 7, 3), 255, np.uint8)])
    planes = {space: colour_planes(image, space) for space in MODES["quality"].colour_spaces}
    assert {space: plane.shape[2] for space, plane in planes.items()} == {
        "hsv": 3, "lab": 3, "rgi": 3, "hue": 1, "intensity": 1,
    }  # fmt: skip
    assert all(plane.dtype == np.uint8 for plane in planes.values())
    lab = (planes["lab"] - np.array([0, 128, 128])) / [2.55, 1, 1]
    np.testing.assert_allclose(lab, rgb2lab(image), atol=2)
    np.testing.assert_array_equal(planes["hue"][..., 0], planes["hsv"][..., 0])
    for y, x in np.ndindex(image.shape[:2]):
        red, green, blue = (int(value) for value in image[y, x])
        hsv = np.array(colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)) * [256, 255, 255]
        difference = abs(planes["hsv"][y, x] - hsv)
        assert min(difference[0], 256 - difference[0]) < 2
        assert difference[1:].max() < 2
        total = red + green + blue
        shares = (red / total, green / total) if total else (1 / 3, 1 / 3)
        np.testing.assert_allclose(planes["rgi"][y, x], [255 * shares[0], 255 * shares[1], total / 3], atol=0.51)
        assert abs(planes["intensity"][y, x, 0] - (0.299 * red + 0.587 * green + 0.114 * blue)) < 1


def test_initial_regions_part_the_image_along_its_objects():
    sample = scene(96)
    labels = initial_regions(colour_planes(sample.image, "lab"), 50)
    assert set(labels.ravel()) == set(range(labels.max() + 1))
    sizes = np.bincount(labels.ravel())
    assert sizes.min() >= 50
    assert all(ndimage.label(labels == label, np.ones((3, 3)))[1] == 1 for label in range(len(sizes)))
    owners = np.zeros((len(sizes), len(sample.masks) + 1))
    np.add.at(owners, (labels, (sample.masks * np.arange(1, len(sample.masks) + 1)[:, None, None]).sum(0)), 1)
    assert owners.max(1).sum() / labels.size > 0.95


def test_hue_and_intensity_are_as_coarse_as_three_channels():
    grey = colour_planes(scene(64).image, "intensity")
    np.testing.assert_array_equal(initial_regions(grey, 50), initial_regions(grey.repeat(3, 2), 50))


def test_boxes_are_those_of_the_hierarchies_in_random_order():
    """Position times random number, small boxes dropped, first of equals kept: the plain way, for one strategy."""
    image = scene(128).image
    planes = colour_planes(image, "hsv")
    regions = describe(initial_regions(planes, 100), colour_bins(planes), texture_bins(planes))
    merged, count = merged_boxes(regions.boxes, greedy_merges(regions, "CTSF")), len(regions.sizes)
    assert merged[-1].tolist() == [0, 0, 128, 128]
    ranked = [(count, box) for box in regions.boxes.tolist()]
    ranked += [(count - 1 - index, box) for index, box in enumerate(merged.tolist())]
    random = np.random.default_rng(3).random(len(ranked))
    expected = []
    for _, box in sorted((draw * position, box) for draw, (position, box) in zip(random, ranked, strict=True)):
        if min(box[2] - box[0], box[3] - box[1]) >= 8 and box not in expected:
            expected.append(box)
    assert len(expected) > 5
    np.testing.assert_array_equal(selective_search(image, "single", seed=3, width=None, min_side=8), expected)


def test_modes_grow():
    image = scene(64).image
    single, fast, quality = (
        as_set(selective_search(image, mode, 10**6, width=None, min_side=1)) for mode in ("single", "fast", "quality")
    )
    assert single < fast < quality
    strategies = {mode: np.prod([len(choices) for choices in MODES[mode]]) for mode in MODES}
    assert strategies == {"single": 1, "fast": 8, "quality": 80}  # Table 4 of the paper


@pytest.mark.parametrize(("height", "width"), [(45, 70), (70, 45), (16, 16), (16, 300)])
def test_boxes_lie_in_the_image_and_differ(height, width):
    image = noise(height, width, 3) // 8 + np.arange(0, 4 * width, 4, dtype=np.uint16)[None, :, None] // 2
    image = np.minimum(image, 255).astype(np.uint8)
    boxes = selective_search(image, width=100)
    assert boxes.dtype == np.float32
    assert boxes.ndim == 2
    assert len(as_set(boxes)) == len(boxes) >= 1
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= [width, height]).all()
    sides = (boxes[:, 2:] - boxes[:, :2]) * (100 / width)
    assert len(boxes) == 1 or sides.min() > 19  # 20 pixels at the working size, whose height is rounded


def test_boxes_are_mapped_back():
    image = scene(64).image
    large = module.resize_image(image, (128, 128))
    np.testing.assert_allclose(
        selective_search(image, width=128), selective_search(large, width=None) / 2, rtol=1e-6, atol=0
    )


def test_same_seed_same_boxes_and_the_best_come_first():
    image = scene(96).image
    boxes = selective_search(image, width=None, seed=5)
    np.testing.assert_array_equal(boxes, selective_search(image, width=None, seed=5))
    np.testing.assert_array_equal(boxes[:20], selective_search(image, max_boxes=20, width=None, seed=5))
    other = selective_search(image, width=None, seed=6)
    assert as_set(boxes) == as_set(other)
    assert not np.array_equal(boxes, other)


def test_large_regions_come_before_small_ones():
    image = scene(128).image
    areas = np.mean(
        [
            [np.prod(part[:, 2:] - part[:, :2], axis=1).mean() for part in np.array_split(boxes, 2)]
            for boxes in (selective_search(image, width=None, seed=seed) for seed in range(3))
        ],
        axis=0,
    )
    assert areas[0] > areas[1]


@pytest.mark.parametrize("mode", ["fast", "quality"])
def test_constant_image_is_one_box(mode):
    np.testing.assert_array_equal(
        selective_search(np.full((40, 60, 3), 77, np.uint8), mode, width=60), [[0, 0, 60, 40]]
    )


def test_grey_image_has_proposals():
    grey = np.repeat(scene(96).image[:, :, 1:2], 3, 2)
    assert len(selective_search(grey, width=None)) > 10


def test_image_thinner_than_the_least_side_is_one_box():
    np.testing.assert_array_equal(selective_search(noise(16, 900, 3), width=90), [[0, 0, 900, 16]])


def recall(boxes, truth, threshold):
    """The share of boxes [M,4] that some proposal [N,4] overlaps by an IoU of `threshold`."""
    corner, opposite = np.maximum(truth[:, None, :2], boxes[:, :2]), np.minimum(truth[:, None, 2:], boxes[:, 2:])
    shared = (opposite - corner).clip(0).prod(2)
    areas = (truth[:, 2:] - truth[:, :2]).prod(1)[:, None] + (boxes[:, 2:] - boxes[:, :2]).prod(1)
    return (shared / (areas - shared)).max(1) >= threshold


def test_generated_objects_are_found():
    found = []
    for index in range(5):
        sample = scene(96, index)
        found.append(recall(selective_search(sample.image, width=192), sample.boxes, 0.5))
    assert np.concatenate(found).mean() >= 0.95


@pytest.mark.skipif(not hasattr(cv2, "ximgproc"), reason="OpenCV without its contrib modules")
@pytest.mark.parametrize("threshold", [0.5, 0.7])
def test_no_fewer_objects_are_found_than_by_opencv(threshold):
    ours, theirs = [], []
    for index in range(16):
        sample = scene(96, index)
        search = cv2.ximgproc.segmentation.createSelectiveSearchSegmentation()
        search.setBaseImage(np.ascontiguousarray(sample.image[:, :, ::-1]))
        search.switchToSelectiveSearchFast()
        boxes = search.process()[:2000].astype(np.float32)
        boxes[:, 2:] += boxes[:, :2]
        theirs.append(recall(boxes, sample.boxes, threshold))
        ours.append(recall(selective_search(sample.image, width=None, min_side=8), sample.boxes, threshold))
    assert np.concatenate(ours).mean() >= np.concatenate(theirs).mean() - 0.05


@pytest.mark.parametrize(
    ("image", "options", "parts"),
    [
        (np.zeros((32, 32, 3)), {}, ["float64 [32, 32, 3]", "uint8"]),
        (np.zeros((32, 32), np.uint8), {}, ["[32, 32]"]),
        (np.zeros((32, 32, 4), np.uint8), {}, ["[32, 32, 4]"]),
        ([[0, 1], [2, 3]], {}, ["list [2, 2]"]),
        (np.zeros((15, 32, 3), np.uint8), {}, ["[15, 32, 3]", "too small"]),
        (np.zeros((32, 0, 3), np.uint8), {}, ["too small"]),
        (np.zeros((32, 32, 3), np.uint8), {"mode": "fats"}, ["'fats'", "fast"]),
        (np.zeros((32, 32, 3), np.uint8), {"max_boxes": 0}, ["max_boxes 0"]),
        (np.zeros((32, 32, 3), np.uint8), {"width": 8}, ["width 8"]),
        (np.zeros((32, 32, 3), np.uint8), {"min_side": 0}, ["min_side 0"]),
    ],
)
def test_bad_input(image, options, parts):
    with pytest.raises(ReproError) as error:
        selective_search(image, **options)
    one_line(error, *parts)
