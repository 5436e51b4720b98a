"""Callers that a cluster's API server knows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from nodeobs.errors import AccessUnknown, ConfigurationError, Forbidden, Unauthenticated
from nodeobs.kube.reviews import ALLOWED_SECONDS, REFUSED_SECONDS, PathRight
from nodeobs.nodeagent.arguments import SERVICE_ACCOUNT_CA, SERVICE_ACCOUNT_TOKEN, read_settings
from nodeobs.nodeagent.auth import Caller, Starters
from nodeobs.nodeagent.reviews import AUDIENCE, ReviewedAccess
from nodeobs.nodeagent.settings import AgentSettings, ApiServerSettings
from tests.fakes.pprof_target import PprofTarget
from tests.fakes.review_server import OWN_TOKEN, ReviewServer
from tests.nodeagent.helpers import AgentFactory, AgentProcess, issue

ADA, BOB = "token-of-ada", "token-of-bob"
TARGETS = PathRight(verb="get", path="/v1/targets")

PATHS = [
    ("POST", "/v1/collections", "post", "/v1/collections"),
    ("GET", "/v1/collections/run-1", "get", "/v1/collections"),
    ("HEAD", "/v1/collections/run-1", "get", "/v1/collections"),
    ("DELETE", "/v1/collections/run-1", "delete", "/v1/collections"),
    ("GET", "/v1/collections/run-1/files/api-cpu.pb.gz", "get", "/v1/collections"),
    ("GET", "/v1/targets", "get", "/v1/targets"),
    ("GET", "/metrics", "get", "/metrics"),
    ("GET", "/debug/pprof/profile?seconds=1", "get", "/debug/pprof/profile"),
    ("GET", "/node-observability-scripting", "get", "/node-observability-scripting"),
    ("GET", "/node-observability-status", "get", "/node-observability-status"),
    ("POST", "/node-observability-status", "post", "/node-observability-status"),
    ("GET", "/node-observability-pprof", "get", "/node-observability-pprof"),
]


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def server() -> Iterator[ReviewServer]:
    with ReviewServer() as server:
        for token, user in ((ADA, "ada"), (BOB, "bob"), ("other-token-of-ada", "ada")):
            server.users[token] = user
            server.audiences[token] = [AUDIENCE]
        yield server


@pytest.fixture
def own_token(tmp_path: Path) -> Path:
    (tmp_path / "own-token").write_text(f"{OWN_TOKEN}\n")
    return tmp_path / "own-token"


@pytest.fixture
def guarded(run_agent: AgentFactory, server: ReviewServer, own_token: Path, target: PprofTarget) -> AgentProcess:
    return run_agent(
        *("--auth", "kubernetes", "--api-server", server.url, "--api-server-token-file", str(own_token)),
        *("--target", f"api={target.url}"),
    )


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access(server: ReviewServer, own_token: Path, clock: Clock) -> ReviewedAccess:
    return make_access(server.url, own_token, clock)


def make_access(url: str, own_token: Path, clock: Callable[[], float], ca_file: Path = Path("/none")) -> ReviewedAccess:
    return ReviewedAccess(ApiServerSettings(url=url, token_file=own_token, ca_file=ca_file), monotonic=clock)


def check(access: ReviewedAccess, token: str = ADA, right: PathRight | None = None) -> Caller:
    return asyncio.run(access.check(f"Bearer {token}", right))


def test_every_path_needs_the_right_to_it(guarded: AgentProcess, server: ReviewServer) -> None:
    for number, (method, path, verb, guarded_path) in enumerate(PATHS):
        user = f"user-{number}"
        server.users[user], server.audiences[user] = user, [AUDIENCE]
        refused = guarded.client.request(method, path, headers=bearer(ADA), json={"id": "run-1"})
        assert refused.status_code == 403, path
        if method != "HEAD":
            assert refused.json()["reason"] == "Forbidden"
            assert refused.json()["detail"] == f"ada may not {verb} the path {guarded_path}"
        server.rights.add((user, verb, guarded_path))
        allowed = guarded.client.request(method, path, headers=bearer(user), json={"id": "run-1"})
        assert allowed.status_code not in (401, 403, 503), allowed.text
    assert not [spec for spec in server.accesses if "nonResourceAttributes" not in spec]
    assert {tuple(spec["audiences"]) for spec in server.tokens} == {(AUDIENCE,)}


def test_without_a_token_that_is_accepted_nothing_is_answered_or_started(
    guarded: AgentProcess, server: ReviewServer, target: PprofTarget
) -> None:
    server.users["for-the-api-server"] = "ada"
    server.rights.update(("ada", verb, path) for _, _, verb, path in PATHS)
    for method, path, _, _ in [*PATHS, ("GET", "/nothing", "", "")]:
        for header in ({}, bearer("wrong"), bearer("for-the-api-server"), bearer("two words")):
            answer = guarded.client.request(method, path, headers=header, json={"id": "run-1"})
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
    assert [spec["token"] for spec in server.tokens] == ["wrong", "for-the-api-server"]
    assert guarded.client.get("/nothing", headers=bearer(ADA)).status_code == 404
    for path in ("/healthz", "/readyz"):
        assert guarded.client.get(path).status_code == 200
    assert not target.requests
    assert "for-the-api-server" not in guarded.log


def test_who_started_a_collection_keeps_access_to_it_while_callers_cannot_be_checked(
    guarded: AgentProcess, server: ReviewServer
) -> None:
    server.rights.update((user, "post", "/v1/collections") for user in ("ada", "bob"))
    assert post(guarded, ADA, "run-1").status_code == 202
    guarded.client.get("/healthz")
    server.failing = 500
    path = "/v1/collections/run-1"
    state = guarded.client.get(path, params={"wait": "30"}, headers=bearer(ADA))
    assert state.json()["state"] == "Done"
    name = state.json()["pieces"][0]["file"]["name"]
    assert guarded.client.get(f"{path}/files/{name}", headers=bearer(ADA)).status_code == 200
    for token, other in ((BOB, path), (ADA, "/v1/collections/run-2"), (ADA, "/metrics"), (ADA, "/nothing-known")):
        answer = guarded.client.get(other, headers=bearer(token))
        assert (answer.status_code, "retry-after" in answer.headers) == (
            404 if "nothing" in other else 503,
            "nothing" not in other,
        )
    assert guarded.client.get(path).status_code == 401
    assert guarded.client.delete(path, headers=bearer(ADA)).status_code == 204
    assert guarded.client.get(path, headers=bearer(ADA)).status_code == 503
    assert ADA not in guarded.log


@pytest.mark.parametrize("again", ["GET", "POST"])
def test_a_newer_token_of_the_same_user_takes_the_place_of_the_first(
    guarded: AgentProcess, server: ReviewServer, again: str
) -> None:
    server.rights.update((user, verb, "/v1/collections") for user in ("ada", "bob") for verb in ("post", "get"))
    assert post(guarded, ADA, "run-1").status_code == 202
    path = "/v1/collections/run-1"
    for token in ("other-token-of-ada", BOB):
        if again == "POST":
            assert post(guarded, token, "run-1").status_code == 202
        else:
            assert guarded.client.get(path, headers=bearer(token)).status_code == 200
    server.failing = 500
    for token in (ADA, BOB):
        assert guarded.client.delete(path, headers=bearer(token)).status_code == 503
    assert guarded.client.delete(path, headers=bearer("other-token-of-ada")).status_code == 204


def post(agent: AgentProcess, token: str, identifier: str) -> httpx.Response:
    body = {"id": identifier, "profiles": ["heap"], "durationSeconds": 1}
    return agent.client.post("/v1/collections", json=body, headers=bearer(token))


def test_so_many_starters_are_remembered() -> None:
    starters = Starters()
    for number in range(257):
        starters.remember(f"run-{number}", Caller("ada", b""))
    caller = Caller("ada", b"digest")
    starters.renew("run-0", caller)
    starters.remember("run-256", caller)
    assert not starters.started("run-0", f"Bearer {ADA}")
    with pytest.raises(Unauthenticated):
        starters.started("run-256", "")


def test_verdicts_last_a_minute_and_refusals_ten_seconds(
    access: ReviewedAccess, server: ReviewServer, clock: Clock
) -> None:
    server.rights.add(("ada", "get", "/v1/targets"))
    for _ in range(3):
        assert check(access, right=TARGETS).user == "ada"
        with pytest.raises(Forbidden):
            check(access, BOB, TARGETS)
    assert server.asked == 4
    server.rights = {("bob", "get", "/v1/targets")}
    clock.seconds = REFUSED_SECONDS
    assert check(access, BOB, TARGETS).user == "bob"
    clock.seconds = ALLOWED_SECONDS - 0.1
    assert check(access, right=TARGETS).user == "ada"
    clock.seconds = ALLOWED_SECONDS
    with pytest.raises(Forbidden):
        check(access, right=TARGETS)


@pytest.mark.parametrize(
    ("failing", "words"),
    [
        (500, "answered a review with 500"),
        (401, "agent's own token"),
        (403, "tokenreviews"),
        (b"garbage", "something else"),
        (b"{}", "something else"),
        (b"[" + b" " * 2_000_000, "something else"),
    ],
)
def test_what_cannot_be_reviewed_is_neither_accepted_nor_refused(
    access: ReviewedAccess, server: ReviewServer, failing: int | bytes, words: str
) -> None:
    server.failing = failing
    with pytest.raises(AccessUnknown, match=words):
        check(access)
    server.failing = None
    assert check(access).user == "ada"


def test_without_an_api_server_or_an_own_token_callers_are_unknown(
    access: ReviewedAccess, own_token: Path, tmp_path: Path, clock: Clock
) -> None:
    with pytest.raises(AccessUnknown, match="no connection"):
        check(make_access("http://127.0.0.1:1", own_token, clock))
    with pytest.raises(AccessUnknown, match="--api-server-ca-file /none"):
        check(make_access("https://127.0.0.1:1", own_token, clock))
    for content in (b"two words", b"\xff", b""):
        own_token.write_bytes(content)
        with pytest.raises(AccessUnknown, match="--api-server-token-file"):
            check(access)
    own_token.unlink()
    with pytest.raises(AccessUnknown, match="No such file"):
        check(access)
    # It rotates: it is read again for each review.
    own_token.write_text(OWN_TOKEN)
    assert check(access).user == "ada"


def test_an_api_server_with_a_certificate_of_another_authority_is_not_asked(
    own_token: Path, tmp_path: Path, clock: Clock
) -> None:
    real, other = issue(tmp_path / "real", "127.0.0.1"), issue(tmp_path / "other", "127.0.0.1")
    with PprofTarget(tls=real.server_context()) as server, pytest.raises(AccessUnknown, match="certificate"):
        check(make_access(server.url, own_token, clock, other.ca_file))
    assert not server.requests


def test_a_hanging_api_server_is_waited_for_shortly(server: ReviewServer, own_token: Path, clock: Clock) -> None:
    server.held = threading.Event()
    settings = ApiServerSettings(url=server.url, token_file=own_token, ca_file=Path("/none"))
    with pytest.raises(AccessUnknown, match=r"(answer a review within|sent nothing for) 0\.2 seconds"):
        check(ReviewedAccess(settings, monotonic=clock, seconds=0.2))


def test_equal_questions_at_the_same_time_are_asked_once(access: ReviewedAccess, server: ReviewServer) -> None:
    server.rights.add(("ada", "get", "/v1/targets"))

    async def ask() -> list[Caller]:
        return await asyncio.gather(*(access.check(f"Bearer {ADA}", TARGETS) for _ in range(50)))

    assert {caller.user for caller in asyncio.run(ask())} == {"ada"}
    assert server.asked == 2


def test_a_caller_that_goes_away_takes_the_answer_from_nobody(access: ReviewedAccess, server: ReviewServer) -> None:
    server.held = threading.Event()

    async def ask() -> Caller:
        first, second = (asyncio.create_task(access.check(f"Bearer {ADA}", None)) for _ in range(2))
        while not server.tokens:
            await asyncio.sleep(0.01)
        first.cancel()
        assert server.held is not None
        server.held.set()
        return await second

    assert asyncio.run(ask()).user == "ada"
    assert server.asked == 1


def test_only_so_many_reviews_go_at_once(access: ReviewedAccess, server: ReviewServer) -> None:
    server.held = threading.Event()

    async def ask() -> list[Caller | BaseException]:
        asking: list[Coroutine[Any, Any, Caller]] = [access.check(f"Bearer wrong-{n}", None) for n in range(40)]
        tasks = [asyncio.create_task(each) for each in asking]
        while len(server.tokens) < 32 and not all(task.done() for task in tasks):
            await asyncio.sleep(0.01)
        assert server.held is not None
        server.held.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    answers = asyncio.run(ask())
    assert sum(isinstance(answer, Unauthenticated) for answer in answers) == 32
    assert sum("the most at once" in str(answer) for answer in answers) == 8


QUIET = ["--crio-socket", "", "--containerd-socket", ""]


def read(*arguments: str, **environ: str) -> AgentSettings:
    return read_settings([*QUIET, *arguments], environ)


def test_in_a_pod_the_method_is_all_that_is_needed() -> None:
    pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "6443"}
    tls = ("--host", "0.0.0.0", "--tls-cert-file", "/tls.crt", "--tls-key-file", "/tls.key")
    assert read(*tls, NODEOBS_AGENT_AUTH="kubernetes", **pod).api_server == ApiServerSettings(
        url="https://10.96.0.1:6443", token_file=SERVICE_ACCOUNT_TOKEN, ca_file=SERVICE_ACCOUNT_CA
    )
    found = read("--auth", "kubernetes", KUBERNETES_SERVICE_HOST="fd00::1").api_server
    assert found is not None
    assert found.url == "https://[fd00::1]:443"
    found = read("--auth=kubernetes", "--api-server=https://api:6443/", "--api-server-ca-file=/ca", **pod).api_server
    assert found is not None
    assert (found.url, found.ca_file) == ("https://api:6443", Path("/ca"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--auth", "ldap"], "--auth ldap: must be tokens or kubernetes"),
        (["--auth", "tokens"], "--tokens-file"),
        (["--auth", "kubernetes"], "KUBERNETES_SERVICE_HOST"),
        (["--auth", "kubernetes", "--tokens-file", "/t"], "leave --tokens-file out"),
        *(
            (["--auth", "kubernetes", "--api-server", url], "--api-server")
            for url in ("http://10.0.0.1:6443", "10.0.0.1:6443", "https://", "https://h/path", "https://u:p@h", "https://h:x")
        ),
        (["--host", "0.0.0.0"], "--auth kubernetes"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        read(*arguments)


def test_a_token_file_may_be_asked_for_by_name() -> None:
    settings = read("--auth", "tokens", "--tokens-file", "/t")
    assert (settings.tokens_file, settings.api_server) == (Path("/t"), None)
