"""Max pooling that remembers where its maxima stood, and unpooling, one window at a time."""

import numpy as np


def chosen(x):
    """For every window (b,i,j,c) of 2x2 pixels the position of its maximum in x, the first in row-major order."""
    count, height, width, channels = x.shape
    for b, i, j, c in np.ndindex(count, -(-height // 2), -(-width // 2), channels):
        best = None
        for y in range(2 * i, min(2 * i + 2, height)):
            for z in range(2 * j, min(2 * j + 2, width)):
                if best is None or x[b, y, z, c] > x[b, *best, c]:
                    best = y, z
        yield (b, i, j, c), (b, *best, c)


def pooled(x):
    """The definition, read slowly: max pooling with indices (SegNet, Section 3), values and indices in the window."""
    shape = (len(x), -(-x.shape[1] // 2), -(-x.shape[2] // 2), x.shape[3])
    values, indices = np.zeros(shape, x.dtype), np.zeros(shape, "int8")
    for window, position in chosen(x):
        values[window] = x[position]
        indices[window] = 2 * (position[1] % 2) + position[2] % 2
    return values, indices


def unpooled(values, indices, size):
    """The definition, read slowly: every value at its index, zeros elsewhere (SegNet, Fig. 3)."""
    x = np.zeros((len(values), *size, values.shape[-1]))
    for b, i, j, c in np.ndindex(*values.shape):
        row, column = divmod(int(indices[b, i, j, c]), 2)
        x[b, 2 * i + row, 2 * j + column, c] = values[b, i, j, c]
    return x
