"""One leader on a machine, whatever becomes of the one before."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from nodeobs.errors import ConfigurationError, StoreUnavailable
from nodeobs.store.filelock import FileLeadership
from tests.processes import ROOT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "leader.lock"


@pytest.fixture
def leadership(path: Path) -> Iterator[FileLeadership]:
    leadership = FileLeadership(path)
    yield leadership
    leadership.release()


@pytest.fixture
def other(path: Path) -> Iterator[FileLeadership]:
    other = FileLeadership(path)
    yield other
    other.release()


def test_one_leads_and_its_term_goes_on(leadership: FileLeadership, other: FileLeadership) -> None:
    assert leadership.try_acquire() == 1
    assert other.try_acquire() is None
    assert leadership.try_acquire() == 1
    assert other.try_acquire() is None
    assert other.leader == leadership.holder


def test_every_term_is_higher_than_all_before(leadership: FileLeadership, other: FileLeadership) -> None:
    terms = []
    for _ in range(3):
        for candidate in (leadership, other):
            terms.append(candidate.try_acquire())
            candidate.release()
    assert terms == [1, 2, 3, 4, 5, 6]


def test_releasing_what_is_not_held_does_nothing(leadership: FileLeadership, other: FileLeadership) -> None:
    assert leadership.try_acquire() == 1
    other.release()
    assert other.try_acquire() is None
    leadership.release()
    leadership.release()
    assert other.try_acquire() == 2


def test_the_file_names_the_holder_and_is_for_its_owner_only(leadership: FileLeadership, path: Path) -> None:
    leadership.try_acquire()
    assert leadership.holder == f"{socket.gethostname()}-{os.getpid()}"
    assert path.read_text().split() == ["1", leadership.holder]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_killed_leader_leads_no_more_though_its_child_lives(leadership: FileLeadership, path: Path) -> None:
    assert leadership.try_acquire() == 1
    leadership.release()
    argv = [sys.executable, "-m", "tests.store.worker", "lead", str(path)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as leader:
        assert leader.stdout is not None
        term, child = map(int, leader.stdout.readline().split())
        try:
            assert term == 2
            assert leadership.try_acquire() is None
            leader.kill()
            # Not leader.wait(): the child holds standard output open, as children do.
            os.waitpid(leader.pid, 0)
            os.kill(child, 0)
            assert leadership.try_acquire() == 3
        finally:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)


def test_the_term_goes_on_from_the_number_in_the_file(
    leadership: FileLeadership, other: FileLeadership, path: Path
) -> None:
    assert leadership.try_acquire() == 1
    leadership.release()
    path.write_text("41 someone\n")
    assert other.try_acquire() == 42
    assert leadership.try_acquire() is None


def test_where_the_file_was_lost_the_term_goes_on_from_what_is_on_record(path: Path) -> None:
    known = 41
    leadership = FileLeadership(path, known_term=lambda: known)
    assert leadership.try_acquire() == 42
    leadership.release()
    assert leadership.try_acquire() == 43
    leadership.release()
    path.unlink()
    known = 50
    assert leadership.try_acquire() == 51


@pytest.mark.parametrize("content", [b"someone 4\n", b"\n\n", b"-3 x", b"9" * 600, b"\xff\xfe"])
def test_a_damaged_lock_file_says_what_to_do(leadership: FileLeadership, path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StoreUnavailable, match=r"higher than status\.driver\.term"):
        leadership.try_acquire()
    assert path.read_bytes() == content
    path.write_text("7")
    assert leadership.try_acquire() == 8


def test_where_no_file_can_be_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for path in (tmp_path / "file" / "leader.lock", tmp_path / "link"):
        with pytest.raises(ConfigurationError, match="NODEOBS_DATA_DIR"):
            FileLeadership(path).try_acquire()
