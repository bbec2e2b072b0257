"""What the kinds share that time an operation of ours beside other libraries' on the same inputs, in one run: how they
are compared, and a section of the peers' table for each."""

import abc
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import numpy as np

from repro import backend
from repro.engine.timing import PROTOCOL, measure
from repro.errors import unknown_name
from repro.experiments.kind import of_kind
from repro.experiments.timed import Timed
from repro.records.result import Result, Timing
from repro.records.run import Progress
from repro.report import pooling
from repro.report.cards import recorded, repetitions, scale_sections
from repro.report.pooling import CODE, OF_TIMES, SETUP, Pool, pooled_timing, spread, timing_text
from repro.report.render import Column, Row, Section, columns, number

Answer = tuple[Any, ...]  # a call to time, then what it computes
BY_HAND = (
    "its kernel is written by hand for this one operation; ours is compiled from general ones that run on every "
    "backend, in fixed shapes"
)
TIMED = {name: PROTOCOL[name] for name in ("timing", "warm-up", "spread", "peak memory")}
_LETTER = "O"
_PEERS = {
    "tf_image": "tf.image", "tf_image_padded": "tf.image, padded, XLA", "tf_image_loop": "tf.image, class by class",
    "keras_cv": "keras-cv", "torchvision": "torchvision", "second": "second formulation, XLA",
    "crop_and_resize": "tf.image.crop_and_resize + max pooling", "opencv": "OpenCV",
}  # fmt: skip


class Operations(Timed, frozen=True):
    """`sizes`: of the inputs, those of the papers where none is given.

    SUBJECT and TITLE name the operation; SIZES are all its sizes. WHY a peer may be faster, by the first word of the
    case and the peer, is said only where it is. OTHER are peers that compute something else, and why they are timed."""

    RESULT: ClassVar[str] = "peer"
    TABLE: ClassVar[str] = "peers"
    TITLE: ClassVar[str]
    SIZES: ClassVar[Mapping[str, Any]]
    WHY: ClassVar[Mapping[tuple[str, str], str]] = {}
    OTHER: ClassVar[Mapping[str, str]] = {}
    UNIT: ClassVar[str] = "ms"
    LAST: ClassVar[tuple[Column, ...]] = columns("agreement")

    sizes: dict[str, Any] = msgspec.field(default_factory=dict)

    def all_sizes(self) -> dict[str, Any]:
        """The sizes with those of the papers where none is given. Raises ReproError for one that there is not."""
        for name in self.sizes:
            if name not in self.SIZES:
                raise unknown_name(f"size of {self.SUBJECT}", name, self.SIZES)
        return {**self.SIZES, **self.sizes}

    def measure(self, progress: Progress) -> dict[str, Any]:
        """Compare and time every case. Raises ReproError for a size that there is not."""
        found = Comparison(self)
        fields = {"scale": "smoke" if self.sizes else "paper"} | self.compare(found, self.all_sizes(), progress)
        return fields | {"metrics": found.metrics() | fields.get("metrics", {}), "timings": found.timings}

    @abc.abstractmethod
    def compare(self, found: "Comparison", sizes: dict[str, Any], progress: Progress) -> dict[str, Any]:
        """Go through the cases; the other fields of the outcome."""

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Ours beside each peer in every case, by scale."""
        shown = columns("id:row", "model:case", "data*", *SETUP, "driver*", f"ours:ours {cls.UNIT}", "peer")
        shown += columns(f"theirs:peer {cls.UNIT}", "n", "ratio:ours/peer", *cls.LAST, *CODE)
        return {"peers": scale_sections(cls.TITLE, shown, of_kind(results, cls), cls.rows, cls.notes)}

    @classmethod
    def rows(cls, entry: Pool) -> list[Row]:
        """A row for each case and peer."""
        cases = dict.fromkeys(case for result in entry.results for case in result.metrics["cases"])
        return [cls.row(entry, case, peer) for case in cases for peer in _peers(entry, case)]

    @classmethod
    def notes(cls, pools: Sequence[Pool], rows: Sequence[Row]) -> list[str]:
        """The protocol, why ours takes longer where it does, who is missing, and who computes something else."""
        notes = pooling.protocol_notes(pools, _LETTER)
        for entry in pools:
            notes += _slower(entry, [row for row in rows if row.id == entry.row_id(_LETTER)]) + _absent(entry)
        shown = {row.values["peer"] for row in rows}
        return notes + [note for peer, note in cls.OTHER.items() if peer in shown]

    @classmethod
    def row(cls, entry: Pool, case: str, peer: str) -> Row:
        """Ours and a peer in a case; "" is no peer."""
        row, key = pooling.row_of(entry, _LETTER), f"{case}.{peer}"
        mine, theirs = pooled_timing(entry.results, f"{case}.ours"), pooled_timing(entry.results, key)
        ratios = recorded(entry, "ratio", key)
        ratio = statistics.median(ratios) if ratios else None
        agreement, exact = _agreement(entry, key)
        row.cells |= {"model": recorded(entry, "cases", case)[0], "data": pooling.data_title(entry.first)}
        row.cells |= {"ours": timing_text(mine), "peer": _PEERS.get(peer, peer), "theirs": timing_text(theirs)}
        row.cells |= {"n": repetitions((mine, theirs)), "ratio": number(ratio), "agreement": agreement}
        row.values |= {"case": case, "peer": peer, "driver": row.cells["driver"] or None, "ours_over_peer": ratio}
        row.values |= exact | spread("ours", mine, (*OF_TIMES, "unit")) | spread("peer", theirs, (*OF_TIMES, "unit"))
        return row


@dataclass
class Comparison:
    """What a run gathers; keys are `<case>.<who>`, and `cases` says in words what a case is."""

    settings: Operations
    cases: dict[str, str] = field(default_factory=dict)
    timings: dict[str, Timing] = field(default_factory=dict)
    ratio: dict[str, float] = field(default_factory=dict)
    agreement: dict[str, dict[str, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)

    def compare(
        self,
        case: str,
        title: str,
        ours: Answer,
        peers: Mapping[str, Callable[..., Answer]],
        inputs: tuple[Any, ...],
        agree: Callable[[Answer, Answer], dict[str, float]],
    ) -> None:
        """Build the peers of a case on the inputs, compare their answers with ours and time all of them."""
        calls, settings = {"ours": ours[0]}, self.settings
        for peer, build in peers.items():
            try:
                calls[peer], *answer = build(*inputs)
            except ImportError as error:
                self.absent[f"{case}.{peer}"] = str(error)
                continue
            self.agreement[f"{case}.{peer}"] = {} if peer in settings.OTHER else agree(ours[1:], tuple(answer))
        self.add(case, title, measure(calls, settings.warmup, settings.repetitions, settings.seconds)[1])

    def add(self, case: str, title: str, timings: dict[str, Timing]) -> None:
        """Take in the timings of a case, "ours" and the peers'."""
        self.cases[case] = title
        for who, timing in timings.items():
            self.timings[f"{case}.{who}"] = timing
            if who != "ours":
                self.ratio[f"{case}.{who}"] = ratio = timings["ours"].median / timing.median
                reason = self.settings.WHY.get((case.partition("_")[0], who))
                if ratio > 1 and reason:
                    self.why[f"{case}.{who}"] = reason

    def metrics(self) -> dict[str, Any]:
        """As they stand in the result."""
        return {name: getattr(self, name) for name in ("cases", "ratio", "agreement", "absent", "why")}


