"""Augmentation of images with boxes, as the YOLO line has it: scaled, shifted, mirrored, recoloured and resized.

YOLO v1 (arXiv 1506.02640), Section 2.2: scaling and translations of up to 20 %, exposure and saturation of up to a
factor of 1.5 in HSV; YOLO v2 (arXiv 1612.08242), Section 3, and the .cfg files of v2 and v3: jitter 0.3, hue 0.1.
On the device, inside the compiled train step: `keras.ops` alone, the same on every backend.
"""

import math
from typing import Any

import keras
from keras import ops

from repro.data.cache import PADDING_GREY
from repro.errors import ReproError
from repro.ops.boxes import box_area, clip_boxes, flip_boxes, side_lengths

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
LEAST_AREA = 0.1  # share of its area that a box must keep inside the canvas
LEAST_SIDE = 1.0  # pixels of width and of height that a box which is cut must keep


class Jitter:
    """Place each image of a batch anew on its canvas, change its colours, and move its boxes with it.

    flip: mirror left to right with probability 1/2. scale: width and height become 1 - scale to 1 + scale times what
    they were, each on its own (as Darknet's crops distort), about the image's centre. shift: the image moves by up to
    this share of its width and of its height either way. saturation, exposure: S and V of HSV times a factor of up to
    this, or divided by one, with equal probability (Darknet's `rand_scale`). hue: H turns by up to this share of the
    circle either way. size: side in pixels of the square images that come out, None for the canvas that came in; it
    may be set between calls.

    Bilinear when enlarging, with a wider triangle when reducing. Beyond the image the canvas has the grey of
    `letterbox`. Raises ReproError for options out of range."""

    def __init__(
        self,
        seed: int,
        flip: bool = False,
        scale: float = 0.2,
        shift: float = 0.2,
        saturation: float = 1.5,
        exposure: float = 1.5,
        hue: float = 0.0,
        size: int | None = None,
    ) -> None:
        checks = (
            ("scale", scale, 0, 0.9), ("shift", shift, 0, 0.5), ("hue", hue, 0, 0.5),
            ("saturation", saturation, 1, 100), ("exposure", exposure, 1, 100), ("size", size or 1, 1, math.inf),
        )  # fmt: skip
        for label, value, low, high in checks:
            if not (low <= value <= high and math.isfinite(value)):
                raise ReproError(f"augmentation: {label} is {value}", f"give a number from {low} to {high:g}")
        self.flip, self.scale, self.shift = flip, scale, shift
        self.saturation, self.exposure, self.hue, self.size = saturation, exposure, hue, size
        # one generator, drawn from only for what is switched on: a new option changes no run without it
        self.generator = keras.random.SeedGenerator(seed)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A batch whose `image` is [B,size,size,C] or [B,H,W,C] float32 in 0..255.

        `image` [B,H,W,C] of any dtype, H and W static; `valid_size` int [B,2], the (height, width) of the real part at
        the top left; `boxes` [B,M,4] in pixels of the canvas, `classes` int [B,M], -1 = padding. `valid_size` becomes
        where the image ends at the bottom and the right, cut to the canvas and rounded up: a margin that opens above
        or left of it counts as real, so that all boxes are inside. Boxes are cut to the canvas; one that keeps less
        than a tenth of its area, or is cut to less than a pixel of width or height, becomes padding: class -1, zeros.
        Other entries pass as they are.

        Raises ReproError, when it is traced, for proposals, which do not move, and for a change of hue of images that
        have not three channels."""
        if "proposals" in batch:
            raise ReproError("proposals do not move with their images", "use flip alone in augment")
        image = ops.cast(batch["image"], "float32")
        canvas, count = tuple(image.shape[1:3]), ops.shape(image)[0]
        target = (self.size, self.size) if self.size else canvas
        extent = ops.cast(batch["valid_size"], "float32")  # [B,2], as are start and factor
        start, factor = self._placement(count, extent, canvas, target)
        turned = self._uniform(count, -1.0, 1.0) < 0 if self.flip else None  # [B]

        rows, down = _weights(target[0], canvas[0], start[:, 0], factor[:, 0], extent[:, 0])
        columns, across = _weights(target[1], canvas[1], start[:, 1], factor[:, 1], extent[:, 1], turned)
        # the map is separable, so sampling is one small matrix for the rows and one for the columns
        image = ops.einsum("bij,bjwc->biwc", rows, image)
        image = self._change_colours(count, ops.einsum("bkw,biwc->bikc", columns, image))
        covered = ops.logical_and(down[:, :, None], across[:, None, :])[..., None]
        moved = _move(batch["boxes"], batch["classes"], start, factor, extent, target, turned)
        # a product that should be whole may come out a little above
        end = ops.ceil(ops.minimum(start + factor * extent, ops.convert_to_tensor(target, dtype="float32")) - 1e-3)
        image = ops.where(covered, image, float(PADDING_GREY))
        return batch | moved | {"image": image, "valid_size": ops.cast(ops.maximum(end, 1.0), "int32")}

    def _placement(self, count: Any, extent: Any, canvas: tuple[int, int], target: tuple[int, int]) -> tuple[Any, Any]:
        """start and factor [B,2] of the map source -> start + factor * source, for y and x."""
        ratio = ops.convert_to_tensor([new / old for new, old in zip(target, canvas, strict=True)], dtype="float32")
        zoom = 1 + self._uniform((count, 2), -self.scale, self.scale) if self.scale else ops.ones_like(extent)
        start = 0.5 * (1 - zoom) * extent
        if self.shift:
            start = start + self._uniform((count, 2), -self.shift, self.shift) * extent
        return ratio * start, ratio * zoom

    def _change_colours(self, count: Any, image: Any) -> Any:
        if self.hue:
            if image.shape[-1] != 3:
                raise ReproError(f"images of {image.shape[-1]} channels have no hue", "leave hue out of augment")
            image = turn_hue(image, self._uniform(count, -self.hue, self.hue))
        if self.saturation == self.exposure == 1:
            return image
        saturation, exposure = (
            self._factor(count, limit) if limit > 1 else ops.ones((count,))
            for limit in (self.saturation, self.exposure)
        )
        return scale_saturation_and_value(image, saturation, exposure)

    def _factor(self, count: Any, limit: float) -> Any:
        """Uniform in [1,limit], or one over such a number, each with probability 1/2; [B]."""
        drawn = self._uniform(count, 1 - limit, limit - 1)
        return ops.where(drawn < 0, 1 / (1 + ops.abs(drawn)), 1 + ops.abs(drawn))

    def _uniform(self, shape: Any, low: float, high: float) -> Any:
        shape = shape if isinstance(shape, tuple) else (shape,)
        return keras.random.uniform(shape, low, high, dtype="float32", seed=self.generator)


def _weights(length: int, source: int, start: Any, factor: Any, extent: Any, turned: Any = None) -> tuple[Any, Any]:
    """Weights [B,length,source] of source pixels for each output pixel, and which of these show the image, [B,length].

    Along one axis: start, factor and extent (of the image, in source pixels) are [B]; `turned` bool [B] or None."""
    start, factor, extent = start[:, None], factor[:, None], extent[:, None]
    place = (ops.arange(length, dtype="float32") + 0.5 - start) / factor - 0.5  # a pixel's centre lies half a pixel in
    shown = ops.logical_and(place >= -0.5, place < extent - 0.5)
    if turned is not None:
        place = ops.where(turned[:, None], extent - 1 - place, place)
    place = ops.minimum(ops.maximum(place, 0.0), extent - 1)
    reach = ops.maximum(1 / factor, 1.0)[:, :, None]  # of the triangle, which averages when it reduces
    pixel = ops.arange(source, dtype="float32")[None, None, :]
    weights = ops.relu(1 - ops.abs(place[:, :, None] - pixel) / reach)
    weights = ops.where(pixel < extent[:, :, None], weights, 0.0)
    return weights / ops.sum(weights, axis=-1, keepdims=True), shown


def _move(
    boxes: Any, classes: Any, start: Any, factor: Any, extent: Any, target: tuple[int, int], turned: Any
) -> dict[str, Any]:
    """Boxes [B,M,4] and classes [B,M] after the map of `Jitter._placement`; what keeps too little is padding."""
    boxes, classes = ops.cast(boxes, "float32"), ops.cast(classes, "int32")
    if turned is not None:
        boxes = ops.where(turned[:, None, None], flip_boxes(boxes, extent[:, 1:]), boxes)
    four = [1, 0, 1, 0]  # y and x to x, y, x, y
    moved = boxes * ops.take(factor, four, axis=1)[:, None] + ops.take(start, four, axis=1)[:, None]
    cut = clip_boxes(moved, ops.convert_to_tensor([target], dtype="float32"))
    kept = ops.logical_and(classes >= 0, box_area(cut) > 0)
    kept = ops.logical_and(kept, box_area(cut) >= LEAST_AREA * box_area(moved))
    for left, whole in zip(side_lengths(cut), side_lengths(moved), strict=True):
        kept = ops.logical_and(kept, left >= ops.minimum(whole, LEAST_SIDE))
    return {"boxes": ops.where(kept[..., None], cut, 0.0), "classes": ops.where(kept, classes, -1)}


def scale_saturation_and_value(image: Any, saturation: Any, exposure: Any) -> Any:
    """RGB images [B,H,W,C] in 0..255 with S and V of HSV times factors [B], clipped to 0..255.

    c = V (1 - S g) with a g that hue alone decides, so that the two factors need no way through HSV."""
    value = ops.max(image, axis=-1, keepdims=True)
    saturation, exposure = saturation[:, None, None, None], exposure[:, None, None, None]
    return ops.clip((value - (value - image) * saturation) * exposure, 0.0, 255.0)


def turn_hue(image: Any, turn: Any) -> Any:
    """RGB images [B,H,W,3] with H of HSV turned by shares of the circle [B]; S and V stay.

    Hue counts in sixths; channel n of (5, 3, 1) is V - V S max(0, min(k, 4 - k, 1)), k = (n + hue) mod 6."""
    value, least = ops.max(image, axis=-1, keepdims=True), ops.min(image, axis=-1, keepdims=True)
    chroma = value - least
    red, green, blue = (image[..., channel : channel + 1] for channel in range(3))
    safe = ops.where(chroma > 0, chroma, 1.0)
    sixth = ops.where(
        ops.equal(red, value),
        (green - blue) / safe,
        ops.where(ops.equal(green, value), 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )  # grey has none, and no chroma to show it
    offsets = ops.convert_to_tensor([5.0, 3.0, 1.0], dtype="float32")
    k = ops.mod(sixth + 6 * turn[:, None, None, None] + offsets, 6.0)
    return value - chroma * ops.clip(ops.minimum(k, 4 - k), 0.0, 1.0)
