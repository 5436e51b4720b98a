"""The service as a client sees it: one method per call of its HTTP API, every failure typed.

Answers are bounded and validated; what a hostile or broken server sends ends as a :class:`Failure`.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx

from nodeobs.cli.failures import ExitCode, Failure, Unavailable
from nodeobs.cli.problems import failure_of, not_ours
from nodeobs.errors import InvalidInput
from nodeobs.model import Document, NodeObservability, Run, decode_json, encode_json
from nodeobs.outputs.manifest import Manifest

MAX_DOCUMENT_BYTES = 256 * 1024 * 1024
"""Of one JSON answer: a list of a hundred Runs over 5,000 nodes each stays below."""
MAX_PROBLEM_BYTES = 64 * 1024
UNREACHABLE_HINT = "start it with `nodeobs serve`, or name another with --server"
ANSWER_SECONDS = 15.0
"""How long an answer may take beyond what was asked to wait."""

D = TypeVar("D")


class RunRef(NamedTuple):
    """Which Run."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class RunList(Document, frozen=True, kw_only=True):
    """Answer to ``GET /api/v1/runs``."""

    items: tuple[Run, ...]


class ObservabilityList(Document, frozen=True, kw_only=True):
    """Answer to ``GET /api/v1/nodeobservabilities``."""

    items: tuple[NodeObservability, ...]


