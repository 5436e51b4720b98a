"""``nodeobs manifests``: what a cluster needs before the service runs there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click
import yaml

from nodeobs.cli.helptext import examples
from nodeobs.errors import InvalidInput
from nodeobs.kube.crds import Webhook
from nodeobs.kube.manifests import Part
from nodeobs.kube.manifests import manifests as make_manifests
from nodeobs.kube.rbac import SERVICE, Features
from nodeobs.model import NamespaceName, from_builtins

_LONGEST_LINE: Final = 120


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice, and the items of a list below its key."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:  # noqa: ARG002
        super().increase_indent(flow, indentless=False)


def _namespace(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        try:
            from_builtins(value, NamespaceName)
        except InvalidInput as error:
            raise click.BadParameter(f"{value!r} is no namespace: letters a to z, digits and '-'") from error
    return value


def _https(_context: click.Context, _option: click.Parameter, value: str | None) -> str | None:
    if value is not None and (not value.startswith("https://") or "?" in value or "#" in value):
        raise click.BadParameter(
            f"{value!r}: the API server calls webhooks at https:// only, such as https://10.0.0.5:8443"
        )
    return value


@click.command(
    epilog=examples(
        "nodeobs manifests | kubectl apply --server-side -f -",
        "nodeobs manifests --namespace profiling --only crds --only rbac",
        "nodeobs manifests --webhook-url https://10.0.0.5:8443 --ca-file ca.crt    # the service runs elsewhere",
    )
)
@click.option(
    "--namespace", default="nodeobs", show_default=True, callback=_namespace, help="Where the service is to run."
)
@click.option("--agent-namespace", callback=_namespace, help="Where the agents are to run. [default: NAMESPACE-agents]")
@click.option(
    "--webhook-url",
    callback=_https,
    metavar="URL",
    help="Where the API server calls the service. [default: the Service nodeobs in NAMESPACE]",
)
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Authority (PEM) of the service's certificate. [default: the service makes one and publishes it]",
)
@click.option(
    "--only",
    type=click.Choice([part.value for part in Part]),
    multiple=True,
    help="Print only these; may be given several times.",
)
@click.option(
    "--agents-by-hand",
    is_flag=True,
    help="The service makes no agents and may not; there are an account and a Service for those that you install.",
)
@click.option(
    "--via-api-server",
    is_flag=True,
    help="The service may ask kubelets through the API server (nodes/proxy), as NodeObservabilities with "
    "via: apiServer need.",
)
@click.option("--openshift", is_flag=True, help="With the rights that the service needs on OpenShift.")
def manifests(  # noqa: PLR0913 - one for each option
    *,
    namespace: str,
    agent_namespace: str | None,
    webhook_url: str | None,
    ca_file: Path | None,
    only: tuple[str, ...],
    agents_by_hand: bool,
    via_api_server: bool,
    openshift: bool,
) -> None:
    """Print what a cluster needs before the service runs there, as YAML.

    Namespaces, the custom resources' definitions, ServiceAccounts and roles, Services, and the admission webhook.
    Without the last, Runs that get in each other's way are not refused but end as Rejected. Nothing is changed:
    look at it, then apply it. Once applied, creating a Run needs the service, which checks it.
    """
    agents = agent_namespace or f"{namespace}-agents"
    if agents == namespace:
        raise click.UsageError(
            f"--agent-namespace must be another than --namespace, which is {namespace!r}: agents may need a node's "
            "socket, and the service's namespace forbids that to every pod"
        )
    webhook = Webhook(
        namespace=namespace,
        service=SERVICE,
        url=webhook_url or "",
        ca_bundle=ca_file.read_bytes() if ca_file else b"",
    )
    documents = make_manifests(
        namespace=namespace,
        agent_namespace=agents,
        webhook=webhook,
        parts=[Part(name) for name in only] or tuple(Part),
        features=Features(deploy_agents=not agents_by_hand, via_api_server=via_api_server, openshift=openshift),
    )
    text = yaml.dump_all(
        documents, Dumper=_Dumper, sort_keys=False, explicit_start=True, width=_LONGEST_LINE, allow_unicode=True
    )
    click.echo(text, nl=False)
