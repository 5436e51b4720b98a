"""Fetching a finished file, whole and in part."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fakes.pprof_target import PprofTarget, answer_with
from tests.nodeagent.conftest import agents
from tests.nodeagent.helpers import AgentProcess

BODY = b"\x1f\x8b" + bytes(range(256)) * 2000
PATH = "/v1/collections/run-1/files/api-cpu.pb.gz"


@pytest.fixture(scope="module")
def holder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AgentProcess]:
    """An agent that holds one file with ``BODY``."""
    with PprofTarget(speed=0.01) as target, agents(tmp_path_factory.mktemp("agent")) as run:
        target.behave(answer_with(BODY))
        agent = run("--target", f"api={target.url}")
        agent.collect("run-1")
        yield agent


def test_the_whole_file(holder: AgentProcess) -> None:
    sha256 = holder.client.get("/v1/collections/run-1").json()["pieces"][0]["file"]["sha256"]
    answer = holder.client.get(PATH)
    assert (answer.status_code, answer.content) == (200, BODY)
    assert answer.headers["etag"] == f'"{sha256}"'
    assert answer.headers["content-length"] == str(len(BODY))
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["content-type"] == "application/octet-stream"


def test_head_has_the_headers_only(holder: AgentProcess) -> None:
    answer = holder.client.head(PATH)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(BODY))


def test_what_the_caller_has_is_not_sent_again(holder: AgentProcess) -> None:
    etag = holder.client.get(PATH).headers["etag"]
    for header in (etag, f'"other", {etag}', f"W/{etag}", "*"):
        answer = holder.client.get(PATH, headers={"If-None-Match": header})
        assert (answer.status_code, answer.content) == (304, b"")
    assert holder.client.get(PATH, headers={"If-None-Match": '"other"'}).status_code == 200


@settings(max_examples=60, deadline=None)
@given(first=st.integers(0, len(BODY) - 1), last=st.integers(0, 2 * len(BODY)))
def test_a_range_is_that_part_of_the_file(holder: AgentProcess, first: int, last: int) -> None:
    answer = holder.client.get(PATH, headers={"Range": f"bytes={first}-{last}"})
    if last < first:
        assert (answer.status_code, answer.content) == (200, BODY)
        return
    assert (answer.status_code, answer.content) == (206, BODY[first : last + 1])
    end = min(last, len(BODY) - 1)
    assert answer.headers["content-range"] == f"bytes {first}-{end}/{len(BODY)}"


@pytest.mark.parametrize(
    ("header", "content"),
    [("bytes=100-", BODY[100:]), ("bytes=-100", BODY[-100:]), ("bytes=-999999999", BODY), ("bytes=0-0", BODY[:1])],
)
def test_open_ranges(holder: AgentProcess, header: str, content: bytes) -> None:
    answer = holder.client.get(PATH, headers={"Range": header})
    assert (answer.status_code, answer.content) == (206, content)


@pytest.mark.parametrize("header", [f"bytes={len(BODY)}-", "bytes=999999999-999999999", "bytes=-0"])
def test_a_range_beyond_the_end_cannot_be_satisfied(holder: AgentProcess, header: str) -> None:
    answer = holder.client.get(PATH, headers={"Range": header})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(BODY)}"


@pytest.mark.parametrize("header", ["bytes=0-1,5-6", "lines=0-1", "bytes=a-b", "bytes=-", "", "bytes=5-2"])
def test_a_range_that_is_not_understood_is_ignored(holder: AgentProcess, header: str) -> None:
    answer = holder.client.get(PATH, headers={"Range": header})
    assert (answer.status_code, answer.content) == (200, BODY)


def test_a_range_of_another_version_gets_the_whole_file(holder: AgentProcess) -> None:
    etag = holder.client.get(PATH).headers["etag"]
    same = holder.client.get(PATH, headers={"Range": "bytes=0-9", "If-Range": etag})
    other = holder.client.get(PATH, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status_code, same.content) == (206, BODY[:10])
    assert (other.status_code, other.content) == (200, BODY)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/collections/run-1/files/api-heap.pb.gz",
        "/v1/collections/run-1/files/collection.json",
        "/v1/collections/run-1/files/..%2f..%2fetc%2fpasswd",
        "/v1/collections/run-1/files/.api-cpu.pb.gz.part",
        "/v1/collections/..%2frun-1/files/api-cpu.pb.gz",
        "/v1/collections/run-2/files/api-cpu.pb.gz",
    ],
)
def test_only_finished_profiles_can_be_fetched(holder: AgentProcess, path: str) -> None:
    answer = holder.client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_many_at_once(holder: AgentProcess) -> None:
    with ThreadPoolExecutor(8) as pool:
        bodies = list(pool.map(lambda _: holder.client.get(PATH).content, range(24)))
    assert all(body == BODY for body in bodies)
