"""Files that are never half written, and hashes of settings."""

import hashlib
import os
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
