"""A service that the API server calls back: it converts, and decides as the test says."""

from __future__ import annotations

import json
import secrets
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import trustme

from nodeobs.errors import NodeobsError
from nodeobs.kube.client import KubeClient
from nodeobs.kube.crds import CONVERT_PATH, Webhook, crds
from nodeobs.kube.manifests import VALIDATE_PATH
from nodeobs.model import GROUP
from nodeobs.model.versions import convert_review
from tests.custom_resources import clear, install
from tests.processes import wait_for

MANAGER = "nodeobs-tests"
"""Whose the definitions are while they convert."""

_OBSERVABILITIES = f"/apis/{GROUP}/v1beta1/nodeobservabilities"

Json = dict[str, Any]
Decide = Callable[[Json], str]
"""Why an admission request is refused; empty where it is not."""


class Webhooks:
    """What was asked, and where."""

    def __init__(self, url: str, authority: bytes) -> None:
        self.webhook = Webhook(url=url, ca_bundle=authority)
        self.admissions: list[Json] = []
        self.decide: Decide = lambda request: ""
        self.away = threading.Event()
        """While set, nothing is answered but 404."""

    def answer(self, path: str, review: Json) -> Json | None:
        """Answer to a review; None where there is nothing."""
        if self.away.is_set():
            return None
        if path == CONVERT_PATH:
            return convert_review(review)
        if path == VALIDATE_PATH:
            self.admissions.append(review["request"])
            why = self.decide(review["request"])
            response = {"uid": review["request"]["uid"], "allowed": not why, "status": {"message": why}}
            return {"apiVersion": review["apiVersion"], "kind": review["kind"], "response": response}
        return None


@contextmanager
def webhooks() -> Iterator[Webhooks]:
    """Serve on loopback by HTTPS until the end."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    server = _Server(("127.0.0.1", 0), _Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.webhooks = Webhooks(f"https://127.0.0.1:{server.server_port}", authority.cert_pem.bytes())
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server.webhooks
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def converted(client: KubeClient, webhook: Webhook) -> Iterator[None]:
    """Have the definitions convert by that webhook; without conversion, and no objects, afterwards."""
    for definition in crds(webhook=webhook):
        _apply(client, definition)
    try:
        wait_for("conversion is in use", lambda: _converts(client))
        yield
    finally:
        clear(client)
        for item in json.loads(client.get(_OBSERVABILITIES))["items"]:
            client.request("DELETE", f"{_OBSERVABILITIES}/{item['metadata']['name']}")
        install(client)


def _apply(client: KubeClient, document: Json) -> None:
    at = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{document['metadata']['name']}"
    params = {"fieldManager": MANAGER, "force": "true"}
    client.request("PATCH", at, document, params=params, content_type="application/apply-patch+yaml")


def _converts(client: KubeClient) -> bool:
    """Definitions take effect a little after they are written."""
    name = f"probe-{secrets.token_hex(4)}"
    known = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "NodeObservability", "metadata": {"name": name}}
    try:
        client.request(
            "POST", _OBSERVABILITIES.replace("v1beta1", "v1alpha1"), known | {"spec": {"labels": {"a": "b"}}}
        )
        try:
            stored = json.loads(client.get(f"{_OBSERVABILITIES}/{name}"))
            return bool(stored["spec"]["nodeSelector"] == {"a": "b"})
        finally:
            client.request("DELETE", f"{_OBSERVABILITIES}/{name}")
    except NodeobsError:
        return False


class _Server(ThreadingHTTPServer):
    webhooks: Webhooks
    daemon_threads = True
    request_queue_size = 64


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        answer = self.server.webhooks.answer(self.path.partition("?")[0], json.loads(body))
        content = json.dumps(answer).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass
