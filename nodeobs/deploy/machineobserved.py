"""NodeObservabilityMachineConfigs, and what they change, in memory: the latter only where one is to change it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace as change
from random import Random
from typing import Any, Final, NamedTuple, TypeVar

import msgspec
import structlog

from nodeobs.deploy.drift import Held
from nodeobs.deploy.machineconfigs import View, asks, is_held
from nodeobs.deploy.machines import (
    API_VERSION,
    LABEL,
    PATHS,
    Machine,
    Made,
    Pool,
    is_ours,
    read_machine,
    read_made,
    read_pool,
)
from nodeobs.errors import InvalidInput, NotFound
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import MACHINE_CONFIGS, NODES
from nodeobs.kube.rbac import MACHINE_CONFIG, MACHINE_POOL
from nodeobs.kube.watch import Failing, Reflector, list_pages, metadata_of
from nodeobs.model import Document, MachineConfigSpec, Metadata, NodeObservabilityMachineConfig, decode_json
from nodeobs.typed import decode

log = structlog.get_logger(__name__)

T = TypeVar("T")

_PATIENCE_SECONDS: Final = 10.0
"""After which it is told that something cannot be read."""
_BEHIND_SECONDS: Final = 60.0
"""After which it is told that something cannot be followed any more, as where a right was taken away; an API server
that restarts is followed again before that."""


class Stored(NamedTuple):
    """A NodeObservabilityMachineConfig, and all of it as the API server has it."""

    config: NodeObservabilityMachineConfig
    raw: bytes


class Unread(NamedTuple):
    """A NodeObservabilityMachineConfig that cannot be read; it may well be one that is on."""

    name: str


class _Wish(Document, frozen=True, kw_only=True):
    """All of one but the status, which is ours to write anew."""

    metadata: Metadata
    spec: MachineConfigSpec = msgspec.field(default_factory=MachineConfigSpec)


class _Resource(msgspec.Struct, frozen=True):
    name: str = ""


class _Resources(msgspec.Struct, frozen=True):
    resources: tuple[_Resource, ...] | None = None


class _Machinery(NamedTuple):
    """What is followed once there is something to change."""

    nodes: Reflector[Machine]
    machine_configs: Reflector[Made]
    pools: Reflector[Pool]


class MachinesObserved:
    """Follows them; ``changed`` is called, by other threads, when any of it changes."""

    def __init__(self, client: KubeClient, *, openshift: bool, randomness: Random, changed: Callable[[], None]) -> None:
        self._client = client
        self._openshift = openshift
        self._randomness = randomness
        self._changed = changed
        self.configs = self._following(MACHINE_CONFIGS.collection(), read_stored)
        self._machinery: _Machinery | None = None

    def start(self) -> None:
        """Begin; returns at once."""
        self.configs.start()

    def close(self) -> None:
        """End the threads, within a second."""
        everything: list[Reflector[Any]] = [self.configs, *(self._machinery or ())]
        with ThreadPoolExecutor(len(everything)) as pool:
            list(pool.map(Reflector.close, everything))

    def view(self, everyone: Sequence[Stored | Unread]) -> View | None:
        """The cluster now, with these as what is wanted of it; None while it is not known yet.

        Raises:
            NodeobsError: the API server does not say whether it has machine configuration.
        """
        configs = [one.config for one in everyone if isinstance(one, Stored)]
        unread = [one.name for one in everyone if isinstance(one, Unread)]
        view = View(openshift=self._openshift, configs=configs, unread=unread)
        if not self._openshift:
            return change(view, stranded=any(map(is_held, configs)) and self._is_served())
        if self._machinery is None:
            if not any(asks(one) or is_held(one) for one in configs) or not self._is_served():
                return view
            self._machinery = self._start_machinery()
        nodes, machine_configs, pools = self._machinery
        synced = all(reflector.has_synced for reflector in self._machinery)
        since = min((failing.since for failing in self._failing), default=math.inf)
        late = time.monotonic() - since > (_BEHIND_SECONDS if synced else _PATIENCE_SECONDS)
        if late or not synced:
            return View(openshift=True, served=True, known=False, configs=configs, unread=unread) if late else None
        return View(
            openshift=True,
            served=True,
            configs=configs,
            unread=unread,
            machines=nodes.items(),
            machine_config=machine_configs.get(MACHINE_CONFIG),
            pools={pool.name: pool for pool in pools.items()},
        )

    @property
    def is_followed(self) -> bool:
        """Whether nothing of it fails to be followed."""
        return not self._failing

    @property
    def _failing(self) -> list[Failing]:
        return [failing for reflector in self._machinery or () if (failing := reflector.failing) is not None]

    def is_clean(self, view: View) -> bool:
        """Whether nothing is left of what is off, by the cluster itself: memory may be behind our own writes."""
        if not self.is_unlabelled(view.wanted):
            return False
        if view.asking:
            return True
        names = {"MachineConfig": MACHINE_CONFIG, "MachineConfigPool": MACHINE_POOL}
        return not any(self._is_there(kind, name) for kind, name in names.items())

    def is_unlabelled(self, wanted: Collection[str] = ()) -> bool:
        """Whether no node but those has our label, by the cluster itself."""
        pages = list_pages(self._client, NODES.collection(), {"labelSelector": LABEL})
        found = (machine for page in pages for machine in map(read_machine, page.items))
        return not any(machine.ours and machine.name not in wanted for machine in found)

    def is_left(self) -> bool:
        """Whether no node is in the pool, or about to be, by the cluster itself."""
        pages = list_pages(self._client, NODES.collection())
        found = (machine for page in pages for machine in map(read_machine, page.items))
        return not any(machine.labelled or machine.in_pool for machine in found)

    def _is_there(self, kind: str, name: str) -> bool:
        try:
            return is_ours(decode(self._client.get(PATHS[kind].item(name)), Held))
        except NotFound:
            return False

    def _is_served(self) -> bool:
        try:
            found = decode(self._client.get(f"/apis/{API_VERSION}"), _Resources)
        except NotFound:
            return False
        return {path.plural for path in PATHS.values()} <= {one.name for one in found.resources or ()}

    def _start_machinery(self) -> _Machinery:
        named = {"fieldSelector": f"metadata.name={MACHINE_CONFIG}"}
        made = _Machinery(
            nodes=self._following(NODES.collection(), read_machine),
            machine_configs=self._following(PATHS["MachineConfig"].collection(), read_made, named),
            pools=self._following(PATHS["MachineConfigPool"].collection(), read_pool),
        )
        for reflector in made:
            reflector.start()
        return made

    def _following(
        self, path: str, read: Callable[[bytes], T], params: Mapping[str, str] | None = None
    ) -> Reflector[T]:
        return Reflector(self._client, path, read, params=params, randomness=self._randomness, changed=self._changed)


def read_stored(raw: bytes) -> Stored | Unread:
    """From JSON; never left out of memory: what one that is there wants is not to be taken for unwanted."""
    try:
        return Stored(decode_json(raw, NodeObservabilityMachineConfig), raw)
    except InvalidInput as error:
        name = metadata_of(raw).name
        log.warning("a NodeObservabilityMachineConfig cannot be read", name=name, reason=str(error))
    try:
        wish = decode_json(raw, _Wish)
    except InvalidInput:
        return Unread(name)
    return Stored(NodeObservabilityMachineConfig(metadata=wish.metadata, spec=wish.spec), raw)
