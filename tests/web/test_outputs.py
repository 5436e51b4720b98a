"""Outputs over HTTP."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import replace as replace_services

import pytest
from flask.testing import FlaskClient

from nodeobs.model import NodeObservability, Phase, Run, RunStatus, decode_json, replace
from nodeobs.outputs.manifest import Manifest
from nodeobs.web import create_app
from nodeobs.web.services import Services
from nodeobs.web.slots import Slots
from tests.web.support import RUNS, assert_problem, make_run

OUTPUT = f"{RUNS}/nodeobs/done/output"
FILE = f"{OUTPUT}/node-1/kubelet-cpu.pb.gz"
CONTENT = b"0123456789" * 1000


def test_the_manifest(client: FlaskClient, services: Services, finished: Run) -> None:
    answer = client.get(OUTPUT)
    assert answer.status_code == 200
    assert decode_json(answer.data, Manifest) == services.outputs.read_manifest(finished.metadata.uid)


def test_files_of_nodes_and_the_merged_ones(client: FlaskClient, finished: Run) -> None:
    answer = client.get(FILE)
    assert answer.data == CONTENT
    assert answer.headers["Content-Length"] == "10000"
    assert answer.headers["Content-Type"] == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="node-1-kubelet-cpu.pb.gz"'
    assert client.get(f"{OUTPUT}/merged/kubelet-cpu.pb.gz").data == b"merged"


def test_head_tells_the_size_only(client: FlaskClient, finished: Run) -> None:
    answer = client.head(FILE)
    assert answer.headers["Content-Length"] == "10000"
    assert answer.data == b""


@pytest.mark.parametrize(
    ("wanted", "status", "content", "told"),
    [
        ("bytes=10-19", 206, b"0123456789", "bytes 10-19/10000"),
        ("bytes=9995-", 206, b"56789", "bytes 9995-9999/10000"),
        ("bytes=-3", 206, b"789", "bytes 9997-9999/10000"),
    ],
)
def test_a_part_of_a_file(
    client: FlaskClient, finished: Run, wanted: str, status: int, content: bytes, told: str
) -> None:
    answer = client.get(FILE, headers={"Range": wanted})
    assert (answer.status_code, answer.data) == (status, content)
    assert answer.headers["Content-Range"] == told


def test_a_part_that_is_not_there(client: FlaskClient, finished: Run) -> None:
    answer = client.get(FILE, headers={"Range": "bytes=20000-"})
    assert_problem(answer, 416)
    assert answer.headers["Content-Range"] == "bytes */10000"


def test_a_file_that_is_known_is_not_sent_again(client: FlaskClient, finished: Run) -> None:
    tag = client.get(FILE).headers["ETag"]
    answer = client.get(FILE, headers={"If-None-Match": tag})
    assert (answer.status_code, answer.data) == (304, b"")
    assert client.get(FILE, headers={"If-None-Match": '"other"'}).status_code == 200


def test_the_archive_holds_everything(client: FlaskClient, finished: Run) -> None:
    answer = client.get(f"{OUTPUT}.tar.gz")
    assert answer.headers["Content-Type"] == "application/gzip"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="nodeobs-done.tar.gz"'
    with tarfile.open(fileobj=io.BytesIO(answer.data)) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
        assert names >= {"manifest.json", "node-1/kubelet-cpu.pb.gz", "merged/kubelet-cpu.pb.gz"}
        manifest = archive.extractfile(f"{finished.metadata.uid}/manifest.json")
        assert manifest is not None
        assert json.load(manifest)["run"]["name"] == "done"


@pytest.mark.parametrize("path", ["", ".tar.gz", "/node-1/kubelet-cpu.pb.gz"])
def test_why_there_is_no_output(client: FlaskClient, services: Services, finished: Run, path: str) -> None:
    for phase, output, word in (
        (Phase.RUNNING, "", "is Running"),
        (Phase.REJECTED, "", "rejected"),
        (Phase.CANCELLED, "", "left no output"),
        (Phase.SUCCEEDED, "/gone", "has expired"),
    ):
        name = phase.lower()
        run = services.store.create(make_run(name, parent=f"parent-{name}"))
        services.store.update(replace(run, status=RunStatus(phase=phase, output=output)))
        answer = client.get(f"{RUNS}/nodeobs/{name}/output{path}")
        assert_problem(answer, 404, word if phase is Phase.RUNNING or not path.startswith("/") else "no such file")
    assert_problem(client.get(f"{RUNS}/nodeobs/other/output{path}"), 404)


@pytest.mark.parametrize(
    "path",
    [
        "..%2f..%2f/x",
        "../manifest.json",
        "%2e%2e/manifest.json",
        "node-1/..%2f..%2f..%2fnodeobs.db",
        "node-1/%00",
        "node-1/.",
        ".../x",
        "node-1/" + "x" * 300,
        "node-1/other.pb.gz",
    ],
)
def test_no_name_leads_out_of_the_output(client: FlaskClient, finished: Run, path: str) -> None:
    assert_problem(client.get(f"{OUTPUT}/{path}"), 404)


def test_a_slot_is_given_back_however_a_download_ends(services: Services, finished: Run) -> None:
    one = Slots(1, what="downloads")
    client = create_app(replace_services(services, downloads=one)).test_client()
    for headers in ({}, {"Range": "bytes=0-1"}, {"Range": "bytes=99999-"}, {"If-None-Match": "*"}):
        client.get(FILE, headers=headers).close()
        client.head(FILE, headers=headers).close()
    client.get(f"{OUTPUT}.tar.gz").close()
    held = client.get(FILE, buffered=False)
    assert_problem(client.get(f"{OUTPUT}.tar.gz"), 503, "downloads")
    held.close()
    assert client.get(FILE).status_code == 200


def test_a_download_is_cut_off_when_the_service_stops(services: Services, client: FlaskClient, finished: Run) -> None:
    uid = finished.metadata.uid
    services.outputs.put_bytes(uid, "node-1/big.pb.gz", b"x" * 3_000_000)
    answer = client.get(f"{OUTPUT}/node-1/big.pb.gz", buffered=False)
    chunks = iter(answer.response)
    next(chunks)
    services.stop.set()
    with pytest.raises(ConnectionResetError):
        list(chunks)
    answer.close()


def test_an_archive_is_cut_off_when_a_file_vanishes(services: Services, client: FlaskClient, finished: Run) -> None:
    uid = finished.metadata.uid
    services.outputs.put_bytes(uid, "node-1/zzz.pb.gz", b"x" * 3_000_000)
    answer = client.get(f"{OUTPUT}.tar.gz", buffered=False)
    chunks = iter(answer.response)
    next(chunks)
    services.outputs.delete(uid)
    with pytest.raises(ConnectionResetError):
        list(chunks)
    answer.close()


def test_nothing_is_there_before_the_run_has_finished(
    client: FlaskClient, services: Services, observability: NodeObservability
) -> None:
    run = services.store.create(make_run("going"))
    services.outputs.put_bytes(run.metadata.uid, "node-1/kubelet-cpu.pb.gz", b"half")
    assert_problem(client.get(f"{RUNS}/nodeobs/going/output/node-1/kubelet-cpu.pb.gz"), 404, "is Pending")
