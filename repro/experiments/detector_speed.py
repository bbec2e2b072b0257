"""Whole detectors side by side in one run: the network, its decoding with non-maximum suppression, and all of it from
the image to the final boxes as one compiled program; one image and the best batch."""

import dataclasses
import gc
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from repro import backend, facts, registry
from repro.engine.bench import best_throughput
from repro.engine.timing import PROTOCOL, bind, measure
from repro.errors import ReproError
from repro.experiments.kind import of_kind
from repro.experiments.timed import Timed
from repro.records.result import Result, Timing
from repro.records.run import Progress
from repro.records.settings import Network
from repro.report.cards import card_cells, headline_rows, scale_sections, timing_values
from repro.report.pooling import CODE, SETUP, Pool, model_rank, pooled_timing, protocol_notes, row_of, timing_text
from repro.report.render import Row, Section, TableInfo, columns, fixed, number

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
GROUP_BYTES = 4 * 2**30  # of the parameters that are held, and timed, together
HOST_BYTES = 8 * 2**30  # of the feature maps that a batch may have on a host: there a full memory ends the process
# the sides that a paper times its network at, where that is not the one size of the registry
PAPER_SIDES = {"yolo_v2": (288, 352, 416, 480, 544), "yolo_v3": (320, 416, 608)}
# how fast a network is on a Titan X: the fact, in frames/s or ms, and which part of it ("side": by the image's side)
_PRINTED = {
    "fast_yolo": ("fast_yolo.fps", ""),
    "yolo_v1": ("yolo_v1.fps", ""),
    "yolo_v2": ("yolo_v2.fps", "side"),
    "yolo_v3": ("yolo_v3.latency", "side"),
    "faster_rcnn": ("faster_rcnn.latency_vgg16", "titan_x"),
}
_CAPTION = (
    "Whole detectors, interleaved in one run. `total` is one compiled program from one image on the device to its "
    "final boxes, non-maximum suppression inside, in ms: median with the 5th to 95th percentile over n "
    "repetitions; frames/s is 1000 / total. `best batch` is the most images a second of the same program, and the "
    "batch that gives them. `network` ends at the raw outputs, `decode + NMS` starts from them; Faster R-CNN's "
    "network contains the suppression of its proposals. The networks have random weights: `to NMS` and `boxes` "
    "say how many scores of the image enter the last suppression and how many boxes come out. The papers' frames/s "
    "are those of a Titan X and of the papers' own networks; `released` YOLO v2 does less work than its paper's."
)
_PROTOCOL = PROTOCOL | {
    "weights": "random: other numbers of boxes reach non-maximum suppression, and come out, than from "
    "trained networks; both are counted",
    "images": "uniform noise that fills the canvas",
    "timed region": "network: image on the device to raw outputs; decoding: raw outputs to final boxes, "
    "non-maximum suppression inside; total: one program from the image on the device to the final boxes",
    "order": "networks and stages in turn, round after round",
    "best batch": "the total of each network alone, after 2 calls of warm-up",
    "thresholds": "each model file's own, as its detections are scored",
}


