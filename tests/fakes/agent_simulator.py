"""Many simulated agents in one process.

As a program it serves good ones until its standard input is closed, and answers the line ``records`` with what
happened::

    python -m tests.fakes.agent_simulator --agents 100 --certificate agents.pem
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import trustme

from tests.fakes.simulated_agent import Behaviour, SimulatedAgent, tiny_profile

__all__ = [
    "Behaviour",
    "Fleet",
    "SimulatedAgent",
    "SimulatorProcess",
    "issue_certificate",
    "server_context",
    "tiny_profile",
]


def issue_certificate(folder: Path, *names: str) -> tuple[Path, Path]:
    """Files of a new authority and of a certificate (with its key) for ``names``, loopback by default."""
    authority = trustme.CA()
    ca_file, certificate = folder / "ca.pem", folder / "agents.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    authority.issue_cert(*(names or ("127.0.0.1", "localhost"))).private_key_and_cert_chain_pem.write_to_path(
        str(certificate)
    )
    return ca_file, certificate


def server_context(certificate: Path) -> ssl.SSLContext:
    """TLS for a server with that certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


class Fleet:
    """Simulated agents in the running event loop; an asynchronous context manager."""

    def __init__(self, *behaviours: Behaviour, certificate: Path | None = None, host: str = "127.0.0.1") -> None:
        self._host = host
        self.agents = [SimulatedAgent(f"node-{number}", behaviour) for number, behaviour in enumerate(behaviours)]
        self._context = server_context(certificate) if certificate else None

    async def __aenter__(self) -> Fleet:
        for agent in self.agents:
            await agent.open(self._context, self._host)
        return self

    async def __aexit__(self, *_: object) -> None:
        for agent in self.agents:
            await agent.close()


class SimulatorProcess:
    """Good simulated agents in a process of their own, on the same host clock."""

    def __init__(self, agents: int, certificate: Path, *, host: str = "127.0.0.1") -> None:
        argv = [sys.executable, "-m", "tests.fakes.agent_simulator", "--agents", str(agents), "--host", host]
        self.process = subprocess.Popen(
            [*argv, "--certificate", str(certificate)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.ports: list[int] = self._line()["ports"]

    def starts(self) -> list[float]:
        """The host's clock at the last start of every agent that has started."""
        assert self.process.stdin is not None
        self.process.stdin.write("records\n")
        self.process.stdin.flush()
        return [instants[-1] for instants in self._line()["startedAt"] if instants]

    def close(self) -> None:
        """End the process, which its closed input makes it do."""
        self.process.communicate(timeout=30)

    def _line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())


async def _main(count: int, certificate: Path | None, host: str) -> None:
    async with Fleet(*(Behaviour() for _ in range(count)), certificate=certificate, host=host) as fleet:
        _say({"ports": [agent.port for agent in fleet.agents]})
        reader = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
        )
        while line := await reader.readline():
            if line.strip() == b"records":
                _say({"startedAt": [agent.started_at for agent in fleet.agents]})
        transport.close()


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Serve simulated agents until standard input is closed.")
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--certificate", type=Path, help="PEM file with a key and its certificate, to serve HTTPS")
    parser.add_argument("--host", default="127.0.0.1", help="where to listen")
    arguments = parser.parse_args()
    asyncio.run(_main(arguments.agents, arguments.certificate, arguments.host))
