"""The CustomResourceDefinitions: what the types cannot say, and how the old versions differ."""

from __future__ import annotations

import base64
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from nodeobs.kube.schemas import Schema, structural_schema
from nodeobs.model import GROUP, NodeObservability, NodeObservabilityMachineConfig, Resource, Run
from nodeobs.model.versions import STORAGE_VERSION, VERSIONS

CONVERT_PATH: Final = "/webhooks/convert"

_CHANGEABLE: Final = ("cancel", "ttlSecondsAfterFinished")
_URL: Final = r"^https?://[^/?#@\\s]+([/?#]\\S*)?$"
_SELECTABLE: Final = {
    "selectableFields": [{"jsonPath": ".spec.nodeObservabilityRef.name"}, {"jsonPath": ".status.phase"}]
}


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """Where the API server calls the service: its Service on port 443 (``namespace``, ``service``), or at ``url``.

    ``ca_bundle`` is PEM. Where it is empty the field is left out: applying the rest then leaves alone what is there.
    """

    namespace: str = ""
    service: str = ""
    url: str = ""
    ca_bundle: bytes = b""

    def client_config(self, path: str) -> dict[str, Any]:
        """The ``clientConfig`` of a webhook at that path."""
        where: dict[str, Any] = {"url": self.url.rstrip("/") + path}
        if not self.url:
            service = {"namespace": self.namespace, "name": self.service, "path": path, "port": 443}
            where = {"service": service}
        return where | ({"caBundle": base64.b64encode(self.ca_bundle).decode()} if self.ca_bundle else {})


@dataclass(frozen=True, kw_only=True)
class _Definition:
    """What sets one resource apart from the others."""

    kind: type[Resource]
    plural: str
    short: str
    scope: str

    @property
    def crd_name(self) -> str:
        return f"{self.plural}.{GROUP}"


_OBSERVABILITIES: Final = _Definition(
    kind=NodeObservability, plural="nodeobservabilities", short="nob", scope="Cluster"
)
_RUNS: Final = _Definition(kind=Run, plural="nodeobservabilityruns", short="nobr", scope="Namespaced")
_MACHINE_CONFIGS: Final = _Definition(
    kind=NodeObservabilityMachineConfig, plural="nodeobservabilitymachineconfigs", short="nobmc", scope="Cluster"
)
_ALL: Final = (_OBSERVABILITIES, _RUNS, _MACHINE_CONFIGS)

CRD_NAMES: Final = tuple(definition.crd_name for definition in _ALL)


def crds(*, webhook: Webhook | None) -> list[dict[str, Any]]:
    """The three CustomResourceDefinitions, as the API server takes them.

    Without ``webhook`` the versions are not converted into each other; then only one of them may be used.
    """
    return [_crd(definition, webhook) for definition in _ALL]


def _crd(definition: _Definition, webhook: Webhook | None) -> dict[str, Any]:
    kind = definition.kind.KIND
    schema = structural_schema(definition.kind)
    conversion: dict[str, Any] = {"strategy": "None"}
    if webhook is not None:
        client_config = webhook.client_config(CONVERT_PATH)
        conversion = {
            "strategy": "Webhook",
            "webhook": {"conversionReviewVersions": ["v1"], "clientConfig": client_config},
        }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": definition.crd_name, "labels": {"app.kubernetes.io/part-of": "nodeobs"}},
        "spec": {
            "group": GROUP,
            "scope": definition.scope,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": definition.plural,
                "singular": kind.lower(),
                "shortNames": [definition.short],
                "categories": ["nodeobs"],
            },
            "conversion": conversion,
            "versions": [_version(definition, version, deepcopy(schema)) for version in VERSIONS],
        },
    }


def _version(definition: _Definition, version: str, schema: Schema) -> dict[str, Any]:
    _complete(definition, version, schema)
    # Only there: the API server refuses the same ones in versions whose schemas differ.
    selectable = _SELECTABLE if definition is _RUNS and version == STORAGE_VERSION else {}
    return {
        "name": version,
        "served": True,
        "storage": version == STORAGE_VERSION,
        "subresources": {"status": {}},
        "schema": {"openAPIV3Schema": schema},
        "additionalPrinterColumns": _columns(definition, version),
        **selectable,
    }


def _complete(definition: _Definition, version: str, schema: Schema) -> None:
    spec, status = (schema["properties"][part] for part in ("spec", "status"))
    status["properties"]["conditions"] |= _map_by("type")
    if definition is _RUNS:
        _complete_run(spec)
    if definition is _OBSERVABILITIES:
        _complete_targets(spec["properties"]["targets"])
        message = "a toleration without key tolerates every taint: its operator must be Exists"
        toleration = spec["properties"]["tolerations"]["items"]
        _rule(toleration, "self.key != '' || self.operator == 'Exists'", message)
    if version != STORAGE_VERSION:
        _make_old(definition, version, schema)


