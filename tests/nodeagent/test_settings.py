"""The command line, the environment and the configuration file."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeobs.errors import ConfigurationError
from nodeobs.nodeagent.arguments import read_settings
from nodeobs.nodeagent.settings import AgentSettings
from nodeobs.nodeagent.target_settings import TargetSettings

QUIET = ["--crio-socket", "", "--containerd-socket", ""]


def read(*arguments: str, **environ: str) -> AgentSettings:
    return read_settings([*QUIET, *arguments], environ)


def only_target(*arguments: str, **environ: str) -> TargetSettings:
    (target,) = read(*arguments, **environ).targets
    return target


def test_the_defaults() -> None:
    settings = read()
    assert (settings.host, settings.port, settings.storage) == ("127.0.0.1", 8443, Path("/run/node-observability"))
    assert (settings.max_bytes, settings.max_age) == (512 * 1024**2, timedelta(days=1))
    assert settings.targets == ()


def test_the_command_line_wins_over_the_environment() -> None:
    targets = "a=http://h:1, b=unix:/s"
    environ = {"NODEOBS_AGENT_PORT": "1", "NODEOBS_AGENT_MAX_AGE": "2h", "NODEOBS_AGENT_TARGET": targets}
    settings = read("--port", "2", **environ)
    assert (settings.port, settings.max_age) == (2, timedelta(hours=2))
    assert [target.endpoint for target in settings.targets] == ["http://h:1", "unix:/s"]


def test_what_kubernetes_says_of_a_service_called_nodeobs_agent_is_no_setting() -> None:
    assert read(NODEOBS_AGENT_PORT="tcp://10.96.0.7:8443").port == 8443


def test_the_kubelet_of_the_node() -> None:
    kubelet = only_target(NODE_IP="10.0.0.7")
    assert kubelet.url == "https://10.0.0.7:10250/debug/pprof"
    assert kubelet.any_certificate
    assert only_target(NODE_IP="fd00::7").endpoint == "https://[fd00::7]:10250"
    assert read("--kubelet-url", "", NODE_IP="10.0.0.7").targets == ()


def test_a_kubelet_with_a_ca_is_verified() -> None:
    kubelet = only_target("--kubelet-ca-file", "/ca.crt", NODE_IP="10.0.0.7", NODE_NAME="worker-a")
    assert (kubelet.any_certificate, kubelet.ca_file, kubelet.server_name) == (False, Path("/ca.crt"), "worker-a")
    named = only_target("--kubelet-ca-file", "/ca.crt", "--kubelet-server-name", "b", NODE_IP="::1", NODE_NAME="a")
    assert named.server_name == "b"


def test_upstreams_flags_work(tmp_path: Path) -> None:
    (tmp_path / "crio.sock").touch()
    settings = read_settings(
        [
            *("--tokenFile=/token", "--caCertFile=/ca.crt", "--storage=/data", "--port=9000", "--loglevel=debug"),
            *(f"--crioUnixSocket={tmp_path / 'crio.sock'}", "--crioPreferUnixSocket=true", "--mode=profiling"),
            *("--unixSocket=/tmp/agent.sock", "--preferUnixSocket=false", "--containerd-socket="),
        ],
        {"NODE_IP": "10.0.0.7"},
    )
    kubelet, crio = settings.targets
    assert (kubelet.token_file, kubelet.ca_file) == (Path("/token"), Path("/ca.crt"))
    assert crio.socket == tmp_path / "crio.sock"
    assert (settings.storage, settings.port, settings.unix_socket) == (Path("/data"), 9000, None)
    assert settings.log_level == "debug"
    assert read("--unixSocket", "/s", "--preferUnixSocket").unix_socket == Path("/s")


def test_a_configuration_file(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(
        """
targets:
  - name: etcd
    url: https://$(NODE_IP):2379/debug/pprof
    caFile: /etc/etcd/ca.crt
    tokenFile: /etc/etcd/token
    serverName: etcd.local
  - {name: own, socket: /run/own.sock}
