"""Following a Run to its end, and which Run a person means."""

from __future__ import annotations

import enum
import time
from collections.abc import Iterator

from nodeobs.cli.backend import Backend
from nodeobs.cli.failures import ExitCode, Failure, Unavailable
from nodeobs.cli.service import RunRef
from nodeobs.errors import InvalidInput
from nodeobs.model import DnsName, NamespaceName, Phase, Run, from_builtins

POLL_SECONDS = 25.0
"""How long the service is asked to hold an answer back while nothing changes."""
PATIENCE_SECONDS = 60.0
"""How long the service may be away (a restart, a new leader) while a Run is followed."""
_PAUSE_SECONDS = 0.5

LATEST = "latest"

DEFAULT_NAMESPACE = "nodeobs"
"""Of a name alone, where the service has no say in it."""


class Latest(enum.Enum):
    """What ``latest`` may be; the value names it in a message."""

    ANY = "Run"
    FINISHED = "finished Run"
    DELIVERED = "Run that delivered anything"

    def filters(self) -> dict[str, str]:
        """What to ask the service for, so that the answer is short."""
        among = {
            Latest.ANY: {"limit": "1"},
            Latest.FINISHED: {},
            Latest.DELIVERED: {"phase": "Succeeded", "limit": "1"},
        }
        return among[self]

    def fits(self, run: Run) -> bool:
        """Whether the Run may be meant."""
        phase = run.status.phase
        return self is Latest.ANY or phase is Phase.SUCCEEDED or (self is Latest.FINISHED and phase.final)


def find(service: Backend, name: str, namespace: str, *, latest: Latest, listing: str) -> RunRef:
    """The Run meant by ``NAMESPACE/NAME``, ``NAME`` or ``latest``; ``namespace`` is empty where none was given.

    ``listing`` is the command that shows what there is.

    Raises:
        Failure: no such name can be, or there is no Run that fits yet.
    """
    meant = namespace or service.namespace
    if name != LATEST:
        return parse(name, meant or DEFAULT_NAMESPACE, listing=listing)
    for run in service.runs(**latest.filters(), **({"namespace": meant} if meant else {})):
        if latest.fits(run):
            return RunRef(run.metadata.namespace, run.metadata.name)
    where, elsewhere = (f" in namespace {meant}", " --all-namespaces") if meant else ("", "")
    raise Failure(
        f"there is no {latest.value} yet{where}",
        exit_code=ExitCode.NOT_FOUND,
        hint=f"see `{listing}{elsewhere}`",
    )


def parse(name: str, namespace: str, *, listing: str) -> RunRef:
    """``NAMESPACE/NAME``, or ``NAME`` in ``namespace``.

    Raises:
        Failure: it is neither; exit code 2.
    """
    before, slash, after = name.rpartition("/")
    try:
        return RunRef(from_builtins(before if slash else namespace, NamespaceName), from_builtins(after, DnsName))
    except InvalidInput as error:
        raise Failure(
            f"{name!r} is not a Run's name: lower-case letters, digits, '-' and '.', perhaps after NAMESPACE/",
            exit_code=ExitCode.USAGE,
            hint=f"give NAMESPACE/NAME, NAME, or latest; `{listing}` shows them",
        ) from error


def follow(
    service: Backend,
    ref: RunRef,
    *,
    timeout: float | None = None,
    poll_seconds: float = POLL_SECONDS,
    patience: float = PATIENCE_SECONDS,
) -> Iterator[Run]:
    """The Run whenever it has changed, and at least every ``poll_seconds``; the last one is finished.

    Where the service goes away meanwhile, it is waited for, ``patience`` seconds.

    Raises:
        Failure: ``timeout`` (seconds) was over first (exit code 124), or the service refuses.
        Unavailable: the service was away at the start, or for too long.
    """
    end = time.monotonic() + timeout if timeout is not None else None
    version = ""
    answered_at: float | None = None
    while True:
        asked_at = time.monotonic()
        left = poll_seconds if end is None else max(0.0, min(poll_seconds, end - asked_at))
        try:
            run = service.run(ref, wait=left, version=version)
        except Unavailable:
            if answered_at is None or asked_at - answered_at > patience:
                raise
        else:
            answered_at = time.monotonic()
            yield run
            if run.status.phase.final:
                return
        if end is not None and time.monotonic() >= end:
            raise Failure(f"{ref} had not finished after {timeout:g} s", exit_code=ExitCode.TIMED_OUT)
        # A service that does not hold its answer back is not asked without pause.
        if answered_at is None or answered_at < asked_at or run.metadata.resource_version == version:
            time.sleep(max(0.0, min(_PAUSE_SECONDS, left) - (time.monotonic() - asked_at)))
        version = run.metadata.resource_version
