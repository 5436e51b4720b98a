"""Which Run does an alert ask for? Pure: rules, alerts and what was answered before go in, a plan comes out."""

from __future__ import annotations

import enum
import hashlib
import ipaddress
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from operator import itemgetter

from nodeobs.errors import InvalidInput
from nodeobs.model import (
    AnsweredAlert,
    AnsweredRecord,
    Metadata,
    NodeObservabilityRef,
    NodeRef,
    Phase,
    ProfileType,
    Run,
    RunSpec,
    RunTrigger,
    TriggerKind,
    TriggerRecord,
    from_builtins,
)
from nodeobs.runs.matchers import Matcher
from nodeobs.runs.notification import Alert

LONGEST_LABEL = 4096
"""Longer label values are refused: what a regular expression costs grows with them."""

_MOST_NODES = 5000
_EPOCH = datetime.fromtimestamp(0, UTC)
_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<host>[^:\[\]]*))(?::\d{1,5})?", re.ASCII)


class Outcome(enum.StrEnum):
    """What became of one alert."""

    CREATED = "created"
    DUPLICATE = "duplicate"
    COOLDOWN = "cooldown"
    RUN_IN_PROGRESS = "run-in-progress"
    RESOLVED = "resolved"
    UNMATCHED = "unmatched"
    REFUSED = "refused"


@dataclass(frozen=True, kw_only=True)
class Trigger:
    """One rule: alerts that meet every matcher start a Run like this."""

    name: str
    matchers: tuple[Matcher, ...]
    node_observability: str
    namespace: str | None = None
    nodes_from: tuple[str, ...] = ()
    profiles: tuple[ProfileType, ...] = (ProfileType.CPU,)
    targets: tuple[str, ...] = ()
    duration_seconds: int = 30
    cooldown: timedelta = timedelta()

    def wants(self, labels: Mapping[str, str]) -> bool:
        """Whether an alert with ``labels`` meets every matcher."""
        return all(matcher.matches(labels) for matcher in self.matchers)


@dataclass(frozen=True)
class Verdict:
    """What becomes of one alert, and why; ``run`` is ``namespace/name`` of the Run that answers it."""

    alert: Alert
    outcome: Outcome
    trigger: str | None = None
    run: str | None = None
    message: str = ""


@dataclass(frozen=True)
class Matched:
    """An alert that a trigger answers, and the node it is about; ``""``: all."""

    alert: Alert
    node: str


@dataclass(frozen=True)
class Assignment:
    """A notification's alerts by the trigger that answers them; the others have their verdict."""

    matched: Sequence[tuple[Trigger, Sequence[Matched]]]
    settled: Sequence[Verdict]


@dataclass(frozen=True)
class History:
    """What one trigger answered before."""

    answered: Mapping[tuple[str, datetime], str] = field(default_factory=dict)
    """The Run by fingerprint and start of the alert."""
    covered: Mapping[str, tuple[datetime, str]] = field(default_factory=dict)
    """When a node was last covered and by which Run; ``""`` stands for all nodes."""
    taken: frozenset[str] = frozenset()
    """The Runs that exist: a new one needs another name."""


@dataclass(frozen=True)
class Plan:
    """The Run to create for one trigger, if any, and what becomes of each alert if it is created."""

    run: Run | None
    verdicts: tuple[Verdict, ...]
    records: tuple[AnsweredRecord, ...] = ()
    """What is to be remembered once the Run exists."""


def assign(rules: Sequence[Trigger], alerts: Iterable[Alert]) -> Assignment:
    """Give each firing alert to the first trigger, in their order, whose matchers it meets."""
    matched: defaultdict[int, list[Matched]] = defaultdict(list)
    settled = []
    for alert in alerts:
        if alert.status == "resolved":
            settled.append(Verdict(alert, Outcome.RESOLVED))
        elif long := next((name for name, value in alert.labels.items() if len(value) > LONGEST_LABEL), None):
            message = f"the label {long[:64]!a} is longer than {LONGEST_LABEL} characters"
            settled.append(Verdict(alert, Outcome.REFUSED, message=message))
        else:
            index = next((index for index, rule in enumerate(rules) if rule.wants(alert.labels)), None)
            if index is None:
                settled.append(Verdict(alert, Outcome.UNMATCHED))
                continue
            try:
                node = _node(rules[index], alert.labels)
            except InvalidInput as error:
                settled.append(Verdict(alert, Outcome.REFUSED, rules[index].name, message=error.detail))
            else:
                matched[index].append(Matched(alert, node))
    return Assignment([(rules[index], group) for index, group in matched.items()], settled)


def recall(trigger: str, *, runs: Iterable[Run], record: TriggerRecord | None) -> History:
    """What ``trigger`` answered, from the Runs there are and the record that outlives them.

    A Run that was rejected answered nothing. One that failed or was cancelled did: trying again at once would meet
    the same failure, and undo what a person decided.
    """
    answered: dict[tuple[str, datetime], str] = {}
    covered: dict[str, tuple[datetime, str]] = {}

    def cover(nodes: Iterable[str], at: datetime, run: str) -> None:
        for node in nodes or ("",):
            if node not in covered or covered[node][0] < at:
                covered[node] = (at, run)

    rejected, taken = set(), set()
    for run in runs:
        taken.add(run.key)
        origin = run.spec.trigger
        if origin is None or origin.kind is not TriggerKind.ALERT or origin.name != trigger:
            continue
        if run.status.phase is Phase.REJECTED:
            rejected.add(run.key)
            continue
        answered.update(((alert.fingerprint, alert.starts_at), run.key) for alert in origin.alerts)
        cover(run.spec.nodes, run.metadata.creation_timestamp or _EPOCH, run.key)
    for entry in record.answered if record else ():
        if entry.run not in rejected:
            answered.setdefault((entry.fingerprint, entry.starts_at), entry.run)
            cover(entry.nodes, entry.answered_at, entry.run)
    return History(answered, covered, frozenset(taken))


