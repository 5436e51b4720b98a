"""Writes children where they differ from what is wanted, and nothing else; never the same one in quick succession."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from nodeobs.deploy.children import PATHS
from nodeobs.deploy.drift import APPLIED, MANAGER, Held, digest_of
from nodeobs.errors import NodeobsError, NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import ResourcePath
from nodeobs.model import decode_json

log = structlog.get_logger(__name__)

Json = dict[str, Any]

_OURS: Final = {f"app.kubernetes.io/{label}": "nodeobs" for label in ("managed-by", "part-of")}
_PAUSE_SECONDS: Final = 5.0
_MAX_PAUSE_SECONDS: Final = 60.0
_KNOWN_SECONDS: Final = 600.0
"""After its pause, an attempt is known for so long: names come and go."""


@dataclass(frozen=True)
class _Attempt:
    digest: str
    until: float
    failures: int
    problem: str


class Applier:
    """Keeps children as they are wanted.

    One that was written is left alone for five seconds, in which memory comes to know of it; one that cannot be
    written for longer each time, up to a minute. Only another wish is written at once.
    """

    def __init__(
        self, client: KubeClient, *, monotonic: Callable[[], float], paths: Mapping[str, ResourcePath] = PATHS
    ) -> None:
        """``paths`` are those of the kinds that it writes."""
        self._client = client
        self._paths = paths
        self._monotonic = monotonic
        self._attempts: dict[tuple[str, str], _Attempt] = {}
        self.due = False
        """Whether something is to be done that has to wait."""

    def keep(self, document: Json, held: Held | None, *, others: Collection[str]) -> str:
        """See to it that the object is as the (stamped) document says; why it is not, or empty.

        ``held`` is the object as memory has it. It may not be a child of ``others``, which are uids.
        """
        if held is not None and held.is_as(document):
            return ""
        kind, metadata = document["kind"], document["metadata"]
        path = self._paths[kind].item(metadata["name"], metadata.get("namespace", ""))
        return self.attempt(
            (kind, metadata["name"]), digest_of(document), lambda: self._apply(path, document, held, others)
        )

    def remove(self, kind: str, held: Held) -> str:
        """See to it that the object is gone; why it is not, or empty."""
        metadata = held.metadata
        if metadata.deletion_timestamp is not None:
            return ""
        path = self._paths[kind].item(metadata.name, metadata.namespace)
        return self.attempt((kind, metadata.name), "removed", lambda: self._delete(path, metadata.uid))

    def attempt(self, key: tuple[str, str], digest: str, write: Callable[[], None]) -> str:
        """Write now, unless the same (by its ``digest``) was tried just now; why it failed, or empty.

        ``key`` is the object's kind and name.
        """
        last, now = self._attempts.get(key), self._monotonic()
        if last is not None and last.digest == digest and now < last.until:
            self.due = True
            return last.problem
        self._attempts = {of: one for of, one in self._attempts.items() if now < one.until + _KNOWN_SECONDS}
        try:
            write()
        except NodeobsError as error:
            failures = last.failures + 1 if last is not None and last.digest == digest else 1
            pause = min(_MAX_PAUSE_SECONDS, _PAUSE_SECONDS * 2 ** min(failures - 1, 9))
            problem = f"{key[0]} {key[1]} cannot be written: {error}"
            log.warning("an object cannot be written", kind=key[0], name=key[1], error=str(error))
            self._attempts[key] = _Attempt(digest, now + pause, failures, problem)
            self.due = True
            return problem
        self._attempts[key] = _Attempt(digest, now + _PAUSE_SECONDS, 0, "")
        return ""

    def _apply(self, path: str, document: Json, held: Held | None, others: Collection[str]) -> None:
        name = document["metadata"]["name"]
        there = held or self._unlabelled(path)
        if there is not None and (there.owners & set(others) or not _is_ours(there)):
            raise NodeobsError("somebody else's object has its name; delete or rename that one")
        log.info("writing an object", kind=document["kind"], name=name, new=there is None)
        self._client.request(
            "PATCH",
            path,
            document,
            params={"fieldManager": MANAGER, "force": "true"},
            content_type="application/apply-patch+yaml",
        )

    def _unlabelled(self, path: str) -> Held | None:
        """The object, where there is one without the labels that memory follows."""
        try:
            return decode_json(self._client.get(path), Held)
        except NotFound:
            return None

    def _delete(self, path: str, uid: str) -> None:
        log.info("removing an object", path=path)
        try:
            self._client.request("DELETE", path, {"preconditions": {"uid": uid}})
        except NotFound:
            return


def _is_ours(there: Held) -> bool:
    """Whether nodeobs made it, here or by what ``nodeobs manifests`` prints; whatever became of its labels."""
    labels = there.metadata.labels or {}
    return APPLIED in (there.metadata.annotations or {}) or any(labels.get(key) == _OURS[key] for key in _OURS)
