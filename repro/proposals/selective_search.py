"""Selective search: boxes of all regions met while an over-segmentation is merged, greedily, into one region.

Uijlings, van de Sande, Gevers and Smeulders, Selective Search for Object Recognition, IJCV 2013, as R-CNN runs it
(`selective_search_boxes.m` of its release). NumPy, on the host; the initial regions are scikit-image's Felzenszwalb
and Huttenlocher segmentation, the grouping is ours.

Where the paper is silent or the released program is compiled:
- a derivative counts where it is positive, and its 10 bins reach up to its largest value in the image;
- hue and intensity alone (quality mode) are segmented as three equal channels, by which k weighs as in the others;
- of equally similar pairs the one whose regions are older is merged first.
"""

import heapq
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from scipy import ndimage
from skimage.segmentation import felzenszwalb

from repro.data.cache import resize_image
from repro.errors import ReproError, unknown_name

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
SIGMA = 0.8  # of the smoothing before the initial segmentation, pixels (released program)
COLOUR_BINS, TEXTURE_BINS = 25, 10  # Sec 3.2
SMALLEST_SIDE = 16  # pixels of an image


class Strategies(NamedTuple):
    """Every colour space with every k (and smallest region) with every similarity, Table 4 of the paper.

    A similarity is the sum of its letters: Colour, Texture, Size, Fill (Eq. 6)."""

    colour_spaces: tuple[str, ...]
    thresholds: tuple[int, ...]
    similarities: tuple[str, ...]


MODES = {
    "single": Strategies(("hsv",), (100,), ("CTSF",)),
    "fast": Strategies(("hsv", "lab"), (50, 100), ("CTSF", "TSF")),
    "quality": Strategies(("hsv", "lab", "rgi", "hue", "intensity"), (50, 100, 150, 300), ("CTSF", "TSF", "F", "S")),
}


@dataclass
class Regions:
    """n regions of one segmentation and what their similarity is made of.

    boxes int64 [n,4], half-open; sizes int64 [n], pixels; colour float64 [n,25 C] and texture float64 [n,80 C], each
    row of sum 1; pairs int64 [p,2], of regions that touch, the smaller first, without duplicates; area: pixels of the
    image."""

    boxes: np.ndarray
    sizes: np.ndarray
    colour: np.ndarray
    texture: np.ndarray
    pairs: np.ndarray
    area: int


def selective_search(
    image: np.ndarray,
    mode: str = "fast",
    max_boxes: int = 2000,
    seed: int = 0,
    *,
    width: int | None = 500,
    min_side: int = 20,
) -> np.ndarray:
    """Proposals of an RGB image uint8 [H,W,3]: float32 [N,4], N <= max_boxes, half-open boxes in its pixels.

    Best first: ordered by position in the hierarchy, the whole image being 1, times a random number (Sec 3.3), of which
    `seed` is the state; no box twice. The image is first resized to `width`, its aspect kept (None: not at all), and
    boxes with a side under `min_side` pixels of that size are dropped, both as R-CNN does; where no other box is left
    there is one around the whole image. Modes: "single", "fast" (R-CNN's) and "quality" (about five times as many
    boxes). Raises ReproError for another image, one with a side under 16 pixels, and impossible options."""
    check_options(mode, max_boxes, width, min_side)
    _check_image(image)
    original = image.shape[:2]
    image = at_width(image, width)
    boxes, positions = _all_boxes(image, MODES[mode])
    order = np.argsort(positions * np.random.default_rng(seed).random(len(positions)), kind="stable")
    found = chosen(boxes[order], image.shape[:2], original, max_boxes, min_side)
    return found if len(found) else np.array([[0, 0, *original[::-1]]], np.float32)


def at_width(image: np.ndarray, width: int | None) -> np.ndarray:
    """An image uint8 [H,W,C] resized to a width with its aspect kept, as it is where None."""
    if width is None or width == image.shape[1]:
        return image
    return resize_image(image, (max(1, round(image.shape[0] * width / image.shape[1])), width))


def chosen(
    boxes: np.ndarray, size: tuple[int, int], original: tuple[int, int], max_boxes: int, min_side: int
) -> np.ndarray:
    """The first `max_boxes` different boxes [M,4] of an image of `size` (height, width) with sides of `min_side` or
    more, in pixels of its `original` size: float32 [N,4]."""
    boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= min_side).all(1)]
    boxes = boxes[np.sort(np.unique(boxes, axis=0, return_index=True)[1])[:max_boxes]]
    full = np.array(original[::-1] * 2)
    return np.minimum(boxes * (full / np.array(size[::-1] * 2)), full).astype(np.float32)


def check_options(mode: str, max_boxes: int, width: int | None, min_side: int) -> None:
    """Raises ReproError for options that `selective_search` cannot take."""
    if mode not in MODES:
        raise unknown_name("mode of selective search", mode, MODES)
    for name, value, least in (("max_boxes", max_boxes, 1), ("width", width, SMALLEST_SIDE), ("min_side", min_side, 1)):
        if value is not None and value < least:
            raise ReproError(f"{name} {value} of selective search is impossible", f"give at least {least}")


