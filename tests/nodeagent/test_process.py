"""The process: what it loads, how much memory it takes, what it tells about itself."""

from __future__ import annotations

import contextlib
import gzip
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nodeobs import __version__
from tests.fakes.pprof_target import PprofTarget, refuse, stream
from tests.nodeagent.helpers import SECONDS, AgentFactory, AgentProcess, Certificates

pytestmark = pytest.mark.slow

UNWANTED = {
    *("kubernetes", "pydantic", "flask", "werkzeug", "gunicorn", "structlog", "obstore", "rich", "click", "jinja2"),
    *("httpx", "anyio", "requests", "multiprocessing", "yaml"),
}
# Runs the agent to its end (--help ends it), then names what it has loaded.
LOADED = """
import runpy, sys
sys.argv = ["agent", "--version"]
try:
    runpy.run_module("nodeobs.nodeagent", run_name="__main__")
except SystemExit:
    print(" ".join(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_it_loads_nothing_that_only_the_service_needs() -> None:
    shown = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(shown.stdout.splitlines()[-1].split())
    assert {"uvicorn", "h11", "msgspec", "prometheus_client"} <= loaded
    assert not loaded & UNWANTED
    assert "nodeobs.settings" not in shown.stdout


def tls(certificates: Certificates) -> list[str]:
    return ["--tls-cert-file", str(certificates.cert_file), "--tls-key-file", str(certificates.key_file)]


def test_memory_with_tls_is_small_and_does_not_grow_with_the_profile(
    run_agent: AgentFactory, target: PprofTarget, certificates: Certificates
) -> None:
    agent = run_agent("--target", f"api={target.url}", *tls(certificates), verify=certificates.client_context())
    assert agent.client.get("/readyz").status_code == 200
    assert agent.pss() < 35_000
    # Every code path once, so that what is measured is the size and nothing else.
    agent.collect("warm", profiles=["heap"])
    agent.client.get("/v1/collections/warm/files/api-heap.pb.gz")
    before = peak = agent.pss()
    target.behave(stream(200_000_000))
    done = threading.Event()

    def watch() -> int:
        most = 0
        while not done.wait(0.02):
            most = max(most, agent.pss())
        return most

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            state = agent.collect("large", profiles=["heap"])
            with agent.client.stream("GET", "/v1/collections/large/files/api-heap.pb.gz") as body:
                received = sum(len(chunk) for chunk in body.iter_raw())
        finally:
            done.set()
        peak = max(peak, watching.result())
    assert state["pieces"][0]["file"]["bytes"] == received == 200_000_000
    assert peak - before < 5_000, (before, peak)
    assert agent.pss() < 35_000


@pytest.mark.parametrize("attempt", range(3))
def test_who_reads_that_it_listens_can_connect(tmp_path: Path, attempt: int) -> None:
    arguments = ["--port", "0", "--storage", str(tmp_path), "--crio-socket", "", "--containerd-socket", ""]
    with subprocess.Popen(
        [sys.executable, "-m", "nodeobs.nodeagent", *arguments], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        port = re.search(r"listening on http://127.0.0.1:(\d+)", process.stderr.readline())
        try:
            assert port is not None
            socket.create_connection(("127.0.0.1", int(port[1])), timeout=SECONDS).close()
        finally:
            process.kill()


def test_its_own_profile(agent: AgentProcess) -> None:
    answer = agent.client.get("/debug/pprof/profile", params={"seconds": "1"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/octet-stream")
    assert b"nanoseconds" in gzip.decompress(answer.content)
    for seconds in ("0", "3601", "x", "-1"):
        assert agent.client.get("/debug/pprof/profile", params={"seconds": seconds}).status_code == 400


def test_one_profile_of_itself_at_a_time_in_gos_words(agent: AgentProcess) -> None:
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: agent.client.get("/debug/pprof/profile?seconds=2"), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 500, 500, 500]
    refusal = next(answer for answer in answers if answer.status_code == 500)
    assert refusal.text == "Could not enable CPU profiling: cpu profiling already in use\n"


def test_it_can_profile_itself_as_a_target(run_agent: AgentFactory, tmp_path_factory: pytest.TempPathFactory) -> None:
    first = run_agent()
    second = run_agent("--target", f"agent={first.url}", storage=tmp_path_factory.mktemp("second"))
    assert second.collect("run-1")["pieces"][0]["state"] == "Done"


def test_a_profile_of_itself_does_not_delay_its_end(agent: AgentProcess) -> None:
    with profiling(agent) as sock:
        assert agent.stop() == 0
        assert sock.recv(12) == b"HTTP/1.1 200"


@contextlib.contextmanager
def profiling(agent: AgentProcess) -> Iterator[socket.socket]:
    """The agent is profiling itself for a minute; yields the connection that asked for it."""
    host, _, port = agent.url.removeprefix("http://").partition(":")
    while True:
        with socket.create_connection((host, int(port)), timeout=SECONDS) as sock:
            sock.sendall(b"GET /debug/pprof/profile?seconds=60 HTTP/1.1\r\nHost: agent\r\n\r\n")
            # This one may be the first to get hold of the profiler; then the other is refused, and asks again.
            if agent.client.get("/debug/pprof/profile?seconds=1").status_code == 500:
                yield sock
                return


def test_metrics(run_agent: AgentFactory, target: PprofTarget) -> None:
    target.behave(refuse(403, "no"), "heap")
    agent = run_agent("--target", f"api={target.url}", "--target", "gone=http://127.0.0.1:1")
    assert agent.sample('nodeobs_agent_pieces_total{reason="Forbidden",result="failure",target="gone"}') == 0
    agent.collect("run-1", profiles=["cpu", "heap"])
    assert agent.sample(f'nodeobs_agent_build_info{{version="{__version__}"}}') == 1
    assert agent.sample('nodeobs_agent_pieces_total{reason="",result="success",target="api"}') == 1
    assert agent.sample('nodeobs_agent_pieces_total{reason="Forbidden",result="failure",target="api"}') == 1
    assert agent.sample('nodeobs_agent_pieces_total{reason="TargetUnavailable",result="failure",target="gone"}') == 2
    assert agent.sample('nodeobs_agent_piece_duration_seconds_count{target="api"}') == 2
    assert agent.sample("nodeobs_agent_collection_running") == 0
    assert agent.sample("process_resident_memory_bytes") > 0


def test_promtool_finds_nothing_to_say(agent: AgentProcess) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    agent.collect("run-1")
    shown = subprocess.run(
        [promtool, "check", "metrics"],
        input=agent.client.get("/metrics").text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (shown.returncode, shown.stdout, shown.stderr) == (0, "", "")


def test_health(agent: AgentProcess) -> None:
    assert agent.client.get("/healthz").text == "ok\n"
    assert agent.client.get("/readyz").text == "ok\n"
    assert "server" not in agent.client.get("/readyz").headers
