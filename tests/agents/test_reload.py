"""Files that change while many threads read them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nodeobs.agents.reload import WatchedFile
from tests.processes import wait_for


def test_nobody_gets_what_was_there_before_while_another_thread_reads_what_is_there_now(tmp_path: Path) -> None:
    path = tmp_path / "authorities"
    path.write_text("of nobody")
    reading, go_on = threading.Event(), threading.Event()

    def read(file: Path) -> str:
        content = file.read_text()
        if content == "of agents":
            reading.set()
            go_on.wait(10)
        return content

    file = WatchedFile(path, read)
    path.write_text("of agents")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(file.get)
        assert reading.wait(10)
        second = pool.submit(file.get)
        wait_for("it has had its chance", lambda: second.running() or second.done())
        threading.Event().wait(0.2)
        go_on.set()
        assert [first.result(10), second.result(10)] == ["of agents", "of agents"]
