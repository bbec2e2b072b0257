"""What tables of timed networks share: sections by scale, a network's card, times as values, and their headline."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from repro.records.result import Result, Timing
from repro.report.headline import best_pools
from repro.report.pooling import Pool, hardware, heading, pooled_timing, precision_of, size_text, speed_pools
from repro.report.render import Column, Row, Section, number
from repro.report.timings import by_scale


def scale_sections(
    title: str, shown: Sequence[Column], results: Sequence[Result], make_rows: Callable[[Pool], Iterable[Row]],
    make_notes: Callable[[list[Pool], list[Row]], Iterable[str]] = lambda pools, rows: (),
) -> list[Section]:  # fmt: skip
    """The rows of timings, a section for each scale that has any."""
    sections = []
    for scale, chosen in by_scale(speed_pools(results)):
        rows = [row for entry in chosen for row in make_rows(entry)]
        if rows:
            notes = make_notes(chosen, rows)
            sections.append(Section(heading(scale, title), tuple(shown), tuple(rows), tuple(notes)))
    return sections


def card_cells(card: Mapping[str, Any]) -> dict[str, str]:
    """Width and input of a network's card, as text."""
    depth = "" if card["depth"] == 1 else f", depth {card['depth']:g}"
    return {"width": f"{card['width']:g}{depth}", "input": size_text(card["input_size"])}


def timing_values(times: Mapping[str, Timing | None]) -> dict[str, Any]:
    """`total_ms_median`, `total_ms_p5` and so on of times in ms, by name; None of what was not timed."""
    parts = ("median", "p5", "p95", "n")
    return {f"{name}_ms_{part}": getattr(timing, part, None) for name, timing in times.items() for part in parts}


def headline_rows(
    results: Sequence[Result], letter: str, title: str, where: str, names: Callable[[Result], Mapping[str, str]]
) -> list[list[str]]:
    """A row for each device: the totals of the networks of one run. `names`: their titles, by the name in timings."""
    rows, pools = [], speed_pools(results)
    for entry in best_pools(pools, [(hardware(pool.first.machine),) for pool in pools]):
        first = entry.first
        totals = {name: pooled_timing(entry.results, f"{key}.total") for key, name in names(first).items()}
        shown = ", ".join(f"{name} {number(total.median)} ms" for name, total in totals.items() if total)
        state = " (stale)" if entry.code == "stale" else ""
        run = f"random weights, {hardware(first.machine)}, {first.backend} {precision_of(first)}"
        rows.append([title, where, first.scale, shown + state, run, f"`{entry.row_id(letter)}`"])
    return rows
