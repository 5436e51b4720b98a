"""An output as one ``.tar.gz``, made while it is sent: no temporary file, no file held in memory."""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Iterator, Sequence

from nodeobs.errors import OutputNotFound, OutputStoreUnavailable
from nodeobs.outputs.manifest import MANIFEST_NAME
from nodeobs.outputs.store import Entry, OutputStore

_GZIP = 31
"""zlib's window bits for a gzip header, which then holds no time: equal outputs give equal bytes."""
_LEVEL = 1
"""The profiles are compressed already."""


def tar_gz(store: OutputStore, uid: str) -> Iterator[bytes]:
    """The archive's bytes; its files are below a folder ``uid``, the manifest first, the others by name.

    The iterator raises as this does when a file is gone, or is not what it was, by the time it is its turn: the
    archive then lacks its end, so that nobody takes it for whole.

    Raises:
        InvalidInput: not a name of an output.
        OutputNotFound: there is no such output.
        OutputStoreUnavailable: it cannot be read now.
    """
    entries = sorted(store.list(uid), key=lambda entry: (entry.name != MANIFEST_NAME, entry.name))
    if not entries:
        raise OutputNotFound(f"there is no output {uid}")
    return _compressed(_tar(store, uid, entries))


def _compressed(chunks: Iterator[bytes]) -> Iterator[bytes]:
    compressor = zlib.compressobj(_LEVEL, wbits=_GZIP)
    for chunk in chunks:
        if packed := compressor.compress(chunk):
            yield packed
    yield compressor.flush()


def _tar(store: OutputStore, uid: str, entries: Sequence[Entry]) -> Iterator[bytes]:
    for entry in entries:
        size, chunks = store.read(uid, entry.name)
        if size != entry.size:
            raise OutputStoreUnavailable(
                f"{entry.name} of output {uid} was replaced while it was being read: try again"
            )
        info = tarfile.TarInfo(f"{uid}/{entry.name}")
        info.size, info.mtime = size, int(entry.modified.timestamp())
        yield info.tobuf(tarfile.PAX_FORMAT)
        yield from chunks
        yield bytes(-size % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)
