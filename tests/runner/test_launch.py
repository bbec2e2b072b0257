"""What runs, in which order, within which budget, and what happens when something does not."""

import math

import pytest

from repro.errors import ReproError
from repro.experiments.majority import Majority
from repro.records.settings import Data
from repro.runner import launch
from repro.runner.launch import in_order, parse_budget
from repro.runner.plan import Job, Task
from repro.tasks.segmentation import Segmentation


def make(name: str, value: int = 1, seconds: float = 10, needs: tuple[Task, ...] = (), seeds: int = 1) -> Task:
    kind = Majority(task=Segmentation(), data=Data(name="shapes"))
    job = Job(
        experiment=name, kind=kind, profile="smoke", backend="tensorflow", seeds=tuple(range(seeds)),
        needs=tuple(task.job for task in needs),
    )  # fmt: skip
    return Task(job=job, value=value, seconds=seconds)


@pytest.fixture
def outcomes(monkeypatch):
    """Instead of processes: every task ends as this says, after as many pretended seconds."""
    endings, order, clock = {}, [], [0.0]

    def pretend(task, bar):
        order.append(task.job.experiment)
        task.state, seconds = endings.get(task.job.experiment, ("ok", task.seconds))
        clock[0] += seconds

    monkeypatch.setattr(launch, "_run_one", pretend)
    monkeypatch.setattr(launch.time, "monotonic", lambda: clock[0])
    return endings, order


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("25m", 1500), ("1.5h", 5400), (None, math.inf)])
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "25", "m", "abc", "-3m", "0m", "nanm", "25 minutes"])
def test_budgets_that_are_none(text):
    with pytest.raises(ReproError, match="90s, 25m or 2h"):
        parse_budget(text)


def test_parents_come_first_even_when_they_are_worth_less():
    parent = make("parent", value=1)
    child, other = make("child", value=9, needs=(parent,)), make("other", value=5)
    tasks = [other, child, parent]
    assert [task.job.experiment for task in in_order(tasks, by_value=True)] == ["parent", "child", "other"]
    assert [task.job.experiment for task in in_order(tasks, by_value=False)] == ["other", "parent", "child"]


def test_what_is_shown_comes_before_its_gallery_and_again_where_its_weights_are_gone(outcomes, monkeypatch):
    one, two = make("one"), make("two")
    shown = make("gallery", value=9, needs=(one, two))
    assert [task.job.experiment for task in in_order([shown, two, one], by_value=True)] == ["one", "two", "gallery"]
    # both are finished, but only one still has its weights
    monkeypatch.setattr(launch, "find", lambda results, name, *_: None if name == "gallery" else name)
    monkeypatch.setattr(launch, "_has_weights", lambda job, seed, seen: job.experiment == "one")
    tasks = launch.run([one, two, shown], math.inf, fresh=False)
    assert outcomes[1] == ["two", "gallery"]
    assert [task.state for task in tasks] == ["finished", "ok", "ok"]


def test_weights_that_are_gone_are_trained_again_for_the_seeds_that_use_them(outcomes, monkeypatch):
    parent = make("parent")
    child = make("child", needs=(parent,), seeds=3)
    monkeypatch.setattr(launch, "find", lambda results, name, *_: None if name == "child" else name)
    monkeypatch.setattr(launch, "_has_weights", lambda job, seed, seen: False)
    launch.survey([parent, child], fresh=False)
    # all three start from the one seed there is
    assert (parent.todo, child.todo) == ([0], [0, 1, 2])


def test_a_gallery_of_a_run_that_did_not_end_is_not_started(outcomes):
    endings, order = outcomes
    endings["two"] = ("failed", 1)
    one, two = make("one"), make("two")
    shown = make("gallery", needs=(one, two))
    launch.run([one, two, shown], math.inf, fresh=False)
    assert order == ["one", "two"]
    assert (shown.state, shown.note) == ("failed", "it needs two")


def test_without_a_budget_everything_runs_in_order(outcomes):
    tasks = [make("a"), make("b", value=9), make("c")]
    launch.run(tasks, math.inf, fresh=False)
    assert outcomes[1] == ["a", "b", "c"]
    assert {task.state for task in tasks} == {"ok"}


def test_a_budget_takes_the_most_valuable_and_starts_nothing_that_would_not_end(outcomes):
    tasks = [make("cheap", value=1, seconds=5), make("dear", value=5, seconds=100), make("best", value=9, seconds=50)]
    launch.run(tasks, 60, fresh=False)
    assert outcomes[1] == ["best", "cheap"]
    assert {task.job.experiment: task.state for task in tasks} == {"cheap": "ok", "dear": "left", "best": "ok"}


def test_a_machine_slower_than_the_estimates_is_noticed(outcomes):
    endings, order = outcomes
    endings["first"] = ("ok", 40)  # four times as long as thought
    tasks = [make("first", value=9), make("second", value=5), make("third", value=1, seconds=2)]
    launch.run(tasks, 60, fresh=False)
    assert order == ["first", "third"]


@pytest.mark.parametrize("state", ["failed", "no data"])
def test_what_starts_from_a_run_that_did_not_end_is_not_started_but_the_rest_is(outcomes, state):
    endings, order = outcomes
    endings["parent"] = (state, 1)
    parent = make("parent")
    child = make("child", needs=(parent,))
    grandchild, other = make("grandchild", needs=(child,)), make("other")
    launch.run([parent, child, grandchild, other], math.inf, fresh=False)
    assert order == ["parent", "other"]
    assert (child.state, grandchild.state, other.state) == (state, state, "ok")
    assert "parent" in child.note


def test_two_runs_in_one_folder_are_refused(outcomes):
    with launch._lock(launch.paths.runs_dir() / "lock"), pytest.raises(ReproError, match="another run"):
        launch.run([make("a")], math.inf, fresh=False)
