"""The rosters of many NodeObservabilities."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from nodeobs.agents.rosters import ClusterRosters
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from tests.fakes.api_server import Answer, FakeApiServer


def test_those_of_names_that_are_gone_are_not_kept(tmp_path: Path) -> None:
    listed = Answer(body={"metadata": {"resourceVersion": "1"}, "items": []})
    with FakeApiServer(lambda _: listed) as server:
        credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), environ={})
        with closing(KubeClient(credentials)) as client:
            rosters = ClusterRosters(client, namespace="agents", service_of=lambda name: name)
            for number in range(200):
                assert rosters.agents(f"o{number}") == []
                assert rosters.agents("in-use") == []
            assert len(rosters._rosters) == 64
            assert "in-use" in rosters._rosters
