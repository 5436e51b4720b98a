"""Real captures, and Go's pprof to compare with."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
CAPTURES = sorted(DATA.glob("*.pb.gz"))


@pytest.fixture(params=CAPTURES, ids=lambda path: path.name.removesuffix(".pb.gz"))
def capture(request: pytest.FixtureRequest) -> Path:
    """Each of the real captures."""
    path: Path = request.param
    return path


@pytest.fixture
def kubelet_cpu() -> Path:
    return DATA / "kubelet-cpu.pb.gz"


GoPprof = Callable[..., str]


@pytest.fixture(scope="session")
def go_pprof_command() -> list[str]:
    """What ``go tool pprof`` runs: thirty times as quick as having it found and checked each time."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed")
    subprocess.run([go, "tool", "pprof", "-help"], capture_output=True, timeout=300, check=False)
    named = subprocess.run([go, "tool", "-n", "pprof"], capture_output=True, text=True, timeout=120, check=True)
    program = Path(named.stdout.strip())
    return [str(program)] if program.is_file() else [go, "tool", "pprof"]


@pytest.fixture
def go_pprof(go_pprof_command: list[str], tmp_path: Path) -> GoPprof:
    """Runs ``go tool pprof`` with these arguments; what it prints."""

    def run(*arguments: str | Path) -> str:
        command = [*go_pprof_command, "-symbolize=none", *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "error" not in done.stderr.lower(), done.stderr
        return done.stdout

    return run
