"""A command group that imports a command only when it is used, so that ``nodeobs --help`` is quick."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import click

from nodeobs.cli.failures import ExitCode


class LazyCommand(NamedTuple):
    """Where a command is (``module:attribute``), and its help in one line."""

    where: str
    help: str


class LazyGroup(click.Group):
    """Group whose commands are listed in ``commands_from``, in that order."""

    def __init__(self, *args: Any, commands_from: Mapping[str, LazyCommand], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.commands_from = commands_from

    def invoke(self, ctx: click.Context) -> Any:
        """Import the command and run it; Ctrl-C while it is imported ends as it does afterwards."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Names in the order they are told to a person."""
        return list(self.commands_from)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's signature
        """Import the command; None where there is none of that name."""
        entry = self.commands_from.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry.where.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry.where} is not a click command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's signature
        """List the commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in self.commands_from.items()])
