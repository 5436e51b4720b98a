"""Kubelets profiled through the API server, without agents."""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as change
from pathlib import Path
from typing import Any

import pytest
import trustme

from nodeobs.agents import kubelets as kubelets_module
from nodeobs.agents.agent import Agent, AgentOutcome
from nodeobs.agents.endpoints import NodeRoster
from nodeobs.agents.nodeproxy import NodeProxy
from nodeobs.agents.order import Order
from nodeobs.agents.plan import Patience, Plan
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.model import FailureReason, PieceResult, ProfileType
from tests.agents.driving import PATIENCE, utc_now
from tests.fakes.agent_simulator import tiny_profile
from tests.fakes.api_server import Answer, FakeApiServer, Request
from tests.fakes.connect_proxy import ConnectProxy
from tests.fakes.kubelets import TRACE, Kubelets, of, profile, text, told
from tests.processes import wait_for

PLAN = Plan(run_uid="run-1", targets=(), profiles=(ProfileType.CPU,), duration_seconds=1)
QUICK = change(PATIENCE, profile=1.0, transfer=3.0)
REFUSED = "error trying to reach service: dial tcp 198.18.0.12:10250: connect: connection refused"


@dataclass
class Drive:
    """One Run over the fake API server's nodes, with a sink that records."""

    spool: Path
    server: FakeApiServer
    kubelets: Kubelets
    client: KubeClient
    plan: Plan = PLAN
    patience: Patience = QUICK
    deadline_seconds: float = 30.0
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    sunk: dict[tuple[str, str], bytes] = field(default_factory=dict)
    sunk_at: dict[str, float] = field(default_factory=dict)
    started: Sequence[AgentOutcome] = ()
    events: list[str] = field(default_factory=list)
    nodes: Sequence[Agent] = ()
    """Instead of those that the API server lists."""

    @property
    def proxy(self) -> NodeProxy:
        nodes = (lambda: self.nodes) if self.nodes else NodeRoster(self.client).agents
        credentials = self.client.credentials
        return NodeProxy(credentials, nodes=nodes, now=utc_now, randomness=random.Random(1), patience=self.patience)

    def over(self) -> dict[str, AgentOutcome]:
        """The Run's outcomes, by node."""
        return {outcome.agent.name: outcome for outcome in asyncio.run(self.collect())}

    async def collect(self) -> tuple[AgentOutcome, ...]:
        proxy = self.proxy
        order = Order(
            agents=proxy.roster("cluster"),
            plan=self.plan,
            spool=self.spool,
            sink=self._sink,
            deadline_seconds=self.deadline_seconds,
            cancelled=self.cancelled,
            on_started=self._on_started,
            on_retrieving=self._on_retrieving,
        )
        return await proxy.collect(order)

    def asked(self, node: str = "") -> list[Request]:
        """Requests for profiles."""
        found = [request for request in list(self.server.requests) if "/proxy/" in request.path]
        return [request for request in found if node in ("", of(request)[0])]

    async def _sink(self, agent: Agent, piece: PieceResult, path: Path) -> None:
        self.sunk[agent.name, path.name] = path.read_bytes()
        self.sunk_at[agent.name] = time.monotonic()

    async def _on_started(self, outcomes: Sequence[AgentOutcome]) -> None:
        self.events.append("started")
        self.started = outcomes

    async def _on_retrieving(self) -> None:
        self.events.append("retrieving")


@pytest.fixture
def drive(tmp_path: Path) -> Iterator[Drive]:
    kubelets = Kubelets("node-0", "node-1", "node-2")
    with FakeApiServer(kubelets) as server:
        credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "kubeconfig"), environ={})
        client = KubeClient(credentials)
        yield Drive(tmp_path / "spool", server, kubelets, client)
        client.close()


