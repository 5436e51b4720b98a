"""``nodeobs run``: start, list, get, wait, cancel, delete."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

import click
from rich.console import Console

from nodeobs.cli import outcomes
from nodeobs.cli.backend import Backend
from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.cli.following import LATEST, Latest, find, follow
from nodeobs.cli.helptext import examples
from nodeobs.cli.naming import complete_observability, complete_run_name, namespace_option, run_argument
from nodeobs.cli.progress import shown
from nodeobs.cli.service import RunRef
from nodeobs.cli.session import Session, client_command
from nodeobs.cli.text import clean
from nodeobs.model import Phase, ProfileType, Run

timeout_option = click.option(
    "--timeout", type=click.FloatRange(min=0), metavar="SECONDS", help="Wait no longer than this; then exit code 124."
)


def _labels(_ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for value in values:
        key, equals, wanted = value.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE, such as topology.kubernetes.io/zone=a")
        if labels.setdefault(key, wanted) != wanted:
            raise click.BadParameter(f"no node has two values of {key}: {labels[key]!r} and {wanted!r}")
    return labels


@click.group()
def run() -> None:
    """Start, watch, cancel and delete Runs.

    RUN is NAMESPACE/NAME, a NAME, or `latest`: the newest Run (for get the newest finished one).
    """


@run.command(
    epilog=examples(
        "nodeobs run start",
        "nodeobs run start --node worker-1 --node worker-2 --profile cpu --profile heap --duration 60",
        "nodeobs run start slow-kubelets --target kubelet --no-wait",
        "nodeobs run start -o json | jq .status.failedAgents",
        "nodeobs run start --context staging --namespace sre",
    )
)
@click.argument("name", required=False)
@click.option(
    "--node-observability",
    default="cluster",
    show_default=True,
    metavar="NAME",
    shell_complete=complete_observability,
    help="Whose nodes and targets.",
)
@click.option("--node", "nodes", multiple=True, metavar="NODE", help="Only this node; repeat for more. [default: all]")
@click.option(
    "--node-selector",
    multiple=True,
    metavar="KEY=VALUE",
    callback=_labels,
    help="Only nodes with this label; repeat for more.",
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
    "-n",
    "--namespace",
    envvar="NODEOBS_NAMESPACE",
    show_envvar=True,
    metavar="NAME",
    help="Namespace of the Run. [default: the service's; in a cluster the context's]",
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
                lambda: f"{created.key} created; `{session.command('run wait', created.key)}` follows it",
            )
            return
        session.note(f"{created.key} created")
        _wait(session, service, ref, timeout)


@run.command(
    name="list",
    epilog=examples(
        "nodeobs run list",
        "nodeobs run list --phase Failed",
        "nodeobs run list --context staging --all-namespaces",
        "nodeobs run list -o json | jq -r '.items[].metadata.name'",
    ),
)
@click.option(
    "-n",
    "--namespace",
    default="",
    metavar="NAME",
    help="Only of this namespace. [default: all; in a cluster the context's]",
)
@click.option("-A", "--all-namespaces", is_flag=True, help="Of all namespaces.")
@click.option(
    "--node-observability",
    default="",
    metavar="NAME",
    shell_complete=complete_observability,
    help="Only on this NodeObservability.",
)
@click.option(
    "--phase",
    type=click.Choice([phase.value for phase in Phase], case_sensitive=False),
    metavar="PHASE",
    help="Only in this phase.",
)
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@client_command
def list_runs(session: Session, *, namespace: str, all_namespaces: bool, limit: int, **wishes: str | None) -> None:
    """List Runs, newest first."""
    if namespace and all_namespaces:
        raise click.UsageError("--namespace and --all-namespaces contradict each other")
    with session.connect() as service:
        wanted = {
            "namespace": "" if all_namespaces else namespace or service.namespace,
            "nodeObservability": wishes["node_observability"],
            "phase": wishes["phase"],
            "limit": str(limit),
        }
        runs = service.runs(**{name: value for name, value in wanted.items() if value})
        if not runs and wanted["namespace"]:
            session.note(f"in namespace {wanted['namespace']}; --all-namespaces shows those of all")
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
@namespace_option("-n", "--namespace")
@client_command
def get(session: Session, *, run: str, namespace: str) -> None:
    """Show one Run."""
    with session.connect() as service:
        found = service.run(find(service, run, namespace, latest=Latest.FINISHED, listing=session.command("run list")))
        session.answer(outcomes.document(found), lambda: outcomes.description(found, service.now()))


@run.command(
    epilog=examples(
        "nodeobs run wait nodeobs/kubelet-slow-1f2e3d4c5b",
        'nodeobs run wait slow-kubelets --timeout 120 || echo "exit code $?"',
    )
)
@run_argument
@namespace_option("-n", "--namespace")
@timeout_option
@client_command
def wait(session: Session, *, run: str, namespace: str, timeout: float | None) -> None:
    """Wait until a Run has finished, and show it.

    The exit code tells how it went: 0 all delivered, 3 something is missing, 1 nothing came of it. Ctrl-C ends the
    waiting, not the Run.
    """
    with session.connect() as service:
        ref = find(service, run, namespace, latest=Latest.ANY, listing=session.command("run list"))
        _wait(session, service, ref, timeout)


@run.command(
    epilog=examples(
        "nodeobs run cancel nodeobs/kubelet-slow-1f2e3d4c5b",
        "nodeobs run cancel slow-kubelets && nodeobs run wait slow-kubelets",
    )
)
@run_argument
@namespace_option("-n", "--namespace")
@client_command
def cancel(session: Session, *, run: str, namespace: str) -> None:
    """Cancel a Run that is going; what was delivered already is kept."""
    with session.connect() as service:
        ref = find(service, run, namespace, latest=Latest.ANY, listing=session.command("run list"))
        cancelled = service.cancel(ref)
        key = clean(cancelled.key)
        session.answer(
            outcomes.document(cancelled),
            lambda: f"{key} is being cancelled; `{session.command('run wait', key)}` follows it",
        )


@run.command(
    epilog=examples(
        "nodeobs run delete nodeobs/kubelet-slow-1f2e3d4c5b",
        "nodeobs run delete slow-kubelets --namespace sre",
    )
)
@click.argument("run", metavar="RUN", shell_complete=complete_run_name)
@namespace_option("-n", "--namespace")
@client_command
def delete(session: Session, *, run: str, namespace: str) -> None:
    """Delete a Run; one that is going is cancelled first.

    The files that it delivered stay where they are until retention removes them.
    """
    if run == LATEST:
        raise Failure(
            "`latest` may be another Run by the time it is deleted",
            exit_code=ExitCode.USAGE,
            hint=f"name the Run; `{session.command('run list')}` shows them",
        )
    with session.connect() as service:
        ref = find(service, run, namespace, latest=Latest.ANY, listing=session.command("run list"))
        left = service.delete(ref)
        end = "deleted" if left is None else "is being cancelled, and deleted when it has ended"
        session.answer({"run": str(ref), "deleted": left is None}, lambda: f"{ref} {end}")


def _wait(session: Session, service: Backend, ref: RunRef, timeout: float | None) -> NoReturn:
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
        session.note(f"\nNo longer waiting. {ref} goes on; stop it with `{session.command('run cancel', str(ref))}`.")
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
        "nodeSelector": wishes["node_selector"],
    }
    return {"metadata": metadata, "spec": spec}
