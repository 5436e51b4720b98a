"""Every setting of the service, documented where it is defined.

A setting comes from the environment (``NODEOBS_`` and its name in capitals) or from the YAML file that
``NODEOBS_CONFIG`` names; the environment wins. The agent has settings of its own and reads none of these.
"""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from nodeobs.errors import ConfigurationError
from nodeobs.model import DnsName, Labels, NamespaceName, NodeName, TargetName
from nodeobs.setting_kinds import (
    Address,
    Allowed,
    DefaultIs,
    Duration,
    File,
    Folder,
    LeadsToSecret,
    Location,
    Names,
    Namespace,
    Size,
    Words,
    allowed_of,
    is_loopback,
    modelled,
    split_address,
)
from nodeobs.yamlfile import load_yaml, unknown_key

PREFIX = "NODEOBS_"

_NOT_OURS = re.compile(
    # The agent's settings and the client's, which may share an environment with the service.
    r"NODEOBS_(AGENT_\w+|SERVER|TOKEN_FILE|CA_FILE|CONFIG)"
    # What Kubernetes adds to every container for a Service whose name begins with "nodeobs".
    r"|NODEOBS_(\w+_)?(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)"
)


_OF_OTHERS_AGENTS = {"agent_tls", "agent_ca_file", "agent_server_name", "agent_service"}