"""
    )
    etcd, own = read("--config", str(path), "--kubelet-url", "", NODE_IP="10.0.0.7").targets
    assert etcd == TargetSettings(
        name="etcd",
        url="https://10.0.0.7:2379/debug/pprof",
        token_file=Path("/etc/etcd/token"),
        ca_file=Path("/etc/etcd/ca.crt"),
        server_name="etcd.local",
    )
    assert own == TargetSettings(name="own", socket=Path("/run/own.sock"))


@pytest.mark.parametrize(
    ("arguments", "environ", "parts"),
    [
        (["--port", "65536"], {}, ["--port", "'65536'", "0 to 65535"]),
        ([], {"NODEOBS_AGENT_PORT": "http"}, ["NODEOBS_AGENT_PORT", "'http'"]),
        (["--max-bytes", "many"], {}, ["--max-bytes", "'many'", "20GiB"]),
        (["--max-age", "1 day"], {}, ["--max-age", "'1 day'", "30d"]),
        (["--log-level", "loud"], {}, ["--log-level", "'loud'", "warning"]),
        (["--kubelet-require-ca", "maybe"], {}, ["--kubelet-require-ca", "'maybe'", "true or false"]),
        (["--host", "0.0.0.0"], {}, ["--host 0.0.0.0", "--tokens-file"]),
        (["--host", "node-7"], {}, ["--host node-7", "--tokens-file"]),
        (["--host", "::", "--tokens-file", "t"], {}, ["--host ::", "--tls-cert-file"]),
        (["--tls-cert-file", "c"], {}, ["--tls-key-file"]),
        (["--target", "api"], {}, ["--target", "'api'", "NAME=URL"]),
        (["--target", "A_B=http://h"], {}, ["'A_B'", "lower-case"]),
        (["--target", "a=ftp://h"], {}, ["target 'a'", "ftp://h", "https://host:port"]),
        (["--target", "a=http://u:p@h"], {}, ["target 'a'", "without user"]),
        (["--target", "a=http://h:99999"], {}, ["target 'a'", "http://h:99999"]),
        (["--target", "a=http://h/metrics"], {}, ["target 'a'", "/debug/pprof"]),
        (["--target", "a=http://h/debug/pprof?x=1"], {}, ["target 'a'", "query"]),
        (["--target", "a=unix:relative"], {}, ["target 'a'", "absolute"]),
        (["--target", "a=unix:/" + "x" * 107], {}, ["target 'a'", "107"]),
        (["--target", "a=http://h", "--target", "a=http://i"], {}, ["'a'", "twice"]),
        (["--kubelet-url", "https://10.0.0.8:10250"], {"NODE_IP": "10.0.0.7"}, ["10.0.0.8", "--kubelet-ca-file"]),
        (["--kubelet-require-ca"], {"NODE_IP": "10.0.0.7"}, ["--kubelet-require-ca", "--kubelet-ca-file"]),
        (["--mode", "scripting"], {}, ["--mode scripting", "profiling"]),
        (["--crioPreferUnixSocket=false"], {}, ["--crioPreferUnixSocket", "--target"]),
        (["--config", "/nowhere.yaml"], {}, ["--config /nowhere.yaml", "cannot be read"]),
    ],
)
def test_wrong_settings_are_refused_by_name(arguments: list[str], environ: dict[str, str], parts: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read(*arguments, **environ)
    for part in parts:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("targets: [{name: a, url: 'http://h', colour: red}]", "colour"),
        ("targts: []", "targts"),
        ("targets: [{url: 'http://h'}]", "name"),
        ("targets: [{name: a}]", "either a URL or a socket"),
        ("targets: [{name: a, url: 'http://h', socket: /s}]", "either a URL or a socket"),
        ("targets: [{name: a, url: 'http://h:1', tokenFile: /t}]", "a token is only sent over https"),
        ("targets: 7", "targets"),
        ("- a", "object"),
        ("targets: [", "YAML"),
    ],
)
def test_a_wrong_configuration_file_is_refused(tmp_path: Path, text: str, part: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        read("--config", str(path))
    assert str(path) in str(caught.value)
    assert part in str(caught.value)


@given(st.text(max_size=40))
def test_any_target_is_taken_or_refused_with_a_message(text: str) -> None:
    refusal, endpoint = "", ""
    try:
        target = only_target("--target", f"a={text}")
        endpoint = str(target.socket) if target.socket else target.url
    except ConfigurationError as error:
        refusal = str(error)
    assert "--target" in refusal or endpoint.startswith("/") or endpoint.endswith("/debug/pprof")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nodeobs.nodeagent", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_has_examples_and_version_is_printed() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    assert "examples:" in shown.stdout
    assert run("-v").stdout.startswith("nodeobs agent ")


def test_wrong_settings_end_the_process_with_2(tmp_path: Path) -> None:
    for arguments in (
        ["--port", "x"],
        ["--no-such-option"],
        ["--storage", "/dev/null/x"],
        ["--storage", str(tmp_path), "--port", "0", "--tokens-file", str(tmp_path / "none")],
        ["--storage", str(tmp_path), "--port", "0", "--tls-cert-file", "/none", "--tls-key-file", "/none"],
        ["--storage", str(tmp_path), "--unix-socket", "/dev/null/x"],
        ["--storage", str(tmp_path), "--host", "192.0.2.1", "--tokens-file", "x", *TLS],
    ):
        ended = run(*arguments)
        assert ended.returncode == 2, arguments
        assert "Traceback" not in ended.stderr
        assert "nodeobs agent: " in ended.stderr


TLS = ("--tls-cert-file", "/none", "--tls-key-file", "/none")
