"""May this Run start, and which of several goes first? Pure; the same for the API, alerts, admission and the leader."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from nodeobs.agents.via import AGENTS, API_SERVER, EVERY_VIA, NEEDS_CLUSTER, beyond_kubelet
from nodeobs.debugpprof import KUBELET
from nodeobs.errors import (
    InvalidInput,
    MissingNodeObservability,
    NotFound,
    RunInProgress,
    UnknownTarget,
)
from nodeobs.model import GROUP, NodeObservability, NodeObservabilitySpec, Phase, Run, RunSpec, to_builtins
from nodeobs.store.base import Admit, Reader

CREATED_BY: Final = f"{GROUP}/created-by"
"""Annotation that names who asked for a Run; only the service sets it."""

_CHANGEABLE: Final = ("cancel", "ttlSecondsAfterFinished")
_EPOCH = datetime.fromtimestamp(0, UTC)


def admit(run: Run, *, now: Callable[[], datetime], vias: Container[str] = EVERY_VIA) -> Admit:
    """Make the check that a store asks within the transaction that creates ``run``.

    ``vias`` are the ways by which profiles can come in this mode.

    Raises (when it is asked):
        InvalidInput, MissingNodeObservability, UnknownTarget: the Run cannot mean what it says.
        RunInProgress: another Run on the same NodeObservability is going.
    """

    def check(reader: Reader) -> None:
        check_run(run.spec)
        may_exist(run, observability=_find(reader, run.spec.node_observability_ref.name), vias=vias)
        may_start(run, runs=reader.list(Run, unfinished=True), now=now())

    return check


def check_run(spec: RunSpec) -> None:
    """Check what the bounds of a Run's spec do not say.

    Raises:
        InvalidInput: a list holds something twice.
    """
    for field, values in (("profiles", spec.profiles), ("targets", spec.targets), ("nodes", spec.nodes)):
        if len(set(values)) != len(values):
            raise InvalidInput("must not hold anything twice", pointer=f"/spec/{field}")


def check_observability(spec: NodeObservabilitySpec, *, vias: Container[str] = EVERY_VIA) -> None:
    """Check what the bounds of a NodeObservability's spec do not say; ``vias`` as in :func:`admit`.

    Raises:
        InvalidInput: two targets have one name, or a target has a URL that cannot be asked, or a socket as well; or
            what it says of ``via`` is not possible, or not with its targets.
    """
    if spec.via not in vias:
        raise InvalidInput(NEEDS_CLUSTER, pointer="/spec/via")
    for index, why in beyond_kubelet(spec):
        raise InvalidInput(f"{why}; leave it out, or profile by agents", pointer=f"/spec/targets/{index}")
    seen: set[str] = set()
    for index, target in enumerate(spec.targets):
        where = f"/spec/targets/{index}"
        if target.name in seen:
            raise InvalidInput(f"there is a target {target.name!r} already", pointer=f"{where}/name")
        seen.add(target.name)
        if target.url is not None and target.socket is not None:
            raise InvalidInput("a target has a url or a socket, not both", pointer=where)
        if target.url is not None and not _is_web_address(target.url):
            raise InvalidInput("must be an http or https URL with a host and no credentials", pointer=f"{where}/url")


def unsupported(spec: NodeObservabilitySpec) -> Iterator[tuple[str, str]]:
    """Fields, and their values, that are stored and that nothing acts on: no Run can be created on such."""
    if spec.type != "crio-kubelet":
        yield "spec.type", spec.type


def awaited(observability: NodeObservability, *, now: datetime, seconds: float) -> str:
    """What a Run on it still waits for; empty where it may begin.

    Only one that was made within the last ``seconds`` is waited for: later, agents that are missing may be what the
    Run is about.
    """
    created = observability.metadata.creation_timestamp
    if observability.spec.via != AGENTS or created is None or (now - created).total_seconds() >= seconds:
        return ""
    ready = next((one for one in observability.status.conditions if one.type == "Ready"), None)
    if ready is None or observability.status.observed_generation < observability.metadata.generation:
        return f"the agents of the NodeObservability {observability.metadata.name!r} are being made"
    return ready.message if (ready.status, ready.reason) == ("False", "Progressing") else ""


def may_change(spec: RunSpec, *, old: RunSpec) -> None:
    """Check a change of a Run's spec: only cancelling, and when the Run is to be deleted.

    Raises:
        InvalidInput: it changes something else, or takes the cancelling back.
    """
    if old.cancel and not spec.cancel:
        raise InvalidInput("cancelling cannot be taken back; create another Run", pointer="/spec/cancel")
    before, after = to_builtins(old), to_builtins(spec)
    for field, value in after.items():
        if field not in _CHANGEABLE and value != before[field]:
            raise InvalidInput(
                "cannot be changed: of a Run's spec only cancel (to true) and ttlSecondsAfterFinished can; "
                "create another Run",
                pointer=f"/spec/{field}",
            )


def may_exist(run: Run, *, observability: NodeObservability | None, vias: Container[str] = EVERY_VIA) -> None:
    """Check a Run against the NodeObservability that it refers to; ``vias`` as in :func:`admit`.

    Raises:
        MissingNodeObservability: there is none of that name, or it is being deleted.
        InvalidInput: the reference's type is not its type, or nothing acts on a NodeObservability of its kind.
        UnknownTarget: a target that it does not list.
    """
    ref = run.spec.node_observability_ref
    if observability is None or observability.metadata.deletion_timestamp is not None:
        raise MissingNodeObservability(
            f"there is no NodeObservability {ref.name!r}; create it first, or refer to one that exists"
        )
    if ref.type is not None and ref.type != observability.spec.type:
        raise InvalidInput(
            f"the NodeObservability {ref.name!r} is of type {observability.spec.type!r}, not {ref.type!r}",
            pointer="/spec/nodeObservabilityRef/type",
        )
    for field, value in unsupported(observability.spec):
        raise InvalidInput(
            f"the NodeObservability {ref.name!r} has {field} {value!r}, which nothing acts on in this version of "
            "nodeobs: refer to one of type 'crio-kubelet'",
            pointer="/spec/nodeObservabilityRef/name",
        )
    if observability.spec.via not in vias:
        raise InvalidInput(
            f"the NodeObservability {ref.name!r}: {NEEDS_CLUSTER}", pointer="/spec/nodeObservabilityRef/name"
        )
    _check_targets(run, observability)


def _check_targets(run: Run, observability: NodeObservability) -> None:
    via, name = observability.spec.via, observability.metadata.name
    known = {target.name for target in observability.spec.targets} or set(observability.status.targets)
    if via == API_SERVER:
        known = {KUBELET}
    unknown = [target for target in run.spec.targets if target not in known]
    if known and unknown:
        listed = ", ".join(sorted(known))
        only = ": only the kubelet is profiled, via apiServer" if via == API_SERVER else ""
        raise UnknownTarget(
            f"the NodeObservability {name!r} has no target {unknown[0]!r}; its targets are {listed}{only}"
        )


def may_start(run: Run, *, runs: Iterable[Run], now: datetime) -> None:
    """Check that no other Run on the same NodeObservability is going. A Run never conflicts with itself.

    Raises:
        RunInProgress: one is; the message names it, its phase and its age.
    """
    for other in runs:
        same = other.key == run.key
        if not same and not other.finished and _parent(other) == _parent(run):
            raise RunInProgress(
                f"Run {other.key} on the NodeObservability {_parent(run)!r} is {other.status.phase.value} "
                f"since {_age(other, now)} s; one Run at a time: wait for it or cancel it",
                holder=other.key,
            )


@dataclass(frozen=True)
class Settlement:
    """What the leader is to do with the Runs it finds; ``rejected`` pairs each with its holder."""

    driven: tuple[Run, ...]
    rejected: tuple[tuple[Run, Run], ...]


def settle(runs: Sequence[Run], *, begun: Container[str] = ()) -> Settlement:
    """Decide which unfinished Runs go on: one for each NodeObservability.

    One that was claimed stays, and so does one that this process has begun to drive (``begun`` has their uids) and not
    claimed in the store yet; among the others the oldest (creationTimestamp, then uid) goes first.
    """

    def precedence(run: Run) -> tuple[bool, int, datetime, str]:
        driver = run.status.driver
        waiting = driver is None and run.status.phase is Phase.PENDING and run.metadata.uid not in begun
        term = driver.term if driver is not None else 0
        return waiting, -term, run.metadata.creation_timestamp or _EPOCH, run.metadata.uid

    holders: dict[str, Run] = {}
    rejected: list[tuple[Run, Run]] = []
    for run in sorted((run for run in runs if not run.finished), key=precedence):
        holder = holders.setdefault(_parent(run), run)
        if holder is not run:
            rejected.append((run, holder))
    return Settlement(driven=tuple(holders.values()), rejected=tuple(rejected))


def highest_term(runs: Iterable[Run]) -> int:
    """The highest term of leadership that a Run was claimed in; 0 where none was."""
    return max((run.status.driver.term for run in runs if run.status.driver is not None), default=0)


def _find(reader: Reader, name: str) -> NodeObservability | None:
    try:
        return reader.get(NodeObservability, name)
    except NotFound:
        return None


def _is_web_address(text: str) -> bool:
    try:
        url = urlsplit(text)
        port_is_one = url.port is None or url.port > 0
    except ValueError:
        return False
    known = url.scheme in ("http", "https") and bool(url.hostname)
    return known and port_is_one and url.username is None and text.isprintable()


def _parent(run: Run) -> str:
    return run.spec.node_observability_ref.name


def _age(run: Run, now: datetime) -> int:
    created = run.metadata.creation_timestamp
    return max(0, int((now - created).total_seconds())) if created else 0
