"""Where outputs are kept: a local folder, S3, Google Cloud Storage or Azure, by one set of calls."""

from __future__ import annotations

import contextlib
import errno
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

import obstore
import structlog
from obstore.exceptions import BaseError, PreconditionError
from obstore.store import LocalStore, from_url

from nodeobs.errors import (
    ConfigurationError,
    InvalidInput,
    OutputNotFound,
    OutputStoreFull,
    OutputStoreUnavailable,
)
from nodeobs.model import decode_json, encode_json
from nodeobs.outputs import names
from nodeobs.outputs.local import LocalFolder
from nodeobs.outputs.manifest import MANIFEST_NAME, Manifest, ManifestHead

log = structlog.get_logger(__name__)

D = TypeVar("D", Manifest, ManifestHead)

CHUNK_BYTES = 2**20
SCHEMES = ("s3", "gs", "az", "memory")
"""``memory:///`` is lost with the process."""

# By itself, obstore tries ten times over three minutes; the driver tries again itself.
_RETRY_TIMEOUT = timedelta(seconds=15)
_MISSING = f"(os error {errno.ENOTDIR})"
_FULL = ("StorageFull", f"(os error {errno.ENOSPC})", f"(os error {errno.EDQUOT})")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file of an output; ``name`` is relative to the output, ``size`` in bytes."""

    name: str
    size: int
    modified: datetime


class OutputStore:
    """Outputs below ``url``: a path, or ``s3://bucket/prefix``, ``gs://…``, ``az://…`` with the cloud's own settings.

    An output is named by its Run's uid, a file in it by one to three path segments. Names that are anything else are
    refused before they reach the file system, and locally symbolic links are not followed.

    Raises:
        ConfigurationError: no such place can be opened.
    """

    def __init__(self, url: str) -> None:
        self._folder: LocalFolder | None = None
        self._heads: dict[str, ManifestHead] = {}
        if "://" in url:
            self._root = url.rstrip("/")
            self._store = _open_remote(url)
            return
        try:
            self._folder = LocalFolder(Path(url))
        except OSError as error:
            raise ConfigurationError(
                f"NODEOBS_OUTPUT: cannot keep outputs in {url}: {error.strerror}; "
                "give a folder that this user may create files in"
            ) from error
        self._root = str(self._folder.root)
        self._store = LocalStore(prefix=self._folder.root, automatic_cleanup=True)

    def location(self, uid: str) -> str:
        """Path or URL of an output, as a Run's status names it."""
        return f"{self._root}/{names.output_name(uid)}"

    def put_file(self, uid: str, name: str, source: Path) -> None:
        """Store a copy of ``source``, whole or not at all; it is never all in memory, and locally it is on the disk.

        Raises:
            InvalidInput: not a name of an output or of a file.
            OSError: ``source`` cannot be opened.
            OutputStoreFull: no space is left.
            OutputStoreUnavailable: it cannot be written now.
        """
        with source.open("rb") as file, self._writing(uid, name) as key:
            obstore.put(self._store, key, file, max_concurrency=2)
            if self._folder is not None:
                self._folder.sync_file(key)

    def put_bytes(self, uid: str, name: str, data: bytes) -> None:
        """Store a small file; as :meth:`put_file`."""
        with self._writing(uid, name) as key:
            if self._folder is not None:
                self._folder.write(key, data)
            else:
                obstore.put(self._store, key, data)

    def read(self, uid: str, name: str, *, start: int = 0, end: int | None = None) -> tuple[int, Iterator[bytes]]:
        """Size of the whole file, and its bytes from ``start`` up to (not with) ``end`` in chunks of up to 1 MiB.

        The chunks raise as this call does, also when the file is deleted or replaced meanwhile: they are never of two
        files, and never too few.

        Raises:
            InvalidInput: not a name of an output or of a file.
            OutputNotFound: there is no such file.
            OutputStoreUnavailable: it cannot be read now.
        """
        with self._reading(uid, name) as key:
            head = obstore.head(self._store, key)
        size = head["size"]
        return size, self._chunks(uid, name, head["e_tag"], range(start, size if end is None else min(end, size)))

    def stat(self, uid: str, name: str) -> Entry | None:
        """The file's size and time, or nothing where there is no such file; raises as :meth:`read`."""
        try:
            with self._reading(uid, name) as key:
                head = obstore.head(self._store, key)
        except OutputNotFound:
            return None
        return Entry(name=name, size=head["size"], modified=head["last_modified"])

    def list(self, uid: str) -> Sequence[Entry]:
        """Files of an output by name; none where there is no such output.

        Raises:
            InvalidInput: not a name of an output.
            OutputStoreUnavailable: it cannot be read now.
        """
        return self._collect(names.output_name(uid)).get(uid, ())

    def outputs(self) -> Mapping[str, Sequence[Entry]]:
        """Every output's uid with its files, found by one listing; raises as :meth:`list`."""
        return self._collect("")

    def delete(self, uid: str) -> None:
        """Delete an output, its manifest first: what is left when this is cut short is not complete any more.

        Raises:
            InvalidInput: not a name of an output.
            OutputStoreUnavailable: it cannot be deleted now.
        """
        prefix = names.output_name(uid)
        self._heads.pop(uid, None)
        keys = [f"{prefix}/{entry.name}" for entry in self.list(uid)]
        manifest = f"{prefix}/{MANIFEST_NAME}"
        with _translated(f"output {uid}"):
            for batch in ([key for key in keys if key == manifest], [key for key in keys if key != manifest]):
                with contextlib.suppress(FileNotFoundError):
                    obstore.delete(self._store, batch)
            if self._folder is not None:
                self._folder.remove(prefix)

    def write_manifest(self, uid: str, manifest: Manifest) -> None:
        """Make the output complete; its files must be stored before. Raises as :meth:`put_file`."""
        if self._folder is not None:
            # The files' content is on the disk since they were put; their names need not be.
            with _translated(f"output {uid}"):
                self._folder.sync_folders(names.output_name(uid))
        self.put_bytes(uid, MANIFEST_NAME, encode_json(manifest))

    def read_manifest(self, uid: str) -> Manifest | None:
        """The manifest, or nothing where the output is not complete (a damaged manifest, which is logged, included).

        Raises:
            InvalidInput: not a name of an output.
            OutputStoreUnavailable: it cannot be read now.
        """
        return self._decode_manifest(uid, Manifest)

    def read_head(self, uid: str) -> ManifestHead | None:
        """Whose output it is and when it was complete; as :meth:`read_manifest`, and remembered."""
        head = self._heads.get(uid) or self._decode_manifest(uid, ManifestHead)
        if head is not None:
            self._heads[uid] = head
        return head

    def clean_staging(self, before: datetime) -> int:
        """Remove what killed processes left half written locally; the number of such files.

        What was written to since ``before`` may be on its way and stays.

        Raises:
            OutputStoreUnavailable: the folder cannot be read or written.
        """
        if self._folder is None:
            return 0
        with _translated(self._root):
            return self._folder.remove_staged(before)

    def _decode_manifest(self, uid: str, kind: type[D]) -> D | None:
        try:
            data = b"".join(self.read(uid, MANIFEST_NAME)[1])
        except OutputNotFound:
            return None
        try:
            return decode_json(data, kind)
        except InvalidInput as error:
            log.error("a manifest cannot be read", output=self.location(uid), error=str(error))  # noqa: TRY400 - no bug
            return None

    def _chunks(self, uid: str, name: str, tag: str | None, wanted: range) -> Iterator[bytes]:
        # Ranges, not obstore's stream: of a local file that has become shorter that one never ends and fills memory.
        for start in range(wanted.start, wanted.stop, CHUNK_BYTES):
            end = min(start + CHUNK_BYTES, wanted.stop)
            with self._reading(uid, name) as key:
                part = obstore.get(self._store, key, options={"range": (start, end), "if_match": tag})
                chunk = bytes(part.bytes())
            if len(chunk) != end - start:
                raise OutputStoreUnavailable(
                    f"{name} of output {uid} became shorter while it was being read: try again"
                )
            yield chunk

    def _collect(self, prefix: str) -> dict[str, Sequence[Entry]]:
        found: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        with _translated(f"{self._root}/{prefix}"):
            for key, size, modified in self._entries(prefix):
                uid, _, name = key.partition("/")
                if names.is_segment(uid) and names.is_file_name(name):
                    found[uid][name] = Entry(name=name, size=size, modified=modified)
        return {uid: tuple(files[name] for name in sorted(files)) for uid, files in found.items()}

    def _entries(self, prefix: str) -> Iterator[tuple[str, int, datetime]]:
        if self._folder is not None:
            for key, status in self._folder.files(prefix):
                yield key, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)
            return
        for batch in obstore.list(self._store, prefix, chunk_size=1000):
            for entry in batch:
                yield entry["path"], entry["size"], entry["last_modified"]

    @contextlib.contextmanager
    def _reading(self, uid: str, name: str) -> Iterator[str]:
        key = names.key(uid, name)
        if self._folder is not None and not self._folder.has(key):
            raise OutputNotFound(f"{name} of output {uid} is, or is behind, a symbolic link: those are not followed")
        with _translated(f"{name} of output {uid}"):
            yield key

    @contextlib.contextmanager
    def _writing(self, uid: str, name: str) -> Iterator[str]:
        key = names.key(uid, name)
        if self._folder is not None and not self._folder.has(key):
            raise OutputStoreUnavailable(f"{self._root}/{key} is, or is behind, a symbolic link: remove the link")
        try:
            with _translated(f"{self._root}/{key}"):
                yield key
        except OutputNotFound as error:
            raise OutputStoreUnavailable(f"{self._root}/{key}: a folder on its way is gone, or is a file") from error


