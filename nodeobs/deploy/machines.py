"""OpenShift's machine configuration as far as it matters here: nodes, pools, and the objects to be made. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from nodeobs.deploy.drift import APPLIED, Held, stamped
from nodeobs.kube.paths import ResourcePath
from nodeobs.kube.rbac import MACHINE_CONFIG, MACHINE_GROUP, MACHINE_POOL
from nodeobs.model import decode_json

Json = dict[str, Any]

API_VERSION: Final = f"{MACHINE_GROUP}/v1"
PATHS: Final[Mapping[str, ResourcePath]] = {
    "MachineConfig": ResourcePath(f"/apis/{API_VERSION}", "machineconfigs"),
    "MachineConfigPool": ResourcePath(f"/apis/{API_VERSION}", "machineconfigpools"),
}
LABEL: Final = f"node-role.kubernetes.io/{MACHINE_POOL}"
"""Label of the pool's nodes."""
WORKERS: Final = "worker"
"""Pool that nodes come from, and go back to."""
NODE_MANAGER: Final = "nodeobs-machine-configs"
"""Field manager of the label: what others set is theirs."""

_CONTROL_PLANE = ("node-role.kubernetes.io/master", "node-role.kubernetes.io/control-plane")
_ROLE = f"{MACHINE_GROUP}/role"
_CONFIGS = tuple(f"{MACHINE_GROUP}/{which}Config" for which in ("current", "desired"))
_RENDERED = f"rendered-{MACHINE_POOL}-"
_OURS = {"app.kubernetes.io/managed-by": "nodeobs", "app.kubernetes.io/part-of": "nodeobs"}
_DROP_IN = '[Service]\nEnvironment="ENABLE_PROFILE_UNIX_SOCKET=true"'


class _Read(msgspec.Struct, frozen=True, rename="camel"):
    """Base of what is read of an object; what is absent may also be null."""


class _ManagedFields(_Read, frozen=True):
    manager: str = ""
    operation: str = ""
    fields_v1: dict[str, Any] | None = msgspec.field(default=None, name="fieldsV1")


class _NodeMetadata(_Read, frozen=True):
    name: str
    uid: str = ""
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    managed_fields: tuple[_ManagedFields, ...] | None = None


class _Node(_Read, frozen=True):
    metadata: _NodeMetadata


class PoolCondition(_Read, frozen=True):
    """One condition of a pool: Updated, Updating, Degraded and the like."""

    type: str
    status: str
    reason: str | None = None
    message: str | None = None


class _Source(_Read, frozen=True):
    name: str = ""


class _Configuration(_Read, frozen=True):
    source: tuple[_Source, ...] | None = None


class _PoolStatus(_Read, frozen=True):
    observed_generation: int = 0
    machine_count: int = 0
    updated_machine_count: int = 0
    conditions: tuple[PoolCondition, ...] | None = None
    configuration: _Configuration | None = None


class _Object(_Read, frozen=True):
    spec: dict[str, Any] | None = None


class _Pool(_Read, frozen=True):
    status: _PoolStatus | None = None


class Machine(msgspec.Struct, frozen=True):
    """A node of the cluster."""

    name: str
    uid: str
    labels: Mapping[str, str]
    ours: bool
    """Whether it has :data:`LABEL` from us."""
    in_pool: bool
    """Whether it has a configuration of the pool's, or is about to."""

    @property
    def labelled(self) -> bool:
        """Whether it has the label as the pool selects it, whoever set it."""
        return self.labels.get(LABEL) == ""

    @property
    def mislabelled(self) -> bool:
        """Whether somebody gave the label a value, with which the pool does not select it."""
        return bool(self.labels.get(LABEL))

    @property
    def control_plane(self) -> bool:
        """Whether it is the control plane's, whose pool it cannot leave."""
        return any(role in self.labels for role in _CONTROL_PLANE)

    def is_selected(self, selector: Mapping[str, str]) -> bool:
        """Whether it has all these labels."""
        return all(self.labels.get(key) == value for key, value in selector.items())


class Made(msgspec.Struct, frozen=True):
    """A MachineConfig or a pool: ours, or somebody else's of that name."""

    held: Held
    spec: Mapping[str, Any]

    @property
    def ours(self) -> bool:
        """Whether we made it."""
        return is_ours(self.held)

    def unchanged(self, document: Json) -> Held | None:
        """The object, if its spec has what the document says; who owns its fields does not tell of all that is free."""
        return self.held if _has(self.spec, document["spec"]) else None


