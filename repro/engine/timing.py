"""The rules of speed measurement: warm up, repeat, synchronise, report median, p5, p95 and n."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from repro import backend
from repro.records.result import Timing

MINIMUM_REPETITIONS = 3

PROTOCOL = {
    "timing": "wall clock around the call and a device synchronisation; inputs are on the device already",
    "warm-up": "at least 10 calls before 50 timed ones for milliseconds-long work; fewer where a call takes "
    "seconds, and then n is shown",
    "spread": "median, 5th and 95th percentile over n calls",
    "compilation": "first call less the median call: tracing, compiling, first run; persistent compile caches off",
    "peak memory": "of the accelerator where there is one, else of the whole process on the host",
}


def bind(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    """The call of a function with its argument, to be timed."""
    return lambda: function(argument)


def timed(call: Callable[[], Any]) -> float:
    """Seconds one call takes, outputs computed."""
    started = time.perf_counter()
    backend.synchronise(call())
    return time.perf_counter() - started


def summary(seconds: list[float], unit: str = "ms") -> Timing:
    """Median, p5, p95 of durations in seconds, told in "ms" or "s".

    >>> summary([0.002, 0.004, 0.003]).median
    3.0
    """
    p5, median, p95 = np.percentile(seconds, [5, 50, 95]) * {"ms": 1e3, "s": 1}[unit]
    return Timing(median=float(median), p5=float(p5), p95=float(p95), n=len(seconds), unit=unit)


def measure(
    calls: dict[str, Callable[[], Any]], warmup: int, repetitions: int, seconds: float
) -> tuple[dict[str, Timing], dict[str, Timing]]:
    """Time calls side by side, one round after another so that drifts of the machine fall on all alike.

    Returns (first-call cost in s less the median, latency in ms) by name. The warm-up takes at most a quarter of
    `seconds`, the timed rounds end after `seconds` once there are MINIMUM_REPETITIONS."""
    first = {name: timed(call) for name, call in calls.items()}
    started = time.perf_counter()
    for _ in range(warmup):
        for call in calls.values():
            timed(call)
        if time.perf_counter() - started > seconds / 4:
            break
    durations: dict[str, list[float]] = {name: [] for name in calls}
    started = time.perf_counter()
    for done in range(1, repetitions + 1):
        for name, call in calls.items():
            durations[name].append(timed(call))
        if done >= MINIMUM_REPETITIONS and time.perf_counter() - started > seconds:
            break
    latency = {name: summary(values) for name, values in durations.items()}
    compile_cost = {name: summary([max(0.0, first[name] - latency[name].median / 1e3)], "s") for name in calls}
    return compile_cost, latency
