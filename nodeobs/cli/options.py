"""The options that every client command has: where Runs are, and how the answer is told."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import click
from click.core import ParameterSource

from nodeobs.cli.clusterplace import SERVICE, SERVICE_ACCOUNT, ClusterPlace

DEFAULT_SERVER: Final = "http://127.0.0.1:8080"
PLUGIN: Final = "kubectl-nodeobs"
"""Name by which kubectl calls its plugin."""
_NAME: Final = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", re.ASCII)


def place_of(ctx: click.Context, given: Mapping[str, Any]) -> ClusterPlace | None:
    """The cluster that the options and the program's name mean; None where it is a service by its URL.

    Raises:
        click.UsageError: they mean both.
    """
    plugin = ctx.find_root().info_name == PLUGIN
    if given.get("kubeconfig") or given.get("context"):
        if ctx.get_parameter_source("server") is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                "--server names a service by its URL, --kubeconfig and --context a cluster: give one"
            )
    elif given.get("server") or not plugin:
        return None
    return ClusterPlace(
        program="kubectl nodeobs" if plugin else "nodeobs",
        kubeconfig=given.get("kubeconfig"),
        context=given.get("context"),
        service_namespace=given.get("service_namespace") or ClusterPlace.service_namespace,
        service_account=given.get("service_account"),
    )


def has_kubeconfig(environ: Mapping[str, str]) -> bool:
    """Whether there is a kubeconfig where kubectl looks for one."""
    named = environ.get("KUBECONFIG") or str(Path(environ.get("HOME", "~")) / ".kube/config")
    return any(Path(part).is_file() for part in named.split(os.pathsep) if part)


def object_name(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    """Callback of an option that is the name of an object in Kubernetes."""
    if value is not None and not _NAME.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no name in Kubernetes: lower-case letters, digits, '-' and '.'")
    return value


def _server_url(_ctx: click.Context, _param: click.Parameter, value: str | None) -> str | None:
    if value is None:
        return None
    try:
        parts = urlsplit(value)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.query or parts.fragment or not value.isprintable():
        raise click.BadParameter("give a URL such as http://127.0.0.1:8080")
    if parts.username or parts.password:
        raise click.BadParameter(
            "it must hold no user or password; put a token in a file and name it with --token-file"
        )
    return value


_FILE = click.Path(dir_okay=False, path_type=Path)

CLIENT_OPTIONS: Final[tuple[Callable[[Callable[..., None]], Callable[..., None]], ...]] = (
    click.option(
        "--server",
        envvar="NODEOBS_SERVER",
        show_envvar=True,
        metavar="URL",
        callback=_server_url,
        help=f"The service. [default: {DEFAULT_SERVER}, or a cluster when called as kubectl nodeobs]",
    ),
    click.option("--context", metavar="NAME", help="A cluster instead: this context of the kubeconfig."),
    click.option(
        "--kubeconfig",
        type=_FILE,
        metavar="FILE",
        help="A cluster instead: its kubeconfig. [default: KUBECONFIG, or ~/.kube/config]",
    ),
    click.option(
        "--service-namespace",
        default="nodeobs",
        show_default=True,
        metavar="NAME",
        callback=object_name,
        help=f"Where in the cluster the Service {SERVICE} is; files come from it.",
    ),
    click.option(
        "--service-account",
        metavar="NAME",
        callback=object_name,
        help=f"Ask that Service as this ServiceAccount of its namespace. [default: as you; {SERVICE_ACCOUNT} where the "
        "kubeconfig has no token]",
    ),
    click.option(
        "--token-file",
        envvar="NODEOBS_TOKEN_FILE",
        show_envvar=True,
        type=_FILE,
        help="File with the bearer token for the service.",
    ),
    click.option(
        "--ca-file",
        envvar="NODEOBS_CA_FILE",
        show_envvar=True,
        type=_FILE,
        help="Authority of the service's certificate.",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="Form of the answer.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no notes."),
)

CLIENT_OPTION_NAMES: Final = (
    "server",
    "context",
    "kubeconfig",
    "service_namespace",
    "service_account",
    "token_file",
    "ca_file",
    "output",
    "quiet",
)
