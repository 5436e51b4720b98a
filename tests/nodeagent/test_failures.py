"""What can go wrong with a target, and the reason and text that come of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.pprof_target import (
    IN_USE,
    Behaviour,
    PprofTarget,
    answer_with,
    redirect,
    refuse,
    reset,
    stream,
    truncate,
    truncate_chunks,
)
from tests.nodeagent.conftest import agents
from tests.nodeagent.helpers import AgentFactory, AgentProcess, Certificates, issue


class Node:
    """An agent with one of each kind of target."""

    def __init__(self, agent: AgentProcess, servers: dict[str, PprofTarget]) -> None:
        self.agent = agent
        self.servers = servers
        self._number = 0

    def fail(self, name: str, behaviour: Behaviour, **request: Any) -> dict[str, Any]:
        """The one piece of a collection from target ``name``, which behaves so."""
        self._number += 1
        self.servers[name].behave(behaviour)
        state = self.agent.collect(f"run-{self._number}", targets=[name], **request)
        assert state["state"] == "Done"
        piece: dict[str, Any] = state["pieces"][0]
        assert piece["state"] == "Failed"
        assert piece["file"] is None
        return piece


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, certificates: Certificates) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    with (
        PprofTarget(tls=certificates.server_context(), speed=0.01) as kubelet,
        PprofTarget(socket_path=folder / "crio.sock", speed=0.01) as crio,
        PprofTarget(speed=0.01) as api,
        agents(folder) as run,
    ):
        agent = run(
            *("--kubelet-url", kubelet.url, "--crio-socket", str(folder / "crio.sock")),
            *("--target", f"api={api.url}", "--max-bytes", "1MiB"),
        )
        yield Node(agent, {"kubelet": kubelet, "crio": crio, "api": api})


@pytest.mark.parametrize(
    ("name", "behaviour", "reason", "text"),
    [
        ("kubelet", refuse(401, "Unauthorized"), "Unauthorized", "--kubelet-token-file"),
        ("kubelet", refuse(403, "Forbidden (user=x, verb=get)"), "Forbidden", "nodes/proxy"),
        ("kubelet", refuse(405, "profiling endpoint is disabled.\n"), "ProfilingDisabled", "enableProfilingHandler"),
        ("kubelet", refuse(405, "Debug endpoints are disabled."), "ProfilingDisabled", "enableDebuggingHandlers"),
        ("kubelet", refuse(500, IN_USE), "ProfilerInUse", "someone else is profiling"),
        ("crio", refuse(404, "404 page not found"), "ProfilingDisabled", "--enable-profile-unix-socket"),
        ("api", refuse(404, "404 page not found"), "BadResponse", "404 page not found"),
        ("api", refuse(503, "over\x1b[31m loaded\nand more"), "BadResponse", "answered 503: over [31m loaded"),
        ("api", refuse(400, "profile duration exceeds server's WriteTimeout"), "BadResponse", "WriteTimeout"),
        ("api", redirect("http://127.0.0.1:1/debug/pprof/profile"), "BadResponse", "answered 302"),
        ("api", answer_with(b"<html>\nWelcome</html>"), "BadProfile", "<html> Welcome"),
        ("api", answer_with(b""), "BadProfile", "nothing at all"),
        ("api", answer_with(b"\x1f"), "BadProfile", "not a profile"),
        ("api", truncate, "BadResponse", "broke off"),
        ("api", truncate_chunks, "BadResponse", "broke off"),
        ("api", reset, "BadResponse", "connection lost"),
        ("api", lambda exchange: None, "BadResponse", "without an answer"),
        ("api", lambda exchange: exchange.wfile.write(b"SSH-2.0-OpenSSH\r\n\r\n") and None, "BadResponse", "HTTP"),
        ("api", stream(2_000_000), "StorageFull", "--max-bytes"),
    ],
)
def test_a_refusal_has_its_reason(node: Node, name: str, behaviour: Behaviour, reason: str, text: str) -> None:
    piece = node.fail(name, behaviour)
    assert piece["reason"] == reason, piece["message"]
    assert text in piece["message"]
    series = f'nodeobs_agent_pieces_total{{reason="{reason}",result="failure",target="{name}"}}'
    assert node.agent.sample(series) >= 1


def test_nothing_is_left_of_a_failed_file(node: Node) -> None:
    node.fail("api", truncate_chunks)
    assert node.agent.sample("nodeobs_agent_stored_bytes") == 0


def test_a_trace_that_is_none_is_a_bad_profile(node: Node) -> None:
    assert node.fail("api", answer_with(b"\x1f\x8bxxxxxxx"), profiles=["trace"])["reason"] == "BadProfile"


def test_a_target_without_tls_where_tls_is_expected(run_agent: AgentFactory) -> None:
    with PprofTarget() as plain:
        state = run_agent("--kubelet-url", f"https://127.0.0.1:{plain.port}").collect("run-1")
    assert state["pieces"][0]["reason"] == "TLSFailure"


def test_a_certificate_of_another_ca_is_refused(
    run_agent: AgentFactory, certificates: Certificates, tmp_path: Path
) -> None:
    other = issue(tmp_path / "other", "127.0.0.1")
    with PprofTarget(tls=other.server_context()) as kubelet:
        agent = run_agent("--kubelet-url", kubelet.url, "--kubelet-ca-file", str(certificates.ca_file))
        piece = agent.collect("run-1")["pieces"][0]
        assert kubelet.asked == []
    assert piece["reason"] == "TLSFailure"
    assert "not accepted" in piece["message"]


def test_a_certificate_is_verified_by_the_nodes_name(run_agent: AgentFactory, tmp_path: Path) -> None:
    named = issue(tmp_path / "named", "worker-a")
    with PprofTarget(tls=named.server_context(), speed=0.01) as kubelet:
        given = ("--kubelet-url", kubelet.url, "--kubelet-ca-file", str(named.ca_file))
        by_name = run_agent(*given, environ={"NODE_NAME": "worker-a"}, storage=tmp_path / "a")
        assert by_name.collect("run-1")["pieces"][0]["state"] == "Done"
        by_address = run_agent(*given, storage=tmp_path / "b")
        assert by_address.collect("run-1")["pieces"][0]["reason"] == "TLSFailure"


def test_a_ca_file_that_is_missing(run_agent: AgentFactory) -> None:
    agent = run_agent("--kubelet-url", "https://127.0.0.1:1", "--kubelet-ca-file", "/nowhere/ca.crt")
    piece = agent.collect("run-1")["pieces"][0]
    assert piece["reason"] == "TLSFailure"
    assert "/nowhere/ca.crt" in piece["message"]


def test_a_token_that_is_missing(run_agent: AgentFactory) -> None:
    agent = run_agent("--kubelet-url", "https://127.0.0.1:1", "--kubelet-token-file", "/nowhere/token")
    piece = agent.collect("run-1")["pieces"][0]
    assert piece["reason"] == "Unauthorized"
    assert "/nowhere/token" in piece["message"]


def test_targets_that_are_not_there(run_agent: AgentFactory, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    agent = run_agent(
        *("--kubelet-url", f"https://127.0.0.1:{port}", "--crio-socket", str(tmp_path / "crio.sock")),
        *("--containerd-socket", str(tmp_path / "debug.sock"), "--target", f"api=http://127.0.0.1:{port}"),
    )
    kubelet, crio, containerd, api = agent.collect("run-1")["pieces"]
    assert {piece["reason"] for piece in (kubelet, crio, containerd, api)} == {"TargetUnavailable"}
    assert "--kubelet-url" in kubelet["message"]
    assert "Connection refused" in api["message"]
    assert str(tmp_path / "crio.sock") in crio["message"]
    assert "[debug] address" in containerd["message"]
