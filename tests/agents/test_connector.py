"""TLS and tokens."""

from __future__ import annotations

import asyncio
import gc
import logging
import ssl
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from nodeobs.agents.agent import Agent
from nodeobs.agents.reload import read_authority
from nodeobs.errors import ConfigurationError
from nodeobs.model import FailureReason
from tests.agents.driving import PAST, Drive, connector, quick, rows
from tests.fakes.agent_simulator import Behaviour, Fleet, issue_certificate, server_context

SECRET = "s3cr3t-t0ken"


@pytest.fixture
def drive(drive: Drive) -> Drive:
    """A Run that does not wait for a start instant."""
    drive.plan = replace(drive.plan, start_at=PAST)
    return drive


def test_agents_are_verified_by_the_authority(drive: Drive, certificate: tuple[Path, Path], tmp_path: Path) -> None:
    ca_file, pem = certificate
    (tmp_path / "other").mkdir()
    _, foreign = issue_certificate(tmp_path / "other")
    drive.connector = connector(tls=True, ca_file=ca_file)

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\nSpeak HTTP.")
        writer.close()
        await writer.wait_closed()

    async def run() -> None:
        async with (
            Fleet(quick(), certificate=pem) as good,
            Fleet(quick(), certificate=foreign) as bad,
            await asyncio.start_server(refuse, "127.0.0.1", 0) as plain,
        ):
            agents = [replace(*rows(*good.agents), name="good"), *rows(*bad.agents)]
            agents.append(Agent("plain", "127.0.0.1", plain.sockets[0].getsockname()[1]))
            verified, unknown, not_tls = await drive.run(agents)
            assert [request.path for request in bad.agents[0].requests] == []
        assert verified.reason is None
        assert unknown.reason is FailureReason.TLS_FAILURE
        assert "certificate is not accepted" in unknown.message
        assert "agent_ca_file" in unknown.message
        assert not_tls.reason is FailureReason.TLS_FAILURE
        assert "agent_tls" in not_tls.message

    asyncio.run(run())


def test_a_certificate_for_another_name_is_a_tls_failure(drive: Drive, tmp_path: Path) -> None:
    ca_file, pem = issue_certificate(tmp_path, "worker-1.example")
    drive.connector = connector(tls=True, ca_file=ca_file)

    async def run() -> None:
        async with Fleet(quick(), certificate=pem) as fleet:
            (outcome,) = await drive.over(fleet)
        assert outcome.reason is FailureReason.TLS_FAILURE
        assert "IP address mismatch" in outcome.message
        assert "agent_server_name" in outcome.message

    asyncio.run(run())


def test_the_certificate_may_carry_a_name_that_is_given_instead_of_the_address(drive: Drive, tmp_path: Path) -> None:
    ca_file, pem = issue_certificate(tmp_path, "agents.nodeobs.svc")

    async def run() -> None:
        async with Fleet(Behaviour(), certificate=pem) as fleet:
            drive.connector = connector(tls=True, ca_file=ca_file, server_name="agents.nodeobs.svc")
            (named,) = await drive.over(fleet)
            drive.connector = connector(tls=True, ca_file=ca_file, server_name="others.nodeobs.svc")
            (misnamed,) = await drive.over(fleet)
        assert named.reason is None
        assert [name for _, name, _ in drive.sunk] == ["kubelet-cpu.pb.gz"]
        assert misnamed.reason is FailureReason.TLS_FAILURE
        assert "others.nodeobs.svc" in misnamed.message

    asyncio.run(run())


def test_speaking_plainly_to_a_tls_port_is_a_bad_response(drive: Drive, certificate: tuple[Path, Path]) -> None:
    drive.patience = replace(drive.patience, connect=0.5)

    async def run() -> None:
        async with Fleet(quick(), certificate=certificate[1]) as fleet:
            (outcome,) = await drive.over(fleet)
        assert outcome.reason in (FailureReason.BAD_RESPONSE, FailureReason.UNREACHABLE)

    asyncio.run(run())


def test_a_new_authority_is_picked_up(drive: Drive, tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("old", "new")]
    for folder in folders:
        folder.mkdir()
    (old_ca, _), (new_ca, pem) = (issue_certificate(folder) for folder in folders)
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(old_ca.read_bytes())
    drive.connector = connector(tls=True, ca_file=ca_file)

    async def run() -> None:
        async with Fleet(quick(), certificate=pem) as fleet:
            (before,) = await drive.over(fleet)
            _replace(ca_file, new_ca.read_bytes())
            (after,) = await drive.over(fleet)
        assert (before.reason, after.reason) == (FailureReason.TLS_FAILURE, None)

    asyncio.run(run())


