"""Who may call the service and the agents, by a real API server: tokens, audiences, and rights that come and go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace as replace_services
from pathlib import Path

import pytest

from nodeobs.errors import AccessUnknown, Unauthenticated
from nodeobs.kube.rbac import rbac
from nodeobs.kube.reviewer import Reviewer
from nodeobs.kube.reviews import (
    ALLOWED_SECONDS,
    AUTHORIZATION_PATH,
    Identity,
    PathRight,
    ResourceRight,
    Right,
    access_review,
    read_access_review,
)
from nodeobs.model import Run
from nodeobs.nodeagent.reviews import AUDIENCE
from nodeobs.settings import Settings
from nodeobs.web import create_app
from nodeobs.web.access import ClusterAccess, demand_of_run
from nodeobs.web.composition import build
from nodeobs.web.services import Services
from tests.lab.apiserver import ApiServer
from tests.nodeagent.conftest import agents
from tests.nodeagent.helpers import AgentProcess
from tests.processes import wait_for
from tests.web.support import RUNS, assert_problem, bearer, run_body

pytestmark = pytest.mark.cluster

RUN, PARENT = "nodeobservabilityruns", "nodeobservabilities"
METRICS = PathRight(verb="get", path="/metrics")


class Clock:
    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Accounts:
    """ServiceAccounts in the test's namespace, and the project's own roles to give them."""

    def __init__(self, server: ApiServer, namespace: str) -> None:
        self._server = server
        self._bound: list[str] = []
        self.namespace = namespace
        roles = [item for item in rbac(namespace=namespace, agent_namespace=namespace) if item["kind"] == "ClusterRole"]
        server.kubectl("apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "List", "items": roles}))

    def user(self, name: str) -> str:
        return f"system:serviceaccount:{self.namespace}:{name}"

    def add(self, name: str) -> str:
        """A ServiceAccount; a token of it, for the API server."""
        self._server.kubectl("create", "serviceaccount", name, "-n", self.namespace)
        return self._server.token(self.namespace, name)

    def give(self, name: str, role: str, proof: Right) -> None:
        """Give it a role; back when the API server lets it do what ``proof`` is."""
        binding = f"{self.namespace}-{name}-{role}"
        account = f"--serviceaccount={self.namespace}:{name}"
        self._server.kubectl("create", "clusterrolebinding", binding, f"--clusterrole={role}", account)
        self._bound.append(binding)
        self._wait(name, proof, allowed=True)

    def take(self, name: str, role: str, proof: Right) -> None:
        """Take the role away; back when the API server knows."""
        binding = f"{self.namespace}-{name}-{role}"
        self._server.kubectl("delete", "clusterrolebinding", binding)
        self._bound.remove(binding)
        self._wait(name, proof, allowed=False)

    def close(self) -> None:
        if self._bound:
            self._server.kubectl("delete", "clusterrolebinding", *self._bound)

    def _wait(self, name: str, right: Right, *, allowed: bool) -> None:
        review = access_review(Identity(self.user(name)), right)
        with closing(self._server.client()) as client:
            wait_for(
                f"{name} {'may' if allowed else 'may not'} {right}",
                lambda: read_access_review(client.request("POST", AUTHORIZATION_PATH, review)).allowed is allowed,
                seconds=30,
            )


REVIEWS = ResourceRight(verb="create", resource="subjectaccessreviews", group="authorization.k8s.io")
START = demand_of_run(namespace="nodeobs", observability="cluster")


@pytest.fixture
def accounts(api_server: ApiServer, namespace: str) -> Iterator[Accounts]:
    accounts = Accounts(api_server, namespace)
    yield accounts
    accounts.close()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reviewer(api_server: ApiServer, accounts: Accounts, clock: Clock, tmp_path: Path) -> Iterator[Reviewer]:
    """Asks under the service's own role."""
    accounts.add("nodeobs")
    accounts.give("nodeobs", "nodeobs", REVIEWS)
    kubeconfig = api_server.kubeconfig_for(accounts.namespace, "nodeobs", tmp_path)
    with closing(api_server.client(kubeconfig)) as client:
        yield Reviewer(client, monotonic=clock)


