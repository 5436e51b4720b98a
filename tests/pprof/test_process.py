"""The merging process, as the service runs it and by hand."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from nodeobs.pprof import read, write
from nodeobs.pprof.merging import merge
from nodeobs.pprof.process import MergeInput, MergeJob, merge_in_process
from nodeobs.pprof.profile import Location, Profile, ValueType
from tests.pprof.conftest import DATA, GoPprof

LONG = 60.0
CPU = DATA / "kubelet-cpu.pb.gz"
HEAP = DATA / "kubelet-heap.pb.gz"


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end, "it never came to pass"
        time.sleep(0.01)


def _labelled(path: Path, node: str) -> MergeInput:
    return MergeInput(path=path, labels={"node": node})


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """A profile at ``endless`` without an end; the call waits until it is being read, and gives the other side."""
    path = tmp_path / "endless"
    os.mkfifo(path)
    ends: list[int] = []

    def opened() -> bool:
        try:
            ends.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            return False
        return True

    def wait() -> int:
        _until(opened)
        return ends[-1]

    yield wait
    for end in ends:
        os.close(end)


def _has_no_reader(end: int) -> bool:
    try:
        os.write(end, b"x")
    except BrokenPipeError:
        return True
    except BlockingIOError:
        return False
    return False


def test_profiles_are_merged_into_files(tmp_path: Path, go_pprof: GoPprof) -> None:
    jobs = [
        MergeJob(output=tmp_path / f"{path.name}", inputs=[_labelled(path, "n1"), _labelled(path, "n2")])
        for path in (CPU, HEAP)
    ]
    results = merge_in_process(jobs, timeout=LONG)
    for path, result in zip((CPU, HEAP), results, strict=True):
        profile = read(path.read_bytes())
        data = result.output.read_bytes()
        assert data == write(merge([(profile, {"node": "n1"}), (profile, {"node": "n2"})]))
        assert (result.output, result.error, result.skipped, result.inputs) == (tmp_path / path.name, "", (), 2)
        assert (result.bytes, result.sha256) == (len(data), hashlib.sha256(data).hexdigest())
        assert "n2" in go_pprof("-tags", result.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == [CPU.name, HEAP.name], "no temporary files"


def test_what_cannot_be_merged_is_named_and_the_rest_is_merged(tmp_path: Path) -> None:
    broken, missing = tmp_path / "broken", tmp_path / "missing"
    broken.write_bytes(CPU.read_bytes()[:-20])
    inputs = [_labelled(path, "n") for path in (broken, CPU, HEAP, missing)]
    (result,) = merge_in_process([MergeJob(output=tmp_path / "out", inputs=inputs)], timeout=LONG)
    assert (result.error, result.inputs) == ("", 1)
    messages = dict(result.skipped)
    assert list(messages) == [broken, HEAP, missing]
    assert "truncated" in messages[broken]
    assert "it cannot be merged with the others" in messages[HEAP]
    assert "No such file" in messages[missing]


def test_a_merge_of_nothing_fails_and_leaves_the_others_alone(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    jobs = [
        MergeJob(output=tmp_path / "nothing", inputs=[_labelled(tmp_path / "missing", "n")]),
        MergeJob(output=tmp_path / "nowhere" / "out", inputs=[_labelled(CPU, "n")]),
        MergeJob(output=tmp_path / "folder", inputs=[_labelled(CPU, "n")]),
        MergeJob(output=tmp_path / "out", inputs=[_labelled(CPU, "n")]),
    ]
    nothing, nowhere, folder, out = merge_in_process(jobs, timeout=LONG)
    assert nothing.error == "none of the 1 profiles can be merged"
    assert nothing.skipped[0][0] == tmp_path / "missing"
    assert nowhere.error == f"cannot write {tmp_path}/nowhere/out: No such file or directory"
    assert folder.error == f"cannot write {tmp_path}/folder: Is a directory"
    assert out.error == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "out"], "no temporary files"


def test_it_is_ended_when_it_takes_too_long(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "endless")
    job = MergeJob(output=tmp_path / "out", inputs=[_labelled(tmp_path / "endless", "n")])
    (result,) = merge_in_process([job], timeout=0.5)
    assert result.error == "merging took too long and was ended"
    assert not job.output.exists()
    assert _children() == []


def test_it_is_ended_when_the_service_stops(tmp_path: Path, endless: Callable[[], int]) -> None:
    stop = threading.Event()
    job = MergeJob(output=tmp_path / "out", inputs=[_labelled(tmp_path / "endless", "n")])
    with ThreadPoolExecutor(1) as pool:
        merging = pool.submit(merge_in_process, [job], timeout=LONG, stop=stop)
        end = endless()
        stop.set()
        assert merging.result(LONG)[0].error == "merging was stopped"
    assert _has_no_reader(end)


CALLER = """
import sys
from pathlib import Path
from nodeobs.pprof.process import MergeInput, MergeJob, merge_in_process
merge_in_process([MergeJob(output=Path("out"), inputs=[MergeInput(path=Path(sys.argv[1]))])], timeout=600)
"""


def test_it_dies_with_its_parent(tmp_path: Path, endless: Callable[[], int]) -> None:
    with subprocess.Popen([sys.executable, "-c", CALLER, tmp_path / "endless"]) as caller:
        end = endless()
        caller.kill()
    _until(lambda: _has_no_reader(end))


def test_it_does_not_start_without_its_parent() -> None:
    command = [sys.executable, "-m", "nodeobs.pprof.merge", "--parent", "0"]
    done = subprocess.run(command, input='{"merges": []}', capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "the parent process 0 is gone\n")


def test_it_holds_none_of_our_files_and_steps_back(tmp_path: Path, endless: Callable[[], int]) -> None:
    job = MergeJob(output=tmp_path / "out", inputs=[_labelled(tmp_path / "endless", "n")])
    stop = threading.Event()
    with (tmp_path / "leader.lock").open("w") as lock, ThreadPoolExecutor(1) as pool:
        os.set_inheritable(lock.fileno(), True)
        merging = pool.submit(merge_in_process, [job], timeout=LONG, stop=stop)
        endless()
        (child,) = _children()
        _until(lambda: str(tmp_path / "endless") in _files_of(child))  # it has it a moment after it is opened
        files = _files_of(child)
        niceness = os.getpriority(os.PRIO_PROCESS, child)
        stop.set()
        merging.result(LONG)
    assert lock.name not in files
    assert niceness >= os.getpriority(os.PRIO_PROCESS, 0) + 5


def _files_of(process: int) -> set[str]:
    return {str(entry.readlink()) for entry in Path(f"/proc/{process}/fd").iterdir()}


def _children() -> list[int]:
    """Merging processes of this one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(") ")[2].split()
            command = stat.with_name("cmdline").read_text()
        except OSError:
            continue
        if int(fields[1]) == os.getpid() and "nodeobs.pprof.merge" in command:
            found.append(int(stat.parent.name))
    return found


