"""2x2 max pooling that tells where each maximum was, and the unpooling that puts values back there.

Badrinarayanan et al. 2017 (SegNet), Section 3; Caffe's Pooling layer and the authors' Upsample layer.
"""

from typing import Any

import keras
from keras import ops


class MaxPoolWithIndices(keras.layers.Layer):
    """2x2 max pooling of stride 2. [B,H,W,C] to values [B,h,w,C] and int8 indices [B,h,w,C], h = ceil(H/2).

    An index is 2 * row + column of the maximum inside its window; of equal values the first in this order counts.
    Odd sizes round up, as Caffe does: the last window is cut, and no index points outside the image. The gradient
    flows to the chosen position alone. XLA has no max_pool_with_argmax, and its gradient of a max pooling, a scatter,
    takes several times as long on a CPU as these comparisons do."""

    def call(self, x):
        odd = x.shape[1] % 2, x.shape[2] % 2
        if any(odd):
            x = ops.pad(x, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)), constant_values=float("-inf"))
        windows = ops.reshape(x, (-1, x.shape[1] // 2, 2, x.shape[2] // 2, 2, x.shape[3]))
        a, b, c, d = (windows[:, :, row, :, column, :] for row in (0, 1) for column in (0, 1))
        indices = ops.where(
            ops.less(ops.maximum(a, b), ops.maximum(c, d)),
            2 + ops.cast(ops.less(c, d), "int8"),
            ops.cast(ops.less(a, b), "int8"),
        )
        # not the maximum itself, whose gradient is shared among equals
        top, bottom = ops.where(ops.equal(indices, 0), a, b), ops.where(ops.equal(indices, 2), c, d)
        return ops.where(ops.less(indices, 2), top, bottom), indices

    def compute_output_spec(self, x):
        shape = (x.shape[0], -(-x.shape[1] // 2), -(-x.shape[2] // 2), x.shape[3])
        return keras.KerasTensor(shape, self.compute_dtype), keras.KerasTensor(shape, "int8")


class MaxUnpool(keras.layers.Layer):
    """Values [B,h,w,C] and their indices [B,h,w,C], as of `MaxPoolWithIndices`, to [B,H,W,C], zero elsewhere.

    `size` is (H, W), the size before the pooling. Raises ValueError where its pooling has another size than (h, w)."""

    def __init__(self, size: tuple[int, int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size = tuple(size)

    def call(self, inputs):
        values, indices = inputs
        _, height, width, channels = values.shape
        if (height, width) != tuple(-(-side // 2) for side in self.size):
            raise ValueError(f"values are {height}x{width}, not what {self.size[0]}x{self.size[1]} is pooled to")
        a, b, c, d = (ops.where(ops.equal(indices, k), values, 0) for k in range(4))
        rows = [ops.stack([a, b], axis=3), ops.stack([c, d], axis=3)]  # [B,h,w,2,C] each
        x = ops.reshape(ops.stack(rows, axis=2), (-1, 2 * height, 2 * width, channels))
        return x[:, : self.size[0], : self.size[1], :]
