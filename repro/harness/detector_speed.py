"""Whole detectors side by side in one run: the network, its decoding with non-maximum suppression, and all of it from
the image to the final boxes as one compiled program; one image and the best batch."""

import dataclasses
import gc
import inspect
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import keras
import numpy as np

from repro import backend, registry
from repro.errors import ReproError
from repro.harness.config import DetectorSpeed, Network
from repro.harness.detect import Detector, build, inputs_of
from repro.harness.inspection import flops_of, image_shape, parameter_count, parameters
from repro.harness.record import Timing, Xla
from repro.harness.run import Job, Run
from repro.harness.timing import MINIMUM_REPETITIONS, PROTOCOL, bind, measure, timed

Progress = Callable[[float, str], None]

GROUP_BYTES = 4 * 2**30  # of the parameters that are held, and timed, together
HOST_BYTES = 8 * 2**30  # of the feature maps that a batch may have on a host: there a full memory ends the process
# the sides that a paper times its network at, where that is not the one size of the registry
PAPER_SIDES = {"yolo_v2": (288, 352, 416, 480, 544), "yolo_v3": (320, 416, 608)}
_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "OOM")


class Decode(keras.Model):
    """A network's decoding alone as a model, so that it is compiled like one."""

    def __init__(self, detect: Callable[..., dict]) -> None:
        super().__init__(name="decode", autocast=False)
        self._detect = detect
        self.built = True  # JAX asks

    def call(self, inputs, training=False):
        return self._detect(inputs["outputs"], inputs["batch"])


