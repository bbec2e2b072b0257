"""Archives from the net: resumed after a cut, checked against the published checksum, unpacked whole or not at all."""

import contextlib
import fcntl
import functools
import hashlib
import http.client
import os
import re
import shutil
import tarfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tqdm import tqdm

from repro.errors import NoDataError

_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a byte
_PAUSES = (1.0, 5.0, 20.0)  # seconds before each new try once something has arrived
_PASSING = (408, 429, 500, 502, 503, 504)  # HTTP answers that another try may change


@dataclass(frozen=True)
class Archive:
    """A published tar or zip file of a data set.

    `dataset` is the name `repro data` knows it by, `size` and `unpacked` are the bytes it takes on the disk
    before and after unpacking, `checksum` is "sha256:..." or "md5:...", "" where none is published."""

    dataset: str
    url: str
    size: int
    unpacked: int
    checksum: str

    @property
    def filename(self) -> str:
        """The name of the file on this machine."""
        return self.url.rpartition("/")[2]


def install(
    archive: Archive,
    root: Path,
    top: str,
    wanted: Callable[[str], bool] = lambda name: True,
    *,
    done: Path | None = None,
    unpack: Callable[[Path], None] | None = None,
) -> None:
    """Make the archive's folder `top` (a path inside it) appear as `root/top`, unless it is there.

    The archive is fetched into `root` and kept there; one put there by hand is used. `wanted` says of a member's
    path whether to unpack it. `unpack` puts the files elsewhere, where `done` tells that they are there. Raises
    NoDataError without the network, the room on the disk or a sound file."""
    target, done = root / archive.filename, done or root / top
    with _disk(root):
        root.mkdir(parents=True, exist_ok=True)
        with open(root / f".{archive.filename}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # a second process waits here and then finds the data
            if done.exists():
                return
            present = target if target.exists() else _part(target)
            check_room(archive.dataset, root, archive.size + archive.unpacked - _length(present))
            fetch(archive, target)
            if unpack:
                unpack(target)
            else:
                extract(target, root, top, wanted)


def fetch(archive: Archive, target: Path) -> None:
    """Download an archive to the file `target`, going on from what an earlier try left in `<target>.part`.

    A target that exists is only checked. Raises NoDataError with the address and the place to put the file when
    the network, the server, the disk or the checksum stands in the way."""
    again = f"`repro data {archive.dataset}`"
    if target.exists():
        fault = _fault(archive, target)
        if fault:
            raise NoDataError(f"{target} {fault}", f"delete it, then {again} fetches it anew")
        return
    part = _part(target)
    with _disk(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        if _length(part) > archive.size:
            part.unlink()
        _download(archive, part, f"{again} goes on where it stopped; or put {archive.url} at {target} by hand")
        fault = _fault(archive, part)
        if fault:
            part.unlink()
            cure = f"{again} tries once more; or put the published file at {target} by hand"
            raise NoDataError(f"what came from {archive.url} {fault}", cure)
        os.replace(part, target)


def extract(path: Path, root: Path, top: str, wanted: Callable[[str], bool] = lambda name: True) -> None:
    """Unpack the files below folder `top` of a tar or zip archive to `root/top`, all of them or nothing.

    Raises NoDataError for a damaged archive, one without `top`, one with links or names that lead elsewhere, and a
    full disk."""
    inside, temporary = PurePosixPath(top).parts, root / f".{path.name}.unpacking"
    cure = f"delete {path} and fetch it again"
    try:
        with _disk(root), tqdm(desc=f"unpacking {path.name}", unit=" files", disable=None) as bar:
            shutil.rmtree(temporary, ignore_errors=True)
            for name, content in _members(path):
                parts = PurePosixPath(name).parts
                if parts[: len(inside)] != inside or len(parts) == len(inside) or not wanted(name):
                    continue
                if content is None or ".." in parts:
                    raise NoDataError(f"{path} holds {name!r}, a link or a path that leads elsewhere", cure)
                written = temporary.joinpath(*parts)
                written.parent.mkdir(parents=True, exist_ok=True)
                with content() as source, open(written, "wb") as file:
                    shutil.copyfileobj(source, file, _CHUNK)
                bar.update()
            if not temporary.exists():
                raise NoDataError(f"{path} holds nothing below {top}", cure)
            (root / top).parent.mkdir(parents=True, exist_ok=True)
            (temporary / top).rename(root / top)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise NoDataError(f"{path} is damaged ({_reason(error)})", cure) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_room(what: str, folder: Path, needed: int) -> None:
    """Raise NoDataError when fewer bytes are free where `folder` is, or will be, than `what` needs."""
    place = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(place).free
    if free < needed:
        problem = f"{what} needs {needed / 2**30:.1f} GiB more, {place} has {free / 2**30:.1f} GiB free"
        raise NoDataError(problem, "make room, or set REPRO_DATA to a folder on a larger disk")


def _part(target: Path) -> Path:
    return target.with_name(f"{target.name}.part")


def _length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _members(path: Path) -> Iterator[tuple[str, Callable[[], IO[bytes]] | None]]:
    """(path, function that opens it) of everything but folders; no function for what is no plain file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            for item in archive.infolist():
                if not item.is_dir():
                    yield item.filename, functools.partial(archive.open, item)
    else:
        with tarfile.open(path) as tape:
            for member in tape:
                if not member.isdir():
                    opened = functools.partial(tape.extractfile, member) if member.isfile() else None
                    yield member.name, opened  # type: ignore[misc]  # of a plain file, extractfile never gives None
            # tarfile takes a file cut between two members for a complete one; a zero block marks the real end
            tape.fileobj.seek(tape.offset)
            if tape.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it ends too early")


class _Refused(Exception):
    """The server's answer is final."""


class _Cut(Exception):
    """The connection failed; another may not."""


def _download(archive: Archive, part: Path, cure: str) -> None:
    pauses: Iterator[float] = iter(())  # a network that is not there is told at once
    with (
        open(part, "ab") as file,
        tqdm(total=archive.size, desc=archive.filename, unit="B", unit_scale=True, disable=None) as bar,
    ):
        while (start := file.tell()) < archive.size:
            bar.update(start - bar.n)
            reason = "the connection ended early"
            try:
                for chunk in _stream(archive, start):
                    file.write(chunk)
                    bar.update(len(chunk))
            except _Refused as error:
                raise NoDataError(str(error), cure) from None
            except _Cut as error:
                reason = str(error)
            file.flush()
            if file.tell() > start:
                pauses = iter(_PAUSES)
            if file.tell() < archive.size:
                pause = next(pauses, None)
                if pause is None:
                    state = f"{file.tell() / 1e6:.1f} of {archive.size / 1e6:.1f} MB are here"
                    raise NoDataError(f"{archive.url} cannot be fetched ({reason}); {state}", cure)
                time.sleep(pause)


def _stream(archive: Archive, start: int) -> Iterator[bytes]:
    """The archive's bytes from `start` up to where the server stops."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(archive.url, headers=headers), timeout=_TIMEOUT) as response:
            # a server that knows no ranges sends everything: what is here already is passed over
            surplus = start - _first_byte(archive, response, start)
            left = archive.size - start
            while left and (chunk := response.read(_CHUNK)):
                fresh = chunk[surplus:][:left]
                surplus = max(0, surplus - len(chunk))
                left -= len(fresh)
                yield fresh
    except urllib.error.HTTPError as error:
        kind = _Cut if error.code in _PASSING else _Refused
        raise kind(f"{archive.url} answers {error.code} {_reason(error.reason)}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(_reason(error)) from None


def _first_byte(archive: Archive, response: http.client.HTTPResponse, start: int) -> int:
    """Which byte the answer begins with. Raises _Refused when it is no answer to the question."""
    extent = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range") or "")
    begin, total = (int(extent[1]), extent[2]) if extent else (0, response.headers.get("Content-Length", "*"))
    kind = response.headers.get_content_type()
    if begin > start:
        raise _Refused(f"{archive.url} sends bytes from {begin} on, asked for those from {start} on")
    if total not in ("*", str(archive.size)) or (total == "*" and kind.startswith("text/")):
        amount = "an unknown number of" if total == "*" else total
        raise _Refused(f"{archive.url} offers {amount} bytes of {kind} instead of an archive of {archive.size} bytes")
    return begin


def _fault(archive: Archive, path: Path) -> str:
    """What is wrong with a complete file, in words; '' when it is the published one, or nobody published a checksum:
    then the size on the way and the sums that the archive has of its files must do."""
    if not archive.checksum:
        return ""
    if _length(path) != archive.size:
        return f"has {_length(path)} bytes instead of {archive.size}"
    algorithm, _, published = archive.checksum.partition(":")
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    return "" if found == published else f"has the {algorithm} {found} instead of {published}"


@contextlib.contextmanager
def _disk(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        cure = "make room or check the permissions, or set REPRO_DATA to another folder"
        raise NoDataError(f"{folder} cannot take the data ({_reason(error)})", cure) from None


def _reason(error: object) -> str:
    text = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
    return " ".join(str(text).split())[:200] or type(error).__name__
