"""What a kind of experiment is: its settings, how it runs, and its part of the tables. One file a kind."""

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import msgspec

from repro import registry
from repro.data.catalog import LOADERS
from repro.records.result import Result
from repro.records.run import Outcome, Progress, Run
from repro.records.settings import Data
from repro.records.versions import versions_of
from repro.report.figures import Picture
from repro.report.render import Section, TableInfo


class Kind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Settings of one kind of experiment, and all that the suite asks of it.

    They go into the config hash and into the result file; the tag says which kind they are. RESULT: the kind of its
    result files. TABLES: those that it brings along, in reading order. TABLE: in which its results stand, where that is
    neither the first of these nor that of its task. SUBJECT: what stands in the column of models where there is no
    network. MODULES: whose versions decide its numbers beside its own, its networks', its data's and its task's."""

    RESULT: ClassVar[str]
    TABLES: ClassVar[tuple[TableInfo, ...]] = ()
    TABLE: ClassVar[str] = ""
    SUBJECT: ClassVar[str] = ""
    MODULES: ClassVar[tuple[str, ...]] = ()

    def subject(self) -> str:
        """What stands in the column of models."""
        network = getattr(self, "network", None)
        return network.name if network else self.SUBJECT or str(self.__struct_config__.tag)

    def task_name(self) -> str:
        """The task whose scores it has, "" for none."""
        task = getattr(self, "task", None)
        return task.TABLE if task else ""

    def table(self) -> str:
        """The table in which its results stand, and what is missing of them."""
        return self.TABLE or self.task_name() or self.TABLES[0].name

    def data_name(self) -> str:
        """The data set it is about, "" for none."""
        data = getattr(self, "data", None)
        return data.name if data else ""

    def needs(self) -> tuple[str, ...]:
        """The experiments whose trained weights it uses."""
        return ()

    def networks_used(self) -> tuple[str, ...]:
        """The architectures behind its numbers."""
        networks = [getattr(self, "network", None), *getattr(self, "networks", ())]
        return tuple(network.name for network in networks if network)

    def modules(self) -> tuple[str, ...]:
        """The modules whose versions decide its numbers, named as below `repro`."""
        modules = [type(self).__module__, *(registry.architecture(name).module for name in self.networks_used())]
        modules += [LOADERS[self.data_name()].__module__] if self.data_name() else []
        task = getattr(self, "task", None)
        modules += [*self.MODULES, *(task.modules() if task else ())]
        return tuple(dict.fromkeys(name.removeprefix("repro.") for name in modules))

    def versions(self) -> dict[str, int]:
        """The versions of the code behind its numbers, by module."""
        return versions_of(*self.modules())

    @abc.abstractmethod
    def run(self, runs: Sequence[Run], progress: Progress) -> Iterator[Outcome]:
        """Do every seed in this process; yields an outcome for each, in order. Imports Keras here."""

    @classmethod
    def sections(cls, results: Sequence[Result]) -> dict[str, list[Section]]:
        """Its part of the tables, by name, from all results there are."""
        return {}

    @classmethod
    def figures(cls, results: Sequence[Result]) -> Mapping[str, Picture | str]:
        """Its figures, galleries and long tables, by file name, from all results there are."""
        return {}

    @classmethod
    def headline(cls, results: Sequence[Result]) -> list[list[str]]:
        """Its rows of the README's headline: model, data, scale, result, run, row."""
        return []


def of_kind(results: Sequence[Result], kind: type[Kind]) -> list[Result]:
    """The finished results of a kind."""
    return [r for r in results if r.status == "ok" and r.config.get("kind") == kind.__struct_config__.tag]


def is_generated(data: Data) -> bool:
    """Whether pictures are made by the suite, so that scores on them say nothing about a benchmark."""
    return data.name == "shapes"
