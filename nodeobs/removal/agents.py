"""The agents that the service made, and the webhook by which the API server asks it."""

from __future__ import annotations

from functools import partial
from typing import Final

import msgspec

from nodeobs.deploy.children import CHILD_LABELS, PATHS
from nodeobs.errors import Conflict, NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.publication import VALIDATIONS
from nodeobs.kube.rbac import SERVICE
from nodeobs.kube.watch import list_pages
from nodeobs.removal.changes import Action, Changes
from nodeobs.typed import decode

_SELECTOR: Final = ",".join(f"{key}={value}" for key, value in CHILD_LABELS.items())

_ELSEWHERE: Final = (
    "{what} stays: it is of agents in namespace {elsewhere}, not in {namespace}; `--agent-namespace {elsewhere}` "
    "deletes these"
)


class _Meta(msgspec.Struct, frozen=True, rename="camel"):
    name: str
    uid: str
    namespace: str = ""
    deletion_timestamp: str | None = None


class _Subject(msgspec.Struct, frozen=True):
    namespace: str = ""


class _Head(msgspec.Struct, frozen=True):
    metadata: _Meta
    subjects: tuple[_Subject, ...] | None = None
    """Of a ClusterRoleBinding."""


def remove_admission(client: KubeClient, changes: Changes) -> None:
    """Delete the webhook configuration, so that nothing is refused because nobody checks it."""
    path = VALIDATIONS.item(SERVICE)
    try:
        client.get(path)
    except NotFound:
        return
    changes.make(Action.DELETE, f"ValidatingWebhookConfiguration {SERVICE}", lambda: _delete(client, path))


def remove_agents(client: KubeClient, changes: Changes, *, namespace: str) -> None:
    """Delete everything that the service made for agents: what has all labels that it gives, and nothing else."""
    # The DaemonSets first: agents are to end before what they need.
    for kind, path in reversed(PATHS.items()):
        within = "" if kind == "ClusterRoleBinding" else namespace
        for page in list_pages(client, path.collection(within), {"labelSelector": _SELECTOR}):
            for item in page.items:
                head = decode(item, _Head)
                meta = head.metadata
                what = f"{kind} {meta.namespace}/{meta.name}" if meta.namespace else f"{kind} {meta.name}"
                if elsewhere := {one.namespace for one in head.subjects or ()} - {"", namespace}:
                    changes.note(_ELSEWHERE.format(what=what, namespace=namespace, elsewhere=min(elsewhere)))
                elif meta.deletion_timestamp is None:
                    at = path.item(meta.name, meta.namespace)
                    changes.make(Action.DELETE, what, partial(_delete, client, at, meta.uid))


def _delete(client: KubeClient, path: str, uid: str = "") -> None:
    try:
        client.request("DELETE", path, {"preconditions": {"uid": uid}} if uid else None)
    except (NotFound, Conflict):  # the latter where another has that name
        return
