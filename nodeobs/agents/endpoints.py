"""The roster of a cluster: every node, the agent's endpoint on it, and where there is none, why."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from dataclasses import replace as change
from typing import TypeVar

import msgspec
import structlog

from nodeobs.agents.agent import Agent
from nodeobs.agents.pods import Condition, Pod, newest_by_node
from nodeobs.debugpprof import KUBELET
from nodeobs.errors import NodeobsError, NotFound, StoreUnavailable, WatchExpired
from nodeobs.kube.client import KubeClient
from nodeobs.kube.paths import ENDPOINT_SLICES, NODES, PODS
from nodeobs.kube.watch import list_pages
from nodeobs.typed import decode

log = structlog.get_logger(__name__)

T = TypeVar("T")

_LOOK_SECONDS = 3.0
_NO_POD = "no pod of the agents' DaemonSet is there: check its node selector and tolerations"
_GONE = "its endpoint is gone from the agents' Service"


class _Read(msgspec.Struct, frozen=True, rename="camel"):
    """Base of what is read of a built-in kind; what is absent may also be null."""


class _NodeMetadata(_Read, frozen=True):
    name: str
    labels: dict[str, str] | None = None


class _Address(_Read, frozen=True):
    address: str


class _NodeStatus(_Read, frozen=True):
    addresses: tuple[_Address, ...] | None = None
    conditions: tuple[Condition, ...] | None = None


class _Node(_Read, frozen=True):
    metadata: _NodeMetadata
    status: _NodeStatus = _NodeStatus()

    @property
    def problem(self) -> str:
        """Why it is not Ready; empty where it is, or nobody says so."""
        ready = next((condition for condition in self.status.conditions or () if condition.type == "Ready"), None)
        if ready is None or ready.status == "True":
            return ""
        return f"the node is not Ready ({ready.why})" if ready.why else "the node is not Ready"


class _EndpointConditions(_Read, frozen=True):
    ready: bool | None = None
    terminating: bool | None = None


class _TargetRef(_Read, frozen=True):
    uid: str | None = None


class _Endpoint(_Read, frozen=True):
    addresses: tuple[str, ...] = ()
    conditions: _EndpointConditions | None = None
    node_name: str | None = None
    target_ref: _TargetRef | None = None


class _Port(_Read, frozen=True):
    port: int | None = None


class _Slice(_Read, frozen=True):
    address_type: str = ""
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_Port, ...] | None = None


@dataclass(frozen=True)
class _Place:
    """Where one pod of a node listens."""

    hosts: tuple[str, ...]
    port: int
    ready: bool
    terminating: bool


class ClusterRoster:
    """The nodes of a cluster joined with the endpoints of the agents' Service and the agents' pods."""

    def __init__(
        self,
        client: KubeClient,
        *,
        namespace: str,
        service: str,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``namespace`` is the agents', ``service`` the name of their Service there."""
        self._client = client
        self._namespace = namespace
        self._service = service
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._places: Mapping[str, _Place] | None = None
        self._look_again_at = -1.0

    def agents(self) -> list[Agent]:
        """One row for each node of the cluster; without a host where its agent has no endpoint.

        Raises:
            StoreUnavailable: the API server cannot be asked now.
        """
        places = self._look()
        nodes = list(_objects(self._client, NODES.collection(), _Node))
        lacking = any(node.metadata.name not in places or not places[node.metadata.name].ready for node in nodes)
        pods = newest_by_node(_objects(self._client, PODS.collection(self._namespace), Pod)) if lacking else {}
        return [_row(node, places.get(node.metadata.name), pods.get(node.metadata.name)) for node in nodes]

    def locate(self, agent: Agent) -> Agent:
        """The agent where it was last seen; one that was not seen any more keeps its address.

        Returns at once and never raises. Has a thread look for all agents, at most every three seconds.
        """
        with self._lock:
            places, now = self._places, self._monotonic()
            if now >= self._look_again_at:
                self._look_again_at = now + _LOOK_SECONDS
                threading.Thread(target=self._look_quietly, name="roster", daemon=True).start()
        if places is None:
            return agent
        place = places.get(agent.name)
        if place is None:
            return change(agent, ready=False, problem=agent.problem or _GONE)
        problem = "" if place.ready else agent.problem
        return change(_at(agent, place), problem=problem)

    def _look_quietly(self) -> None:
        try:
            self._look()
        except NodeobsError as error:
            log.info("cannot look where the agents are now", error=str(error))
        except Exception:  # a thread's edge
            log.exception("looking where the agents are failed")

    def _look(self) -> Mapping[str, _Place]:
        """Where the agent of each node listens."""
        only = {"labelSelector": f"kubernetes.io/service-name={self._service}"}
        places = _places(_objects(self._client, ENDPOINT_SLICES.collection(self._namespace), _Slice, only))
        with self._lock:
            self._places = places
        return places


