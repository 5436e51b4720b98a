"""Runs from claim to finish, over simulated agents."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from nodeobs.errors import NotFound
from nodeobs.model import (
    AgentRef,
    Condition,
    DriverClaim,
    FailureReason,
    NodeObservability,
    Phase,
    ProfileType,
    Run,
    RunStatus,
    replace,
)
from nodeobs.pprof import read
from nodeobs.runs.claimed import FINALIZER
from tests.builders import make_run
from tests.disks import small_disk
from tests.fakes.agent_simulator import Behaviour, tiny_profile
from tests.processes import wait_for
from tests.profiles import large_profile
from tests.runs.conftest import World, now

pytestmark = pytest.mark.slow


def condition(run: Run, kind: str) -> Condition:
    return next(condition for condition in run.status.conditions if condition.type == kind)


def going(world: World, run: Run) -> Run:
    """The Run once its agents are at work."""
    wait_for("agents start", lambda: all(agent.started_at for agent in world.fleet.agents))
    return world.get(run)


def test_a_run_leaves_profiles_a_merged_one_and_a_manifest(world: World) -> None:
    fleet = world.agents(Behaviour(), Behaviour(), Behaviour())
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1)))

    status = run.status
    assert status.phase is Phase.SUCCEEDED
    assert [agent.name for agent in status.agents] == ["node-0", "node-1", "node-2"]
    assert status.failed_agents == ()
    assert condition(run, "Finished").status == "True"
    assert condition(run, "Degraded").status == "False"
    wait_for("it is let go", lambda: not world.get(run).metadata.finalizers)  # in a write of its own
    output = Path(status.output)
    assert (output / "node-1" / "kubelet-cpu.pb.gz").read_bytes() == tiny_profile()
    merged = read((output / "merged" / "kubelet-cpu.pb.gz").read_bytes())
    assert len(merged.samples) == 3
    manifest = world.outputs.read_manifest(run.metadata.uid)
    assert manifest is not None
    assert manifest.merged[0].nodes == ("node-0", "node-1", "node-2")
    assert manifest.summary == status.summary
    files = sum(file.stat().st_size for file in output.rglob("*.gz"))
    assert status.summary is not None
    assert status.summary.bytes == files
    wait_for("agents are told to drop their copies", lambda: all(agent.asked("DELETE") for agent in fleet.agents))
    wait_for("the spool is empty", lambda: not list(world.spool.iterdir()))
    wait_for("it is counted", lambda: world.value("nodeobs_runs_total", result="Succeeded", trigger="resource") == 1)
    wait_for("it is shown", lambda: world.value("nodeobs_last_run_agents", nodeobservability="cluster") == 3)


def waiting(world: World) -> Run:
    """A Run whose NodeObservability was just made, and has no agents yet."""
    world.agents(Behaviour())
    world.lead(world.controller(settling=60.0))
    run = world.store.create(make_run(duration_seconds=1))

    def explained() -> bool:
        said = [one.message for one in world.get(run).status.conditions]
        return any("waiting for the agents" in message and "are being made" in message for message in said)

    wait_for("it says what it waits for", explained)
    assert world.get(run).status.phase is Phase.PENDING
    return run


def test_a_run_waits_for_agents_that_are_being_made(world: World) -> None:
    run = waiting(world)
    parent = world.store.get(NodeObservability, "cluster")
    ready = Condition(type="Ready", status="True", reason="Ready")
    status = replace(parent.status, conditions=(ready,), observed_generation=parent.metadata.generation)
    world.store.update(replace(parent, status=status))
    assert world.wait(run).status.phase is Phase.SUCCEEDED


def test_a_run_that_waits_for_agents_can_be_cancelled(world: World) -> None:
    run = world.change(waiting(world), cancel=True)
    assert world.wait(run).status.phase is Phase.CANCELLED
    assert not world.fleet.agents[0].asked("POST")


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (Behaviour(failing={"kubelet": FailureReason.FORBIDDEN}), FailureReason.FORBIDDEN),
        (Behaviour(failing={"kubelet": FailureReason.PROFILING_DISABLED}), FailureReason.PROFILING_DISABLED),
        (Behaviour(failing={"kubelet": FailureReason.PROFILER_IN_USE}), FailureReason.PROFILER_IN_USE),
        (Behaviour(profile=b"<html>not a profile</html>"), FailureReason.BAD_PROFILE),
        (Behaviour(profile=tiny_profile()[:-9]), FailureReason.BAD_PROFILE),
        (Behaviour(raw_answer=b"SSH-2.0-OpenSSH_9.2\r\n"), FailureReason.BAD_RESPONSE),
        (Behaviour(start_status=401), FailureReason.UNAUTHORIZED),
        (Behaviour(start_status=409), FailureReason.BUSY),
        (Behaviour(restart_after=0.3), FailureReason.AGENT_RESTARTED),
    ],
    ids=lambda value: value.value if isinstance(value, FailureReason) else "",
)
def test_one_agents_failure_has_its_reason_and_the_others_data_is_kept(
    world: World, behaviour: Behaviour, reason: FailureReason
) -> None:
    world.agents(Behaviour(), behaviour, Behaviour())
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1)))

    assert run.status.phase is Phase.SUCCEEDED
    assert [agent.name for agent in run.status.agents] == ["node-0", "node-2"]
    (failed,) = run.status.failed_agents
    assert (failed.name, failed.reason) == ("node-1", reason)
    assert failed.message
    assert condition(run, "Degraded").status == "True"
    assert not list((Path(run.status.output)).glob("node-1/*.gz"))
    assert len(read((Path(run.status.output) / "merged" / "kubelet-cpu.pb.gz").read_bytes()).samples) == 2


@pytest.mark.slow
def test_agents_that_vanish_or_never_answer_are_unreachable(world: World) -> None:
    world.agents(Behaviour(), Behaviour(die_after=0.3), Behaviour(hang=True))
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1)))
    assert [agent.name for agent in run.status.agents] == ["node-0"]
    assert {agent.name: agent.reason for agent in run.status.failed_agents} == {
        "node-1": FailureReason.UNREACHABLE,
        "node-2": FailureReason.UNREACHABLE,
    }


def test_what_is_missing_at_the_deadline_is_a_timeout(world: World) -> None:
    world.agents(Behaviour(), Behaviour(profile_seconds=60))
    world.lead(world.controller(grace=2))
    run = world.wait(world.store.create(make_run(duration_seconds=1)))
    assert [agent.name for agent in run.status.agents] == ["node-0"]
    assert [agent.reason for agent in run.status.failed_agents] == [FailureReason.TIMEOUT]


def test_a_node_that_delivers_a_part_stays_and_the_run_is_degraded(world: World) -> None:
    world.agents(Behaviour(targets=("kubelet", "crio"), failing={"crio": FailureReason.PROFILING_DISABLED}))
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1)))
    assert [agent.name for agent in run.status.agents] == ["node-0"]
    assert run.status.failed_agents == ()
    assert "node-0: crio cpu: ProfilingDisabled" in condition(run, "Degraded").message


def test_a_run_without_any_data_fails_and_says_why(world: World) -> None:
    world.agents(Behaviour(start_status=401), Behaviour(start_status=401))
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1)))
    assert run.status.phase is Phase.FAILED
    assert "Unauthorized (2)" in condition(run, "Finished").message
    assert world.outputs.read_manifest(run.metadata.uid) is not None


def test_a_run_that_can_bring_nothing_does_not_take_its_whole_time(world: World) -> None:
    failing = {"kubelet": FailureReason.TARGET_UNAVAILABLE}
    world.agents(Behaviour(failing=failing, profile_seconds=0.2), Behaviour(start_status=401))
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=300)), seconds=30)
    assert run.status.phase is Phase.FAILED
    assert [agent.reason for agent in run.status.failed_agents] == [
        FailureReason.TARGET_UNAVAILABLE,
        FailureReason.UNAUTHORIZED,
    ]


def test_nodes_that_are_not_known_are_never_left_out(world: World) -> None:
    world.agents(Behaviour())
    world.lead()
    run = world.wait(world.store.create(make_run(duration_seconds=1, nodes=("node-0", "node-9"))))
    assert run.status.phase is Phase.SUCCEEDED
    assert [(agent.name, agent.reason) for agent in run.status.failed_agents] == [("node-9", FailureReason.NO_AGENT)]

    nothing = world.wait(world.store.create(make_run("none", duration_seconds=1, node_selector={"zone": "mars"})))
    assert nothing.status.phase is Phase.FAILED
    assert "no node is selected" in condition(nothing, "Finished").message


def test_cancelling_ends_the_run_on_the_agents_too(world: World) -> None:
    fleet = world.agents(Behaviour(), Behaviour())
    world.lead()
    run = going(world, world.store.create(make_run(duration_seconds=600)))
    world.change(run, cancel=True)
    run = world.wait(run, seconds=20)
    assert run.status.phase is Phase.CANCELLED
    assert {agent.reason for agent in run.status.failed_agents} == {FailureReason.CANCELLED}
    assert all(agent.asked("DELETE") for agent in fleet.agents)


def test_deleting_a_run_that_is_going_cancels_it_first(world: World) -> None:
    fleet = world.agents(Behaviour())
    world.lead()
    run = going(world, world.store.create(make_run(duration_seconds=600)))
    assert condition(run, "Finished").message == "profiling 1 agent"
    world.store.delete(Run, run.metadata.name, run.metadata.namespace)
    assert world.get(run).metadata.deletion_timestamp is not None

    def gone() -> bool:
        try:
            world.get(run)
        except NotFound:
            return True
        return False

    wait_for("the Run is gone", gone)
    assert fleet[0].asked("DELETE")


def test_of_two_pending_runs_one_is_driven_and_the_other_rejected(world: World) -> None:
    fleet = world.agents(Behaviour())
    first = world.store.create(make_run("first", duration_seconds=1))
    second = world.store.create(make_run("second", duration_seconds=1))
    other = world.store.create(make_run("elsewhere", parent="other", duration_seconds=1))
    world.lead()
    assert world.wait(first).status.phase is Phase.SUCCEEDED
    rejected = world.wait(second)
    assert rejected.status.phase is Phase.REJECTED
    assert condition(rejected, "Finished").reason == "ConcurrentRun"
    assert "nodeobs/first" in condition(rejected, "Finished").message
    assert len(fleet[0].started_at) == 1
    assert world.wait(other).status.phase is Phase.FAILED, "its NodeObservability does not exist"


def test_a_handed_over_run_is_finished_by_the_next_leader(world: World) -> None:
    fleet = world.agents(Behaviour(), Behaviour())
    hand_over = world.lead()
    run = going(world, world.store.create(make_run(duration_seconds=2)))
    term = run.status.driver.term if run.status.driver else 0
    hand_over()
    assert world.get(run).status.phase is Phase.RUNNING
    assert not any(agent.asked("DELETE") for agent in fleet.agents), "nothing is cancelled on the nodes"
    assert world.value("nodeobs_last_run_agents", nodeobservability="cluster") is None

    world.lead(world.controller())
    run = world.wait(run)
    assert run.status.phase is Phase.SUCCEEDED
    assert run.status.failed_agents == ()
    assert run.status.driver is not None
    assert run.status.driver.term > term
    assert all(len(agent.started_at) == 1 for agent in fleet.agents), "no agent is started twice"
    wait_for(
        "it is counted once",
        lambda: world.value("nodeobs_runs_total", result="Succeeded", trigger="resource") == 1,
    )


def test_a_run_is_gone_on_with_though_the_lock_file_was_lost(world: World) -> None:
    fleet = world.agents(Behaviour())
    for _ in range(3):
        hand_over = world.lead(world.controller())
        wait_for("it leads", lambda: world.value("nodeobs_leader"))
        hand_over()
    hand_over = world.lead(world.controller())
    run = going(world, world.store.create(make_run(duration_seconds=2)))
    hand_over()
    (world.folder / "leader.lock").unlink()
    world.lead(world.controller())
    assert world.wait(run).status.phase is Phase.SUCCEEDED
    assert len(fleet[0].started_at) == 1


def recovered(world: World, *names: str) -> Run:
    """A Run as a driver that was killed while it fetched left it."""
    run = world.store.create(make_run(duration_seconds=1))
    agents = tuple(AgentRef(name=name, ip="127.0.0.1", port=1) for name in names)
    status = RunStatus(
        phase=Phase.RETRIEVING,
        agents=agents,
        start_timestamp=run.metadata.creation_timestamp,
        driver=DriverClaim(holder="killed", term=0),
        output=world.outputs.location(run.metadata.uid),
    )
    metadata = replace(run.metadata, finalizers=(FINALIZER,))
    return world.store.update(replace(run, metadata=metadata, status=status))


def test_what_was_stored_before_a_crash_is_kept_when_its_agent_is_lost(world: World) -> None:
    world.agents(Behaviour(), Behaviour())
    run = recovered(world, "node-0", "gone")
    world.outputs.put_bytes(run.metadata.uid, "gone/kubelet-cpu.pb.gz", tiny_profile())
    world.lead()
    run = world.wait(run)
    assert [agent.name for agent in run.status.agents] == ["gone", "node-0"], "node-1 was not in it and is not now"
    merged = read((Path(run.status.output) / "merged" / "kubelet-cpu.pb.gz").read_bytes())
    assert len(merged.samples) == 2


def test_a_manifest_found_after_a_crash_finishes_the_run_without_the_agents(world: World) -> None:
    fleet = world.agents(Behaviour())
    hand_over = world.lead()
    first = world.wait(world.store.create(make_run("first", duration_seconds=1)))
    hand_over()
    manifest = world.outputs.read_manifest(first.metadata.uid)
    assert manifest is not None
    run = recovered(world, "node-0")
    world.outputs.write_manifest(run.metadata.uid, manifest)
    asked = len(fleet[0].asked("POST"))

    world.lead(world.controller())
    run = world.wait(run)
    assert run.status.phase is Phase.SUCCEEDED
    assert len(fleet[0].asked("POST")) == asked


def test_a_driver_of_an_older_term_writes_nothing_more(world: World) -> None:
    world.agents(Behaviour())
    world.lead()
    run = going(world, world.store.create(make_run(duration_seconds=1)))
    claim = DriverClaim(holder="newer", term=10**6)
    world.store.update(replace(run, status=replace(run.status, driver=claim)))
    wait_for("it lets go", lambda: world.value("nodeobs_run_in_progress", nodeobservability="cluster") == 0)
    run = world.get(run)
    assert run.status.driver == claim
    assert not run.status.phase.final


def test_a_full_output_disk_fails_those_nodes_and_keeps_the_others(
    world: World, tmp_path: Path, stack: ExitStack
) -> None:
    disk = stack.enter_context(small_disk(tmp_path / "disk", megabytes=1))
    crowded = World(tmp_path / "crowded", stack, outputs=disk / "outputs")
    stack.callback(lambda: crowded.fleet.close())
    large = large_profile(600_000)
    crowded.agents(Behaviour(profile=large), Behaviour(profile=large), Behaviour(profile=large))
    crowded.lead()
    run = crowded.wait(crowded.store.create(make_run(duration_seconds=1)))
    assert run.status.phase is Phase.SUCCEEDED
    assert len(run.status.agents) == 1
    assert {agent.reason for agent in run.status.failed_agents} == {FailureReason.STORAGE_FULL}
    assert len(run.status.failed_agents) == 2


def test_a_fault_of_our_own_ends_the_run_instead_of_blocking_the_next(world: World) -> None:
    def broken() -> list[object]:
        raise RuntimeError("a bug")

    world.lead(world.controller(agents=broken))  # type: ignore[arg-type]
    run = world.wait(world.store.create(make_run(duration_seconds=1)))
    assert run.status.phase is Phase.FAILED
    assert condition(run, "Finished").reason == "Internal"
    assert world.value("nodeobs_internal_errors_total", where="driver") == 3


def test_housekeeping_forgets_old_runs_and_leftovers(world: World) -> None:
    world.agents(Behaviour())
    hand_over = world.lead()
    kept = world.wait(world.store.create(make_run("kept", duration_seconds=1)))
    gone = world.wait(world.store.create(make_run("gone", duration_seconds=1, ttl_seconds_after_finished=0)))
    # The history hears of it by the watch, after the store does.
    wait_for("its end is in the history", lambda: world.history.expired(now()))
    hand_over()
    (world.spool / "left-behind").mkdir(parents=True)
    keeper = world.housekeeping()
    keeper.clean_leftovers()
    keeper.forget_runs()
    keeper.retain_outputs()
    assert [run.key for run in world.store.list(Run)] == [kept.key]
    assert not list(world.spool.iterdir())
    assert world.outputs.read_manifest(gone.metadata.uid) is not None, "outputs have a retention of their own"


def test_any_profile_type_may_be_asked_for(world: World) -> None:
    world.agents(Behaviour())
    world.lead()
    profiles = (ProfileType.CPU, ProfileType.HEAP, ProfileType.GOROUTINE)
    run = world.wait(world.store.create(make_run(duration_seconds=1, profiles=profiles)))
    names = sorted(path.name for path in (Path(run.status.output) / "merged").iterdir())
    assert names == ["kubelet-cpu.pb.gz", "kubelet-goroutine.pb.gz", "kubelet-heap.pb.gz"]
