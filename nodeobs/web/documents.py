"""What requests carry and answers hold: the resources as Kubernetes would write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from flask import Response
from msgspec import Meta, field

from nodeobs.model import (
    API_VERSION,
    DnsName,
    Document,
    Labels,
    Metadata,
    NamespaceName,
    NodeObservabilitySpec,
    Resource,
    RunSpec,
    encode_json,
)

Annotations = dict[str, Annotated[str, Meta(max_length=4096)]]


class NewRunMetadata(Document, frozen=True, kw_only=True):
    """Name of a Run to be created; without one, it gets ``generateName`` and eight random characters."""

    name: DnsName | None = None
    generate_name: Annotated[str, Meta(min_length=1, max_length=55, pattern=r"\A[a-z0-9][-a-z0-9]*\Z")] | None = None
    namespace: NamespaceName | None = None
    """The service's own namespace where it is not given."""
    labels: Labels = field(default_factory=dict)
    annotations: Annotations = field(default_factory=dict)


class NewRun(Document, frozen=True, kw_only=True):
    """Body of ``POST /api/v1/runs``."""

    api_version: Literal["nodeobservability.olm.openshift.io/v1beta1"] = "nodeobservability.olm.openshift.io/v1beta1"
    kind: Literal["NodeObservabilityRun"] = "NodeObservabilityRun"
    metadata: NewRunMetadata = NewRunMetadata()
    spec: RunSpec


class ClusterScopedMetadata(Metadata, frozen=True, kw_only=True):
    """Metadata of a NodeObservability. What the store gives may be sent back and is ignored."""

    namespace: Literal[""] = ""


class NodeObservabilityDocument(Document, frozen=True, kw_only=True):
    """Body of ``POST`` and ``PUT``; ``status`` may be sent back and is ignored."""

    api_version: Literal["nodeobservability.olm.openshift.io/v1beta1"] = "nodeobservability.olm.openshift.io/v1beta1"
    kind: Literal["NodeObservability"] = "NodeObservability"
    metadata: ClusterScopedMetadata
    spec: NodeObservabilitySpec = NodeObservabilitySpec()
    status: dict[str, Any] = field(default_factory=dict)


def encode_resource(resource: Resource) -> bytes:
    """JSON of a resource, with the apiVersion and kind that its class implies."""
    head = f'{{"apiVersion":"{API_VERSION}","kind":"{resource.KIND}",'
    return head.encode() + encode_json(resource)[1:]


def resource_answer(resource: Resource, status: int = 200) -> Response:
    """The resource; its ETag is the resourceVersion, which ``If-Match`` takes."""
    answer = Response(encode_resource(resource), status, content_type="application/json")
    answer.set_etag(resource.metadata.resource_version)
    return answer


def list_answer(kind: type[Resource], items: Sequence[Resource], *, revision: str, left: int) -> Response:
    """A list of resources; ``left`` is how many more there are that the limit cut off."""
    head = (
        f'{{"apiVersion":"{API_VERSION}","kind":"{kind.KIND}List",'
        f'"metadata":{{"resourceVersion":"{revision}","remainingItemCount":{left}}},"items":['
    )
    body = head.encode() + b",".join(encode_resource(item) for item in items) + b"]}"
    return Response(body, content_type="application/json")
