"""A collection from its start to its files."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

from tests.fakes.pprof_target import PprofTarget, sample_profile
from tests.nodeagent.conftest import AgentFactory, AgentProcess, Certificates


def test_files_are_what_the_target_sent(agent: AgentProcess, target: PprofTarget) -> None:
    state = agent.collect("run-1", profiles=["cpu", "heap"])
    assert state["state"] == "Done"
    assert [(piece["target"], piece["profile"], piece["state"]) for piece in state["pieces"]] == [
        ("api", "cpu", "Done"),
        ("api", "heap", "Done"),
    ]
    for piece in state["pieces"]:
        body = agent.client.get(f"/v1/collections/run-1/files/{piece['file']['name']}").content
        assert body == sample_profile()
        assert piece["file"]["bytes"] == len(body)
        assert piece["file"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert [piece["file"]["name"] for piece in state["pieces"]] == ["api-cpu.pb.gz", "api-heap.pb.gz"]
    assert target.asked == ["/debug/pprof/profile?seconds=1", "/debug/pprof/heap"]
