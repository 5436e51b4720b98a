"""Merging the kubelet CPU profiles of many nodes, against Go's pprof in the same run: ``bench/merge.py [nodes]``.

Each node's profile is a variant of the real capture: a sample of its stacks with ids in an order of their own, as they
are in profiles of different nodes.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from nodeobs.pprof import Profile, read, write
from nodeobs.pprof.merging import merge
from nodeobs.pprof.process import MergeInput, MergeJob, merge_in_process
from nodeobs.pprof.scan import scan

CAPTURE = Path(__file__).parents[1] / "tests" / "data" / "kubelet-cpu.pb.gz"
MOST_NODES = 2000


def main() -> None:
    nodes = min(int(sys.argv[1]) if len(sys.argv) > 1 else 100, MOST_NODES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _variants(folder, nodes)
        begin = time.perf_counter()
        for path in paths:
            scan(path)
        scanned = time.perf_counter() - begin
        plain, labelled = _merged(paths, folder, label=False), _merged(paths, folder, label=True)
        answer = {"bench": "merge", "nodes": nodes, "scan_seconds": scanned}
        answer |= {"merge_seconds": plain, "merge_with_node_label_seconds": labelled}
        go = shutil.which("go")
        if go is not None:
            seconds = _go_merged(go, paths, folder)
            answer |= {"go_seconds": seconds, "merge_to_go_ratio": plain / seconds}
    print(json.dumps({key: round(value, 3) if isinstance(value, float) else value for key, value in answer.items()}))


def _variants(folder: Path, nodes: int) -> list[Path]:
    capture, chance = read(CAPTURE.read_bytes()), random.Random(1)
    paths = []
    for node in range(nodes):
        samples = chance.sample(list(capture.samples), k=len(capture.samples) * 9 // 10)
        variant: Profile = merge([(replace(capture, samples=samples), {})])
        path = folder / f"n{node}.pb.gz"
        path.write_bytes(write(variant))
        paths.append(path)
    return paths


def _merged(paths: list[Path], folder: Path, *, label: bool) -> float:
    inputs = [MergeInput(path=path, labels={"node": path.name} if label else {}) for path in paths]
    begin = time.perf_counter()
    (result,) = merge_in_process([MergeJob(output=folder / "ours", inputs=inputs)], timeout=600)
    assert not result.error, result.error
    assert not result.skipped
    return time.perf_counter() - begin


def _go_merged(go: str, paths: list[Path], folder: Path) -> float:
    subprocess.run([go, "tool", "pprof", "-help"], capture_output=True, check=False)  # builds it where it is not yet
    named = subprocess.run([go, "tool", "-n", "pprof"], capture_output=True, text=True, check=True)
    command = [named.stdout.strip(), "-symbolize=none", "-proto", f"-output={folder / 'go'}", *map(str, paths)]
    begin = time.perf_counter()
    subprocess.run(command, capture_output=True, check=True)
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
