"""``make demo-cluster``: its acts, on the cluster and with the image of the tests."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from tests.chart.demo import Demo
from tests.chart.release import Release, remove_definitions
from tests.lab.cluster import Cluster

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("helm_there")]


def test_an_alert_becomes_merged_profiles_in_a_cluster(
    cluster: Cluster, image: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remove_definitions(cluster)
    with closing(Release(cluster, image, tmp_path)) as release:
        run = release.get_run(Demo(release, tmp_path).play())
        assert run["status"]["phase"] == "Succeeded", release.said()
        assert {name: len(targets) for name, targets in release.delivered(run).items()} == {
            node.name: 2 for node in cluster.nodes
        }
    told = capsys.readouterr().out
    assert "denied the request" in told
    assert "containerd cpu merged from node-1, node-2, node-3" in told
    assert 'nodeobs_last_run_failed_agents{nodeobservability="nodeobservability-sample"} 0.0' in told