def our_nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, keep: int) -> Answer:
    """A call of `ops.nms` as one program, and the numbers of the boxes it keeps, of one list."""
    from keras import ops

    from repro.ops.nms import nms
    from repro.peers.programs import compiled

    arrays = backend.to_device(boxes), backend.to_device(scores)
    program = compiled(lambda b, s: nms(b, s, iou_threshold, keep))
    indices, kept = (ops.convert_to_numpy(array) for array in program(*arrays))
    return lambda: program(*arrays), indices[kept]


def _agreement(entry: Pool, key: str) -> tuple[str, dict[str, float | None]]:
    """The worst over runs: the least share of kept boxes, the largest differences."""
    runs = recorded(entry, "agreement", key)
    values = {name: [run[name] for run in runs if name in run] for name in ("kept", "values", "gradient")}
    kept = min(values["kept"], default=None)
    gaps = {name: max(values[name], default=None) for name in ("values", "gradient")}
    parts = [] if kept is None else [f"{100 * kept:.1f} % kept by both"]
    parts += [f"{name} {gap:.0e}" for name, gap in gaps.items() if gap is not None]
    return ", ".join(parts), {"kept_by_both": kept, **{f"largest_difference_{name}": gap for name, gap in gaps.items()}}


def _peers(entry: Pool, case: str) -> list[str]:
    """Who was timed beside us, as ordered in `_PEERS`; nobody ("") where all are absent."""
    timed = {name for result in entry.results for name in result.timings if name.startswith(f"{case}.")}
    peers = {name.removeprefix(f"{case}.") for name in timed} - {"ours"}
    return [*(peer for peer in _PEERS if peer in peers), *sorted(peers - _PEERS.keys())] or [""]


def _slower(entry: Pool, rows: Sequence[Row]) -> list[str]:
    """Where ours takes longer, by how much and why."""
    told: dict[str, list[str]] = {}
    for row in rows:
        ratio = row.values["ours_over_peer"]
        if ratio is not None and ratio > 1:
            reasons = recorded(entry, "why", f"{row.values['case']}.{row.values['peer']}")
            about = f"{number(ratio)} times {row.cells['peer']}'s time ({row.cells['model'].partition(':')[0]})"
            told.setdefault(reasons[0] if reasons else "", []).append(about)
    return [
        f"{entry.row_id(_LETTER)}: ours takes {'; '.join(abouts)}{f': {reason}' if reason else ''}."
        for reason, abouts in told.items()
    ]


def _absent(entry: Pool) -> list[str]:
    """Who is missing, in which cases and why; the cases are left out where it is missing in all."""
    cases = {case for result in entry.results for case in result.metrics.get("cases", {})}
    missing: dict[tuple[str, str], set[str]] = {}
    for result in entry.results:
        for key, reason in result.metrics.get("absent", {}).items():
            case, _, peer = key.partition(".")
            if key not in result.timings:
                missing.setdefault((peer, reason), set()).add(case)
    parts = []
    for (peer, reason), found in sorted(missing.items()):
        where = "" if found >= cases else f" in {', '.join(sorted(found))}"
        parts.append(f"{_PEERS.get(peer, peer)}{where} ({reason})")
    return [f"Not compared in {entry.row_id(_LETTER)}: {'; '.join(parts)}."] if parts else []
