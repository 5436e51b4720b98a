"""Which file of an output a person means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.model import ProfileType
from nodeobs.outputs.manifest import Manifest, MergedFile, Piece

_PREFERRED = ("kubelet", "crio", "containerd")


class Chosen(NamedTuple):
    """The file of an output that is shown."""

    name: str
    title: str
    others: tuple[str, ...]
    """Targets and profiles that could be asked for instead."""


def choose(manifest: Manifest, *, target: str | None, profile: str | None, node: str | None) -> Chosen:
    """The file that was asked for, or the one that most want to see.

    Raises:
        Failure: there is none; says what there is, or why it is missing.
    """
    files = _merged(manifest) if node is None else _of_node(manifest, node)
    wanted = [file for file in files if target in (None, file.target) and profile in (None, file.profile.value)]
    there = sorted((file for file in wanted if file.file), key=_preference)
    if not there:
        raise _nothing(files, wanted)
    first = there[0]
    if isinstance(first, MergedFile):
        skipped = "".join(f"; without {skip.node} ({skip.message})" for skip in first.skipped)
        part = f"merged from {', '.join(first.nodes)}{skipped}"
    else:
        part = f"of {node}"
    others = tuple(_title(file) for file in there[1:])
    return Chosen(str(first.file), f"{_title(first)} {part}", others)


def _merged(manifest: Manifest) -> Sequence[MergedFile | Piece]:
    return [file for file in manifest.merged if file.profile is not ProfileType.TRACE]


def _of_node(manifest: Manifest, node: str) -> Sequence[MergedFile | Piece]:
    found = next((result for result in manifest.nodes if result.name == node), None)
    if found is None:
        names = ", ".join(result.name for result in manifest.nodes[:20])
        raise Failure(f"node {node} took no part in the Run; these did: {names}", exit_code=ExitCode.NOT_FOUND)
    if found.reason is not None:
        raise Failure(f"{node} delivered nothing: {found.reason}: {found.message}", exit_code=ExitCode.NOT_FOUND)
    return [piece for piece in found.pieces if piece.profile is not ProfileType.TRACE]


def _nothing(files: Iterable[MergedFile | Piece], wanted: Iterable[MergedFile | Piece]) -> Failure:
    reasons = [
        f"{_title(file)} is missing: "
        + (file.error if isinstance(file, MergedFile) else f"{file.reason}: {file.message}")
        for file in wanted
    ]
    there = ", ".join(_title(file) for file in files if file.file) or "nothing"
    return Failure(
        "; ".join(reasons) or "there is no such profile in the output",
        exit_code=ExitCode.NOT_FOUND,
        hint=f"there is {there}; choose with --target and --profile",
    )


def _title(file: MergedFile | Piece) -> str:
    return f"{file.target} {file.profile.value}"


def _preference(file: MergedFile | Piece) -> tuple[int, str, bool, str]:
    rank_of = _PREFERRED.index(file.target) if file.target in _PREFERRED else len(_PREFERRED)
    return rank_of, file.target, file.profile is not ProfileType.CPU, file.profile.value