@pytest.fixture
def services(reviewer: Reviewer, tmp_path: Path) -> Services:
    """The service's parts, its callers being the cluster's."""
    services = build(Settings.load({"NODEOBS_DATA_DIR": str(tmp_path / "data")}))
    return replace_services(services, access=ClusterAccess(reviewer))


def test_only_a_caller_with_the_rights_starts_a_run(
    api_server: ApiServer, accounts: Accounts, services: Services, clock: Clock
) -> None:
    client = create_app(services).test_client()
    token = accounts.add("ada")
    for_agents = api_server.token(accounts.namespace, "ada", AUDIENCE)
    for wrong in (for_agents, api_server.expired_token(accounts.namespace, "ada"), "nonsense", f"{token}x"):
        assert_problem(client.post(RUNS, json=run_body("a"), headers=bearer(wrong)), 401, "does not accept the token")
    assert_problem(client.post(RUNS, json=run_body("a")), 401, "no credentials")
    ada = accounts.user("ada")
    assert_problem(client.post(RUNS, json=run_body("a"), headers=bearer(token)), 403, f"{ada} may not create {RUN}")
    assert not services.store.list(Run)

    accounts.give("ada", "nodeobs-runner", START.rights[0])
    clock.seconds += ALLOWED_SECONDS
    answer = client.post(RUNS, json=run_body("a"), headers=bearer(token))
    assert answer.status_code == 201, answer.text
    (run,) = services.store.list(Run)
    assert run.metadata.annotations["nodeobservability.olm.openshift.io/created-by"] == ada


def test_a_right_that_is_taken_away_is_gone_within_a_minute(
    accounts: Accounts, services: Services, clock: Clock
) -> None:
    client = create_app(services).test_client()
    token = accounts.add("ada")
    accounts.give("ada", "nodeobs-viewer", METRICS)
    assert client.get("/metrics", headers=bearer(token)).status_code == 200
    accounts.take("ada", "nodeobs-viewer", METRICS)
    clock.seconds = ALLOWED_SECONDS
    assert_problem(client.get("/metrics", headers=bearer(token)), 403, "get the path /metrics")


def test_every_role_may_what_it_is_for(accounts: Accounts, reviewer: Reviewer) -> None:
    read: set[Right] = {
        METRICS,
        PathRight(verb="get", path="/"),
        PathRight(verb="get", path="/api/openapi.json"),
        ResourceRight(verb="list", resource=RUN),
        ResourceRight(verb="get", resource=RUN, namespace="prod", name="slow"),
        ResourceRight(verb="get", resource=RUN, subresource="output", namespace="prod", name="slow"),
        ResourceRight(verb="list", resource=PARENT),
    }
    start: set[Right] = {
        *START.rights,
        ResourceRight(verb="update", resource=RUN, namespace="prod", name="slow"),
        ResourceRight(verb="delete", resource=RUN, namespace="prod", name="slow"),
        PathRight(verb="post", path="/webhooks/alertmanager"),
    }
    change: set[Right] = {
        ResourceRight(verb="create", resource=PARENT),
        ResourceRight(verb="update", resource=PARENT, name="cluster"),
        ResourceRight(verb="delete", resource=PARENT, name="cluster"),
        PathRight(verb="get", path="/debug/pprof/profile"),
    }
    for role, rights in (("viewer", read), ("runner", read | start), ("admin", read | start | change)):
        token = accounts.add(role)
        accounts.give(role, f"nodeobs-{role}", METRICS)
        identity = reviewer.authenticate(token)
        assert {right for right in read | start | change if reviewer.allows(identity, right).allowed} == rights


