"""The only module that knows which backend runs: choice, devices, precision, compilation, memory.

Import it before Keras. `select` sets KERAS_BACKEND; everything else imports the backend when it is called, so the
package works where only one of TensorFlow and JAX is installed.
"""

import functools
import importlib.util
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

from repro.errors import ReproError, unknown_name

BACKENDS = ("tensorflow", "jax")
PRECISIONS = ("float32", "tf32", "mixed_bfloat16")


def installed() -> tuple[str, ...]:
    """The supported backends that can be imported here."""
    return tuple(name for name in BACKENDS if importlib.util.find_spec(name))


def default() -> str:
    """KERAS_BACKEND if set, else TensorFlow where installed, else JAX. Raises ReproError when there is neither."""
    wanted = os.environ.get("KERAS_BACKEND")
    if wanted:
        return wanted
    if not installed():
        raise ReproError("neither TensorFlow nor JAX is installed", "run ./run_all.sh, or pip install jax")
    return installed()[0]


def select(name: str | None = None) -> str:
    """Choose the backend of this process, before Keras is imported. Raises ReproError when it cannot be had."""
    name = name or default()
    if name not in BACKENDS:
        raise unknown_name("backend", name, BACKENDS)
    if name not in installed():
        raise ReproError(f"backend {name} is not installed", f"use {' or '.join(installed()) or './run_all.sh'}")
    loaded = sys.modules.get("keras")
    if loaded is not None and loaded.backend.backend() != name:
        raise ReproError(f"Keras already runs on {loaded.backend.backend()}", f"start again with --backend {name}")
    os.environ["KERAS_BACKEND"] = name
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    return name


def name() -> str:
    """The backend Keras runs on in this process."""
    import keras

    return keras.backend.backend()


def _is_tensorflow() -> bool:
    return name() == "tensorflow"


def keep_tensorflow_off_the_gpu() -> None:
    """Under JAX, TensorFlow (which TFDS and keras-cv bring along) must not take the accelerator."""
    if name() != "tensorflow" and importlib.util.find_spec("tensorflow"):
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")


def accelerator_count() -> int:
    """How many accelerators this backend sees."""
    if _is_tensorflow():
        import tensorflow as tf

        return len(tf.config.list_physical_devices("GPU"))
    import jax

    return sum(device.platform != "cpu" for device in jax.devices())


def set_precision(precision: str) -> bool:
    """Set the arithmetic of the process and return whether TF32 is in use.

    float32 is full float32 on every device; tf32 lets NVIDIA cards round the inputs of products to 10 bits;
    mixed_bfloat16 computes in bfloat16 on float32 variables."""
    import keras

    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    keras.config.set_dtype_policy("mixed_bfloat16" if precision == "mixed_bfloat16" else "float32")
    tf32 = precision != "float32"
    if _is_tensorflow():
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(tf32)
    else:
        import jax

        jax.config.update("jax_default_matmul_precision", "tensorfloat32" if tf32 else "highest")
    return tf32 and accelerator_count() > 0


def set_seed(seed: int) -> None:
    """Seed Python, NumPy and the backend."""
    import keras

    keras.utils.set_random_seed(seed)


def compile_cache(enabled: bool) -> None:
    """Switch JAX's persistent compile cache off where compile time is measured (TensorFlow has none on)."""
    if not _is_tensorflow():
        import jax

        jax.config.update("jax_enable_compilation_cache", enabled)


def synchronise(outputs: Any) -> None:
    """Wait until every array in a structure is computed."""
    if _is_tensorflow():
        import tensorflow as tf

        tf.test.experimental.sync_devices()  # on a CPU a call returns with its arrays computed
    else:
        import jax

        jax.block_until_ready(outputs)


@functools.lru_cache(maxsize=16)
def forward(model: Any, mode: str) -> Callable[[Any], Any]:
    """A function from an image batch to a model's outputs. mode: eager, graph (TensorFlow only) or xla.

    The same model and mode give the same function, so that it compiles once.

    Raises ReproError for a mode the backend does not have."""
    if mode == "eager":
        return lambda images: model(images, training=False)
    if _is_tensorflow():
        import tensorflow as tf

        if mode not in ("graph", "xla"):
            raise unknown_name("mode", mode, ("eager", "graph", "xla"))
        return tf.function(lambda images: model(images, training=False), jit_compile=mode == "xla")
    if mode != "xla":
        raise ReproError(f"JAX has no {mode} mode", "use eager or xla")
    import jax

    # variables are arguments: as constants they would be folded into the program
    step = jax.jit(lambda tv, ntv, images: model.stateless_call(tv, ntv, images, training=False)[0])

    def call(images: Any) -> Any:
        trainable = [variable.value for variable in model.trainable_variables]
        rest = [variable.value for variable in model.non_trainable_variables]
        return step(trainable, rest, images)

    return call


def to_device(array: Any) -> Any:
    """Put a NumPy array on the device, so that a timed region does not contain the copy."""
    import keras

    tensor = keras.ops.convert_to_tensor(array)
    synchronise(tensor)
    return tensor


def peak_memory_mib() -> float:
    """Peak memory of this process: of the first accelerator where there is one, else resident on the host."""
    if accelerator_count():
        if _is_tensorflow():
            import tensorflow as tf

            return tf.config.experimental.get_memory_info("GPU:0")["peak"] / 2**20
        import jax

        return jax.devices()[0].memory_stats()["peak_bytes_in_use"] / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