def _open_remote(url: str) -> obstore.store.ObjectStore:
    if urlsplit(url).scheme not in SCHEMES:
        raise ConfigurationError(f"NODEOBS_OUTPUT: outputs are kept at a path, s3://, gs:// or az://, not {url}")
    try:
        if url.startswith("memory:"):
            return from_url(url)
        return from_url(url, retry_config={"max_retries": 3, "retry_timeout": _RETRY_TIMEOUT})
    except (BaseError, ValueError) as error:
        raise ConfigurationError(f"NODEOBS_OUTPUT: cannot use {url}: {_first_line(error)}") from error


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Turn errors of obstore and of the file system into ours; ``what`` was read or written."""
    try:
        yield
    except FileNotFoundError as error:
        raise OutputNotFound(f"there is no {what}") from error
    except PreconditionError as error:
        raise OutputStoreUnavailable(f"{what} was replaced while it was being read: try again") from error
    except (BaseError, OSError) as error:
        if _MISSING in str(error):
            raise OutputNotFound(f"there is no {what}") from error
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or any(sign in str(error) for sign in _FULL):
            raise OutputStoreFull(
                f"no space left for {what}: free some, or keep fewer outputs (NODEOBS_RETENTION_MAX_BYTES)"
            ) from error
        raise OutputStoreUnavailable(f"{what}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    # The rest is the source's debug output.
    return str(error).partition("\n")[0]
