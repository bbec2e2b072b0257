"""VGG-16's convolutional part in other libraries, with the weights of a given `keras.applications.VGG16`.

Each function takes (source model, RGB pixels [B,H,W,3]) and returns (a call to time, its output [B,h,w,512]).
Raises ImportError where the library is missing or does not work here.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from repro import backend
from repro.peers.programs import torch_device, torch_tensor, waiting

Built = tuple[Callable[[], Any], np.ndarray]
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def _caffe_pixels(pixels: np.ndarray) -> np.ndarray:
    return pixels[..., ::-1] - np.asarray(_CAFFE_MEAN_BGR, "float32")


def keras_applications(source: keras.Model, pixels: np.ndarray) -> Built:
    """The model Keras ships."""
    return _forward(source, pixels)


def _forward(model: keras.Model, pixels: np.ndarray) -> Built:
    images, forward = backend.to_device(_caffe_pixels(pixels)), backend.forward(model, "xla")
    return lambda: forward(images), keras.ops.convert_to_numpy(forward(images))


def keras_cv(source: keras.Model, pixels: np.ndarray) -> Built:
    """The backbone of keras-cv (last release 0.9.0). It imports TensorFlow whatever the backend."""
    try:
        from keras_cv.models import VGG16Backbone
    except Exception as error:  # its imports fail in many ways beside new releases of its dependencies
        raise ImportError(f"keras-cv does not import here: {error}") from error
    model = VGG16Backbone(include_rescaling=False, include_top=False, input_shape=pixels.shape[1:])
    model.set_weights(source.get_weights())
    return _forward(model, pixels)


def torchvision(source: keras.Model, pixels: np.ndarray) -> Built:
    """torchvision's `vgg16().features`, on the accelerator where torch has one; not compiled, as users run it."""
    import torch
    from torchvision.models import vgg16

    model = vgg16(weights=None).features.eval().requires_grad_(False).to(torch_device())
    arrays = iter(source.get_weights())
    for layer in model:
        if isinstance(layer, torch.nn.Conv2d):
            layer.weight.data = torch_tensor(next(arrays).transpose(3, 2, 0, 1))
            layer.bias.data = torch_tensor(next(arrays))
    images = torch_tensor(_caffe_pixels(pixels).transpose(0, 3, 1, 2))
    call = waiting(lambda: model(images))
    return call, call().cpu().numpy().transpose(0, 2, 3, 1)


PEERS: dict[str, Callable[[keras.Model, np.ndarray], Built]] = {
    "keras_applications": keras_applications, "keras_cv": keras_cv, "torchvision": torchvision,
}  # fmt: skip