def _check_image(image: np.ndarray) -> None:
    found = f"{getattr(image, 'dtype', type(image).__name__)} {list(np.shape(image))}"
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ReproError(f"selective search cannot read an image {found}", "give RGB, uint8 [H,W,3]")
    if min(image.shape[:2]) < SMALLEST_SIDE:
        raise ReproError(f"an image {found} is too small for selective search", f"give {SMALLEST_SIDE} pixels a side")


def _all_boxes(image: np.ndarray, strategies: Strategies) -> tuple[np.ndarray, np.ndarray]:
    """Boxes int64 [M,4] of the hierarchies of all strategies and the position of each in its own, 1 the last merged.

    The initial regions are in once for each segmentation and share one position, as in the released program."""
    boxes, positions = [], []
    for space in strategies.colour_spaces:
        planes = colour_planes(image, space)
        bins = colour_bins(planes), texture_bins(planes)
        for k in strategies.thresholds:
            labels = initial_regions(planes, k)
            regions = describe(labels, *bins)
            count = len(regions.sizes)
            boxes.append(regions.boxes)
            positions.append(np.full(count, count))
            for similarity in strategies.similarities:
                boxes.append(merged_boxes(regions.boxes, greedy_merges(regions, similarity)))
                positions.append(np.arange(count - 1, 0, -1))
    return np.concatenate(boxes), np.concatenate(positions)


def colour_planes(image: np.ndarray, space: str) -> np.ndarray:
    """RGB uint8 [H,W,3] in another colour space, each channel over 0..255: uint8 [H,W,C].

    "hsv", "lab", "rgi" (normalised red and green, intensity), "hue", "intensity"; Sec 3.2 of the paper."""
    if space == "hsv":
        return cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)
    if space == "lab":
        return cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    if space == "hue":
        return cv2.cvtColor(image, cv2.COLOR_RGB2HSV_FULL)[:, :, :1]
    if space == "intensity":
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None]
    total = image.sum(2, dtype=np.float32, keepdims=True)
    share = np.divide(image[:, :, :2], total, out=np.full((*image.shape[:2], 2), 1 / 3, np.float32), where=total > 0)
    return np.concatenate([share * 255, total / 3], 2).round().astype(np.uint8)


def initial_regions(planes: np.ndarray, k: int) -> np.ndarray:
    """Labels int64 [H,W], 0..n-1, of Felzenszwalb and Huttenlocher's segmentation with scale and least size k."""
    if planes.shape[2] == 1:
        planes = planes.repeat(3, 2)
    return felzenszwalb(planes, scale=k, sigma=SIGMA, min_size=k)


