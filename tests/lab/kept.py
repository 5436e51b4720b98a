"""A cluster that stays when the command that started it has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import msgspec

from tests.lab import place
from tests.lab.cluster import KIND, Cluster, clear, remove, requirements
from tests.lab.errors import LabError

_RECORD: Final = "kept.json"


class Kept(msgspec.Struct, frozen=True):
    """What can be done with such a cluster is done with these."""

    folder: Path
    kubeconfig: Path
    programs: Path
    """Folder of kubectl."""
    url: str
    members: dict[str, int]
    """A process in the namespaces of each node and, with the network's alone, of the control plane."""


def keep(nodes: int) -> Kept:
    """Start a cluster that stays.

    Raises:
        Missing: this machine cannot have one.
        LabError: there is one already, or it cannot be started.
    """
    programs = requirements(nodes)
    existing = find()
    if existing is not None:
        raise LabError(f"there is a cluster already, in {existing.folder}: make cluster-down ends it")
    here = place.claim(KIND, clear)
    try:
        with closing(Cluster(here, nodes, programs)) as cluster:
            members = {node.name: node.init for node in cluster.nodes} | {"control-plane": cluster.control_plane_pid}
            kubectl = cluster.programs["kubectl"].parent
            kept = Kept(here.folder, cluster.admin_kubeconfig, kubectl, cluster.url, members)
        (here.folder / _RECORD).write_bytes(msgspec.json.encode(kept, enc_hook=str))
        here.hand_over()
    except BaseException:
        remove(here)
        raise
    return kept


def find() -> Kept | None:
    """The cluster that was kept, if there is one."""
    records = sorted(place.base(KIND).glob(f"*/{_RECORD}"))
    return (
        msgspec.json.decode(records[0].read_bytes(), type=Kept, dec_hook=lambda kind, text: kind(text))
        if records
        else None
    )


def down() -> Iterator[Path]:
    """End every cluster that was kept, and remove what runs that were killed have left; the folder of each.

    Raises:
        LabError: one cannot be removed.
    """
    for record in sorted(place.base(KIND).glob(f"*/{_RECORD}")):
        remove(place.take_over(record.parent))
        yield record.parent
    for left in place.abandoned(KIND):
        remove(left)
        yield left.folder
