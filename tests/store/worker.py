"""Another process on the same store: ``python -m tests.store.worker VERB FILE``, driven by lines."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from nodeobs.errors import RunInProgress
from nodeobs.model import Phase, Run, replace
from nodeobs.store.base import Reader
from nodeobs.store.filelock import FileLeadership
from nodeobs.store.sqlite import SqliteStore
from tests.builders import make_run
from tests.store.conftest import utc_now


def tell(*words: object) -> None:
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def only_one_active(reader: Reader) -> None:
    if any(not run.status.phase.final for run in reader.list(Run)):
        raise RunInProgress("one is going", holder="?")


def race(store: SqliteStore) -> None:
    """Create the Run that each line names, where none is going."""
    tell("ready")
    for line in sys.stdin:
        try:
            store.create(make_run(line.strip()), admit=only_one_active)
        except RunInProgress:
            tell("refused")
        else:
            tell("created")


def write(store: SqliteStore) -> None:
    """Create, update and delete without end; tell each write once it is acknowledged."""
    number = 0
    while True:
        number += 1
        run = store.create(make_run(f"run-{os.getpid()}-{number}"))
        tell("is", run.metadata.name, run.metadata.resource_version)
        for phase in (Phase.RUNNING, Phase.SUCCEEDED):
            run = store.update(replace(run, status=replace(run.status, phase=phase, output="x" * 20_000)))
            tell("is", run.metadata.name, run.metadata.resource_version)
        if number % 3 == 0:
            store.delete(Run, run.metadata.name, run.metadata.namespace)
            tell("gone", run.metadata.name, 0)


def lead(path: Path) -> None:
    """Lead, start a child that outlives this process, and wait to be killed."""
    leadership = FileLeadership(path)
    term = leadership.try_acquire()
    child = subprocess.Popen(["sleep", "600"], close_fds=False)
    tell(term, child.pid)
    time.sleep(600)


def main() -> None:
    verb, path = sys.argv[1], Path(sys.argv[2])
    if verb == "lead":
        lead(path)
        return
    with closing(SqliteStore(path, now=utc_now)) as store:
        {"race": race, "write": write}[verb](store)


if __name__ == "__main__":
    main()
