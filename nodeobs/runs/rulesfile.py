"""The file of trigger rules: read, checked, and read again when it changes."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import structlog
from msgspec import Meta

from nodeobs.errors import ConfigurationError, InvalidInput
from nodeobs.metrics import Metrics
from nodeobs.model import DnsName, Document, DurationSeconds, NamespaceName, ProfileType, TargetName, from_builtins
from nodeobs.runs.matchers import Matcher, parse_matchers
from nodeobs.runs.triggers import Trigger
from nodeobs.units import parse_duration
from nodeobs.yamlfile import load_yaml, unknown_key

log = structlog.get_logger(__name__)

_LARGEST = 2**20


class _Rule(Document, frozen=True, kw_only=True):
    """One trigger as the file has it."""

    name: DnsName
    matchers: Annotated[tuple[str, ...], Meta(min_length=1, max_length=64)]
    node_observability: DnsName
    namespace: NamespaceName | None = None
    nodes_from: Annotated[tuple[str, ...], Meta(max_length=16)] = ()
    profiles: Annotated[tuple[ProfileType, ...], Meta(min_length=1, max_length=8)] = (ProfileType.CPU,)
    targets: Annotated[tuple[TargetName, ...], Meta(max_length=64)] = ()
    duration_seconds: DurationSeconds = 30
    cooldown: str | int = "30m"


_ALLOWED = {
    "name": "lower-case letters, digits, '-' and '.'",
    "matchers": 'a list with at least one matcher, such as alertname=~"Kubelet.*"',
    "nodeObservability": "the name of a NodeObservability",
    "namespace": "lower-case letters, digits and '-'",
    "nodesFrom": "a list of label names",
    "profiles": f"a list of {', '.join(ProfileType)}",
    "targets": "a list of the NodeObservability's targets",
    "durationSeconds": "a whole number from 1 to 3600",
    "cooldown": "a duration such as 90s, 30m or 1h30m; 0 for none",
}


def load_rules(text: str, *, source: str) -> tuple[Trigger, ...]:
    """Rules from YAML, in their order; ``source`` is the file's name for messages.

    Raises:
        ConfigurationError: says which trigger, key and value are wrong, and what is allowed.
    """
    document = load_yaml(text, source=source)
    if document is None:
        return ()
    if not isinstance(document, dict) or not isinstance(document.get("triggers"), list | None):
        raise ConfigurationError(f"{source}: must be a mapping with the key 'triggers' and a list under it")
    for key in document:
        if key != "triggers":
            raise ConfigurationError(f"{source}: {unknown_key(key, ['triggers'])}")
    rules: dict[str, Trigger] = {}
    for index, entry in enumerate(document.get("triggers") or []):
        rule = _load_rule(entry, f"{source}: triggers[{index}]")
        if rule.name in rules:
            raise ConfigurationError(f"{source}: triggers[{index}]: name: {rule.name!r} is given twice")
        rules[rule.name] = rule
    return tuple(rules.values())


def _load_rule(entry: Any, where: str) -> Trigger:
    if not isinstance(entry, dict):
        raise ConfigurationError(f"{where}: must be a mapping with the keys {', '.join(_ALLOWED)}")
    if isinstance(entry.get("name"), str):
        where = f"{where} ({entry['name'][:64]!a})"
    for key in entry:
        if key not in _ALLOWED:
            raise ConfigurationError(f"{where}: {unknown_key(key, list(_ALLOWED))}")
    for key in ("name", "matchers", "nodeObservability"):
        if entry.get(key) is None:
            raise ConfigurationError(f"{where}: {key}: is missing; allowed: {_ALLOWED[key]}")
    try:
        rule = from_builtins({key: value for key, value in entry.items() if value is not None}, _Rule)
    except InvalidInput as error:
        key = error.pointer.split("/")[1]
        raise _wrong(where, key, entry[key], error.detail) from error
    return Trigger(
        name=rule.name,
        matchers=tuple(matcher for text in rule.matchers for matcher in _parse_matchers(text, where)),
        node_observability=rule.node_observability,
        namespace=rule.namespace,
        nodes_from=rule.nodes_from,
        profiles=rule.profiles,
        targets=rule.targets,
        duration_seconds=rule.duration_seconds,
        cooldown=_parse_cooldown(str(rule.cooldown), where),
    )


def _parse_matchers(text: str, where: str) -> tuple[Matcher, ...]:
    try:
        return parse_matchers(text)
    except ValueError as error:
        raise _wrong(where, "matchers", text, str(error)) from error


def _parse_cooldown(text: str, where: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise _wrong(where, "cooldown", text, str(error)) from error


def _wrong(where: str, key: str, value: object, reason: str) -> ConfigurationError:
    shown = repr(value)[:200]
    return ConfigurationError(f"{where}: {key}: {shown} cannot be used: {reason}; allowed: {_ALLOWED[key]}")


class RulesFile:
    """The rules of a file, always those that it holds now; none where there is no file. Safe to use from many threads.

    A file that has become wrong leaves the last good rules in use; the log says so, and the gauge.

    Raises:
        ConfigurationError: the file is wrong from the beginning.
    """

    def __init__(self, path: Path | None, *, metrics: Metrics) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._seen = self._look()
        self._rules = self._read()
        self._good = True
        # Asked at each scrape, so that a broken file is seen before the next alert comes.
        metrics.triggers_reload_success.set_function(self._is_good)

    def current(self) -> tuple[Trigger, ...]:
        """The rules, in their order."""
        with self._lock:
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._reload()
            return self._rules

    def _reload(self) -> None:
        try:
            self._rules = self._read()
        except ConfigurationError as error:
            self._good = False
            log.error(  # noqa: TRY400 - a person's mistake, not a bug
                "the trigger rules cannot be used; the last good ones stay in use",
                file=str(self._path),
                error=str(error),
                rules=len(self._rules),
            )
        else:
            self._good = True
            log.info("trigger rules read", file=str(self._path), rules=len(self._rules))

    def _is_good(self) -> float:
        self.current()
        return float(self._good)

    def _look(self) -> tuple[int, int, int] | None:
        """What changes when the file does; a mounted ConfigMap is replaced, so its inode counts."""
        if self._path is None:
            return None
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_ino, status.st_size

    def _read(self) -> tuple[Trigger, ...]:
        if self._path is None:
            return ()
        try:
            with self._path.open("rb") as file:
                content = file.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise ConfigurationError(f"the trigger rules {self._path} are larger than 1 MiB")
            text = content.decode()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"cannot read the trigger rules {self._path}: {error}") from error
        return load_rules(text, source=str(self._path))