def _complete_run(spec: Schema) -> None:
    fields = spec["properties"]
    for name in ("profiles", "targets", "nodes"):
        fields[name]["x-kubernetes-list-type"] = "set"
    duration = fields["durationSeconds"]
    low, high = duration.pop("minimum"), duration.pop("maximum")
    # A rule instead of bounds, whose messages tell one end each.
    _rule(duration, f"self >= {low} && self <= {high}", f"durationSeconds must be {low} to {high}")
    _rule(fields["cancel"], "self || !oldSelf", "cancel can be set to true only: it cannot be taken back")
    message = f"cannot be changed: of a Run only {' and '.join(_CHANGEABLE)} can; create another Run instead"
    for name, field in fields.items():
        if name not in _CHANGEABLE:
            rule = f"self.{name} == oldSelf.{name}"
            if "default" not in field and name not in spec["required"]:
                rule = f"has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || {rule})"
            _rule(spec, rule, message, fieldPath=f".{name}")


def _complete_targets(targets: Schema) -> None:
    targets |= _map_by("name")
    target = targets["items"]
    _rule(target, "!has(self.url) || !has(self.socket)", "a target has a url or a socket, not both")
    message = "must begin with http:// or https:// and name a host, without credentials"
    _rule(target["properties"]["url"], f"self.matches('{_URL}')", message)


def _make_old(definition: _Definition, version: str, schema: Schema) -> None:
    """Upstream's shapes, and what it requires; every other field is there too, so that nothing is lost."""
    spec, status = (schema["properties"][part] for part in ("spec", "status"))
    fields = spec["properties"]
    if definition is _MACHINE_CONFIGS:
        if version == "v1alpha1":
            fields["nodeSelector"]["default"] = {"node-role.kubernetes.io/worker": ""}  # what it always meant there
        else:
            _require(schema, "nodeSelector")
        return
    conditions = status["properties"]["conditions"]
    status["properties"]["conditions"] = {
        "type": "object",
        "description": conditions["description"],
        "properties": {"conditions": conditions},
        "default": {},
    }
    if definition is _OBSERVABILITIES:
        if version == "v1alpha1":
            fields["labels"] = fields.pop("nodeSelector")
        else:
            _require(schema, "nodeSelector", "type")


def _require(schema: Schema, *names: str) -> None:
    spec = schema["properties"]["spec"]
    schema["required"] = ["spec"]
    spec["required"] = list(names)
    del spec["default"]
    for name in names:
        del spec["properties"][name]["default"]


def _columns(definition: _Definition, version: str) -> list[dict[str, Any]]:
    age = _column("Age", ".metadata.creationTimestamp", kind="date")
    if definition is _RUNS:
        return [
            _column("Ref", ".spec.nodeObservabilityRef.name", text="The NodeObservability."),
            _column("Phase", ".status.phase", text="Where the Run stands."),
            _column("Nodes", ".status.summary.nodes", kind="integer", text="Nodes that were asked."),
            _column("Failed", ".status.summary.failed", kind="integer", text="Nodes that delivered nothing."),
            age,
            _column("Output", ".status.output", wide=True, text="Where the profiles are."),
        ]
    if definition is _OBSERVABILITIES:
        conditions = ".status.conditions" if version == STORAGE_VERSION else ".status.conditions.conditions"
        return [
            _column("Type", ".spec.type", text="What is profiled."),
            _column("Nodes", ".status.count", kind="integer", text="Nodes with an agent."),
            _column("Ready", f'{conditions}[?(@.type=="Ready")].status', text="Whether every agent can profile."),
            age,
            _column("Targets", ".status.targets", wide=True, text="Targets that a Run may name."),
        ]
    return [
        _column("CRIO-Profiling", ".spec.debug.enableCrioProfiling", kind="boolean", text="Whether it is wanted."),
        _column("Ready", '.status.conditions[?(@.type=="Ready")].status', text="Whether all is done."),
        age,
    ]


def _column(name: str, path: str, *, kind: str = "string", wide: bool = False, text: str = "") -> dict[str, Any]:
    column: dict[str, Any] = {"name": name, "type": kind, "jsonPath": path}
    return column | ({"priority": 1} if wide else {}) | ({"description": text} if text else {})


def _map_by(key: str) -> Schema:
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [key]}


def _rule(schema: Schema, rule: str, message: str, **more: str) -> None:
    schema.setdefault("x-kubernetes-validations", []).append({"rule": rule, "message": message, **more})
