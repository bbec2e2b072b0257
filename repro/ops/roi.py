"""RoI max pooling and RoIAlign: features of a fixed size for every region. `keras.ops` only, static shapes.

Girshick 2015 (Fast R-CNN), Section 2.1 and the released Caffe layer; He et al. 2017 (Mask R-CNN), Section 3.
Forward both gather whole channel vectors from the map, which XLA turns into one loop without temporaries of the
output's size. At 2000 RoIs x 512 channels on two CPU cores (TensorFlow, XLA) pooling takes 0.07 s, where masked maxima
took 5.6 ms a RoI, and alignment 0.04 s, where products with matrices of bilinear weights took 1.3 s. Backward RoIAlign
does use those matrices: autodiff would give a scatter for each of 16 taps, which XLA takes seconds to compile and
whose atomic additions on a GPU do not repeat bit for bit.
"""

from typing import Any

import numpy as np
from keras import ops

from repro.errors import ReproError

# A RoI of more cells than this is cut; no map is half as long. It bounds a table and keeps products in int32.
_LONGEST = 2048


def roi_max_pool(features: Any, rois: Any, size: tuple[int, int] = (7, 7), spatial_scale: float = 1 / 16) -> Any:
    """Maxima of features [B,H,W,C] over an h x w grid of bins in each RoI; [B,R,h,w,C] of the features' dtype.

    rois [B,R,4] are (x1,y1,x2,y2), half-open, in pixels of the network's input, RoIs of image b in row b;
    `spatial_scale` is cells of the map per pixel. Padding gets values like any other RoI: mask them. No gradient
    flows to RoIs.

    Quantised as in the released Caffe layer (Fast R-CNN, Sec 2.1; roi_pooling_layer.cpp), whose corners are
    inclusive: its x2 is our x2 - 1. A RoI goes from round(x1 * scale) to round((x2 - 1) * scale) inclusive, halves
    rounded away from zero, and is at least one cell. Of n cells, bin i takes those from floor(i * n/w) up to, not
    including, ceil((i + 1) * n/w), in float32 (57 cells in 7 bins reach one cell beyond the RoI, there as here), cut
    at the borders of the map. An empty bin is 0 and passes no gradient.

    The gradient of a bin goes to one position that has its maximum. Of several, the choice is the same on every
    backend, but not always Caffe's first in row-major order; behind a ReLU such ties are all but always at 0, where
    no gradient passes on.

    Method: a bin is covered by four overlapping windows whose sides are powers of two, so its maximum is that of
    four entries of a table of running maxima, 23 times a map of 38 x 63 cells. Uncompiled, temporaries take up to ten
    times the output.

    Raises ValueError for shapes and sizes that do not fit.

    >>> features = ops.reshape(ops.arange(16, dtype="float32"), (1, 4, 4, 1))
    >>> pooled = roi_max_pool(features, ops.convert_to_tensor([[[0.0, 0.0, 4.0, 4.0]]]), (2, 2), spatial_scale=1.0)
    >>> ops.convert_to_numpy(pooled).ravel().tolist()
    [5.0, 7.0, 13.0, 15.0]
    """
    _check(features, rois, size, spatial_scale)
    height, width, channels = features.shape[1:]
    rois = ops.stop_gradient(ops.cast(rois, "float32"))
    top, bottom = _caffe_bins(rois[..., 1], rois[..., 3], size[0], height, spatial_scale)  # [B,R,h]
    left, right = _caffe_bins(rois[..., 0], rois[..., 2], size[1], width, spatial_scale)  # [B,R,w]
    rows, columns = _two_windows(top, bottom, height), _two_windows(left, right, width)

    table = _running_maxima(_running_maxima(features, axis=2), axis=1)
    indices = [_flat_indices(row, column, table.shape) for row in rows for column in columns]
    # one gather, hence one scatter in the gradient: four take JAX eight times as long on a CPU
    windows = ops.take(ops.reshape(table, (-1, channels)), ops.stack(indices), axis=0)  # [4,B,R,h,w,C]
    values = windows[0]
    for k in range(1, 4):
        values = ops.where(ops.greater(windows[k], values), windows[k], values)
    filled = ops.logical_and(ops.less(top, bottom)[..., :, None], ops.less(left, right)[..., None, :])
    return ops.where(filled[..., None], values, ops.zeros_like(values))


