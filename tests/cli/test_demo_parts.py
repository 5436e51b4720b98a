"""What the demo stands on: its folder, its processes, its notification."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner

from nodeobs.cli import main
from nodeobs.cli.demo.alert import notification
from nodeobs.cli.demo.children import Children
from nodeobs.cli.demo.stage import NODES, staged
from nodeobs.cli.demo.telling import program
from nodeobs.cli.demo.work import Request, Work
from nodeobs.cli.failures import Failure
from tests.cli.conftest import Answer, FakeService

PYTHON = sys.executable
SLEEP = "import time; time.sleep(600)"


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_foreign_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--dir", str(tmp_path)])
    assert result.exit_code == 2
    assert "not empty" in result.stderr
    assert "--dir" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_refusal_in_json(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    result = CliRunner().invoke(main, ["demo", "--dir", str(tmp_path), "-o", "json"])
    assert result.stdout == ""
    assert json.loads(result.stderr)["exitCode"] == 2


def test_an_earlier_demo_is_written_anew_and_strangers_files_stay(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    with staged(folder, seconds=3) as first:
        (folder / "outputs" / "old").mkdir(parents=True)
        (folder / "notes.txt").write_text("mine")
    with staged(folder, seconds=3) as second:
        assert not (folder / "outputs").exists()
        assert (folder / "notes.txt").read_text() == "mine"
        assert (folder / "service" / "admin-token").read_text().strip() == second.admin_token
    assert first.admin_token != second.admin_token


def test_two_demos_do_not_share_a_folder(tmp_path: Path) -> None:
    with staged(tmp_path / "demo", seconds=3) as first:
        with pytest.raises(Failure, match="another demo is running"), staged(tmp_path / "demo", seconds=3):
            pass
        assert (first.folder / "service" / "tokens").is_file()


def test_secrets_are_for_their_owner_and_not_shown(tmp_path: Path) -> None:
    with staged(tmp_path / "demo", seconds=3) as stage:
        for path in (stage.folder / "service" / "tokens", stage.folder / "agents" / "token"):
            assert path.stat().st_mode & 0o077 == 0
        assert stage.admin_token not in repr(stage)
        assert len({stage.service_port, *stage.agent_ports.values()}) == 1 + len(NODES)


def test_processes_end_with_the_block_and_so_do_theirs(tmp_path: Path) -> None:
    child = f"subprocess.Popen([sys.executable, '-c', '{SLEEP}'])"
    spawn = f"import subprocess, sys, time; print({child}.pid, flush=True); time.sleep(600)"
    with Children() as children:
        children.start("parent", [PYTHON, "-c", spawn], environ=os.environ, log=tmp_path / "log")
        until(lambda: (tmp_path / "log").read_text().endswith("\n"))
        grandchild = int((tmp_path / "log").read_text())
        assert is_alive(grandchild)
    until(lambda: not is_alive(grandchild))


def test_a_stubborn_process_is_killed_and_told(tmp_path: Path) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    children = Children(stop_seconds=0.5)
    children.start("deaf", [PYTHON, "-c", deaf], environ=os.environ, log=tmp_path / "log")
    until(lambda: "deaf" in (tmp_path / "log").read_text())
    assert children.stop() == ["deaf"]


def test_a_process_that_ends_instead_of_getting_ready(tmp_path: Path) -> None:
    with Children() as children:
        child = children.start(
            "hasty", [PYTHON, "-c", "raise SystemExit('no')"], environ=os.environ, log=tmp_path / "log"
        )
        with pytest.raises(Failure, match="hasty ended with exit code 1"):
            children.wait_ready("hasty", lambda: False)
        assert child.tail() == ["no"]


def test_processes_end_when_the_demo_is_killed(tmp_path: Path) -> None:
    code = f"""
import os, pathlib, sys, time
from nodeobs.cli.demo.children import Children
children = Children()
children.start("child", [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"],
               environ=os.environ, log=pathlib.Path({str(tmp_path / "log")!r}))
time.sleep(600)
"""
    demo = subprocess.Popen([PYTHON, "-c", code])
    try:
        until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text().endswith("\n"))
        child = int((tmp_path / "log").read_text())
        assert is_alive(child)
    finally:
        demo.send_signal(signal.SIGKILL)
        demo.wait()
    until(lambda: not is_alive(child))


def test_the_notification_is_what_alertmanager_sends() -> None:
    payload = notification(NODES, datetime(2026, 1, 1, tzinfo=UTC))
    assert payload["version"] == "4"
    assert [alert["status"] for alert in payload["alerts"]].count("resolved") == 1
    assert len({alert["fingerprint"] for alert in payload["alerts"]}) == len(payload["alerts"]) == len(NODES) + 2
    assert payload["alerts"][0]["startsAt"] == "2025-12-31T23:59:00.000000Z"


def test_the_work_goes_on_while_one_of_its_addresses_is_dead(service: FakeService) -> None:
    service.on("GET", "/metrics", Answer(200, b"x"))
    alive = Request("scrape", "GET", f"{service.url}/metrics", "token")
    dead = Request("scrape of the dead", "GET", "http://127.0.0.1:1/metrics", "token")
    with Work([alive, dead], rate=200) as work:
        until(lambda: work.answered["scrape: 200"] >= 3)
    assert work.unanswered >= 2
    assert service.asked[0].headers["Authorization"] == "Bearer token"


def test_what_it_says_to_type_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [".venv/bin/nodeobs", "demo"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert program() == ".venv/bin/nodeobs"
    monkeypatch.setattr(sys, "argv", ["/x/nodeobs/cli/__main__.py", "demo"])
    assert program() == f"{sys.executable} -m nodeobs.cli"
    (tmp_path / "nodeobs").touch(mode=0o755)
    assert program() == "nodeobs"
