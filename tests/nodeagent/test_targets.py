"""One target: how long it is waited for, and what a probe finds."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from nodeobs.errors import AgentError, ConfigurationError
from nodeobs.model import FailureReason, ProfileType
from nodeobs.nodeagent.arguments import read_settings
from nodeobs.nodeagent.target_settings import TargetSettings
from nodeobs.nodeagent.targets import Target, Timeouts
from tests.fakes.pprof_target import PprofTarget, answer_with, hang, refuse, stream
from tests.nodeagent.helpers import AgentFactory, Certificates

QUICK = Timeouts(connect=0.3, read=0.3, probe=0.3)


@contextmanager
def silent_server() -> Iterator[int]:
    """Takes connections and never says anything; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in taken:
                connection.close()


def failure(settings: TargetSettings, timeouts: Timeouts = QUICK) -> AgentError:
    """What streaming a snapshot from it raises."""

    async def run() -> None:
        async for _ in Target(settings, timeouts).stream(ProfileType.HEAP, 1):
            pass

    with pytest.raises(AgentError) as caught:
        asyncio.run(run())
    return caught.value


def test_the_timeouts_of_the_field() -> None:
    assert Timeouts() == Timeouts(connect=5, read=15, probe=3)


def test_a_target_that_never_shakes_hands() -> None:
    with silent_server() as port:
        settings = TargetSettings(name="api", url=f"https://127.0.0.1:{port}/debug/pprof", any_certificate=True)
        error = failure(settings)
    assert error.reason is FailureReason.TARGET_UNAVAILABLE
    assert "did not take the connection within 0.3 seconds" in error.message


def test_a_target_that_never_answers() -> None:
    with silent_server() as port:
        error = failure(TargetSettings(name="api", url=f"http://127.0.0.1:{port}/debug/pprof"))
    assert error.reason is FailureReason.TIMEOUT
    assert "sent nothing for 0.3 seconds" in error.message


def test_a_cpu_profile_may_take_its_seconds() -> None:
    async def run(target: Target) -> bytes:
        return b"".join([chunk async for chunk in target.stream(ProfileType.CPU, 1)])

    with PprofTarget() as server:
        settings = TargetSettings(name="api", url=f"{server.url}/debug/pprof")
        assert asyncio.run(run(Target(settings, QUICK)))


def test_targets_are_listed_with_what_is_wrong(
    run_agent: AgentFactory, certificates: Certificates, tmp_path: Path
) -> None:
    with (
        PprofTarget(tls=certificates.server_context()) as kubelet,
        PprofTarget(socket_path=tmp_path / "crio.sock") as crio,
        PprofTarget() as big,
        PprofTarget() as hung,
        PprofTarget() as page,
    ):
        crio.behave(refuse(404, "404 page not found"))
        big.behave(stream(100_000_000))
        hung.behave(hang)
        page.behave(answer_with(b"<html>"))
        agent = run_agent(
            *("--kubelet-url", kubelet.url, "--crio-socket", str(tmp_path / "crio.sock")),
            *("--target", f"big={big.url}", "--target", f"hung={hung.url}", "--target", f"page={page.url}"),
        )
        rows = {row["name"]: row for row in agent.client.get("/v1/targets").json()["targets"]}
        asked = {path for server in (kubelet, crio, big, hung, page) for path in server.asked}
    assert {name: (row["available"], row["reason"]) for name, row in rows.items()} == {
        "kubelet": (True, None),
        "crio": (False, "ProfilingDisabled"),
        "big": (True, None),
        "hung": (False, "Timeout"),
        "page": (False, "BadProfile"),
    }
    assert rows["kubelet"]["endpoint"] == kubelet.url
    assert "not verified" in rows["kubelet"]["message"]
    assert rows["crio"]["endpoint"] == f"unix:{tmp_path / 'crio.sock'}"
    assert asked == {"/debug/pprof/threadcreate"}


@pytest.mark.parametrize("url", ["http://user:secret@h", "http://user:secret@h:99999", "ftp://user:secret@h/x"])
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        read_settings(["--target", f"a={url}"], {})
    assert "without user and password" in str(refused.value)
    assert "secret" not in str(refused.value)
