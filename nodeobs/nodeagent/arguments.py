"""The agent's command line and environment, read into :class:`AgentSettings`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeVar
from urllib.parse import urlsplit

from nodeobs import __version__
from nodeobs.errors import ConfigurationError
from nodeobs.nodeagent.settings import AgentSettings, ApiServerSettings, check_listener
from nodeobs.nodeagent.target_settings import (
    TargetSettings,
    is_loopback,
    kubelet_target,
    named_target,
    targets_from_file,
    unique_targets,
)
from nodeobs.units import parse_duration, parse_size

T = TypeVar("T")

ENVIRONMENT_PREFIX: Final = "NODEOBS_AGENT_"
SERVICE_ACCOUNT_TOKEN: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")
SERVICE_ACCOUNT_CA: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
CRIO_SOCKET: Final = Path("/var/run/crio/crio.sock")
CONTAINERD_SOCKET: Final = Path("/run/containerd/debug.sock")
LOG_LEVELS: Final = ("debug", "info", "warning", "error")

_EXAMPLES = """\
examples:
  On a node, profiling its kubelet and whatever runtime is there:
    NODE_IP=10.0.0.7 nodeobs agent --host 0.0.0.0 --tokens-file tokens \\
        --tls-cert-file tls.crt --tls-key-file tls.key
  In a pod, for callers that the cluster's API server knows:
    nodeobs agent --host 0.0.0.0 --auth kubernetes --tls-cert-file tls.crt --tls-key-file tls.key
  On a workstation, profiling a Go program that serves /debug/pprof:
    nodeobs agent --storage ./profiles --target api=http://127.0.0.1:6060
  The same through a unix socket:
    nodeobs agent --storage ./profiles --target api=unix:/run/api.sock

