"""What the mask branch costs at test: the same network with and without it, image to final boxes and masks."""

from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from repro import backend, facts, registry
from repro.engine.timing import PROTOCOL, bind, measure
from repro.experiments.kind import of_kind
from repro.experiments.timed import Timed
from repro.records.result import Result, Timing
from repro.records.run import Progress
from repro.records.settings import Network
from repro.report.cards import card_cells, scale_sections
from repro.report.pooling import CODE, SETUP, Pool, pooled_timing, protocol_notes, row_of, timing_text
from repro.report.render import Row, Section, columns

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_PROTOCOL = PROTOCOL | {
    "weights": "random",
    "images": "uniform noise that fills the canvas",
    "timed region": "one program from the image on the device to the final boxes, with the small masks of "
    "the best detections or without; masks are not pasted into the image",
    "order": "with and without masks in turn, round after round",
}
BRANCHES = {"masks": True, "boxes": False}


class MaskOverhead(Timed, tag="mask_overhead", kw_only=True, frozen=True):
    """Time networks of Mask R-CNN with random weights, with their mask branch and without."""

    SUBJECT: ClassVar[str] = "maskoverhead"
    TABLE: ClassVar[str] = "instance"

    networks: tuple[Network, ...]

    def measure(self, progress: Progress) -> dict[str, Any]:
        """Every network with its mask branch and without, one image at a time, in turn."""
        from repro.tasks.networks import build, card_of
        from repro.tasks.predictors import Detector, noise_batch

        cards: dict[str, dict[str, Any]] = {}
        timings: dict[str, Timing] = {}
        for network in self.networks:
            entry, calls = registry.architecture(network.name), {}
            for branch, masks in BRANCHES.items():
                label = f"{network.name}.{branch}"
                given = msgspec.structs.replace(network, options=network.options | {"mask_branch": masks})
                built = build(given, entry.num_classes, entry.channels)
                detector = Detector(built, registry.module_of(network.name).detect, {})
                calls[label] = bind(backend.forward(detector, "xla"), noise_batch(built))
                cards[label] = card_of(built, network.name, network)
                progress(len(cards) / (2 * len(self.networks) + 1), f"{label} compiled")
            timings |= measure(calls, self.warmup, self.repetitions, self.seconds)[1]
        return dict(
            scale="smoke" if any(n.width < 1 or n.depth < 1 for n in self.networks) else "paper",
            metrics={"batch": 1, "networks": cards},
            protocol=_PROTOCOL,
            timings=timings,
        )

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """The time of an image with the mask branch and without, by scale, beside what is printed."""
        shown = (*columns("id:row", "model"), *SETUP, *columns("driver*", "boxes:boxes ms", "masks:with masks ms", "n"))
        shown += columns("overhead:mask overhead %", "paper:printed overhead %", "params:mask params M")
        shown += (*columns("flops:mask GFLOPs"), *CODE)
        title = "The mask branch's share of the time, an image"
        return {"instance": scale_sections(title, shown, of_kind(results, cls), _rows, _notes)}


def _rows(entry: Pool) -> list[Row]:
    models = dict.fromkeys(card["model"] for card in entry.first.metrics["networks"].values())
    return [_row(entry, model) for model in models]


def _row(entry: Pool, model: str) -> Row:
    boxes, masks = (pooled_timing(entry.results, f"{model}.{branch}") for branch in ("boxes", "masks"))
    without, card = (entry.first.metrics["networks"][f"{model}.{branch}"] for branch in ("boxes", "masks"))
    assert boxes is not None  # every run times both
    assert masks is not None  # every run times both
    overhead = 100 * (masks.median / boxes.median - 1)
    row = row_of(entry, "O")
    row.cells |= card_cells(card) | {"model": model, "boxes": timing_text(boxes), "masks": timing_text(masks)}
    row.cells |= {"n": str(min(boxes.n, masks.n)), "overhead": f"{overhead:.1f}", "paper": _printed_overhead(model)}
    row.cells["params"] = f"{(card['params'] - without['params']) / 1e6:.2f}"
    row.cells["flops"] = f"{(card['flops'] - without['flops']) / 1e9:.1f}"
    row.values |= {"model": model, "boxes_ms": boxes.median, "masks_ms": masks.median, "overhead": overhead}
    return row


def _printed() -> tuple[facts.Fact | None, facts.Fact | None]:
    """The paper's share for Mask R-CNN as such, and Detectron's seconds of the pyramid."""
    return facts.find_fact("mask_rcnn.overhead"), facts.find_fact("mask_rcnn_fpn.seconds")


def _printed_overhead(model: str) -> str:
    general, seconds = _printed()
    parts = [f"about {general.value:g}"] if general else []
    if seconds and model == "mask_rcnn_fpn":
        parts.append(f"{100 * (seconds.value['masks'] / seconds.value['boxes'] - 1):.1f} (Detectron)")
    return "; ".join(parts)


def _notes(pools: Sequence[Pool], rows: Sequence[Row]) -> list[str]:
    printed = [f"Printed: {fact.source} ({fact.note})." for fact in _printed() if fact]
    return protocol_notes(pools, "O") + printed
