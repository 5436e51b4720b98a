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

_EVERYWHERE: Final = "at the cluster scope"
"""How the API server ends where all namespaces were asked for."""


@contextmanager
def told(place: ClusterPlace, *, accepted: bool = False, files: bool = False) -> Iterator[None]:
    """Turn what the block raises into failures.

    ``accepted``: the same was allowed a moment ago. An API server that has just started refuses everybody until it
    has read its roles, so that trying again can help. ``files``: it is the way to files, which takes another role.

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
            raise _failure_of(error, place, files=files) from error
        raise Unavailable(str(error), hint=_hint(error, place, files=files)) from error
    except NodeobsError as error:
        raise _failure_of(error, place, files=files) from error


def _failure_of(error: NodeobsError, place: ClusterPlace, *, files: bool) -> Failure:
    problem = {"holder": error.holder} if isinstance(error, RunInProgress) else {}
    exit_code = _EXIT_CODES.get(type(error), ExitCode.FAILED)
    said = str(error)
    if isinstance(error, NotFound) and any(text in said for text in _NO_SUCH_KIND):
        said = f"the API server does not know nodeobs' resources: {said}"
    return Failure(said, exit_code=exit_code, hint=_hint(error, place, files=files), problem=problem)


def _hint(error: NodeobsError, place: ClusterPlace, *, files: bool) -> str:
    if isinstance(error, RunInProgress) and error.holder:
        wait, cancel = (place.command(verb, error.holder) for verb in ("run wait", "run cancel"))
        return f"wait for it with `{wait}`, or cancel it with `{cancel}`"
    if isinstance(error, StoreDenied) and "does not accept the credentials" in str(error):
        return "log in again; `kubectl auth whoami` tells whether that helped"
    if isinstance(error, StoreDenied):
        return f"{_roles(str(error), place, files=files)}; `kubectl auth whoami` tells who you are"
    if isinstance(error, NotFound):
        return _missing(str(error), place)
    if isinstance(error, StoreUnavailable) and any(text in str(error) for text in _NOBODY_CHECKS):
        return f"nodeobs has to run to check it: `kubectl get pods --namespace {place.service_namespace}`"
    return ""


def _missing(said: str, place: ClusterPlace) -> str:
    if any(text in said for text in _NO_SUCH_KIND):
        return (
            "nodeobs is not installed in this cluster: `kubectl config current-context` tells which it is, "
            "docs/install.md how to install it"
        )
    return f"see `{place.command('run list', '--all-namespaces')}`" if said.startswith("there is no Run ") else ""


def _roles(denied: str, place: ClusterPlace, *, files: bool) -> str:
    if files:
        return (
            f"files take the role nodeobs-client in namespace {place.service_namespace}, beside nodeobs-viewer: "
            "ask for both"
        )
    ask = "ask for the role nodeobs-viewer, nodeobs-runner or nodeobs-admin"
    return f"name the namespace in which you have a role with --namespace, or {ask}" if _EVERYWHERE in denied else ask
