"""The result file: one run, one JSON, written atomically, validated on writing and on reading.

Tables, figures and verdicts are pure functions of these files. Nothing edits one after it is written.
"""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from repro.errors import ReproError
from repro.files import atomic_write

SCHEMA_VERSION = 2
Sha256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]
Hash12 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{12}$")]
Fraction = Annotated[float, msgspec.Meta(gt=0)]
_NAME = re.compile(r"^[a-z0-9][a-z0-9_.-]*$")


class Record(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of every part of a result file: unknown fields are refused."""


class Dataset(Record):
    """What was read. `official` says whether the copy is the published one; `note` says why not."""

    name: str
    version: str
    split: str
    fingerprint: str
    official: bool
    note: str = ""


class Init(Record):
    """Where the weights started: random, imagenet, tiny, or the run of another experiment."""

    source: str
    sha256: Sha256 | None = None
    note: str = ""


class Xla(Record):
    """Whether compilation was asked for, and whether the program really was compiled."""

    requested: bool
    used: bool


class Machine(Record):
    """The machine of a run. `id` names one clone on one machine, so that a fresh clone runs anew."""

    id: str
    accelerator: str
    driver: str
    cpu: str
    cores: int
    memory_gib: float


class Timing(Record):
    """A timed region: median, 5th and 95th percentile over n repetitions, in `unit`."""

    median: float
    p5: float
    p95: float
    n: Annotated[int, msgspec.Meta(ge=1)]
    unit: str


class Artifact(Record):
    """A file beside the result, named relative to its folder."""

    file: str
    sha256: Sha256


class Result(Record):
    """One run. Sizes are (height, width); metrics are fractions in [0, 1] unless their name has a unit.

    `task` is the network's, "" where there is none; `versions` are those of the code behind the numbers, the parents'
    included (see `repro.records.versions`), `code_hash` is of all code."""

    schema_version: int
    run_id: str
    kind: Literal["train", "eval", "speed", "inspect", "peer"]
    task: str
    experiment: str
    model: str
    variant: str
    width: Fraction
    depth: Fraction
    input_size: tuple[int, int]
    dataset: Dataset | None
    profile: Literal["smoke", "cpu", "gpu", "paper"]
    scale: Literal["smoke", "reduced", "paper"]
    seed: int
    init: Init | None
    config: dict[str, Any]
    config_hash: Hash12
    versions: dict[str, int]
    code_hash: Hash12
    commit: str
    dirty: bool
    depends_on: list[str]
    weights_sha256: Sha256 | None
    backend: Literal["tensorflow", "jax", "torch", "none"]
    precision: str
    tf32: bool
    xla: Xla
    deterministic: bool
    compile_cache: bool
    machine: Machine
    packages: dict[str, str]
    epochs: float
    images_seen: int
    metrics: dict[str, Any]
    protocol: dict[str, Any]
    timings: dict[str, Timing]
    peak_memory_mib: float | None
    started: str
    wall_s: float
    status: Literal["ok", "failed"]
    error: str | None = None
    history: dict[str, list[float]] = {}
    artifacts: dict[str, Artifact] = {}

    def require_dataset(self) -> Dataset:
        """The data set, of a result that has one. Raises ValueError for another."""
        if self.dataset is None:
            raise ValueError(f"{self.experiment}/{self.run_id} is about no data set")
        return self.dataset


def result_path(results: Path, result: Result) -> Path:
    """`results/<experiment>/<run id>.json`."""
    return results / result.experiment / f"{result.run_id}.json"


def write_result(results: Path, result: Result) -> Path:
    """Validate a result and write it. An existing file is never replaced.

    Raises ReproError when the result breaks the schema or its file exists."""
    for name in (result.experiment, result.run_id):
        if not _NAME.match(name):
            raise ReproError(f"{name!r} cannot name a result", "use lower-case letters, digits, '.', '-', '_'")
    path = result_path(results, result)
    if path.exists():
        raise ReproError(f"{path} exists", "results are never overwritten; start a new run")
    content = msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n"
    _decode(content, path)
    atomic_write(path, content)
    return path


def read_result(path: Path) -> Result:
    """Read and validate one result file. Raises ReproError with the file and the cure."""
    try:
        return _decode(path.read_bytes(), path)
    except OSError as error:
        raise ReproError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None


def _decode(content: bytes, path: Path) -> Result:
    restore = f"restore it (git checkout -- {path}) or delete it and run the experiment again"
    try:
        head = msgspec.json.decode(content)
    except msgspec.DecodeError as error:
        raise ReproError(f"{path} is not valid JSON ({error})", restore) from None
    if not isinstance(head, dict):
        raise ReproError(f"{path} is not a result file: it holds a {type(head).__name__}", restore)
    version = head.get("schema_version")
    if version != SCHEMA_VERSION:
        raise ReproError(
            f"{path} has schema version {version!r}, this suite reads {SCHEMA_VERSION}",
            "use the release that wrote it, or delete it and run the experiment again",
        )
    try:
        result = msgspec.convert(head, Result)
    except msgspec.ValidationError as error:
        raise ReproError(f"{path} is not a result file: {error}", restore) from None
    if path.stem != result.run_id or path.parent.name != result.experiment:
        raise ReproError(f"{path} holds run {result.experiment}/{result.run_id}", "give the file its own name back")
    return result


def read_results(results: Path) -> list[Result]:
    """Every result below a folder, ordered by experiment and run id. Raises ReproError on the first bad file."""
    return [read_result(path) for path in sorted(results.glob("*/*.json"))]