def test_the_token_is_read_again_when_it_rotates(drive: Drive, tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(f"{SECRET}\n")
    drive.connector = connector(token_file=token_file)

    async def run() -> None:
        async with Fleet(Behaviour(token=SECRET), quick(token="wrong")) as fleet:
            task = asyncio.create_task(drive.over(fleet))
            while not fleet.agents[0].started_at:
                await asyncio.sleep(0.01)
            fleet.agents[0].behaviour.token = "rotated"
            _replace(token_file, b"rotated")
            good, refused = await task
            sent = [request.headers["authorization"] for request in fleet.agents[0].requests]
        assert good.reason is None
        assert sent == [f"Bearer {SECRET}", "Bearer rotated", "Bearer rotated"]
        assert refused.reason is FailureReason.UNAUTHORIZED

    asyncio.run(run())


def test_a_token_file_that_becomes_unusable_leaves_the_last_token_in_use(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(SECRET)
    agents = connector(token_file=token_file)
    for content in (b"", b"two words", b"caf\xc3\xa9"):
        _replace(token_file, content)
        with structlog.testing.capture_logs() as logs:
            assert agents.credentials() == {"authorization": f"Bearer {SECRET}"}
        assert str(token_file) in str(logs)
        assert "caf" not in str(logs)
        assert "two words" not in str(logs)
    token_file.unlink()
    assert agents.credentials() == {"authorization": f"Bearer {SECRET}"}
    _replace(token_file, b"new")
    assert agents.credentials() == {"authorization": "Bearer new"}


@pytest.mark.parametrize("content", [b"", b" \n", b"one two", b"a\nb", b"\x00", None])
def test_a_token_file_without_a_token_is_refused_from_the_beginning(tmp_path: Path, content: bytes | None) -> None:
    token_file = tmp_path / "token"
    if content is not None:
        token_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"token file for agents .*token"):
        connector(token_file=token_file)


@pytest.mark.parametrize("content", [b"", b"-----BEGIN CERTIFICATE-----\nnonsense\n", None])
def test_an_authority_file_without_a_certificate_is_refused(tmp_path: Path, content: bytes | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"authority file for agents cannot be used: .*ca\.pem"):
        connector(tls=True, ca_file=ca_file)


def test_the_token_appears_nowhere_but_in_the_header(
    drive: Drive, tmp_path: Path, caplog: pytest.LogCaptureFixture, closed_port: int
) -> None:
    token_file = tmp_path / "token"
    token_file.write_text(SECRET)
    drive.connector = connector(token_file=token_file)
    drive.patience = replace(drive.patience, connect=0.5)
    caplog.set_level(logging.DEBUG)

    async def run() -> str:
        async with Fleet(quick(), quick(start_status=403), Behaviour(status_body=b"x")) as fleet:
            outcomes = await drive.run([*rows(*fleet.agents), Agent("gone", "127.0.0.1", closed_port)])
            assert fleet.agents[0].requests[0].headers["authorization"] == f"Bearer {SECRET}"
        return repr((outcomes, drive.connector, vars(drive.connector)))

    with structlog.testing.capture_logs() as logs:
        shown = asyncio.run(run())
    assert SECRET not in shown
    assert SECRET not in str(logs)
    assert SECRET not in caplog.text


def test_an_agent_that_wants_a_certificate_of_ours_is_a_tls_failure(
    drive: Drive, certificate: tuple[Path, Path]
) -> None:
    """With TLS 1.3 its refusal comes after the handshake, when the answer is read."""
    ca_file, pem = certificate
    drive.connector = connector(tls=True, ca_file=ca_file)
    context = server_context(pem)
    context.verify_mode = ssl.CERT_REQUIRED

    async def demand(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(incoming, outgoing, server_side=True)
        while data := await reader.read(2**16):
            incoming.write(data)
            with suppress(ssl.SSLError):
                server.do_handshake()
            writer.write(outgoing.read())
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(demand, "127.0.0.1", 0) as server:
            (outcome,) = await drive.run([Agent("node-0", "127.0.0.1", server.sockets[0].getsockname()[1])])
        assert outcome.reason is FailureReason.TLS_FAILURE
        assert "certificate required" in outcome.message

    asyncio.run(run())


def test_a_peer_that_goes_away_in_the_handshake_is_unreachable_and_tried_again(
    drive: Drive, certificate: tuple[Path, Path]
) -> None:
    drive.connector = connector(tls=True, ca_file=certificate[0])
    drive.patience = replace(drive.patience, connect=1.0)
    accepted: list[int] = []

    async def leave(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(1)
        await reader.read(1)
        if len(accepted) % 2:
            writer.transport.abort()
        else:
            writer.close()

    async def run() -> None:
        async with await asyncio.start_server(leave, "127.0.0.1", 0) as server:
            (outcome,) = await drive.run([Agent("node-0", "127.0.0.1", server.sockets[0].getsockname()[1])])
        assert outcome.reason is FailureReason.UNREACHABLE
        assert "cannot connect" in outcome.message
        assert len(accepted) > 1

    asyncio.run(run())


@pytest.mark.parametrize("deadline", [0.5, 30.0])
def test_a_handshake_that_hangs_leaves_no_connection_behind(
    drive: Drive, certificate: tuple[Path, Path], deadline: float
) -> None:
    """Given up by the Run's deadline, and by the limit on starting."""
    drive.connector = connector(tls=True, ca_file=certificate[0])
    drive.deadline_seconds, drive.patience = deadline, replace(drive.patience, connect=1.0)

    async def run() -> None:
        closed = asyncio.Event()

        async def swallow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while await reader.read(2**16):
                pass
            closed.set()
            writer.close()

        async with await asyncio.start_server(swallow, "127.0.0.1", 0) as server:
            (outcome,) = await drive.run([Agent("node-0", "127.0.0.1", server.sockets[0].getsockname()[1])])
            # Only the garbage collector would close it later.
            gc.disable()
            try:
                async with asyncio.timeout(5):
                    await closed.wait()
            finally:
                gc.enable()
        assert outcome.reason is (FailureReason.TIMEOUT if deadline < 1 else FailureReason.UNREACHABLE)

    asyncio.run(run())


def test_old_versions_of_tls_are_not_spoken(certificate: tuple[Path, Path]) -> None:
    assert read_authority(certificate[0]).minimum_version >= ssl.TLSVersion.TLSv1_2


def _replace(path: Path, content: bytes) -> None:
    new = path.with_name(f"{path.name}.new")
    new.write_bytes(content)
    new.replace(path)
