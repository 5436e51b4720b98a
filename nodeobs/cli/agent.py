"""``nodeobs agent``: becomes the agent's own process, which needs nothing of the command line."""

from __future__ import annotations

import os
import sys

import click

from nodeobs.cli.helptext import examples

MODULE = ("-P", "-m", "nodeobs.nodeagent")
"""-P: the folder it is started in is not searched for modules."""


@click.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    add_help_option=False,
    epilog=examples(
        "NODE_IP=10.0.0.7 nodeobs agent --tokens-file tokens",
        "nodeobs agent --storage ./profiles --target api=http://127.0.0.1:6060",
    ),
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def agent(*, arguments: tuple[str, ...]) -> None:
    """Run a node's agent.

    It profiles the node's kubelet and container runtime when the service asks. All options are the agent's own: see
    `nodeobs agent --help` and docs/agent.md.
    """
    os.execv(sys.executable, [sys.executable, *MODULE, *arguments])  # noqa: S606 - no shell is wanted
