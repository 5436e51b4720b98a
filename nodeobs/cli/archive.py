"""Unpacking an output's archive that comes from the network: only the files its manifest names, whole and verified."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from nodeobs.cli.failures import Failure
from nodeobs.outputs.manifest import MANIFEST_NAME, Manifest, MergedFile, Piece
from nodeobs.outputs.names import is_file_name, is_segment

_MANIFEST_BYTES = 256 * 1024 * 1024
_OVERHEAD_BYTES = 4096
"""Of a member in the archive: headers and padding."""
_CHUNK_BYTES = 256 * 1024


class Expected(NamedTuple):
    """What a file must be; no digest is known of the manifest itself."""

    bytes: int
    sha256: str


def expected_files(manifest: Manifest) -> dict[str, Expected]:
    """The files that the manifest names.

    Raises:
        Failure: it names one that would lie elsewhere.
    """
    pieces: list[Piece | MergedFile] = [piece for node in manifest.nodes for piece in node.pieces]
    found = [*pieces, *manifest.merged]
    files = {file.file: Expected(file.bytes, file.sha256) for file in found if file.file is not None}
    for name in files:
        if not is_file_name(name):
            raise Failure(f"the manifest names a file that may not be: {name!r}")
    return files


_MANIFEST = Expected(_MANIFEST_BYTES, "")


def unpack(
    chunks: Iterator[bytes],
    expected: Mapping[str, Expected],
    folder: Path,
    *,
    top: str,
    progress: Callable[[int], None],
) -> None:
    """Write the archive (tar.gz) to ``folder``, which appears when it is complete.

    In the archive the files are below a folder ``top``. ``progress`` is told how many bytes were written.

    Raises:
        Failure: ``folder`` exists or cannot be written, or the archive is damaged, incomplete or holds anything else
            than the expected files; nothing is left behind.
    """
    if not is_segment(top):
        raise Failure(f"the manifest's Run has a uid that no Run has: {top!r}")
    try:
        if os.path.lexists(folder):
            raise Failure(f"{folder} exists already", hint="name another folder with --into")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
            inside = Path(temporary) / "output"
            inside.mkdir()
            within = {f"{top}/{name}": file for name, file in expected.items()}
            _unpack(chunks, within | {f"{top}/{MANIFEST_NAME}": _MANIFEST}, inside, progress)
            (inside / top).rename(folder)
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise Failure(f"the archive is damaged: {error}; nothing was kept", hint="try again") from error
    except OSError as error:
        raise Failure(f"cannot write {folder}: {error}") from error


def _unpack(
    chunks: Iterator[bytes], expected: Mapping[str, Expected], inside: Path, progress: Callable[[int], None]
) -> None:
    missing = set(expected)
    limit = sum(file.bytes + _OVERHEAD_BYTES for file in expected.values())
    with gzip.GzipFile(fileobj=_Chunks(chunks)) as unzipped:
        bounded = _Bounded(unzipped, limit)
        with tarfile.open(fileobj=bounded, mode="r|") as archive:
            for member in archive:
                _extract(archive, member, expected, inside, progress)
                missing.discard(member.name)
        while bounded.read(_CHUNK_BYTES):  # to the end, where gzip has its checksum
            pass
    if missing:
        raise Failure(f"the archive lacks {', '.join(sorted(missing)[:5])}; nothing was kept", hint="try again")


def _extract(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    expected: Mapping[str, Expected],
    inside: Path,
    progress: Callable[[int], None],
) -> None:
    wanted = expected.get(member.name)
    source = archive.extractfile(member) if member.isreg() else None
    if wanted is None or source is None:
        raise Failure(f"the archive holds {member.name!r}, which its manifest does not name; nothing was kept")
    # tarfile extracts nothing itself: no name, mode, owner or link of the archive's reaches the file system.
    target = inside / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source, target.open("xb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            digest.update(chunk)
            file.write(chunk)
            progress(len(chunk))
            # A sparse member is longer than what the archive holds of it.
            if file.tell() > wanted.bytes:
                raise Failure(f"{member.name} is larger than its manifest says; nothing was kept")
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    if wanted.sha256 and (size != wanted.bytes or digest.hexdigest() != wanted.sha256):
        raise Failure(f"{member.name} is not the file that its manifest describes; nothing was kept", hint="try again")


class _Chunks(io.RawIOBase):
    """A file to read from, over chunks of bytes."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._rest = memoryview(chunk)
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _Bounded(io.RawIOBase):
    """A file that may not be longer than ``limit`` bytes: a small archive can unpack to anything."""

    def __init__(self, source: IO[bytes] | gzip.GzipFile, limit: int) -> None:
        self._source = source
        self._left = limit

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._source.read(len(buffer))
        self._left -= len(chunk)
        if self._left < 0:
            raise Failure("the archive is larger than its manifest says; nothing was kept")
        buffer[: len(chunk)] = chunk
        return len(chunk)
