"""Outputs in a folder and in a bucket: the same calls, the same answers."""

from __future__ import annotations

import itertools
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nodeobs.errors import (
    ConfigurationError,
    InvalidInput,
    OutputNotFound,
    OutputStoreFull,
    OutputStoreUnavailable,
)
from nodeobs.outputs.store import CHUNK_BYTES, OutputStore
from tests.outputs.buckets import Bucket
from tests.outputs.conftest import OTHER, UID, make_manifest

NAME = "worker-1/kubelet-cpu.pb.gz"
ESCAPES = [
    "",
    "/",
    ".",
    "..",
    "../secret",
    "worker/../../secret",
    "/etc/passwd",
    "worker//file",
    "worker/./file",
    "worker/.hidden",
    "%2e%2e/secret",
    "..%2fsecret",
    "worker\\file",
    "worker/file\n",
    "worker/file\0",
    "worker/fi le",
    "worker/file#1",
    "a/b/c/d",
    "worker/" + "x" * 300,
    "worker/\u202e",
    "worker/\ud800",
]


def content(store: OutputStore, name: str = NAME, *, start: int = 0, end: int | None = None) -> bytes:
    return b"".join(store.read(UID, name, start=start, end=end)[1])


def test_what_is_stored_is_read(store: OutputStore, source: Path) -> None:
    store.put_file(UID, NAME, source)
    size, chunks = store.read(UID, NAME)
    parts = list(chunks)
    assert b"".join(parts) == source.read_bytes()
    assert size == source.stat().st_size
    assert max(map(len, parts)) <= CHUNK_BYTES
    assert len(parts) > 2


def test_storing_again_replaces(store: OutputStore, source: Path) -> None:
    store.put_file(UID, NAME, source)
    store.put_bytes(UID, NAME, b"second")
    assert content(store) == b"second"
    store.put_file(UID, NAME, source)
    assert content(store) == source.read_bytes()


def test_an_empty_file(store: OutputStore, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    store.put_file(UID, NAME, tmp_path / "empty")
    assert store.read(UID, NAME)[0] == 0
    assert content(store) == b""


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (5, 10), (CHUNK_BYTES - 1, CHUNK_BYTES + 1), (3, None), (10**9, None), (7, 7), (9, 3), (0, 10**9)],
)
def test_a_part_is_read(store: OutputStore, source: Path, start: int, end: int | None) -> None:
    store.put_file(UID, NAME, source)
    assert store.read(UID, NAME, start=start, end=end)[0] == source.stat().st_size
    assert content(store, start=start, end=end) == source.read_bytes()[start:end]


def test_the_files_of_an_output_are_listed_by_name(store: OutputStore) -> None:
    assert store.list(UID) == ()
    names = [f"worker-{number}/kubelet-cpu.pb.gz" for number in range(8)]
    for name in (*reversed(names), "merged/kubelet-cpu.pb.gz"):
        store.put_bytes(UID, name, b"12345")
    store.put_bytes(OTHER, NAME, b"1")
    store.write_manifest(UID, make_manifest())
    entries = store.list(UID)
    assert [entry.name for entry in entries] == ["manifest.json", "merged/kubelet-cpu.pb.gz", *names]
    assert entries[1].size == 5
    outputs = store.outputs()
    assert list(outputs) == [UID, OTHER]
    assert outputs[UID] == entries


def test_what_is_not_there(store: OutputStore) -> None:
    store.put_bytes(UID, NAME, b"1")
    for name in ("worker-1/other.pb.gz", "worker-1", "worker-1/kubelet-cpu.pb.gz/more"):
        assert store.stat(UID, name) is None
        with pytest.raises(OutputNotFound, match=UID):
            store.read(UID, name)
    with pytest.raises(OutputNotFound):
        store.read(OTHER, NAME)
    assert store.read_manifest(UID) is None
    assert store.read_head(UID) is None
    store.delete(OTHER)


def test_stat_tells_size_and_time(store: OutputStore) -> None:
    store.put_bytes(UID, NAME, b"12345")
    entry = store.stat(UID, NAME)
    assert entry is not None
    assert (entry.name, entry.size) == (NAME, 5)
    assert entry.modified.tzinfo is not None


def test_deleting_takes_everything_of_one_output(store: OutputStore) -> None:
    for uid in (UID, OTHER):
        for number in range(7):
            store.put_bytes(uid, f"worker-{number}/kubelet-cpu.pb.gz", b"1")
        store.write_manifest(uid, make_manifest(uid))
        assert store.read_head(uid)
    store.delete(UID)
    assert store.list(UID) == ()
    assert store.read_head(UID) is None
    assert len(store.list(OTHER)) == 8


def test_the_manifest_is_read_as_it_was_written(store: OutputStore) -> None:
    manifest = make_manifest()
    store.write_manifest(UID, manifest)
    assert store.read_manifest(UID) == manifest
    head = store.read_head(UID)
    assert head is not None
    assert (head.run.uid, head.run.node_observability, head.finished_at) == (UID, "cluster", manifest.finished_at)
    store.write_manifest(UID, make_manifest(parent="other"))
    assert store.read_manifest(UID) == make_manifest(parent="other")


