"""What is written again, and when; what is known of it."""

from __future__ import annotations

from pathlib import Path

from nodeobs.deploy.applier import Applier
from nodeobs.errors import StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from tests.fakes.api_server import Answer, FakeApiServer


def test_an_attempt_is_known_for_its_pause_and_names_that_are_gone_are_not_kept(tmp_path: Path) -> None:
    time, tries = 0.0, 0

    def fail() -> None:
        nonlocal tries
        tries += 1
        raise StoreUnavailable("not now")

    with FakeApiServer(lambda _: Answer()) as server:
        client = KubeClient(load_credentials(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), environ={}))
        applier = Applier(client, monotonic=lambda: time)
        for number in range(1000):
            time += 60
            applier.attempt(("Secret", f"of-{number}"), "a", fail)
        assert len(applier._attempts) < 20
        tries = 0
        for _ in range(600):
            time += 1
            assert "not now" in applier.attempt(("Secret", "kept"), "a", fail)
        assert tries == 13, "0, 5, 15, 35, 75, 135, ... seconds"
        for _ in range(2000):
            time += 60
            assert "not now" in applier.attempt(("Secret", "kept"), "a", fail), "after a day"
        client.close()
