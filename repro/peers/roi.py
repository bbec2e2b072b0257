"""RoI pooling and RoIAlign as others write them: a second formulation in `keras.ops`, TensorFlow's crops, torchvision.

Each peer takes (features [1,H,W,C], rois [1,R,4] inside the image, size, spatial_scale, upstream) as NumPy arrays and
returns (a call to time, its values [1,R,h,w,C], its gradient by the features or None). With `upstream`
[1,R,h,w,C], the gradient by the output, a call computes values and gradient, without it (None) the values.
Raises ImportError where the library is missing or does not work here.
"""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops

from repro import backend
from repro.peers.programs import compiled, tensorflow, torch_tensor, waiting

Built = tuple[Callable[[], Any], np.ndarray, np.ndarray | None]
Pooling = Callable[[Any, Any], Any]  # (features, rois) -> values
_LONGEST = 256  # cells of a RoI inside the map


def with_gradient(pooling: Pooling) -> Callable[[Any, Any, Any], tuple[Any, Any]]:
    """(features, rois, upstream) -> (values, gradient by the features), by automatic differentiation."""
    if backend.name() == "tensorflow":
        import tensorflow as tf

        def step(features: Any, rois: Any, upstream: Any) -> tuple[Any, Any]:
            with tf.GradientTape() as tape:
                tape.watch(features)
                values = pooling(features, rois)
            return values, tf.convert_to_tensor(tape.gradient(values, features, upstream))

        return step
    import jax

    def pulled(features: Any, rois: Any, upstream: Any) -> tuple[Any, Any]:
        values, pull = jax.vjp(lambda x: pooling(x, rois), features)
        return values, pull(upstream)[0]

    return pulled


def built(
    pooling: Pooling,
    features: np.ndarray,
    rois: np.ndarray,
    upstream: np.ndarray | None,
    program: Callable[[Callable[..., Any]], Callable[..., Any]] = compiled,
) -> Built:
    """What a peer returns, of a pooling of tensors that `program` compiles."""
    arrays = [backend.to_device(array) for array in (features, rois, upstream) if array is not None]
    step = program(pooling if upstream is None else with_gradient(pooling))
    answer = [ops.convert_to_numpy(array) for array in ([step(*arrays)] if upstream is None else step(*arrays))]
    return lambda: step(*arrays), answer[0], answer[1] if upstream is not None else None


def second_max_pool(features: Any, rois: Any, size: tuple[int, int], spatial_scale: float) -> Any:
    """RoI max pooling (Fast R-CNN, Sec 2.1; bins of the released layer) by gathering every cell of every bin.

    As many cells are gathered for each bin as the largest has, its last cell again where it has fewer; 0 for none."""
    height, width, channels = features.shape[1:]
    rows, high = _cells(rois[0, :, 1], rois[0, :, 3], size[0], height, spatial_scale)  # [R,h,most], [R,h]
    columns, wide = _cells(rois[0, :, 0], rois[0, :, 2], size[1], width, spatial_scale)
    index = rows[:, :, None, :, None] * width + columns[:, None, :, None, :]
    values = ops.max(ops.take(ops.reshape(features, (-1, channels)), index, axis=0), axis=(3, 4))
    return ops.where(ops.logical_and(high[:, :, None], wide[:, None])[..., None], values, 0.0)[None]


