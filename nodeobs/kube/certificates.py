"""Keeps the certificate of the webhooks: made, renewed, served by every replica, trusted by the API server."""

from __future__ import annotations

import base64
import binascii
import os
import ssl
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec
import structlog

from nodeobs.errors import AlreadyExists, ConfigurationError, Conflict, NodeobsError, NotFound, StoreUnavailable
from nodeobs.kube.authority import Material, Pair, material_from, mend, names_of, rotate
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import ResourcePath
from nodeobs.kube.publication import Publication
from nodeobs.kube.rbac import TLS_SECRET
from nodeobs.metrics import Metrics
from nodeobs.model import GROUP
from nodeobs.typed import decode

log = structlog.get_logger(__name__)

SECRETS: Final = ResourcePath("/api/v1", "secrets")
MARK: Final = f"{GROUP}/certificate"
"""Label of the Secret: without it, it is somebody else's."""

_ROUND_SECONDS: Final = 30.0
_FIRST_PAUSE_SECONDS: Final = 0.5


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str
    labels: dict[str, str] | None = None


class _Secret(msgspec.Struct, frozen=True):
    metadata: _Meta
    data: dict[str, str] | None = None


class CertificateKeeper:
    """One of the replicas that share a certificate by a Secret; whoever is first makes and renews it.

    Every half minute it reads the Secret, writes certificate and key to ``file`` for the server to pick up, and sees
    to it that the authorities are published. Nothing is made while somebody else's Secret has its name.
    """

    def __init__(  # noqa: PLR0913 - each is named, and a fact of its surroundings
        self,
        client: KubeClient,
        *,
        namespace: str,
        service_name: str,
        webhook_configuration: str,
        crd_names: Sequence[str],
        file: Path,
        metrics: Metrics,
        now: Callable[[], datetime],
        randomness: Random,
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._names = names_of(service_name, namespace)
        self._publication = Publication(
            client, namespace=namespace, webhook_configuration=webhook_configuration, crd_names=crd_names
        )
        self._file = file
        self._metrics = metrics
        self._now = now
        self._randomness = randomness
        self._ready = False

    @property
    def ready(self) -> bool:
        """Whether the certificate was written and its authority published, once."""
        return self._ready

    def run(self, stop: threading.Event) -> None:
        """Keep it until ``stop`` is set: body of a thread."""
        failures = 0
        while not stop.is_set():
            try:
                self.keep()
                failures = 0
            except (AlreadyExists, Conflict):
                failures += 1  # another replica was faster: look at what it made
            except NodeobsError as error:
                failures += 1
                log.warning("the certificate of the webhooks is not in order; trying again", error=str(error))
            except Exception:  # a thread's edge
                failures += 1
                log.exception("keeping the certificate of the webhooks failed; trying again")
                self._metrics.internal_errors.labels("certificates").inc()
            pause = (
                _ROUND_SECONDS if not failures else min(_ROUND_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** min(failures, 9))
            )
            stop.wait(pause * self._randomness.uniform(0.5, 1.0))

    def keep(self) -> None:
        """One round.

        Raises:
            AlreadyExists, Conflict: another replica wrote the Secret just now; another round can help at once.
            ConfigurationError: the Secret is somebody else's, or the file cannot be written.
            StoreUnavailable: the API server cannot be reached, or does not let us.
        """
        secret, material = self._read()
        mended = mend(material, names=self._names, now=self._now())
        if mended is not material:
            self._write(secret, mended, why="no certificate that can be served")
        write_pair(self._file, mended.served)
        self._publication.publish(mended.bundle)
        self._ready = True
        if mended is material:
            rotated = rotate(mended, names=self._names, now=self._now())
            if rotated is not mended:
                self._write(secret, rotated, why="time for the next step of its renewal")

    def _read(self) -> tuple[_Secret | None, Material | None]:
        try:
            body = self._client.get(SECRETS.item(TLS_SECRET, self._namespace))
        except NotFound:
            return None, None
        try:
            secret = decode(body, _Secret)
        except msgspec.DecodeError:
            # Not chained: the decoder's text may show a key.
            raise StoreUnavailable(f"the Secret {self._namespace}/{TLS_SECRET} cannot be read") from None
        if MARK not in (secret.metadata.labels or {}):
            raise ConfigurationError(
                f"the Secret {self._namespace}/{TLS_SECRET} was not made by nodeobs (it has no label {MARK}): delete "
                "it, or mount its certificate and set NODEOBS_TLS_CERT_FILE and NODEOBS_TLS_KEY_FILE"
            )
        return secret, material_from(_decoded(secret.data or {}))

    def _write(self, secret: _Secret | None, material: Material, *, why: str) -> None:
        """Write the Secret if it is still as it was read; the one who comes second gets AlreadyExists or Conflict."""
        data = {
            key: None if value is None else base64.b64encode(value).decode()
            for key, value in material.to_data().items()
        }
        log.info("writing the certificate of the webhooks", secret=f"{self._namespace}/{TLS_SECRET}", why=why)
        if secret is not None:
            metadata: dict[str, Any] = {"resourceVersion": secret.metadata.resource_version}
            path = SECRETS.item(TLS_SECRET, self._namespace)
            self._client.request(
                "PATCH", path, {"metadata": metadata, "data": data}, content_type="application/merge-patch+json"
            )
            return
        document = {
            "metadata": {"name": TLS_SECRET, "labels": {MARK: "webhooks"}},
            "type": "kubernetes.io/tls",
            "data": {key: value for key, value in data.items() if value is not None},
        }
        try:
            self._client.request("POST", SECRETS.collection(self._namespace), document)
        except NotFound as error:
            raise StoreUnavailable(f"there is no namespace {self._namespace}: {error}") from error


def ensure_pair(file: Path, *, service_name: str, namespace: str, now: datetime) -> None:
    """Have some certificate to serve until the shared one is known: the one that is there, else one nobody trusts.

    Raises:
        ConfigurationError: it cannot be written.
    """
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(file, password="")
    except (OSError, ValueError):  # there is none, or it is damaged
        write_pair(file, mend(None, names=names_of(service_name, namespace), now=now).served)


def write_pair(file: Path, pair: Pair) -> None:
    """Write certificate and key as one file, readable to its owner only; one that is right already is left alone.

    Raises:
        ConfigurationError: it cannot be written.
    """
    temporary = file.with_name(f"{file.name}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if file.exists() and file.read_bytes() == pair.pem:
            return
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as opened:
            opened.write(pair.pem)
            opened.flush()
            os.fsync(descriptor)
        temporary.replace(file)
    except OSError as error:
        raise ConfigurationError(f"the certificate cannot be written to {file}: {error}") from error


def _decoded(data: Mapping[str, str]) -> dict[str, bytes]:
    try:
        return {key: base64.b64decode(value, validate=True) for key, value in data.items()}
    except (binascii.Error, ValueError):
        return {}
