"""Reaching the service: where it is, who asks, and what is said when that does not work."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from tests.builders import make_run
from tests.cli.conftest import Answer, FakeService, Invoke, as_problem, as_run

RUN = "/api/v1/runs/nodeobs/run-1"
SECRET = "s3cret-t0ken"


def test_nobody_listens(nodeobs: Invoke) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    result = nodeobs("run", "list", "--server", url)
    assert result.exit_code == 6
    assert f"cannot reach the service at {url}" in result.stderr
    assert "nodeobs serve" in result.stderr
    assert "--server" in result.stderr


def test_nobody_listens_in_json(nodeobs: Invoke) -> None:
    result = nodeobs("run", "list", "--server", "http://127.0.0.1:1", "-o", "json")
    assert result.stdout == ""
    problem = json.loads(result.stderr)
    assert problem["exitCode"] == 6
    assert "cannot reach" in problem["detail"]


def test_the_token_comes_from_its_file(service: FakeService, nodeobs: Invoke, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{SECRET}\n")
    service.has_run(make_run())
    assert nodeobs("run", "get", "run-1", "--token-file", "token").exit_code == 0
    assert nodeobs("run", "get", "run-1", env={"NODEOBS_TOKEN_FILE": "token"}).exit_code == 0
    assert [asked.headers["Authorization"] for asked in service.asked] == [f"Bearer {SECRET}"] * 2


@pytest.mark.parametrize(
    "content", [b"", b"two words", b"two\nlines", b"\xff\xfe", b"a\x00b", "tök".encode(), b"x" * 5000]
)
def test_a_file_without_a_token_is_refused_without_telling_it(
    service: FakeService, nodeobs: Invoke, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "token").write_bytes(content)
    result = nodeobs("run", "list", "--token-file", "token")
    assert result.exit_code == 2
    assert service.asked == []
    assert "token file token" in result.stderr
    assert "two" not in result.stderr


def test_a_missing_token_file(nodeobs: Invoke) -> None:
    result = nodeobs("run", "list", "--token-file", "nosuch")
    assert result.exit_code == 2
    assert "cannot read the token file nosuch" in result.stderr


@pytest.mark.parametrize(("status", "hint"), [(401, "--token-file"), (403, "role")])
def test_credentials_that_are_not_accepted(
    service: FakeService, nodeobs: Invoke, tmp_path: Path, status: int, hint: str
) -> None:
    (tmp_path / "token").write_text(SECRET)
    service.on("GET", RUN, as_problem(status, "not you"))
    result = nodeobs("run", "get", "run-1", "--token-file", "token")
    assert result.exit_code == 6
    assert "not you" in result.stderr
    assert hint in result.stderr
    assert SECRET not in result.output


@pytest.mark.parametrize(
    "url",
    ["ftp://127.0.0.1", "127.0.0.1:8080", "http://", "http://host:99999", "http://h?x=1", "http://user:pw@host", "x"],
)
def test_what_is_no_url_is_wrong_usage(nodeobs: Invoke, url: str) -> None:
    result = nodeobs("run", "list", "--server", url)
    assert result.exit_code == 2
    assert "--server" in result.stderr


def test_redirects_are_not_followed(service: FakeService, nodeobs: Invoke, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    service.on("GET", RUN, Answer(302, headers={"Location": f"{service.url}/elsewhere"}))
    result = nodeobs("run", "get", "run-1", "--token-file", "token")
    assert result.exit_code == 6
    assert "302 Found" in result.stderr
    assert len(service.asked) == 1


def test_a_proxy_is_not_asked_about_this_machine(service: FakeService, nodeobs: Invoke) -> None:
    service.has_run(make_run())
    result = nodeobs(
        "run", "get", "run-1", env={"HTTP_PROXY": "http://127.0.0.1:1", "http_proxy": "http://127.0.0.1:1"}
    )
    assert result.exit_code == 0


@pytest.fixture
def authority(tmp_path: Path) -> trustme.CA:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return authority


@pytest.fixture
def tls_url(authority: trustme.CA) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = as_run(make_run()).body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Nothing of interest."""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign] # a client that does not trust it hangs up
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_tls_is_verified(nodeobs: Invoke, tls_url: str) -> None:
    assert nodeobs("run", "get", "run-1", "--server", tls_url, "--ca-file", "ca.pem").exit_code == 0
    result = nodeobs("run", "get", "run-1", "--server", tls_url)
    assert result.exit_code == 6
    assert "cannot be verified" in result.stderr
    assert "--ca-file" in result.stderr


def test_a_ca_file_that_is_none(nodeobs: Invoke, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("not a certificate")
    result = nodeobs("run", "list", "--server", "https://localhost:1", "--ca-file", "ca.pem")
    assert result.exit_code == 2
    assert "ca.pem" in result.stderr


def test_a_token_over_http_to_another_machine_is_warned_about(nodeobs: Invoke, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(SECRET)
    # 0.0.0.0 reaches this machine and is not a loopback address.
    result = nodeobs("run", "list", "--server", "http://0.0.0.0:1", "--token-file", "token")
    assert "unencrypted" in result.stderr
    assert "unencrypted" not in nodeobs("run", "list", "--server", "http://localhost:1", "--token-file", "token").stderr


def test_an_answer_that_cannot_be_written(service: FakeService) -> None:
    service.lists()
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "nodeobs.cli", "run", "list", "--server", service.url],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert result.returncode == 1
    assert result.stderr == "Error: cannot write the answer to standard output: No space left on device\n"
