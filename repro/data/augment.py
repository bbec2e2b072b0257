"""Augmentation on the device, inside the compiled train step: `keras.ops` alone, the same on every backend."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from repro.data.base import VOID
from repro.errors import ReproError

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
GRID = 3  # elastic displacements are drawn on GRID x GRID points (U-Net, Section 3.1)


class Augment:
    """Crop, mirror, shift, zoom, rotate, deform and change the grey values, each image on its own.

    The geometry is one map from the pixels of the output to places in the whole input image, so that a rotated or
    shifted crop shows what really lies beside its window. From the centre of the window outwards: mirror, zoom,
    rotate, shift, deform.

    crop: (height, width) of a window at a random place, wholly inside the valid part of the image where that is
    large enough (else at its top or left: the rest is padding). flip: mirror left to right with probability 1/2
    (the FCN paper's "mirroring"). jitter: shift by up to this many pixels each way ("up to 32 px"). zoom:
    (low, high) range of a uniform scale. rotate: by up to this many degrees either way. elastic: standard
    deviation, in pixels of the input, of random displacements on a 3x3 grid over the output, its corners in the
    corner pixels (U-Net, Section 3.1: 10), bicubic in between. grey: c up to +-grey and b up to +-grey * 127.5
    make image * (1 + c) + b, clipped to 0..255 (U-Net's "gray value variations"; the paper gives no figures).

    Images are sampled bilinearly; labels and pixel weights by the nearest pixel. Outside the image, rotation and
    elastic deformation show it mirrored about its border pixels (U-Net, Section 2), the others repeat the border.

    Raises ReproError for options out of range."""

    def __init__(
        self,
        seed: int,
        crop: tuple[int, int] | None = None,
        flip: bool = False,
        jitter: float = 0.0,
        zoom: tuple[float, float] = (1.0, 1.0),
        rotate: float = 0.0,
        elastic: float = 0.0,
        grey: float = 0.0,
    ) -> None:
        self.crop, self.zoom = None if crop is None else tuple(crop), tuple(zoom)
        _check(self.crop, self.zoom, {"jitter": jitter, "rotate": rotate, "elastic": elastic, "grey": grey})
        self.flip, self.jitter, self.rotate, self.elastic, self.grey = flip, jitter, rotate, elastic, grey
        # one generator, drawn from only for what is switched on: a new option changes no run without it
        self.generator = keras.random.SeedGenerator(seed)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch whose images are [B,*crop,C] float32, or [B,H,W,C] without `crop`.

        `image` [B,H,W,C] of any dtype, H and W static; if there, `semantic` [B,H,W] (becomes int32) and
        `pixel_weight` [B,H,W] (float32) follow it: void and 0 where a pixel comes from outside the image or from its
        padding. `valid_size` int [B,2] is the (height, width) of the real part, at the top left; it is not in the
        output, since the real part need not be a rectangle any more. Other entries (boxes too) pass as they are.

        Raises ReproError, when it is traced, for images smaller than `crop`."""
        image = ops.cast(batch["image"], "float32")
        canvas = (image.shape[1], image.shape[2])
        valid = ops.cast(batch.get("valid_size", [canvas]), "int32")
        rows, columns = self._coordinates(ops.shape(image)[0], canvas, valid)
        sample = _bilinear_dense if self.rotate or self.elastic else _bilinear
        image = sample(image, rows, columns)
        batch = {name: value for name, value in batch.items() if name != "valid_size"}
        batch["image"] = self._change_grey(image) if self.grey else image
        for name, dtype, outside in (("semantic", "int32", VOID), ("pixel_weight", "float32", 0.0)):
            if name in batch:
                batch[name] = _nearest(ops.cast(batch[name], dtype), rows, columns, valid, outside)
        return batch

    def _coordinates(self, count: Any, canvas: tuple[int, int], valid: Any) -> tuple[Any, Any]:
        """Row and column in the source of every output pixel's centre: [B,h,1] and [B,1,w], or both [B,h,w]."""
        height, width = self.crop or canvas
        if height > canvas[0] or width > canvas[1]:
            problem = f"cannot crop {height}x{width} from an image of {canvas[0]}x{canvas[1]}"
            raise ReproError(problem, "give a smaller crop or a larger input size")
        scale = self._uniform(count, *self.zoom)
        mirror = ops.sign(self._uniform(count, -1.0, 1.0)) if self.flip else ops.ones((count,))
        down, across = (self._uniform(count, -self.jitter, self.jitter) for _ in range(2))
        if self.crop:
            down = down + self._place(count, valid[:, 0], height)
            across = across + self._place(count, valid[:, 1], width)
        rows, columns = _from_centre(height, 1 / scale)[:, :, None], _from_centre(width, mirror / scale)[:, None, :]
        if self.rotate:
            angle = self._uniform(count, -self.rotate, self.rotate)[:, None, None] * (math.pi / 180)
            cosine, sine = ops.cos(angle), ops.sin(angle)
            rows, columns = cosine * rows - sine * columns, sine * rows + cosine * columns
        rows = rows + (height - 1) / 2 + down[:, None, None]
        columns = columns + (width - 1) / 2 + across[:, None, None]
        if self.elastic:
            moved = _spread(self.elastic * self._normal((count, 2, GRID, GRID)), height, width)
            rows, columns = rows + moved[:, 0], columns + moved[:, 1]
        return rows, columns

    def _place(self, count: Any, valid: Any, length: int) -> Any:
        """The first row (or column) of a window of `length` inside the `valid` ones: whole, uniform, float [B]."""
        room = ops.cast(ops.maximum(valid - length, 0), "float32")
        # the minimum, in case that a draw close to 1 is rounded up to it
        return ops.minimum(ops.floor(self._uniform(count, 0.0, 1.0) * (room + 1)), room)

    def _change_grey(self, image: Any) -> Any:
        count = ops.shape(image)[0]
        contrast = 1 + self._uniform(count, -self.grey, self.grey)
        brightness = self._uniform(count, -self.grey, self.grey) * (255 / 2)
        image = image * contrast[:, None, None, None] + brightness[:, None, None, None]
        return ops.clip(image, 0.0, 255.0)

    def _uniform(self, count: Any, low: float, high: float) -> Any:
        return keras.random.uniform((count,), low, high, seed=self.generator)

    def _normal(self, shape: tuple[Any, ...]) -> Any:
        return keras.random.normal(shape, seed=self.generator)


def _check(crop: Any, zoom: Any, limits: dict[str, float]) -> None:
    if crop is not None and not (len(crop) == 2 and all(isinstance(n, int) and n > 0 for n in crop)):
        raise ReproError(f"augmentation: crop is {crop}", "give (height, width) in whole pixels above 0")
    if not (len(zoom) == 2 and 0 < zoom[0] <= zoom[1] < math.inf):
        raise ReproError(f"augmentation: zoom is {zoom}", "give (low, high) with 0 < low <= high")
    highest = {"rotate": 180.0, "grey": 1.0}
    for name, limit in limits.items():
        if not 0 <= limit <= highest.get(name, limit) or not math.isfinite(limit):
            at_most = f" and at most {highest[name]:g}" if name in highest else ""
            raise ReproError(f"augmentation: {name} is {limit}", f"give a number of at least 0{at_most}")


def _from_centre(length: int, factor: Any) -> Any:
    """[B,length]: how far from the window's centre every output pixel looks."""
    return factor[:, None] * (ops.arange(length, dtype="float32") - (length - 1) / 2)[None, :]


def _bilinear(image: Any, rows: Any, columns: Any) -> Any:
    """Sample [B,H,W,C] at rows [B,h,1] and columns [B,1,w]: [B,h,w,C]. Outside, the border is repeated."""
    # the map is separable, so bilinear sampling is one small matrix for the rows and one for the columns
    image = ops.einsum("bij,bjwc->biwc", _hat(rows[:, :, 0], image.shape[1]), image)
    return ops.einsum("bkw,biwc->bikc", _hat(columns[:, 0, :], image.shape[2]), image)


def _hat(coordinates: Any, length: int) -> Any:
    """Bilinear weights [B,n,length] of source pixels for coordinates [B,n]; outside, the border is repeated."""
    inside = ops.clip(coordinates, 0.0, length - 1.0)
    return ops.relu(1 - ops.abs(inside[:, :, None] - ops.arange(length, dtype="float32")))


def _bilinear_dense(image: Any, rows: Any, columns: Any) -> Any:
    """Sample [B,H,W,C] at rows and columns [B,h,w]: [B,h,w,C]. Outside, the image is mirrored."""
    top, bottom, down = _neighbours(rows, image.shape[1])
    left, right, across = _neighbours(columns, image.shape[2])
    upper = _pick(image, top, left) * (1 - across) + _pick(image, top, right) * across
    lower = _pick(image, bottom, left) * (1 - across) + _pick(image, bottom, right) * across
    return upper * (1 - down) + lower * down


def _neighbours(coordinates: Any, length: int) -> tuple[Any, Any, Any]:
    """The pixels before and after each coordinate (int32), and how far it lies between them, [...,1] float32."""
    last = length - 1
    folded = last - ops.abs(ops.mod(coordinates, max(2 * last, 1)) - last)
    before = ops.clip(ops.floor(folded), 0, last)
    index = ops.cast(before, "int32")
    return index, ops.minimum(index + 1, last), (folded - before)[..., None]


def _nearest(values: Any, rows: Any, columns: Any, valid: Any, outside: float) -> Any:
    """Sample [B,H,W] at the nearest pixel: [B,h,w]; `outside` beyond the valid (height, width) [B or 1,2]."""
    row, column = ops.cast(ops.round(rows), "int32"), ops.cast(ops.round(columns), "int32")
    height, width = valid[:, 0, None, None], valid[:, 1, None, None]
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    row, column = ops.clip(row, 0, values.shape[1] - 1), ops.clip(column, 0, values.shape[2] - 1)
    return ops.where(inside, _pick(values[..., None], row, column)[..., 0], outside)


def _pick(image: Any, row: Any, column: Any) -> Any:
    """The pixels [B,h,w,C] of [B,H,W,C] at rows and columns whose shapes broadcast to [B,h,w]."""
    height, width, channels = image.shape[1:]
    index = row * width + column
    flat = ops.take_along_axis(
        ops.reshape(image, (-1, height * width, channels)),
        ops.reshape(index, (-1, index.shape[1] * index.shape[2], 1)),
        axis=1,
    )
    return ops.reshape(flat, (-1, *index.shape[1:], channels))


def _spread(grid: Any, height: int, width: int) -> Any:
    """Interpolate [B,2,GRID,GRID] bicubically to [B,2,height,width]."""
    return ops.einsum("hi,bcij,wj->bchw", _cubic(height), grid, _cubic(width))


def _cubic(length: int) -> np.ndarray:
    """Weights [length,GRID] of the grid's points for every pixel, float32.

    Cubic convolution with a = -1/2 (Keys 1981: Catmull-Rom splines): through every point, smooth in between. The
    outermost points are repeated beyond the grid, so that no displacement is extrapolated."""
    places = np.linspace(0, GRID - 1, length)
    weights = np.zeros((length, GRID))
    for point in range(-1, GRID + 1):
        x = np.abs(places - point)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        weights[:, np.clip(point, 0, GRID - 1)] += np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights.astype("float32")
