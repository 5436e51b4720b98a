"""An output as one file, made while it is sent."""

from __future__ import annotations

import gzip
import io
import itertools
import tarfile
from pathlib import Path

import pytest

from nodeobs.errors import InvalidInput, OutputError, OutputNotFound, OutputStoreUnavailable
from nodeobs.outputs.archive import tar_gz
from nodeobs.outputs.store import OutputStore
from tests.outputs.conftest import UID, make_manifest

LONG = f"{'n' * 200}/{'t' * 200}.pb.gz"


def members(archive: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_holds_every_file_the_manifest_first(store: OutputStore, source: Path) -> None:
    store.put_bytes(UID, "b-worker/kubelet-cpu.pb.gz", b"x" * 512)
    store.put_bytes(UID, LONG, b"long")
    store.put_bytes(UID, "a-worker/kubelet-cpu.pb.gz", b"")
    store.put_file(UID, "merged/kubelet-cpu.pb.gz", source)
    store.write_manifest(UID, make_manifest())
    found = members(b"".join(tar_gz(store, UID)))
    names = ["a-worker/kubelet-cpu.pb.gz", "b-worker/kubelet-cpu.pb.gz", "merged/kubelet-cpu.pb.gz", LONG]
    assert list(found) == [f"{UID}/{name}" for name in ("manifest.json", *names)]
    for name, data in found.items():
        assert data == b"".join(store.read(UID, name.removeprefix(f"{UID}/"))[1])


def test_of_the_same_output_is_the_same(store: OutputStore, source: Path) -> None:
    store.put_file(UID, "worker-1/kubelet-cpu.pb.gz", source)
    assert b"".join(tar_gz(store, UID)) == b"".join(tar_gz(store, UID))


def test_is_made_piece_by_piece(store: OutputStore, source: Path) -> None:
    for number in range(3):
        store.put_file(UID, f"worker-{number}/kubelet-cpu.pb.gz", source)
    reads = 0

    class Counting(OutputStore):
        def __init__(self) -> None:
            vars(self).update(vars(store))

        def read(self, *args, **options):  # type: ignore[no-untyped-def]
            nonlocal reads
            reads += 1
            return super().read(*args, **options)

    chunks = tar_gz(Counting(), UID)
    assert reads == 0
    next(chunks)
    assert reads == 1
    assert max(map(len, chunks)) < 4 * 2**20


def test_of_nothing_is_an_error_before_the_first_byte(store: OutputStore) -> None:
    with pytest.raises(OutputNotFound):
        tar_gz(store, UID)
    with pytest.raises(InvalidInput):
        tar_gz(store, "../x")


def interrupted(chunks: itertools.chain[bytes]) -> bytes:
    """What was sent until the error, which must come."""
    sent: list[bytes] = []
    with pytest.raises(OutputError):
        sent.extend(chunks)
    return b"".join(sent)


@pytest.mark.parametrize("change", ["deleted", "longer", "shorter"])
def test_a_file_that_changes_meanwhile_ends_it_with_an_error(store: OutputStore, source: Path, change: str) -> None:
    for name in ("a", "b", "c"):
        store.put_file(UID, f"{name}/kubelet-cpu.pb.gz", source)
    chunks = tar_gz(store, UID)
    first = next(chunks)
    if change == "deleted":
        store.delete(UID)
    else:
        store.put_bytes(UID, "b/kubelet-cpu.pb.gz", bytes(2**23 if change == "longer" else 5))
    sent = interrupted(itertools.chain([first], chunks))
    with pytest.raises(EOFError):
        gzip.decompress(sent)


def test_a_file_cut_short_on_the_disk_ends_it_with_an_error(folder: OutputStore, root: Path, source: Path) -> None:
    folder.put_file(UID, "a/kubelet-cpu.pb.gz", source)
    chunks = tar_gz(folder, UID)
    first = next(chunks)
    with (root / UID / "a" / "kubelet-cpu.pb.gz").open("r+b") as file:
        file.truncate(3 * 2**20)
    with pytest.raises(OutputStoreUnavailable):
        list(chunks)
    assert first