class AgentAddress(BaseModel):
    """One node's agent in the static list."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Annotated[str, modelled(NodeName)]
    address: Address
    labels: Annotated[dict[str, str], modelled(Labels)] = {}
    targets: tuple[Annotated[str, modelled(TargetName)], ...] = ()

    @property
    def host(self) -> str:
        """Host name or IP address, without brackets."""
        return split_address(self.address)[0]

    @property
    def port(self) -> int:
        """Port of the agent."""
        return split_address(self.address)[1]


class Settings(BaseSettings):
    """What the service was told. Made by :meth:`load`; tests may construct it directly."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
    )

    mode: Literal["standalone", "kubernetes"] = "standalone"
    """`kubernetes`: Runs are custom resources, agents are found by their Service, callers are authenticated by the API
    server. `standalone`: all of that is in `data_dir` and in these settings."""

    kubeconfig: File | None = None
    """How to reach the API server in mode `kubernetes`. Without it, that of `KUBECONFIG`, or
    the pod's service account."""

    service_name: Annotated[str, modelled(NamespaceName)] = "nodeobs"
    """Name of the Service in front of this one, in `namespace`: the API server calls the webhooks there, and the
    certificate is made for it."""

    webhook_configuration: Annotated[str, modelled(DnsName)] = "nodeobs"
    """Name of the ValidatingWebhookConfiguration. Its `caBundle` and that of the custom resources' conversion are kept
    right, unless `tls_cert_file` is set: then somebody else does."""

    bind: Address = "127.0.0.1:8080"
    """Where the service listens. Without `tokens_file` only a loopback address is accepted. Where it is not set but
    `PORT` is (as platforms with a Procfile do), `0.0.0.0:$PORT`."""

    tls_cert_file: File | None = None
    """Certificate chain (PEM) to serve HTTPS with; needs `tls_key_file`. A rotated file is picked up."""

    tls_key_file: Annotated[File | None, LeadsToSecret()] = None
    """Private key (PEM) of `tls_cert_file`."""

    tokens_file: Annotated[File | None, LeadsToSecret()] = None
    """Who may call: bearer tokens with their users and roles. Without it, loopback callers may do everything."""

    data_dir: Annotated[
        Folder, DefaultIs("`/var/lib/nodeobs` for root, else `$XDG_STATE_HOME/nodeobs` or `~/.local/state/nodeobs`")
    ]
    """Where the database is kept, and outputs by default. A local disk: not NFS."""

    output: Annotated[Location, DefaultIs("`outputs` in `data_dir`")] = Field(
        default_factory=lambda known: str(known["data_dir"] / "outputs")
    )
    """Where profiles are kept."""

    retention_max_age: Duration = Field(default="30d", validate_default=True)
    """Outputs older than this are deleted; the newest complete one of each NodeObservability is always kept."""

    retention_max_count: Annotated[int, Field(ge=1), Allowed("1 or more")] = 500
    """So many outputs are kept."""

    retention_max_bytes: Annotated[Size, Field(ge=1), Allowed("size such as `500MB` or `20GiB`")] = Field(
        default="20GiB", validate_default=True
    )
    """Outputs together may have this size; the oldest are deleted beyond it."""

    run_history: Annotated[int, Field(ge=1, le=10_000), Allowed("1 to 10000")] = 100
    """So many finished Runs of each NodeObservability are kept."""

    run_grace_seconds: Annotated[int, Field(ge=1, le=3600), Allowed("1 to 3600")] = 60
    """Time for starting agents and fetching profiles: a Run's deadline is its duration and this."""

    triggers_file: File | None = None
    """Rules that say which alerts start which Runs (YAML); read again when it changes. Without it, none do."""

    namespace: Namespace = "nodeobs"
    """Where Runs are created that name no namespace."""

    agents: Annotated[
        tuple[AgentAddress, ...],
        Allowed(
            "list of `{name, address: host:port, labels: {…}, targets: […]}`, the last two optional; "
            "as JSON in the environment"
        ),
        DefaultIs("none"),
    ] = ()
    """The nodes' agents. A name is the node's and occurs once. No `targets`: all that the agent offers."""

    agent_tls: bool = False
    """Whether agents are called by HTTPS."""

    agent_ca_file: File | None = None
    """Authority (PEM) that signed the agents' certificates; needs `agent_tls`. Without it, the system's."""

    agent_namespace: Annotated[Namespace | None, DefaultIs("`namespace` and `-agents`")] = None
    """Namespace of the agents' Service and pods in mode `kubernetes`."""

    agent_service: Annotated[str, modelled(NamespaceName)] = "node-observability-agent"
    """The agents' Service in mode `kubernetes`: each endpoint that has a node's name is that node's agent."""

    agent_image: Annotated[str, Field(min_length=1, max_length=1024), Allowed("name of an image")] | None = None
    """The image of this service, in mode `kubernetes`: the leader makes the agents of every NodeObservability from it,
    with their certificates. Without it they are somebody else's to make, behind `agent_service`."""

    agent_image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    """When a node fetches `agent_image`."""

    agent_image_pull_secrets: Annotated[Names, DefaultIs("none")] = ()
    """Secrets in `agent_namespace` that `agent_image` is fetched with."""

    agent_socket_folders: Annotated[
        Words,
        Allowed("list of folders; as JSON in the environment"),
        DefaultIs("`/run/containerd` and `/run/crio`"),
    ] = ("/run/containerd", "/run/crio")
    """Folders of nodes whose sockets the targets of a NodeObservability may name: exactly these, not what is below.
    Whoever may speak to a container runtime's socket is root on that node."""

    agent_url_hosts: Annotated[
        Words, Allowed("list of hosts; as JSON in the environment"), DefaultIs("`$(NODE_IP)`: the node itself")
    ] = ("$(NODE_IP)",)
    """Hosts that the URLs of a NodeObservability's targets may name."""

    agent_host_network: bool = False
    """Whether agents may have their node's network, which targets at the node's loopback need."""

    agent_storage_limit: Annotated[Size, Field(ge=1 << 20), Allowed("size such as `512MiB`")] = Field(
        default="512MiB", validate_default=True
    )
    """Profiles that each agent keeps until they are fetched."""

    kubelet_ca_file: File | None = None
    """Authority (PEM) of the kubelets' certificates, given to the agents. Without it each agent accepts any, at its own
    node's address only; on OpenShift the cluster's own is used."""

    openshift: bool = False
    """Whether the cluster is OpenShift: its kubelets' authority is followed, agents with a socket get the SELinux type
    `spc_t`, and NodeObservabilityMachineConfigs are acted upon."""

    agent_server_name: Annotated[str, Allowed("name in a certificate")] | None = None
    """Name that the agents' certificates carry, where it is not the address that they are called at."""

    agent_token_file: Annotated[File | None, LeadsToSecret()] = None
    """Bearer token that agents are called with; read again as it rotates."""

    max_body_bytes: Annotated[Size, Field(ge=65_536, le=67_108_864), Allowed("size from `64KiB` to `64MiB`")] = Field(
        default="8MiB", validate_default=True
    )
    """Requests with larger bodies are refused with 413."""

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value),
    ] = "info"
    """The least important message that is logged."""

    log_format: Literal["console", "json"] = "console"
    """Lines for people, or JSON for a log collector."""

    @classmethod
    def load(cls, environ: Mapping[str, str]) -> Settings:
        """Settings from the environment and the file that it names.

        Raises:
            ConfigurationError: names each wrong setting, its value (never a secret) and what is allowed.
        """
        ours = {name: text for name, text in environ.items() if name.startswith(PREFIX) and text}
        config = ours.get(PREFIX + "CONFIG")
        from_file = _read_file(Path(config)) if config else {}
        values = from_file | _read_environment(ours)
        origins = {key: f"key {key} in {config}" for key in from_file}
        origins |= {key: f"environment variable {PREFIX}{key.upper()}" for key in _names_in(ours)}
        if "bind" not in values and environ.get("PORT"):
            values["bind"] = f"0.0.0.0:{environ['PORT']}"
            origins["bind"] = "environment variable PORT"
        values.setdefault("data_dir", default_data_dir(environ, user_id=os.geteuid()))
        try:
            return cls(**values)
        except ValidationError as error:
            wrong = [details for details in error.errors() if details["type"] != "default_factory_not_called"]
            lines = [_explain(details, origins) for details in wrong]
            raise ConfigurationError("\n".join(lines)) from None  # the cause would print values that may be secret

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the base class's
        init_settings: PydanticBaseSettingsSource,
        *_: PydanticBaseSettingsSource,
        **__: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take nothing from the process's environment by itself: :meth:`load` is given one."""
        return (init_settings,)

    @property
    def bind_host(self) -> str:
        """Host part of ``bind``, without brackets."""
        return split_address(self.bind)[0]

    @property
    def bind_port(self) -> int:
        """Port of ``bind``; 0 lets the system choose."""
        return split_address(self.bind)[1]

    @model_validator(mode="after")
    def _check_together(self) -> Settings:
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_cert_file and tls_key_file belong together: set both, or neither")
        if self.tokens_file is None and self.mode == "standalone" and not is_loopback(self.bind_host):
            raise ValueError(
                f"bind is {self.bind!r}, which other machines can reach, but there is no tokens_file: "
                f"set {PREFIX}TOKENS_FILE to a file of tokens, or {PREFIX}BIND to 127.0.0.1:{self.bind_port}"
            )
        if self.agent_ca_file is not None and not self.agent_tls:
            raise ValueError(f"agent_ca_file has no effect without agent_tls: set {PREFIX}AGENT_TLS to true")
        if self.agent_token_file is not None and not self.agent_tls:
            for agent in self.agents:
                if not is_loopback(agent.host):
                    raise ValueError(
                        f"agent_token_file would be sent to {agent.address} for all to read: "
                        f"set {PREFIX}AGENT_TLS to true"
                    )
        counts = Counter(agent.name for agent in self.agents)
        if twice := sorted(name for name, count in counts.items() if count > 1):
            raise ValueError(f"agents lists {twice[0]!r} more than once; each node has one agent")
        if self.mode == "kubernetes":
            self._check_kubernetes()
        elif self.agent_image is not None:
            raise ValueError("agent_image has no effect in mode standalone: start the agents yourself and list them")
        return self

    @property
    def agents_at(self) -> str:
        """The namespace of the agents, in mode ``kubernetes``."""
        return self.agent_namespace or f"{self.namespace}-agents"

    def _check_kubernetes(self) -> None:
        if self.tokens_file is not None:
            raise ValueError("tokens_file has no effect in mode kubernetes: the API server authenticates callers")
        if self.agents:
            raise ValueError("agents has no effect in mode kubernetes: they are found by agent_service")
        if self.agent_image is not None:
            if given := sorted(self.model_fields_set & _OF_OTHERS_AGENTS):
                raise ValueError(f"{given[0]} has no effect with agent_image: the agents are made with all of that")
            if self.agent_namespace == self.namespace:
                raise ValueError(
                    "agent_namespace must be another than namespace: agents may need a node's socket, and the "
                    "service's namespace forbids that to every pod"
                )
        elif self.agent_token_file is not None and not self.agent_tls:
            raise ValueError(
                f"agent_token_file would cross the cluster's network for all to read: set {PREFIX}AGENT_TLS to true"
            )


