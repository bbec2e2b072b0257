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
from repro.report.pooling import Pool, heading, protocol_notes, speed_pools
from repro.report.render import Row, Section, TableInfo, columns
from repro.report.timings import SPEED, by_scale, ratio_of, repetitions, speed_row

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
        shown = (*SPEED, *columns("peer", "ours.latency:ours ms", "theirs:peer ms", "n", "ratio:ours/peer"))
        shown += columns("agreement:largest relative difference")
        sections = []
        for scale, chosen in by_scale(speed_pools(of_kind(results, cls))):
            rows, notes = [], protocol_notes(chosen, _LETTER)
            for entry in chosen:
                timed = {name for result in entry.results for name in result.timings if name.endswith(".latency")}
                peers = sorted(name.removesuffix(".latency") for name in timed - {"ours.latency"})
                rows += [_row(entry, peer) for peer in peers]
                absent = {peer for result in entry.results for peer in result.metrics.get("absent", {})} - set(peers)
                notes += [f"Not installed for {entry.row_id(_LETTER)}: {', '.join(sorted(absent))}."] if absent else []
            if rows:
                sections.append(Section(heading(scale, "Same work, same run"), shown, tuple(rows), tuple(notes)))
        return {"peers": sections}


def _row(entry: Pool, peer: str) -> Row:
    row, timings = speed_row(entry, _LETTER, ("ours.latency", f"{peer}.latency"))
    recorded = [r.metrics.get("ratio", {}).get(peer) for r in entry.results]
    recorded = [ratio for ratio in recorded if ratio is not None]
    ratio = statistics.median(recorded) if recorded else ratio_of(*timings.values())
    gaps = [r.metrics.get("agreement", {}).get(peer) for r in entry.results]
    gap = max((gap for gap in gaps if gap is not None), default=None)
    cells = row.cells | {
        "peer": peer,
        "theirs": row.cells[f"{peer}.latency"],
        "n": repetitions(timings.values()),
        "ratio": "" if ratio is None else f"{ratio:.2f}",
        "agreement": "" if gap is None else f"{gap:.1e}",
    }
    values = {key.replace(f"{peer}.", "peer."): value for key, value in row.values.items()}
    values |= {"peer": peer, "ours_over_peer": ratio, "largest_relative_difference": gap}
    return Row(row.id, cells, values, row.files)
