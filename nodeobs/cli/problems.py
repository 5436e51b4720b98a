"""From the service's answers that are not success to failures with an exit code and a hint."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

import msgspec

from nodeobs.cli.failures import ExitCode, Failure, Unavailable
from nodeobs.typed import convert, decode

_EXIT_CODES: Final = {
    400: ExitCode.USAGE,
    401: ExitCode.UNREACHABLE,
    403: ExitCode.UNREACHABLE,
    404: ExitCode.NOT_FOUND,
    409: ExitCode.REFUSED,
    410: ExitCode.NOT_FOUND,
    413: ExitCode.USAGE,
    422: ExitCode.USAGE,
}


class Pointed(msgspec.Struct, frozen=True):
    """One thing that is wrong with a document, and where."""

    detail: str = ""
    pointer: str = ""


class Problem(msgspec.Struct, frozen=True):
    """The members of a problem document (RFC 9457) that are told to a person."""

    title: str = ""
    detail: str = ""
    holder: str = ""
    errors: tuple[Pointed, ...] = ()


def failure_of(status: int, body: bytes, *, url: str) -> Failure:
    """What an answer of that status means; ``body`` is a problem document, or anything at all."""
    members = _members(body)
    if members is None:
        return _wordless(status, body, url=url)
    problem = convert(members, Problem)
    detail = "; ".join([problem.detail or problem.title or f"status {status}", *_pointed(problem)])
    hint = _hint(status, problem)
    if status in (502, 503, 504):
        return Unavailable(f"the service at {url} cannot answer now: {detail}", hint=hint, problem=members)
    exit_code = _EXIT_CODES.get(status, ExitCode.FAILED)
    return Failure(detail, exit_code=exit_code, hint=hint, problem=members)


def not_ours(url: str, path: str, reason: str) -> Failure:
    """What answers at that URL does not speak the service's API."""
    return Failure(
        f"{url}{path} answered something that is not the service's: {reason}",
        exit_code=ExitCode.UNREACHABLE,
        hint="check that --server names a nodeobs service, of about this version",
    )


def _members(body: bytes) -> dict[str, Any] | None:
    try:
        members = decode(body, dict[str, Any])
        convert(members, Problem)
    except msgspec.DecodeError:
        return None
    return members


def _wordless(status: int, body: bytes, *, url: str) -> Failure:
    begin = body[:200].decode("utf-8", "replace").strip()
    try:
        name = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        name = str(status)
    detail = f"the service at {url} answered {name}" + (f": {begin}" if begin else "")
    hint = _hint(status, Problem())
    if status in (502, 503, 504):
        return Unavailable(detail, hint=hint)
    return Failure(detail, exit_code=_EXIT_CODES.get(status, ExitCode.UNREACHABLE), hint=hint)


def _pointed(problem: Problem) -> list[str]:
    untold = [error for error in problem.errors if error.detail not in problem.detail]
    return [f"{error.pointer}: {error.detail}" if error.pointer else error.detail for error in untold]


def _hint(status: int, problem: Problem) -> str:
    if status == 401:
        return "name a file that holds your token with --token-file or NODEOBS_TOKEN_FILE"
    if status == 403:
        return "ask for a token with a role that may do this"
    if status == 409 and problem.holder:
        holder = problem.holder
        return f"wait for it with `nodeobs run wait {holder}`, or cancel it with `nodeobs run cancel {holder}`"
    return ""