def test_a_service_without_rights_of_its_own_says_so_and_lets_nobody_in(
    api_server: ApiServer, accounts: Accounts, tmp_path: Path
) -> None:
    token = accounts.add("nobody")
    kubeconfig = api_server.kubeconfig_for(accounts.namespace, "nobody", tmp_path)
    with closing(api_server.client(kubeconfig)) as client, pytest.raises(AccessUnknown, match="cannot create resource"):
        Reviewer(client).authenticate(token)


def test_while_the_api_server_is_gone_whoever_it_knew_is_known_for_a_minute(
    api_server: ApiServer, accounts: Accounts, reviewer: Reviewer, clock: Clock
) -> None:
    token = accounts.add("ada")
    identity = reviewer.authenticate(token)
    api_server.stop_api(kill=True)
    try:
        assert reviewer.authenticate(token) == identity
        clock.seconds = ALLOWED_SECONDS
        with pytest.raises(AccessUnknown, match="cannot be reached"):
            reviewer.authenticate(token)
    finally:
        api_server.start_api()
    assert reviewer.authenticate(token) == identity
    with pytest.raises(Unauthenticated):
        reviewer.authenticate("nonsense")


COLLECT = PathRight(verb="post", path="/v1/collections")


@pytest.fixture
def agent(api_server: ApiServer, accounts: Accounts, tmp_path: Path) -> Iterator[AgentProcess]:
    """An agent under its own role, whose token is in a file."""
    (tmp_path / "token").write_text(accounts.add("agent"))
    accounts.give("agent", "nodeobs-agent", REVIEWS)
    given = ("--api-server-token-file", str(tmp_path / "token"), "--api-server-ca-file", str(api_server.ca_file))
    with agents(tmp_path) as run:
        yield run("--auth", "kubernetes", "--api-server", api_server.url, *given)


def start(agent: AgentProcess, token: str, identifier: str = "run-1") -> int:
    return agent.client.post("/v1/collections", json={"id": identifier}, headers=bearer(token)).status_code


def test_an_agent_takes_only_tokens_for_agents_and_only_the_services(
    api_server: ApiServer, accounts: Accounts, agent: AgentProcess
) -> None:
    for_the_api_server = accounts.add("nodeobs")
    accounts.add("ada")
    service = api_server.token(accounts.namespace, "nodeobs", AUDIENCE)
    accounts.give("nodeobs", "nodeobs", COLLECT)
    expired = api_server.expired_token(accounts.namespace, "nodeobs", AUDIENCE)
    for wrong in (for_the_api_server, expired, "nonsense"):
        assert start(agent, wrong) == 401
    assert agent.client.post("/v1/collections", json={"id": "run-1"}).status_code == 401
    assert start(agent, api_server.token(accounts.namespace, "ada", AUDIENCE)) == 403
    assert not list(agent.storage.glob("run-1"))
    assert start(agent, service) == 202
    targets = agent.client.get("/v1/targets", headers=bearer(service))
    assert (targets.status_code, targets.json()) == (200, {"targets": []})
    assert agent.client.get("/metrics", headers=bearer(service)).status_code == 403
    assert agent.client.get("/readyz").status_code == 200


def test_the_service_gets_what_it_started_while_the_api_server_is_gone(
    api_server: ApiServer, accounts: Accounts, agent: AgentProcess
) -> None:
    for name in ("nodeobs", "other"):
        accounts.add(name)
        accounts.give(name, "nodeobs", COLLECT)
    service, other = (api_server.token(accounts.namespace, name, AUDIENCE) for name in ("nodeobs", "other"))
    assert start(agent, service) == 202
    api_server.stop_api(kill=True)
    try:
        for token, status in ((service, 200), (other, 503)):
            assert agent.client.get("/v1/collections/run-1", headers=bearer(token)).status_code == status
        assert start(agent, other, "run-2") == 503
        assert agent.client.delete("/v1/collections/run-1", headers=bearer(service)).status_code == 204
    finally:
        api_server.start_api()
    assert start(agent, other, "run-2") == 202
