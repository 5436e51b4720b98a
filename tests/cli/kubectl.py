"""A ``kubectl`` on the PATH that forwards a port as the real one does, or fails as it does, and records its calls."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_PROGRAM = """#!{python} -IS
import json, os, select, socket, sys, threading, time
here = os.path.dirname(os.path.abspath(__file__))
does = json.load(open(os.path.join(here, "does.json")))
with open(os.path.join(here, "calls"), "a") as calls:
    calls.write(json.dumps([os.getpid(), sys.argv[1:]]) + "\\n")
for line in does["errors"]:
    print(line, file=sys.stderr, flush=True)
if does["port"] is None and not does["silent"]:
    sys.exit(1)
if does["silent"]:
    time.sleep(600)
listener = socket.create_server(("127.0.0.1", 0))
print(f"Forwarding from 127.0.0.1:{{listener.getsockname()[1]}} -> 8443", flush=True)

def copy(source, sink):
    try:
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    except OSError:
        pass
    finally:
        try:
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

while True:
    near, _ = listener.accept()
    print("Handling connection for 8443", flush=True)
    far = socket.create_connection((does["host"], does["port"]))
    for ends in ((near, far), (far, near)):
        threading.Thread(target=copy, args=ends, daemon=True).start()
"""


class Call(NamedTuple):
    """How it was called."""

    pid: int
    arguments: list[str]


class FakeKubectl:
    """The program in a folder of its own; ``path`` is a PATH on which it comes first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        program = folder / "kubectl"
        program.write_text(_PROGRAM.format(python=sys.executable))
        program.chmod(0o755)
        self.path = f"{folder}{os.pathsep}{os.environ['PATH']}"
        self.fails("error: nothing was set up")

    def forwards_to(self, port: int, host: str = "127.0.0.1", *, complaining: str = "") -> None:
        self._does(port=port, host=host, errors=[complaining] if complaining else [])

    def fails(self, *errors: str) -> None:
        self._does(errors=errors)

    def hangs(self) -> None:
        self._does(silent=True)

    @property
    def calls(self) -> list[Call]:
        with suppress(FileNotFoundError):
            lines = (self._folder / "calls").read_text().splitlines(keepends=True)
            return [Call(*json.loads(line)) for line in lines if line.endswith("\n")]
        return []

    def all_gone(self) -> bool:
        """Whether every process of it has ended."""
        return not any(_alive(call.pid) for call in self.calls)

    def _does(self, **does: object) -> None:
        everything = {"port": None, "host": "", "errors": [], "silent": False, **does}
        (self._folder / "does.json").write_text(json.dumps(everything))


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
