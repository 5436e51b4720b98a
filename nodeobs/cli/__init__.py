"""The command line: everything a person does. It speaks to the service or to the API server, never to a database."""

from __future__ import annotations

import click

from nodeobs import __version__
from nodeobs.cli.helptext import examples
from nodeobs.cli.lazy import LazyCommand, LazyGroup

EPILOG = (
    examples(
        "nodeobs demo                              an alert becomes a merged profile, on this machine",
        "nodeobs serve                             the service on http://127.0.0.1:8080",
        "nodeobs run start --duration 30           profile every node now, and wait",
        "nodeobs top latest --target kubelet       where the CPU went",
        "nodeobs pull latest                       the files themselves",
        "kubectl nodeobs run list -A               the Runs of a cluster",
    )
    + """

\b
Exit codes:
  0    done; a Run that was waited for delivered everything
  1    the Run failed, was cancelled or rejected; or something else went wrong
  2    wrong usage, or a request that the service calls invalid
  3    the Run succeeded, but something is missing (Degraded)
  4    refused: another Run is in progress, or the state does not allow it
  5    no such Run, output or file
  6    the service or the cluster cannot be reached, or does not accept the credentials
  124  the time given with --timeout was over first
  130  interrupted (Ctrl-C); a Run that was waited for goes on
"""
)


@click.group(
    cls=LazyGroup,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    commands_from={
        "run": LazyCommand("nodeobs.cli.run:run", "Start, watch, cancel and delete Runs."),
        "top": LazyCommand("nodeobs.cli.top:top", "Show the functions that used most, of a Run or of a file."),
        "pull": LazyCommand("nodeobs.cli.pull:pull", "Download a Run's output."),
        "serve": LazyCommand("nodeobs.cli.serve:serve", "Run the service."),
        "agent": LazyCommand("nodeobs.cli.agent:agent", "Run a node's agent."),
        "manifests": LazyCommand(
            "nodeobs.cli.manifests:manifests", "Print what a cluster needs before the service runs there, as YAML."
        ),
        "uninstall": LazyCommand(
            "nodeobs.cli.uninstall:uninstall", "Prepare a cluster for the service's removal; custom resources are kept."
        ),
        "demo": LazyCommand("nodeobs.cli.demo:demo", "Show it all on this machine, from alert to merged profile."),
        "completion": LazyCommand("nodeobs.cli.completion:completion", "Print the script for tab completion."),
    },
)
@click.version_option(__version__, prog_name="nodeobs")
def main() -> None:
    """Catch a misbehaving kubelet or container runtime in the act.

    An alert (or you) starts a Run; every node's agent profiles the same seconds; the merged profile is here a
    minute later. Client commands (run, top, pull) talk to the service named by --server or NODEOBS_SERVER, or to the
    cluster named by --context or --kubeconfig; called as `kubectl nodeobs`, to kubectl's own.
    """
