"""Where the service is, by what leads the API server to it."""

from __future__ import annotations

import msgspec

from nodeobs.errors import NotFound, RemovalRefused
from nodeobs.kube.client import KubeClient
from nodeobs.kube.publication import VALIDATIONS
from nodeobs.kube.rbac import SERVICE
from nodeobs.typed import decode


class _Service(msgspec.Struct, frozen=True):
    namespace: str = ""


class ClientConfig(msgspec.Struct, frozen=True):
    """Of a webhook: whom the API server calls."""

    service: _Service = _Service()


class Webhook(msgspec.Struct, frozen=True, rename="camel"):
    """A webhook, as far as it tells where the service is."""

    client_config: ClientConfig = ClientConfig()


class _Validation(msgspec.Struct, frozen=True):
    webhooks: tuple[Webhook, ...] | None = None


def check_admission(client: KubeClient, *, namespace: str) -> None:
    """See to it that the webhook of admission, if there is one, is not that of a service elsewhere.

    Raises:
        RemovalRefused: the service is in another namespace.
    """
    try:
        found = decode(client.get(VALIDATIONS.item(SERVICE)), _Validation)
    except NotFound:
        return
    for webhook in found.webhooks or ():
        check_place(webhook, f"ValidatingWebhookConfiguration {SERVICE}", namespace=namespace)


def check_place(webhook: Webhook, what: str, *, namespace: str) -> None:
    """See to it that the webhook, which is ``what``'s, is in the namespace, where it is a Service at all.

    Raises:
        RemovalRefused: the service is in another namespace.
    """
    other = webhook.client_config.service.namespace
    if other not in ("", namespace):
        raise RemovalRefused(
            f"the service is in namespace {other}, not in {namespace}: {what} says so",
            hint=f"give `--namespace {other}`, and `--agent-namespace` where its agents are in another than "
            f"{other}-agents",
        )
