"""A way to a Service inside a cluster: ``kubectl port-forward``, which knows every way to reach an API server.

The API server's own proxy to Services is none for us: it drops the Authorization header. The kubernetes package's own
forwarding takes six times as long for the same bytes or more (measured with 64 MB), and forwards one connection.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Final

from nodeobs.cli.failures import ExitCode, Failure, Unavailable

_READY_SECONDS = 30.0
_END_SECONDS = 5.0
_LISTENING: Final = re.compile(rb"Forwarding from 127\.0\.0\.1:(\d+) ->")
_MOST_OUTPUT = 64 * 1024

_GUARD: Final = 'trap "" INT; "$@" </dev/null & exec >&-; read -r _; kill $! 2>/dev/null'
"""Ends kubectl when standard input is closed, which it is however this process ends. Stays at Ctrl-C to do so."""


class Forward:
    """A forwarded port: ``port`` on 127.0.0.1."""

    def __init__(self, port: int, errors: IO[bytes]) -> None:
        self.port = port
        self._errors = errors

    def said(self) -> str:
        """The last thing that kubectl complained about, or empty."""
        return _last_line(self._errors)


@contextmanager
def forwarded(options: Sequence[str], *, namespace: str, service: str, port: int) -> Iterator[Forward]:
    """Forward a port of this machine to ``port`` of a Service, until the end of the block.

    ``options`` are kubectl's own, such as ``--context``.

    Raises:
        Failure: there is no kubectl.
        Unavailable: it cannot forward; has what kubectl said.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        raise Failure(
            "files come through `kubectl port-forward`, and there is no kubectl on the PATH",
            exit_code=ExitCode.UNREACHABLE,
            hint="install kubectl, or make the service reachable and name its URL with --server",
        )
    what = ["port-forward", "--address=127.0.0.1", "--pod-running-timeout=10s", f"service/{service}", f":{port}"]
    argv = [kubectl, *options, f"--namespace={namespace}", *what]
    with tempfile.TemporaryFile() as errors:
        guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "sh", *argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        with guard:
            try:
                yield Forward(_port(guard, errors, service, namespace), errors)
            finally:
                _end(guard)


def _port(guard: subprocess.Popen[bytes], errors: IO[bytes], service: str, namespace: str) -> int:
    """The port, once kubectl has told it."""
    output = guard.stdout
    assert output is not None
    told = b""
    end = time.monotonic() + _READY_SECONDS
    while len(told) < _MOST_OUTPUT:
        ready, _, _ = select.select([output], [], [], max(0.0, end - time.monotonic()))
        chunk = os.read(output.fileno(), 4096) if ready else b""
        told += chunk
        if found := _LISTENING.search(told):
            return int(found[1])
        if not chunk:
            reason = _last_line(errors) or ("it ended without a word" if ready else f"not within {_READY_SECONDS:g} s")
            raise Unavailable(
                f"kubectl cannot forward a port to Service {service} in namespace {namespace}: {reason}",
                hint=f"see whether its pods are ready: `kubectl get pods --namespace {namespace}`; name nodeobs' own "
                "namespace with --service-namespace; there you need the role nodeobs-client, and nodeobs must run in "
                "a pod: elsewhere, name its URL with --server",
            )
    raise Unavailable(f"kubectl port-forward did not tell its port: {told[:200].decode(errors='replace')}")


def _end(guard: subprocess.Popen[bytes]) -> None:
    assert guard.stdin is not None
    guard.stdin.close()
    try:
        guard.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        guard.kill()


def _last_line(errors: IO[bytes]) -> str:
    number = errors.fileno()
    size = os.fstat(number).st_size
    # Not by seeking: kubectl has the same position in it.
    lines = os.pread(number, 2000, max(0, size - 2000)).decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