def plan(
    trigger: Trigger,
    alerts: Sequence[Matched],
    *,
    group_key: str,
    history: History,
    now: datetime,
    default_namespace: str,
) -> Plan:
    """One Run over the nodes of the alerts that were not answered yet, and what becomes of each alert."""
    verdicts = [_known(trigger, matched, history, now) for matched in alerts]
    new: dict[tuple[str, datetime], Matched] = {}
    for matched, verdict in zip(alerts, verdicts, strict=True):
        if verdict is None:
            new.setdefault((matched.alert.fingerprint, matched.alert.starts_at), matched)
    if not new:
        return Plan(None, tuple(verdict for verdict in verdicts if verdict is not None))
    run = _run(trigger, list(new.values()), group_key, trigger.namespace or default_namespace, history.taken)
    for index, (matched, verdict) in enumerate(zip(alerts, verdicts, strict=True)):
        if verdict is None:
            first = new[matched.alert.fingerprint, matched.alert.starts_at] is matched
            outcome = Outcome.CREATED if first else Outcome.DUPLICATE
            verdicts[index] = Verdict(matched.alert, outcome, trigger.name, run.key)
    records = [
        AnsweredRecord(
            fingerprint=fingerprint,
            starts_at=starts_at,
            run=run.key,
            answered_at=now,
            nodes=(matched.node,) if matched.node else (),
        )
        for (fingerprint, starts_at), matched in new.items()
    ]
    return Plan(run, tuple(verdict for verdict in verdicts if verdict is not None), tuple(records))


def _known(trigger: Trigger, matched: Matched, history: History, now: datetime) -> Verdict | None:
    """The verdict on an alert that needs no new Run."""
    alert = matched.alert
    run = history.answered.get((alert.fingerprint, alert.starts_at))
    if run is not None:
        return Verdict(alert, Outcome.DUPLICATE, trigger.name, run, "this alert was answered by that Run")
    never = (_EPOCH, None)
    at, run = max(history.covered.get(matched.node, never), history.covered.get("", never), key=itemgetter(0))
    left = at + trigger.cooldown - now
    if left > timedelta():
        message = f"that Run covered the same; cooling down for another {int(left.total_seconds())} s"
        return Verdict(alert, Outcome.COOLDOWN, trigger.name, run, message)
    return None


def _run(trigger: Trigger, new: Sequence[Matched], group_key: str, namespace: str, taken: frozenset[str]) -> Run:
    nodes = sorted({matched.node for matched in new})
    if "" in nodes or len(nodes) > _MOST_NODES:
        nodes = []
    answered = (AnsweredAlert(fingerprint=m.alert.fingerprint, starts_at=m.alert.starts_at) for m in new)
    earliest = min(matched.alert.starts_at for matched in new)
    return Run(
        metadata=Metadata(name=_name(trigger, group_key, earliest, namespace, taken), namespace=namespace),
        spec=RunSpec(
            node_observability_ref=NodeObservabilityRef(name=trigger.node_observability),
            profiles=trigger.profiles,
            targets=trigger.targets,
            duration_seconds=trigger.duration_seconds,
            nodes=tuple(nodes),
            trigger=RunTrigger(kind=TriggerKind.ALERT, name=trigger.name, alerts=tuple(answered)),
        ),
    )


def _name(trigger: Trigger, group_key: str, earliest: datetime, namespace: str, taken: frozenset[str]) -> str:
    """The same for every replica that is told the same, so that they cannot create two.

    A later alert of the group may have begun at the same instant: where the name is taken, the next one is used.
    """
    microseconds = (earliest - _EPOCH) // timedelta(microseconds=1)
    told = [trigger.name, trigger.node_observability, group_key, str(microseconds)]
    for attempt in count():
        parts = [*told, str(attempt)] if attempt else told
        digest = hashlib.sha256("".join(f"{len(part)}:{part}" for part in parts).encode()).hexdigest()[:10]
        name = f"{trigger.name[:50].rstrip('-.')}-{digest}"
        if f"{namespace}/{name}" not in taken:
            break
    return name


def _node(trigger: Trigger, labels: Mapping[str, str]) -> str:
    """The node that the first of the labels names; ``""`` where the alert has none of them.

    Raises:
        InvalidInput: it has some, but none names a node.
    """
    named = [(label, labels[label]) for label in trigger.nodes_from if labels.get(label)]
    for _, value in named:
        try:
            return str(from_builtins(_host(value), NodeRef))
        except InvalidInput:
            continue
    if named:
        label, value = named[0]
        raise InvalidInput(f"the label {label!a}, {value[:64]!a}, names no node, nor does any other of nodesFrom")
    return ""


def _host(value: str) -> str:
    """Host of ``host``, ``host:port`` or ``[v6 address]:port``; whether a node can be called so is not checked."""
    found = _HOST_AND_PORT.fullmatch(value)
    try:
        return str(ipaddress.ip_address((found and found["v6"]) or value))
    except ValueError:
        return ((found and found["host"]) or "").lower()
