"""What the mask branch costs at test: the same network with and without it, image to final boxes and masks."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from repro import backend, registry
from repro.harness.config import MaskOverhead, Network
from repro.harness.detect import Detector, build
from repro.harness.inspection import flops_of, image_shape, parameter_count, parameters
from repro.harness.record import Xla
from repro.harness.run import Job, Run
from repro.harness.timing import PROTOCOL, bind, measure

BRANCHES = {"masks": True, "boxes": False}


def mask_overhead(job: Job, progress: Callable[[float, str], None]) -> None:
    """Time every network with its mask branch and without, one image at a time, in turn. Writes one result."""
    config: MaskOverhead = job.config
    run = Run(job, 0)
    tf32 = backend.set_precision(config.precision)
    backend.compile_cache(False)
    backend.set_seed(0)
    cards: dict[str, dict[str, Any]] = {}
    timings = {}
    for network in config.networks:
        calls = {}
        for branch, masks in BRANCHES.items():
            label = f"{network.name}.{branch}"
            detector = detector_of(network, masks)
            calls[label] = bind(backend.forward(detector, "xla"), batch_of(detector))
            cards[label] = {
                "model": network.name, "width": network.width, "depth": network.depth,
                "input_size": list(image_shape(detector.network)[:2]),
                "params": parameter_count(parameters(detector.network)[0]),
                "flops": sum(map(flops_of, detector.network.layers)),
            }  # fmt: skip
            progress(len(cards) / (2 * len(config.networks) + 1), f"{label} compiled")
        timings |= measure(calls, config.warmup, config.repetitions, config.seconds)[1]
    run.finish(
        scale="smoke" if any(n.width < 1 or n.depth < 1 for n in config.networks) else "paper",
        metrics={"batch": 1, "networks": cards},
        protocol=PROTOCOL | {
            "weights": "random",
            "images": "uniform noise that fills the canvas",
            "timed region": "one program from the image on the device to the final boxes, with the small masks of the "
            "best detections or without; masks are not pasted into the image",
            "order": "with and without masks in turn, round after round",
        },
        timings=timings,
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
    )  # fmt: skip


def detector_of(network: Network, masks: bool) -> Detector:
    """A network with random weights and its final boxes, with the mask branch or without."""
    entry = registry.architecture(network.name)
    settings = msgspec.structs.replace(network, options=network.options | {"mask_branch": masks})
    built = build(settings, entry.num_classes, entry.channels, "infer")
    return Detector(built, registry.module_of(network.name).detect, {})


def batch_of(detector: Detector) -> dict[str, Any]:
    """One image of uniform noise that fills its canvas, on the device."""
    shape = image_shape(detector.network)
    image = np.random.default_rng(0).uniform(0, 255, (1, *shape)).astype("float32")
    return {"image": backend.to_device(image), "valid_size": backend.to_device(np.asarray([shape[:2]], "int32"))}
