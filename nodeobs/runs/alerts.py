"""A notification becomes Runs in the store, and an answer that tells what became of each alert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial

import structlog

from nodeobs.errors import (
    AlreadyExists,
    Conflict,
    InvalidInput,
    NotFound,
    Refused,
    RunInProgress,
    StoreError,
    StoreUnavailable,
    Unreadable,
)
from nodeobs.metrics import Metrics
from nodeobs.model import AnsweredRecord, Document, Metadata, Phase, Run, TriggerKind, TriggerRecord, replace
from nodeobs.runs.notification import Alert, Notification
from nodeobs.runs.triggers import Outcome, Plan, Trigger, Verdict, assign, plan, recall
from nodeobs.store.base import Admit, Store

log = structlog.get_logger(__name__)

_REMEMBERED = 1000
_TRIES = 5


class AlertAnswer(Document, frozen=True, kw_only=True):
    """What became of one alert."""

    fingerprint: str
    trigger: str | None
    outcome: Outcome
    run: str | None
    """``namespace/name`` of the Run that answers it, or that is in its way."""
    message: str


class Answer(Document, frozen=True, kw_only=True):
    """What became of a notification: each alert in its order, and the Runs that were created."""

    alerts: tuple[AlertAnswer, ...]
    runs: tuple[str, ...]
    counts: dict[str, int]


def answer(
    notification: Notification,
    rules: Sequence[Trigger],
    *,
    store: Store,
    admit: Callable[[Run], Admit],
    now: datetime,
    default_namespace: str,
    metrics: Metrics,
) -> Answer:
    """Create the Runs that the rules ask for. What the answer calls created is in the store.

    Raises:
        StoreUnavailable: the same notification can be sent again; what was created meanwhile is then a duplicate.
    """
    assignment = assign(rules, notification.alerts)
    verdicts = list(assignment.settled)
    created: list[str] = []
    try:
        for trigger, alerts in assignment.matched:
            ask = partial(
                plan,
                trigger,
                alerts,
                group_key=notification.group_key,
                now=now,
                default_namespace=default_namespace,
            )
            done = _settle(trigger.name, ask, store, admit)
            verdicts.extend(done.verdicts)
            if done.run is not None:
                created.append(done.run.key)
    except StoreUnavailable:
        metrics.alert_notifications.labels("failed").inc(len(notification.alerts) - len(verdicts))
        raise
    finally:
        counts = Counter(verdict.outcome.value for verdict in verdicts)
        for outcome, number in counts.items():
            metrics.alert_notifications.labels(outcome).inc(number)
    return Answer(alerts=_in_order(notification.alerts, verdicts), runs=tuple(created), counts=dict(counts))


def _settle(trigger: str, ask: Callable[..., Plan], store: Store, admit: Callable[[Run], Admit]) -> Plan:
    """Carry out one trigger's plan; where another replica was faster, make another that knows its Run."""
    # Finished Runs can be many and large. The record has what they answered; those that matter beside it are found
    # by name.
    looked_at: dict[str, Run] = {}
    for _ in range(_TRIES):
        try:
            record, unfinished = _record(store, trigger), True
        except Unreadable as error:
            # The alert is not to go unanswered for that.
            log.error("a trigger's record cannot be read, all Runs are looked at", trigger=trigger, error=str(error))  # noqa: TRY400 the message tells all
            record, unfinished = None, False
        looked_at |= {run.key: run for run in store.list(Run, unfinished=unfinished)}
        planned = ask(history=recall(trigger, runs=looked_at.values(), record=record))
        if rejected := _rejected(store, planned, looked_at):
            looked_at |= rejected
            continue
        if planned.run is None:
            return planned
        try:
            store.create(planned.run, admit=admit(planned.run))
        except AlreadyExists:
            looked_at |= _find(store, [planned.run.key])
            continue
        except RunInProgress as error:
            return _without_run(planned, Outcome.RUN_IN_PROGRESS, run=error.holder, message=str(error))
        except (Refused, InvalidInput) as error:
            log.warning("a trigger's Run was refused", trigger=trigger, error=str(error))
            return _without_run(planned, Outcome.REFUSED, run=None, message=str(error))
        log.info("alerts started a Run", run=planned.run.key, trigger=trigger, alerts=len(planned.records))
        try:
            _remember(store, trigger, planned.records)
        except StoreUnavailable as error:
            log.warning(
                "the answered alerts are not recorded yet; the Run's driver will", trigger=trigger, error=str(error)
            )
        return planned
    raise StoreUnavailable(
        f"other requests created the Runs of the trigger {trigger!r} first, {_TRIES} times: try again"
    )


