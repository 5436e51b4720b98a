"""Where the API server is and who we are to it, kept up to date: what changes on the disk is read again."""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from nodeobs.errors import ConfigurationError
from nodeobs.kube.access import SERVICE_ACCOUNT, Access, ServiceAccount, Source
from nodeobs.kube.proxies import environment_proxy, without_password
from nodeobs.sharedtls import shared_context

log = structlog.get_logger(__name__)

_AHEAD: Final = timedelta(seconds=60)
"""A token is renewed as long before it expires."""
_AGAIN_SECONDS: Final = 10.0
"""An exec plugin, identity provider or file that did not help is not asked again before."""

Stamp = tuple[tuple[int, int, int] | None, ...]


@dataclass(frozen=True)
class Endpoint:
    """How to connect; another object whenever anything in it, or a certificate behind it, has changed."""

    server: str
    """``https://host:port``, perhaps with a path; without a slash at its end."""
    server_name: str
    """Name that the API server's certificate carries where it is not its address; else empty."""
    proxy: str
    """URL of the proxy; or empty."""
    context: ssl.SSLContext


class Credentials:
    """The API server's address, the TLS context and the token to call it with. Safe to be used from many threads.

    Files that change and cannot be used are logged, and what was read before stays in use until it expires.

    Raises:
        ConfigurationError: they cannot be used from the beginning.
    """

    def __init__(
        self,
        open_source: Callable[[], Source],
        *,
        environ: Mapping[str, str],
        now: Callable[[], datetime],
        monotonic: Callable[[], float],
    ) -> None:
        self._open_source = open_source
        self._environ = environ
        self._now = now
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._source = open_source()
        self._problem = ""
        self._reopen = False
        self._watched: tuple[Path, ...] = ()
        self._stamp: Stamp = ()
        self._certificates: object = None
        self._load(self._source)
        self._not_before = 0.0

    @property
    def namespace(self) -> str:
        """Of the service account, or of the kubeconfig's context."""
        return self._source.namespace

    @property
    def server(self) -> str:
        """``https://host:port``, perhaps with a path; without a slash at its end."""
        return self._endpoint.server

    @property
    def server_name(self) -> str:
        """Name that the API server's certificate carries where it is not its address; else empty."""
        return self._endpoint.server_name

    def token(self) -> str:
        """Value for the Authorization header, or empty; renewed where it is about to expire.

        Raises:
            ConfigurationError: it has expired, and cannot be renewed.
        """
        with self._lock:
            self._refresh()
            expires = self._access.expires
            if expires is not None and expires <= self._now():
                raise ConfigurationError(
                    f"the credentials for {self.server} expired at {expires:%Y-%m-%dT%H:%M:%SZ} and cannot be renewed"
                    f"{': ' + self._problem if self._problem else ''}; log in again"
                )
            return self._access.authorization

    def endpoint(self) -> Endpoint:
        """How to connect now."""
        with self._lock:
            self._refresh()
            return self._endpoint

    def context(self) -> ssl.SSLContext:
        """The TLS context for new connections: another object where the files behind it have changed."""
        return self.endpoint().context

    def renew(self, refused: str) -> bool:
        """Read everything again because the API server refuses that authorization; whether there is another now.

        Reads not more often than every 10 s.
        """
        with self._lock:
            endpoint = self._endpoint
            if self._access.authorization == refused and self._monotonic() >= self._not_before:
                self._try_load(reopen=True)
            return self._access.authorization != refused or self._endpoint is not endpoint

    def _refresh(self) -> None:
        changed = self._look() != self._stamp
        expiring = self._access.expires is not None and self._access.expires - _AHEAD <= self._now()
        waited = self._monotonic() >= self._not_before
        if changed or (waited and (self._reopen or expiring)):
            self._try_load(reopen=changed or self._reopen)

    def _try_load(self, *, reopen: bool) -> None:
        self._not_before = self._monotonic() + _AGAIN_SECONDS
        try:
            self._load(self._open_source() if reopen else self._source)
        except ConfigurationError as error:
            log.warning("credentials cannot be read again, the earlier ones stay in use", error=str(error))
            self._problem = str(error)
            self._reopen = reopen
            self._stamp = self._look()
        else:
            self._problem, self._reopen = "", False

    def _load(self, source: Source) -> None:
        """Take over what a source gives, or nothing of it."""
        access = source.load()
        behind = tuple(Path(name) for name in (access.authority, access.certificate, access.key) if name)
        watched = (*source.files, *behind)
        stamp = _stamps(watched)
        proxy = access.proxy or environment_proxy(access.server, self._environ)
        certificates = (access.server, access.server_name, proxy, access.verify, behind, _stamps(behind))
        if certificates != self._certificates:
            if proxy and access.server_name:
                raise ConfigurationError(
                    f"{access.server} cannot be called through a proxy ({without_password(proxy)}) and by another name "
                    f"(tls-server-name {access.server_name}) at once; use an address that its certificate carries"
                )
            self._endpoint = Endpoint(access.server, access.server_name, proxy, _context(access))
        self._source, self._access, self._certificates = source, access, certificates
        self._watched, self._stamp = watched, stamp

    def _look(self) -> Stamp:
        return _stamps(self._watched)


def load_credentials(
    *,
    kubeconfig: Path | None = None,
    context: str | None = None,
    environ: Mapping[str, str],
    service_account: Path = SERVICE_ACCOUNT,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    monotonic: Callable[[], float] = time.monotonic,
) -> Credentials:
    """Credentials from a kubeconfig that is named (here or in ``KUBECONFIG``), the pod, or ``~/.kube/config``.

    Raises:
        ConfigurationError: none of them can be used; says why.
    """
    in_pod = "KUBERNETES_SERVICE_HOST" in environ and (service_account / "token").exists()
    if kubeconfig is None and context is None and in_pod and not environ.get("KUBECONFIG"):
        return Credentials(
            lambda: ServiceAccount(service_account, environ), environ=environ, now=now, monotonic=monotonic
        )
    # Only here: a pod does not need the package behind it, which takes 30 MB.
    from nodeobs.kube.kubeconfig import Kubeconfig

    named = str(kubeconfig or environ.get("KUBECONFIG") or Path(environ.get("HOME", "~")) / ".kube/config")
    files = tuple(Path(part).expanduser() for part in named.split(os.pathsep) if part)
    if not any(path.exists() for path in files):
        raise ConfigurationError(
            f"cannot find the cluster: there is no kubeconfig at {named}, and this is no pod with a service account; "
            "name one with --kubeconfig or KUBECONFIG"
        )
    return Credentials(lambda: Kubeconfig(files, context), environ=environ, now=now, monotonic=monotonic)


def _context(access: Access) -> ssl.SSLContext:
    try:
        context = shared_context(access.authority or None)
        if not access.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if access.certificate:
            context.load_cert_chain(access.certificate, access.key or None, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the certificates for {access.server} cannot be used: {error} (authority "
            f"{access.authority or 'the system'}, client certificate {access.certificate or 'none'})"
        ) from error
    return context


def _stamps(paths: tuple[Path, ...]) -> Stamp:
    return tuple(_stamp(path) for path in paths)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
