"""``nodeobs demo``: the main job end to end on one machine, with real processes and real profiles."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from nodeobs.cli.demo import story
from nodeobs.cli.demo.children import Children
from nodeobs.cli.demo.profiles import merged_profiles
from nodeobs.cli.demo.stage import DOOMED, NODES, Stage, staged
from nodeobs.cli.demo.telling import Teller
from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.cli.helptext import examples
from nodeobs.cli.progress import shown
from nodeobs.cli.service import Service
from nodeobs.cli.session import Session
from nodeobs.errors import NodeobsError
from nodeobs.model import Run, to_builtins


@click.command(
    epilog=examples(
        "nodeobs demo",
        "nodeobs demo --seconds 30 --dir /tmp/nodeobs-demo",
        "nodeobs demo -o json | jq .run.status",
    )
)
@click.option(
    "--seconds", type=click.IntRange(2, 120), default=10, show_default=True, help="How long the agents profile."
)
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("nodeobs-demo"),
    show_default=True,
    help="Folder for everything; kept, and written anew by the next demo.",
)
@click.option(
    "-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Form of the answer."
)
def demo(*, seconds: int, folder: Path, output: str) -> None:
    """Show it all on this machine, from alert to merged profile.

    Starts the service and three agents on free loopback ports, sends what Alertmanager would send, kills one of the
    agents in the middle of its profile, and shows what comes out. Everything is stopped at the end; the files stay.
    """
    session = Session("", json=output == "json")
    try:
        with staged(folder, seconds=seconds) as stage:
            result = _run(stage, Teller(Console(quiet=session.json)))
    except Failure as failure:
        session.fail(failure)
        raise click.exceptions.Exit(failure.exit_code) from failure
    except KeyboardInterrupt as interrupt:
        session.note("\nInterrupted; everything is stopped.")
        raise click.exceptions.Exit(ExitCode.INTERRUPTED) from interrupt
    if session.json:
        click.echo(json.dumps(result, indent=2))


def _run(stage: Stage, tell: Teller) -> dict[str, Any]:
    began = time.monotonic()
    with Children() as children:
        try:
            result = _play(stage, children, tell)
        except NodeobsError as error:
            tell.logs(children)
            failure = error if isinstance(error, Failure) else Failure(str(error))
            failure.hint = failure.hint or f"the logs are in {stage.folder / 'logs'}"
            raise failure from error
        stubborn = children.stop()
    result["seconds"] = round(time.monotonic() - began, 1)
    tell.end(stubborn, result["seconds"])
    return result


def _play(stage: Stage, children: Children, tell: Teller) -> dict[str, Any]:
    tell.beginning(stage)
    tell.started(stage, story.start_everything(stage, children, os.environ), story.machine_targets())
    payload = story.alert_payload()
    answer = story.send_alert(stage, payload)
    tell.answered(payload, answer)
    ref = story.created_run(answer)
    with story.work_on(stage, payload) as work:
        conflict = story.start_second_run(stage)
        tell.refused(conflict)
        tell.watching(stage, ref)
        service = Service(stage.url, token=stage.admin_token)
        try:
            with shown(tell.console, service.now) as show:
                run = story.watch(service, ref, stage, show=show, kill=lambda: _kill(children, tell))
            manifest = service.manifest(ref)
        finally:
            service.close()
    lines = story.metrics(stage)
    tell.finished(run, work)
    merged = merged_profiles(run, manifest)
    tell.profiles(merged)
    tell.metrics(lines)
    tell.files(run, merged)
    story.verdict(run)
    return _document(stage, run, answer, conflict) | {
        "merged": [profile.document() for profile in merged],
        "metrics": lines,
        "work": work.document(),
    }


def _kill(children: Children, tell: Teller) -> None:
    tell.killing()
    children[DOOMED].kill()


def _document(stage: Stage, run: Run, answer: story.Answer, conflict: story.Answer) -> dict[str, Any]:
    return {
        "folder": str(stage.folder),
        "nodes": list(NODES),
        "killed": DOOMED,
        "notification": answer.document,
        "conflict": conflict.document,
        "run": to_builtins(run),
    }
