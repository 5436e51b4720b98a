"""How gunicorn serves the application: one process for requests and Runs, with threads."""

from __future__ import annotations

import resource
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nodeobs.errors import ConfigurationError
from nodeobs.settings import Settings
from nodeobs.web.certificate import ServedCertificate
from nodeobs.web.services import THREADS

APPLICATION: Final = "nodeobs.web.composition:application()"

_MAX_FILES = 65_536
_MAX_CONNECTIONS = 8192
_RESERVED_FILES = 512
_FEWEST_CONNECTIONS = 64
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 the worker's heartbeat file; a disk may block
_KEEPALIVE_SECONDS = 310
"""Above the idle time of those who call us: Alertmanager keeps a connection for 5 minutes, an API server for 90 s."""


def gunicorn_settings(settings: Settings) -> dict[str, Any]:
    """Gunicorn's settings by name. One worker: metrics and the driver of Runs live in one process.

    Raises:
        ConfigurationError: the certificate or its key cannot be used, or the process may open too few files.
    """
    return {
        "bind": [settings.bind],
        "workers": 1,
        "worker_class": "nodeobs.web.worker.Worker",
        "threads": THREADS,
        "worker_connections": _connections(agents=len(settings.agents)),
        "backlog": 4096,
        "keepalive": _KEEPALIVE_SECONDS,
        "timeout": 60,
        "graceful_timeout": 5,
        "max_requests": 0,
        "preload_app": False,
        "control_socket_disable": True,
        "worker_tmp_dir": str(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None,
        "loglevel": settings.log_level,
        "logger_class": "nodeobs.web.logs.GunicornLogger",
    } | _tls(settings)


def own_certificate(settings: Settings) -> Path | None:
    """File of the certificate, with its key, that the service keeps itself; None where it does not."""
    if settings.mode == "standalone" or settings.tls_cert_file is not None:
        return None
    return settings.data_dir / "tls" / "tls.pem"


def _tls(settings: Settings) -> dict[str, Any]:
    cert_file, key_file = settings.tls_cert_file, settings.tls_key_file
    own = own_certificate(settings)
    if own is not None:
        # Imported where it is needed: standalone, nobody makes certificates, and it takes 16 MB.
        from nodeobs.kube.certificates import ensure_pair

        ensure_pair(own, service_name=settings.service_name, namespace=settings.namespace, now=datetime.now(UTC))
        cert_file = key_file = own
    if cert_file is None or key_file is None:
        return {}
    certificate = ServedCertificate(cert_file, key_file)
    return {
        "certfile": str(cert_file),
        "keyfile": str(key_file),
        "ssl_context": lambda _config, _default: certificate.context(),
    }


def _connections(*, agents: int) -> int:
    """How many connections to have at most: each is a file, and so is the one to each agent while a Run goes."""
    limit, needed = _raise_file_limit(), _RESERVED_FILES + agents
    if limit < needed + _FEWEST_CONNECTIONS:
        raise ConfigurationError(
            f"this process may open {limit} files at once, and with {agents} agents needs "
            f"{needed + _FEWEST_CONNECTIONS}: raise its hard limit (ulimit -Hn, LimitNOFILE= of systemd)"
        )
    return min(_MAX_CONNECTIONS, limit - needed)


def _raise_file_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MAX_FILES if soft == resource.RLIM_INFINITY else soft
