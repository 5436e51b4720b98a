"""``python -m tests.lab``: a cluster for a person, and the programs that every lab needs."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import click

from tests.lab import kept, tools
from tests.lab.errors import LabError
from tests.lab.images import PROJECT, build_project
from tests.lab.network import within
from tests.lab.node import inside

_NEXT = """
  export KUBECONFIG={kubeconfig} PATH={programs}:$PATH
  kubectl get nodes

The API server is {url}; nodes, pods and Services can be reached by their addresses from here.
  make cluster-image IMAGE=FILE.tar            import an image on every node
  {python} -m tests.lab enter node-1 ctr -n k8s.io containers list
  make cluster-down                            end it; nothing stays"""


@click.group(help="Real Kubernetes on this machine. It needs root and Linux.")
def main() -> None:
    """Everything is in the commands."""


@main.command()
@click.option("--nodes", default=3, show_default=True, help="How many nodes.")
def up(nodes: int) -> None:
    """Start a cluster and leave it running."""
    began = time.monotonic()
    cluster = kept.keep(nodes)
    click.echo(f"A cluster of {nodes} nodes is ready after {time.monotonic() - began:.0f} s. Next:")
    python = Path(".venv/bin/python")
    click.echo(_NEXT.format(kubeconfig=cluster.kubeconfig, programs=cluster.programs, url=cluster.url, python=python))


@main.command()
def down() -> None:
    """End it, and remove what was left by runs that were killed."""
    ended = list(kept.down())
    click.echo("\n".join(f"removed {folder}" for folder in ended) or "there is no cluster")


@main.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, resolve_path=True))
def load(image: str) -> None:
    """Import an image (a docker or OCI archive) on every node."""
    for name, process in _the_cluster().members.items():
        if name != "control-plane":
            click.echo(f"{name} ...")
            subprocess.run([*inside(process), "ctr", "--namespace", "k8s.io", "images", "import", image], check=True)


@main.command("image")
@click.argument("file", type=click.Path(dir_okay=False, resolve_path=True, path_type=Path))
def image_(file: Path) -> None:
    """Build the project's image into FILE, a docker archive, without a registry: its base is of Debian's packages."""
    build_project(file)
    click.echo(f"{PROJECT} is in {file} ({file.stat().st_size / 1e6:.0f} MB); make cluster-image IMAGE={file}")


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("member")
@click.argument("command", nargs=-1)
def enter(member: str, command: tuple[str, ...]) -> None:
    """Run a command (by default a shell) on a node, or in the network of ``control-plane``."""
    members = _the_cluster().members
    if member not in members:
        raise LabError(f"there is no {member}, only {', '.join(sorted(members))}")
    prefix = within if member == "control-plane" else inside
    argv = [*prefix(members[member]), *(command or ("sh",))]
    os.execvp(argv[0], argv)


@main.command("tools")
def tools_() -> None:
    """Bring the programs into the cache: those of Debian's packages (as root), the rest built with Go."""
    tools.build(click.echo)
    tools.install(click.echo)


def _the_cluster() -> kept.Kept:
    found = kept.find()
    if found is None:
        raise LabError("there is no cluster: make cluster starts one")
    return found


if __name__ == "__main__":
    try:
        main(prog_name="python -m tests.lab")
    except (LabError, AssertionError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"lab: {error}") from error
