"""`repro doctor`: what is here, on one screen."""

import contextlib
import os
import shutil
from collections.abc import Iterator

from repro import backend, paths
from repro.data.catalog import LOADERS, open_dataset
from repro.errors import NoDataError, ReproError
from repro.records import machine
from repro.runner import preflight


def examine() -> Iterator[str]:
    """Packages, backends, accelerator, XLA, data and disk, a line each."""
    here = machine.capture()
    yield (
        f"machine     {here.cpu}, {here.cores} cores, {here.memory_gib} GiB; "
        f"accelerator {here.accelerator} {here.driver}"
    )
    yield f"packages    {', '.join(f'{name} {version}' for name, version in machine.packages().items())}"
    yield from map(_backend, backend.BACKENDS)
    yield from map(_data, LOADERS)
    free = shutil.disk_usage(paths.results_dir().parent).free / 2**30
    yield f"disk        {free:.0f} GiB free; results {paths.results_dir()}; data {paths.data_dir()}"
    chosen, accelerated, remarks = preflight.choose(None)
    yield from (f"note        {remark}" for remark in remarks)
    yield f"run uses    {chosen}, profile {preflight.profile_for(accelerated)}"


def _backend(name: str) -> str:
    if name not in backend.installed():
        return f"{name:11} not installed"
    found = preflight.check(name)
    state = f"XLA works, {found['accelerators']} accelerators" if found["ok"] else f"FAILS: {found['error']}"
    return f"{name:11} {state}"


def _data(name: str) -> str:
    dataset = open_dataset(name)
    try:
        with muted():
            return f"{name:12} {', '.join(f'{split} {dataset.size(split):,}' for split in dataset.info.splits)}"
    except NoDataError as error:
        return f"{name:12} no data: {error}"
    except ReproError as error:
        return f"{name:12} damaged: {error}"


@contextlib.contextmanager
def muted() -> Iterator[None]:
    """Whoever writes to stderr meanwhile is not heard: TensorFlow does on import, whatever its log level."""
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
