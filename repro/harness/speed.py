"""How long a network takes: eager, traced and compiled; forward and training; one image and the best batch."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from repro import backend, registry
from repro.harness.config import Speed
from repro.harness.learner import Learner, build_network, inference_of
from repro.harness.record import Timing, Xla
from repro.harness.run import Job, Run
from repro.harness.timing import MINIMUM_REPETITIONS, PROTOCOL, bind, measure, timed

_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "OOM")


def speed(job: Job, progress: Callable[[float, str], None]) -> None:
    """Time one network. Writes one result."""
    config: Speed = job.config
    run = Run(job, 0)
    tf32 = backend.set_precision(config.precision)
    backend.compile_cache(False)
    backend.set_seed(0)
    entry = registry.architecture(config.network.name)
    trained = build_network(config.network, entry.num_classes, heads="train")
    network = inference_of(trained)
    size = config.network.input_size or entry.input_size
    modes = tuple(mode for mode in config.modes if mode != "graph" or job.backend == "tensorflow")
    memory: dict[str, float] = {}

    images = backend.to_device(_images(1, size, network))
    calls = {mode: bind(backend.forward(network, mode), images) for mode in modes}
    compile_cost, latency = measure(calls, config.warmup, config.repetitions, config.seconds)
    timings = {f"latency.{mode}": timing for mode, timing in latency.items()}
    timings |= {f"compile.{mode}": timing for mode, timing in compile_cost.items() if mode != "eager"}
    memory["forward"] = backend.peak_memory_mib()
    progress(0.4, "forward timed")

    throughput, best = _throughput(network, size, config)
    timings["throughput.xla"] = throughput
    memory["throughput"] = backend.peak_memory_mib()
    progress(0.7, "throughput timed")

    steps = {mode: _train_step(trained, size, config, mode) for mode in modes if mode != "eager"}
    compile_cost, latency = measure(steps, config.warmup, config.repetitions, config.seconds)
    timings |= {f"train_step.{mode}": timing for mode, timing in latency.items()}
    timings |= {f"compile_train.{mode}": timing for mode, timing in compile_cost.items()}
    memory["train"] = backend.peak_memory_mib()
    run.finish(
        scale=scale_of(config),
        metrics={
            "batch": 1,
            "train_batch": config.train_batch,
            "throughput_batch": best,
            "peak_memory_mib": {name: round(value, 1) for name, value in memory.items()},
            "num_classes": config.network.num_classes or entry.num_classes,
        },
        protocol={
            **PROTOCOL,
            "timed region": "uint8-range float images on the device to class scores; the train step also copies its "
            "batch to the device and reads the loss",
        },
        timings=timings,
        tf32=tf32,
        xla=Xla(requested=True, used="xla" in modes),
        peak_memory_mib=round(memory["train"], 1),
    )


def scale_of(config: Speed) -> str:
    """The whole network at its paper's input size is "paper", whole at another size "reduced", else "smoke"."""
    network = config.network
    if network.width < 1 or network.depth < 1:
        return "smoke"
    size = registry.architecture(network.name).input_size
    return "paper" if tuple(network.input_size or size) == size else "reduced"


def _images(batch: int, size: tuple[int, int], network: keras.Model) -> np.ndarray:
    generator = np.random.default_rng(0)
    return generator.uniform(0, 255, (batch, *size, network.input_shape[-1])).astype("float32")


def _throughput(network: keras.Model, size: tuple[int, int], config: Speed) -> tuple[Timing, int]:
    """Images per second at the best of the batches, which grow until one is too slow for its share of the time or
    does not fit in memory."""
    forward, best = backend.forward(network, "xla"), None
    share = config.seconds / len(config.batches)
    for batch in config.batches:
        try:
            call = bind(forward, backend.to_device(_images(batch, size, network)))
            timed(call)
            _, latency = measure({"xla": call}, 2, config.repetitions, share)
        except Exception as error:  # each backend has a class of its own for a full memory
            if best is None or not any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            break
        rate = batch / latency["xla"].median * 1e3
        if best is None or rate > best[0].median:
            spread = (batch / latency["xla"].p95 * 1e3, batch / latency["xla"].p5 * 1e3)
            timing = Timing(median=rate, p5=spread[0], p95=spread[1], n=latency["xla"].n, unit="images/s")
            best = timing, batch
        if latency["xla"].median / 1e3 * MINIMUM_REPETITIONS > share:
            break
    return best


def _train_step(network: keras.Model, size: tuple[int, int], config: Speed, mode: str) -> Callable[[], Any]:
    """One SGD step on a random batch, compiled or only traced."""
    entry = registry.architecture(config.network.name)
    learner = Learner(network, registry.module_of(entry.name).loss, {}, None)
    learner.compile(optimizer=keras.optimizers.SGD(1e-6, momentum=0.9), jit_compile=mode == "xla")
    batch: dict[str, np.ndarray] = {"image": _images(config.train_batch, size, network).astype("uint8")}
    if entry.task == "segmentation":
        batch["semantic"] = np.zeros((config.train_batch, *size), "uint8")
    else:
        batch["label"] = np.zeros((config.train_batch,), "int32")
    return lambda: learner.train_on_batch(batch)
