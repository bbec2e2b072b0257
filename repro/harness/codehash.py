"""Which code made a number: a hash over the model, ops, harness, metrics and loader a run goes through.

Comments, docstrings and blank lines do not count, so that explaining code better makes no result stale.
"""

import ast
import functools
import hashlib
import io
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]

# These decide what runs, where it is kept and how it is shown, not what a number is: settings are in the config
# hash, and the rest only carries values from one place to another.
_NEUTRAL = (
    *("repro.cli", "repro.errors", "repro.experiments", "repro.facts", "repro.files", "repro.paths"),
    *("repro.registry", "repro.report", "repro.data.base", "repro.harness.codehash", "repro.harness.config"),
    *("repro.harness.launch", "repro.harness.logs", "repro.harness.machine", "repro.harness.preflight"),
    *("repro.harness.record", "repro.harness.run", "repro.harness.worker"),
)


def code_hash(*modules: str) -> str:
    """First 12 hex digits of a SHA-256 over the code of these modules and of all of ours they import."""
    digest = hashlib.sha256()
    for name in _closure(tuple(sorted(modules))):
        digest.update(f"{name}\n{_essence(name)}\n".encode())
    return digest.hexdigest()[:12]


@functools.cache
def _closure(modules: tuple[str, ...]) -> tuple[str, ...]:
    found, queue = set(), list(modules)
    while queue:
        name = queue.pop()
        if name not in found:
            found.add(name)
            queue += _imports(name)
    return tuple(sorted(found))


@functools.cache
def _imports(module: str) -> tuple[str, ...]:
    names = set()
    for node in ast.walk(ast.parse(_source(module))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    ours = (name for name in names if name.startswith("repro.") and _path(name).exists())
    return tuple(sorted(name for name in ours if not _is_neutral(name)))


def _is_neutral(name: str) -> bool:
    return any(name == neutral or name.startswith(neutral + ".") for neutral in _NEUTRAL)


def _path(module: str) -> Path:
    return PACKAGE.joinpath(*module.split(".")[1:]).with_suffix(".py")


def _source(module: str) -> str:
    return _path(module).read_text(encoding="utf-8")


@functools.cache
def _essence(module: str) -> str:
    """The source without comments, docstrings, blank lines and trailing space."""
    source = _source(module)
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                for row in range(first.lineno, first.end_lineno + 1):
                    lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())
