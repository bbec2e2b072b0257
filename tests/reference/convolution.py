"""Convolution as a sum over the places of its kernel."""

import numpy as np


def convolve(x, layer):
    """The definition, read slowly: a 3x3 layer (VGG, Section 2.1), padded by a pixel, in float64."""
    kernel, bias = (np.asarray(weight, "float64") for weight in layer.get_weights())
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    height, width = x.shape[1:3]
    return bias + sum(padded[:, i : i + height, j : j + width] @ kernel[i, j] for i in range(3) for j in range(3))
