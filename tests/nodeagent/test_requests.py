"""Rubbish, and callers that dawdle: always a clear answer, never a 500, nothing started."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nodeagent.helpers import AgentProcess, eventually

QUICK = settings(max_examples=100, deadline=None)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
FIELDS = st.sampled_from(["id", "targets", "profiles", "durationSeconds", "startAt", "sentAt", "more"])


@pytest.fixture(scope="module")
def untouched(shared_agent: AgentProcess) -> Iterator[AgentProcess]:
    """An agent whose requests are all refused: nothing was started when the tests are over."""
    yield shared_agent
    assert shared_agent.sample('nodeobs_agent_pieces_total{reason="",result="success",target="api"}') == 0
    assert shared_agent.sample("nodeobs_agent_internal_errors_total") == 0


def refused(agent: AgentProcess, body: bytes) -> dict[str, Any]:
    answer = agent.client.post("/v1/collections", content=body)
    assert answer.status_code == 400, (body, answer.text)
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == 400
    assert found["detail"]
    return found


@QUICK
@given(st.binary(max_size=200))
def test_bytes_that_are_no_request(untouched: AgentProcess, body: bytes) -> None:
    refused(untouched, body)


@QUICK
@given(st.dictionaries(FIELDS, JSON, max_size=5))
def test_json_that_is_no_request(untouched: AgentProcess, document: dict[str, Any]) -> None:
    # Without a usable id nothing can be started, whatever the rest is.
    document["id"] = document.get("id") if not isinstance(document.get("id"), str) else f"/{document['id']}"
    refused(untouched, json.dumps(document).encode())


@pytest.mark.parametrize(
    ("body", "part"),
    [
        (b'{"id":"a"', "truncated"),
        (b'{"id":"../a"}', "/id"),
        (b'{"id":"a/b"}', "/id"),
        (b'{"id":".hidden"}', "/id"),
        (b'{"id":"a\\u0000"}', "/id"),
        (b'{"id":"' + b"x" * 300 + b'"}', "/id"),
        (b'{"id":"a","durationSeconds":0}', "/durationSeconds"),
        (b'{"id":"a","durationSeconds":3601}', "/durationSeconds"),
        (b'{"id":"a","profiles":[]}', "/profiles"),
        (b'{"id":"a","profiles":["cmdline"]}', "/profiles"),
        (b'{"id":"a","targets":["http://169.254.169.254/"]}', "/targets"),
        (b'{"id":"a","startAt":"tomorrow"}', "/startAt"),
        (b'{"id":"a","startAt":"2026-01-01T00:00:00"}', "/startAt"),
        (b"[" * 60_000, ""),
    ],
)
def test_what_is_wrong_is_said(untouched: AgentProcess, body: bytes, part: str) -> None:
    assert part in refused(untouched, body)["detail"]


def test_a_body_too_large_is_not_read(untouched: AgentProcess) -> None:
    def endless() -> Iterator[bytes]:
        yield from (b"x" * 65_536 for _ in range(40))

    for body in (b"x" * 10_000_000, endless()):
        with contextlib.suppress(OSError):
            answer = untouched.client.post("/v1/collections", content=body)
            assert answer.status_code == 413
    assert untouched.client.get("/readyz").status_code == 200


@QUICK
@given(
    path=st.binary(max_size=60),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "BREW"]),
    prefix=st.sampled_from(["/", "/v1/", "/v1/collections/", "/v1/collections/a/files/", "/debug/"]),
)
def test_any_path_has_a_defined_answer(untouched: AgentProcess, method: str, prefix: str, path: bytes) -> None:
    answer = untouched.client.request(method, prefix + quote(path))
    assert answer.status_code in (200, 204, 404, 405), answer.text


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/collections", "POST"),
        ("PUT", "/v1/collections/run-1", "DELETE, GET"),
        ("POST", "/v1/collections/run-1/files/a", "GET"),
        ("POST", "/metrics", "GET"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(untouched: AgentProcess, method: str, path: str, allowed: str) -> None:
    answer = untouched.client.request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize(
    "raw", [b"\r\n\r\n", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"x" * 99_999]
)
def test_what_is_no_http_is_closed(untouched: AgentProcess, raw: bytes) -> None:
    with connection(untouched) as sock, contextlib.suppress(OSError):
        sock.sendall(raw)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass
    assert untouched.client.get("/readyz").status_code == 200


def connection(agent: AgentProcess) -> socket.socket:
    host, _, port = agent.url.removeprefix("http://").partition(":")
    sock = socket.create_connection((host, int(port)), timeout=30)
    sock.settimeout(60)
    return sock


@pytest.mark.slow
def test_a_thousand_idle_and_half_sent_connections_stall_nothing_and_are_closed(untouched: AgentProcess) -> None:
    half_sent = [
        b"GET /v1/coll",
        b"POST /v1/collections HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n",
        b"POST /v1/collections HTTP/1.1\r\nHost: a\r\nContent-Length: 99\r\n\r\n{",
        b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\nGET /rea",
    ]
    with contextlib.ExitStack() as stack:
        dawdlers = [stack.enter_context(connection(untouched)) for _ in range(1000)]
        for index, sock in enumerate(dawdlers[:100]):
            sock.sendall(half_sent[index % len(half_sent)])
        began = time.monotonic()
        for _ in range(20):
            assert untouched.client.get("/readyz").status_code == 200
        assert time.monotonic() - began < 10
        # All of them at once, each in its own time: a reader per kind is enough.
        watched = [*dawdlers[: len(half_sent)], dawdlers[-1]]
        closed = [threading.Thread(target=read_to_end, args=(sock,)) for sock in watched]
        for thread in closed:
            thread.start()
        for thread in closed:
            thread.join(60)
        assert not any(thread.is_alive() for thread in closed)
    eventually(lambda: untouched.sample("process_open_fds") < 60, "every connection is closed")


def read_to_end(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        while sock.recv(4096):
            pass
