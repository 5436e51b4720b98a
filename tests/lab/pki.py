"""A certificate authority of the lab's own, and keys."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Pair:
    """A certificate (chain) and its key, PEM."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into a folder; ``certificate`` is its own."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self._folder = folder
        self._ca = trustme.CA()
        self.certificate = folder / "ca.crt"
        self.key = folder / "ca.key"
        self._ca.cert_pem.write_to_path(str(self.certificate))
        self._ca.private_key_pem.write_to_path(str(self.key))

    def issue(self, name: str, *identities: str, common_name: str | None = None, group: str | None = None) -> Pair:
        """A certificate for these DNS names and addresses; for a client, ``group`` is what it belongs to."""
        leaf = self._ca.issue_cert(*identities, common_name=common_name, organization_name=group)
        pair = Pair(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        for part in leaf.cert_chain_pems:
            part.write_to_path(str(pair.certificate), append=True)
        leaf.private_key_pem.write_to_path(str(pair.key))
        return pair
