"""Overlap-tile inference gives what the whole image gives, and says which settings are impossible."""

import numpy as np
import pytest

from repro import registry
from repro.errors import ReproError
from repro.records.samples import sample_indices
from repro.tasks.predictors import DensePredictor
from repro.tasks.segmentation import labels_of, probability_of, resized
from repro.tasks.tiles import kept_size, overlap_tile
from tests.parity.networks import fill, numbers

IMAGE = np.abs(numbers("image", (37, 61, 2), 60))


def box_sums(images):
    """A network without padding that sees 5x5 pixels: [B,h,w,C] to [B,h-4,w-4,C]."""
    height, width = images.shape[1] - 4, images.shape[2] - 4
    return sum(images[:, i : i + height, j : j + width] * (1 + i + 3 * j) for i in range(5) for j in range(5))


@pytest.mark.parametrize("margin", [0, 2])
@pytest.mark.parametrize("batch", [1, 4, 64])
@pytest.mark.parametrize("size", [(16, 16), (20, 13), (80, 80)])
def test_tiles_are_the_whole_image(size, batch, margin):
    kept = kept_size(size, (size[0] - 4, size[1] - 4), margin)
    found = overlap_tile(box_sums, IMAGE, size, kept, batch)
    expected = box_sums(np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), mode="reflect")[None])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_every_forward_pass_has_one_shape():
    shapes = set()

    def forward(images):
        shapes.add(images.shape)
        return images

    found = overlap_tile(forward, IMAGE, (16, 16), (8, 8), 4)
    assert shapes == {(4, 16, 16, 2)}
    np.testing.assert_array_equal(found, IMAGE)


def test_an_image_smaller_than_a_tile_is_mirrored():
    image = np.arange(6.0).reshape(2, 3, 1)
    seen = []
    overlap_tile(lambda images: seen.append(images) or images, image, (4, 5), (2, 3), 1)
    np.testing.assert_array_equal(seen[0][0, ..., 0], np.pad(image[..., 0], 1, mode="reflect"))


@pytest.mark.parametrize(
    ("answered", "margin", "message"),
    [
        ((10, 10), 5, "leaves nothing"),
        ((10, 10), -1, "leaves nothing"),
        ((11, 10), 0, "no centre"),
        ((20, 10), 0, "no"),
    ],
)
def test_impossible_tiles_are_refused(answered, margin, message):
    with pytest.raises(ReproError, match=message):
        kept_size((16, 16), answered, margin)


def tiled_scores(network, record, margin):
    predictor = DensePredictor(network, record["image"].shape[:2], margin)
    ((prediction, _),) = predictor.predict([record])
    return prediction["scores"]


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_a_network_answers_by_tiles_as_on_the_whole_image(padding):
    """U-Net without padding, tile by tile, equals itself on the mirrored whole; padded, its inner part does where a
    margin as wide as its context is dropped (Ronneberger et al., Figure 2)."""
    settings = dict(num_classes=3, channels=1, width=1 / 16, depth=0.3, padding=padding)
    small, large = (registry.build("unet", input_size=(side, side), **settings) for side in (40, 72))
    fill(small)
    large.set_weights(small.get_weights())
    image = np.abs(numbers("photo", (72, 72, 1), 90)).clip(0, 255).astype("uint8")
    record = {"image": image, "valid_size": np.asarray([72, 72])}
    tiled = tiled_scores(small, record, margin=0 if padding == "valid" else 8)
    whole = np.asarray(large(image[None].astype("float32"))["scores"])[0]
    assert tiled.shape == (72, 72, 3)
    inset = (72 - whole.shape[0]) // 2 or 8  # where the padded network sees no zeros
    inner = whole if padding == "valid" else whole[inset:-inset, inset:-inset]
    np.testing.assert_allclose(tiled[inset:-inset, inset:-inset], inner, atol=1e-5 * np.abs(inner).max())


def test_padding_is_cut_before_tiles_are():
    record = {"image": np.zeros((64, 64, 1), "uint8"), "valid_size": np.asarray([50, 33])}
    network = registry.build("unet", input_size=(40, 40), num_classes=2, width=1 / 16, depth=0.3, padding="same")
    scores = tiled_scores(network, record, margin=4)
    assert scores.shape == (50, 33, 2)


def test_one_score_is_a_sigmoid():
    scores = numbers("scores", (4, 5, 1), 3)
    both = np.concatenate([np.zeros_like(scores), scores], axis=-1)
    np.testing.assert_array_equal(labels_of(scores), labels_of(both))
    for label in (0, 1):
        np.testing.assert_allclose(probability_of(scores, label), probability_of(both, label), rtol=1e-6)
    np.testing.assert_allclose(probability_of(scores, 1), 1 / (1 + np.exp(-scores[..., 0])), rtol=1e-5)


def test_scores_are_cut_and_enlarged():
    scores = numbers("scores", (6, 8, 2))
    assert resized(scores, np.asarray([3, 4]), (3, 4)).shape == (3, 4, 2)
    constant = np.broadcast_to(np.float32([1, -2]), (6, 8, 2))
    np.testing.assert_allclose(resized(constant, np.asarray([3, 4]), (9, 20)), np.broadcast_to([1, -2], (9, 20, 2)))


@pytest.mark.parametrize(("count", "expected"), [(1, [0]), (3, [0, 1, 2]), (4, [0, 1, 2, 3]), (233, [0, 58, 116, 174])])
def test_samples_lie_far_apart(count, expected):
    assert sample_indices(count) == expected
