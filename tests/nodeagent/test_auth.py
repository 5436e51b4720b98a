"""Who may call the agent, and how."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.nodeagent.helpers import AgentFactory, AgentProcess, Certificates, eventually, issue

PROTECTED = [
    ("POST", "/v1/collections"),
    ("GET", "/v1/collections/run-1"),
    ("DELETE", "/v1/collections/run-1"),
    ("GET", "/v1/collections/run-1/files/api-cpu.pb.gz"),
    ("GET", "/v1/targets"),
    ("GET", "/metrics"),
    ("GET", "/debug/pprof/profile"),
    ("GET", "/node-observability-pprof"),
    ("GET", "/node-observability-scripting"),
    ("GET", "/node-observability-status"),
    ("GET", "/nothing"),
]
SECRET = "one-of-the-tokens"


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def guarded(run_agent: AgentFactory, tmp_path: Path) -> AgentProcess:
    (tmp_path / "tokens").write_text(f"# callers\n\n{SECRET}\nanother-token\n")
    return run_agent("--tokens-file", str(tmp_path / "tokens"))


def test_everything_but_health_needs_a_token(guarded: AgentProcess) -> None:
    for method, path in PROTECTED:
        for header in (None, "Bearer", "Bearer wrong", "Bearer # callers", f"Basic {SECRET}", SECRET):
            answer = guarded.client.request(method, path, headers={"Authorization": header} if header else {})
            assert (answer.status_code, answer.json()["reason"]) == (401, "Unauthorized"), path
            assert answer.headers["www-authenticate"] == "Bearer"
    for path in ("/healthz", "/readyz"):
        assert guarded.client.get(path).status_code == 200
    for token in (SECRET, "another-token"):
        assert guarded.client.get("/v1/targets", headers=bearer(token)).status_code == 200
    assert SECRET not in guarded.log


def test_tokens_are_read_again_when_the_file_changes(guarded: AgentProcess, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("the-next-token\n")
    (tmp_path / "new").replace(tmp_path / "tokens")
    assert guarded.client.get("/metrics", headers=bearer("the-next-token")).status_code == 200
    assert guarded.client.get("/metrics", headers=bearer(SECRET)).status_code == 401


def test_without_its_file_the_agent_cannot_say_who_may_call(guarded: AgentProcess, tmp_path: Path) -> None:
    (tmp_path / "tokens").rename(tmp_path / "away")
    assert guarded.client.get("/metrics", headers=bearer(SECRET)).status_code == 503
    (tmp_path / "tokens").write_text("")
    assert guarded.client.get("/metrics", headers=bearer(SECRET)).status_code == 503
    (tmp_path / "away").rename(tmp_path / "tokens")
    assert guarded.client.get("/metrics", headers=bearer(SECRET)).status_code == 200


def test_a_token_that_is_not_ascii_is_just_wrong(guarded: AgentProcess) -> None:
    answer = guarded.client.get("/metrics", headers={b"Authorization": b"Bearer \xe9"})
    assert answer.status_code == 401


def test_a_new_certificate_is_served_without_a_restart(
    run_agent: AgentFactory, certificates: Certificates, tmp_path: Path
) -> None:
    first = issue(tmp_path / "first", "127.0.0.1")
    second = issue(tmp_path / "second", "127.0.0.1")
    live = issue(tmp_path / "live", "127.0.0.1")
    live.cert_file.write_bytes(first.cert_file.read_bytes())
    live.key_file.write_bytes(first.key_file.read_bytes())
    given = ("--tls-cert-file", str(live.cert_file), "--tls-key-file", str(live.key_file))
    agent = run_agent(*given, verify=first.client_context())
    assert agent.client.get("/readyz").status_code == 200
    # Half a rotation: the certificate without its key is not taken.
    live.cert_file.write_bytes(second.cert_file.read_bytes())
    eventually(lambda: "is not used" in agent.log, "the mismatch is seen")
    assert agent.client.get("/readyz").status_code == 200
    live.key_file.write_bytes(second.key_file.read_bytes())
    eventually(lambda: "read the new certificate" in agent.log, "the new pair is seen")
    assert fetch_status(agent, second) == 200


def fetch_status(agent: AgentProcess, trusted: Certificates) -> int:
    with httpx.Client(verify=trusted.client_context(), trust_env=False) as client:
        return client.get(f"{agent.url}/readyz").status_code


def test_a_unix_socket_is_its_owners_only(run_agent: AgentFactory, tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    agent = run_agent("--unixSocket", str(path))
    assert agent.url == f"unix:{path}"
    assert path.stat().st_mode & 0o777 == 0o600
