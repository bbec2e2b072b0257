"""One process, one job: `python -m repro.harness.worker JOB.json`. Speaks JSON lines to the process above it."""

import ctypes
import importlib
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import msgspec

from repro import backend, registry
from repro.errors import NoDataError, ReproError
from repro.harness.config import (
    Anchors,
    AnyConfig,
    DetectorSpeed,
    Evaluate,
    Gallery,
    Inspect,
    Lineage,
    Majority,
    MaskOverhead,
    Operations,
    Peer,
    Speed,
    Train,
    TrainDetector,
    TrainInstance,
    TrainRCNN,
    TrainYolo,
)
from repro.harness.run import EVALUATION, Job, Run, find, results_of

# kept apart by type so that a process imports only what its job needs
_WORK = {
    Train: "repro.harness.train:train",
    TrainDetector: "repro.harness.detect:train_detector",
    TrainRCNN: "repro.harness.rcnn:train_rcnn",
    TrainYolo: "repro.harness.yolo:train_yolo",
    TrainInstance: "repro.harness.instance:train_instances",
    Evaluate: "repro.harness.train:evaluate_weights",
    Majority: "repro.harness.majority:majority",
    Speed: "repro.harness.speed:speed",
    Lineage: "repro.harness.lineage:lineage",
    DetectorSpeed: "repro.harness.detector_speed:detector_speed",
    MaskOverhead: "repro.harness.mask_overhead:mask_overhead",
    Anchors: "repro.harness.anchors:anchor_clusters",
    Operations: "repro.harness.operations:operations",
    Peer: "repro.harness.peer:peer",
    Gallery: "repro.harness.gallery:gallery",
    Inspect: "repro.harness.inspection:inspect_all",
}
NO_DATA, FAILED = 3, 1


class Message(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A line to the process above: how far the job is, or why it ended."""

    fraction: float | None = None
    note: str = ""
    error: str | None = None


def execute(job: Job, progress: Callable[[float, str], None]) -> None:
    """Do every seed of a job in this process. Raises whatever goes wrong."""
    backend.select(job.backend)
    module, _, function = _work_of(job.config).partition(":")
    getattr(importlib.import_module(module), function)(job, progress)


def _work_of(config: AnyConfig) -> str:
    if isinstance(config, Evaluate):
        return EVALUATION.get(registry.architecture(config.network.name).task, _WORK[Evaluate])
    return _WORK[type(config)]


def main() -> int:
    """Entry point of the process; returns its exit status."""
    _die_with_parent()
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)

    def send(message: Message) -> None:
        print(msgspec.json.encode(message).decode(), flush=True)

    try:
        execute(job, lambda fraction, note: send(Message(fraction=fraction, note=note)))
    except NoDataError as error:
        send(Message(error=str(error)))
        return NO_DATA
    except Exception as error:  # whatever it is, it becomes a failed result and the suite goes on
        if not isinstance(error, ReproError):
            traceback.print_exc()
        text = one_line(error)
        record_failure(job, text)
        send(Message(error=text))
        return FAILED
    return 0


def one_line(error: BaseException) -> str:
    """An error's first line with its type, unless it is one of ours, which say all themselves."""
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return first if isinstance(error, ReproError) else f"{type(error).__name__}: {first}"


def record_failure(job: Job, error: str) -> None:
    """Write a failed result for the first seed the process did not finish."""
    results = results_of(job.experiment)
    unfinished = [seed for seed in job.seeds if find(job, seed, results) is None]
    Run(job, (unfinished or job.seeds)[0]).fail(error)


def _die_with_parent() -> None:
    """Ask Linux to end this process with the one above: a killed suite must not leave a writer behind."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())
