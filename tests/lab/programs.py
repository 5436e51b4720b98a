"""Where the programs of a lab are: ``KUBEBUILDER_ASSETS``, the cache of ``make cluster-tools``, PATH."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from tests.lab.errors import Missing

KUBERNETES: Final = "1.36.3"
"""Version of Kubernetes that is built and tested with."""

_SYSTEM: Final = "/usr/local/sbin:/usr/sbin:/sbin"


def cache(environ: Mapping[str, str]) -> Path:
    """Folder that ``make cluster-tools`` fills: outside the clone, one for each version."""
    base = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root")) / ".cache"
    return Path(base) / "nodeobs" / "cluster-tools" / f"v{KUBERNETES}"


def find(name: str, environ: Mapping[str, str] = os.environ) -> Path | None:
    """The program of that name, or None."""
    folders = [environ.get("KUBEBUILDER_ASSETS", ""), str(cache(environ) / "bin"), environ.get("PATH", ""), _SYSTEM]
    found = shutil.which(name, path=os.pathsep.join(folder for folder in folders if folder))
    return Path(found) if found else None


def need(names: Sequence[str], environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """All of these programs, by name.

    Raises:
        Missing: some are not there.
    """
    found = {name: find(name, environ) for name in names}
    absent = [name for name, path in found.items() if path is None]
    if absent:
        raise Missing(f"not on this machine: {', '.join(absent)} (make cluster-tools brings what a lab needs)")
    return {name: path for name, path in found.items() if path is not None}