def default_data_dir(environ: Mapping[str, str], *, user_id: int) -> Path:
    """Where a service of that user keeps its data when it is not told (XDG Base Directory Specification)."""
    if user_id == 0:
        return Path("/var/lib/nodeobs")
    home = environ.get("HOME") or "~"
    state = environ.get("XDG_STATE_HOME", "")
    # The specification says that a relative path there is to be ignored.
    return (Path(state) if state.startswith("/") else Path(home) / ".local/state") / "nodeobs"


def _names_in(ours: Mapping[str, str]) -> list[str]:
    return [name for name in Settings.model_fields if PREFIX + name.upper() in ours]


def _read_environment(ours: Mapping[str, str]) -> dict[str, Any]:
    known = {name.upper() for name in Settings.model_fields}
    for name in sorted(set(ours) - {PREFIX + word for word in known}):
        if not _NOT_OURS.fullmatch(name):
            guess = difflib.get_close_matches(name.removeprefix(PREFIX), known, n=1)
            hint = f"did you mean {PREFIX}{guess[0]}?" if guess else "docs/configuration.md lists all that are known"
            raise ConfigurationError(f"unknown environment variable {name}: {hint}")
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): text for name, text in ours.items()}
    try:
        return source()
    except SettingsError as error:
        named = re.search(r'"(\w+)"', str(error))
        which = f"{PREFIX}{named[1].upper()}" if named else "with a list"
        raise ConfigurationError(f"environment variable {which} is not JSON: {error.__cause__}") from error


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{PREFIX}CONFIG: cannot read {path}: {error}") from error
    values = load_yaml(text, source=str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"{path}: must be a mapping of settings to values, not a {type(values).__name__}")
    for key in values:
        if key not in Settings.model_fields:
            raise ConfigurationError(f"{path}: {unknown_key(key, list(Settings.model_fields))}")
    return {key: value for key, value in values.items() if value is not None}


def _explain(details: ErrorDetails, origins: Mapping[str, str]) -> str:
    reason = details["msg"].removeprefix("Value error, ")
    if not details["loc"]:
        return reason
    name = str(details["loc"][0])
    field = Settings.model_fields[name]
    where = f"setting {'.'.join(str(step) for step in details['loc'])} ({origins.get(name, 'given directly')})"
    if details["type"] == "missing":
        return f"{where}: is missing; allowed: {allowed_of(field)}"
    if details["type"] == "extra_forbidden":
        return f"{where}: {unknown_key(details['loc'][-1], list(AgentAddress.model_fields))}"
    return f"{where}: {_shown(details['input'], field)} cannot be used: {reason}; allowed: {allowed_of(field)}"


def _shown(value: object, field: FieldInfo) -> str:
    secret = any(isinstance(mark, LeadsToSecret) for mark in field.metadata)
    if secret and not (isinstance(value, str) and value.startswith(("/", "./", "../", "~/"))):
        return "the value (not shown, it may hold a secret)"
    return repr(value)[:200]
