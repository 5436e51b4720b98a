"""The two reviews of an API server, on loopback over plain HTTP: users by token, rights by user. It records them.

It misbehaves as it is told: ``failing`` is a status, or bytes that it answers with 201; ``held`` keeps every review
waiting until it is set.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final, Self

OWN_TOKEN: Final = "own-token"
"""Of whoever asks for reviews."""


class ReviewServer:
    """The server. ``users``: token to user name; ``audiences``: token to what it is for; ``rights``: what users may."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.audiences: dict[str, list[str]] = {}
        self.rights: set[tuple[str, ...]] = set()
        """``(user, verb, path)``, or ``(user, verb, resource[/subresource], namespace, name)``."""
        self.failing: int | bytes | None = None
        self.held: threading.Event | None = None
        self.tokens: list[dict[str, Any]] = []
        """Specs of the TokenReviews that came."""
        self.accesses: list[dict[str, Any]] = []
        """Specs of the SubjectAccessReviews that came."""
        self._server = _Server(("127.0.0.1", 0), type("BoundHandler", (_Handler,), {"reviews": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), name="review server")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def asked(self) -> int:
        return len(self.tokens) + len(self.accesses)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.held is not None:
            self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def kubeconfig(self, path: Path) -> Path:
        """A kubeconfig that leads here."""
        document = {
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": self.url}}],
            "users": [{"name": "fake", "user": {"token": OWN_TOKEN}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        path.write_text(json.dumps(document))
        return path

    def answer(self, path: str, spec: dict[str, Any]) -> dict[str, Any]:
        """The status of a review."""
        if path.endswith("/tokenreviews"):
            self.tokens.append(spec)
            return self._token_status(spec)
        self.accesses.append(spec)
        return {"allowed": self._allowed(spec), "reason": ""}

    def _token_status(self, spec: dict[str, Any]) -> dict[str, Any]:
        asked = spec.get("audiences", [])
        found = [name for name in self.audiences.get(spec["token"], []) if name in asked]
        user = self.users.get(spec["token"])
        if user is None or (asked and not found):
            return {"user": {}, "error": "[invalid bearer token, token lookup failed]"}
        info = {"username": user, "uid": f"uid-of-{user}", "groups": ["staff"], "extra": {"scope": ["a", "b"]}}
        return {"authenticated": True, "user": info, "audiences": found}

    def _allowed(self, spec: dict[str, Any]) -> bool:
        if path := spec.get("nonResourceAttributes"):
            return (spec["user"], path["verb"], path["path"]) in self.rights
        about = spec["resourceAttributes"]
        resource = "/".join(filter(None, (about["resource"], about.get("subresource"))))
        wanted = (spec["user"], about["verb"], resource, about.get("namespace", ""), about.get("name", ""))
        return wanted in self.rights


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    reviews: ReviewServer

    def do_POST(self) -> None:
        self.close_connection = True
        document = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.headers["Authorization"] != f"Bearer {OWN_TOKEN}":
            self._send(401, b'{"kind":"Status","message":"Unauthorized"}')
            return
        status = self.reviews.answer(self.path, document["spec"])
        if self.reviews.held is not None:
            self.reviews.held.wait(60)
        failing = self.reviews.failing
        if isinstance(failing, int):
            self._send(failing, b'{"kind":"Status","message":"out of order"}')
        else:
            self._send(201, json.dumps({**document, "status": status}).encode() if failing is None else failing)

    def _send(self, code: int, body: bytes) -> None:
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""
