"""Augmentation on the device, inside the compiled train step: `keras.ops` alone, the same on every backend."""

from typing import Any

import keras
from keras import ops

from repro.data.base import VOID


class RandomAffine:
    """Mirror, shift and zoom, each image on its own.

    flip: mirror left to right with probability 1/2 (the FCN paper's "mirroring"). jitter: shift by up to this
    many pixels each way ("up to 32 px"). zoom: (low, high) range of a uniform scale about the centre. Images are
    sampled bilinearly, labels by the nearest pixel; labels from outside the image become void."""

    def __init__(
        self, seed: int, flip: bool = False, jitter: float = 0.0, zoom: tuple[float, float] = (1.0, 1.0)
    ) -> None:
        self.generator = keras.random.SeedGenerator(seed)
        self.flip, self.jitter, self.zoom = flip, jitter, tuple(zoom)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """`image` [B,H,W,C] (any dtype) and, if there, `semantic` [B,H,W]; other entries pass through."""
        image = ops.cast(batch["image"], "float32")
        count, height, width = ops.shape(image)[0], image.shape[1], image.shape[2]
        scale = self._uniform(count, *self.zoom)
        mirror = ops.sign(self._uniform(count, -1.0, 1.0)) if self.flip else ops.ones((count,))
        rows = self._coordinates(height, 1 / scale, self._uniform(count, -self.jitter, self.jitter))
        columns = self._coordinates(width, mirror / scale, self._uniform(count, -self.jitter, self.jitter))
        # the map is separable, so bilinear sampling is one small matrix for the rows and one for the columns
        image = ops.einsum("bij,bjwc->biwc", _hat(rows, height), image)
        image = ops.einsum("bkw,biwc->bikc", _hat(columns, width), image)
        batch = {**batch, "image": image}
        if "semantic" in batch:
            batch["semantic"] = _nearest(ops.cast(batch["semantic"], "int32"), rows, columns)
        return batch

    def _uniform(self, count: Any, low: float, high: float) -> Any:
        return keras.random.uniform((count,), low, high, seed=self.generator)

    @staticmethod
    def _coordinates(length: int, factor: Any, shift: Any) -> Any:
        """Where each output pixel's centre lies in the source. [B,length]."""
        centred = ops.arange(length, dtype="float32") - (length - 1) / 2
        return factor[:, None] * centred[None, :] + (length - 1) / 2 + shift[:, None]


def _hat(coordinates: Any, length: int) -> Any:
    """Bilinear weights [B,n,length] of source pixels for coordinates [B,n]; outside, the border is repeated."""
    inside = ops.clip(coordinates, 0.0, length - 1.0)
    return ops.relu(1 - ops.abs(inside[:, :, None] - ops.arange(length, dtype="float32")))


def _nearest(labels: Any, rows: Any, columns: Any) -> Any:
    height, width = labels.shape[1], labels.shape[2]
    row, column = ops.cast(ops.round(rows), "int32"), ops.cast(ops.round(columns), "int32")
    picked = ops.take_along_axis(labels, ops.clip(row, 0, height - 1)[:, :, None], axis=1)
    picked = ops.take_along_axis(picked, ops.clip(column, 0, width - 1)[:, None, :], axis=2)
    inside = ((row >= 0) & (row < height))[:, :, None] & ((column >= 0) & (column < width))[:, None, :]
    return ops.where(inside, picked, VOID)
