"""A service that records what it is asked, on loopback, and a way to run the command line against it."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from click.testing import CliRunner, Result

from nodeobs.cli import main
from nodeobs.model import API_VERSION, Run, to_builtins


@dataclass(frozen=True)
class Asked:
    """A request as it came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What is answered; ``hold`` is waited for before (with ``held`` told), ``cut`` ends the body early."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    hold: threading.Event | None = None
    held: threading.Event | None = None
    cut: bool = False
    """Promise one byte more than there is."""


def as_json(document: object, status: int = 200, **options: Any) -> Answer:
    """Answer with that document."""
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/json"}, **options)


def as_run(run: Run, status: int = 200, **options: Any) -> Answer:
    """Answer with that Run."""
    return as_json({"apiVersion": API_VERSION, "kind": Run.KIND, **to_builtins(run)}, status, **options)


def as_problem(status: int, detail: str, **members: Any) -> Answer:
    """Answer with a problem document."""
    document = {"type": "about:blank", "title": "Problem", "status": status, "detail": detail, **members}
    return Answer(status, json.dumps(document).encode(), {"Content-Type": "application/problem+json"})


class FakeService:
    """Answers each method and path with its answers in turn, the last one for ever; 404 for the rest."""

    def __init__(self, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> None:
        self.asked: list[Asked] = []
        self._answers: dict[tuple[str, str], list[Answer]] = {}
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer((host, 0), self._handler())
        if tls is not None:
            # The handshake is the connection's own thread's: a client that does not trust us holds nobody up.
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients may hang up as they like
        self._server.daemon_threads = False
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self._answers[method, path] = list(answers)

    def has_run(self, *states: Run) -> None:
        """A Run that goes through these states, one an answer; it is the only one in the list."""
        path = f"/api/v1/runs/{states[-1].metadata.namespace}/{states[-1].metadata.name}"
        self.on("GET", path, *(as_run(state) for state in states))
        self.lists(states[-1])

    def lists(self, *runs: Run) -> None:
        self.on("GET", "/api/v1/runs", as_json({"items": [to_builtins(run) for run in runs]}))

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _next(self, asked: Asked) -> Answer:
        with self._lock:
            self.asked.append(asked)
            answers = self._answers.get((asked.method, asked.path))
            if not answers:
                return as_problem(404, f"no {asked.path} here")
            return answers.pop(0) if len(answers) > 1 else answers[0]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        service = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
                answer = service._next(Asked(self.command, parts.path, query, dict(self.headers), body))
                if answer.held:
                    answer.held.set()
                if answer.hold:
                    answer.hold.wait(20)
                self.send_response_only(answer.status)  # no Date but the test's own
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(answer.body) + answer.cut))
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_DELETE = _answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Tests look at what was recorded."""

        return Handler


@pytest.fixture
def service() -> Iterator[FakeService]:
    fake = FakeService()
    yield fake
    fake.close()


Invoke = Callable[..., Result]


@pytest.fixture
def nodeobs(service: FakeService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Run ``nodeobs`` with these arguments against the fake, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def invoke(*arguments: str, env: Mapping[str, str] | None = None) -> Result:
        environ = {"NODEOBS_SERVER": service.url, "NODEOBS_TOKEN_FILE": None, "NODEOBS_NAMESPACE": None}
        return CliRunner().invoke(main, arguments, env=environ | dict(env or {}), catch_exceptions=False)

    return invoke
