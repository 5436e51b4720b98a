"""What `helm test` runs: it passes where the service is as it should be, and else says what is wrong."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import trustme

from charts.generate import CHART

TOKEN = "a-token-of-the-test"


class Service(ThreadingHTTPServer):
    """Answers as the service does; ``ready`` and ``closed`` say how."""

    daemon_threads = True
    ready = True
    closed = True


class Handler(BaseHTTPRequestHandler):
    server: Service

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing on standard error."""

    def do_GET(self) -> None:
        known = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        status = 200
        if self.path == "/readyz" and not self.server.ready:
            status = 503
        if self.path.startswith("/api/") and self.server.closed and not known:
            status = 401
        self.send_response(status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


@contextmanager
def serving(authority: trustme.CA) -> Iterator[Service]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Service(("127.0.0.1", 0), Handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def run(folder: Path, port: int, authority: trustme.CA) -> subprocess.CompletedProcess[str]:
    authority.cert_pem.write_to_path(folder / "ca.crt")
    (folder / "token").write_text(TOKEN)
    environ = {
        **{name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")},
        "SERVICE": f"https://127.0.0.1:{port}",
        "TOKEN_FILE": str(folder / "token"),
        "CA_FILE": str(folder / "ca.crt"),
        "SECONDS": "0",
    }
    argv = [sys.executable, "-c", (CHART / "files/test.py").read_text(encoding="utf-8")]
    return subprocess.run(argv, env=environ, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def test_a_service_that_is_well_passes(tmp_path: Path, authority: trustme.CA) -> None:
    with serving(authority) as service:
        done = run(tmp_path, service.server_port, authority)
    assert done.returncode == 0, done.stderr
    assert "lets nobody in without a token" in done.stdout


def test_a_service_that_is_not_ready_fails(tmp_path: Path, authority: trustme.CA) -> None:
    with serving(authority) as service:
        service.ready = False
        done = run(tmp_path, service.server_port, authority)
    assert done.returncode == 1
    assert "/readyz: 503 and not 200" in done.stderr


def test_a_service_that_lets_everybody_in_fails(tmp_path: Path, authority: trustme.CA) -> None:
    with serving(authority) as service:
        service.closed = False
        done = run(tmp_path, service.server_port, authority)
    assert done.returncode == 1
    assert "/api/v1/runs: 200 and not 401" in done.stderr


def test_a_certificate_of_somebody_elses_fails(tmp_path: Path, authority: trustme.CA) -> None:
    with serving(authority) as service:
        done = run(tmp_path, service.server_port, trustme.CA())
    assert done.returncode == 1
    assert "certificate verify failed" in done.stderr
