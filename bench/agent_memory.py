"""Memory of an agent with TLS on: idle, and while it takes and hands out a large profile.

Prints one JSON line; sizes are in MB (10^6 bytes). ``pss`` is the proportional set size of all its processes (it has
one). Other Python processes on the machine share pages with it and lower that; ``rss`` is what it is when alone.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import trustme


class Target(BaseHTTPRequestHandler):
    """Serves a heap profile of ``size`` bytes that is made as it is sent, and a small one for anything else."""

    protocol_version = "HTTP/1.1"
    size = 0

    def do_GET(self) -> None:
        """Send it."""
        left = self.size if self.path.endswith("/heap") else 100
        self.send_response(200)
        self.send_header("Content-Length", str(left))
        self.end_headers()
        block = b"\x1f\x8b" + bytes(65_534)
        while left:
            left -= self.wfile.write(block[:left])

    def log_message(self, *args: object) -> None:
        """Stay silent."""


@contextlib.contextmanager
def serving(size: int) -> Iterator[str]:
    """URL of a running target."""
    handler = type("SizedTarget", (Target,), {"size": size})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=200, help="size of the profile (200)")
    size = parser.parse_args().megabytes * 1_000_000
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(size) as target,
        agent(Path(folder), target) as (process, client),
    ):
        client.get("/metrics")
        idle = memory(process.pid)
        client.post("/v1/collections", json={"id": "warm", "profiles": ["cpu"], "durationSeconds": 1})
        client.get("/v1/collections/warm", params={"wait": "30"})
        before = memory(process.pid)
        with peak_of(process.pid) as peaks:
            began = time.monotonic()
            client.post("/v1/collections", json={"id": "large", "profiles": ["heap"]})
            while client.get("/v1/collections/large", params={"wait": "30"}).json()["finishedAt"] is None:
                pass
            collected = time.monotonic()
            with client.stream("GET", "/v1/collections/large/files/api-heap.pb.gz") as body:
                received = sum(len(chunk) for chunk in body.iter_raw())
            fetched = time.monotonic()
    assert received == size
    print(
        json.dumps(
            {
                "bench": "agent_memory",
                "idle_pss_mb": idle["Pss"],
                "idle_rss_mb": idle["Rss"],
                "after_a_collection_pss_mb": before["Pss"],
                "profile_mb": size / 1e6,
                "peak_pss_mb": peaks["Pss"],
                "peak_rss_mb": peaks["Rss"],
                "grown_pss_mb": round(peaks["Pss"] - before["Pss"], 1),
                "collect_seconds": round(collected - began, 2),
                "fetch_seconds": round(fetched - collected, 2),
            }
        )
    )


@contextlib.contextmanager
def agent(folder: Path, target: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    ca = trustme.CA()
    issued = ca.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(folder / "tls.pem")
    tls = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "nodeobs.nodeagent", "--port", "0", "--storage", str(folder / "storage")),
            *("--tls-cert-file", str(folder / "tls.pem"), "--tls-key-file", str(folder / "tls.pem")),
            *("--target", f"api={target}", "--crio-socket", "", "--containerd-socket", ""),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        found = re.search(r"https://\S+:\d+", process.stderr.readline())
        assert found is not None
        with httpx.Client(base_url=found[0], verify=tls, timeout=120, trust_env=False) as client:
            yield process, client
    finally:
        process.terminate()
        process.wait(30)
        process.stderr.close()


def memory(pid: int) -> dict[str, float]:
    """Sizes in MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return {name: round(int(size) * 1024 / 1e6, 1) for name, size in re.findall(r"^(Pss|Rss):\s+(\d+) kB", text, re.M)}


@contextlib.contextmanager
def peak_of(pid: int) -> Iterator[dict[str, float]]:
    """The highest sizes while the block runs."""
    peaks = memory(pid)
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            for name, size in memory(pid).items():
                peaks[name] = max(peaks[name], size)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield peaks
    finally:
        done.set()
        watcher.join()


if __name__ == "__main__":
    main()