def test_every_node_is_asked_and_its_profiles_are_brought_whole(drive: Drive) -> None:
    drive.plan = change(PLAN, profiles=(ProfileType.HEAP, ProfileType.CPU, ProfileType.TRACE, ProfileType.GOROUTINE))
    outcomes = drive.over()
    names = ("kubelet-heap.pb.gz", "kubelet-cpu.pb.gz", "kubelet-trace.trace", "kubelet-goroutine.pb.gz")
    assert drive.sunk == {
        (node, name): TRACE if name.endswith(".trace") else tiny_profile() for node in outcomes for name in names
    }
    for outcome in outcomes.values():
        assert outcome.reason is None
        assert {piece.file.name for piece in outcome.pieces if piece.file} == set(names)
        assert not outcome.late
    assert drive.events == ["started", "retrieving"]
    asked = drive.asked("node-1")
    assert {of(request)[1] for request in asked[:2]} == {"profile", "trace"}, "the timed ones first"
    assert [of(request)[1] for request in asked[2:]] == ["heap", "goroutine"], "then the others, as they were listed"
    assert [request.query for request in asked] == [{"seconds": "1"}] * 2 + [{}] * 2
    assert {request.headers["authorization"] for request in asked} == {"Bearer token"}
    for going in drive.kubelets.together:
        mine = {name for node, name in going if node == "node-1"}
        assert len(mine) == 1 or mine <= {"profile", "trace"}, "no snapshot shows in the CPU profile"
    assert {path.name for path in (drive.spool / "node-1").iterdir()} == set(names)


def test_nodes_begin_together_on_connections_that_are_open_already(drive: Drive) -> None:
    drive.kubelets.nodes = tuple(f"node-{number}" for number in range(30))
    outcomes = drive.over()
    instants = [outcome.started_at for outcome in outcomes.values() if outcome.started_at]
    assert len(instants) == 30
    assert (max(instants) - min(instants)).total_seconds() < 0.2
    at = [request.at for request in drive.asked()]
    assert max(at) - min(at) < 0.4


@pytest.mark.parametrize(
    ("say", "reason", "words"),
    [
        (told(401, "Unauthorized", "Unauthorized"), "Unauthorized", "does not accept the service's credentials"),
        (
            told(403, "Forbidden", 'nodes "node-1" is forbidden: User "x" cannot get resource "nodes/proxy"'),
            "Forbidden",
            "needs 'get' on nodes/proxy, which the ClusterRole nodeobs-node-proxy gives",
        ),
        (told(404, "NotFound", 'nodes "node-1" not found'), "NoAgent", "gone from the cluster"),
        (text(401, "Unauthorized"), "Unauthorized", "--kubelet-client-certificate"),
        (text(403, "Forbidden (user=apiserver, verb=get)"), "Forbidden", "system:kubelet-api-admin"),
        (text(405, "profiling endpoint is disabled."), "ProfilingDisabled", "enableProfilingHandler"),
        (text(405, "Debug endpoints are disabled."), "ProfilingDisabled", "enableDebuggingHandlers"),
        (text(404, "404 page not found"), "BadResponse", "404 page not found"),
        (text(500, "Could not enable CPU profiling: cpu profiling already in use"), "ProfilerInUse", "someone else"),
        (told(503, "ServiceUnavailable", REFUSED), "TargetUnavailable", "connection refused"),
        (told(500, "InternalError", "no preferred addresses found"), "TargetUnavailable", "no preferred addresses"),
        (told(504, "Timeout", "the server was unable to return a response"), "TargetUnavailable", "unable"),
        (told(503, "ServiceUnavailable", "error: tls: failed to verify certificate: x509: x"), "TLSFailure", "x509"),
        (text(502, "Bad Gateway"), "TargetUnavailable", "502"),
        (text(429, "The apiserver is shutting down, please try again later."), "Unreachable", "is overloaded: The api"),
        (lambda _: Answer(0, then="close"), "Unreachable", "the connection to the API server broke"),
        (lambda _: Answer(0, then="reset"), "Unreachable", "the connection to the API server broke"),
        (lambda _: Answer(lines=[tiny_profile()[:20]], then="close"), "BadProfile", "broke off after 21 bytes"),
        (lambda _: Answer(0, then="hang"), "Timeout", "nothing came through the API server for 2 s"),
        (lambda _: Answer(lines=[b"x"], then="hang"), "Timeout", "nothing came"),
    ],
)
def test_what_one_kubelet_does_has_its_reason_and_costs_the_others_nothing(
    drive: Drive, say: Callable[[Request], Answer], reason: str, words: str
) -> None:
    drive.kubelets.say["node-1"] = say
    outcomes = drive.over()
    failed = outcomes["node-1"]
    assert failed.reason is not None
    assert (failed.reason.value, failed.delivered) == (reason, False)
    assert words in failed.message
    assert failed.message.startswith("node-1: ")
    assert {node for node, _ in drive.sunk} == {"node-0", "node-2"}
    assert outcomes["node-0"].reason is None
    assert not list((drive.spool / "node-1").glob("*")), "nothing of a profile that broke off is left"


