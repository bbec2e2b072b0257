"""Operations on images that several architectures share."""

import keras
import numpy as np
from keras import ops


class Normalise(keras.layers.Layer):
    """(image - mean) / std for each channel. [B,H,W,C] in 0..255 to [B,H,W,C]; no variables."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], **kwargs) -> None:
        super().__init__(**kwargs)
        self.mean, self.std = tuple(mean), tuple(std)

    def call(self, image):
        image = ops.cast(image, "float32")
        mean, std = np.asarray(self.mean, "float32"), np.asarray(self.std, "float32")
        return (image - mean) / std

    def compute_output_shape(self, input_shape):
        return input_shape


class Crop(keras.layers.Layer):
    """[B,H,W,C] cut to [B,*size,C], `size` (height, width), starting `offset` pixels from the top and the left."""

    def __init__(self, size: tuple[int, int], offset: int = 0, **kwargs) -> None:
        super().__init__(**kwargs)
        self.size, self.offset = tuple(size), offset

    def call(self, x):
        top = left = self.offset
        return x[:, top : top + self.size[0], left : left + self.size[1], :]

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *self.size, input_shape[-1])


def bilinear_kernel(size: int, channels: int) -> np.ndarray:
    """Weights [size,size,channels,channels] of a transposed convolution that interpolates bilinearly.

    Each channel is enlarged on its own (Long et al. 2015, Section 3.3; Caffe's BilinearFiller).

    >>> bilinear_kernel(4, 1)[0, :, 0, 0].tolist()
    [0.0625, 0.1875, 0.1875, 0.0625]
    """
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 else factor - 0.5
    ramp = 1 - np.abs(np.arange(size) - centre) / factor
    kernel = np.zeros((size, size, channels, channels), "float32")
    kernel[:, :, range(channels), range(channels)] = np.outer(ramp, ramp)[:, :, None]
    return kernel


class BilinearInitializer(keras.initializers.Initializer):
    """Initialises a transposed convolution's [k,k,C,C] kernel to bilinear interpolation."""

    def __call__(self, shape, dtype=None):
        return ops.convert_to_tensor(bilinear_kernel(shape[0], shape[2]), dtype=dtype or "float32")


class Upscore(keras.layers.Conv2DTranspose):
    """A deconvolution of kernel 2f and stride f, computed as one matrix product.

    [B,h,w,C] to [B,f*h,f*w,K] (padding "same") or [B,f*(h+1),f*(w+1),K] ("valid"): the same numbers and variables
    as Conv2DTranspose. Output block (i, j) of f x f pixels depends on 2 x 2 inputs only, so the product of those
    4C values with the kernel gives the block; XLA would multiply mostly zeros of a dilated image instead (on a CPU
    FCN-8s takes several times as long)."""

    def call(self, inputs):
        factor, channels = self.strides[0], inputs.shape[-1]
        x = ops.pad(inputs, ((0, 0), (1, 1), (1, 1), (0, 0)))
        height, width = inputs.shape[1] + 1, inputs.shape[2] + 1
        near = [x[:, 1 - p : 1 - p + height, 1 - q : 1 - q + width, :] for p in (0, 1) for q in (0, 1)]
        kernel = ops.reshape(self.kernel, (2, factor, 2, factor, self.filters, channels))
        kernel = ops.reshape(ops.transpose(kernel, (0, 2, 5, 1, 3, 4)), (4 * channels, factor**2 * self.filters))
        blocks = ops.matmul(ops.concatenate(near, axis=-1), kernel)  # [B,h+1,w+1,f*f*K]
        blocks = ops.reshape(blocks, (-1, height, width, factor, factor, self.filters))
        blocks = ops.transpose(blocks, (0, 1, 3, 2, 4, 5))
        out = ops.reshape(blocks, (-1, height * factor, width * factor, self.filters))
        if self.padding == "same":
            margin = factor // 2
            out = out[:, margin : margin + inputs.shape[1] * factor, margin : margin + inputs.shape[2] * factor, :]
        return out if self.bias is None else out + self.bias


class PatchConv2D(keras.layers.Conv2D):
    """A large-kernel convolution of stride 1 on a small map, computed as one matrix product over its patches.

    [B,h,w,C] to [B,h,w,K] (padding "same") or [B,h-k+1,w-k+1,K] ("valid"): the same numbers and variables as
    Conv2D. XLA's own convolution takes 25 times as long for fc6 on a CPU (7x7, measured), and on its small map the
    k*k*C patches cost little memory."""

    def call(self, inputs):
        size = self.kernel_size[0]
        if self.padding == "same":
            before, after = (size - 1) // 2, size // 2
            inputs = ops.pad(inputs, ((0, 0), (before, after), (before, after), (0, 0)))
        height, width = inputs.shape[1] - size + 1, inputs.shape[2] - size + 1
        shifted = [inputs[:, i : i + height, j : j + width, :] for i in range(size) for j in range(size)]
        kernel = ops.reshape(self.kernel, (size**2 * inputs.shape[-1], self.filters))
        return self.activation(ops.matmul(ops.concatenate(shifted, axis=-1), kernel) + self.bias)
