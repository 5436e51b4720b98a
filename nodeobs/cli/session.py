"""What every client command shares: its options, its connection, how it answers and how it fails."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click

from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.cli.service import Service, is_loopback
from nodeobs.cli.text import clean
from nodeobs.errors import NodeobsError

_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")


@dataclass(frozen=True)
class Session:
    """How this invocation reaches the service, and how it wants its answers."""

    server: str
    token_file: Path | None = None
    ca_file: Path | None = None
    json: bool = False
    quiet: bool = False

    @contextmanager
    def connect(self) -> Iterator[Service]:
        """A connection, closed afterwards."""
        token = read_token(self.token_file)
        parts = urlsplit(self.server)
        if token and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
            self.note(f"warning: the token travels to {self.server} unencrypted; use https")
        service = Service(self.server, token=token, ca_file=self.ca_file)
        try:
            yield service
        finally:
            service.close()

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


def _server_url(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or not value.isprintable():
        raise click.BadParameter("give a URL such as http://127.0.0.1:8080")
    if parts.username or parts.password:
        raise click.BadParameter(
            "it must hold no user or password; put a token in a file and name it with --token-file"
        )
    return value


_FILE = click.Path(dir_okay=False, path_type=Path)

_OPTIONS: tuple[Callable[[Callable[..., None]], Callable[..., None]], ...] = (
    click.option(
        "--server",
        envvar="NODEOBS_SERVER",
        default="http://127.0.0.1:8080",
        show_default=True,
        show_envvar=True,
        metavar="URL",
        callback=_server_url,
        help="The service.",
    ),
    click.option(
        "--token-file",
        envvar="NODEOBS_TOKEN_FILE",
        show_envvar=True,
        type=_FILE,
        help="File with the bearer token for the service.",
    ),
    click.option(
        "--ca-file",
        envvar="NODEOBS_CA_FILE",
        show_envvar=True,
        type=_FILE,
        help="Authority of the service's certificate.",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Form of the answer.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no notes."),
)


def client_command(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command the client options, call it with its Session, and turn failures into exit codes."""

    @functools.wraps(function)
    def command(
        *args: Any, server: str, token_file: Path | None, ca_file: Path | None, output: str, quiet: bool, **kwargs: Any
    ) -> None:
        session = Session(server, token_file, ca_file, json=output == "json", quiet=quiet)
        try:
            function(session, *args, **kwargs)
        except NodeobsError as error:
            failure = error if isinstance(error, Failure) else Failure(str(error))
            session.fail(failure)
            raise click.exceptions.Exit(failure.exit_code) from error
        except KeyboardInterrupt as interrupt:
            session.note("\nInterrupted.")
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from interrupt

    wrapped: Callable[..., None] = command
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped
