"""VGG-16's convolutional part beside the same network of other libraries: same weights, same input, same run."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from repro import backend
from repro.engine.bench import prepare
from repro.engine.timing import PROTOCOL, bind, measure
from repro.experiments.kind import Kind, of_kind
from repro.records.result import Result, Xla
from repro.records.run import Outcome, Progress, Run
from repro.report.cards import SPEED, ratio_of, recorded, repetitions, scale_sections, speed_row
from repro.report.pooling import Pool, protocol_notes
from repro.report.render import Row, Section, TableInfo, columns, fixed

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale

_LETTER = "P"


class Peer(Kind, tag="peer"):
    """Time VGG-16's convolutional part beside other libraries' and compare the outputs for equal weights."""

    RESULT: ClassVar[str] = "peer"
    TABLES: ClassVar[tuple[TableInfo, ...]] = (
        TableInfo(
            "peers",
            "Side by side with peers",
            (
                "The suite and a peer do the same work in the same run, interleaved, at the same precision. "
                "`ours/peer` below 1 means that the suite is faster. Of networks, the last column is the largest "
                "difference of the outputs relative to the largest output, for equal weights and input; what it is of "
                "an operation stands below its section. Times are medians over n repetitions with the 5th to 95th "
                "percentile in parentheses.",
            ),
        ),
    )

    input_size: tuple[int, int]
    peers: tuple[str, ...]
    precision: str = "float32"
    warmup: int = 10
    repetitions: int = 50
    seconds: float = 60.0

    def subject(self) -> str:
        """The network that is compared."""
        return "vgg16"

    def modules(self) -> tuple[str, ...]:
        """The network's too."""
        return (*super().modules(), "models.vgg")

    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Time ours and every peer that is installed, interleaved, and compare outputs."""
        for _ in runs:
            yield self._compare(progress)

    def _compare(self, progress: Progress) -> Outcome:
        import keras

        from repro.models import vgg
        from repro.peers.vgg import PEERS

        tf32 = prepare(self.precision)
        image = keras.Input((*self.input_size, 3))
        ours = keras.Model(image, vgg.blocks(vgg.normalise(image))["pool5"])
        source = keras.applications.VGG16(weights=None, include_top=False, input_shape=(*self.input_size, 3))
        vgg.from_keras_applications(ours, source)
        pixels = np.random.default_rng(0).uniform(0, 255, (1, *self.input_size, 3)).astype("float32")
        calls: dict[str, Callable[[], Any]] = {"ours": bind(backend.forward(ours, "xla"), backend.to_device(pixels))}
        reference = keras.ops.convert_to_numpy(calls["ours"]())
        agreement, absent = {}, {}
        for done, name in enumerate(self.peers):
            try:
                calls[name], outputs = PEERS[name](source, pixels)
            except ImportError as error:
                absent[name] = str(error)
                continue
            agreement[name] = float(np.max(np.abs(outputs - reference)) / np.max(np.abs(reference)))
            progress(0.5 * (done + 1) / len(self.peers), f"built {name}")
        _, latency = measure(calls, self.warmup, self.repetitions, self.seconds)
        return Outcome(
            scale="paper" if self.input_size == (224, 224) else "smoke",
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
            input_size=self.input_size,
            timings={f"{name}.latency": timing for name, timing in latency.items()},
            tf32=tf32,
            xla=Xla(requested=True, used=True),
            peak_memory_mib=round(backend.peak_memory_mib(), 1),
        )

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Ours beside each peer, by scale."""
        shown = columns(
            *SPEED, "peer", "ours.latency:ours ms", "theirs:peer ms", "n", "ratio:ours/peer",
            "agreement:largest relative difference",
        )  # fmt: skip
        return {"peers": scale_sections("Same work, same run", shown, of_kind(results, cls), _rows, _notes)}


def _peers(entry: Pool) -> list[str]:
    timed = {name for result in entry.results for name in result.timings if name.endswith(".latency")}
    return sorted(name.removesuffix(".latency") for name in timed - {"ours.latency"})


def _notes(pools: Sequence[Pool], rows: Sequence[Row]) -> list[str]:
    notes = protocol_notes(pools, _LETTER)
    for entry in pools:
        absent = {peer for result in entry.results for peer in result.metrics.get("absent", {})} - set(_peers(entry))
        notes += [f"Not installed for {entry.row_id(_LETTER)}: {', '.join(sorted(absent))}."] if absent else []
    return notes


def _rows(entry: Pool) -> list[Row]:
    return [_row(entry, peer) for peer in _peers(entry)]


def _row(entry: Pool, peer: str) -> Row:
    row, timings = speed_row(entry, _LETTER, ("ours.latency", f"{peer}.latency"))
    ratios = recorded(entry, "ratio", peer)
    ratio = statistics.median(ratios) if ratios else ratio_of(*timings.values())
    gap = max(recorded(entry, "agreement", peer), default=None)
    row.cells |= {
        "peer": peer,
        "theirs": row.cells[f"{peer}.latency"],
        "n": repetitions(timings.values()),
        "ratio": fixed(ratio, ".2f"),
        "agreement": fixed(gap, ".1e"),
    }
    row.values = {key.replace(f"{peer}.", "peer."): value for key, value in row.values.items()}
    row.values |= {"peer": peer, "ours_over_peer": ratio, "largest_relative_difference": gap}
    return row
