"""How functions of ours and of others become calls to time: one XLA program, TensorFlow's graph, torch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from repro import backend


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of tensors without variables as one XLA program."""
    if backend.name() == "tensorflow":
        import tensorflow as tf

        return tf.function(function, jit_compile=True, autograph=False)
    import jax

    return jax.jit(function)


def tensorflow() -> Any:
    """TensorFlow, where it is what the suite runs on: else the two would not share a device. Raises ImportError."""
    if backend.name() != "tensorflow":
        raise ImportError("compared where TensorFlow is the backend")
    import tensorflow as tf

    return tf


def torch_device() -> str:
    """torch's accelerator where it has one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def torch_tensor(array: np.ndarray) -> Any:
    """An array on that device."""
    import torch

    return torch.tensor(np.ascontiguousarray(array), device=torch_device())


def waiting(function: Callable[[], Any]) -> Callable[[], Any]:
    """A call of torch that waits for its device; not compiled, as users run it."""
    import torch

    on_gpu = torch_device() == "cuda"

    def call() -> Any:
        found = function()
        if on_gpu:
            torch.cuda.synchronize()
        return found

    return call
