"""The folder of a lab: a free one, owned by who holds its lock, and rid of what an earlier run left in it.

Everything that a lab starts carries its folder in its environment. So a run that was killed needs no record of what
it had started: whatever carries a folder that nobody owns is left over.
"""

from __future__ import annotations

import fcntl
import os
import select
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, TypeVar

from tests.lab.errors import LabError
from tests.processes import Program, wait_for

P = TypeVar("P", bound=Program)

MARK: Final = "NODEOBS_LAB"
"""Variable in the environment of everything that a lab starts: the lab's folder."""

LABS: Final = 16
"""Labs that one user can have at a time."""


class Place:
    """Folder of one lab, and the lock on it. ``index`` is unique on the machine among the labs of its kind."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self.lock = lock
        self.index = int(folder.name)
        self.environ = {MARK: str(folder)}
        """What everything started here must have in its environment."""
        self._programs: list[Program] = []

    def start(self, name: str, argv: Sequence[str | Path], environ: Mapping[str, str] | None = None) -> Program:
        """Start a program; what it says is in ``NAME.log``."""
        log = self.folder / f"{name.replace(' ', '-')}.log"
        return self.keep(Program(name, argv, log=log, environ={**self.environ, **(environ or {})}))

    def keep(self, program: P) -> P:
        """Have a program that was started with ``environ`` waited for in the end."""
        self._programs.append(program)
        return program

    def hand_over(self) -> None:
        """Have the place owned by a process in it: it stays when this process ends, until :func:`take_over`."""
        subprocess.Popen(
            ["sleep", "infinity"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # whoever reads what the command says is not to wait for this one's end
            stderr=subprocess.DEVNULL,
            pass_fds=(self.lock,),
            env={**os.environ, **self.environ},
            start_new_session=True,
        )

    def clear(self) -> None:
        """End everything that was started here and remove what is in the folder."""
        end_all(self.folder)
        for program in self._programs:
            program.process.wait()
        for entry in self.folder.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def leave(self) -> None:
        """Give the folder back, and remove it."""
        self.folder.rmdir()
        os.close(self.lock)
        with suppress(OSError):  # another lab is there
            self.folder.parent.rmdir()


def base(kind: str) -> Path:
    """Where all labs of a kind are: the same for every process of a user, whatever its TMPDIR. It need not exist.

    Raises:
        LabError: somebody else made that folder.
    """
    folder = Path(f"/tmp/nodeobs-{kind}-{os.getuid()}")
    with suppress(FileNotFoundError):
        if folder.lstat().st_uid != os.getuid():
            raise LabError(f"{folder} belongs to somebody else: remove it")
    return folder


def claim(kind: str, clear: Callable[[Place], None] = Place.clear) -> Place:
    """A place of one's own. What earlier runs left behind, and nobody owns any more, is removed first by ``clear``.

    Raises:
        LabError: there are too many labs already.
    """
    for left in abandoned(kind):
        clear(left)
        left.leave()
    base(kind).mkdir(mode=0o700, exist_ok=True)
    for index in range(LABS):
        place = _take(base(kind) / str(index))
        if place is not None:
            return place
    raise LabError(f"there are {LABS} labs in {base(kind)} already: end some (make cluster-down)")


def take_over(folder: Path) -> Place:
    """The place that was handed over, with all its processes ended.

    Raises:
        LabError: another process owns it.
    """
    end_all(folder)
    place = _take(folder)
    if place is None:
        raise LabError(f"{folder} belongs to a process that is still running")
    return place


def abandoned(kind: str) -> Iterator[Place]:
    """Every place that nobody owns; the caller owns it now."""
    for folder in sorted(base(kind).glob("[0-9]*")):
        place = _take(folder)
        if place is not None:
            yield place


def end_all(folder: Path) -> None:
    """End every process that was started in this place."""

    def none_left() -> bool:
        found = started_in(folder)
        _end(found)
        return not found

    wait_for(f"the end of what was started in {folder}", none_left, seconds=20)


def _end(processes: Sequence[int]) -> None:
    """Kill them and wait for it: a node's first process is gone only after all in its process namespace are."""
    with ExitStack() as stack:
        handles = []
        for pid in processes:
            with suppress(ProcessLookupError):
                handles.append(os.pidfd_open(pid))
                stack.callback(os.close, handles[-1])
                signal.pidfd_send_signal(handles[-1], signal.SIGKILL)
        for handle in handles:
            select.select([handle], [], [], 20)


def started_in(folder: Path) -> list[int]:
    """Processes that carry the mark of this place (Linux)."""
    wanted = f"{MARK}={folder}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile, or is another user's
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.append(int(entry.name))
    return found


def _take(folder: Path) -> Place | None:
    """The place, once its lock is ours; None when somebody else has it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:  # somebody is leaving it
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_ino == folder.stat().st_ino:
            return Place(folder, lock)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(lock)
    return None
