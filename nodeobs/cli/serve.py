"""``nodeobs serve``: becomes gunicorn with the service's own configuration."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import click

from nodeobs.cli.failures import ExitCode
from nodeobs.cli.helptext import examples
from nodeobs.errors import ConfigurationError
from nodeobs.settings import Settings

APPLICATION = "nodeobs.web.composition:application()"
"""Named, not imported: gunicorn imports it in its worker, and doing so here would only take time."""
COMMAND = ("-P", "-m", "gunicorn", "-c", "python:nodeobs.web.gunicorn_conf", APPLICATION)


@click.command(
    epilog=examples(
        "nodeobs serve",
        "nodeobs serve --config /etc/nodeobs/config.yaml",
        "NODEOBS_TOKENS_FILE=/etc/nodeobs/tokens nodeobs serve --bind 0.0.0.0:8080",
    )
)
@click.option("--bind", metavar="HOST:PORT", help="Where to listen; sets NODEOBS_BIND. [default: 127.0.0.1:8080]")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="YAML file with the settings; sets NODEOBS_CONFIG.",
)
def serve(*, bind: str | None, config: Path | None) -> None:
    """Run the service.

    Every setting comes from the environment (NODEOBS_...) or the file; docs/configuration.md lists them. A wrong one
    ends with one message and exit code 2, before anything is started.
    """
    given = {"NODEOBS_BIND": bind, "NODEOBS_CONFIG": str(config) if config else None}
    environ = dict(os.environ) | {name: value for name, value in given.items() if value}
    try:
        _try_to_listen(Settings.load(environ))
    except ConfigurationError as error:
        click.echo(f"Error: {error}", err=True)
        raise click.exceptions.Exit(ExitCode.USAGE) from error
    os.execve(sys.executable, [sys.executable, *COMMAND], environ)  # noqa: S606 - no shell is wanted


def _try_to_listen(settings: Settings) -> None:
    """Say now what gunicorn would say after five seconds, in words that do not tell what to do."""
    host, port = settings.bind_host, settings.bind_port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        raise ConfigurationError(
            f"cannot listen at {settings.bind}: {os.strerror(error.errno) if error.errno else error}; end the program "
            "that does, or choose another address of this machine with --bind or NODEOBS_BIND"
        ) from error