def _rejected(store: Store, planned: Plan, looked_at: Mapping[str, Run]) -> dict[str, Run]:
    """Runs that the plan rests on, and that were rejected since the record was written: they answered nothing."""
    rests_on = {verdict.run for verdict in planned.verdicts if verdict.run and verdict.run not in looked_at}
    found = _find(store, rests_on - {planned.run.key if planned.run else None})
    return {key: run for key, run in found.items() if run.status.phase is Phase.REJECTED}


def _find(store: Store, keys: Iterable[str | None]) -> dict[str, Run]:
    """Those of the Runs that there still are, by ``namespace/name``."""
    found = {}
    for key in filter(None, keys):
        namespace, name = key.split("/")
        with suppress(NotFound):
            found[key] = store.get(Run, name, namespace)
    return found


def _without_run(planned: Plan, outcome: Outcome, *, run: str | None, message: str) -> Plan:
    """The plan with the verdicts that its alerts have when its Run may not be created."""
    key = planned.run.key if planned.run else None
    verdicts = (
        Verdict(verdict.alert, outcome, verdict.trigger, run, message) if verdict.run == key else verdict
        for verdict in planned.verdicts
    )
    return Plan(None, tuple(verdicts))


def _record(store: Store, trigger: str) -> TriggerRecord | None:
    try:
        return store.get(TriggerRecord, trigger)
    except NotFound:
        return None


def remember(store: Store, run: Run) -> None:
    """Record the alerts that a Run answers, where whoever created it was cut off before.

    A Run that is going tells by itself what it answered; it is recorded at the latest before it ends.

    Raises:
        StoreUnavailable: a retry can help.
    """
    origin = run.spec.trigger
    if origin is None or origin.kind is not TriggerKind.ALERT:
        return
    nodes = run.spec.nodes
    records = (
        AnsweredRecord(
            fingerprint=alert.fingerprint,
            starts_at=alert.starts_at,
            run=run.key,
            answered_at=run.metadata.creation_timestamp or alert.starts_at,
            # Which alert named which node is not known any more. There are as many alerts as nodes, or more.
            nodes=(nodes[index % len(nodes)],) if nodes else (),
        )
        for index, alert in enumerate(origin.alerts)
    )
    _remember(store, origin.name, tuple(records))


def _remember(store: Store, trigger: str, records: tuple[AnsweredRecord, ...]) -> None:
    """Add to what outlives the Runs, each once: whoever created the Run and whoever drives it do this.

    Raises:
        StoreUnavailable: a retry can help.
    """
    # At least all of one Run's: they are sent together again, after its end as well.
    kept = max(_REMEMBERED, len(records))
    problem: StoreError | None = None
    for _ in range(_TRIES):
        try:
            known = _record(store, trigger)
            if known is None:
                store.create(TriggerRecord(metadata=Metadata(name=trigger), answered=records))
            else:
                there = {(entry.run, entry.fingerprint, entry.starts_at) for entry in known.answered}
                new = (entry for entry in records if (entry.run, entry.fingerprint, entry.starts_at) not in there)
                store.update(replace(known, answered=(*known.answered, *new)[-kept:]))
        except (Conflict, AlreadyExists, NotFound) as error:
            problem = error
        else:
            return
    raise StoreUnavailable(f"others changed what the trigger {trigger!r} answered, {_TRIES} times") from problem


def _in_order(alerts: Iterable[Alert], verdicts: Iterable[Verdict]) -> tuple[AlertAnswer, ...]:
    found = {id(verdict.alert): verdict for verdict in verdicts}
    return tuple(
        AlertAnswer(
            fingerprint=alert.fingerprint,
            trigger=found[id(alert)].trigger,
            outcome=found[id(alert)].outcome,
            run=found[id(alert)].run,
            message=found[id(alert)].message,
        )
        for alert in alerts
    )
