"""What timings share: a process that is ready for them, and images a second at the best batch."""

from collections.abc import Callable, Sequence
from typing import Any

from repro import backend
from repro.engine.timing import MINIMUM_REPETITIONS, measure, timed
from repro.records.result import Timing

_OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "OOM")


def prepare(precision: str) -> bool:
    """Make this process ready to be timed: its precision, random weights from seed 0, and no compile cache that would
    outlive it. Whether float32 convolutions run in TF32."""
    tf32 = backend.set_precision(precision)
    backend.compile_cache(False)
    backend.set_seed(0)
    return tf32


def best_throughput(
    make_call: Callable[[int], Callable[[], Any]],
    batches: Sequence[int],
    seconds: float,
    repetitions: int,
    fits: Callable[[int], bool] | None = None,
) -> tuple[Timing, int]:
    """Images per second at the best of the batches, and that batch. `make_call` gives the call of a batch.

    The batches grow until one is too slow for its share of the seconds or does not fit in memory, which `fits` may
    foresee. Raises what the first batch raises, and every error but a full memory."""
    share = seconds / len(batches)
    best: tuple[Timing, int] | None = None
    for batch in batches:
        if best is not None and fits is not None and not fits(batch):
            break
        try:
            call = make_call(batch)
            timed(call)
            latency = measure({"call": call}, 2, repetitions, share)[1]["call"]
        except Exception as error:  # each backend has a class of its own for a full memory
            if best is None or not any(sign in str(error) for sign in _OUT_OF_MEMORY):
                raise
            break
        median, p5, p95 = (1e3 * batch / value for value in (latency.median, latency.p95, latency.p5))
        if best is None or median > best[0].median:
            best = Timing(median=median, p5=p5, p95=p95, n=latency.n, unit="images/s"), batch
        if latency.median / 1e3 * MINIMUM_REPETITIONS > share:
            break
    assert best is not None  # the first batch is timed, or raises
    return best
