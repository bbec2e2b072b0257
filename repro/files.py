"""Files that are never half written, and hashes of settings."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec


def canonical_hash(value: Any) -> str:
    """First 12 hex digits of the SHA-256 of a value's JSON with sorted keys."""
    return hashlib.sha256(msgspec.json.encode(value, order="sorted")).hexdigest()[:12]


def atomic_write(path: Path, content: bytes) -> None:
    """Write under a temporary name, flush to the disk, rename: a reader never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_lines(path: Path, entries: Iterable[Any]) -> None:
    """Write a line of JSON for each entry, atomically."""
    atomic_write(path, b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
