"""The small size of a lab: an API server alone, on loopback, for any user."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.lab import place
from tests.lab.apiserver import PROGRAMS, ApiServer, Listen
from tests.lab.programs import need
from tests.processes import Program, free_port


@contextmanager
def api_server_alone() -> Iterator[ApiServer]:
    """An API server with its etcd, ready; gone with its folder afterwards.

    Raises:
        Missing: a program is not there.
        LabError: there are too many labs.
    """
    programs = need(PROGRAMS)
    here = place.claim("api")

    def launch(name: str, argv: Sequence[str | Path]) -> Program:
        return Program(name, argv, log=here.folder / f"{name}.log", environ=here.environ)

    try:
        listen = Listen("127.0.0.1", api=free_port(), etcd=free_port(), peer=free_port())
        # Its ServiceAccount admission wants what a controller makes in every namespace.
        server = ApiServer(here.folder, listen, launch, programs, "--disable-admission-plugins=ServiceAccount")
        try:
            yield server
        finally:
            server.close()
    finally:
        here.clear()
        here.leave()
