"""Outputs in a local folder: links, leftovers, durability, a full disk."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from nodeobs.errors import ConfigurationError, OutputNotFound, OutputStoreFull, OutputStoreUnavailable
from nodeobs.outputs.archive import tar_gz
from nodeobs.outputs.store import OutputStore
from tests.disks import small_disk
from tests.outputs.conftest import OTHER, UID, make_manifest
from tests.processes import wait_for

NAME = "worker-1/kubelet-cpu.pb.gz"
EARLIER, LATER = (datetime.now(UTC) + timedelta(hours=hours) for hours in (-1, 1))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A folder that is not ours."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "secret").write_text("secret")
    return folder


def test_is_created_for_its_owner_only(folder: OutputStore, root: Path) -> None:
    assert stat.S_IMODE(root.stat().st_mode) == 0o700
    assert folder.location(UID) == str(root / UID)


def test_the_layout_is_the_documented_one(folder: OutputStore, root: Path, source: Path) -> None:
    folder.put_file(UID, NAME, source)
    folder.write_manifest(UID, make_manifest())
    found = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
    assert found == {f"{UID}/{NAME}", f"{UID}/manifest.json"}


def test_nothing_is_left_of_a_deleted_output(folder: OutputStore, root: Path) -> None:
    folder.put_bytes(UID, NAME, b"x")
    (root / UID / "worker-1" / "kubelet-heap.pb.gz#1").write_bytes(b"half")
    folder.delete(UID)
    assert list(root.iterdir()) == []


def test_links_are_not_followed(folder: OutputStore, root: Path, secret: Path, source: Path) -> None:
    folder.put_bytes(UID, NAME, b"x")
    (root / UID / "file").symlink_to(secret / "secret")
    (root / UID / "node").symlink_to(secret)
    (root / UID / "loop").symlink_to(root / UID)
    (root / UID / "self").symlink_to("self")
    (root / OTHER).symlink_to(secret)
    for uid, name in [(UID, "file"), (UID, "node/secret"), (UID, f"loop/{NAME}"), (UID, "self"), (OTHER, "secret")]:
        with pytest.raises(OutputNotFound, match="symbolic link"):
            folder.read(uid, name)
        assert folder.stat(uid, name) is None
        with pytest.raises(OutputStoreUnavailable, match="symbolic link"):
            folder.put_file(uid, name, source)
        with pytest.raises(OutputStoreUnavailable, match="symbolic link"):
            folder.put_bytes(uid, name, b"x")
    assert {uid: [entry.name for entry in files] for uid, files in folder.outputs().items()} == {UID: [NAME]}
    assert folder.list(OTHER) == ()
    assert b"secret" not in b"".join(tar_gz(folder, UID))
    with pytest.raises(OutputNotFound):
        tar_gz(folder, OTHER)
    folder.delete(OTHER)
    folder.delete(UID)
    assert list(root.iterdir()) == []
    assert (secret / "secret").read_text() == "secret"


def test_a_link_as_the_root_is_the_administrators_choice(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    store = OutputStore(str(tmp_path / "outputs"))
    store.put_bytes(UID, NAME, b"x")
    assert (tmp_path / "disk" / UID / NAME).read_bytes() == b"x"
    assert store.location(UID) == str(tmp_path / "disk" / UID)


def test_leftovers_of_killed_processes_are_cleaned(folder: OutputStore, root: Path) -> None:
    folder.put_bytes(UID, NAME, b"x")
    (root / UID / "worker-1" / "kubelet-heap.pb.gz#1").write_bytes(b"half")
    (root / UID / "manifest.json#0").write_bytes(b"half")
    (root / OTHER / "worker-1").mkdir(parents=True)
    (root / OTHER / "worker-1" / "kubelet-heap.pb.gz#12").write_bytes(b"half")
    (root / "notes#1").write_text("a person's")
    assert [entry.name for entry in folder.list(UID)] == [NAME]
    assert folder.clean_staging(LATER) == 3
    assert {path.name for path in root.rglob("*") if path.is_file()} == {"kubelet-cpu.pb.gz", "notes#1"}
    assert not (root / OTHER).exists()
    assert folder.clean_staging(LATER) == 0
    folder.delete(UID)
    assert folder.clean_staging(LATER) == 0
    assert root.is_dir()


def test_what_is_being_written_is_not_taken_for_a_leftover(folder: OutputStore, root: Path) -> None:
    (root / UID / "worker-1").mkdir(parents=True)
    for name, written in (("old", EARLIER), ("new", LATER)):
        staged = root / UID / "worker-1" / f"{name}-cpu.pb.gz#1"
        staged.write_bytes(b"half")
        os.utime(staged, (written.timestamp(), written.timestamp()))
    assert folder.clean_staging(datetime.now(UTC)) == 1
    assert [path.name for path in (root / UID / "worker-1").iterdir()] == ["new-cpu.pb.gz#1"]


WRITER = """
import sys
from pathlib import Path
from nodeobs.outputs.store import OutputStore
store = OutputStore(sys.argv[1])
for number in range(10_000):
    store.put_file("uid", f"worker-{number}/kubelet-cpu.pb.gz", Path(sys.argv[2]))