class DetectorSpeed(Timed, tag="detector_speed", kw_only=True, frozen=True):
    """Time whole detectors with random weights in one run: the network, its decoding with non-maximum suppression, and
    all of it as one program; the best of `batches`."""

    SUBJECT: ClassVar[str] = "detectors"
    TABLES: ClassVar[tuple[TableInfo, ...]] = (TableInfo("yolo_speed", "Whole detectors side by side", (_CAPTION,)),)

    networks: tuple[Network, ...]
    batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)

    def measure(self, progress: Progress) -> dict[str, Any]:
        """Raises ReproError for networks that cannot be told apart."""
        from repro.tasks.networks import card_of

        check(self)
        cards: dict[str, dict[str, Any]] = {}
        timings: dict[str, Timing] = {}
        steps = 2 * len(self.networks)  # each is compiled and timed alone, then in batches

        def report(note: str) -> None:
            progress((len(cards) + sum("throughput_batch" in card for card in cards.values())) / steps, note)

        for group in groups(self):
            calls: dict[str, Callable[[], Any]] = {}
            for subject in group:
                own, counts = calls_of(subject)
                calls |= own
                cards[subject.label] = card_of(subject.network, subject.settings.name, subject.settings) | counts
                report(f"{subject.label} compiled")
            timings |= measure(calls, self.warmup, self.repetitions, self.seconds * len(group))[1]
            calls.clear()
            for subject in group:
                timings[f"{subject.label}.throughput"], best = throughput(subject, self)
                cards[subject.label]["throughput_batch"] = best
                report(f"{subject.label} timed")
            del subject, own
            group.clear()
            backend.forward.cache_clear()  # as the names above did, it holds networks
            gc.collect()
        return dict(
            scale=scale_of(self),
            metrics={"batch": 1, "networks": cards},
            protocol=_PROTOCOL,
            timings=timings,
        )

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Latency, frames a second, stages and size of each detector, by scale."""
        shown = (*columns("id:row", "model"), *SETUP, *columns("classes*", "driver*", "total:total ms", "n"))
        shown += columns("fps:frames/s", "best:best batch, images/s", "network:network ms", "decode:decode + NMS ms")
        shown += columns("params:params M", "flops:GFLOPs", "candidates:to NMS", "detections:boxes")
        shown += (*columns("paper:paper, frames/s"), *CODE)
        title, own = "Whole detectors, an image", of_kind(results, cls)
        return {"yolo_speed": scale_sections(title, shown, own, _rows, _notes)}

    @classmethod
    def headline(cls, results: Sequence[Result]) -> list[list[str]]:
        """The whole of each detector, a row for each device."""

        def labels(result: Result) -> dict[str, str]:
            return {label: label for label in result.metrics["networks"]}

        return headline_rows(of_kind(results, cls), "Y", "whole detectors", "an image", labels)


@dataclasses.dataclass
class Subject:
    """A detector with random weights: its network, and programs of what is timed ("network", "decode", "total").

    It holds the programs itself: what `backend.forward` remembers is limited."""

    label: str
    settings: Network
    network: Any
    programs: dict[str, Callable[[Any], Any]]

    @property
    def parameters(self) -> int:
        """How many parameters it has, as papers count them."""
        from repro.tasks.networks import parameter_count

        return parameter_count(self.network)


def scale_of(settings: DetectorSpeed) -> str:
    """Whole networks at sizes their papers time are "paper", at others "reduced", narrower ones "smoke"."""
    if any(network.width < 1 or network.depth < 1 for network in settings.networks):
        return "smoke"
    return "paper" if all(_is_papers(network) for network in settings.networks) else "reduced"


def _is_papers(network: Network) -> bool:
    usual = registry.architecture(network.name).input_size
    sizes = {(side, side) for side in PAPER_SIDES.get(network.name, ())} or {usual}
    return tuple(network.input_size or usual) in sizes


def check(settings: DetectorSpeed) -> None:
    """Raises ReproError where there is no network, or two would be called alike in the result."""
    labels = [label_of(network) for network in settings.networks]
    twice = [label for label in labels if labels.count(label) > 1]
    if twice or not labels:
        what = f"two networks are called {twice[0]}" if twice else "there is no network to time"
        raise ReproError(what, "give networks that differ in name, variant or input size")


def label_of(network: Network) -> str:
    """`yolo_v2@416x416`, `yolo_v2-released@416x416`: name, variant where it is not the default, and input size."""
    entry = registry.architecture(network.name)
    variant = f"-{network.variant}" if network.variant not in (None, entry.variants[0]) else ""
    return f"{network.name}{variant}@{'x'.join(map(str, network.input_size or entry.input_size))}"


def groups(settings: DetectorSpeed) -> Iterator[list[Subject]]:
    """The detectors in their order, as many together as GROUP_BYTES allow. Empty a group before asking for the next."""
    group: list[Subject] = []
    for network in settings.networks:
        made = make(network)
        if group and 4 * sum(subject.parameters for subject in (*group, made)) > GROUP_BYTES:
            yield group
            group = []
        group.append(made)
        del made
    yield group


def make(settings: Network) -> Subject:
    """A detector of these settings."""
    from repro.tasks.networks import build
    from repro.tasks.predictors import Detector
    from repro.tasks.stages import Call

    entry = registry.architecture(settings.name)
    network = build(settings, entry.num_classes, entry.channels)
    detect = registry.module_of(settings.name).detect
    decode = Call(lambda given: detect(given["outputs"], given["batch"]))
    models = {"network": network, "decode": decode, "total": Detector(network, detect, {})}
    programs = {name: backend.forward(model, "xla") for name, model in models.items()}
    return Subject(label_of(settings), settings, network, programs)


def calls_of(subject: Subject) -> tuple[dict[str, Callable[[], Any]], dict[str, int]]:
    """The calls to be timed, compiled, and how many boxes of an image enter non-maximum suppression and come out."""
    from repro.tasks.learners import network_inputs
    from repro.tasks.predictors import noise_batch

    batch = noise_batch(subject.network)
    inputs = network_inputs(subject.network, batch)
    decoded = {"outputs": subject.programs["network"](inputs), "batch": batch}
    arguments = {"network": inputs, "decode": decoded, "total": batch}
    calls = {f"{subject.label}.{stage}": bind(subject.programs[stage], given) for stage, given in arguments.items()}
    return calls, counts_of(subject.programs["total"](batch))


def counts_of(found: dict[str, Any]) -> dict[str, int]:
    """How many boxes a detector found in one image and, of those that suppress here and not in the network, how many
    scores entered the suppression."""
    names = {"detections": "count", "candidates": "candidates"}
    return {name: int(found[key][0]) for name, key in names.items() if key in found}


def throughput(subject: Subject, settings: DetectorSpeed) -> tuple[Timing, int]:
    """Images per second from the image to the final boxes at the best of the batches, and that batch."""
    from repro.tasks.predictors import noise_batch

    def call(batch: int) -> Callable[[], Any]:
        return bind(subject.programs["total"], noise_batch(subject.network, batch))

    def fitting(batch: int) -> bool:
        return fits(subject.network, batch)

    return best_throughput(call, settings.batches, settings.seconds, settings.repetitions, fitting)


def fits(network: Any, batch: int) -> bool:
    """Whether three of a network's largest feature maps fit on the host; an accelerator says itself what it holds."""
    import keras

    if backend.accelerator_count():
        return True
    maps = (tensor for layer in network.layers for tensor in keras.tree.flatten(layer.output))
    return 3 * 4 * batch * max(int(np.prod(tensor.shape[1:])) for tensor in maps) <= HOST_BYTES


