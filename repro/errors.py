"""Errors a user can act on: one line that names the culprit and the cure."""

import difflib
from collections.abc import Iterable


class ReproError(Exception):
    """Bad input. The command line prints its message as one line and exits with status 2."""

    def __init__(self, problem: str, cure: str = "") -> None:
        super().__init__(f"{problem}. {cure}" if cure else problem)


class NoDataError(ReproError):
    """A data set is not on this machine; its experiments are skipped and their cells say `no data`."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> ReproError:
    """The error for a name nobody registered, with the nearest known names as the cure."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    cure = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    return ReproError(f"unknown {kind} {name!r}", cure)
