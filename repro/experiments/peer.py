"""VGG-16's convolutional part beside the same network of other libraries: same weights, same input, same run."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from repro import backend
from repro.engine.timing import PROTOCOL, bind, measure
from repro.experiments.kind import of_kind
from repro.experiments.timed import Timed
from repro.records.result import Result
from repro.records.run import Progress
from repro.report.cards import SPEED, ratio_of, recorded, repetitions, scale_sections, speed_row
from repro.report.pooling import Pool, protocol_notes
from repro.report.render import Row, Section, TableInfo, columns

VERSION = 1  # raised when its numbers change on purpose: results of another version are stale
_CAPTION = (
    "The suite and a peer do the same work in the same run, interleaved, at the same precision. `ours/peer` below 1 "
    "means that the suite is faster. Of networks, the last column is the largest difference of the outputs relative to "
    "the largest output, for equal weights and input; what it is of an operation stands below its section. Times are "
    "medians over n repetitions with the 5th to 95th percentile in parentheses."
)
_LETTER = "P"


class Peer(Timed, tag="peer", kw_only=True, frozen=True):
    """Time VGG-16's convolutional part beside other libraries' and compare the outputs for equal weights."""

    RESULT: ClassVar[str] = "peer"
    SUBJECT: ClassVar[str] = "vgg16"
    MODULES: ClassVar[tuple[str, ...]] = ("models.vgg",)
    TABLES: ClassVar[tuple[TableInfo, ...]] = (TableInfo("peers", "Side by side with peers", (_CAPTION,)),)

    input_size: tuple[int, int]
    peers: tuple[str, ...]

    def measure(self, progress: Progress) -> dict[str, Any]:
        """Time ours and every peer that is installed, interleaved, and compare outputs."""
        import keras

        from repro.models import vgg
        from repro.peers.vgg import PEERS

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
        return dict(
            scale="paper" if self.input_size == (224, 224) else "smoke",
            metrics={
                "agreement": agreement,
                "ratio": {name: latency["ours"].median / latency[name].median for name in agreement},
                "absent": absent,
                "network": "VGG-16, 13 convolutions and 5 poolings",
            },
            protocol=PROTOCOL | {"timed region": "one image on the device to pool5, compiled where the peer can be"},
            input_size=self.input_size,
            timings={f"{name}.latency": timing for name, timing in latency.items()},
        )

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Ours beside each peer, by scale."""
        shown = columns(*SPEED, "peer", "ours.latency:ours ms", "theirs:peer ms", "n", "ours_over_peer:ours/peer")
        shown += columns("largest_relative_difference:largest relative difference")

        def rows(entry: Pool) -> list[Row]:
            return [_row(entry, peer) for peer in _peers(entry)]

        return {"peers": scale_sections("Same work, same run", shown, of_kind(results, cls), rows, _notes)}


def _peers(entry: Pool) -> list[str]:
    timed = {name for result in entry.results for name in result.timings if name.endswith(".latency")}
    return sorted(name.removesuffix(".latency") for name in timed - {"ours.latency"})


def _notes(pools: Sequence[Pool], rows: Sequence[Row]) -> list[str]:
    notes = protocol_notes(pools, _LETTER)
    for entry in pools:
        absent = {peer for result in entry.results for peer in result.metrics.get("absent", {})} - set(_peers(entry))
        notes += [f"Not installed for {entry.row_id(_LETTER)}: {', '.join(sorted(absent))}."] if absent else []
    return notes


def _row(entry: Pool, peer: str) -> Row:
    row, timings = speed_row(entry, _LETTER, ("ours.latency", f"{peer}.latency"))
    ratios = recorded(entry, "ratio", peer)
    row.cells |= {"theirs": row.cells[f"{peer}.latency"], "n": repetitions(timings.values()), "peer": peer}
    row.values = {key.replace(f"{peer}.", "peer."): value for key, value in row.values.items()} | {"peer": peer}
    row.put("ours_over_peer", statistics.median(ratios) if ratios else ratio_of(*timings.values()), ".2f")
    row.put("largest_relative_difference", max(recorded(entry, "agreement", peer), default=None), ".1e")
    return row
