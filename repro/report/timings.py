"""What tables of times share: pools by scale, a row with the setup of a timing run, ratios."""

from collections.abc import Iterable, Iterator, Sequence

from repro.records.result import Timing
from repro.report.pooling import CODE, SCALES, SETUP, Pool, pooled_timing, setup_of, timing_text
from repro.report.render import Row, columns

SPEED = (*columns("id:row", "model"), *SETUP, *columns("driver*", "cache:compile cache*", "runs*"), *CODE)


def by_scale(pools: Sequence[Pool]) -> Iterator[tuple[str, list[Pool]]]:
    """The scales that ran, best first, each with its pools."""
    for scale in SCALES:
        if chosen := [entry for entry in pools if entry.first.scale == scale]:
            yield scale, chosen


def ratio_of(a: Timing | None, b: Timing | None) -> float | None:
    """How many times b's median a's is; None where one is missing."""
    return a.median / b.median if a and b and b.median else None


def repetitions(timings: Iterable[Timing | None]) -> str:
    """`50`, or `50/7` where they differ."""
    return "/".join(dict.fromkeys(str(timing.n) for timing in timings if timing))


def speed_row(entry: Pool, letter: str, names: Sequence[str]) -> tuple[Row, dict[str, Timing | None]]:
    """A row with the setup of a timing run and its timings, and the pooled timings themselves."""
    cells, values = setup_of(entry)
    cached = any(result.compile_cache for result in entry.results)
    cells |= {"id": entry.row_id(letter), "runs": str(len(entry.results)), "cache": "on" if cached else "off"}
    cells["driver"] = values["driver"] = entry.first.machine.driver
    timings = {name: pooled_timing(entry.results, name) for name in names}
    for name, timing in timings.items():
        if timing:
            cells[name] = timing_text(timing)
            unit = timing.unit.replace("/", "_per_")
            values |= {f"{name}_{unit}_{part}": getattr(timing, part) for part in ("median", "p5", "p95", "n")}
    return Row(cells["id"], cells, values, entry.files), timings
