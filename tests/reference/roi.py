"""RoI max pooling and RoIAlign, one cell and one sample at a time."""

import math

import numpy as np


def caffe_bins(start, end, bins, cells, scale):
    """The released layer's bins along one axis: (first cell, end not included), with its float32 arithmetic
    (roi_pooling_layer.cpp)."""
    start, end = (int(x + math.copysign(0.5, x)) for x in (float(start) * scale, (float(end) - 1) * scale))
    bin_size = np.float32(max(end - start + 1, 1)) / np.float32(bins)
    for k in range(bins):
        low, high = int(np.floor(np.float32(k) * bin_size)), int(np.ceil(np.float32(k + 1) * bin_size))
        yield min(max(low + start, 0), cells), min(max(high + start, 0), cells)


def loop_max_pool(features, rois, upstream, size=(7, 7), spatial_scale=1 / 16):
    """The definition, read slowly: roi_pooling_layer.cpp of Fast R-CNN. Values and gradient; the gradient goes to the
    first of equal maxima in row-major order."""
    values, gradient = np.zeros((*rois.shape[:2], *size, features.shape[-1]), "float32"), np.zeros_like(features)
    for b, r in np.ndindex(*rois.shape[:2]):
        x1, y1, x2, y2 = rois[b, r]
        for i, (top, bottom) in enumerate(caffe_bins(y1, y2, size[0], features.shape[1], spatial_scale)):
            for j, (left, right) in enumerate(caffe_bins(x1, x2, size[1], features.shape[2], spatial_scale)):
                if top >= bottom or left >= right:
                    continue
                for c in range(features.shape[-1]):
                    cells = [(y, x) for y in range(top, bottom) for x in range(left, right)]
                    y, x = max(cells, key=lambda cell: features[b, *cell, c])
                    values[b, r, i, j, c] = features[b, y, x, c]
                    gradient[b, y, x, c] += upstream[b, r, i, j, c]
    return values, gradient


def bilinear(position, cells):
    """The two cells around a sample and their weights, by the border rule of Detectron2's ROIAlign; nothing outside."""
    if not -1 <= position <= cells:
        return []
    position = max(position, 0)
    low = int(position)
    if low >= cells - 1:
        return [(cells - 1, 1.0)]
    return [(low, 1 - (position - low)), (low + 1, position - low)]


def loop_align(features, rois, upstream, size, spatial_scale, sampling_ratio=2, aligned=True):
    """The definition, read slowly: Mask R-CNN, Section 3, as Detectron2's ROIAlign has it. Values and gradient, in
    float64."""
    values, gradient = np.zeros((*rois.shape[:2], *size, features.shape[-1])), np.zeros(features.shape)
    shift, n = 0.5 if aligned else 0.0, sampling_ratio
    for b, r, i, j in np.ndindex(*rois.shape[:2], *size):
        x1, y1, x2, y2 = rois[b, r].astype("float64") * spatial_scale - shift
        height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        for u, v in np.ndindex(n, n):
            for y, wy in bilinear(y1 + height / size[0] * (i + (u + 0.5) / n), features.shape[1]):
                for x, wx in bilinear(x1 + width / size[1] * (j + (v + 0.5) / n), features.shape[2]):
                    values[b, r, i, j] += wy * wx / n**2 * features[b, y, x]
                    gradient[b, y, x] += wy * wx / n**2 * upstream[b, r, i, j]
    return values, gradient
