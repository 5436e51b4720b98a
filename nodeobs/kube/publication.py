"""Telling the API server, and whoever else calls the service, which authorities to trust."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
import structlog

from nodeobs.errors import NodeobsError, NotFound, StoreUnavailable
from nodeobs.kube.client import KubeClient, read_answer
from nodeobs.kube.paths import CONFIG_MAPS, ResourcePath
from nodeobs.kube.rbac import CA_CONFIG_MAP

log = structlog.get_logger(__name__)


VALIDATIONS: Final = ResourcePath("/apis/admissionregistration.k8s.io/v1", "validatingwebhookconfigurations")
DEFINITIONS: Final = ResourcePath("/apis/apiextensions.k8s.io/v1", "customresourcedefinitions")

_KEY: Final = "ca.crt"


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str


class _ClientConfig(msgspec.Struct, frozen=True, rename="camel"):
    ca_bundle: str | None = None


class _Webhook(msgspec.Struct, frozen=True, rename="camel"):
    client_config: _ClientConfig = _ClientConfig()


class _Validation(msgspec.Struct, frozen=True):
    metadata: _Meta
    webhooks: tuple[_Webhook, ...] | None = None


class _Conversion(msgspec.Struct, frozen=True):
    webhook: _Webhook | None = None


class _DefinitionSpec(msgspec.Struct, frozen=True):
    conversion: _Conversion | None = None


class _Definition(msgspec.Struct, frozen=True):
    metadata: _Meta
    spec: _DefinitionSpec


class _ConfigMap(msgspec.Struct, frozen=True):
    data: dict[str, str] | None = None


class Publication:
    """Keeps the authorities right in the webhook configuration, the CRDs' conversion, and a ConfigMap for clients.

    What differs from them is overwritten; a webhook configuration or CRD that does not exist needs none.
    """

    def __init__(
        self, client: KubeClient, *, namespace: str, webhook_configuration: str, crd_names: Sequence[str]
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._webhook_configuration = webhook_configuration
        self._crd_names = tuple(crd_names)
        self._missing: frozenset[str] = frozenset()

    def publish(self, bundle: bytes) -> None:
        """See to it that ``bundle`` (PEM) is everywhere; what fails in one place holds up no other.

        Raises:
            StoreUnavailable: names the places where it is not.
        """
        places: list[tuple[str, Callable[[bytes], None]]] = [
            (f"ValidatingWebhookConfiguration {self._webhook_configuration}", self._in_validation),
            *((f"CustomResourceDefinition {name}", self._in_definition(name)) for name in self._crd_names),
            (f"ConfigMap {self._namespace}/{CA_CONFIG_MAP}", self._in_config_map),
        ]
        missing, failed = set(), []
        for place, put in places:
            try:
                put(bundle)
            except NotFound:
                missing.add(place)
            except NodeobsError as error:
                failed.append(f"{place}: {error}")
        if missing - self._missing:
            log.warning("not there, so the API server does not call this service", missing=sorted(missing))
        self._missing = frozenset(missing)
        if failed:
            raise StoreUnavailable(f"the certificate authority is not published in {'; '.join(failed)}")

    def _in_validation(self, bundle: bytes) -> None:
        path = VALIDATIONS.item(self._webhook_configuration)
        found = read_answer(self._client.get(path), _Validation)
        hooks = [
            (f"/webhooks/{index}/clientConfig/caBundle", hook.client_config.ca_bundle)
            for index, hook in enumerate(found.webhooks or ())
        ]
        self._patch(path, found.metadata, hooks, bundle)

    def _in_definition(self, name: str) -> Callable[[bytes], None]:
        def put(bundle: bytes) -> None:
            path = DEFINITIONS.item(name)
            found = read_answer(self._client.get(path), _Definition)
            webhook = found.spec.conversion.webhook if found.spec.conversion else None
            if webhook is not None:
                where = "/spec/conversion/webhook/clientConfig/caBundle"
                self._patch(path, found.metadata, [(where, webhook.client_config.ca_bundle)], bundle)

        return put

    def _patch(self, path: str, metadata: _Meta, found: Sequence[tuple[str, str | None]], bundle: bytes) -> None:
        text = base64.b64encode(bundle).decode()
        changes = [{"op": "add", "path": where, "value": text} for where, held in found if held != text]
        if changes:
            # With the resourceVersion, the API server refuses what is about another state of the object.
            version = {"op": "replace", "path": "/metadata/resourceVersion", "value": metadata.resource_version}
            self._client.request("PATCH", path, [version, *changes], content_type="application/json-patch+json")
            log.info("certificate authority published", path=path)

    def _in_config_map(self, bundle: bytes) -> None:
        path = CONFIG_MAPS.item(CA_CONFIG_MAP, self._namespace)
        data = {_KEY: bundle.decode()}
        try:
            held = read_answer(self._client.get(path), _ConfigMap).data or {}
        except NotFound:
            document = {"metadata": {"name": CA_CONFIG_MAP}, "data": data}
            try:
                self._client.request("POST", CONFIG_MAPS.collection(self._namespace), document)
            except NotFound as error:
                raise StoreUnavailable(f"there is no namespace {self._namespace}: {error}") from error
            return
        if held.get(_KEY) != data[_KEY]:
            self._client.request("PATCH", path, {"data": data}, content_type="application/merge-patch+json")
