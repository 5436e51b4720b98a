"""The service inside a cluster, as a client outside reaches it: a forwarded port, its authority, and a token."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

import msgspec

from nodeobs.cli.clusterplace import SERVICE, SERVICE_ACCOUNT, SERVICE_PORT, ClusterPlace
from nodeobs.cli.clusterproblems import told
from nodeobs.cli.failures import ExitCode, Failure, Unavailable
from nodeobs.cli.forward import forwarded
from nodeobs.cli.service import Service, trust_of
from nodeobs.errors import ConfigurationError, NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import CONFIG_MAPS, ResourcePath
from nodeobs.typed import decode

AUTHORITY: Final = "nodeobs-ca"
"""ConfigMap in which the service publishes the authority of its certificate."""
AUTHORITY_KEY: Final = "ca.crt"
TOKEN_SECONDS: Final = 600
"""The shortest that the API server gives."""

_SERVICE_ACCOUNTS: Final = ResourcePath("/api/v1", "serviceaccounts")


class ConfigMap(msgspec.Struct, frozen=True):
    """A ConfigMap, as far as it is read."""

    data: dict[str, str] = {}


class TokenStatus(msgspec.Struct, frozen=True):
    """The token that was asked for; not shown."""

    token: str

    def __repr__(self) -> str:
        return "TokenStatus(...)"


class TokenRequest(msgspec.Struct, frozen=True):
    """Answer to a request for a token (authentication.k8s.io/v1)."""

    status: TokenStatus


@contextmanager
def service_inside(
    client: KubeClient, place: ClusterPlace, *, token: str, ca_file: Path | None, note: Callable[[str], None]
) -> Iterator[Service]:
    """The service in ``place``, until the end of the block.

    ``token`` and ``ca_file`` are used in place of what the kubeconfig and the cluster have, where they are given.

    Raises:
        Failure: there is no kubectl, no authority to verify the service with, or no token to call it with.
        Unavailable: no way leads there.
    """
    namespace = place.service_namespace
    with told(place, files=True):
        trust = trust_of(ca_file) if ca_file else _published_trust(client, namespace)
        if not token:
            token = (place.service_account is None and _own_token(client)) or _token_of(client, place, note)
    with forwarded(place.options(), namespace=namespace, service=SERVICE, port=SERVICE_PORT) as forward:
        service = Service(
            f"https://127.0.0.1:{forward.port}",
            token=token,
            trust=trust,
            server_name=f"{SERVICE}.{namespace}.svc",
            unreachable_hint=f"see whether it runs: `kubectl get pods --namespace {namespace}`",
        )
        with closing(service):
            try:
                yield service
            except Unavailable as error:
                if not (said := forward.said()):
                    raise
                raise Unavailable(f"{error.detail}; kubectl said: {said}", hint=error.hint) from error


def _published_trust(client: KubeClient, namespace: str) -> ssl.SSLContext:
    where = f"ConfigMap {AUTHORITY} of namespace {namespace}"
    hint = "name the namespace with --service-namespace, or the authority's file with --ca-file"
    try:
        found = decode(client.get(CONFIG_MAPS.item(AUTHORITY, namespace)), ConfigMap)
        # Nothing at all would mean the system's authorities.
        return ssl.create_default_context(cadata=found.data[AUTHORITY_KEY] or "none")
    except NotFound as error:
        raise Failure(
            f"there is no {where}, where the service publishes its authority",
            exit_code=ExitCode.UNREACHABLE,
            hint=hint,
        ) from error
    except (msgspec.DecodeError, KeyError, ssl.SSLError, ValueError) as error:
        raise Failure(
            f"{where} holds no certificates under {AUTHORITY_KEY}", exit_code=ExitCode.UNREACHABLE, hint=hint
        ) from error


def _own_token(client: KubeClient) -> str:
    """The kubeconfig's bearer token, or empty."""
    try:
        scheme, _, token = client.credentials.token().partition(" ")
    except ConfigurationError as error:
        raise Failure(str(error), exit_code=ExitCode.UNREACHABLE) from error
    return token if scheme.lower() == "bearer" else ""


def _token_of(client: KubeClient, place: ClusterPlace, note: Callable[[str], None]) -> str:
    """A short-lived token of the ServiceAccount."""
    namespace, name = place.service_namespace, place.service_account or SERVICE_ACCOUNT
    body = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    path = _SERVICE_ACCOUNTS.item(name, namespace, subresource="token")
    try:
        answer = decode(client.request("POST", path, body), TokenRequest)
    except NotFound as error:
        raise Failure(
            f"there is no ServiceAccount {name} in namespace {namespace}, whose token the service could be asked with",
            exit_code=ExitCode.NOT_FOUND,
            hint="name another with --service-account, or a file with a token with --token-file",
        ) from error
    except msgspec.DecodeError:
        # Not chained: the text could be the token.
        raise Failure(
            f"the API server gave no token of ServiceAccount {namespace}/{name}", exit_code=ExitCode.UNREACHABLE
        ) from None
    note(f"Asking the service as ServiceAccount {namespace}/{name}, with a token for {TOKEN_SECONDS // 60} minutes.")
    return answer.status.token
