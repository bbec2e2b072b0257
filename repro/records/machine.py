"""What machine, what packages, what state of the code a run had."""

import contextlib
import functools
import importlib.metadata
import os
import platform
import subprocess
import uuid
from pathlib import Path

import psutil

from repro import paths
from repro.files import atomic_write, canonical_hash
from repro.records.result import Machine

PACKAGES = (
    "tensorflow", "keras", "jax", "jaxlib", "keras-cv", "tensorflow-datasets", "torch", "torchvision", "numpy",
    "grain", "opencv-contrib-python-headless", "repro",
)  # fmt: skip


@functools.cache
def capture() -> Machine:
    """This machine. `id` also names this clone, so that a fresh clone on the same machine really runs."""
    accelerator, driver = _nvidia()
    cpu = _cpu_model()
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    cores = len(psutil.Process().cpu_affinity()) if hasattr(psutil.Process, "cpu_affinity") else psutil.cpu_count()
    return Machine(
        id=canonical_hash([cpu, cores, accelerator, _clone_id()])[:8],
        accelerator=accelerator,
        driver=driver,
        cpu=cpu,
        cores=cores or 1,
        memory_gib=memory,
    )


def _clone_id() -> str:
    path = paths.runs_dir() / "clone-id"
    if not path.exists():
        own = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}")
        atomic_write(own, uuid.uuid4().hex.encode())
        with contextlib.suppress(FileExistsError):  # of two first processes, one names the clone
            os.link(own, path)
        own.unlink()
    return path.read_text()


def _nvidia() -> tuple[str, str]:
    """(name, driver) of the first NVIDIA card, with the count where there are several; ("none", "") without."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        output = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "none", ""
    cards = [line.split(", ") for line in output.strip().splitlines() if ", " in line]
    if not cards:
        return "none", ""
    count = f"{len(cards)} x " if len(cards) > 1 else ""
    return f"{count}{cards[0][0]}", cards[0][1]


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


@functools.cache
def packages() -> dict[str, str]:
    """Versions of the packages that can move a number, and of Python."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def commit() -> tuple[str, bool]:
    """(commit, dirty) of the clone; results/ and tables/ do not make it dirty. ("unknown", True) outside git."""
    git = ["git", "-C", str(paths.home())]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        status = [*git, "status", "--porcelain", "--", ".", ":!results", ":!tables"]
        changed = subprocess.run(status, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown", True
    return head, bool(changed)
