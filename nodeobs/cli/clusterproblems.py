"""From the API server's refusals to failures with an exit code and a hint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from nodeobs.cli.clusterplace import ClusterPlace
from nodeobs.cli.failures import ExitCode, Failure, Unavailable
from nodeobs.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    NodeobsError,
    NotFound,
    RunInProgress,
    StoreDenied,
    StoreUnavailable,
)

_EXIT_CODES: Final = {
    RunInProgress: ExitCode.REFUSED,
    AlreadyExists: ExitCode.REFUSED,
    Conflict: ExitCode.REFUSED,
    NotFound: ExitCode.NOT_FOUND,
    InvalidInput: ExitCode.USAGE,
    StoreDenied: ExitCode.UNREACHABLE,
}
_NO_SUCH_KIND: Final = ("could not find the requested resource", "404 page not found")
"""What the API server says where the custom resources are not installed, by its version and the request."""

_NOBODY_CHECKS: Final = ("failed calling webhook", "conversion webhook for")
"""How it begins where our webhooks do not answer."""


@contextmanager
def told(place: ClusterPlace, *, accepted: bool = False) -> Iterator[None]:
    """Turn what the block raises into failures.

    ``accepted``: the same was allowed a moment ago. An API server that has just started refuses everybody until it
    has read its roles, so that trying again can help.

    Raises:
        Unavailable: the API server cannot be reached, or cannot answer now.
        Failure: it refuses.
    """
    try:
        yield
    except Failure:
        raise
    except StoreUnavailable as error:
        if isinstance(error, StoreDenied) and not accepted:
            raise _failure_of(error, place) from error
        raise Unavailable(str(error), hint=_hint(error, place)) from error
    except NodeobsError as error:
        raise _failure_of(error, place) from error


def _failure_of(error: NodeobsError, place: ClusterPlace) -> Failure:
    problem = {"holder": error.holder} if isinstance(error, RunInProgress) else {}
    exit_code = _EXIT_CODES.get(type(error), ExitCode.FAILED)
    return Failure(str(error), exit_code=exit_code, hint=_hint(error, place), problem=problem)


def _hint(error: NodeobsError, place: ClusterPlace) -> str:
    if isinstance(error, RunInProgress) and error.holder:
        wait, cancel = (place.command(verb, error.holder) for verb in ("run wait", "run cancel"))
        return f"wait for it with `{wait}`, or cancel it with `{cancel}`"
    if isinstance(error, StoreDenied) and "does not accept the credentials" in str(error):
        return "log in again; `kubectl auth whoami` tells whether that helped"
    if isinstance(error, StoreDenied):
        return (
            "ask for the role nodeobs-viewer, nodeobs-runner or nodeobs-admin; `kubectl auth whoami` tells who you are"
        )
    if isinstance(error, NotFound) and any(text in str(error) for text in _NO_SUCH_KIND):
        return "nodeobs is not installed in this cluster: `nodeobs manifests | kubectl apply --server-side -f -`"
    if isinstance(error, StoreUnavailable) and any(text in str(error) for text in _NOBODY_CHECKS):
        return f"nodeobs has to run to check it: `kubectl get pods --namespace {place.service_namespace}`"
    return ""
