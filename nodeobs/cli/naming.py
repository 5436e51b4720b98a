"""How a person names a Run on the command line, and what the Tab key offers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from nodeobs.cli.backend import Backend
from nodeobs.cli.following import LATEST
from nodeobs.cli.session import session_of
from nodeobs.errors import NodeobsError

_OFFERED: Final = 50

F = TypeVar("F", bound=Callable[..., Any])


def _offer(
    ctx: click.Context, incomplete: str, names: Callable[[Backend], list[tuple[str, str]]]
) -> list[CompletionItem]:
    """Names and what they are, of those that begin so; nothing where they cannot be had."""
    try:
        session = session_of(ctx, dict(ctx.params) | {"quiet": True})
        with session.connect() as backend:
            found = names(backend)
    except (NodeobsError, click.UsageError):
        return []  # the command itself says what is wrong
    return [CompletionItem(name, help=what) for name, what in found if name.startswith(incomplete)]


def complete_run_name(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of Runs in the namespace that is meant; with their namespaces where none is, or one was begun."""
    meant = ctx.params.get("namespace") or ""
    begun, slash, _ = incomplete.partition("/")

    def names(backend: Backend) -> list[tuple[str, str]]:
        namespace = begun if slash else meant or backend.namespace
        runs = backend.runs(limit=str(_OFFERED), **({"namespace": namespace} if namespace else {}))
        return [(run.key if slash or not namespace else run.metadata.name, run.status.phase.value) for run in runs]

    return _offer(ctx, incomplete, names)


def complete_run(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """``latest`` and the names of Runs."""
    latest = [CompletionItem(LATEST, help="the newest")] if LATEST.startswith(incomplete) else []
    return latest + complete_run_name(ctx, param, incomplete)


def complete_run_or_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Runs, and where none fits, files."""
    return [CompletionItem(incomplete, type="file"), *complete_run(ctx, param, incomplete)]


def complete_observability(ctx: click.Context, _param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of NodeObservabilities."""
    return _offer(ctx, incomplete, lambda backend: [(found.metadata.name, "") for found in backend.observabilities()])


run_argument = click.argument("run", metavar="RUN", shell_complete=complete_run)


def namespace_option(*names: str) -> Callable[[F], F]:
    """The option, by these names."""
    return click.option(
        *names,
        envvar="NODEOBS_NAMESPACE",
        show_envvar=True,
        default="",
        metavar="NAME",
        help="Namespace of a RUN without one. [default: nodeobs; in a cluster the context's]",
    )
