"""Who may call what."""

from __future__ import annotations

import base64
from collections.abc import Mapping

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.web.support import (
    ADMIN,
    OBSERVABILITIES,
    RUNNER,
    RUNS,
    VIEWER,
    WEBHOOK,
    assert_problem,
    bearer,
    notification,
    run_body,
)

UNKNOWN = "unknown-token-0123456789"


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_need_no_token(guarded: FlaskClient, path: str) -> None:
    assert guarded.get(path, headers={"Host": "10.0.0.7:8080"}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "allowed"),
    [
        ("GET", RUNS, None, (VIEWER, RUNNER, ADMIN)),
        ("GET", "/", None, (VIEWER, RUNNER, ADMIN)),
        ("GET", "/metrics", None, (VIEWER, RUNNER, ADMIN)),
        ("GET", "/api/openapi.json", None, (VIEWER, RUNNER, ADMIN)),
        ("GET", f"{RUNS}/a/b/output", None, (VIEWER, RUNNER, ADMIN)),
        ("GET", "/no/such/path", None, (VIEWER, RUNNER, ADMIN)),
        ("POST", RUNS, run_body(), (RUNNER, ADMIN)),
        ("POST", f"{RUNS}/a/b/cancel", None, (RUNNER, ADMIN)),
        ("DELETE", f"{RUNS}/a/b", None, (RUNNER, ADMIN)),
        ("POST", WEBHOOK, notification(), (RUNNER, ADMIN)),
        ("POST", OBSERVABILITIES, {"metadata": {"name": "new"}}, (ADMIN,)),
        ("PUT", f"{OBSERVABILITIES}/a", {"metadata": {"name": "a"}}, (ADMIN,)),
        ("DELETE", f"{OBSERVABILITIES}/a", None, (ADMIN,)),
        ("GET", "/debug/pprof/profile?seconds=1", None, (ADMIN,)),
    ],
)
def test_every_role_has_its_rights(
    guarded: FlaskClient, method: str, path: str, body: object, allowed: tuple[str, ...]
) -> None:
    for token in (VIEWER, RUNNER, ADMIN):
        answer = guarded.open(path, method=method, json=body, headers=bearer(token))
        if token in allowed:
            assert answer.status_code not in (401, 403), answer.text
        else:
            assert_problem(answer, 403)
    for headers in ({}, bearer(UNKNOWN)):
        answer = guarded.open(path, method=method, json=body, headers=headers)
        assert_problem(answer, 401)
        assert "Bearer" in answer.headers["WWW-Authenticate"]


def test_a_view_added_without_a_thought_is_an_admins_to_change(guarded_app: Flask) -> None:
    guarded_app.add_url_rule("/forgotten", "forgotten", lambda: "", methods=["POST"])
    client = guarded_app.test_client()
    assert_problem(client.post("/forgotten", headers=bearer(RUNNER)), 403)
    assert client.post("/forgotten", headers=bearer(ADMIN)).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (basic(VIEWER), 200),
        (basic(UNKNOWN), 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": f"Digest {VIEWER}"}, 401),
        ({"Authorization": "Bearer"}, 401),
        ({"Authorization": f"bearer {VIEWER}"}, 200),
        ({"Authorization": f"Bearer {VIEWER}x"}, 401),
        ({"Authorization": "Bearer \xff\xfe"}, 401),
    ],
)
def test_forms_of_credentials(guarded: FlaskClient, headers: dict[str, str], status: int) -> None:
    assert guarded.get(RUNS, headers=headers).status_code == status


def test_a_token_is_in_no_answer(guarded: FlaskClient) -> None:
    for token in (VIEWER, UNKNOWN):
        for headers in (bearer(token), basic(token)):
            assert token not in guarded.post(RUNS, json=run_body(), headers=headers).text


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:8080", 200),
        ("127.0.0.1:8080", 200),
        ("[::1]:8080", 200),
        ("nodeobs.localhost:1", 200),
        ("evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost.evil.example:80", 421),
        ("10.0.0.1", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_without_tokens_only_local_names_are_answered(client: FlaskClient, host: str, status: int) -> None:
    assert client.get(RUNS, headers={"Host": host}).status_code == status
    assert client.get("/healthz", headers={"Host": host}).status_code == 200


def test_with_tokens_any_name_is_answered(guarded: FlaskClient) -> None:
    assert guarded.get(RUNS, headers={**bearer(VIEWER), "Host": "nodeobs.example"}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "allowed"),
    [
        ({}, True),
        ({"Origin": "http://localhost"}, True),
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Origin": "http://evil.example"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "http://["}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "same-site"}, False),
    ],
)
def test_pages_of_other_sites_change_nothing(client: FlaskClient, headers: Mapping[str, str], allowed: bool) -> None:
    for method, path in (("POST", RUNS), ("DELETE", f"{RUNS}/a/b"), ("PUT", f"{OBSERVABILITIES}/a"), ("POST", WEBHOOK)):
        answer = client.open(path, method=method, json=run_body(), headers=dict(headers))
        assert (answer.status_code != 403) is allowed
    assert client.get(RUNS, headers=dict(headers)).status_code == 200