def test_a_kubelet_that_hangs_does_not_hold_up_the_others(drive: Drive) -> None:
    drive.kubelets.say["node-1"] = lambda _: Answer(0, then="hang")
    drive.over()
    ended = time.monotonic()
    assert all(ended - at > 0.5 for at in drive.sunk_at.values())


def test_a_profile_that_dribbles_in_for_ever_is_given_up(drive: Drive) -> None:
    def dribble(_: Request) -> Answer:
        def lines() -> Iterator[bytes]:
            for _ in range(100):
                time.sleep(0.2)
                yield b"x"

        return Answer(lines=lines())

    drive.kubelets.say["node-1"] = dribble
    failed = drive.over()["node-1"]
    assert failed.reason is FailureReason.TIMEOUT
    assert "was still sending kubelet-cpu.pb.gz after 4 s" in failed.message


def test_no_kubelet_can_fill_the_spool(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kubelets_module, "MAX_FILE_BYTES", 2**20)
    drive.kubelets.say["node-1"] = lambda _: Answer(lines=(b"x" * 2**16 for _ in range(10**6)))
    failed = drive.over()["node-1"]
    assert failed.reason is FailureReason.BAD_RESPONSE
    assert "more than 1048576 bytes" in failed.message


def test_a_node_that_lacks_a_part_keeps_the_rest(drive: Drive) -> None:
    def in_use(request: Request) -> Answer:
        busy = text(500, "Could not enable CPU profiling: cpu profiling already in use")
        return busy(request) if of(request)[1] == "profile" else profile(request)

    drive.kubelets.say["node-1"] = in_use
    drive.plan = change(PLAN, profiles=(ProfileType.CPU, ProfileType.HEAP))
    outcome = drive.over()["node-1"]
    assert outcome.reason is None
    assert {piece.profile: piece.reason for piece in outcome.pieces} == {"cpu": "ProfilerInUse", "heap": None}
    assert ("node-1", "kubelet-heap.pb.gz") in drive.sunk


def test_who_refuses_everything_is_asked_once(drive: Drive) -> None:
    drive.kubelets.say["node-1"] = told(403, "Forbidden", "no")
    drive.plan = change(PLAN, profiles=(ProfileType.CPU, ProfileType.HEAP, ProfileType.MUTEX))
    outcome = drive.over()["node-1"]
    assert {piece.reason for piece in outcome.pieces} == {FailureReason.FORBIDDEN}
    assert len(outcome.pieces) == 3
    assert len(drive.asked("node-1")) == 1


def test_refusals_are_told_while_the_others_profile(drive: Drive) -> None:
    drive.plan = change(PLAN, duration_seconds=2)
    drive.kubelets.say["node-1"] = told(403, "Forbidden", "no")
    drive.over()
    assert {outcome.agent.name: outcome.reason for outcome in drive.started} == {
        "node-0": None,
        "node-1": FailureReason.FORBIDDEN,
        "node-2": None,
    }


def test_a_refusal_that_is_nested_too_deep_is_the_kubelets(drive: Drive) -> None:
    drive.kubelets.say["node-1"] = text(500, '{"a":' + "[" * 4000)
    outcome = drive.over()["node-1"]
    assert outcome.reason is FailureReason.BAD_RESPONSE
    assert "the kubelet answered 500" in outcome.message


