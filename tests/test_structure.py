"""The house: which module may import which, as a test that walks every import, those inside functions included."""

import ast
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "repro"
# arrows run down; modules of one floor may import each other, but never in a circle
FLOORS = (
    ("cli", "__main__"),
    ("runner",),
    ("presets",),
    ("experiments",),
    ("report", "engine"),
    ("tasks",),
    ("models", "metrics", "data", "weights", "drawing", "proposals", "peers", "solvers"),
    ("ops",),
    ("records", "registry", "backend", "errors", "files", "paths", "facts"),
)
# on one floor, yet apart
APART = {("report", "engine"), ("engine", "report")}


@cache
def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_in(source: str, known) -> set[str]:
    """The modules of ours that some code imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "imports name their module in full"
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            # `from repro.models import vgg` is about vgg; the package beside it is no more than a folder
            names |= {name if name in known else node.module for name in inside}
    return {name for name in names if name in known and name != "repro"}


@cache
def arrows() -> dict[str, set[str]]:
    """What every module imports."""
    return {name: imports_in(path.read_text(), modules()) - {name} for name, path in modules().items()}


def room(module: str) -> str:
    """The part of the package a module belongs to."""
    return module.split(".")[1] if "." in module else ""


def floor(module: str) -> int:
    """The number of a module's floor, from the top."""
    return next(index for index, rooms in enumerate(FLOORS) if room(module) in rooms)


def test_every_module_has_a_floor():
    rooms = {name for rooms in FLOORS for name in rooms}
    assert {room(name) for name in modules()} - {""} == rooms


def test_arrows_run_down():
    wrong = [
        f"{source} imports {target}"
        for source, targets in arrows().items()
        if source != "repro"
        for target in targets
        if floor(target) < floor(source) or (room(source), room(target)) in APART
    ]
    assert wrong == []


def test_no_two_modules_import_each_other_in_any_chain():
    state: dict[str, int] = {}
    trail: list[str] = []

    def visit(name: str) -> None:
        state[name] = 1
        trail.append(name)
        for target in sorted(arrows()[name]):
            if state.get(target) == 1:
                pytest.fail(" imports ".join([*trail[trail.index(target) :], target]))
            if target not in state:
                visit(target)
        trail.pop()
        state[name] = 2

    for name in sorted(modules()):
        if name not in state:
            visit(name)


def test_what_a_backend_does_is_asked_of_the_backend_alone():
    """Models, operations and tasks are keras.ops; TensorFlow, JAX and torch appear where other libraries are compared,
    in loaders of TensorFlow Datasets, and in `repro.backend`."""
    allowed = {"backend", "peers", "data"}
    for name, path in modules().items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                foreign = {item.partition(".")[0] for item in named} & {"tensorflow", "jax", "torch"}
                assert not foreign or room(name) in allowed, f"{name} imports {foreign}"


def test_the_walk_sees_imports_inside_functions():
    known = {"repro.models.vgg": None, "repro.models": None, "repro.ops.nms": None}
    source = "def f():\n    from repro.models import vgg\n    import repro.ops.nms\n"
    assert imports_in(source, known) == {"repro.models.vgg", "repro.ops.nms"}


def test_no_file_is_too_long_to_read():
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