"""


def test_a_process_killed_while_storing_leaves_whole_files_or_none(
    folder: OutputStore, root: Path, source: Path
) -> None:
    with subprocess.Popen([sys.executable, "-c", WRITER, str(root), str(source)]) as process:
        try:
            wait_for("the first file", lambda: folder.list("uid"))
            time.sleep(0.05)
        finally:
            process.kill()
    assert {entry.size for entry in folder.list("uid")} == {source.stat().st_size}
    folder.clean_staging(LATER)
    files = [path for path in root.rglob("*") if path.is_file()]
    assert {path.stat().st_size for path in files} == {source.stat().st_size}


def test_a_file_cut_short_while_it_is_read_is_an_error(folder: OutputStore, root: Path, source: Path) -> None:
    folder.put_file(UID, NAME, source)
    _, chunks = folder.read(UID, NAME)
    next(chunks)
    with (root / UID / NAME).open("r+b") as file:
        file.truncate(2 * 2**20 + 17)
    with pytest.raises(OutputStoreUnavailable):
        list(chunks)


def test_a_full_disk_is_full_until_there_is_space(tmp_path: Path, source: Path) -> None:
    with small_disk(tmp_path / "disk", megabytes=8) as disk:
        store = OutputStore(str(disk / "outputs"))
        store.put_file(UID, "worker-1/a.pb.gz", source)
        with pytest.raises(OutputStoreFull, match=r"worker-2/a\.pb\.gz.*NODEOBS_RETENTION_MAX_BYTES"):
            store.put_file(UID, "worker-2/a.pb.gz", source)
        # obstore removes and closes what it staged in threads of its own, after it has told of the failure.
        wait_for("the half file's space is free", lambda: shutil.disk_usage(disk).free > 1_950_000)
        assert not any("#" in path.name for path in disk.rglob("*"))
        (disk / "ballast").write_bytes(bytes(1_900_000))
        with pytest.raises(OutputStoreFull):
            store.put_bytes(UID, "manifest.json", bytes(1_000_000))
        assert [entry.name for entry in store.list(UID)] == ["worker-1/a.pb.gz"]
        assert store.clean_staging(LATER) == 0
        store.delete(UID)
        store.put_file(UID, "worker-2/a.pb.gz", source)
        assert [entry.size for entry in store.list(UID)] == [source.stat().st_size]


def test_a_root_removed_meanwhile_comes_back(folder: OutputStore, root: Path, source: Path) -> None:
    root.rmdir()
    assert folder.outputs() == {}
    folder.put_file(UID, NAME, source)
    folder.write_manifest(UID, make_manifest())
    assert len(folder.list(UID)) == 2


def test_where_no_folder_can_be_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "outputs"):
        with pytest.raises(ConfigurationError, match="NODEOBS_OUTPUT"):
            OutputStore(str(place))


def test_memory_does_not_grow_with_the_file(root: Path, tmp_path: Path) -> None:
    """Stores and reads 200 MB in a process that reports its peak beyond its imports, in MB."""
    program = """
import os, resource, sys
from pathlib import Path
from nodeobs.outputs.archive import tar_gz
from nodeobs.outputs.store import OutputStore
store = OutputStore(sys.argv[1])
store.put_bytes("uid", "worker-1/small.pb.gz", b"x")
sum(map(len, tar_gz(store, "uid")))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store.put_file("uid", "worker-1/large.pb.gz", Path(sys.argv[2]))
assert sum(map(len, store.read("uid", "worker-1/large.pb.gz")[1])) == os.stat(sys.argv[2]).st_size
sum(map(len, tar_gz(store, "uid")))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(200 * 2**20)
    done = subprocess.run(
        [sys.executable, "-c", program, str(root), str(large)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 60
