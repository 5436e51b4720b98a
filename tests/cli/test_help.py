"""Help, completion and how quickly they come."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from nodeobs.cli import main
from nodeobs.cli.failures import ExitCode
from nodeobs.cli.lazy import LazyGroup
from nodeobs.model import to_builtins
from tests.builders import make_observability, make_run
from tests.cli.conftest import FakeService, as_json

DOCS = Path(__file__).parents[2] / "docs" / "cli.md"


def commands(group: click.Group = main, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


ALL = dict(commands())


@pytest.mark.parametrize("path", [path for path, command in ALL.items() if not isinstance(command, click.Group)])
def test_every_command_has_examples_that_work(path: tuple[str, ...]) -> None:
    epilog = ALL[path].epilog or ""
    assert "Examples:" in epilog
    assert f"nodeobs {' '.join(path)}" in epilog
    used = set(
        re.findall(r" (--?[a-z][a-z-]*)", "\n".join(re.findall(r"nodeobs " + " ".join(path) + r"[^|&]*", epilog)))
    )
    known = {name for parameter in ALL[path].params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert path == ("agent",) or used <= known


def test_every_command_is_documented() -> None:
    text = DOCS.read_text()
    for path, command in ALL.items():
        assert f"nodeobs {' '.join(path)}" in text
        if path != ("agent",):
            for option in (name for parameter in command.params for name in parameter.opts if name.startswith("--")):
                assert re.search(rf"{option}\b", text), f"{option} of {path}"


def documented_lines() -> list[str]:
    """What follows ``nodeobs`` in the page's examples."""
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", DOCS.read_text(), re.DOTALL))
    names = "run|pull|top|completion|manifests|uninstall|serve|demo"
    return re.findall(rf"(?<![-/\w])nodeobs ((?:{names}) [^|>)#;&\n]*)", blocks)


@pytest.mark.parametrize("line", documented_lines())
def test_documented_commands_are_understood(line: str) -> None:
    command: click.Command = main
    context, words = click.Context(main), shlex.split(line)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        assert name is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    command.make_context(context.info_name, words)


def test_there_are_documented_commands() -> None:
    assert len(documented_lines()) > 5


def test_exit_codes_are_documented() -> None:
    help_text = CliRunner().invoke(main, ["--help"]).output
    for code in ExitCode:
        assert re.search(rf"^ +{int(code)} ", help_text, re.MULTILINE), code
        assert f"| {int(code)} |" in DOCS.read_text()


def test_the_lazy_groups_help_is_the_commands_own() -> None:
    assert isinstance(main, LazyGroup)
    for name, entry in main.commands_from.items():
        assert (ALL[(name,)].help or "").split("\n\n")[0].replace("\n", " ") == entry.help


def test_an_unknown_command_is_wrong_usage() -> None:
    result = CliRunner().invoke(main, ["ruin"])
    assert result.exit_code == 2
    assert "No such command" in result.output


def loaded_by(*arguments: str) -> set[str]:
    """Modules that a command line loads, asked of a real process."""
    code = (
        "import sys\nfrom nodeobs.cli import main\n"
        f"main({list(arguments)!r}, standalone_mode=False)\nprint('modules:', *sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert "modules:" in done.stdout, done.stderr
    return set(done.stdout.partition("modules:")[2].split())


def test_help_loads_next_to_nothing() -> None:
    heavy = {"httpx", "rich", "msgspec", "flask", "pydantic", "obstore", "gunicorn", "uvicorn", "structlog"}
    assert not loaded_by("completion", "bash") & heavy


def test_client_commands_load_no_server(tmp_path: Path) -> None:
    heavy = {"flask", "pydantic", "obstore", "gunicorn", "uvicorn", "structlog", "kubernetes", "sqlite3"}
    profile = Path(__file__).parent.parent / "data" / "crio-cpu.pb.gz"
    assert not loaded_by("top", str(profile)) & heavy


def test_commands_for_a_service_load_nothing_for_a_cluster(service: FakeService) -> None:
    service.lists()
    loaded = loaded_by("run", "list", "--server", service.url)
    assert not loaded & {"kubernetes", "requests", "yaml", "structlog", "nodeobs.kube.client"}


def test_ctrl_c_while_a_command_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "slow_to_load.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    code = (
        "from nodeobs.cli.lazy import LazyCommand, LazyGroup\n"
        "LazyGroup('nodeobs', commands_from={'slow': LazyCommand('slow_to_load:command', '')})()"
    )
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code, "slow"], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_the_http_apis_names_are_completed(service: FakeService) -> None:
    service.lists(make_run("alpha"), make_run("beta"))
    observability = to_builtins(make_observability("edge"))
    service.on("GET", "/api/v1/nodeobservabilities", as_json({"items": [observability]}))
    assert completed(f"nodeobs run get --server {service.url} nodeobs/a") == ["nodeobs/alpha"]
    assert completed(f"nodeobs top --server {service.url} nodeobs/b") == ["file,nodeobs/b", "nodeobs/beta"]
    assert completed(f"nodeobs run list --server {service.url} --node-observability e") == ["edge"]
    assert completed("nodeobs run get --server http://127.0.0.1:1 nodeobs/a") == []


def completed(line: str) -> list[str]:
    """What the Tab key would offer at the end of that line."""
    words = len(line.split()) - 1
    environ = {"_NODEOBS_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(words)}
    found = CliRunner().invoke(main, [], prog_name="nodeobs", env=environ).stdout.split()
    return [name.removeprefix("plain,") for name in found]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str) -> None:
    result = CliRunner().invoke(main, ["completion", shell])
    assert result.exit_code == 0
    assert "_NODEOBS_COMPLETE" in result.output
    assert f"{shell}_complete" in result.output


def test_the_bash_script_is_one_and_completes() -> None:
    script = CliRunner().invoke(main, ["completion", "bash"]).output
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=20)
    environ = os.environ | {"_NODEOBS_COMPLETE": "bash_complete", "COMP_WORDS": "nodeobs run st", "COMP_CWORD": "2"}
    code = "from nodeobs.cli import main; main(prog_name='nodeobs')"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stdout.split() == ["plain,start"]


def test_both_names_are_the_same_program() -> None:
    folder = Path(sys.executable).parent
    outputs = [
        subprocess.run([folder / name, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
        for name in ("nodeobs", "kubectl-nodeobs")
    ]
    assert outputs[0] == outputs[1]
