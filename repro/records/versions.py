"""Which versions of the code made a number.

Files of papers, tasks, loaders, metrics and kinds carry a constant VERSION, which is raised when their numbers change
on purpose. A result records the versions behind it; it is stale where one of them differs today. So renaming and
reformatting make nothing stale. The constants are read, not imported: most of these files need Keras.
"""

import ast
import functools
import hashlib
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
_CONSTANT = re.compile(r"^VERSION = (\d+)", re.MULTILINE)
# What these import decides their numbers too: a detector's backbone, the metrics of a task. Kinds and the engine name
# what they use by its settings, which no import shows.
_FOLLOWED = ("models", "tasks", "data", "metrics", "proposals", "solvers")


@functools.cache
def version_of(module: str) -> int | None:
    """The VERSION of a module, named as below `repro` ("models.fcn") or, outside it, by its whole name; None where
    there is no such module or it has none."""
    source = _source(module)
    found = _CONSTANT.search(source) if source is not None else None
    return int(found[1]) if found else None


def versions_of(*modules: str) -> dict[str, int]:
    """The versions of modules and of all that these build on, by name. Raises ValueError for a module without one."""
    for name in modules:
        if version_of(name) is None:
            raise ValueError(f"{name} has no VERSION")
    found, queue = set(), list(modules)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += _imports(name) if name.partition(".")[0] in _FOLLOWED else ()
    versions = {name: version_of(name) for name in sorted(found)}
    return {name: version for name, version in versions.items() if version is not None}


def is_stale(versions: Mapping[str, int]) -> bool:
    """Whether one of these versions is another today. A module that is gone has been renamed or merged, and its golden
    tests have seen to it that this moved no number."""
    return any(version_of(name) not in (None, version) for name, version in versions.items())


@functools.cache
def code_hash() -> str:
    """First 12 hex digits of a SHA-256 over all code of the package: where a result came from, not what it is worth."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@functools.cache
def _source(module: str) -> str | None:
    path = PACKAGE.joinpath(*module.split(".")).with_suffix(".py")
    if not path.exists():
        spec = importlib.util.find_spec(module) if "." not in module else None
        if spec is None or not spec.origin or not spec.origin.endswith(".py"):
            return None
        path = Path(spec.origin)
    return path.read_text(encoding="utf-8")


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    """The modules of ours that a module imports, inside functions too; packages, which are lists, are left out."""
    names = set()
    for node in ast.walk(ast.parse(_source(module) or "")):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    ours = (name.removeprefix("repro.") for name in names if name.startswith("repro."))
    return tuple(sorted(name for name in ours if PACKAGE.joinpath(*name.split(".")).with_suffix(".py").exists()))