@pytest.mark.parametrize(
    "say", [told(503, "ServiceUnavailable", REFUSED), text(429, "Too many requests, please try again later.")]
)
def test_who_was_just_restarting_is_asked_again(drive: Drive, say: Callable[[Request], Answer]) -> None:
    def restarting(request: Request) -> Answer:
        return say(request) if len(drive.asked("node-1")) == 1 else profile(request)

    drive.kubelets.say["node-1"] = restarting
    assert drive.over()["node-1"].reason is None
    assert len(drive.asked("node-1")) == 2


def test_a_token_that_was_replaced_is_read_again(drive: Drive, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    path = drive.server.kubeconfig(tmp_path / "other", user={"tokenFile": str(token)})
    drive.client.credentials = load_credentials(kubeconfig=path, environ={})

    def rotating(request: Request) -> Answer:
        if request.headers["authorization"] == "Bearer new":
            return profile(request)
        (tmp_path / f"{of(request)[0]}-token").write_text("new")
        (tmp_path / f"{of(request)[0]}-token").replace(token)  # whole, as a kubelet does
        return told(401, "Unauthorized", "Unauthorized")(request)

    drive.kubelets.say = dict.fromkeys(drive.kubelets.nodes, rotating)
    assert [outcome.reason for outcome in drive.over().values()] == [None, None, None]


def test_a_node_that_is_not_ready_is_asked_all_the_same_and_told_of(drive: Drive) -> None:
    ready = {"type": "Ready", "status": "False", "reason": "KubeletNotReady", "message": "no network"}
    drive.kubelets.rows = {"node-0": {"status": {"conditions": [ready]}}, "node-1": {"status": {"conditions": [ready]}}}
    drive.kubelets.say["node-1"] = told(503, "ServiceUnavailable", REFUSED)
    outcomes = drive.over()
    assert outcomes["node-0"].reason is None
    assert "the node is not Ready (KubeletNotReady: no network)" in outcomes["node-1"].message


def test_only_the_kubelet_is_there(drive: Drive) -> None:
    drive.plan = change(PLAN, targets=("crio",))
    outcomes = drive.over()
    assert {outcome.reason for outcome in outcomes.values()} == {FailureReason.TARGET_UNAVAILABLE}
    assert "the node's targets are kubelet; the Run asks for crio" in outcomes["node-0"].message
    assert drive.asked() == []


async def going(drive: Drive) -> asyncio.Task[Any]:
    """A Run whose kubelets have all begun and say nothing."""
    drive.plan = change(PLAN, duration_seconds=60)
    drive.kubelets.say = dict.fromkeys(drive.kubelets.nodes, lambda _: Answer(0, then="hang"))
    task = asyncio.ensure_future(drive.collect())
    while len(drive.asked()) < 3:
        await asyncio.sleep(0.01)
    return task


def test_cancelling_the_run_ends_it_at_once(drive: Drive) -> None:
    async def run() -> tuple[AgentOutcome, ...]:
        task = await going(drive)
        drive.cancelled.set()
        outcomes: tuple[AgentOutcome, ...] = await asyncio.wait_for(task, 2)
        return outcomes

    outcomes = asyncio.run(run())
    assert {outcome.reason for outcome in outcomes} == {FailureReason.CANCELLED}
    profiling_ends(drive)


def test_handing_over_ends_the_profiles(drive: Drive) -> None:
    async def run() -> None:
        task = await going(drive)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(task, 2)

    asyncio.run(run())
    profiling_ends(drive)
    assert not list(drive.spool.rglob("*.part"))


def profiling_ends(drive: Drive) -> None:
    """The connections are closed, by which a kubelet knows."""
    wait_for("the connections are closed", lambda: len(drive.server.open) <= 1, seconds=2)  # the client's own stays


def test_what_is_missing_at_the_deadline_is_a_timeout(drive: Drive) -> None:
    drive.deadline_seconds = 1.5
    drive.kubelets.say["node-1"] = lambda _: Answer(0, then="hang")
    outcomes = drive.over()
    assert outcomes["node-0"].reason is None
    assert outcomes["node-1"].reason is FailureReason.TIMEOUT
    assert "the Run's deadline" in outcomes["node-1"].message


def test_a_new_driver_starts_again_what_is_not_stored_and_nothing_else(drive: Drive) -> None:
    stored = frozenset(
        {("node-0", "kubelet-cpu.pb.gz"), ("node-0", "kubelet-heap.pb.gz"), ("node-1", "kubelet-cpu.pb.gz")}
    )
    profiles = (ProfileType.CPU, ProfileType.HEAP)
    drive.plan = change(PLAN, profiles=profiles, recovering=True, stored=stored)
    outcomes = drive.over()
    assert sorted(of(request) for request in drive.asked()) == [
        ("node-1", "heap"),
        ("node-2", "heap"),
        ("node-2", "profile"),
    ]
    assert [outcome.reason for outcome in outcomes.values()] == [None, None, None]
    assert [outcome.late for outcome in outcomes.values()] == [False, True, True]


def test_a_new_driver_waits_for_what_the_one_before_still_profiles(drive: Drive) -> None:
    def still(request: Request) -> Answer:
        first = len(drive.asked("node-1")) == 1
        return text(500, "cpu profiling already in use")(request) if first else profile(request)

    drive.kubelets.say["node-1"] = still
    drive.plan = change(PLAN, recovering=True)
    assert drive.over()["node-1"].reason is None


def test_an_api_server_that_is_away_is_unreachable(drive: Drive, tmp_path: Path, closed_port: int) -> None:
    cluster = {"server": f"http://127.0.0.1:{closed_port}"}
    path = drive.server.kubeconfig(tmp_path / "other", cluster=cluster)
    drive.nodes = NodeRoster(drive.client).agents()
    drive.client.credentials = load_credentials(kubeconfig=path, environ={})
    failed = asyncio.run(drive.collect())
    assert {outcome.reason for outcome in failed} == {FailureReason.UNREACHABLE}
    assert f"the API server cannot be reached (http://127.0.0.1:{closed_port})" in failed[0].message


def test_tls_and_a_proxy_are_as_the_credentials_say(drive: Drive, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("api.example.test").configure_cert(tls)
    drive.nodes = NodeRoster(drive.client).agents()
    with FakeApiServer(drive.kubelets, tls=tls) as server, ConnectProxy(to_port=server.port) as through:
        cluster = {
            "server": "https://api.example.test:6443",
            "certificate-authority": str(tmp_path / "ca.pem"),
            "proxy-url": f"http://{through.address}",
        }
        path = server.kubeconfig(tmp_path / "other", cluster=cluster)
        drive.client.credentials = load_credentials(kubeconfig=path, environ={})
        outcomes = asyncio.run(drive.collect())
        assert [outcome.reason for outcome in outcomes] == [None, None, None]
        assert len(through.asked) == 3
        assert len(server.requests) == 3


def test_many_nodes_leave_room_for_whoever_answers_meanwhile(drive: Drive, tmp_path: Path) -> None:
    drive.kubelets.nodes = tuple(f"node-{number}" for number in range(200))
    drive.nodes = NodeRoster(drive.client).agents()
    drive.patience = change(QUICK, connect=20.0, answer=20.0)  # where other programs have the CPU
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with FakeApiServer(drive.kubelets, tls=tls) as server:
        path = server.kubeconfig(tmp_path / "other", cluster={"certificate-authority": str(tmp_path / "ca.pem")})
        drive.client.credentials = load_credentials(kubeconfig=path, environ={})
        over: list[tuple[AgentOutcome, ...]] = []
        thread = threading.Thread(target=lambda: over.append(asyncio.run(drive.collect())))
        thread.start()
        longest = 0.0
        while thread.is_alive():  # as a thread that answers a webhook
            began = time.monotonic()
            time.sleep(0.005)
            longest = max(longest, time.monotonic() - began)
        assert longest < 2
        assert len(over[0]) == 200
        assert {outcome.reason for outcome in over[0]} == {None}
        assert len(drive.sunk) == 200
        assert server.connections == 200
