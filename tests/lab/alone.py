"""The small size of a lab: an API server alone, on loopback, for any user."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager

from tests.lab import place
from tests.lab.apiserver import PROGRAMS, ApiServer, Listen
from tests.lab.pki import Authority
from tests.lab.programs import need
from tests.processes import free_port


@contextmanager
def api_server_alone() -> Iterator[ApiServer]:
    """An API server with its etcd, ready; gone with its folder afterwards.

    Raises:
        Missing: a program is not there.
        LabError: there are too many labs.
    """
    programs = need(PROGRAMS)
    here = place.claim("api")
    try:
        listen = Listen("127.0.0.1", api=free_port(), etcd=free_port(), peer=free_port())
        # Its ServiceAccount admission wants what a controller makes in every namespace.
        # Webhooks that name a Service are called at its endpoints: nobody here makes ClusterIPs work.
        flags = ["--disable-admission-plugins=ServiceAccount", "--enable-aggregator-routing=true"]
        with closing(ApiServer(here, Authority(here.folder / "pki"), listen, programs, flags=flags)) as server:
            yield server
    finally:
        here.clear()
        here.leave()