class Service:
    """A connection to the service: a :class:`nodeobs.cli.backend.Backend`. Close it when done.

    Raises (every call): ``Unavailable`` where the service cannot be reached or answer, ``Failure`` where it refuses or
    answers nonsense; ``exit_code`` tells which.
    """

    namespace = ""

    def __init__(
        self,
        url: str,
        *,
        token: str = "",
        trust: ssl.SSLContext | None = None,
        server_name: str = "",
        unreachable_hint: str = UNREACHABLE_HINT,
    ) -> None:
        """``trust`` is for https: without it, no certificate is trusted.

        ``server_name`` is the name in its certificate where that is not the URL's host.
        """
        self.url = url.rstrip("/")
        self._unreachable_hint = unreachable_hint
        self._extensions = {"sni_hostname": server_name} if server_name else {}
        self._offset = timedelta()
        self._http = httpx.Client(
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=5.0),
            verify=trust or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
            trust_env=not is_loopback(
                urlsplit(self.url).hostname or ""
            ),  # a proxy for the world is none for this machine
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def now(self) -> datetime:
        """The service's clock, as its last answer told it (to the second)."""
        return datetime.now(UTC) + self._offset

    def runs(self, **filters: str) -> tuple[Run, ...]:
        """Runs, newest first; ``filters`` are namespace, nodeObservability, phase, limit."""
        return self._document(f"/api/v1/runs?{urlencode(filters)}", RunList).items

    def run(self, ref: RunRef, *, wait: float = 0.0, version: str = "") -> Run:
        """The Run; with ``wait`` (seconds) and ``version``, as soon as it differs from that resourceVersion."""
        query = f"?{urlencode({'wait': int(wait), 'resourceVersion': version})}" if version and wait >= 1 else ""
        return self._document(f"/api/v1/runs/{ref.namespace}/{ref.name}{query}", Run, wait=wait)

    def start(self, document: Mapping[str, Any]) -> Run:
        """Create a Run."""
        return self._document("/api/v1/runs", Run, method="POST", content=encode_json(document))

    def cancel(self, ref: RunRef) -> Run:
        """Ask for the Run's end."""
        return self._document(f"/api/v1/runs/{ref.namespace}/{ref.name}/cancel", Run, method="POST")

    def delete(self, ref: RunRef) -> Run | None:
        """Delete the Run; None when it is gone, the Run where it is cancelled first."""
        path = f"/api/v1/runs/{ref.namespace}/{ref.name}"
        with self._open(path, method="DELETE") as answer:
            body = _read(answer, MAX_DOCUMENT_BYTES)
        return self._decode(path, body, Run) if answer.status_code == 202 else None

    def observabilities(self) -> tuple[NodeObservability, ...]:
        """Every NodeObservability."""
        return self._document("/api/v1/nodeobservabilities", ObservabilityList).items

    def outputs(self) -> Service:
        """Itself, which has the outputs too."""
        return self

    def manifest(self, ref: RunRef) -> Manifest:
        """What the Run left behind."""
        return self._document(f"/api/v1/runs/{ref.namespace}/{ref.name}/output", Manifest)

    def file(self, ref: RunRef, name: str, *, max_bytes: int) -> bytes:
        """One file of the output, by its name in the manifest."""
        with self._open(f"/api/v1/runs/{ref.namespace}/{ref.name}/output/{name}") as answer:
            return _read(answer, max_bytes)

    @contextmanager
    def archive(self, ref: RunRef) -> Iterator[Iterator[bytes]]:
        """The whole output as a tar.gz, in chunks."""
        with self._open(f"/api/v1/runs/{ref.namespace}/{ref.name}/output.tar.gz") as answer:
            yield answer.iter_bytes()

    @contextmanager
    def _open(
        self, path: str, *, method: str = "GET", content: bytes | None = None, wait: float = 0.0
    ) -> Iterator[httpx.Response]:
        """An answer of status 2xx, its body still to be read."""
        headers = {"Content-Type": "application/json"} if content is not None else {}
        timeout = httpx.Timeout(ANSWER_SECONDS + wait, connect=5.0)
        try:
            with self._http.stream(
                method,
                self.url + path,
                content=content,
                headers=headers,
                timeout=timeout,
                extensions=self._extensions,
            ) as answer:
                self._set_clock(answer)
                if not answer.is_success:
                    raise failure_of(answer.status_code, _read(answer, MAX_PROBLEM_BYTES, cut=True), url=self.url)
                yield answer
        except httpx.ConnectError as error:
            raise self._unreachable(error) from error
        except httpx.TimeoutException as error:
            raise Unavailable(f"no answer from the service at {self.url} in time ({type(error).__name__})") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"the connection to the service at {self.url} failed: {error}") from error

    def _document(
        self, path: str, kind: type[D], *, method: str = "GET", content: bytes | None = None, wait: float = 0.0
    ) -> D:
        with self._open(path, method=method, content=content, wait=wait) as answer:
            body = _read(answer, MAX_DOCUMENT_BYTES)
        return self._decode(path, body, kind)

    def _decode(self, path: str, body: bytes, kind: type[D]) -> D:
        try:
            return decode_json(body, kind)
        except InvalidInput as error:
            raise not_ours(self.url, path, str(error)) from error

    def _unreachable(self, error: httpx.ConnectError) -> Unavailable:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            return Unavailable(
                f"the certificate of {self.url} cannot be verified: {error}",
                hint="name the authority that signed it with --ca-file",
            )
        return Unavailable(f"cannot reach the service at {self.url}: {error}", hint=self._unreachable_hint)

    def _set_clock(self, answer: httpx.Response) -> None:
        try:
            told = parsedate_to_datetime(answer.headers.get("Date", ""))
        except ValueError:
            return
        if told.tzinfo is not None:
            self._offset = told - datetime.now(UTC)


def is_loopback(host: str) -> bool:
    """Whether the host of a URL is this machine."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def trust_of(ca_file: Path | None) -> ssl.SSLContext:
    """Trust in the authorities of that file, or the system's.

    Raises:
        Failure: the file holds none, or cannot be read.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise Failure(
            f"cannot read certificates from --ca-file {ca_file}: {error}", exit_code=ExitCode.USAGE
        ) from error


def _read(answer: httpx.Response, limit: int, *, cut: bool = False) -> bytes:
    body = bytearray()
    for chunk in answer.iter_bytes():
        body += chunk
        if len(body) > limit:
            if cut:
                return bytes(body[:limit])
            raise Failure(f"{answer.url.path} is more than {limit} bytes long; it was not read to its end")
    return bytes(body)
