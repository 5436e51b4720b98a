"""``nodeobs uninstall``: prepares a cluster for the service's removal."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, redirect_stdout
from datetime import UTC, datetime
from pathlib import Path

import click
import msgspec

from nodeobs.cli.failures import ExitCode, Failure, Unavailable
from nodeobs.cli.helptext import examples
from nodeobs.cli.options import object_name
from nodeobs.cli.session import Session, reported
from nodeobs.cli.text import clean
from nodeobs.errors import (
    ConfigurationError,
    NodeobsError,
    RemovalError,
    RemovalTimedOut,
    StoreDenied,
    StoreUnavailable,
)
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.removal.changes import Change, Changes
from nodeobs.removal.uninstalling import uninstall as prepare

_AGAIN = "what was done stays done: run this again"
_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(
    epilog=examples(
        "nodeobs uninstall --dry-run                 what it would do",
        "nodeobs uninstall && kubectl delete deployment nodeobs --namespace nodeobs",
        "nodeobs uninstall --context staging --namespace profiling --agent-namespace agents --yes",
    )
)
@click.option(
    "--namespace", default="nodeobs", show_default=True, metavar="NAME", callback=object_name, help="The service's."
)
@click.option(
    "--agent-namespace", metavar="NAME", callback=object_name, help="The agents'. [default: NAMESPACE-agents]"
)
@click.option("--context", metavar="NAME", help="Context of the kubeconfig.")
@click.option("--kubeconfig", type=_FILE, metavar="FILE", help="[default: KUBECONFIG, or ~/.kube/config, or the pod's]")
@click.option(
    "--timeout",
    type=click.FloatRange(0.0, 3600.0),
    default=60.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for Runs to end, for the service's pods, and for its leader.",
)
@click.option("-y", "--yes", is_flag=True, help="Do not ask; needed where there is no terminal.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be done.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the answer.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress and no notes.")
def uninstall(  # noqa: PLR0913 - its options
    *,
    namespace: str,
    agent_namespace: str | None,
    context: str | None,
    kubeconfig: Path | None,
    timeout: float,
    yes: bool,
    dry_run: bool,
    output: str,
    quiet: bool,
) -> None:
    """Prepare a cluster for the service's removal; custom resources are kept.

    Runs that are going are cancelled, the service is stopped, and its agents and its webhook are deleted. The custom
    resources stay, and can be read and deleted with kubectl when there is no service any more: in v1beta1, into which
    what is stored in older versions is rewritten first, by the service. Once done, delete the rest by what installed
    it. It may be broken off and run again; installing again brings everything back.
    """
    session = Session(server=None, json=output == "json", quiet=quiet)
    agents = agent_namespace or f"{namespace}-agents"

    def run(client: KubeClient, *, dry_run: bool) -> list[Change]:
        changes = Changes(dry_run=dry_run, note=lambda text: session.note(clean(text)))
        # What it is made of logs for a service, to standard output; all that a person needs is in notes and errors.
        with redirect_stdout(io.StringIO()):
            prepare(
                client,
                changes,
                namespace=namespace,
                agent_namespace=agents,
                timeout=timeout,
                now=lambda: datetime.now(UTC),
            )
        return changes.all

    with reported(session), _connected(kubeconfig, context) as client:
        if not (yes or dry_run):
            _ask(client.credentials.server, namespace)
        made = run(client, dry_run=dry_run)
        document = {
            "namespace": namespace,
            "agentNamespace": agents,
            "dryRun": dry_run,
            "changes": [{"action": change.action.value, "object": change.what} for change in made],
        }
        session.answer(document, lambda: _summary(made, dry_run=dry_run))


def _ask(server: str, namespace: str) -> None:
    if not sys.stdin.isatty():
        raise Failure(
            "nobody can be asked whether that is meant: standard input is no terminal",
            exit_code=ExitCode.USAGE,
            hint="say it with --yes; --dry-run tells what would be done",
        )
    question = f"Stop nodeobs in namespace {namespace} of {server}, and delete its agents?"
    if not click.confirm(clean(question), err=True):
        raise Failure("nothing was changed")


def _summary(made: list[Change], *, dry_run: bool) -> str:
    if dry_run:
        lines = [clean(f"would {change.action.value} {change.what}") for change in made]
        return "\n".join(lines) or "There is nothing left to do."
    return "The service can be removed now: custom resources are kept, and kubectl reads and deletes them without it."


@contextmanager
def _connected(kubeconfig: Path | None, context: str | None) -> Iterator[KubeClient]:
    """The API server; what it, or a step, refuses becomes a failure with an exit code."""
    try:
        client = KubeClient(load_credentials(kubeconfig=kubeconfig, context=context, environ=os.environ))
    except ConfigurationError as error:
        hint = "`kubectl config get-contexts` shows what there is"
        raise Failure(str(error), exit_code=ExitCode.USAGE, hint=hint) from error
    with closing(client):
        try:
            yield client
        except Failure:
            raise
        except NodeobsError as error:
            raise _failure_of(error) from error
        except msgspec.DecodeError as error:  # as of a proxy that wants a login
            raise Unavailable(f"the API server's answer cannot be read: {error}", hint=_AGAIN) from error


def _failure_of(error: NodeobsError) -> Failure:
    if isinstance(error, RemovalError):
        code = ExitCode.TIMED_OUT if isinstance(error, RemovalTimedOut) else ExitCode.REFUSED
        return Failure(str(error), exit_code=code, hint=error.hint)
    if isinstance(error, StoreDenied):
        hint = f"the ServiceAccount nodeobs-uninstall of the chart has every right that it takes; {_AGAIN} with them"
        return Failure(str(error), exit_code=ExitCode.UNREACHABLE, hint=hint)
    if isinstance(error, StoreUnavailable):
        return Unavailable(str(error), hint=_AGAIN)
    return Failure(str(error), hint=_AGAIN)
