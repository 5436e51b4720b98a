"""Where the API server is and who we are to it: a kubeconfig, or the pod's service account.

The ``kubernetes`` package reads both, runs exec plugins and refreshes OIDC tokens; what changes on the disk is read
again.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import yaml
from kubernetes.client import Configuration
from kubernetes.config import ConfigException
from kubernetes.config.incluster_config import InClusterConfigLoader
from kubernetes.config.kube_config import load_kube_config

from nodeobs.errors import ConfigurationError

SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Stamp = tuple[tuple[int, int, int] | None, ...]


class Credentials:
    """The API server's address, the TLS context and the token to call it with. Safe to be used from many threads.

    Raises:
        ConfigurationError: there is no kubeconfig and no service account, or they cannot be used.
    """

    def __init__(self, load: Callable[[], Configuration], *, files: tuple[Path, ...], namespace: str) -> None:
        self._load = load
        self._files = files
        self._lock = threading.Lock()
        self.namespace = namespace
        """Of the service account, or of the kubeconfig's context."""
        self._read()

    @property
    def server(self) -> str:
        """``https://host:port``, without a slash at its end."""
        return str(self._configuration.host).rstrip("/")

    def token(self) -> str:
        """Value for the Authorization header, or empty; refreshed where it is about to expire.

        Raises:
            ConfigurationError: it cannot be refreshed.
        """
        with self._lock:
            self._reread()
            try:
                # The package's hook refreshes it: from the service account's file, by OIDC, or by the exec plugin.
                return self._configuration.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
            except Exception as error:  # the package, and what it uses for OIDC, raise what they like
                raise ConfigurationError(f"the credentials for {self.server} cannot be refreshed: {error}") from error

    def context(self) -> ssl.SSLContext:
        """The TLS context for new connections: another object where the files behind it have changed."""
        with self._lock:
            self._reread()
            return self._context

    @property
    def server_name(self) -> str:
        """Name that the API server's certificate carries where it is not its address; else empty."""
        return str(self._configuration.tls_server_name or "")

    def _reread(self) -> None:
        stamp = self._look()
        if stamp != self._stamp:
            self._read()

    def _read(self) -> None:
        self._configuration = self._load()
        found = self._configuration
        named = (found.ssl_ca_cert, found.cert_file, found.key_file)
        self._watched = (*self._files, *(Path(name) for name in named if name))
        self._stamp = self._look()
        self._context = _context(found)

    def _look(self) -> Stamp:
        return tuple(_stamp(path) for path in self._watched)


def load_credentials(
    *,
    kubeconfig: Path | None = None,
    context: str | None = None,
    environ: Mapping[str, str],
    service_account: Path = SERVICE_ACCOUNT,
) -> Credentials:
    """Credentials from a kubeconfig that is named (here or in ``KUBECONFIG``), the pod, or ``~/.kube/config``.

    Raises:
        ConfigurationError: none of them can be used; says why.
    """
    in_pod = "KUBERNETES_SERVICE_HOST" in environ and (service_account / "token").exists()
    if kubeconfig is None and context is None and in_pod and not environ.get("KUBECONFIG"):
        return _in_cluster(environ, service_account)
    named = str(kubeconfig or environ.get("KUBECONFIG") or Path(environ.get("HOME", "~")) / ".kube/config")
    files = tuple(Path(part) for part in named.split(os.pathsep) if part)
    if not any(path.exists() for path in files):
        raise ConfigurationError(
            f"cannot find the cluster: there is no kubeconfig at {named}, and this is no pod with a service account; "
            "name one with --kubeconfig or KUBECONFIG"
        )

    def load() -> Configuration:
        configuration = Configuration()
        try:
            load_kube_config(named, context=context, client_configuration=configuration, persist_config=False)
        except (ConfigException, yaml.YAMLError, OSError, TypeError, ValueError, KeyError) as error:
            raise ConfigurationError(f"the kubeconfig {named} cannot be used: {error}") from error
        return configuration

    return Credentials(load, files=files, namespace=_namespace_of(files, context))


def _in_cluster(environ: Mapping[str, str], service_account: Path) -> Credentials:
    token, authority = service_account / "token", service_account / "ca.crt"

    def load() -> Configuration:
        configuration = Configuration()
        try:
            InClusterConfigLoader(str(token), str(authority), environ=environ).load_and_set(configuration)
        except (ConfigException, OSError) as error:
            raise ConfigurationError(f"the pod's service account cannot be used: {error}") from error
        return configuration

    try:
        namespace = (service_account / "namespace").read_text(encoding="utf-8").strip()
    except OSError:
        namespace = "default"
    return Credentials(load, files=(token,), namespace=namespace)


def _context(configuration: Configuration) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
        if not configuration.verify_ssl:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if configuration.cert_file:
            context.load_cert_chain(configuration.cert_file, configuration.key_file or None, password="")
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the certificates for {configuration.host} cannot be used: {error} (authority "
            f"{configuration.ssl_ca_cert or 'the system'}, client certificate {configuration.cert_file or 'none'})"
        ) from error
    return context


def _namespace_of(files: tuple[Path, ...], context: str | None) -> str:
    """Namespace of the context that is in force; ``default`` where it names none."""
    wanted: str | None = context
    contexts: dict[str, dict[str, str]] = {}
    for path in files:
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
            wanted = wanted or document.get("current-context")
            for entry in document.get("contexts") or ():
                contexts.setdefault(entry["name"], entry.get("context") or {})
        except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError):
            continue  # what is wrong with it is said by whoever loads it
    return str(contexts.get(wanted or "", {}).get("namespace") or "default")


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