def _cells(start: Any, end: Any, bins: int, cells: int, scale: float) -> tuple[Any, Any]:
    """The cells of the bins of RoIs [R] inside the map, int32 [R,bins,most], and whether there are any [R,bins]."""
    first = ops.cast(ops.floor(start * scale + 0.5), "int32")
    length = ops.maximum(ops.cast(ops.floor((end - 1) * scale + 0.5), "int32") - first + 1, 1)
    # divided by NumPy: a compiler that multiplies with the reciprocal gets other bins
    bin_size = np.arange(_LONGEST, dtype="float32")[:, None] / np.float32(bins)
    low = np.floor(np.arange(bins, dtype="float32") * bin_size).astype("int32")
    high = np.ceil(np.arange(1, bins + 1, dtype="float32") * bin_size).astype("int32")
    low, high = (
        ops.minimum(first[:, None] + ops.take(ops.convert_to_tensor(table), length, axis=0), cells)
        for table in (low, high)
    )
    most = -(-cells // bins) + 1
    chosen = ops.minimum(low[..., None] + np.arange(most, dtype="int32"), high[..., None] - 1)
    return ops.clip(chosen, 0, cells - 1), ops.greater(high, low)


def second_align(features: Any, rois: Any, size: tuple[int, int], spatial_scale: float) -> Any:
    """RoIAlign (Mask R-CNN, Sec 3; 2 x 2 samples a bin, half a cell subtracted) as two products with matrices of
    bilinear weights, which are hat functions of the distance between sample and cell."""
    y = _hats(rois[0, :, 1], rois[0, :, 3], size[0], features.shape[1], spatial_scale)  # [R,h,H]
    x = _hats(rois[0, :, 0], rois[0, :, 2], size[1], features.shape[2], spatial_scale)
    return ops.einsum("rpyc,rqy->rqpc", ops.einsum("yxc,rpx->rpyc", features[0], x), y)[None]


def _hats(start: Any, end: Any, bins: int, cells: int, scale: float) -> Any:
    """The weight of every cell in every bin of RoIs [R], float32 [R,bins,cells]."""
    steps = ((np.arange(2 * bins) + 0.5) / (2 * bins)).astype("float32")
    sample = (start * scale)[:, None] + ((end - start) * scale)[:, None] * steps - 0.5  # [R,2 bins]
    distance = ops.abs(ops.clip(sample, 0, cells - 1)[..., None] - np.arange(cells, dtype="float32"))
    return ops.mean(ops.reshape(ops.relu(1 - distance), (-1, bins, 2, cells)), axis=2)


def _second(
    function: Callable[..., Any],
    features: np.ndarray,
    rois: np.ndarray,
    size: tuple[int, int],
    spatial_scale: float,
    upstream: np.ndarray | None = None,
) -> Built:
    pooling = functools.partial(function, size=size, spatial_scale=spatial_scale)
    return built(pooling, features, rois, upstream)


def crop_and_resize(
    features: np.ndarray,
    rois: np.ndarray,
    size: tuple[int, int],
    spatial_scale: float,
    upstream: np.ndarray | None = None,
) -> Built:
    """`tf.image.crop_and_resize` to twice the size and 2 x 2 max pooling, as TensorFlow's early detectors do it.

    Another operation than RoI pooling: one bilinear sample at four points of a bin, not the maximum of its cells.
    In a graph, since TensorFlow has no XLA kernel for it."""
    tf = tensorflow()

    def pooling(features: Any, rois: Any) -> Any:
        height, width = features.shape[1] - 1, features.shape[2] - 1
        x1, y1, x2, y2 = tf.unstack(rois[0] * spatial_scale, axis=-1)
        boxes = tf.stack([y1 / height, x1 / width, y2 / height, x2 / width], axis=-1)
        crops = tf.image.crop_and_resize(features, boxes, tf.zeros(tf.shape(boxes)[0], tf.int32), [2 * n for n in size])
        return tf.nn.max_pool2d(crops, 2, 2, "VALID")[None]

    return built(pooling, features, rois, upstream, tf.function)


def _torchvision(
    operation: str,
    features: np.ndarray,
    rois: np.ndarray,
    size: tuple[int, int],
    spatial_scale: float,
    upstream: np.ndarray | None = None,
) -> Built:
    """torchvision.ops, on the accelerator where torch has one; not compiled, as users run it."""
    import torch
    from torchvision import ops as vision

    maps = torch_tensor(features.transpose(0, 3, 1, 2)).requires_grad_(upstream is not None)
    inclusive = [0, 0, 1, 1] if operation == "pool" else [0, 0, 0, 0]  # what its corners are less than ours
    boxes = [torch_tensor(rois[0] - np.array(inclusive, np.float32))]
    options = {"boxes": boxes, "output_size": size, "spatial_scale": spatial_scale}
    options |= {} if operation == "pool" else {"sampling_ratio": 2, "aligned": True}
    pooling = functools.partial(getattr(vision, f"roi_{operation}"), **options)
    gradient = None if upstream is None else torch_tensor(upstream[0].transpose(0, 3, 1, 2))

    def step() -> tuple[Any, ...]:
        values = pooling(maps)
        return (values,) if gradient is None else (values, *torch.autograd.grad(values, maps, gradient))

    call = waiting(step)
    values, *rest = (array.detach().cpu().numpy().transpose(0, 2, 3, 1) for array in call())
    return call, values[None], rest[0] if rest else None


POOL_PEERS: dict[str, Callable[..., Built]] = {
    "second": functools.partial(_second, second_max_pool),
    "crop_and_resize": crop_and_resize,
    "torchvision": functools.partial(_torchvision, "pool"),
}
ALIGN_PEERS: dict[str, Callable[..., Built]] = {
    "second": functools.partial(_second, second_align),
    "torchvision": functools.partial(_torchvision, "align"),
}