Every option can be given as NODEOBS_AGENT_<NAME> in the environment, for example NODEOBS_AGENT_TOKENS_FILE;
the command line wins. NODE_IP and NODE_NAME are the node's own, as a DaemonSet sets them.
The options of OpenShift's node-observability-agent (--tokenFile, --caCertFile, --crioUnixSocket, ...) work as well.
"""


@dataclass(frozen=True, slots=True)
class _Option:
    name: str
    metavar: str
    text: str
    aliases: tuple[str, ...] = ()
    kind: Literal["text", "list", "switch"] = "text"


_OPTIONS: Final = (
    _Option("host", "ADDRESS", "address to listen on (127.0.0.1)"),
    _Option("port", "PORT", "port to listen on, 0 for any free one (8443)"),
    _Option("unix-socket", "PATH", "listen on this unix socket instead", ("--unixSocket",)),
    _Option("tls-cert-file", "FILE", "certificate chain, PEM; read again when it changes"),
    _Option("tls-key-file", "FILE", "its private key, PEM"),
    _Option("tokens-file", "FILE", "tokens that callers may present, one a line; read again when it changes"),
    _Option("auth", "METHOD", "who says who may call: tokens (--tokens-file, also the default with it) or kubernetes"),
    _Option("api-server", "URL", "the cluster's API server, for --auth kubernetes (the pod's environment names it)"),
    _Option("api-server-token-file", "FILE", "the agent's own token there (the pod's service account's)"),
    _Option("api-server-ca-file", "FILE", "CA of its certificate (the pod's service account's)"),
    _Option("storage", "FOLDER", "where collected profiles are kept (/run/node-observability)"),
    _Option("max-bytes", "SIZE", "most that is kept there; the oldest goes first (512MiB)"),
    _Option("max-age", "DURATION", "how long a collection is kept (1d)"),
    _Option("target", "NAME=WHERE", "a pprof endpoint: a URL, or unix:/path; may be repeated", kind="list"),
    _Option("config", "FILE", "YAML file listing further targets with their tokens and CAs (see docs/agent.md)"),
    _Option("kubelet-url", "URL", "the kubelet (https://$(NODE_IP):10250 where NODE_IP is set); empty: none"),
    _Option("kubelet-token-file", "FILE", "token for the kubelet (the pod's service account's)", ("--tokenFile",)),
    _Option("kubelet-ca-file", "FILE", "CA of the kubelet's certificate", ("--caCertFile",)),
    _Option("kubelet-server-name", "NAME", "name in the kubelet's certificate (NODE_NAME, else the URL's host)"),
    _Option("kubelet-require-ca", "BOOL", "refuse to start without --kubelet-ca-file", kind="switch"),
    _Option(
        "crio-socket", "PATH", f"CRI-O's socket ({CRIO_SOCKET} where it exists); empty: none", ("--crioUnixSocket",)
    ),
    _Option(
        "containerd-socket", "PATH", f"containerd's debug socket ({CONTAINERD_SOCKET} where it exists); empty: none"
    ),
    _Option("log-level", "LEVEL", "debug, info, warning or error (info)", ("--loglevel",)),
)
_UPSTREAM_ONLY: Final = (
    _Option("mode", "MODE", argparse.SUPPRESS),
    _Option("preferUnixSocket", "BOOL", argparse.SUPPRESS, kind="switch"),
    _Option("crioPreferUnixSocket", "BOOL", argparse.SUPPRESS, kind="switch"),
)


def read_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> AgentSettings:
    """Settings from the command line, then the environment, then the defaults.

    Raises:
        ConfigurationError: names the setting, its value and what is allowed.
        SystemExit: ``--help`` or ``--version`` (0), or an unknown option (2).
    """
    given = _Given(vars(_parser().parse_args(arguments)), environ)
    _check_upstream(given)
    unix_socket = given.path("unix-socket") if given.switch("preferUnixSocket", default=True) else None
    settings = AgentSettings(
        host=given.text("host") or "127.0.0.1",
        port=given.read("port", _port, "8443"),
        unix_socket=unix_socket,
        tls_cert_file=given.path("tls-cert-file"),
        tls_key_file=given.path("tls-key-file"),
        tokens_file=given.path("tokens-file"),
        api_server=_api_server(given, environ),
        storage=given.path("storage") or Path("/run/node-observability"),
        max_bytes=given.read("max-bytes", parse_size, "512MiB"),
        max_age=given.read("max-age", parse_duration, "1d"),
        targets=_targets(given, environ),
        log_level=given.read("log-level", _log_level, "info"),
    )
    check_listener(settings)
    return settings


class _Given:
    """What was given, and where, so that a message can name it."""

    def __init__(self, parsed: Mapping[str, str | list[str] | None], environ: Mapping[str, str]) -> None:
        self._parsed = parsed
        self._environ = environ

    def _find(self, name: str) -> tuple[str | list[str] | None, str]:
        value = self._parsed[name.replace("-", "_")]
        if value is not None:
            return value, f"--{name}"
        variable = ENVIRONMENT_PREFIX + name.replace("-", "_").upper()
        found = self._environ.get(variable)
        if name == "port" and found and found.startswith("tcp://"):
            found = None  # Kubernetes says so, in each pod beside a Service called nodeobs-agent, where that listens
        return found, variable

    def text(self, name: str) -> str | None:
        value, _ = self._find(name)
        return value if isinstance(value, str) else None

    def path(self, name: str) -> Path | None:
        value = self.text(name)
        return Path(value) if value else None

    def texts(self, name: str) -> tuple[Sequence[str], str]:
        """The values of an option that may be repeated (in the environment: separated by commas), and its name."""
        value, source = self._find(name)
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()], source
        return value or [], source

    def read(self, name: str, convert: Callable[[str], T], default: str) -> T:
        value, source = self._find(name)
        try:
            return convert(value if isinstance(value, str) else default)
        except ValueError as error:
            raise ConfigurationError(f"{source}: {error}") from error

    def switch(self, name: str, *, default: bool = False) -> bool:
        return self.read(name, _boolean, str(default).lower())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nodeobs agent",
        description="Profiles this node's kubelet, container runtime and other pprof endpoints when it is asked to.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("-v", "--version", action="version", version=f"nodeobs agent {__version__}")
    for option in (*_OPTIONS, *_UPSTREAM_ONLY):
        names = (f"--{option.name}", *option.aliases)
        destination = option.name.replace("-", "_")
        if option.kind == "list":
            parser.add_argument(*names, dest=destination, metavar=option.metavar, help=option.text, action="append")
        elif option.kind == "switch":
            parser.add_argument(
                *names, dest=destination, metavar=option.metavar, help=option.text, nargs="?", const="true"
            )
        else:
            parser.add_argument(*names, dest=destination, metavar=option.metavar, help=option.text)
    return parser


def _api_server(given: _Given, environ: Mapping[str, str]) -> ApiServerSettings | None:
    method = given.text("auth")
    if method not in (None, "", "tokens", "kubernetes"):
        raise ConfigurationError(f"--auth {method}: must be tokens or kubernetes")
    if method == "tokens" and given.path("tokens-file") is None:
        raise ConfigurationError("--auth tokens: give the file of tokens with --tokens-file")
    if method != "kubernetes":
        return None
    if given.path("tokens-file") is not None:
        raise ConfigurationError("--auth kubernetes: callers are known to the API server; leave --tokens-file out")
    url = (given.text("api-server") or _api_server_of_pod(environ)).rstrip("/")
    if not _is_api_server(url):
        raise ConfigurationError(
            f"--api-server {url!r}: must be https://host:port, or http:// to loopback (callers' tokens are sent there)"
        )
    return ApiServerSettings(
        url=url,
        token_file=given.path("api-server-token-file") or SERVICE_ACCOUNT_TOKEN,
        ca_file=given.path("api-server-ca-file") or SERVICE_ACCOUNT_CA,
    )


def _api_server_of_pod(environ: Mapping[str, str]) -> str:
    host, port = environ.get("KUBERNETES_SERVICE_HOST"), environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConfigurationError(
            "--auth kubernetes: KUBERNETES_SERVICE_HOST is not set, as it is in a pod: "
            "name the API server with --api-server"
        )
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _is_api_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    return safe and bool(host) and parts.username is None and not (parts.path or parts.query or parts.fragment)


def _targets(given: _Given, environ: Mapping[str, str]) -> tuple[TargetSettings, ...]:
    node_ip = environ.get("NODE_IP", "")
    require_ca = given.switch("kubelet-require-ca")
    targets: list[TargetSettings] = []
    kubelet_url = given.text("kubelet-url")
    if kubelet_url is None and node_ip:
        kubelet_url = f"https://[{node_ip}]:10250" if ":" in node_ip else f"https://{node_ip}:10250"
    if kubelet_url:
        token_file = given.path("kubelet-token-file")
        if token_file is None and SERVICE_ACCOUNT_TOKEN.exists():
            token_file = SERVICE_ACCOUNT_TOKEN
        entry = TargetSettings(
            name="kubelet",
            url=kubelet_url,
            token_file=token_file,
            ca_file=given.path("kubelet-ca-file"),
            server_name=given.text("kubelet-server-name") or environ.get("NODE_NAME", ""),
        )
        targets.append(kubelet_target(entry, node_ip=node_ip, require_ca=require_ca))
    for name, default in (("crio", CRIO_SOCKET), ("containerd", CONTAINERD_SOCKET)):
        socket = given.text(f"{name}-socket")
        if socket is None and default.exists():
            socket = str(default)
        if socket:
            entry = TargetSettings(name=name, socket=Path(socket))
            targets.append(named_target(entry, source=f"--{name}-socket"))
    return unique_targets([*targets, *_named_targets(given, node_ip), *_file_targets(given, node_ip)])


def _named_targets(given: _Given, node_ip: str) -> list[TargetSettings]:
    values, source = given.texts("target")
    targets = []
    for value in values:
        name, equals, where = value.partition("=")
        if not equals:
            raise ConfigurationError(f"{source}: {value!r} must be NAME=URL or NAME=unix:/path")
        is_socket = where.startswith("unix:")
        entry = TargetSettings(
            name=name,
            url="" if is_socket else where,
            socket=Path(where.removeprefix("unix:")) if is_socket else None,
        )
        targets.append(named_target(entry, source=source, node_ip=node_ip))
    return targets


def _file_targets(given: _Given, node_ip: str) -> tuple[TargetSettings, ...]:
    path = given.path("config")
    if path is None:
        return ()
    # PyYAML takes near a megabyte that an agent without a configuration file need not hold.
    from nodeobs.yamlfile import load_yaml

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"--config {path}: cannot be read: {error}") from error
    return targets_from_file(load_yaml(text, source=str(path)), source=str(path), node_ip=node_ip)


def _check_upstream(given: _Given) -> None:
    mode = given.text("mode")
    if mode not in (None, "profiling"):
        raise ConfigurationError(f"--mode {mode}: only 'profiling' is supported; this agent runs no scripts")
    if not given.switch("crioPreferUnixSocket", default=True):
        raise ConfigurationError(
            "--crioPreferUnixSocket=false: CRI-O is asked on its socket only; "
            "for another endpoint use --crio-socket '' and --target crio=http://..."
        )


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError(f"{text!r} is not a port number from 0 to 65535")
    return int(text)


def _log_level(text: str) -> str:
    if text.lower() not in LOG_LEVELS:
        raise ValueError(f"{text!r} is not one of {', '.join(LOG_LEVELS)}")
    return text.lower()


def _boolean(text: str) -> bool:
    words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in words:
        raise ValueError(f"{text!r} is not true or false")
    return words[text.lower()]
