"""What the agent may profile, checked: URLs and sockets from its own configuration, never from a request."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from nodeobs.errors import ConfigurationError, InvalidInput
from nodeobs.model import TargetName, from_builtins

PPROF_PATH = "/debug/pprof"


@dataclass(frozen=True, kw_only=True, slots=True)
class TargetSettings:
    """One pprof endpoint: a URL, or a unix socket with an HTTP server behind it."""

    name: str
    url: str = ""
    """Without a trailing slash; its path ends in ``/debug/pprof``."""
    socket: Path | None = None
    token_file: Path | None = None
    ca_file: Path | None = None
    server_name: str = ""
    """Name that the certificate must carry; empty: the URL's host."""
    any_certificate: bool = False
    """Only ever for the node's own address (see :func:`kubelet_target`)."""

    @property
    def endpoint(self) -> str:
        """Where it is asked, as it is shown to people."""
        return f"unix:{self.socket}" if self.socket else self.url.removesuffix(PPROF_PATH)


def is_loopback(host: str) -> bool:
    """Whether ``host`` (a name or an address) is this machine's loopback."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def named_target(entry: TargetSettings, *, source: str, node_ip: str = "") -> TargetSettings:
    """``entry`` with its URL in its final form.

    Raises:
        ConfigurationError: a name, URL or socket that cannot be used; ``source`` is named in the message.
    """
    where = f"{source}: target {entry.name!r}"
    try:
        from_builtins(entry.name, TargetName)
    except InvalidInput as error:
        raise ConfigurationError(f"{where}: a name is made of lower-case letters, digits and '-'") from error
    if (entry.socket is None) == (not entry.url):
        raise ConfigurationError(f"{where}: give either a URL or a socket")
    if entry.socket is not None:
        if not entry.socket.is_absolute() or len(str(entry.socket)) > 107:
            raise ConfigurationError(
                f"{where}: socket {entry.socket} must be an absolute path of at most 107 characters"
            )
        return entry
    url = _pprof_url(entry.url.replace("$(NODE_IP)", node_ip), where=where)
    parts = urlsplit(url)
    if entry.token_file is not None and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigurationError(f"{where}: a token is only sent over https or to loopback, and the URL is {url}")
    return replace(entry, url=url)


def kubelet_target(entry: TargetSettings, *, node_ip: str, require_ca: bool) -> TargetSettings:
    """The kubelet's target: without a CA any certificate is accepted, but of the node's own address only.

    Raises:
        ConfigurationError: the CA is missing where it is needed.
    """
    checked = named_target(entry, source="--kubelet-url", node_ip=node_ip)
    if checked.ca_file is not None or checked.url.startswith("http://"):
        return checked
    host = urlsplit(checked.url).hostname or ""
    if require_ca:
        raise ConfigurationError("--kubelet-require-ca is set, so --kubelet-ca-file must be given")
    if not (is_loopback(host) or _same_address(host, node_ip)):
        raise ConfigurationError(
            f"--kubelet-url {checked.url}: {host} is not this node's own address (NODE_IP is {node_ip!r}), "
            "so its certificate must be verified: give --kubelet-ca-file"
        )
    return replace(checked, any_certificate=True)


class TargetEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """One target as the configuration file writes it."""

    name: str
    url: str = ""
    socket: str = ""
    token_file: str = ""
    ca_file: str = ""
    server_name: str = ""


class TargetFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The configuration file: ``targets`` and nothing else."""

    targets: tuple[TargetEntry, ...] = ()


def targets_from_file(document: object, *, source: str, node_ip: str) -> tuple[TargetSettings, ...]:
    """Targets that a configuration file (already parsed) lists.

    Raises:
        ConfigurationError: an unknown key or a wrong value; says where.
    """
    try:
        entries = from_builtins(document if document is not None else {}, TargetFile).targets
    except InvalidInput as error:
        raise ConfigurationError(f"{source}: {error}") from error
    return tuple(
        named_target(
            TargetSettings(
                name=entry.name,
                url=entry.url,
                socket=Path(entry.socket) if entry.socket else None,
                token_file=Path(entry.token_file) if entry.token_file else None,
                ca_file=Path(entry.ca_file) if entry.ca_file else None,
                server_name=entry.server_name,
            ),
            source=source,
            node_ip=node_ip,
        )
        for entry in entries
    )


def unique_targets(targets: Iterable[TargetSettings]) -> tuple[TargetSettings, ...]:
    """The targets as a tuple.

    Raises:
        ConfigurationError: two of them have one name.
    """
    by_name: dict[str, TargetSettings] = {}
    for target in targets:
        if target.name in by_name:
            raise ConfigurationError(f"target {target.name!r} is given twice: each name may be used once")
        by_name[target.name] = target
    return tuple(by_name.values())


def _same_address(host: str, node_ip: str) -> bool:
    try:
        return ipaddress.ip_address(host) == ipaddress.ip_address(node_ip)
    except ValueError:
        return False


def _pprof_url(text: str, *, where: str) -> str:
    if "@" in text:
        raise ConfigurationError(
            f"{where}: the URL (not shown, it may hold a password) must be without user and password, so without '@'; "
            "a token is given by tokenFile in --config"
        )
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError as error:
        raise ConfigurationError(f"{where}: {text!r} is not a URL: {error}") from error
    if not usable or parts.query or parts.fragment or not text.isascii() or not text.isprintable():
        raise ConfigurationError(
            f"{where}: {text!r} must look like https://host:port or http://host:port/prefix{PPROF_PATH}, "
            "without query or fragment"
        )
    path = parts.path.rstrip("/") or PPROF_PATH
    if not path.endswith(PPROF_PATH) or " " in path or "/../" in path:
        raise ConfigurationError(f"{where}: the path of {text!r} must be empty or end in {PPROF_PATH}")
    return f"{parts.scheme}://{parts.netloc}{path}"