class NodeRoster:
    """The nodes of a cluster, for whoever needs no agent on them."""

    def __init__(self, client: KubeClient) -> None:
        self._client = client

    def agents(self) -> list[Agent]:
        """One row for each node, Ready or not, whose kubelet is to be asked through the API server.

        Raises:
            StoreUnavailable: the API server cannot be asked now.
        """
        return [
            change(_bare(node), proxied=True, targets=(KUBELET,), ready=not node.problem, problem=node.problem)
            for node in _objects(self._client, NODES.collection(), _Node)
        ]


def _objects(client: KubeClient, path: str, kind: type[T], params: Mapping[str, str] | None = None) -> Iterator[T]:
    try:
        for page in list_pages(client, path, params):
            for item in page.items:
                yield decode(item, kind)
    except (msgspec.DecodeError, NotFound, WatchExpired) as error:
        raise StoreUnavailable(f"{path} cannot be listed: {error}") from error


def _places(slices: Iterator[_Slice]) -> dict[str, _Place]:
    """The best pod's place for each node: ready before not ready, one that stays before one that goes."""
    found: defaultdict[tuple[str, str], list[tuple[_Slice, _Endpoint]]] = defaultdict(list)
    # IPv4 first: of two families that is the one that works more often.
    for piece in sorted(slices, key=lambda piece: piece.address_type):
        for endpoint in piece.endpoints or ():
            if endpoint.node_name and endpoint.addresses and _port(piece):
                uid = endpoint.target_ref.uid if endpoint.target_ref else None
                found[endpoint.node_name, uid or endpoint.addresses[0]].append((piece, endpoint))
    best: dict[str, _Place] = {}
    for (node, _), pod in found.items():
        place = _place(pod)
        if node not in best or _rank(place) > _rank(best[node]):
            best[node] = place
    return best


def _place(pod: list[tuple[_Slice, _Endpoint]]) -> _Place:
    conditions = [endpoint.conditions or _EndpointConditions() for _, endpoint in pod]
    return _Place(
        hosts=tuple(dict.fromkeys(address for _, endpoint in pod for address in endpoint.addresses)),
        port=_port(pod[0][0]),
        # Null means that nobody knows, and is to be taken for ready (EndpointConditions in discovery/v1).
        ready=any(condition.ready is not False for condition in conditions),
        terminating=all(condition.terminating is True for condition in conditions),
    )


def _port(piece: _Slice) -> int:
    return next((port.port for port in piece.ports or () if port.port), 0)


def _rank(place: _Place) -> tuple[bool, bool]:
    return place.ready, not place.terminating


def _row(node: _Node, place: _Place | None, pod: Pod | None) -> Agent:
    agent = _bare(node)
    if place is not None and place.ready:
        return _at(agent, place)
    problem = "; ".join(filter(None, (pod.problem if pod else _NO_POD, node.problem)))
    return change(_at(agent, place) if place else change(agent, ready=False), problem=problem)


def _bare(node: _Node) -> Agent:
    return Agent(
        name=node.metadata.name,
        labels=node.metadata.labels or {},
        addresses=tuple(address.address for address in node.status.addresses or ()),
    )


def _at(agent: Agent, place: _Place) -> Agent:
    return change(agent, host=place.hosts[0], other_hosts=place.hosts[1:], port=place.port, ready=place.ready)
