"""`repro run`: from names and a profile to tasks, from tasks to results, tables and a last word."""

import statistics

from repro import paths
from repro.errors import ReproError
from repro.experiments.base import Experiment, all_experiments, choose, job_for
from repro.harness import launch, machine, preflight
from repro.harness.launch import Task
from repro.harness.record import Result, read_results
from repro.harness.run import Job, find

_HEADLINE = ("mean_iou", "top1")


def plan(
    names: tuple[str, ...], profile: str | None, seeds: int | None, init: str | None, backend: str | None
) -> list[Task]:
    """The tasks that names (or a whole profile) stand for, with the experiments they start from.

    Raises ReproError for names, profiles, inits and backends that do not exist or do not fit."""
    choose(names, profile, "smoke")  # a misspelt name should not wait for the preflight
    backend, accelerated, remarks = preflight.choose(backend)
    for remark in remarks:
        print(f"preflight: {remark}")
    default = "lab" if accelerated else "smoke"
    tasks: dict[str, Task] = {}
    for experiment, its_profile in choose(names, profile, default):
        job = job_for(experiment, its_profile, backend, seeds, init)
        for each in _with_sources(job):
            preset = all_experiments()[each.experiment]
            task = Task(job=each, value=preset.value, seconds=preset.seconds[its_profile])
            # a preset reached twice is one task, with the larger number of seeds
            known = tasks.get(each.experiment)
            if known is None or len(each.seeds) > len(known.job.seeds):
                tasks[each.experiment] = task
    return list(tasks.values())


def _with_sources(job: Job) -> list[Job]:
    """A job after all that it needs."""
    return [*(each for source in job.sources for each in _with_sources(source)), job]


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
    from repro.experiments.publish import write_all

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
        mine = [find(task.job, seed, results) for seed in task.job.seeds]
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


def run_adhoc(experiment: Experiment, seed: int, backend: str | None) -> int:
    """Run an experiment put together on the command line; print its scores and where they are."""
    if not 0 <= seed < 2**32:
        raise ReproError(f"seed {seed} is impossible", "give a whole number from 0 to 4294967295")
    chosen, _, remarks = preflight.choose(backend)
    for remark in remarks:
        print(f"preflight: {remark}")
    profile = next(iter(experiment.configs))
    job = job_for(experiment, profile, chosen)
    job.seeds = [seed]
    task = Task(job=job, value=0, seconds=experiment.seconds[profile])
    launch.run([task], float("inf"), fresh=False)
    if task.state in ("no data", "failed"):
        raise ReproError(f"{experiment.name} has {task.state}" if not task.note else task.note)
    show(find(job, seed, read_results(paths.results_dir())))
    return 0


def show(result: Result) -> None:
    """Print a result's scores and timings, and where it is."""
    for name, value in result.metrics.items():
        if isinstance(value, int | float | str):
            print(f"{name:26} {value:.4f}" if isinstance(value, float) else f"{name:26} {value}")
    for name, timing in result.timings.items():
        print(f"{name:26} {timing.median:.2f} {timing.unit} (p5 {timing.p5:.2f}, p95 {timing.p95:.2f}, n={timing.n})")
    print(f"result   {paths.results_dir() / result.experiment / result.run_id}.json")
    if result.weights_sha256 and result.kind == "train":
        print(f"weights  {paths.runs_dir() / result.experiment / result.run_id / 'weights.safetensors'}")