class Pool(Made, frozen=True):
    """A MachineConfigPool."""

    status: _PoolStatus

    @property
    def name(self) -> str:
        """Its name."""
        return self.held.metadata.name

    @property
    def degraded(self) -> PoolCondition | None:
        """The condition that tells what is wrong."""
        return next((one for one in self._true if one.type == "Degraded"), None)

    @property
    def updated(self) -> bool:
        """Whether all of its machines have what it says now."""
        types = {one.type for one in self._true}
        status = self.status
        current = status.observed_generation >= self.held.metadata.generation
        return (
            current
            and "Updated" in types
            and "Updating" not in types
            and status.updated_machine_count == status.machine_count
        )

    @property
    def progress(self) -> str:
        """How many machines have it, in a sentence."""
        status = self.status
        paused = ", and is paused: nothing happens until its spec.paused is false" if self.spec.get("paused") else ""
        return (
            f"MachineConfigPool {self.name} is being rolled out, for which nodes restart: "
            f"{status.updated_machine_count} of {status.machine_count} nodes are done{paused}"
        )

    def has(self, machine_config: str) -> bool:
        """Whether its machines were given the MachineConfig of that name."""
        configuration = self.status.configuration
        return any(one.name == machine_config for one in (configuration and configuration.source) or ())

    @property
    def _true(self) -> list[PoolCondition]:
        return [one for one in self.status.conditions or () if one.status == "True"]


def read_machine(raw: bytes) -> Machine:
    """From a Node's JSON; InvalidInput for what is none."""
    meta = decode_json(raw, _Node).metadata
    labels, annotations = meta.labels or {}, meta.annotations or {}
    ours = LABEL in labels and any(_owns_label(entry) for entry in meta.managed_fields or ())
    in_pool = any(annotations.get(key, "").startswith(_RENDERED) for key in _CONFIGS)
    return Machine(meta.name, meta.uid, labels, ours, in_pool)


def read_made(raw: bytes) -> Made:
    """From JSON; InvalidInput for what is none."""
    return Made(decode_json(raw, Held), decode_json(raw, _Object).spec or {})


def read_pool(raw: bytes) -> Pool:
    """From JSON; InvalidInput for what is none."""
    made = read_made(raw)
    return Pool(made.held, made.spec, decode_json(raw, _Pool).status or _PoolStatus())


def is_ours(held: Held) -> bool:
    """Whether we made it; what has its name by chance is somebody else's."""
    return APPLIED in (held.metadata.annotations or {})


def machine_config() -> Json:
    """The MachineConfig: CRI-O's drop-in, as the node-observability operator had it."""
    unit = {"name": "crio.service", "dropins": [{"name": "10-mco-profile-unix-socket.conf", "contents": _DROP_IN}]}
    return stamped(
        {
            "apiVersion": API_VERSION,
            "kind": "MachineConfig",
            "metadata": {"name": MACHINE_CONFIG, "labels": {_ROLE: MACHINE_POOL, **_OURS}},
            "spec": {"config": {"ignition": {"version": "3.2.0"}, "systemd": {"units": [unit]}}},
        }
    )


def machine_config_pool() -> Json:
    """The pool of the labelled nodes: all that workers have, and our MachineConfig."""
    roles = {"key": _ROLE, "operator": "In", "values": [WORKERS, MACHINE_POOL]}
    return stamped(
        {
            "apiVersion": API_VERSION,
            "kind": "MachineConfigPool",
            "metadata": {"name": MACHINE_POOL, "labels": dict(_OURS)},
            "spec": {
                "machineConfigSelector": {"matchExpressions": [roles]},
                "nodeSelector": {"matchLabels": {LABEL: ""}},
            },
        }
    )


def node_with(machine: Machine, *, label: bool) -> Json:
    """What is applied to a node; without the label, ours goes and somebody else's stays.

    The uid keeps a node that has gone meanwhile from being made.
    """
    metadata: Json = {"name": machine.name, "uid": machine.uid}
    if label:
        metadata["labels"] = {LABEL: ""}
    return {"apiVersion": "v1", "kind": "Node", "metadata": metadata}


def _has(found: object, wanted: object) -> bool:
    """Whether all that is wanted is there. What others add to a map stays, also where ours is applied again."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(_has(found.get(key), value) for key, value in wanted.items())
    return found == wanted


def _owns_label(entry: _ManagedFields) -> bool:
    fields = (entry.fields_v1 or {}).get("f:metadata", {}).get("f:labels", {})
    return (entry.manager, entry.operation) == (NODE_MANAGER, "Apply") and f"f:{LABEL}" in fields
