"""Run jobs, one process each: progress, an estimate of what is left, budget, resume, failures that stop nothing."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
from tqdm import tqdm

from repro import paths
from repro.errors import ReproError
from repro.files import atomic_write
from repro.records.result import Result
from repro.records.run import find, weights_path
from repro.runner.plan import Job, Task, results_of
from repro.runner.worker import FAILED, NO_DATA, Message, record_failure


def parse_budget(text: str | None) -> float:
    """Seconds of "90s", "25m" or "2h"; infinite for None. Raises ReproError for anything else."""
    if text is None:
        return float("inf")
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    try:
        amount = float(text[:-1])
    except ValueError:
        amount = 0
    if unit is None or not amount > 0:
        raise ReproError(f"budget {text!r} is not a time", "write 90s, 25m or 2h")
    return amount * unit


def survey(tasks: list[Task], fresh: bool) -> None:
    """Find what is finished. A parent whose weights are gone is unfinished again if a child still needs them."""
    seen: dict[str, list[Result]] = {task.job.experiment: results_of(task.job.experiment) for task in tasks}
    for task in tasks:
        job, results = task.job, seen[task.job.experiment]
        task.todo = [s for s in job.seeds if fresh or find(results, job.experiment, job.config_hash, s) is None]
        known = [result.wall_s for result in results if result.config_hash == job.config_hash]
        if known and all(result.status == "ok" for result in results):
            # a process has to start, however little it then has to do
            task.seconds = max(2.0, sum(known) / len(known))
        task.state = "waiting" if task.todo else "finished"
    named = {task.job.experiment: task for task in tasks}
    for task in reversed(in_order(tasks, by_value=False)):
        for parent in [named[job.experiment] for job in task.job.needs if job.experiment in named]:
            wanted = {parent.job.seed_for(seed) for seed in task.todo} - set(parent.todo)
            lost = [seed for seed in wanted if not _has_weights(parent.job, seed, seen)]
            parent.todo = sorted({*parent.todo, *lost})
            parent.state = "waiting" if parent.todo else "finished"


def _has_weights(job: Job, seed: int, seen: dict[str, list[Result]]) -> bool:
    result = find(seen[job.experiment], job.experiment, job.config_hash, seed)
    return result is not None and weights_path(result).exists()


def in_order(tasks: list[Task], by_value: bool) -> list[Task]:
    """Parents before children; within that the given order, or the most valuable first."""
    ordered: list[Task] = []
    named = {task.job.experiment: task for task in tasks}

    def add(task: Task) -> None:
        if task not in ordered:
            for job in task.job.needs:
                if job.experiment in named:
                    add(named[job.experiment])
            ordered.append(task)

    for task in sorted(tasks, key=lambda task: -task.value) if by_value else tasks:
        add(task)
    return ordered


def run(tasks: list[Task], budget: float, fresh: bool) -> list[Task]:
    """Run every unfinished task and return them all with their states: finished, ok, failed, no data, left.

    Raises ReproError when another run works on the same folder."""
    with _lock(paths.runs_dir() / "lock"):
        survey(tasks, fresh)
        if fresh:
            for task in tasks:
                _forget(task.job, task.todo)
        waiting = [task for task in in_order(tasks, budget < float("inf")) if task.state == "waiting"]
        form = "{l_bar}{bar}| {elapsed} < {remaining} left {postfix}"
        total = sum(task.cost for task in waiting)
        started, promised, spent = time.monotonic(), 0.0, 0.0
        with tqdm(total=total, bar_format=form, unit="s", disable=None if waiting else True, mininterval=0.5) as bar:
            for number, task in enumerate(waiting, 1):
                # estimates are for another machine until this one has shown its pace
                pace = spent / promised if promised else 1.0
                begun = time.monotonic()
                hindrance = _hindrance(task, tasks) or _over_budget(task.cost * pace, budget - (begun - started))
                if hindrance:
                    task.state, task.note = hindrance
                else:
                    left = f"about {_duration((total - promised) * pace)} left in all"
                    _say(bar, f"[{number}/{len(waiting)}] {task.job.experiment} ({left})")
                    _run_one(task, bar)
                    spent += time.monotonic() - begun
                promised += task.cost
                bar.update(promised - bar.n)
                if task.state != "ok":
                    _say(bar, f"    {task.job.experiment} {task.state}: {task.note}")
    return tasks


def _forget(job: Job, seeds: list[int]) -> None:
    """Delete the checkpoints that training could go on from, of all its phases."""
    for seed in seeds:
        for path in (paths.runs_dir() / job.experiment).glob(f"s{seed}-{job.config_hash[:6]}-*checkpoint.safetensors"):
            path.unlink()


def _hindrance(task: Task, tasks: list[Task]) -> tuple[str, str] | None:
    """(state, why) of a task that needs one which did not come to an end."""
    needed = {job.experiment for job in task.job.needs}
    for other in tasks:
        if other.job.experiment in needed and other.state in ("failed", "no data", "left"):
            return other.state, f"it needs {other.job.experiment}"
    return None


def _over_budget(cost: float, left: float) -> tuple[str, str] | None:
    return ("left", f"needs about {_duration(cost)}, {_duration(max(0, left))} are left") if cost > left else None


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _say(bar: tqdm, text: str) -> None:
    if bar.disable:
        print(text, flush=True)
    else:
        bar.write(text)


def _run_one(task: Task, bar: tqdm) -> None:
    job = replace(task.job, seeds=tuple(task.todo))
    log = paths.runs_dir() / job.experiment / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    done = 0.0
    with tempfile.TemporaryDirectory() as folder, open(log, "a", encoding="utf-8") as errors:
        order = Path(folder) / "job.json"
        atomic_write(order, msgspec.json.encode(job))
        process = subprocess.Popen(
            [sys.executable, "-m", "repro.runner.worker", str(order)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=_environment(job),
        )
        message = Message()
        try:
            for message in _messages(process):
                if message.fraction is not None:
                    bar.update((message.fraction - done) * task.cost)
                    done = message.fraction
                    bar.set_postfix_str(f"{job.experiment} {message.note}")
            code = process.wait()
        except BaseException:
            process.kill()
            process.wait()
            raise
    task.state = {0: "ok", NO_DATA: "no data", FAILED: "failed"}.get(code, "failed")
    task.note = message.error or ""
    if code and not task.note:
        how = f"by {signal.Signals(-code).name} (out of memory?)" if code < 0 else f"with status {code}"
        task.note = f"the process ended {how}; see {log.name} of runs/{job.experiment}"
        record_failure(job, task.note)


def _messages(process: subprocess.Popen[str]) -> Iterator[Message]:
    for line in process.stdout or ():
        try:
            yield msgspec.json.decode(line, type=Message)
        except msgspec.DecodeError:  # a library that prints
            continue


def _environment(job: Job) -> dict[str, str]:
    return {**os.environ, "KERAS_BACKEND": job.backend, "PYTHONUNBUFFERED": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ReproError(f"another run works in {path.parent}", "wait for it, or use --results DIR") from None
        yield
