"""The agent as a real process, and what its tests give it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import trustme

T = TypeVar("T")

SECONDS = 30.0
"""How long a test waits for what should come at once."""


def eventually(probe: Callable[[], T | None], what: str, *, seconds: float = SECONDS) -> T:
    """The first answer of ``probe`` that is not false."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := probe():
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:g} s: {what}")


@dataclass(frozen=True)
class Certificates:
    """A CA, and a server's certificate of it for 127.0.0.1."""

    ca_file: Path
    cert_file: Path
    key_file: Path

    def server_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.cert_file, self.key_file)
        return context

    def client_context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))


def issue(folder: Path, *names: str) -> Certificates:
    """New certificates in ``folder``."""
    folder.mkdir(exist_ok=True)
    ca = trustme.CA()
    issued = ca.issue_cert(*names)
    paths = Certificates(folder / "ca.pem", folder / "tls.crt", folder / "tls.key")
    ca.cert_pem.write_to_path(paths.ca_file)
    paths.cert_file.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    issued.private_key_pem.write_to_path(paths.key_file)
    return paths


def fill(path: Path) -> None:
    """Take all the space there is left on its file system."""
    with path.open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))


class AgentProcess:
    """A running agent, and a client that speaks to it."""

    def __init__(
        self, arguments: Sequence[str], environ: Mapping[str, str], *, storage: Path, verify: ssl.SSLContext | bool
    ) -> None:
        self.storage = storage
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nodeobs.nodeagent", *arguments],
            stderr=subprocess.PIPE,
            text=True,
            env={"PATH": os.environ["PATH"], **environ},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._verify = verify
        self.url = ""

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line.rstrip("\n"))

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_until_listening(self) -> None:
        found = eventually(self._announced, f"the agent listens; it said:\n{self.log}")
        self.url = found[1]
        self.client = httpx.Client(base_url=self.url, verify=self._verify, timeout=SECONDS, trust_env=False)

    def _announced(self) -> re.Match[str] | None:
        if self.process.poll() is not None:
            self._reader.join()
            raise AssertionError(f"the agent ended with {self.process.returncode}:\n{self.log}")
        return re.search(r"listening on (\S+);", self.log)

    def start(self, identifier: str, **request: Any) -> httpx.Response:
        return self.client.post("/v1/collections", json={"id": identifier, "durationSeconds": 1, **request})

    def finished(self, identifier: str, *, seconds: float = SECONDS) -> dict[str, Any]:
        """The collection's final state."""

        def probe() -> dict[str, Any] | None:
            response = self.client.get(f"/v1/collections/{identifier}", params={"wait": "10"})
            assert response.status_code == 200, response.text
            state: dict[str, Any] = response.json()
            return state if state["finishedAt"] else None

        return eventually(probe, f"collection {identifier} finishes", seconds=seconds)

    def collect(self, identifier: str, **request: Any) -> dict[str, Any]:
        """Start a collection and wait for its end."""
        response = self.start(identifier, **request)
        assert response.status_code == 202, response.text
        return self.finished(identifier)

    def sample(self, line: str) -> float:
        """A value of the agent's metrics."""
        for row in self.client.get("/metrics").text.splitlines():
            name, _, value = row.rpartition(" ")
            if name == line:
                return float(value)
        raise AssertionError(f"no series {line}")

    def pss(self) -> int:
        """Proportional set size in kB."""
        text = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text()
        found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
        assert found is not None
        return int(found[1])

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """End it; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(SECONDS)
        self._reader.join()
        assert self.process.stderr is not None
        self.process.stderr.close()
        if self.url:
            self.client.close()
        return code


AgentFactory = Callable[..., AgentProcess]