@pytest.mark.parametrize("damaged", [b"", b"{", b"[]", b'{"version": 2}', b"\xff"])
def test_a_damaged_manifest_completes_nothing(store: OutputStore, damaged: bytes) -> None:
    store.put_bytes(UID, "manifest.json", damaged)
    assert store.read_manifest(UID) is None
    assert store.read_head(UID) is None


@pytest.mark.parametrize("name", ESCAPES)
def test_no_name_leads_out(store: OutputStore, root: Path, source: Path, name: str) -> None:
    def attempts(uid: str, name: str) -> None:
        for attempt in (
            lambda: store.put_file(uid, name, source),
            lambda: store.put_bytes(uid, name, b"x"),
            lambda: store.read(uid, name),
            lambda: store.stat(uid, name),
        ):
            with pytest.raises(InvalidInput):
                attempt()

    attempts(UID, name)
    if name.count("/") != 3:
        attempts(name, NAME)
        for attempt in (store.list, store.delete, store.location, store.read_manifest):
            with pytest.raises(InvalidInput):
                attempt(name)
    assert store.outputs() == {}


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(name=st.text(alphabet=st.sampled_from("ab./\\%#~-_ \0\n\u2215:"), max_size=12))
def test_any_name_is_refused_or_stays_inside(folder: OutputStore, root: Path, name: str) -> None:
    # Not a name; or there is a folder of that name already.
    with suppress(InvalidInput, OutputStoreUnavailable):
        folder.put_bytes("out", name, b"x")
    assert all(path == root for path in root.parent.iterdir())
    assert all(path.name == "out" for path in root.iterdir())


def test_a_file_replaced_while_it_is_read_is_an_error_never_a_mixture(store: OutputStore, source: Path) -> None:
    store.put_file(UID, NAME, source)
    _, chunks = store.read(UID, NAME)
    next(chunks)
    store.put_bytes(UID, NAME, bytes(source.stat().st_size))
    with pytest.raises(OutputStoreUnavailable, match="replaced"):
        list(chunks)


def test_a_file_deleted_while_it_is_read_is_an_error(store: OutputStore, source: Path) -> None:
    store.put_file(UID, NAME, source)
    _, chunks = store.read(UID, NAME)
    next(chunks)
    store.delete(UID)
    with pytest.raises(OutputNotFound):
        list(chunks)


def test_many_threads_store_at_once(store: OutputStore, source: Path) -> None:
    def put(number: int) -> None:
        store.put_file(UID, f"worker-{number}/kubelet-cpu.pb.gz", source)

    threads = [threading.Thread(target=put, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.size for entry in store.list(UID)} == {source.stat().st_size}
    assert len(store.list(UID)) == 8


def test_a_source_that_is_not_there_is_the_callers_error(store: OutputStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.put_file(UID, NAME, tmp_path / "nothing")
    assert store.outputs() == {}


class TestBucket:
    def test_location_and_keys(self, server: Bucket) -> None:
        store = OutputStore("s3://profiles/some/prefix/")
        assert store.location(UID) == f"s3://profiles/some/prefix/{UID}"
        store.put_bytes(UID, NAME, b"x")
        assert list(server.objects) == [f"some/prefix/{UID}/{NAME}"]
        assert store.clean_staging(datetime.now(UTC)) == 0

    def test_large_files_go_in_parts(self, server: Bucket, source: Path) -> None:
        store = OutputStore("s3://profiles")
        store.put_file(UID, NAME, source)
        assert sum("partNumber" in request for request in server.asked) >= 2
        assert server.objects[f"{UID}/{NAME}"] == source.read_bytes()

    @pytest.mark.parametrize("refusal", [(403, "AccessDenied"), (404, "NoSuchBucket"), (501, "NotImplemented")])
    def test_a_refusal_is_unavailable_and_tells_no_secret(self, server: Bucket, refusal: tuple[int, str]) -> None:
        store = OutputStore("s3://profiles")
        server.refuse = refusal
        with pytest.raises(OutputStoreUnavailable) as caught:
            store.put_bytes(UID, NAME, b"x")
        text = repr(caught.value)
        assert NAME in text
        assert "hidden-secret" not in text
        assert "Signature" not in text
        assert "\n" not in str(caught.value)

    def test_a_full_store_is_full(self, server: Bucket) -> None:
        store = OutputStore("s3://profiles")
        server.refuse = (400, "XMinioStorageFull")
        with pytest.raises(OutputStoreFull, match="NODEOBS_RETENTION_MAX_BYTES"):
            store.put_bytes(UID, NAME, b"x")


@pytest.mark.parametrize("url", ["ftp://host/path", "http://host/path", "s3://", "file:///tmp/x", "az://container"])
def test_a_place_that_cannot_be_is_refused_by_setting(url: str) -> None:
    with pytest.raises(ConfigurationError, match="NODEOBS_OUTPUT"):
        OutputStore(url)


def test_a_key_is_made_of_what_was_checked() -> None:
    store = OutputStore("memory:///")
    for uid, name in itertools.product(["a", "b"], ["x", "y/z"]):
        store.put_bytes(uid, name, name.encode())
    assert {uid: [entry.name for entry in entries] for uid, entries in store.outputs().items()} == {
        "a": ["x", "y/z"],
        "b": ["x", "y/z"],
    }
