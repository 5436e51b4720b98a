"""Resources of others that the chart makes objects of: cert-manager's, Prometheus' operator's and OpenShift's.

As much of their schemas as those objects use, so that the API server refuses a field that is not theirs.
"""

from __future__ import annotations

from typing import Any, Final

Schema = dict[str, Any]

_TEXT: Final[Schema] = {"type": "string"}
_FLAG: Final[Schema] = {"type": "boolean"}
_ANY: Final[Schema] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _object(**properties: Schema) -> Schema:
    return {"type": "object", "properties": properties}


def _texts() -> Schema:
    return {"type": "array", "items": _TEXT}


def _map() -> Schema:
    return {"type": "object", "additionalProperties": _TEXT}


def _definition(group: str, kind: str, plural: str, schema: Schema, scope: str = "Namespaced") -> dict[str, Any]:
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": scope,
            "names": {"kind": kind, "plural": plural, "singular": kind.lower()},
            "versions": [{"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}],
        },
    }


_REFERENCE: Final = _object(name=_TEXT, kind=_TEXT, group=_TEXT)
_KEY: Final = _object(name=_TEXT, key=_TEXT)
_CERTIFICATE: Final = _object(
    secretName=_TEXT,
    commonName=_TEXT,
    isCA=_FLAG,
    duration=_TEXT,
    renewBefore=_TEXT,
    dnsNames=_texts(),
    usages=_texts(),
    privateKey=_object(
        algorithm={"type": "string", "enum": ["RSA", "ECDSA", "Ed25519"]},
        size={"type": "integer"},
        rotationPolicy={"type": "string", "enum": ["Never", "Always"]},
    ),
    issuerRef={**_REFERENCE, "required": ["name"]},
)
_ENDPOINT: Final = _object(
    port=_TEXT,
    scheme={"type": "string", "enum": ["http", "https"]},
    path=_TEXT,
    interval=_TEXT,
    authorization=_object(type=_TEXT, credentials=_KEY),
    tlsConfig=_object(serverName=_TEXT, ca=_object(secret=_KEY, configMap=_KEY)),
)
_STRATEGY: Final = _object(type=_TEXT)
_CONSTRAINTS: Final = _object(
    **dict.fromkeys(
        (
            *("allowHostDirVolumePlugin", "allowHostIPC", "allowHostNetwork", "allowHostPID", "allowHostPorts"),
            *("allowPrivilegeEscalation", "allowPrivilegedContainer", "readOnlyRootFilesystem"),
        ),
        _FLAG,
    ),
    **{
        names: _texts()
        for names in (
            *("groups", "users", "volumes", "seccompProfiles"),
            *("allowedCapabilities", "defaultAddCapabilities", "requiredDropCapabilities"),
        )
    },
    **dict.fromkeys(("runAsUser", "seLinuxContext", "fsGroup", "supplementalGroups"), _STRATEGY),
)

DEFINITIONS: Final = [
    _definition("cert-manager.io", "Certificate", "certificates", _object(spec=_CERTIFICATE)),
    _definition(
        "cert-manager.io",
        "Issuer",
        "issuers",
        _object(spec=_object(selfSigned=_object(), ca=_object(secretName=_TEXT))),
    ),
    _definition(
        "monitoring.coreos.com",
        "ServiceMonitor",
        "servicemonitors",
        _object(
            spec=_object(
                selector=_object(matchLabels=_map()),
                namespaceSelector=_object(matchNames=_texts()),
                endpoints={"type": "array", "items": _ENDPOINT},
            )
        ),
    ),
    _definition("monitoring.coreos.com", "PrometheusRule", "prometheusrules", _object(spec=_ANY)),
    _definition(
        "security.openshift.io",
        "SecurityContextConstraints",
        "securitycontextconstraints",
        _CONSTRAINTS,
        scope="Cluster",
    ),
]
