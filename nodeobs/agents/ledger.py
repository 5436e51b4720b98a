"""The pieces that one agent was asked for, and what became of each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from nodeobs.agents import failures
from nodeobs.agents.agent import Agent
from nodeobs.agents.plan import Plan
from nodeobs.errors import AgentError
from nodeobs.model import (
    Collection,
    CollectionRequest,
    FailureReason,
    PieceResult,
    PieceState,
    ProfileType,
    file_name,
    replace,
)

_LONGEST_SECONDS = 86400.0

Key = tuple[str, ProfileType]


class Ledger:
    """What was asked of one agent, and what came of it. Nothing that the agent says is believed unchecked."""

    def __init__(self, agent: Agent, plan: Plan) -> None:
        self._agent = agent
        self._plan = plan
        self._targets = tuple(t for t in plan.targets or agent.targets if not agent.targets or t in agent.targets)
        self._asked = {(target, profile) for target in self._targets for profile in plan.profiles}
        self._settled: dict[Key, PieceResult] = {}

    def request(self, start_at: datetime) -> CollectionRequest:
        """What to ask of the agent.

        Raises:
            AgentError: TargetUnavailable, as the node has none of the Run's targets.
        """
        plan = self._plan
        if plan.targets and not self._targets:
            here, wanted = ", ".join(self._agent.targets), ", ".join(plan.targets)
            message = f"{self._agent}: the node's targets are {here}; the Run asks for {wanted}"
            raise AgentError(FailureReason.TARGET_UNAVAILABLE, message)
        return CollectionRequest(
            id=plan.run_uid,
            targets=self._targets,
            profiles=plan.profiles,
            duration_seconds=plan.duration_seconds,
            start_at=start_at,
        )

    @property
    def pieces(self) -> tuple[PieceResult, ...]:
        """Those that are settled, Done or Failed."""
        return tuple(self._settled.values())

    def news(self, collection: Collection, offset: timedelta) -> Iterator[PieceResult]:
        """Pieces that the agent now holds and that are not settled yet; those that failed there are settled here.

        ``offset`` is the agent's clock minus the service's; the pieces carry the service's instants.

        Raises:
            AgentError: BadResponse when the agent reports what it was not asked for.
        """
        seen: set[Key] = set()
        for piece in collection.pieces:
            key = piece.target, piece.profile
            wanted = key in self._asked if self._targets else piece.profile in self._plan.profiles
            if key in seen or not wanted:
                what = f"reports {piece.target} {piece.profile}, which it was not asked for, or reports it twice"
                raise failures.bad_response(self._agent, what)
            seen.add(key)
            self._asked.add(key)
            if key in self._settled or piece.state not in (PieceState.DONE, PieceState.FAILED):
                continue
            checked = self._checked(piece, offset)
            if checked.state is PieceState.FAILED:
                self._settled[key] = checked
            else:
                yield checked

    def deliver(self, piece: PieceResult) -> None:
        """The piece is here and stored."""
        self._settled[piece.target, piece.profile] = piece

    def fail(self, piece: PieceResult, error: AgentError) -> None:
        """The agent has the piece, but it cannot be brought here or stored."""
        self._settled[piece.target, piece.profile] = _failed(piece, error.reason, error.message)

    def close(self, reason: FailureReason, message: str) -> None:
        """Nothing more will come: what is not settled fails with ``reason``."""
        for target, profile in sorted(self._asked - self._settled.keys()):
            self._settled[target, profile] = _failed(PieceResult(target=target, profile=profile), reason, message)

    def _checked(self, piece: PieceResult, offset: timedelta) -> PieceResult:
        message = failures.clean(piece.message)
        if piece.state is PieceState.FAILED:
            return _failed(piece, piece.reason or FailureReason.BAD_RESPONSE, message)
        name = file_name(piece.target, piece.profile)
        if piece.file is None or piece.file.name != name:
            called = f"calls its file {piece.file.name}" if piece.file else "names no file"
            error = failures.bad_response(self._agent, f"reports {piece.target} {piece.profile} as done but {called}")
            return _failed(piece, error.reason, error.message)
        try:
            started_at = piece.started_at - offset if piece.started_at else None
        except OverflowError as error:
            raise failures.bad_response(self._agent, f"its clock shows {piece.started_at}") from error
        # One agent's absurd figure must not spoil a metric that sums over all.
        seconds = min(max(piece.seconds, 0.0), _LONGEST_SECONDS)
        return replace(piece, reason=None, message=message, started_at=started_at, seconds=seconds)


def _failed(piece: PieceResult, reason: FailureReason, message: str) -> PieceResult:
    return replace(
        piece, state=PieceState.FAILED, file=None, reason=reason, message=message, started_at=None, seconds=0.0
    )