def roi_align(
    features: Any,
    rois: Any,
    size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int = 2,
    aligned: bool = True,
) -> Any:
    """Averages of features [B,H,W,C] over an h x w grid of bins in each RoI, without quantisation; [B,R,h,w,C] of
    the features' dtype, computed in float32.

    rois [B,R,4] are (x1,y1,x2,y2) in pixels of the network's input, RoIs of image b in row b; `spatial_scale` is
    cells of the map per pixel. Padding gets values like any other RoI: mask them. No gradient flows to RoIs.

    A bin is the mean of sampling_ratio x sampling_ratio bilinear samples, regularly spaced (Mask R-CNN, Sec 3: 4
    points a bin). `aligned` subtracts half a cell, since the value of cell k stands for its centre k + 0.5
    (Detectron2's ROIAlignV2); aligned=False is the layer as published, where a RoI is at least one cell. Borders as
    in Detectron2 and torchvision: along each axis a sample is 0 outside [-1, H], and within it clamped to [0, H - 1].

    Raises ReproError for a sampling ratio below 1, ValueError for shapes and sizes that do not fit."""
    _check(features, rois, size, spatial_scale)
    if sampling_ratio < 1:
        problem = f"sampling ratio {sampling_ratio} would sample every RoI differently, which has no static shape"
        raise ReproError(problem, "give 1 or more; the papers use 2")
    height, width = features.shape[1:3]
    rois = ops.stop_gradient(ops.cast(rois, "float32"))
    y = _samples(rois[..., 1], rois[..., 3], size[0], height, spatial_scale, sampling_ratio, aligned)
    x = _samples(rois[..., 0], rois[..., 2], size[1], width, spatial_scale, sampling_ratio, aligned)

    @ops.custom_gradient
    def align(features):
        def gradient(*args, upstream=None):
            upstream = ops.cast(args[0] if upstream is None else upstream, "float32")
            columns = ops.einsum("brpy,brpqc->byrqc", _bilinear_matrices(*y, height), upstream)
            return ops.cast(ops.einsum("byrqc,brqx->byxc", columns, _bilinear_matrices(*x, width)), features.dtype)

        return ops.cast(_weighted_gathers(features, _taps(*y, height), _taps(*x, width)), features.dtype), gradient

    return align(features)


def _check(features: Any, rois: Any, size: tuple[int, int], spatial_scale: float) -> None:
    """What would otherwise broadcast, or fail deep inside a compiler."""
    if len(features.shape) != 4 or None in tuple(features.shape[1:]):
        raise ValueError(f"features have shape {tuple(features.shape)}, not [B,H,W,C] with known H, W and C")
    if len(rois.shape) != 3 or rois.shape[2] != 4:
        raise ValueError(f"rois have shape {tuple(rois.shape)}, not [B,R,4]")
    if None not in (features.shape[0], rois.shape[0]) and features.shape[0] != rois.shape[0]:
        raise ValueError(f"features are of {features.shape[0]} images, rois of {rois.shape[0]}")
    if len(size) != 2 or min(size) < 1 or spatial_scale <= 0:
        raise ValueError(f"size {tuple(size)} and spatial scale {spatial_scale} are not all above 0")


def _flat_indices(rows: Any, columns: Any, shape: Any) -> Any:
    """Rows [B,R,h] and columns [B,R,w] of a map [B,H,W,C] as indices [B,R,h,w] into it as [B*H*W,C]."""
    images = ops.arange(ops.shape(rows)[0], dtype="int32")[:, None, None, None] * (shape[1] * shape[2])
    return images + rows[..., :, None] * shape[2] + columns[..., None, :]


def _caffe_bins(start: Any, end: Any, bins: int, cells: int, scale: float) -> tuple[Any, Any]:
    """First cells and ends (not included) [B,R,bins] of the bins along one axis of RoIs [B,R]; equal if empty."""
    first = _round(start * scale)
    length = ops.clip(_round((end - 1) * scale) - first + 1, 1, _LONGEST)
    # A table, for XLA divides by multiplying with the reciprocal, and a last bit decides about a cell
    bin_size = np.arange(_LONGEST + 1, dtype="float32")[:, None] / np.float32(bins)
    starts = np.floor(np.arange(bins, dtype="float32") * bin_size).astype("int32")
    ends = np.ceil(np.arange(1, bins + 1, dtype="float32") * bin_size).astype("int32")
    edges = (ops.take(ops.convert_to_tensor(table), length, axis=0) + first[..., None] for table in (starts, ends))
    return tuple(ops.clip(edge, 0, cells) for edge in edges)


