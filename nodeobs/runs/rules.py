"""May this Run start, and which of several goes first? Pure; the same for the API, alerts, admission and the leader."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from nodeobs.errors import (
    InvalidInput,
    MissingNodeObservability,
    NotFound,
    RunInProgress,
    UnknownTarget,
)
from nodeobs.model import NodeObservability, Phase, Run
from nodeobs.store.base import Admit, Reader

_EPOCH = datetime.fromtimestamp(0, UTC)


def admit(run: Run, *, now: Callable[[], datetime]) -> Admit:
    """Make the check that a store asks within the transaction that creates ``run``.

    Raises (when it is asked):
        MissingNodeObservability, UnknownTarget, InvalidInput: the Run cannot mean what it says.
        RunInProgress: another Run on the same NodeObservability is going.
    """

    def check(reader: Reader) -> None:
        may_exist(run, observability=_find(reader, run.spec.node_observability_ref.name))
        may_start(run, runs=reader.list(Run, unfinished=True), now=now())

    return check


def may_exist(run: Run, *, observability: NodeObservability | None) -> None:
    """Check a Run against the NodeObservability that it refers to.

    Raises:
        MissingNodeObservability: there is none of that name, or it is being deleted.
        InvalidInput: the reference's type is not its type.
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
    known = {target.name for target in observability.spec.targets} or set(observability.status.targets)
    unknown = [target for target in run.spec.targets if target not in known]
    if known and unknown:
        listed = ", ".join(sorted(known))
        raise UnknownTarget(
            f"the NodeObservability {ref.name!r} has no target {unknown[0]!r}; its targets are {listed}"
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


def settle(runs: Sequence[Run]) -> Settlement:
    """Decide which unfinished Runs go on: one for each NodeObservability.

    One that was claimed stays; among the others the oldest (creationTimestamp, then uid) goes first.
    """
    holders: dict[str, Run] = {}
    rejected: list[tuple[Run, Run]] = []
    for run in sorted((run for run in runs if not run.finished), key=_precedence):
        holder = holders.setdefault(_parent(run), run)
        if holder is not run:
            rejected.append((run, holder))
    return Settlement(driven=tuple(holders.values()), rejected=tuple(rejected))


def highest_term(runs: Iterable[Run]) -> int:
    """The highest term of leadership that a Run was claimed in; 0 where none was."""
    return max((run.status.driver.term for run in runs if run.status.driver is not None), default=0)


def _precedence(run: Run) -> tuple[bool, datetime, str]:
    unclaimed = run.status.driver is None and run.status.phase is Phase.PENDING
    return unclaimed, run.metadata.creation_timestamp or _EPOCH, run.metadata.uid


def _find(reader: Reader, name: str) -> NodeObservability | None:
    try:
        return reader.get(NodeObservability, name)
    except NotFound:
        return None


def _parent(run: Run) -> str:
    return run.spec.node_observability_ref.name


def _age(run: Run, now: datetime) -> int:
    created = run.metadata.creation_timestamp
    return max(0, int((now - created).total_seconds())) if created else 0
