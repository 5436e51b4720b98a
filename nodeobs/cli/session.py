"""What every client command shares: its options, its connection, how it answers and how it fails."""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from nodeobs.cli.backend import Backend
from nodeobs.cli.clusterplace import ClusterPlace
from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.cli.options import CLIENT_OPTION_NAMES, CLIENT_OPTIONS, DEFAULT_SERVER, has_kubeconfig, place_of
from nodeobs.cli.service import UNREACHABLE_HINT, Service, is_loopback, trust_of
from nodeobs.cli.text import clean
from nodeobs.errors import NodeobsError

_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True)
class Session:
    """How this invocation reaches Runs and their outputs, and how it wants its answers."""

    server: str | None
    """URL of the service; None for the usual one on this machine."""
    token_file: Path | None = None
    ca_file: Path | None = None
    json: bool = False
    quiet: bool = False
    cluster: ClusterPlace | None = None
    """Instead of ``server``."""

    @contextmanager
    def connect(self) -> Iterator[Backend]:
        """A connection, closed afterwards."""
        token = read_token(self.token_file)
        if self.cluster is not None:
            # Only here: what it needs takes a quarter of a second to load.
            from nodeobs.cli.cluster import cluster_backend

            with cluster_backend(self.cluster, token=token, ca_file=self.ca_file, note=self.note) as backend:
                yield backend
            return
        url = self.server or DEFAULT_SERVER
        parts = urlsplit(url)
        if token and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            self.note(f"warning: the token travels to {url} unencrypted; use https")
        trust = trust_of(self.ca_file) if parts.scheme == "https" else None
        hint = UNREACHABLE_HINT
        if not self.server and has_kubeconfig(os.environ):
            hint += "; --context or --kubeconfig names a cluster"
        with closing(Service(url, token=token, trust=trust, unreachable_hint=hint)) as service:
            yield service

    def command(self, verb: str, run: str = "") -> str:
        """Another command about a Run, or all, as the person would type it."""
        return self.cluster.command(verb, run) if self.cluster else f"nodeobs {verb} {run}".rstrip()

    def answer(self, document: object, text: Callable[[], str]) -> None:
        """Print the command's result on standard output: the document as JSON, or its text.

        Raises:
            Failure: standard output cannot be written.
        """
        try:
            # ASCII only: no byte of it can steer a terminal.
            click.echo(json.dumps(document, indent=2) if self.json else text())
        except BrokenPipeError:
            raise  # whoever reads has seen enough: click ends the command without a word
        except OSError as error:
            raise Failure(f"cannot write the answer to standard output: {error.strerror}") from error

    def note(self, text: str) -> None:
        """Tell the person something beside the result, on standard error."""
        if not (self.json or self.quiet):
            click.echo(text, err=True)

    def fail(self, failure: Failure) -> None:
        """Tell on standard error what went wrong."""
        if self.json:
            click.echo(json.dumps(failure.problem(), indent=2), err=True)
            return
        click.echo(f"Error: {clean(failure.detail)}", err=True)
        if failure.hint:
            click.echo(f"Hint: {clean(failure.hint)}", err=True)


def read_token(path: Path | None) -> str:
    """The token in that file, empty for None.

    Raises:
        Failure: the file cannot be read, or holds something else than one token.
    """
    if path is None:
        return ""
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(f"cannot read the token file {path}: {error}", exit_code=ExitCode.USAGE) from error
    if not _TOKEN.fullmatch(token):
        raise Failure(
            f"the token file {path} does not hold a token",
            exit_code=ExitCode.USAGE,
            hint="put the token in it, and nothing else",
        )
    return token


def session_of(ctx: click.Context, values: dict[str, Any]) -> Session:
    """The session that the client options among ``values`` ask for; they are taken out of it.

    Raises:
        click.UsageError: they contradict each other.
    """
    given = {name: values.pop(name, None) for name in CLIENT_OPTION_NAMES}
    return Session(
        server=given["server"],
        token_file=given["token_file"],
        ca_file=given["ca_file"],
        json=given["output"] == "json",
        quiet=bool(given["quiet"]),
        cluster=place_of(ctx, given),
    )


@contextmanager
def reported(session: Session) -> Iterator[None]:
    """Turn what the block raises into words and an exit code."""
    try:
        yield
    except NodeobsError as error:
        failure = error if isinstance(error, Failure) else Failure(str(error))
        session.fail(failure)
        raise click.exceptions.Exit(failure.exit_code) from error
    except KeyboardInterrupt as interrupt:
        session.note("\nInterrupted.")
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from interrupt


def client_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the client options, call it with its Session, and turn failures into exit codes."""

    @functools.wraps(function)
    def command(**values: Any) -> None:
        session = session_of(click.get_current_context(), values)
        with reported(session):
            function(session, **values)

    wrapped: Callable[..., None] = command
    for option in reversed(CLIENT_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