def _round(x: Any) -> Any:
    """C's round, halves away from zero, to int32; `ops.round` takes halves to the even number."""
    magnitude = ops.abs(ops.clip(x, -1e6, 1e6))  # fits int32
    whole = ops.floor(magnitude)
    return ops.cast(ops.sign(x) * (whole + ops.cast(magnitude - whole >= 0.5, "float32")), "int32")


def _running_maxima(x: Any, axis: int) -> Any:
    """The entries of x along an axis, then the maxima of every 2, 4, 8, ... neighbours, in one tensor."""
    before = (slice(None),) * axis
    levels, span = [x], 1
    while 2 * span <= x.shape[axis]:
        last = levels[-1]
        a, b = last[(*before, slice(None, -span))], last[(*before, slice(span, None))]
        # not ops.maximum, whose gradient among equals depends on the backend
        levels.append(ops.where(ops.greater(b, a), b, a))
        span *= 2
    return ops.concatenate(levels, axis=axis)


def _two_windows(start: Any, end: Any, cells: int) -> tuple[Any, Any]:
    """Where along `_running_maxima` of so many cells stand the two windows that together are start..end."""
    offsets, spans, offset, span = [0], [0], 0, 1
    for length in range(1, cells + 1):
        if length == 2 * span:
            offset, span = offset + cells - span + 1, 2 * span
        offsets.append(offset)
        spans.append(span)
    offset_of, span_of = (ops.convert_to_tensor(np.array(table, "int32")) for table in (offsets, spans))
    length = end - start
    offset, span = ops.take(offset_of, length, axis=0), ops.take(span_of, length, axis=0)
    # an empty bin behind the last cell has no entry
    return tuple(ops.clip(offset + i, 0, offsets[-1] + cells - spans[-1]) for i in (start, end - span))


def _samples(start: Any, end: Any, bins: int, cells: int, scale: float, ratio: int, aligned: bool) -> tuple[Any, Any]:
    """Positions [B,R,bins,ratio] of the samples along one axis of RoIs [B,R], clamped to the map, and their weights:
    1 / ratio, or 0 outside the map."""
    shift = 0.5 if aligned else 0.0
    first = start * scale - shift
    length = end * scale - shift - first
    if not aligned:
        length = ops.maximum(length, 1.0)
    fractions = ((np.arange(bins * ratio) + 0.5) / (bins * ratio)).reshape(bins, ratio).astype("float32")
    position = first[..., None, None] + length[..., None, None] * fractions
    inside = ops.logical_and(ops.greater_equal(position, -1), ops.less_equal(position, cells))
    # outside and NaN: an index must stay within the map whatever its weight
    position = ops.where(inside, ops.clip(position, 0, cells - 1), 0.0)
    return position, ops.cast(inside, "float32") / ratio


def _taps(position: Any, weight: Any, cells: int) -> list[tuple[Any, Any]]:
    """The cells left and right of every sample of a bin: indices and weights [B,R,bins] each."""
    left = ops.clip(ops.floor(position), 0, max(cells - 2, 0))
    fraction = position - left
    left = ops.cast(left, "int32")
    right = ops.minimum(left + 1, cells - 1)
    pairs = (left, (1 - fraction) * weight), (right, fraction * weight)
    return [(index[..., k], factor[..., k]) for k in range(position.shape[-1]) for index, factor in pairs]


def _weighted_gathers(features: Any, y_taps: list, x_taps: list) -> Any:
    """Sum over all pairs of taps of the features there times both weights; float32 [B,R,h,w,C]."""
    flat = ops.reshape(features, (-1, features.shape[-1]))
    total = 0.0
    for rows, row_weights in y_taps:
        for columns, column_weights in x_taps:
            values = ops.take(flat, _flat_indices(rows, columns, features.shape), axis=0)
            weights = row_weights[..., :, None] * column_weights[..., None, :]
            total = total + ops.cast(values, "float32") * weights[..., None]
    return total


def _bilinear_matrices(position: Any, weight: Any, cells: int) -> Any:
    """The weights [B,R,bins,cells] by which bins add up cells: the same as `_taps`, as hat functions."""
    distance = ops.abs(position[..., None] - np.arange(cells, dtype="float32"))
    return ops.sum(ops.relu(1 - distance) * weight[..., None], axis=-2)
