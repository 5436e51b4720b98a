"""What the agents delivered, on its way into the output: checked, stored, merged."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import structlog

from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.errors import AgentError, OutputStoreFull, OutputStoreUnavailable, ProfileError
from nodeobs.model import FailureReason, FileInfo, PieceResult, PieceState, ProfileType, file_name, replace
from nodeobs.outputs.manifest import MERGED, MergedFile, SkippedInput
from nodeobs.outputs.store import OutputStore
from nodeobs.pprof.process import MergeInput, MergeJob, MergeResult, merge_in_process
from nodeobs.pprof.scan import scan

log = structlog.get_logger(__name__)

MAX_PROFILE_BYTES = 4 * 2**30
"""A profile may not be larger than this when unpacked: it comes from the network."""

_MERGE_TIMEOUT = 600.0
_STORE_PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
_TRACE_MAGIC = b"go 1."


class Delivery:
    """Files of one Run between the agents and the output store; ``spool`` is a local folder of its own."""

    def __init__(self, outputs: OutputStore, uid: str, *, spool: Path) -> None:
        self.spool = spool
        self.build_ids: dict[tuple[str, str], str] = {}
        """Build id of the profiled program by (node, file name)."""
        self._outputs = outputs
        self._uid = uid

    async def accept(self, agent: Agent, piece: PieceResult, path: Path) -> None:
        """Check a fetched file and store it.

        Raises:
            AgentError: it is not a profile (BadProfile), or it cannot be stored (StorageFull, Internal).
        """
        build_id = await asyncio.to_thread(_check, piece.profile, path)
        self.build_ids[agent.name, path.name] = build_id
        pauses = iter(_STORE_PAUSES)
        while True:
            try:
                await asyncio.to_thread(self._outputs.put_file, self._uid, f"{agent.name}/{path.name}", path)
            except OutputStoreFull as error:
                raise AgentError(
                    FailureReason.STORAGE_FULL, f"no space left for {path.name} in the output: {error}"
                ) from error
            except OutputStoreUnavailable as error:
                pause = next(pauses, None)
                if pause is None:
                    raise AgentError(FailureReason.INTERNAL, f"cannot store {path.name}: {error}") from error
                log.warning("cannot store a profile, trying again", node=agent.name, file=path.name, error=str(error))
                await asyncio.sleep(pause)
            else:
                return

    def stored(self) -> frozenset[tuple[str, str]]:
        """Node and name of each file that an earlier driver stored.

        Raises:
            OutputStoreUnavailable: the output store cannot be asked now.
        """
        parts = (entry.name.rpartition("/") for entry in self._outputs.list(self._uid))
        return frozenset((node, name) for node, _, name in parts)

    def salvage(self, outcomes: Iterable[AgentOutcome]) -> tuple[AgentOutcome, ...]:
        """Outcomes with the files added that an earlier driver stored, of agents that have since been lost."""
        stored: defaultdict[str, dict[str, int]] = defaultdict(dict)
        for entry in self._outputs.list(self._uid):
            node, _, name = entry.name.rpartition("/")
            stored[node][name] = entry.size
        return tuple(self._salvage(outcome, stored[outcome.agent.name]) for outcome in outcomes)

    def _salvage(self, outcome: AgentOutcome, stored: dict[str, int]) -> AgentOutcome:
        delivered = {piece.file.name for piece in outcome.pieces if piece.file and piece.state is PieceState.DONE}
        found = []
        for name in sorted(stored.keys() - delivered):
            piece = _parse(name)
            if piece is not None:
                info = FileInfo(name=name, bytes=stored[name], sha256=self._digest(f"{outcome.agent.name}/{name}"))
                found.append(replace(piece, state=PieceState.DONE, file=info))
        if not found:
            return outcome
        kept = [
            piece
            for piece in outcome.pieces
            if (piece.target, piece.profile) not in {(f.target, f.profile) for f in found}
        ]
        return outcome.with_pieces((*kept, *found))

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        for chunk in self._outputs.read(self._uid, name)[1]:
            digest.update(chunk)
        return digest.hexdigest()

    def merge(self, outcomes: Iterable[AgentOutcome], *, stop: threading.Event) -> list[MergedFile]:
        """Merge each target's each profile over the nodes, in a process of its own, and store the results.

        A merge that fails is named in its row; it never takes the nodes' own files along.

        Raises:
            OutputStoreUnavailable: a result cannot be stored now; a retry can help.
        """
        groups: defaultdict[tuple[str, ProfileType], list[str]] = defaultdict(list)
        for outcome in outcomes:
            for piece in outcome.pieces:
                if piece.state is PieceState.DONE and piece.profile is not ProfileType.TRACE:
                    groups[piece.target, piece.profile].append(outcome.agent.name)
        if not groups:
            return []
        try:
            (self.spool / MERGED).mkdir(parents=True, exist_ok=True)
            jobs = [self._job(target, profile, nodes) for (target, profile), nodes in groups.items()]
        except OSError as error:
            why = f"cannot merge in the spool {self.spool}: {error.strerror}: free space there, or check its rights"
            log.warning("cannot merge", error=why)
            return [MergedFile(target=target, profile=profile, error=why) for target, profile in groups]
        done = merge_in_process(jobs, timeout=_MERGE_TIMEOUT, stop=stop)
        return [
            self._keep(target, profile, nodes, result)
            for ((target, profile), nodes), result in zip(groups.items(), done, strict=True)
        ]

    def _job(self, target: str, profile: ProfileType, nodes: Sequence[str]) -> MergeJob:
        name = file_name(target, profile)
        inputs = [MergeInput(path=self._local(node, name), labels={"node": node}) for node in nodes]
        return MergeJob(output=self.spool / MERGED / name, inputs=inputs)

    def _local(self, node: str, name: str) -> Path:
        """The file in the spool, brought back from the output where another process fetched it."""
        path = self.spool / node / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(f"{name}.part")
            with part.open("wb") as file:
                file.writelines(self._outputs.read(self._uid, f"{node}/{name}")[1])
            part.replace(path)
        return path

    def _keep(self, target: str, profile: ProfileType, nodes: Sequence[str], result: MergeResult) -> MergedFile:
        name = file_name(target, profile)
        skipped = tuple(SkippedInput(node=path.parent.name, message=message) for path, message in result.skipped)
        failed = MergedFile(target=target, profile=profile, nodes=(), skipped=skipped, error=result.error)
        if result.error:
            log.warning("cannot merge", target=target, profile=profile.value, error=result.error)
            return failed
        try:
            self._outputs.put_file(self._uid, f"{MERGED}/{name}", self.spool / MERGED / name)
        except OutputStoreFull as error:
            return replace(failed, error=f"cannot store the merged profile: {error}")
        left_out = {skip.node for skip in skipped}
        return replace(
            failed,
            file=f"{MERGED}/{name}",
            bytes=result.bytes,
            sha256=result.sha256,
            nodes=tuple(node for node in nodes if node not in left_out),
        )


def _check(profile: ProfileType, path: Path) -> str:
    """Build id of the profiled program; raises AgentError when the file is not such a profile."""
    if profile is ProfileType.TRACE:
        with path.open("rb") as file:
            head = file.read(len(_TRACE_MAGIC))
        if head != _TRACE_MAGIC:
            raise AgentError(
                FailureReason.BAD_PROFILE, f"{path.name} is not an execution trace: it begins with {head!r}"
            )
        return ""
    try:
        return scan(path, max_bytes=MAX_PROFILE_BYTES).build_id
    except ProfileError as error:
        raise AgentError(FailureReason.BAD_PROFILE, f"{path.name} is not a pprof profile: {error}") from error


def _parse(name: str) -> PieceResult | None:
    for profile in ProfileType:
        ending = file_name("", profile)
        if name.endswith(ending) and len(name) > len(ending):
            return PieceResult(target=name.removesuffix(ending), profile=profile)
    return None
