"""What tables of times share: pools by scale, a row with the setup and the times of its runs, their headline."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from repro.records.result import Result, Timing
from repro.report import pooling, readme
from repro.report.pooling import CODE, OF_TIMES, SETUP, MakeNotes, MakeRows, Pool, hardware, pooled_timing, spread
from repro.report.render import Column, Row, Section, columns, number

SPEED = columns("id:row", "model", *SETUP, "driver*", "cache:compile cache*", "runs*", *CODE)


def scale_sections(
    title: str, shown: Sequence[Column], results: Sequence[Result], rows: MakeRows, notes: MakeNotes | None = None
) -> list[Section]:
    """The rows of timings, a section for each scale that has any."""
    return pooling.sections_by_scale(title, shown, pooling.speed_pools(results), rows, notes)


def recorded(entry: Pool, metric: str, key: str) -> list[Any]:
    """What the runs of a row have under a key of a metric."""
    found = (result.metrics.get(metric, {}).get(key) for result in entry.results)
    return [value for value in found if value is not None]


def ratio_of(a: Timing | None, b: Timing | None) -> float | None:
    """How many times b's median a's is; None where one is missing."""
    return a.median / b.median if a and b and b.median else None


def repetitions(timings: Iterable[Timing | None]) -> str:
    """`50`, or `50/7` where they differ."""
    return "/".join(dict.fromkeys(str(timing.n) for timing in timings if timing))


def speed_row(entry: Pool, letter: str, names: Sequence[str]) -> tuple[Row, dict[str, Timing | None]]:
    """A row with the setup of a timing run and its timings, and the pooled timings themselves."""
    row = pooling.row_of(entry, letter)
    cached = any(result.compile_cache for result in entry.results)
    row.cells |= {"runs": str(len(entry.results)), "cache": "on" if cached else "off"}
    row.values["driver"] = row.cells["driver"]
    timings = {name: pooled_timing(entry.results, name) for name in names}
    for name, timing in timings.items():
        row.cells[name] = pooling.timing_text(timing)
        if timing:
            row.values |= spread(f"{name}_{timing.unit.replace('/', '_per_')}", timing, OF_TIMES)
    return row, timings


def card_cells(card: Mapping[str, Any]) -> dict[str, str]:
    """Width and input of a network's card, as text."""
    depth = "" if card["depth"] == 1 else f", depth {card['depth']:g}"
    return {"width": f"{card['width']:g}{depth}", "input": pooling.size_text(card["input_size"])}


def timing_values(times: Mapping[str, Timing | None]) -> dict[str, Any]:
    """`total_ms_median`, `total_ms_p5` and so on of times in ms, by name; None of what was not timed."""
    return {
        key: value for name, timing in times.items() for key, value in spread(f"{name}_ms", timing, OF_TIMES).items()
    }


def headline_rows(
    results: Sequence[Result], letter: str, title: str, where: str, names: Callable[[Result], Mapping[str, str]]
) -> list[list[str]]:
    """A row for each device: the totals of the networks of one run. `names`: their titles, by the name in timings."""
    rows = []
    for entry in readme.best_pools(pooling.speed_pools(results), lambda entry: hardware(entry.first.machine)):
        totals = {name: f"{key}.total" for key, name in names(entry.first).items()}
        rows += headline_row(entry, letter, title, where, "random weights", totals)
    return rows


def headline_row(
    entry: Pool, letter: str, title: str, where: str, setting: str, names: Mapping[str, str]
) -> list[list[str]]:
    """A row of timings, by the names they are shown under; none where nothing was timed."""
    found = {name: pooled_timing(entry.results, key) for name, key in names.items()}
    shown = [f"{name} {number(timing.median)} ms" for name, timing in found.items() if timing]
    first = entry.first
    run = f"{setting}, {hardware(first.machine)}, {first.backend} {pooling.precision_of(first)}"
    return [readme.row(entry, letter, title, where, shown, run)] if shown else []
