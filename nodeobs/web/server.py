"""How gunicorn serves the application: one process for requests and Runs, with threads."""

from __future__ import annotations

import resource
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from nodeobs.settings import Settings
from nodeobs.web.services import THREADS

APPLICATION: Final = "nodeobs.web.composition:application()"

_MAX_FILES = 65_536
_MAX_CONNECTIONS = 8192
_RESERVED_FILES = 512
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 the worker's heartbeat file; a disk may block
_KEEPALIVE_SECONDS = 310
"""Above the idle time of those who call us: Alertmanager keeps a connection for 5 minutes, an API server for 90 s."""


def gunicorn_settings(settings: Settings) -> dict[str, Any]:
    """Gunicorn's settings by name. One worker: metrics and the driver of Runs live in one process."""
    return {
        "bind": [settings.bind],
        "workers": 1,
        "worker_class": "nodeobs.web.worker.Worker",
        "threads": THREADS,
        "worker_connections": min(_MAX_CONNECTIONS, _raise_file_limit() - _RESERVED_FILES),
        "backlog": 4096,
        "keepalive": _KEEPALIVE_SECONDS,
        "timeout": 60,
        "graceful_timeout": 5,
        "max_requests": 0,
        "preload_app": False,
        "control_socket_disable": True,
        "worker_tmp_dir": str(_SHARED_MEMORY) if _SHARED_MEMORY.is_dir() else None,
        "certfile": str(settings.tls_cert_file) if settings.tls_cert_file else None,
        "keyfile": str(settings.tls_key_file) if settings.tls_key_file else None,
        "ssl_context": _tls_context,
        "loglevel": settings.log_level,
        "logger_class": "nodeobs.web.logs.GunicornLogger",
    }


def _tls_context(_: Any, default: Callable[[], ssl.SSLContext]) -> ssl.SSLContext:
    """Context for one connection: made anew each time, so that a rotated certificate is picked up."""
    context = default()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _raise_file_limit() -> int:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, _MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return _MAX_FILES if soft == resource.RLIM_INFINITY else soft
