"""Docstrings: every public name of models, operations, metrics, tasks and engine has one, and its examples are true."""

import doctest
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator
from functools import cached_property
from types import ModuleType
from typing import Any

import pytest

ROOMS = ("models", "ops", "metrics", "tasks", "engine")
METHODS = (property, cached_property, staticmethod, classmethod)


def modules_of(room: str) -> list[str]:
    """The dotted names of a package's modules, its own first where it has code."""
    package = importlib.import_module(f"repro.{room}")
    own = [package.__name__] if package.__file__ else []
    return own + [found.name for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]


MODULES = [name for room in ROOMS for name in modules_of(room)]


def public_names(module: ModuleType) -> Iterator[tuple[str, str | None]]:
    """(qualified name, docstring) of a module, of the public functions and classes it defines, and of the public
    methods and properties of these classes. A method that overrides one is left out where it inherits a docstring, and
    where the other is a library's, as `call` of Keras' layers: then the class says what it does."""
    yield module.__name__, module.__doc__
    for name, value in vars(module).items():
        is_public = not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
        if not is_public or not (inspect.isclass(value) or inspect.isroutine(inspect.unwrap(value))):
            continue
        yield f"{module.__name__}.{name}", own_doc(value)
        for method, member in vars(value).items() if inspect.isclass(value) else ():
            is_method = isinstance(member, METHODS) or inspect.isroutine(member)
            if is_method and not method.startswith("_") and not is_told_above(value, method):
                yield f"{module.__name__}.{name}.{method}", member.__doc__


def own_doc(value: Any) -> str | None:
    """The docstring that was written: dataclasses and named tuples make one of their signature."""
    if not inspect.isclass(value):
        return value.__doc__
    doc = vars(value).get("__doc__") or ""
    return None if doc.startswith(f"{value.__name__}(") else doc


def is_told_above(cls: type, method: str) -> bool:
    """Whether a base of the class has the method, and is of a library or has a docstring there."""
    bases = [base for base in cls.__mro__[1:] if method in vars(base)]
    return any(not base.__module__.startswith("repro.") or vars(base)[method].__doc__ for base in bases)


@pytest.mark.parametrize("name", MODULES)
def test_public_names_have_a_docstring(name):
    assert [named for named, doc in public_names(importlib.import_module(name)) if not (doc or "").strip()] == []


@pytest.mark.parametrize("name", MODULES)
def test_examples_are_true(name, capsys):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert not failed, capsys.readouterr().out


def test_the_walk_finds_what_has_none():
    module = ModuleType("repro.made", "Made up.")
    code = """
class Told:
    "Told."
    def run(self):
        "Runs."
class Mine(Told):
    def run(self): ...
    def walk(self): ...
    @property
    def legs(self): ...
    def _hidden(self): ...
def told():
    "Told."
def untold(): ...
def _hidden(): ...
"""
    exec(code, vars(module))
    missing = [name.removeprefix("repro.made.") for name, doc in public_names(module) if not doc]
    assert missing == ["Mine", "Mine.walk", "Mine.legs", "untold"]


def test_a_wrong_example_fails(monkeypatch, capsys):
    module = ModuleType("made_of_examples", ">>> 1 + 1\n3\n")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(AssertionError, match="Got"):
        test_examples_are_true(module.__name__, capsys)