def _rows(entry: Pool) -> list[Row]:
    def place(item: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
        label, card = item
        return model_rank(card["model"]), card["variant"], card["input_size"], label

    return [_row(entry, label, card) for label, card in sorted(entry.first.metrics["networks"].items(), key=place)]


def _row(entry: Pool, label: str, card: dict[str, Any]) -> Row:
    row = row_of(entry, "Y")
    times = {stage: pooled_timing(entry.results, f"{label}.{stage}") for stage in ("total", "network", "decode")}
    total, best = times["total"], pooled_timing(entry.results, f"{label}.throughput")
    batches = "/".join(map(str, sorted({r.metrics["networks"][label]["throughput_batch"] for r in entry.results})))
    printed, source = _printed_rate(card)
    rate, candidates = 1000 / total.median if total else None, card.get("candidates")
    row.cells |= card_cells(card) | {stage: timing_text(timing) for stage, timing in times.items()}
    row.cells |= {"model": label.rpartition("@")[0], "classes": str(card["num_classes"])}
    row.cells |= {"n": str(total.n) if total else "", "fps": number(rate), "paper": number(printed)}
    row.cells |= {"best": f"{number(best.median)} (batch {batches})" if best else ""}
    row.cells |= {"params": number(card["params"] / 1e6), "flops": number(card["flops"] / 1e9)}
    row.cells |= {"candidates": fixed(candidates, ",d"), "detections": str(card["detections"])}
    shared = ("model", "variant", "width", "depth", "num_classes", "params", "flops")
    row.values |= {key: card[key] for key in shared}
    row.values |= dict(zip(("input_height", "input_width"), card["input_size"], strict=True))
    row.values |= {"driver": row.cells["driver"] or None, "frames_per_second": rate, **timing_values(times)}
    row.values |= {"images_per_second": best.median if best else None, "throughput_batch": batches}
    row.values |= {"candidates": candidates, "detections": card["detections"]}
    row.values |= {"paper_frames_per_second": printed, "paper_source": source or None}
    return row


def _notes(pools: Sequence[Pool], rows: Sequence[Row]) -> list[str]:
    sources = {row.values["model"]: row.values["paper_source"] for row in rows if row.values["paper_source"]}
    said = "; ".join(f"{model}: {source}" for model, source in sources.items())
    return protocol_notes(pools, "Y") + ([f"The papers' frames/s. {said}."] if said else [])


def _printed_rate(card: dict[str, Any]) -> tuple[float | None, str]:
    """Frames a second that a paper prints for a network at this size, and where; for the released one too."""
    key, part = _PRINTED.get(card["model"], ("", ""))
    fact, size = facts.find_fact(key), tuple(card["input_size"])
    entry = registry.ARCHITECTURES.get(card["model"])
    if fact is None or entry is None or (card["width"], card["depth"]) != (1, 1):
        return None, ""
    if part == "side":
        value = fact.value.get(str(size[0])) if size[0] == size[1] else None
    else:
        value = (fact.value[part] if part else fact.value) if size == entry.input_size else None
    if value is None:
        return None, ""
    return (1000 / value if fact.unit == "ms" else value), fact.source
