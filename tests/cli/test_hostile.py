"""Whatever answers at the service's address: no traceback, no control of the terminal, a clear failure."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.cli.problems import failure_of
from nodeobs.cli.text import clean, table
from nodeobs.model import FailedAgent, FailureReason, Phase, replace, to_builtins
from tests.builders import make_run
from tests.cli.conftest import Answer, FakeService, Invoke, as_json, as_problem, as_run

RUN = "/api/v1/runs/nodeobs/run-1"
STEERING = "\x1b]0;owned\x07\x1b[31mred\r\n\u202egnp.exe\x9b2J"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"metadata": {"name": "../x"}, "spec": {}}',
        b"\xff" * 10,
        b"[" * 100_000,
        b'{"metadata": 1e999, "spec": []}',
    ],
)
def test_an_answer_that_is_no_run(service: FakeService, nodeobs: Invoke, body: bytes) -> None:
    service.on("GET", RUN, Answer(200, body))
    result = nodeobs("run", "get", "run-1")
    assert result.exit_code == 6
    assert "not the service's" in result.stderr


@given(
    status=st.sampled_from([301, 400, 401, 403, 404, 409, 418, 422, 500, 502, 503, 599]), body=st.binary(max_size=300)
)
def test_any_failure_is_one_with_an_exit_code(status: int, body: bytes) -> None:
    failure = failure_of(status, body, url="http://service")
    assert failure.exit_code in (1, 2, 4, 5, 6)
    assert str(failure)


@given(
    members=st.dictionaries(
        st.sampled_from(["title", "detail", "holder", "errors", "status", "x"]),
        st.recursive(st.none() | st.text() | st.integers(), st.lists, max_leaves=5),
    )
)
def test_any_problem_document_is_told_without_steering(members: dict[str, object]) -> None:
    failure = failure_of(409, json.dumps(members).encode(), url="http://service")
    assert clean(failure.detail).isprintable()
    assert failure.exit_code == 4


@given(st.text())
def test_clean_text_is_one_printable_line(text: str) -> None:
    assert clean(text).isprintable()
    assert clean(text) == text or not text.isprintable() or len(text) > 4000


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=5))
def test_a_table_has_a_line_for_each_row(rows: list[tuple[str, str]]) -> None:
    assert len(table(("A", "B"), rows).split("\n")) == len(rows) + 1


@pytest.mark.parametrize("arguments", [("get", "run-1"), ("wait", "run-1"), ("list",)])
def test_names_and_messages_cannot_steer_the_terminal(
    service: FakeService, nodeobs: Invoke, arguments: tuple[str, ...]
) -> None:
    run = make_run(phase=Phase.SUCCEEDED)
    failed = FailedAgent(name=STEERING, reason=FailureReason.BAD_RESPONSE, message=STEERING)
    run = replace(run, status=replace(run.status, failed_agents=(failed,), output=STEERING))
    service.has_run(run)
    result = nodeobs("run", *arguments)
    assert result.exit_code in (0, 3)
    assert not set(result.output) & set("\x1b\x07\r\u202e\x9b")
    assert arguments == ("list",) or "\\x1b[31mred" in result.output


def test_json_output_cannot_steer_the_terminal(service: FakeService, nodeobs: Invoke) -> None:
    run = make_run(phase=Phase.SUCCEEDED)
    run = replace(run, status=replace(run.status, output=STEERING))
    service.has_run(run)
    result = nodeobs("run", "get", "run-1", "-o", "json")
    assert result.stdout.replace("\n", "").isascii()
    assert result.stdout.replace("\n", "").isprintable()
    assert json.loads(result.stdout)["status"]["output"] == STEERING


def test_a_problem_cannot_steer_the_terminal(service: FakeService, nodeobs: Invoke) -> None:
    service.on("POST", "/api/v1/runs", as_problem(409, STEERING, holder=STEERING))
    result = nodeobs("run", "start")
    assert result.exit_code == 4
    assert not set(result.output) & set("\x1b\x07\r\u202e\x9b")


def test_an_error_page_is_cut(service: FakeService, nodeobs: Invoke) -> None:
    service.on("GET", RUN, Answer(500, b"<h1>oops</h1>" * 100_000))
    result = nodeobs("run", "get", "run-1")
    assert result.exit_code == 6
    assert "500 Internal Server Error: <h1>oops" in result.stderr
    assert len(result.stderr) < 500


def test_an_answer_that_ends_early(service: FakeService, nodeobs: Invoke) -> None:
    service.on("GET", RUN, as_run(make_run(), cut=True))
    result = nodeobs("run", "get", "run-1")
    assert result.exit_code == 6
    assert "failed" in result.stderr


def test_a_compressed_answer_that_is_none(service: FakeService, nodeobs: Invoke) -> None:
    service.on("GET", RUN, Answer(200, b"not gzip", {"Content-Encoding": "gzip"}))
    assert nodeobs("run", "get", "run-1").exit_code == 6


def test_fields_of_a_newer_service_are_ignored(service: FakeService, nodeobs: Invoke) -> None:
    document = to_builtins(make_run(phase=Phase.FAILED))
    document["spec"]["novelty"] = {"a": 1}
    service.on("GET", RUN, as_json(document | {"extra": True}))
    assert nodeobs("run", "get", "run-1").exit_code == 0
