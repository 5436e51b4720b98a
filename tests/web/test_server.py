"""The service as a real process: how it bears bad connections, and how it ends."""

from __future__ import annotations

import os
import resource
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from nodeobs.model import Phase, RunStatus, replace
from nodeobs.outputs.store import OutputStore
from nodeobs.store.sqlite import SqliteStore
from nodeobs.web.services import THREADS
from tests.web.support import (
    OBSERVABILITIES,
    RUNS,
    RealService,
    assert_problem,
    make_manifest,
    make_run,
    run_body,
)

pytestmark = pytest.mark.slow

BIG = 48 * 2**20


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    """One service for all tests that leave it as it was; a Run ``done`` has a big output."""
    with running(tmp_path_factory.mktemp("service")) as service:
        store_big_output(service)
        yield service


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    """So many open files as 2,000 connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def running(folder: Path, environ: dict[str, str] | None = None) -> Iterator[RealService]:
    service = RealService(folder, environ)
    with service.program:
        service.wait_ready()
        yield service


def store_big_output(service: RealService) -> None:
    store = SqliteStore(service.data / "nodeobs.db", now=lambda: datetime.now(UTC))
    status = RunStatus(phase=Phase.SUCCEEDED, output="x")  # stored as finished: nobody is to drive it
    run = store.create(replace(make_run("done", parent="other"), status=status))
    outputs = OutputStore(str(service.data / "outputs"))
    outputs.put_bytes(run.metadata.uid, "node-1/kubelet-cpu.pb.gz", os.urandom(BIG))
    outputs.write_manifest(run.metadata.uid, make_manifest(run))
    store.close()


def connect(service: RealService) -> socket.socket:
    return socket.create_connection(("127.0.0.1", service.port), timeout=30)


def ask(service: RealService, path: str) -> socket.socket:
    """A connection that has asked, and reads nothing."""
    sock = connect(service)
    sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return sock


def exchange(service: RealService, data: bytes) -> bytes:
    """All that comes back for raw bytes."""
    with connect(service) as sock:
        sock.sendall(data)
        return b"".join(iter(lambda: sock.recv(65536), b""))


def client(service: RealService, verify: ssl.SSLContext | bool = True) -> httpx.Client:
    return httpx.Client(base_url=service.url, trust_env=False, timeout=30, verify=verify)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_whatever_is_open(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path) as service, ExitStack() as stack:
        store_big_output(service)
        archive = stack.enter_context(ask(service, f"{RUNS}/nodeobs/done/output.tar.gz"))
        archive.recv(1000)
        poll = stack.enter_context(ask(service, f"{RUNS}/nodeobs/done?wait=30"))
        stack.enter_context(connect(service))
        stack.enter_context(connect(service)).sendall(b"GET / HT")
        kept = stack.enter_context(client(service))
        assert kept.get("/healthz").status_code == 200
        began = time.monotonic()
        os.killpg(service.program.pid, number)
        service.program.process.wait(30)
        # Two seconds are promised; without care for what is open, gunicorn's five pass and the worker is killed.
        assert time.monotonic() - began < 4.5
        said = service.program.said()
        assert service.program.process.returncode == 0, said
        assert "no longer leading" in said, "the Run was not handed over"
        assert "Traceback" not in said
        assert poll.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert not read_all(archive).endswith(b"\r\n0\r\n\r\n"), "a part was sent off as the whole"


def read_all(sock: socket.socket) -> bytes:
    data = bytearray()
    try:
        while chunk := sock.recv(1 << 20):
            data += chunk
    except ConnectionResetError:
        pass
    return bytes(data)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_a_thousand_idle_and_a_hundred_half_sent_connections_hold_up_nobody(
    tmp_path: Path, authority: trustme.CA, tls: bool
) -> None:
    environ = write_certificate(authority, tmp_path) if tls else {}
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with running(tmp_path, environ) as service, ExitStack() as stack:
        for _ in range(1000):
            stack.enter_context(connect(service))
        for index in range(100):
            sock = connect(service)
            if tls and index % 2:
                sock.sendall(half_a_handshake(trust))
            elif tls:
                sock = trust.wrap_socket(sock, server_hostname="127.0.0.1")
                sock.sendall(b"GET /healthz HTTP/1.1\r\nHost:")
            else:
                sock.sendall((b"GET /healthz HTTP/1.1\r\nHost:", half_a_post())[index % 2])
            stack.enter_context(sock)
        seconds = []
        for _ in range(100):
            began = time.monotonic()
            with client(service, trust) as http:
                assert http.get("/healthz").status_code == 200
            seconds.append(time.monotonic() - began)
        assert sorted(seconds)[98] < 1.0


def test_more_half_sent_bodies_than_threads_hold_up_nobody_for_long(tmp_path: Path) -> None:
    with running(tmp_path) as service, ExitStack() as stack:
        for _ in range(2 * THREADS):
            stack.enter_context(connect(service)).sendall(half_a_post())
        began = time.monotonic()
        with client(service) as http:
            assert http.get("/healthz").status_code == 200
        # A second for each time that the threads are full; without care it is half a minute.
        assert time.monotonic() - began < 10


def half_a_post() -> bytes:
    return f"POST {RUNS} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{".encode()


def half_a_handshake(context: ssl.SSLContext) -> bytes:
    sent = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), sent, server_hostname="127.0.0.1").do_handshake()
    hello = sent.read()
    return hello[: len(hello) // 2]


def write_certificate(authority: trustme.CA, folder: Path) -> dict[str, str]:
    certificate = authority.issue_cert("127.0.0.1")
    cert, key = folder / "cert.pem", folder / "key.pem"
    certificate.private_key_pem.write_to_path(str(key))
    cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
    return {"NODEOBS_TLS_CERT_FILE": str(cert), "NODEOBS_TLS_KEY_FILE": str(key)}


def test_a_rotated_certificate_is_served_and_plain_http_is_not(tmp_path: Path, authority: trustme.CA) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)

    def served(service: RealService) -> bytes:
        with trust.wrap_socket(connect(service), server_hostname="127.0.0.1") as sock:
            return sock.getpeercert(binary_form=True) or b""

    with running(tmp_path, write_certificate(authority, tmp_path)) as service:
        before = served(service)
        assert before == served(service)
        write_certificate(authority, tmp_path)
        assert before != served(service)
        assert b"200 OK" not in exchange(service, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        with client(service, trust) as http:
            assert http.get("/healthz").status_code == 200


def test_a_certificate_that_became_wrong_is_not_taken(tmp_path: Path, authority: trustme.CA) -> None:
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    with running(tmp_path, write_certificate(authority, tmp_path)) as service:
        (tmp_path / "key.pem").write_text("wrong")
        with client(service, trust) as http:
            assert http.get("/healthz").status_code == 200
        assert "the new certificate is not used" in service.program.said()


@pytest.mark.parametrize("key", ["another", "encrypted", "none"])
def test_a_key_that_cannot_be_used_ends_it_with_a_message(tmp_path: Path, authority: trustme.CA, key: str) -> None:
    environ = write_certificate(authority, tmp_path)
    another = authority.issue_cert("127.0.0.1").private_key_pem.bytes()
    secret = BestAvailableEncryption(b"secret")
    encrypted = load_pem_private_key(another, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, secret)
    (tmp_path / "key.pem").write_bytes({"another": another, "encrypted": encrypted, "none": b"wrong"}[key])
    service = RealService(tmp_path, environ)
    with service.program:
        assert service.program.process.wait(60) != 0
        said = service.program.said()
        assert "Traceback" not in said
        assert f"tls_key_file {tmp_path / 'key.pem'}: cannot be used" in said


def test_a_lock_that_cannot_be_taken_is_said_without_a_traceback(tmp_path: Path) -> None:
    service = RealService(tmp_path)
    service.data.mkdir(exist_ok=True)
    (service.data / "leader.lock").write_text("rubbish")
    with service.program:
        said = service.program.wait_until(
            "the log says why nobody leads", lambda: text if "cannot lead" in (text := service.program.said()) else None
        )
        assert "leader.lock is damaged" in said
        assert "Traceback" not in said


def test_fifty_creates_at_once_give_one_run(service: RealService) -> None:
    def create(number: int) -> int:
        with client(service) as http:
            return http.post(RUNS, json=run_body(f"run-{number}", nodes=["nowhere"])).status_code

    with ThreadPoolExecutor(50) as pool:
        statuses = sorted(pool.map(create, range(50)))
    # The first may have ended (there are no agents) before the last came.
    assert statuses[0] == 201
    with client(service) as http:
        runs = http.get(f"{RUNS}?nodeObservability=cluster").json()["items"]
    assert len(runs) == statuses.count(201)
    assert not [run for run in runs if run["status"]["phase"] == "Rejected"]
    assert set(statuses) <= {201, 409}


def test_a_body_over_the_limit_is_refused_and_the_answer_arrives(service: RealService) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(10):
            yield b" " * 2**20

    with client(service) as http:
        for content in (b" " * 10_000_000, chunks()):
            answer = http.post(f"{OBSERVABILITIES}", content=content)
            assert_problem(answer, 413, "8388608")
        assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400),
        (b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\n" + b"X-A: " + b"x" * 20_000 + b"\r\n\r\n", 431),
        (b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (b"POST /api/v1/runs HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: rot13\r\n\r\n", 501),
    ],
)
def test_what_is_not_http_is_answered_with_a_problem(service: RealService, sent: bytes, status: int) -> None:
    with connect(service) as sock:
        sock.sendall(sent)
        answer = sock.recv(65536)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"application/problem+json" in answer


def test_a_connection_serves_again_after_refusals(service: RealService) -> None:
    with client(service) as http:
        for _ in range(3):
            assert http.post(RUNS, content=b"{").status_code == 400
            assert http.put(RUNS, content=b"unread").status_code == 405
            assert http.get("/healthz").status_code == 200


def test_downloads_that_nobody_reads_leave_room_for_others(service: RealService) -> None:
    with ExitStack() as stack:
        path = f"{RUNS}/nodeobs/done/output/node-1/kubelet-cpu.pb.gz"
        heads = [stack.enter_context(ask(service, path)).recv(12) for _ in range(30)]
        assert heads.count(b"HTTP/1.1 200") == 24
        assert heads.count(b"HTTP/1.1 503") == 6
        with client(service) as http:
            assert http.get("/healthz").status_code == 200
            assert http.get(RUNS).status_code == 200


def test_one_worker_whatever_the_environment_says(service: RealService) -> None:
    assert service.program.said().count("Booting worker") == 1


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"NODEOBS_BIND": "0.0.0.0:0"}, ["NODEOBS_TOKENS_FILE"]),
        ({"NODEOBS_LOG_LEVEL": "loud"}, ["log_level", "loud"]),
        ({"NODEOBS_TOKENS_FILE": "{folder}/tokens"}, ["tokens, line 1"]),
        ({"NODEOBS_DATA_DIR": "{folder}/damaged"}, ["damaged/nodeobs.db: file is not a database", "put a backup"]),
    ],
)
def test_a_wrong_setting_ends_it_with_a_message(tmp_path: Path, environ: dict[str, str], words: list[str]) -> None:
    (tmp_path / "tokens").write_text("wrong\n")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "nodeobs.db").write_bytes(b"rubbish" * 1000)
    filled = {name: value.replace("{folder}", str(tmp_path)) for name, value in environ.items()}
    service = RealService(tmp_path, filled)
    with service.program:
        assert service.program.process.wait(60) != 0
        said = service.program.said()
        assert "Traceback" not in said
        for word in words:
            assert word in said