def test_a_process_that_dies_is_reported_and_what_it_did_is_kept(tmp_path: Path, endless: Callable[[], int]) -> None:
    jobs = [
        MergeJob(output=tmp_path / "first", inputs=[_labelled(CPU, "n")]),
        MergeJob(output=tmp_path / "second", inputs=[_labelled(tmp_path / "endless", "n")]),
    ]
    with ThreadPoolExecutor(1) as pool:
        merging = pool.submit(merge_in_process, jobs, timeout=LONG)
        endless()
        (child,) = _children()
        os.kill(child, signal.SIGKILL)
        first, second = merging.result(LONG)
    assert (first.error, first.inputs) == ("", 1)
    assert second.error.startswith("the merging process ended with status -9")


def test_nothing_to_merge() -> None:
    assert merge_in_process([], timeout=LONG) == []


def _by_hand(document: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nodeobs.pprof.merge"]
    return subprocess.run(command, input=document, capture_output=True, text=True, check=False)


def test_by_hand(tmp_path: Path) -> None:
    good = {"output": str(tmp_path / "out"), "inputs": [{"path": str(CPU), "labels": {}}]}
    bad = {"output": str(tmp_path / "none"), "inputs": [{"path": str(tmp_path / "missing"), "labels": {}}]}
    done = _by_hand(json.dumps({"merges": [good]}))
    assert (done.returncode, done.stderr) == (0, "")
    answer = json.loads(done.stdout)
    assert answer == {
        "output": str(tmp_path / "out"),
        "inputs": 1,
        "skipped": [],
        "bytes": (tmp_path / "out").stat().st_size,
        "sha256": hashlib.sha256((tmp_path / "out").read_bytes()).hexdigest(),
    }
    done = _by_hand(json.dumps({"merges": [bad, good]}))
    assert done.returncode == 1
    assert [sorted(json.loads(line)) for line in done.stdout.splitlines()] == [
        ["error", "inputs", "output", "skipped"],
        ["bytes", "inputs", "output", "sha256", "skipped"],
    ]


@pytest.mark.parametrize("document", ["", "[]", "{", '{"merges": [{"output": "x"}]}', '{"merges": 3}'])
def test_a_wrong_document_is_refused(document: str) -> None:
    done = _by_hand(document)
    assert (done.returncode, done.stdout) == (2, "")
    assert "not a document of merges" in done.stderr


def _bomb() -> bytes:
    """A small file of a million samples that are all the same."""
    start = Profile(sample_types=(ValueType("cpu", "ns"),), locations=[Location(1)])
    return gzip.compress(gzip.decompress(write(start)) + b"\x12\x06\x0a\x01\x01\x12\x01\x01" * 1_000_000)


def _merge_with(memory: int, output: Path, *inputs: MergeInput) -> dict[str, Any]:
    """What the process answers when it may have so many bytes of memory."""
    given = [{"path": str(each.path), "labels": dict(each.labels)} for each in inputs]
    done = subprocess.run(
        ["prlimit", f"--data={memory}", sys.executable, "-m", "nodeobs.pprof.merge"],
        input=json.dumps({"merges": [{"output": str(output), "inputs": given}]}),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_a_profile_that_would_take_all_memory_is_left_out(tmp_path: Path) -> None:
    bomb = tmp_path / "bomb"
    bomb.write_bytes(_bomb())
    assert bomb.stat().st_size < 20_000
    answer = _merge_with(150 << 20, tmp_path / "merged", _labelled(CPU, "n1"), _labelled(bomb, "n2"))
    assert answer["inputs"] == 1
    assert answer["skipped"] == [{"path": str(bomb), "message": "it takes more memory than merging may have"}]
    assert read((tmp_path / "merged").read_bytes()).samples


def test_memory_is_bounded(tmp_path: Path, endless: Callable[[], int]) -> None:
    with ThreadPoolExecutor(1) as pool:
        stop = threading.Event()
        job = MergeJob(output=tmp_path / "merged", inputs=[MergeInput(path=tmp_path / "endless")])
        done = pool.submit(merge_in_process, [job], timeout=LONG, stop=stop)
        endless()
        limits = [Path(f"/proc/{pid}/limits").read_text() for pid in _children()]
        stop.set()
        done.result()
    assert any(f"{2 << 30}" in line for text in limits for line in text.splitlines() if "data size" in line)
