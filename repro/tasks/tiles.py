"""Overlap-tile inference: images of any size through a network of one input size (U-Net, Section 2 and Figure 2)."""

from collections.abc import Callable, Iterator

import numpy as np

from repro.errors import ReproError

Forward = Callable[[np.ndarray], np.ndarray]


def kept_size(input_size: tuple[int, int], output_size: tuple[int, int], margin: int) -> tuple[int, int]:
    """(height, width) of what is kept of each tile's output once `margin` pixels are dropped at each side.

    Raises ReproError when nothing is left, or when input and output cannot share a centre.

    >>> kept_size((572, 572), (388, 388), 32)  # U-Net as published
    (324, 324)
    """
    for length, out in zip(input_size, output_size, strict=True):
        if (length - out) % 2 or out > length:
            raise ReproError(
                f"outputs of {output_size} have no centre in inputs of {input_size}", "choose another size"
            )
    kept = output_size[0] - 2 * margin, output_size[1] - 2 * margin
    if margin < 0 or min(kept) < 1:
        raise ReproError(
            f"a tile margin of {margin} leaves nothing of {output_size[0]}x{output_size[1]} outputs",
            f"give 0 to {(min(output_size) - 1) // 2}",
        )
    return kept


def overlap_tile(
    forward: Forward, image: np.ndarray, input_size: tuple[int, int], kept: tuple[int, int], batch_size: int
) -> np.ndarray:
    """Class scores of a whole image from a network that sees `input_size` at a time.

    image [H,W,C] to float32 [H,W,K]. The image is extended by mirroring, as in the paper, and covered by tiles of
    `kept` pixels; around each the network sees (input - kept) / 2 pixels more on every side. `forward` maps float32
    [batch_size,h,w,C] to [batch_size,h',w',K], of whose centre `kept` pixels are used."""
    height, width = image.shape[:2]
    rows, columns = -(-height // kept[0]), -(-width // kept[1])
    before = [(full - part) // 2 for full, part in zip(input_size, kept, strict=True)]
    after = [rows * kept[0] - height + before[0], columns * kept[1] - width + before[1]]
    padded = np.pad(image, ((before[0], after[0]), (before[1], after[1]), (0, 0)), mode="reflect")
    corners = [(row * kept[0], column * kept[1]) for row in range(rows) for column in range(columns)]
    canvas: np.ndarray | None = None
    for (top, left), scores in _scores(forward, padded, corners, input_size, batch_size):
        if canvas is None:
            canvas = np.empty((rows * kept[0], columns * kept[1], scores.shape[-1]), "float32")
        drop = [(out - part) // 2 for out, part in zip(scores.shape, kept, strict=False)]
        centre = scores[drop[0] : drop[0] + kept[0], drop[1] : drop[1] + kept[1]]
        canvas[top : top + kept[0], left : left + kept[1]] = centre
    assert canvas is not None  # an image has at least one tile
    return canvas[:height, :width]


def _scores(
    forward: Forward, padded: np.ndarray, corners: list[tuple[int, int]], size: tuple[int, int], batch_size: int
) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
    """(corner, scores) tile by tile; the last batch is filled up with its last tile, so that one program serves all."""
    for first in range(0, len(corners), batch_size):
        chosen = corners[first : first + batch_size]
        filled = chosen + chosen[-1:] * (batch_size - len(chosen))
        tiles = [padded[top : top + size[0], left : left + size[1]] for top, left in filled]
        yield from zip(chosen, forward(np.stack(tiles).astype("float32")), strict=False)
