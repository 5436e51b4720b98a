"""A release of the chart at rest on three real nodes: what service and agents take, and what they ask the API server.

Prints one JSON line. CPU is in percent of one core, over ``--seconds``; ``pss`` in MB (10^6 bytes), the proportional
set size of a replica's, or an agent's, processes. Needs root, Linux and the programs of ``make cluster-tools``.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from statistics import fmean

from bench.agent_memory import memory
from tests.chart.release import NAMESPACE, Release
from tests.lab.audit import Request
from tests.lab.cluster import cluster_of
from tests.lab.images import PROJECT, build_project
from tests.processes import wait_for

_SETTLE_SECONDS = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=60, help="how long to look (60)")
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as made, cluster_of(3) as cluster:
        folder = Path(made)
        build_project(folder / "image.tar")
        cluster.load_image(folder / "image.tar")
        with closing(Release(cluster, PROJECT, folder)) as release:
            release.helm("install")
            release.observability("cluster", nodeSelector={})
            wait_for("agents are ready", lambda: release.get("nob", "cluster")["status"].get("count") == 3)
            release.run("before", durationSeconds=1)
            release.wait_run("before")
            time.sleep(_SETTLE_SECONDS)
            service, agents = processes(b"gunicorn"), processes(b"nodeobs.nodeagent")
            user = f"system:serviceaccount:{NAMESPACE}:nodeobs"
            asked, began = len(cluster.requests(user)), (cpu(service), cpu(agents))
            time.sleep(seconds)
            ended = (cpu(service), cpu(agents))
            requests = cluster.requests(user)[asked:]
            print(
                json.dumps(
                    {
                        "bench": "at_rest",
                        "seconds": seconds,
                        "service_processes": len(service),
                        "service_cpu_percent": round((ended[0] - began[0]) / seconds * 100 / 2, 2),
                        "service_pss_mb": round(sum(memory(pid)["Pss"] for pid in service) / 2, 1),
                        "agents": len(agents),
                        "agent_cpu_percent": round((ended[1] - began[1]) / seconds * 100 / len(agents), 3),
                        "agent_pss_mb": round(fmean(memory(pid)["Pss"] for pid in agents), 1),
                        "requests_per_minute": round(len(requests) * 60 / seconds),
                        "requests": dict(Counter(map(kind_of, requests)).most_common()),
                    }
                )
            )


def processes(word: bytes) -> list[int]:
    """Processes of pods that have the word in their command line."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command, root = (entry / "cmdline").read_bytes(), (entry / "root").readlink()
        except OSError:
            continue  # it ended
        if word in command and (entry / "root" / "opt" / "nodeobs").is_dir() and root != Path("/proc/1/root"):
            found.append(int(entry.name))
    return found


def kind_of(request: Request) -> str:
    """Verb and path, without what differs from one to the next."""
    return f"{request.verb} {request.uri.partition('?')[0]}"


def cpu(pids: Iterable[int]) -> float:
    """Seconds of CPU that they used so far."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS


if __name__ == "__main__":
    main()
