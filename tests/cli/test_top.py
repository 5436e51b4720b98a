"""``nodeobs top``: which file is shown, and what is said of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from nodeobs.model import Phase
from nodeobs.pprof import format_value, read, top
from tests.builders import make_run
from tests.cli.conftest import Answer, FakeService, Invoke
from tests.cli.outputs import CRIO, DATA, HEAP, KUBELET, RUN, serve_output


def test_the_merged_kubelet_is_shown_first(service: FakeService, nodeobs: Invoke) -> None:
    service.has_run(make_run(phase=Phase.SUCCEEDED))
    serve_output(service)
    result = nodeobs("top", "latest", "-n", "5")
    assert result.exit_code == 0, result.output
    title, summary, header, *rows = result.stdout.splitlines()
    assert title == "Run nodeobs/run-1: kubelet cpu merged from node-1, node-2"
    table = top(read(KUBELET), limit=5)
    assert summary.startswith(f"cpu: {format_value(table.total, 'nanoseconds', table.unit)} in total; showing 5 of ")
    assert header.split() == ["flat", "flat%", "sum%", "cum", "cum%", "function"]
    assert [row.split()[-1] for row in rows] == [row.name.split()[-1] for row in table.rows]
    assert rows[0].split()[0] == format_value(table.rows[0].flat, "nanoseconds", table.unit)
    assert "There is also kubelet heap, crio cpu: see --target and --profile." in result.stderr


def test_values_in_json_are_exact(service: FakeService, nodeobs: Invoke) -> None:
    serve_output(service)
    arguments = ["--profile", "heap", "--sample-type", "alloc_space", "--by", "cum", "-n", "3", "-o", "json"]
    result = nodeobs("top", "run-1", *arguments)
    assert result.stderr == ""
    document = json.loads(result.stdout)
    table = top(read(HEAP), limit=3, by="cum", sample_type="alloc_space")
    assert (document["sampleType"], document["unit"], document["total"]) == ("alloc_space", "bytes", table.total)
    assert [(f["name"], f["flat"], f["cum"]) for f in document["functions"]] == [
        (row.name, row.flat, row.cum) for row in table.rows
    ]


def test_one_node_and_one_target(service: FakeService, nodeobs: Invoke) -> None:
    serve_output(service)
    result = nodeobs("top", "run-1", "--node", "node-1", "--target", "crio")
    assert result.stdout.startswith("Run nodeobs/run-1: crio cpu of node-1\n")
    assert service.asked[-1].path == f"{RUN}/output/node-1/crio-cpu.pb.gz"


def test_what_could_not_be_merged_is_said(service: FakeService, nodeobs: Invoke) -> None:
    serve_output(service)
    result = nodeobs("top", "run-1", "--target", "crio")
    assert "merged from node-1, node-2; without node-2 (types differ)" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--node", "node-3"], "node-3 delivered nothing: Unreachable: connection refused"),
        (["--node", "node-9"], "node node-9 took no part in the Run; these did: node-1, node-2, node-3"),
        (["--node", "node-2", "--target", "crio"], "crio cpu is missing: ProfilingDisabled: start CRI-O with --enable"),
        (["--target", "containerd"], "containerd cpu is missing: no input could be read"),
        (["--target", "etcd"], "there is crio cpu, kubelet cpu, kubelet heap"),
        (["--profile", "mutex"], "choose with --target and --profile"),
    ],
)
def test_what_is_missing_is_explained(service: FakeService, nodeobs: Invoke, arguments: list[str], text: str) -> None:
    serve_output(service)
    result = nodeobs("top", "run-1", *arguments)
    assert result.exit_code == 5
    assert text in result.stderr


def test_a_file(nodeobs: Invoke, tmp_path: Path, service: FakeService) -> None:
    shutil.copy(DATA / "crio-cpu.pb.gz", tmp_path / "a.pb.gz")
    result = nodeobs("top", "a.pb.gz", "--by", "cum")
    assert result.exit_code == 0
    assert result.stdout.startswith("a.pb.gz\ncpu: 350ms in total")
    assert service.asked == []


def test_a_node_of_a_merged_file(nodeobs: Invoke, tmp_path: Path) -> None:
    shutil.copy(DATA / "crio-cpu.pb.gz", tmp_path / "a.pb.gz")
    assert "showing 0 of 0" in nodeobs("top", "a.pb.gz", "--node", "nobody").stdout


@pytest.mark.parametrize("content", [b"", b"not a profile", b"\x1f\x8b" + b"x" * 50, KUBELET[:3000]])
def test_a_file_that_is_no_profile(nodeobs: Invoke, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.pb.gz").write_bytes(content)
    result = nodeobs("top", "a.pb.gz")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: a.pb.gz: ")


def test_a_name_that_no_file_can_have(nodeobs: Invoke) -> None:
    result = nodeobs("top", "x" * 300)
    assert result.exit_code == 2
    assert "is not a Run's name" in result.stderr


@pytest.mark.parametrize("path", ["/nosuch.pb.gz", "./nosuch.pb.gz", "out/merged/nosuch.pb.gz"])
def test_a_file_that_is_not_there(nodeobs: Invoke, path: str) -> None:
    result = nodeobs("top", path)
    assert (result.exit_code, result.stderr) == (5, f"Error: there is no file {path}\n")


def test_a_sample_type_that_is_not_there(nodeobs: Invoke, tmp_path: Path) -> None:
    (tmp_path / "a.pb.gz").write_bytes(CRIO)
    result = nodeobs("top", "a.pb.gz", "--sample-type", "space")
    assert result.exit_code == 1
    assert "no sample type 'space', only samples, cpu" in result.stderr


def test_a_namespace_is_no_number_of_functions(nodeobs: Invoke) -> None:
    result = nodeobs("top", "run-1", "-n", "sre")
    assert result.exit_code == 2
    assert "'sre' is no number of functions; a namespace is given with --namespace" in result.stderr


def test_target_and_profile_are_of_runs(nodeobs: Invoke, tmp_path: Path) -> None:
    (tmp_path / "a.pb.gz").write_bytes(CRIO)
    assert nodeobs("top", "a.pb.gz", "--target", "crio").exit_code == 2


def test_a_file_that_is_not_as_described_is_not_shown(service: FakeService, nodeobs: Invoke) -> None:
    serve_output(service)
    path = f"{RUN}/output/merged/kubelet-cpu.pb.gz"
    service.on("GET", path, Answer(200, CRIO))
    assert "not the file that its manifest describes" in nodeobs("top", "run-1").stderr
    service.on("GET", path, Answer(200, KUBELET + b"x"))
    assert "more than" in nodeobs("top", "run-1").stderr
