"""Objects that an older version stored are written anew, so that their version need not be kept for ever.

What the API server has stored as ``v1alpha2`` stays so until somebody writes it; as long as one such object may be
there, the definition's ``status.storedVersions`` names the version and it cannot be taken out.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import msgspec
import structlog

from nodeobs.errors import Conflict, InvalidInput, NodeobsError, NotFound, StoreDenied
from nodeobs.kube.client import KubeClient
from nodeobs.model import API_VERSION, GROUP
from nodeobs.typed import decode

log = structlog.get_logger(__name__)

STORAGE_VERSION: Final = API_VERSION.rpartition("/")[2]

_DEFINITIONS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
_RETRY_SECONDS = 30.0
_PAGE = "10"
"""A Run over 5,000 nodes has up to a mebibyte, and takes ten in memory."""


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    stored_versions: tuple[str, ...] = ()


class _Definition(msgspec.Struct, frozen=True):
    metadata: dict[str, Any]
    status: _Status = _Status()


class _Page(msgspec.Struct, frozen=True):
    metadata: dict[str, Any]
    items: tuple[dict[str, Any], ...]


class Migration:
    """Rewrites the objects of custom resources whose plural names are ``plurals``; the leader's to run."""

    def __init__(self, client: KubeClient, plurals: Sequence[str]) -> None:
        self.left: list[str] = []
        """Objects that the API server does not let be rewritten, and why."""
        self._client = client
        self._plurals = plurals

    def run(self, stop: threading.Event) -> None:
        """Body of a thread: until all is stored in the storage version, or ``stop`` is set."""
        left = list(self._plurals)
        while left and not stop.is_set():
            plural = left[0]
            try:
                self.migrate(plural, stop)
            except NotFound:
                log.info("custom resource is not installed", resource=plural)
            except (NodeobsError, msgspec.DecodeError) as error:
                log.warning("old objects could not be rewritten yet", resource=plural, error=str(error))
                stop.wait(_RETRY_SECONDS)
                continue
            left.pop(0)

    def migrate(self, plural: str, stop: threading.Event) -> int:
        """Number of objects that were written anew; nothing is asked for where nothing old can be there.

        Raises:
            NotFound: there is no such custom resource.
            NodeobsError: the API server cannot be reached, or refuses; what was rewritten stays so.
        """
        path = f"{_DEFINITIONS}/{plural}.{GROUP}"
        definition = decode(self._client.get(path), _Definition)
        if set(definition.status.stored_versions) <= {STORAGE_VERSION}:
            return 0
        count, token, complete = 0, "", True
        self.left.clear()
        while not stop.is_set():
            params = {"limit": _PAGE} | ({"continue": token} if token else {})
            page = decode(self._client.get(f"/apis/{API_VERSION}/{plural}", params), _Page)
            written = [self._rewrite(plural, found) for found in page.items]
            count += written.count(True)
            complete = complete and all(written)
            token = page.metadata.get("continue") or ""
            if not token:
                if complete:
                    self._forget_versions(path, definition)
                log.info("old objects rewritten", resource=plural, objects=count, complete=complete)
                return count
        return count

    def _rewrite(self, plural: str, found: dict[str, Any]) -> bool:
        """Whether nothing old is left of it; one that the schema or a policy does not allow stays and is logged."""
        metadata = found["metadata"]
        namespace = f"namespaces/{metadata['namespace']}/" if "namespace" in metadata else ""
        try:
            # Writing what is there already is a write where it is stored in another version.
            self._client.request("PUT", f"/apis/{API_VERSION}/{namespace}{plural}/{metadata['name']}", found)
        except (Conflict, NotFound):
            return True  # somebody else wrote or deleted it meanwhile, which does as well
        except (InvalidInput, StoreDenied) as error:
            log.warning("an old object cannot be rewritten", resource=plural, name=metadata["name"], error=str(error))
            self.left.append(f"{metadata['name']}: {error}")
            return False
        return True

    def _forget_versions(self, path: str, definition: _Definition) -> None:
        patch = {
            "metadata": {"resourceVersion": definition.metadata["resourceVersion"]},
            "status": {"storedVersions": [STORAGE_VERSION]},
        }
        self._client.request("PATCH", f"{path}/status", patch, content_type="application/merge-patch+json")
