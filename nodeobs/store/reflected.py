"""Reading from memory what the API server holds: for answers that may not wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import cast

from nodeobs.errors import NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import OBSERVABILITIES, RUNS
from nodeobs.kube.watch import Reflector
from nodeobs.model import NodeObservability, Phase, Run, decode_json
from nodeobs.store.base import R, Reader

_UNFINISHED = ",".join(f"status.phase!={phase.value}" for phase in Phase if phase.final)


@dataclass(frozen=True)
class ReflectedReader:
    """A :class:`~nodeobs.store.base.Reader` of NodeObservabilities and unfinished Runs, a moment behind.

    While one of them cannot be followed, ``store`` is read instead.
    """

    store: Reader
    observabilities: Reflector[NodeObservability]
    runs: Reflector[Run]

    @classmethod
    def of(cls, client: KubeClient, store: Reader, *, randomness: Random) -> ReflectedReader:
        """Follow them at that API server, from :meth:`start` on."""
        return cls(
            store,
            Reflector(
                client,
                OBSERVABILITIES.collection(),
                partial(decode_json, kind=NodeObservability),
                randomness=randomness,
            ),
            Reflector(
                client,
                RUNS.collection(),
                partial(decode_json, kind=Run),
                params={"fieldSelector": _UNFINISHED},
                randomness=randomness,
            ),
        )

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self.observabilities.start()
        self.runs.start()

    def close(self) -> None:
        """End the threads."""
        self.observabilities.close()
        self.runs.close()

    def get(self, kind: type[R], name: str, namespace: str = "") -> R:
        """The object; see :class:`~nodeobs.store.base.Reader`."""
        following = self._following(kind)
        if not following.is_current:
            return self.store.get(kind, name, namespace)
        found = following.get(name, namespace)
        if found is None:
            raise NotFound(f"there is no {kind.KIND} {name!r}")
        return found

    def list(self, kind: type[R], *, unfinished: bool = False) -> Sequence[R]:
        """All objects, in no particular order; see :class:`~nodeobs.store.base.Reader`."""
        following = self._following(kind)
        return following.items() if following.is_current else self.store.list(kind, unfinished=unfinished)

    def _following(self, kind: type[R]) -> Reflector[R]:
        return cast("Reflector[R]", self.runs if kind is Run else self.observabilities)
