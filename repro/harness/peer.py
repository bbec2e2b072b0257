"""VGG-16's convolutional part beside the same network of other libraries: same weights, same input, same run."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from repro import backend
from repro.harness.config import Peer
from repro.harness.record import Xla
from repro.harness.run import Job, Run
from repro.harness.timing import PROTOCOL, bind, measure
from repro.models import vgg
from repro.peers import vgg as peers


def peer(job: Job, progress: Callable[[float, str], None]) -> None:
    """Time ours and every peer that is installed, interleaved, and compare outputs. Writes one result."""
    config: Peer = job.config
    run = Run(job, 0)
    tf32 = backend.set_precision(config.precision)
    backend.compile_cache(False)
    backend.set_seed(0)
    image = keras.Input((*config.input_size, 3))
    ours = keras.Model(image, vgg.blocks(vgg.normalise(image))["pool5"])
    source = keras.applications.VGG16(weights=None, include_top=False, input_shape=(*config.input_size, 3))
    vgg.from_keras_applications(ours, source)
    pixels = np.random.default_rng(0).uniform(0, 255, (1, *config.input_size, 3)).astype("float32")
    calls: dict[str, Callable[[], Any]] = {"ours": bind(backend.forward(ours, "xla"), backend.to_device(pixels))}
    reference = keras.ops.convert_to_numpy(calls["ours"]())
    agreement, absent = {}, {}
    for number, name in enumerate(config.peers):
        try:
            calls[name], outputs = peers.PEERS[name](source, pixels)
        except ImportError as error:
            absent[name] = str(error)
            continue
        agreement[name] = float(np.max(np.abs(outputs - reference)) / np.max(np.abs(reference)))
        progress(0.5 * (number + 1) / len(config.peers), f"built {name}")
    _, latency = measure(calls, config.warmup, config.repetitions, config.seconds)
    run.finish(
        scale="paper" if tuple(config.input_size) == (224, 224) else "smoke",
        metrics={
            "agreement": agreement,
            "ratio": {name: latency["ours"].median / latency[name].median for name in agreement},
            "absent": absent,
            "network": "VGG-16, 13 convolutions and 5 poolings",
        },
        protocol={
            **PROTOCOL,
            "timed region": "one image on the device to pool5, compiled where the peer can be",
        },
        input_size=config.input_size,
        timings={f"{name}.latency": timing for name, timing in latency.items()},
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
    )
