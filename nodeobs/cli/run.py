"""``nodeobs run``: start, list, get, wait, cancel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import click
from rich.console import Console

from nodeobs.cli import outcomes
from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.cli.following import Latest, find, follow, namespace_option, run_argument
from nodeobs.cli.helptext import examples
from nodeobs.cli.progress import shown
from nodeobs.cli.service import RunRef, Service
from nodeobs.cli.session import Session, client_command
from nodeobs.cli.text import clean
from nodeobs.model import Phase, ProfileType, Run

timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer than this; then exit code 124."
)


@click.group()
def run() -> None:
    """Start, watch and cancel Runs.

    RUN is NAMESPACE/NAME, a NAME, or `latest`: the newest Run (for get, top and pull the newest finished one).
    """


@run.command(
    epilog=examples(
        "nodeobs run start",
        "nodeobs run start --node worker-1 --node worker-2 --profile cpu --profile heap --duration 60",
        "nodeobs run start slow-kubelets --target kubelet --no-wait",
        "nodeobs run start -o json | jq .status.failedAgents",
    )
)
@click.argument("name", required=False)
@click.option(
    "--node-observability", default="cluster", show_default=True, metavar="NAME", help="Whose nodes and targets."
)
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; repeat for more. [default: all]")
@click.option(
    "--node-selector", multiple=True, metavar="KEY=VALUE", help="Only nodes with this label; repeat for more."
)
@click.option(
    "--target", "targets", multiple=True, metavar="NAME", help="What to profile; repeat for more. [default: all]"
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice([profile.value for profile in ProfileType]),
    default=["cpu"],
    show_default=True,
    help="Type of profile; repeat for more.",
)
@click.option(
    "--duration",
    type=click.IntRange(1, 3600),
    default=30,
    show_default=True,
    metavar="SECONDS",
    help="How long to profile.",
)
@click.option(
    "--namespace", envvar="NODEOBS_NAMESPACE", show_envvar=True, help="Namespace of the Run. [default: the service's]"
)
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it has finished.")
@timeout_option
@client_command
def start(session: Session, *, wait: bool, timeout: float | None, **wishes: Any) -> None:
    """Start a Run and wait for it."""
    with session.connect() as service:
        created = service.start(_document(wishes))
        ref = RunRef(created.metadata.namespace, created.metadata.name)
        if not wait:
            session.answer(
                outcomes.document(created),
                lambda: f"{created.key} created; `nodeobs run wait {created.key}` follows it",
            )
            return
        session.note(f"{created.key} created")
        _wait(session, service, ref, timeout)


@run.command(
    name="list",
    epilog=examples(
        "nodeobs run list",
        "nodeobs run list --phase Failed",
        "nodeobs run list -o json | jq -r '.items[].metadata.name'",
    ),
)
@click.option("--namespace", default="", help="Only of this namespace. [default: all]")
@click.option("--node-observability", default="", metavar="NAME", help="Only on this NodeObservability.")
@click.option(
    "--phase",
    default="",
    type=click.Choice(["", *(phase.value for phase in Phase)]),
    metavar="PHASE",
    help="Only in this phase.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@client_command
def list_runs(session: Session, *, namespace: str, node_observability: str, phase: str, limit: int) -> None:
    """List Runs, newest first."""
    wanted = {"namespace": namespace, "nodeObservability": node_observability, "phase": phase, "limit": str(limit)}
    with session.connect() as service:
        runs = service.runs(**{name: value for name, value in wanted.items() if value})
        session.answer(
            {"items": [outcomes.document(run) for run in runs]}, lambda: outcomes.listing(runs, service.now())
        )


@run.command(
    epilog=examples(
        "nodeobs run get latest",
        "nodeobs run get nodeobs/kubelet-slow-1f2e3d4c5b",
        "nodeobs run get latest -o json | jq .status.summary",
    )
)
@run_argument
@namespace_option
@client_command
def get(session: Session, *, run: str, namespace: str) -> None:
    """Show one Run."""
    with session.connect() as service:
        found = service.run(find(service, run, namespace, latest=Latest.FINISHED))
        session.answer(outcomes.document(found), lambda: outcomes.description(found, service.now()))


@run.command(
    epilog=examples(
        "nodeobs run wait nodeobs/kubelet-slow-1f2e3d4c5b",
        'nodeobs run wait slow-kubelets --timeout 120 || echo "exit code $?"',
    )
)
@run_argument
@namespace_option
@timeout_option
@client_command
def wait(session: Session, *, run: str, namespace: str, timeout: float | None) -> None:
    """Wait until a Run has finished, and show it.

    The exit code tells how it went: 0 all delivered, 3 something is missing, 1 nothing came of it. Ctrl-C ends the
    waiting, not the Run.
    """
    with session.connect() as service:
        _wait(session, service, find(service, run, namespace, latest=Latest.ANY), timeout)


@run.command(
    epilog=examples(
        "nodeobs run cancel nodeobs/kubelet-slow-1f2e3d4c5b",
        "nodeobs run cancel slow-kubelets && nodeobs run wait slow-kubelets",
    )
)
@run_argument
@namespace_option
@client_command
def cancel(session: Session, *, run: str, namespace: str) -> None:
    """Cancel a Run that is going; what was delivered already is kept."""
    with session.connect() as service:
        cancelled = service.cancel(find(service, run, namespace, latest=Latest.ANY))
        key = clean(cancelled.key)
        session.answer(
            outcomes.document(cancelled), lambda: f"{key} is being cancelled; `nodeobs run wait {key}` follows it"
        )


def _wait(session: Session, service: Service, ref: RunRef, timeout: float | None) -> NoReturn:
    """Follow the Run, print it and leave with its exit code."""
    seen: Run | None = None
    try:
        with shown(Console(stderr=True, quiet=session.json or session.quiet), service.now) as show:
            for seen in follow(service, ref, timeout=timeout):
                show(seen)
    except Failure as failure:
        if failure.exit_code is not ExitCode.TIMED_OUT or seen is None:
            raise
        session.answer(outcomes.document(seen), lambda: outcomes.description(seen, service.now()))
        raise
    except KeyboardInterrupt:
        session.note(f"\nNo longer waiting. {ref} goes on; stop it with `nodeobs run cancel {ref}`.")
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from None
    if seen is None:
        raise Failure(f"{ref} was not answered")
    finished = seen
    session.answer(outcomes.document(finished), lambda: outcomes.description(finished, service.now()))
    raise click.exceptions.Exit(outcomes.exit_code(finished))


def _document(wishes: Mapping[str, Any]) -> dict[str, Any]:
    metadata = {name: wishes[name] for name in ("name", "namespace") if wishes[name]}
    spec = {
        "nodeObservabilityRef": {"name": wishes["node_observability"]},
        "profiles": wishes["profiles"],
        "targets": wishes["targets"],
        "durationSeconds": wishes["duration"],
        "nodes": wishes["nodes"],
        "nodeSelector": dict(label.partition("=")[::2] for label in wishes["node_selector"]),
    }
    return {"metadata": metadata, "spec": spec}