@dataclasses.dataclass
class Subject:
    """A detector with random weights: its network, and programs of what is timed ("network", "decode", "total")."""

    label: str
    settings: Network
    network: keras.Model
    programs: dict[str, Callable[[Any], Any]]

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of its images."""
        return image_shape(self.network)[:2]

    @property
    def parameters(self) -> int:
        """How many parameters it has, as papers count them."""
        return parameter_count(parameters(self.network)[0])

    def batch(self, count: int) -> dict[str, Any]:
        """Images of uniform noise that fill their canvas, on the device."""
        images = np.random.default_rng(0).uniform(0, 255, (count, *image_shape(self.network))).astype("float32")
        sizes = np.tile(np.asarray(self.size, "int32"), (count, 1))
        return {"image": backend.to_device(images), "valid_size": backend.to_device(sizes)}

    def card(self) -> dict[str, Any]:
        """What the result says of the network."""
        entry = registry.architecture(self.settings.name)
        return {
            "model": entry.name, "variant": self.settings.variant or entry.variants[0], "width": self.settings.width,
            "depth": self.settings.depth, "input_size": list(self.size),
            "num_classes": self.settings.num_classes or entry.num_classes, "params": self.parameters,
            "flops": sum(map(flops_of, self.network.layers)),
        }  # fmt: skip


def detector_speed(job: Job, progress: Progress) -> None:
    """Time every network of a configuration. Writes one result."""
    config: DetectorSpeed = job.config
    run = Run(job, 0)
    tf32 = backend.set_precision(config.precision)
    backend.compile_cache(False)
    backend.set_seed(0)
    check(config)
    cards: dict[str, dict[str, Any]] = {}
    timings: dict[str, Timing] = {}
    steps = 2 * len(config.networks)  # each is compiled and timed alone, then in batches

    def report(note: str) -> None:
        progress((len(cards) + sum("throughput_batch" in card for card in cards.values())) / steps, note)

    for group in groups(config):
        calls: dict[str, Callable[[], Any]] = {}
        for subject in group:
            own, counts = calls_of(subject)
            calls |= own
            cards[subject.label] = subject.card() | counts
            report(f"{subject.label} compiled")
        timings |= measure(calls, config.warmup, config.repetitions, config.seconds * len(group))[1]
        calls.clear()
        for subject in group:
            timings[f"{subject.label}.throughput"], best = throughput(subject, config)
            cards[subject.label]["throughput_batch"] = best
            report(f"{subject.label} timed")
        subject = own = None
        group.clear()
        backend.forward.cache_clear()  # as the names above did, it holds networks
        gc.collect()
    run.finish(
        scale=scale_of(config),
        metrics={"batch": 1, "networks": cards},
        protocol=PROTOCOL | {
            "weights": "random: other numbers of boxes reach non-maximum suppression, and come out, than from trained "
            "networks; both are counted",
            "images": "uniform noise that fills the canvas",
            "timed region": "network: image on the device to raw outputs; decoding: raw outputs to final boxes, "
            "non-maximum suppression inside; total: one program from the image on the device to the final boxes",
            "order": "networks and stages in turn, round after round",
            "best batch": "the total of each network alone, after 2 calls of warm-up",
            "thresholds": "each model file's own, as its detections are scored",
        },
        timings=timings,
        tf32=tf32,
        xla=Xla(requested=True, used=True),
        peak_memory_mib=round(backend.peak_memory_mib(), 1),
    )  # fmt: skip


def scale_of(config: DetectorSpeed) -> str:
    """Whole networks at sizes their papers time are "paper", at others "reduced", narrower ones "smoke"."""
    if any(network.width < 1 or network.depth < 1 for network in config.networks):
        return "smoke"
    return "paper" if all(_is_papers(network) for network in config.networks) else "reduced"


def _is_papers(network: Network) -> bool:
    usual = registry.architecture(network.name).input_size
    sizes = {(side, side) for side in PAPER_SIDES.get(network.name, ())} or {usual}
    return tuple(network.input_size or usual) in sizes


def check(config: DetectorSpeed) -> None:
    """Raises ReproError where there is no network, or two would be called alike in the result."""
    labels = [label_of(network) for network in config.networks]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice or not labels:
        what = f"two networks are called {twice[0]}" if twice else "there is no network to time"
        raise ReproError(what, "give networks that differ in name, variant or input size")


def label_of(network: Network) -> str:
    """`yolo_v2@416x416`, `yolo_v2-released@416x416`: name, variant where it is not the default, and input size."""
    entry = registry.architecture(network.name)
    variant = f"-{network.variant}" if network.variant not in (None, entry.variants[0]) else ""
    return f"{network.name}{variant}@{'x'.join(map(str, network.input_size or entry.input_size))}"


def groups(config: DetectorSpeed) -> Iterator[list[Subject]]:
    """The detectors in their order, as many together as GROUP_BYTES allow. Empty a group before asking for the next."""
    group: list[Subject] = []
    for settings in config.networks:
        made = make(settings)
        if group and 4 * sum(subject.parameters for subject in (*group, made)) > GROUP_BYTES:
            yield group
            group = []
        group.append(made)
        del made
    yield group


def make(settings: Network) -> Subject:
    """A detector of a configuration. It holds its programs itself: what `backend.forward` remembers is limited."""
    entry = registry.architecture(settings.name)
    network = build(settings, entry.num_classes, entry.channels, "infer")
    detect = registry.module_of(settings.name).detect
    models = {"network": network, "decode": Decode(detect), "total": Detector(network, detect, {})}
    programs = {name: backend.forward(model, "xla") for name, model in models.items()}
    return Subject(label_of(settings), settings, network, programs)


def calls_of(subject: Subject) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """The calls to be timed, compiled, and how many boxes of an image enter non-maximum suppression and come out."""
    batch = subject.batch(1)
    inputs = inputs_of(subject.network, batch)
    outputs = subject.programs["network"](inputs)
    arguments = {"network": inputs, "decode": {"outputs": outputs, "batch": batch}, "total": batch}
    calls = {f"{subject.label}.{stage}": bind(subject.programs[stage], given) for stage, given in arguments.items()}
    counts = {"detections": int(subject.programs["total"](batch)["count"][0])}
    entering = candidates(registry.module_of(subject.settings.name).detect, outputs, batch)
    return calls, counts if entering is None else counts | {"candidates": entering}


def candidates(detect: Callable[..., dict], outputs: dict[str, Any], batch: dict[str, Any]) -> int | None:
    """How many scores of a batch enter `class_nms` in a model file's `detect`; None where it does not call it.

    What enters is known to `detect` alone, which may keep the best of its boxes only."""
    module, found = inspect.getmodule(detect), []
    original = getattr(module, "class_nms", None)
    if original is None:
        return None

    def counting(boxes, scores, iou_threshold, score_threshold, max_output, per_class_pool=None):
        above = np.asarray(keras.ops.convert_to_numpy(scores)) > score_threshold
        found.append(int(np.minimum(above.sum(axis=1), per_class_pool or scores.shape[1]).sum()))
        # what comes out has the right shapes and is not looked at
        return original(boxes[:, :1], scores[:, :1], iou_threshold, score_threshold, max_output)

    with mock.patch.object(module, "class_nms", counting):
        detect(outputs, batch)
    return sum(found) if found else None


def throughput(subject: Subject, config: DetectorSpeed) -> tuple[Timing, int]:
    """Images per second from the image to the final boxes at the best of the batches, and that batch. They grow until
    one is too slow for its share of the time or does not fit in memory."""
    program, best = subject.programs["total"], None
    share = config.seconds / len(config.batches)
    for batch in config.batches:
        if best is not None and not fits(subject.network, batch):
            break
        try:
            call = bind(program, subject.batch(batch))
            timed(call)
            latency = measure({"total": call}, 2, config.repetitions, share)[1]["total"]
        except Exception as error:  # each backend has a class of its own for a full memory
            if best is None or not any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            break
        median, p5, p95 = (1e3 * batch / value for value in (latency.median, latency.p95, latency.p5))
        if best is None or median > best[0].median:
            best = Timing(median=median, p5=p5, p95=p95, n=latency.n, unit="images/s"), batch
        if latency.median / 1e3 * MINIMUM_REPETITIONS > share:
            break
    return best


def fits(network: keras.Model, batch: int) -> bool:
    """Whether three of a network's largest feature maps fit on the host; an accelerator says itself what it holds."""
    if backend.accelerator_count():
        return True
    maps = (tensor for layer in network.layers for tensor in keras.tree.flatten(layer.output))
    return 3 * 4 * batch * max(int(np.prod(tensor.shape[1:])) for tensor in maps) <= HOST_BYTES
