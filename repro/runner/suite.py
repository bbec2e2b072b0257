"""`repro run` and the commands of one experiment: from tasks to results, tables and a last word."""

import dataclasses
import statistics

from repro import paths
from repro.errors import ReproError
from repro.presets.base import Preset
from repro.presets.choice import all_presets
from repro.records import machine
from repro.records.result import Result, read_results, result_path
from repro.records.run import find, weights_path
from repro.runner import launch
from repro.runner.plan import Task, job_for, prepare, results_of, with_init
from repro.runner.publish import write_all
from repro.tasks.base import Training

_HEADLINE = ("mean_iou", "top1")


def run_plan(tasks: list[Task], budget: str | None, fresh: bool, dry_run: bool) -> int:
    """Run tasks, write tables and README, print the summary. Exit status 1 if a run failed."""
    seconds = launch.parse_budget(budget)
    read_results(paths.results_dir())  # a damaged result should stop us now, not after the work
    if dry_run:
        launch.survey(tasks, fresh)
        for task in launch.in_order(tasks, budget is not None):
            seeds = ",".join(map(str, task.todo))
            what = f"seeds {seeds}, about {task.cost:.0f} s" if task.todo else "finished"
            print(f"{task.job.experiment:28} {task.job.profile:6} {task.job.backend:11} {what}")
        return 0
    profiles = ", ".join(sorted({task.job.profile for task in tasks}))
    backends = ", ".join(sorted({task.job.backend for task in tasks}))
    print(f"repro run: {len(tasks)} experiments, profile {profiles}, {backends}, results in {paths.results_dir()}")
    launch.run(tasks, seconds, fresh)
    return _close(tasks)


def _close(tasks: list[Task]) -> int:
    states = {
        state: [t for t in tasks if t.state == state] for state in ("finished", "ok", "no data", "left", "failed")
    }
    written = write_all()
    print(", ".join(f"{len(found)} {state}" for state, found in states.items() if found))
    for state in ("no data", "left", "failed"):
        for task in states[state]:
            print(f"  {state}: {task.job.experiment}: {task.note}")
    for line in compared_with_published(read_results(paths.results_dir()), tasks):
        print(f"  {line}")
    print(f"tables: {paths.tables_dir()} ({len(written)} files changed); read {paths.tables_dir() / 'README.md'} first")
    return 1 if states["failed"] else 0


def compared_with_published(results: list[Result], tasks: list[Task]) -> list[str]:
    """A line for each experiment that was also published from elsewhere: both means, and whether they agree."""
    here, lines = machine.capture().id, []
    for task in tasks:
        same = [
            r
            for r in results
            if (r.experiment, r.config_hash) == (task.job.experiment, task.job.config_hash) and r.status == "ok"
        ]
        metric = next((m for m in _HEADLINE for r in same if m in r.metrics), None)
        if metric is None or task.state not in ("ok", "finished"):
            continue
        mine = [find(results, task.job.experiment, task.job.config_hash, seed) for seed in task.job.seeds]
        ours = [r.metrics[metric] for r in mine if r is not None]
        published = [r.metrics[metric] for r in same if r.machine.id != here]
        if ours and published:
            agree = "agrees" if _interval_overlap(ours, published) else "DIFFERS"
            lines.append(f"{task.job.experiment} {metric}: here {_text(ours)}, published {_text(published)}: {agree}")
    return lines


def _interval(values: list[float]) -> tuple[float, float]:
    """Mean plus and minus two standard deviations; half a point each way for a single run."""
    mean = statistics.mean(values)
    spread = 2 * statistics.stdev(values) if len(values) > 1 else 0.005
    return mean - spread, mean + spread


def _interval_overlap(a: list[float], b: list[float]) -> bool:
    (low_a, high_a), (low_b, high_b) = _interval(a), _interval(b)
    return low_a <= high_b and low_b <= high_a


def _text(values: list[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.1f}{spread} % (n={len(values)})"


def run_adhoc(preset: Preset, seed: int, backend: str | None, compile: str | None = None) -> int:
    """Run an experiment put together on the command line; print its scores and where they are."""
    if not 0 <= seed < 2**32:
        raise ReproError(f"seed {seed} is impossible", "give a whole number from 0 to 4294967295")
    chosen, accelerated, compile = prepare(backend, compile)
    profile = _profile_of(preset, accelerated)
    job = dataclasses.replace(job_for(preset, profile, chosen, compile=compile), seeds=(seed,))
    task = Task(job=job, value=0, seconds=preset.seconds[profile])
    launch.run([task], float("inf"), fresh=False)
    if task.state in ("no data", "failed"):
        raise ReproError(f"{preset.name} has {task.state}" if not task.note else task.note)
    result = find(results_of(job.experiment), job.experiment, job.config_hash, seed)
    assert result is not None  # the process wrote it, and ended well
    show(result)
    return 0


def _profile_of(preset: Preset, accelerated: bool) -> str:
    """That of this machine, unless what a training starts from has only the other."""
    profiles = sorted(preset.configs, reverse=accelerated)
    kind = preset.configs[profiles[0]]
    needs = with_init(kind, None).needs() if isinstance(kind, Training) else ()
    fitting = [each for each in profiles if all(each in all_presets()[name].configs for name in needs)]
    return (fitting or profiles)[0]


def show(result: Result) -> None:
    """Print a result's scores and timings, and where it is."""
    for name, value in result.metrics.items():
        if isinstance(value, int | float | str):
            print(f"{name:26} {value:.4f}" if isinstance(value, float) else f"{name:26} {value}")
    for name, timing in result.timings.items():
        print(f"{name:26} {timing.median:.2f} {timing.unit} (p5 {timing.p5:.2f}, p95 {timing.p95:.2f}, n={timing.n})")
    print(f"result   {result_path(paths.results_dir(), result)}")
    if result.weights_sha256 and result.kind == "train":
        print(f"weights  {weights_path(result)}")