def colour_bins(planes: np.ndarray) -> np.ndarray:
    """The colour bin of every pixel, uint8 [H,W,C]: 25 equal bins for each channel."""
    return (planes.astype(np.int64) * COLOUR_BINS // 256).astype(np.uint8)


def texture_bins(planes: np.ndarray) -> np.ndarray:
    """The texture bins of every pixel, uint8 [H,W,8 C]: 10 equal bins for each channel and orientation.

    Gaussian derivatives of sigma 1 in 8 orientations 45 degrees apart (Sec 3.2), steered from those along x and y."""
    bins = []
    for plane in np.moveaxis(planes.astype(np.float32), 2, 0):
        x = ndimage.gaussian_filter(plane, 1, order=(0, 1), mode="nearest")
        y = ndimage.gaussian_filter(plane, 1, order=(1, 0), mode="nearest")
        for derivative in (x, y, (x + y) / np.sqrt(np.float32(2)), (x - y) / np.sqrt(np.float32(2))):
            for response in (derivative, -derivative):
                scale = TEXTURE_BINS / max(response.max(), 1e-3)  # a flat channel has rounding errors alone
                bins.append((response * scale).clip(0, TEXTURE_BINS - 1).astype(np.uint8))
    return np.stack(bins, 2)


def describe(labels: np.ndarray, colours: np.ndarray, textures: np.ndarray) -> Regions:
    """The regions of labels [H,W] (0..n-1, none empty), with the bins of `colour_bins` and `texture_bins`."""
    slices = ndimage.find_objects(labels + 1)
    return Regions(
        boxes=np.array([(x.start, y.start, x.stop, y.stop) for y, x in slices]),
        sizes=np.bincount(labels.ravel()),
        colour=_histograms(labels, colours, COLOUR_BINS),
        texture=_histograms(labels, textures, TEXTURE_BINS),
        pairs=_touching(labels),
        area=labels.size,
    )


def _histograms(labels: np.ndarray, bins: np.ndarray, count: int) -> np.ndarray:
    """Histograms of bins [H,W,K], each 0..count-1, over each region, float64 [n, K count], rows of sum 1."""
    first = labels.ravel() * count
    regions = int(labels.max()) + 1
    each = [np.bincount(first + plane.ravel(), minlength=regions * count) for plane in np.moveaxis(bins, 2, 0)]
    histograms = np.concatenate([counts.reshape(regions, count) for counts in each], 1)
    return histograms / histograms.sum(1, keepdims=True)


def _touching(labels: np.ndarray) -> np.ndarray:
    """Pairs int64 [p,2] of labels that are neighbours, diagonally too, since regions are connected that way."""
    shifted = (
        (labels[:, :-1], labels[:, 1:]),
        (labels[:-1], labels[1:]),
        (labels[:-1, :-1], labels[1:, 1:]),
        (labels[:-1, 1:], labels[1:, :-1]),
    )
    count = int(labels.max()) + 1
    codes = [np.minimum(a, b)[a != b] * count + np.maximum(a, b)[a != b] for a, b in shifted]
    return np.stack(np.divmod(np.unique(np.concatenate(codes)), count), 1)


def greedy_merges(regions: Regions, similarity: str) -> np.ndarray:
    """Which two regions are merged into regions n, n+1, ... 2n-2, in this order: int64 [n-1,2] (Alg. 1).

    It is always the most similar pair of those that touch. A merged region's histogram is the mean of the two by
    their size (Eq. 3), and it touches whatever they touched. `similarity`: letters of C, T, S, F."""
    count = len(regions.sizes)
    described = _Described(regions, similarity)
    touching: list[set[int]] = [set() for _ in range(2 * count - 1)]
    for i, j in regions.pairs.tolist():
        touching[i].add(j)
        touching[j].add(i)
    scores = described.similarity(regions.pairs[:, 0], regions.pairs[:, 1])
    heap = list(zip((-scores).tolist(), *regions.pairs.T.tolist(), strict=True))
    heapq.heapify(heap)
    merges = np.zeros((count - 1, 2), np.int64)
    gone = [False] * (2 * count - 1)
    for new in range(count, 2 * count - 1):
        _, i, j = heapq.heappop(heap)
        while gone[i] or gone[j]:
            _, i, j = heapq.heappop(heap)
        merges[new - count] = i, j
        described.merge(i, j, new)
        gone[i] = gone[j] = True
        neighbours = sorted((touching[i] | touching[j]) - {i, j})
        touching[new].update(neighbours)
        for other in neighbours:
            touching[other] -= {i, j}
            touching[other].add(new)
        for score, other in zip(described.similarity(neighbours, new).tolist(), neighbours, strict=True):
            heapq.heappush(heap, (-score, other, new))
    return merges


class _Described:
    """Boxes, sizes and histograms of the regions of a growing hierarchy."""

    def __init__(self, regions: Regions, similarity: str) -> None:
        count, self._kinds, self._area = len(regions.sizes), similarity, regions.area
        parts = [part for letter, part in (("C", regions.colour), ("T", regions.texture)) if letter in similarity]
        self._sizes = np.concatenate([regions.sizes, np.zeros(count - 1, np.int64)])
        self._boxes = np.concatenate([regions.boxes, np.zeros((count - 1, 4), np.int64)])
        self._histograms = np.zeros((2 * count - 1, sum(part.shape[1] for part in parts)))
        if parts:
            self._histograms[:count] = np.concatenate(parts, 1)

    def similarity(self, i: np.ndarray | list[int], j: np.ndarray | int) -> np.ndarray:
        """Of regions i [m] with regions j [m] or with one region: float64 [m], Eqs. 2 to 6."""
        sizes = self._sizes[i] + self._sizes[j]
        total = np.minimum(self._histograms[i], self._histograms[j]).sum(1)
        if "S" in self._kinds:
            total += 1 - sizes / self._area
        if "F" in self._kinds:
            a, b = self._boxes[i], self._boxes[j]
            sides = np.maximum(a[:, 2:], b[..., 2:]) - np.minimum(a[:, :2], b[..., :2])
            total += 1 - (sides[:, 0] * sides[:, 1] - sizes) / self._area
        return total

    def merge(self, i: int, j: int, new: int) -> None:
        """Fill in region `new`, the union of i and j."""
        a, b = self._sizes[i], self._sizes[j]
        self._sizes[new] = a + b
        self._histograms[new] = (a * self._histograms[i] + b * self._histograms[j]) / (a + b)
        self._boxes[new] = _union(self._boxes[i], self._boxes[j])


def _union(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.concatenate([np.minimum(a[:2], b[:2]), np.maximum(a[2:], b[2:])])


def merged_boxes(boxes: np.ndarray, merges: np.ndarray) -> np.ndarray:
    """Boxes int64 [n-1,4] around the regions that `merges` [n-1,2] makes of n regions with `boxes` [n,4]."""
    every = np.concatenate([boxes, np.zeros((len(merges), 4), np.int64)])
    for new, (i, j) in enumerate(merges, len(boxes)):
        every[new] = _union(every[i], every[j])
    return every[len(boxes) :]
