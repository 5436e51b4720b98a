"""The merged profiles of the demo's Run, read from its output folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from nodeobs.cli.failures import Failure
from nodeobs.cli.ranking import document, text_of
from nodeobs.model import Run
from nodeobs.outputs.manifest import Manifest
from nodeobs.pprof import TopTable, read, top

_ROWS = 8


class MergedProfile(NamedTuple):
    """One target's profile over all nodes."""

    target: str
    type: str
    nodes: tuple[str, ...]
    path: Path
    top: TopTable

    @property
    def text(self) -> str:
        """The functions with the most."""
        return text_of(self.top)

    def document(self) -> dict[str, Any]:
        """All of it for ``--output json``."""
        known = {"target": self.target, "profile": self.type, "nodes": list(self.nodes), "file": str(self.path)}
        return known | document(self.top)


def merged_profiles(run: Run, manifest: Manifest) -> list[MergedProfile]:
    """The merged files that the manifest names, that with the most first.

    Raises:
        Failure: there is none.
        ProfileError: one cannot be read.
    """
    found = []
    for file in manifest.merged:
        if file.file is None:
            continue
        path = Path(run.status.output) / file.file
        found.append(
            MergedProfile(file.target, file.profile.value, file.nodes, path, top(read(path.read_bytes()), limit=_ROWS))
        )
    if not found:
        raise Failure(f"there is no merged profile: {[file.error for file in manifest.merged]}")
    return sorted(found, key=lambda profile: profile.top.total, reverse=True)
