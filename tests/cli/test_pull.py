"""``nodeobs pull``: the output arrives whole and verified, or not at all."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from nodeobs.model import Phase, encode_json, replace
from nodeobs.outputs.manifest import Piece
from tests.builders import make_run
from tests.cli.conftest import Answer, FakeService, Invoke, as_problem
from tests.cli.outputs import FILES, RUN, archive, manifest, piece, serve_output, whole_archive

MANIFEST = {"manifest.json": encode_json(manifest())}


def left_behind(folder: Path) -> list[str]:
    return [str(path) for path in folder.rglob("*")]


def test_every_file_arrives(service: FakeService, nodeobs: Invoke, tmp_path: Path) -> None:
    serve_output(service)
    result = nodeobs("pull", "run-1")
    assert result.exit_code == 0, result.output
    found = {
        str(p.relative_to(tmp_path / "run-1")): p.read_bytes() for p in (tmp_path / "run-1").rglob("*.*") if p.is_file()
    }
    assert found == FILES | MANIFEST
    assert result.stdout.startswith("6 files, ")
    assert result.stderr == ""


def test_latest_and_into_and_json(service: FakeService, nodeobs: Invoke, tmp_path: Path) -> None:
    service.has_run(make_run(phase=Phase.SUCCEEDED))
    serve_output(service)
    result = nodeobs("pull", "latest", "--into", "deep/er/folder", "-o", "json")
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["run"] == "nodeobs/run-1"
    assert document["files"] == sorted(FILES)
    assert (tmp_path / "deep/er/folder/manifest.json").is_file()
    assert service.asked[0].query == {"phase": "Succeeded", "limit": "1"}


@pytest.mark.parametrize("kind", ["folder", "empty folder", "file", "dangling link"])
def test_nothing_is_overwritten(service: FakeService, nodeobs: Invoke, tmp_path: Path, kind: str) -> None:
    serve_output(service)
    there = tmp_path / "run-1"
    if kind == "file":
        there.write_text("mine")
    elif kind == "dangling link":
        there.symlink_to(tmp_path / "elsewhere")
    else:
        there.mkdir()
    if kind == "folder":
        (there / "mine").write_text("mine")
    before = left_behind(tmp_path)
    result = nodeobs("pull", "run-1")
    assert result.exit_code == 1
    assert "exists already" in result.stderr
    assert "--into" in result.stderr
    assert left_behind(tmp_path) == before


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    info.linkname = link
    return info


def huge() -> bytes:
    """A few kB that unpack to 2 GB of one member."""
    info = tarfile.TarInfo("uid/node-1/kubelet-cpu.pb.gz")
    info.size = 2 * 1024**3
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=9) as file:
        file.write(info.tobuf())
        for _ in range(600):
            file.write(bytes(1024 * 1024))
    return packed.getvalue()


OTHER = dict(FILES) | {"node-1/crio-cpu.pb.gz": b"x"}
LESS = {name: data for name, data in FILES.items() if name != "merged/crio-cpu.pb.gz"}
HOSTILE = {
    "parent": archive(MANIFEST | {"../../evil": b"x"}),
    "absolute": archive(MANIFEST, special("/tmp/evil", tarfile.REGTYPE)),
    "other folder": archive(MANIFEST, special("node-1/kubelet-cpu.pb.gz", tarfile.REGTYPE)),
    "inner parent": archive(MANIFEST | {"node-1/../../evil": b"x"}),
    "unknown file": archive(MANIFEST | FILES | {"node-1/extra": b"x"}),
    "symlink": archive(MANIFEST, special("uid/node-1/kubelet-cpu.pb.gz", tarfile.SYMTYPE, "/etc/passwd")),
    "hard link": archive(MANIFEST, special("uid/node-1/kubelet-cpu.pb.gz", tarfile.LNKTYPE, "manifest.json")),
    "device": archive(MANIFEST, special("uid/node-1/kubelet-cpu.pb.gz", tarfile.CHRTYPE)),
    "folder link": archive(MANIFEST, special("uid/node-1", tarfile.SYMTYPE, "/tmp")),
    "other content": archive(MANIFEST | OTHER),
    "file missing": archive(MANIFEST | LESS),
    "twice": archive(FILES, special("uid/node-1/crio-cpu.pb.gz", tarfile.REGTYPE)),
    "nothing": archive({}),
    "not gzip": b"hello, world" * 100,
    "empty": b"",
    "truncated": whole_archive()[:-2000],
    "without checksum": whole_archive()[:-8],
    "wrong checksum": whole_archive()[:-8] + b"\0" * 8,
    "not tar": gzip.compress(b"hello, world" * 1000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_wrong_leaves_nothing(service: FakeService, nodeobs: Invoke, tmp_path: Path, name: str) -> None:
    serve_output(service, HOSTILE[name])
    result = nodeobs("pull", "run-1", "--into", "in/side")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert left_behind(tmp_path) in ([], [str(tmp_path / "in")])
    assert not Path("/tmp/evil").exists()


def sparse() -> bytes:
    """A member of 1 kB that stands for a terabyte of nothing."""
    info = tarfile.TarInfo("uid/node-1/kubelet-cpu.pb.gz")
    size = str(10**12)
    names = {"major": "1", "minor": "0", "name": info.name, "realsize": size}
    info.pax_headers = {f"GNU.sparse.{name}": value for name, value in names.items()}
    no_data = b"0\n".ljust(512, b"\0")
    info.size = len(no_data)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(no_data))
    return gzip.compress(packed.getvalue())


@pytest.mark.parametrize("archive_of", [huge, sparse])
def test_a_small_archive_cannot_fill_the_disk(
    service: FakeService, nodeobs: Invoke, tmp_path: Path, archive_of: Callable[[], bytes]
) -> None:
    serve_output(service, archive_of())
    result = nodeobs("pull", "run-1")
    assert result.exit_code == 1
    assert "larger than its manifest says" in result.stderr
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "a/../../evil", "node-1/.hidden", "", "a//b", "node-1/\x1b[31m"]
)
def test_a_manifest_that_names_other_places(service: FakeService, nodeobs: Invoke, tmp_path: Path, name: str) -> None:
    node = manifest().nodes[0]
    evil: Piece = replace(piece("node-1/kubelet-cpu.pb.gz", b"x"), file=name)
    document = replace(manifest(), nodes=(replace(node, pieces=(evil,)),), merged=())
    service.on("GET", f"{RUN}/output", Answer(200, encode_json(document)))
    service.on("GET", f"{RUN}/output.tar.gz", Answer(200, archive({name: b"x"} if name else {})))
    result = nodeobs("pull", "run-1")
    assert result.exit_code == 1
    assert "may not be" in result.stderr
    assert "\x1b" not in result.stderr
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("uid", ["..", ".", "", "a/b", "/tmp", "x\x1b[31m"])
def test_a_manifest_of_a_run_with_no_proper_uid(
    service: FakeService, nodeobs: Invoke, tmp_path: Path, uid: str
) -> None:
    document = replace(manifest(), run=replace(manifest().run, uid=uid))
    service.on("GET", f"{RUN}/output", Answer(200, encode_json(document)))
    service.on("GET", f"{RUN}/output.tar.gz", Answer(200, whole_archive()))
    result = nodeobs("pull", "run-1")
    assert result.exit_code == 1
    assert "a uid that no Run has" in result.stderr
    assert left_behind(tmp_path) == []


def test_a_transfer_that_breaks_off(service: FakeService, nodeobs: Invoke, tmp_path: Path) -> None:
    serve_output(service)
    service.on("GET", f"{RUN}/output.tar.gz", Answer(200, whole_archive()[:5000], cut=True))
    result = nodeobs("pull", "run-1")
    assert result.exit_code == 6
    assert left_behind(tmp_path) == []


def test_no_output_yet(service: FakeService, nodeobs: Invoke) -> None:
    service.on("GET", f"{RUN}/output", as_problem(404, "Run nodeobs/run-1 is Running; its output is not there yet"))
    result = nodeobs("pull", "run-1")
    assert result.exit_code == 5
    assert "is Running" in result.stderr


@pytest.mark.parametrize("folder", ["file/inside", "x" * 300])
def test_a_folder_that_cannot_be_written(service: FakeService, nodeobs: Invoke, tmp_path: Path, folder: str) -> None:
    serve_output(service)
    (tmp_path / "file").write_text("")
    result = nodeobs("pull", "run-1", "--into", folder)
    assert result.exit_code == 1
    assert "cannot write" in result.stderr
