"""One process, one job: `python -m repro.runner.worker JOB.json`. Speaks JSON lines to the process above it."""

import ctypes
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from repro import backend, paths
from repro.errors import NoDataError, ReproError
from repro.experiments.kind import Kind
from repro.records.result import Result, write_result
from repro.records.run import Progress, Run, find
from repro.runner.plan import Job, read_job, results_of

NO_DATA, FAILED = 3, 1


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line to the process above: how far the job is, or why it ended."""

    fraction: float | None = None
    note: str = ""
    error: str | None = None


def execute(job: Job, progress: Progress) -> None:
    """Do every seed of a job in this process. Raises whatever goes wrong."""
    backend.select(job.backend)
    runs = [_run(job, seed, _parents(job, seed)) for seed in job.seeds]
    write_results(job.kind, runs, progress)


def write_results(kind: Kind, runs: Sequence[Run], progress: Progress) -> list[Result]:
    """Do runs, one after another, and write the result of each as soon as it is there."""
    results = []
    for run, outcome in zip(runs, kind.run(runs, progress), strict=True):
        results.append(run.result(outcome))
        write_result(paths.results_dir(), results[-1])
        if len(results) < len(runs):
            runs[len(results)].start()
    return results


def _run(job: Job, seed: int, parents: dict[str, Result]) -> Run:
    known: dict[str, Any] = {"profile": job.profile, "backend": job.backend, "config_hash": job.config_hash}
    return Run(job.experiment, job.kind, seed, parents=parents, **known)


def _parents(job: Job, seed: int) -> dict[str, Result]:
    """The results whose weights a run uses, by experiment. Raises ReproError where one is missing."""
    found = {}
    for need in job.needs:
        name = need.experiment
        result = find(results_of(name), name, need.config_hash, need.seed_for(seed))
        if result is None:
            raise ReproError(f"{job.experiment} starts from {name}, which has no result here", f"run {name} first")
        found[name] = result
    return found


def main() -> int:
    """Entry point of the process; returns its exit status."""
    _die_with_parent()
    job = read_job(msgspec.json.decode(Path(sys.argv[1]).read_bytes()))

    def send(message: Message) -> None:
        print(msgspec.json.encode(message).decode(), flush=True)

    try:
        execute(job, lambda fraction, note: send(Message(fraction=fraction, note=note)))
    except NoDataError as error:
        send(Message(error=str(error)))
        return NO_DATA
    except Exception as error:  # whatever it is, it becomes a failed result and the suite goes on
        if not isinstance(error, ReproError):
            traceback.print_exc()
        text = one_line(error)
        record_failure(job, text)
        send(Message(error=text))
        return FAILED
    return 0


def one_line(error: BaseException) -> str:
    """An error's first line with its type, unless it is one of ours, which say all themselves."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return first if isinstance(error, ReproError) else f"{type(error).__name__}: {first}"


def record_failure(job: Job, error: str) -> None:
    """Write a failed result for the first seed the process did not finish."""
    results = results_of(job.experiment)
    unfinished = [seed for seed in job.seeds if find(results, job.experiment, job.config_hash, seed) is None]
    run = _run(job, (unfinished or job.seeds)[0], {})
    write_result(paths.results_dir(), run.result(error=error))


def _die_with_parent() -> None:
    """Ask Linux to end this process with the one above: a killed suite must not leave a writer behind."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
