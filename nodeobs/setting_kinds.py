"""The kinds of values that settings have: how each is read, and which are allowed."""

from __future__ import annotations

import ipaddress
import re
import stat
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, get_args
from urllib.parse import urlsplit

from msgspec import Meta
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

from nodeobs.errors import InvalidInput
from nodeobs.model import DnsName, NamespaceName, from_builtins
from nodeobs.units import parse_duration, parse_size


@dataclass(frozen=True)
class Allowed:
    """Which values a setting takes, for messages and the reference."""

    text: str


@dataclass(frozen=True)
class DefaultIs:
    """The default in words, where it depends on something."""

    text: str


@dataclass(frozen=True)
class LeadsToSecret:
    """A value that is not clearly a path, or is a URL, may hold a secret: it is not shown."""


def modelled(kind: Any) -> AfterValidator:
    """Check against a type of the model, so that a setting and a document agree on what a name is."""
    described = [mark.description for mark in get_args(kind)[1:] if isinstance(mark, Meta) and mark.description]

    def check(value: Any) -> Any:
        try:
            return from_builtins(value, kind)
        except InvalidInput as error:
            raise ValueError(f"must be: {described[0].rstrip('.')}" if described else error.detail) from error

    return AfterValidator(check)


def allowed_of(field: FieldInfo) -> str:
    """Which values a setting takes, in words."""
    inner = [mark for option in get_args(field.annotation) for mark in getattr(option, "__metadata__", ())]
    for mark in [*reversed(field.metadata), *inner]:
        if isinstance(mark, Allowed):
            return mark.text
    if field.annotation is bool:
        return "`true` or `false`"
    return " or ".join(f"`{word}`" for word in get_args(field.annotation))


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``host:port`` or ``[v6 address]:port``.

    Raises:
        ValueError: not such an address.
    """
    found = re.fullmatch(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})", text)
    if found is None or int(found["port"]) > 65535:
        raise ValueError("not host:port with a port from 0 to 65535")
    if found["v6"]:
        return str(ipaddress.IPv6Address(found["v6"])), int(found["port"])
    return found["host"], int(found["port"])


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach ``host``."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _address(text: str) -> str:
    split_address(text)
    return text


def _duration(value: object) -> timedelta:
    parsed = value if isinstance(value, timedelta) else parse_duration(str(value))
    if parsed <= timedelta():
        raise ValueError("must be longer than 0")
    return parsed


def _size(value: object) -> int:
    return parse_size(str(value))


def _absolute(path: Path) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError as error:
        raise ValueError("this user has no home folder: give the whole path") from error


def _readable(path: Path) -> Path:
    path = _absolute(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError("not a file")
        path.open("rb").close()
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    return path


def _location(text: str) -> str:
    if "://" not in text:
        return str(_absolute(Path(text)))
    url = urlsplit(text)
    if url.username or url.password or url.query or url.fragment:
        raise ValueError("credentials and options come from the cloud's own environment variables, never from the URL")
    if url.scheme not in ("s3", "gs", "az"):
        raise ValueError("not a kind of store that is known")
    if not url.netloc:
        raise ValueError("the bucket's name is missing")
    return text


Address = Annotated[str, AfterValidator(_address), Allowed("`host:port` or `[v6 address]:port`")]
File = Annotated[Path, AfterValidator(_readable), Allowed("path of a readable file")]
Folder = Annotated[Path, AfterValidator(_absolute), Allowed("path of a folder")]
Location = Annotated[
    str, AfterValidator(_location), LeadsToSecret(), Allowed("path of a folder, or `s3://…`, `gs://…`, `az://…`")
]
Duration = Annotated[timedelta, BeforeValidator(_duration), Allowed("duration such as `12h` or `30d`")]
Size = Annotated[int, BeforeValidator(_size)]
Namespace = Annotated[str, modelled(NamespaceName), Allowed("name of lower-case letters, digits and `-`")]
Names = Annotated[tuple[Annotated[str, modelled(DnsName)], ...], Allowed("list of names; as JSON in the environment")]
Words = tuple[Annotated[str, Field(min_length=1)], ...]
