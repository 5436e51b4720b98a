"""May the API server store this change? What it asks about Runs and NodeObservabilities, decided by the rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeVar

from msgspec import UNSET

from nodeobs.errors import (
    AccessUnknown,
    Forbidden,
    InvalidInput,
    MissingNodeObservability,
    NodeobsError,
    NotFound,
    Refused,
    RunInProgress,
    StoreUnavailable,
    UnknownTarget,
)
from nodeobs.kube.admission import (
    AdmissionAnswer,
    AdmissionQuestion,
    AdmissionRequest,
    AdmissionResponse,
    Denial,
    DenialCause,
    DenialDetails,
)
from nodeobs.kube.client import CONCURRENT_RUN
from nodeobs.kube.reviewer import Reviewer
from nodeobs.kube.reviews import ResourceRight
from nodeobs.metrics import Metrics
from nodeobs.model import API_VERSION, GROUP, NodeObservability, Resource, Run, encode_json, from_builtins
from nodeobs.runs.oddities import odd_in_observability, odd_in_run
from nodeobs.runs.rules import CREATED_BY, check_observability, check_run, may_change, may_exist, may_start
from nodeobs.store.base import Reader

Kind = TypeVar("Kind", bound=Resource)
Raw = Mapping[str, Any]

RUNS: Final = "nodeobservabilityruns"
OBSERVABILITIES: Final = "nodeobservabilities"

MAX_RUN_BYTES: Final = 512 * 1024
"""Of a new Run as it is stored. etcd takes objects of 1.5 MiB, and a status over 5,000 nodes can have nearly one: where
that does not fit, the Run could be neither claimed nor ended, and would hold its NodeObservability for ever."""

_REASONS: Final[Mapping[type[NodeobsError], tuple[int, str, str, str]]] = {
    RunInProgress: (409, "Conflict", CONCURRENT_RUN, ""),
    MissingNodeObservability: (422, "Invalid", "MissingNodeObservability", "spec.nodeObservabilityRef.name"),
    UnknownTarget: (422, "Invalid", "UnknownTarget", "spec.targets"),
    InvalidInput: (422, "Invalid", "Invalid", ""),
    Forbidden: (403, "Forbidden", "Forbidden", ""),
}
"""Code and reason of the status, reason of its cause, and the field where it is always the same."""


class Admission:
    """Answers reviews. Safe to be used from many threads."""

    def __init__(
        self,
        *,
        reader: Reader,
        store: Reader,
        reviewer: Reviewer,
        own_user: Callable[[], str],
        published: Callable[[], bool],
        metrics: Metrics,
        now: Callable[[], datetime],
    ) -> None:
        """``reader`` answers from memory; ``store`` is asked as well before a Run is refused.

        ``own_user`` is the service's own user name; ``published`` says whether the API server can trust the certificate
        that is served.
        """
        self._reader = reader
        self._store = store
        self._reviewer = reviewer
        self._own_user = own_user
        self._published = published
        self._metrics = metrics
        self._now = now

    @property
    def published(self) -> bool:
        """Whether the API server can trust the certificate that is served."""
        return self._published()

    def review(self, question: AdmissionQuestion) -> AdmissionAnswer:
        """Decide.

        Raises:
            StoreUnavailable, AccessUnknown: that is not possible now; a retry can help.
        """
        request = question.request
        try:
            warnings = tuple(self._check(request))
        except (RunInProgress, MissingNodeObservability, UnknownTarget, InvalidInput, Forbidden) as error:
            denial = _denial(error, request)
            self._metrics.admission_requests.labels("false", denial.details.causes[0].reason).inc()
            return AdmissionAnswer(response=AdmissionResponse(uid=request.uid, allowed=False, status=denial))
        except (StoreUnavailable, AccessUnknown):
            self._metrics.admission_requests.labels("false", "Unavailable").inc()
            raise
        self._metrics.admission_requests.labels("true", "").inc()
        return AdmissionAnswer(response=AdmissionResponse(uid=request.uid, allowed=True, warnings=warnings or UNSET))

    def _check(self, request: AdmissionRequest) -> Iterable[str]:
        """Warnings, where it may; else one of our errors."""
        if not self.published:
            raise StoreUnavailable("the certificate of the webhooks is not published yet")
        ours = request.resource.group == GROUP and not request.sub_resource
        if not ours or request.operation not in ("CREATE", "UPDATE"):
            return ()
        checks = {RUNS: self._check_run, OBSERVABILITIES: _check_observability}
        check = checks.get(request.resource.resource)
        return check(request) if check is not None else ()

    def _check_run(self, request: AdmissionRequest) -> Iterable[str]:
        if request.operation == "UPDATE":
            self._check_change(request)
            return ()
        _check_size(request.object or {})
        run = _decode(request, Run)
        if request.user_info.username != self._own_user():  # which has asked already whether its caller may
            self._check_foreign(request, run)
        return odd_in_run(run, observability=self._check_rules(run))

    def _check_change(self, request: AdmissionRequest) -> None:
        """Let pass whatever leaves the spec alone: finalizers and the like, of objects of any age."""
        old, new = request.old_object or {}, request.object or {}
        if _created_by(old) != _created_by(new) and request.user_info.username != self._own_user():
            raise Forbidden(f"the annotation {CREATED_BY} tells who created the Run; only nodeobs itself sets it")
        if old.get("spec") != new.get("spec"):
            before = _decode_as(old, request, Run)
            may_change(_decode(request, Run).spec, old=before.spec)

    def _check_foreign(self, request: AdmissionRequest, run: Run) -> None:
        if run.spec.trigger is not None:
            raise Forbidden("spec.trigger tells what created the Run; only nodeobs itself sets it: leave it out")
        if CREATED_BY in run.metadata.annotations:
            raise Forbidden(
                f"the annotation {CREATED_BY} tells who created the Run; only nodeobs itself sets it: leave it out"
            )
        name = run.spec.node_observability_ref.name
        right = ResourceRight(verb="use", resource=OBSERVABILITIES, name=name)
        self._reviewer.require(request.user_info.identity(), right)

    def _check_rules(self, run: Run) -> NodeObservability | None:
        """The Run's NodeObservability, where the rules let it pass.

        What memory says against it is looked at once more: something was created, or has ended, just now.
        """
        check_run(run.spec)
        name = run.spec.node_observability_ref.name
        observability = _find(self._reader, NodeObservability, name)
        try:
            may_exist(run, observability=observability)
        except (Refused, InvalidInput):
            observability = _find(self._store, NodeObservability, name)
            may_exist(run, observability=observability)
        others = {other.key: other for other in self._reader.list(Run, unfinished=True)}
        while True:
            try:
                may_start(run, runs=others.values(), now=self._now())
            except RunInProgress as error:
                seen = others.pop(error.holder)
                now = _find(self._store, Run, seen.metadata.name, seen.metadata.namespace)
                may_start(run, runs=[now] if now is not None else [], now=self._now())
            else:
                return observability


def _check_size(raw: Raw) -> None:
    size = len(encode_json(raw))
    if size > MAX_RUN_BYTES:
        raise InvalidInput(
            f"the Run has {size} bytes as it is stored (metadata.managedFields repeats spec.nodes) and may have at "
            f"most {MAX_RUN_BYTES} (512 KiB): name fewer nodes or select them by labels, leave out large annotations"
        )


def _check_observability(request: AdmissionRequest) -> Iterable[str]:
    old, new = request.old_object or {}, request.object or {}
    if request.operation == "UPDATE" and old.get("spec") == new.get("spec"):
        return ()
    observability = _decode(request, NodeObservability)
    check_observability(observability.spec)
    return odd_in_observability(observability)


def _decode(request: AdmissionRequest, kind: type[Kind]) -> Kind:
    return _decode_as(request.object or {}, request, kind)


def _decode_as(raw: Raw, request: AdmissionRequest, kind: type[Kind]) -> Kind:
    """The object as the service will read it: what it could not read is not to be stored."""
    if raw.get("apiVersion") != API_VERSION:
        raise InvalidInput(
            f"is {raw.get('apiVersion')!r}: the webhook's configuration must ask for {API_VERSION}, with matchPolicy "
            "Equivalent",
            pointer="/apiVersion",
        )
    metadata = raw.get("metadata")
    if isinstance(metadata, dict) and not metadata.get("name"):
        raw = {**raw, "metadata": {**metadata, "name": request.name}}
    return from_builtins(raw, kind)


def _find(reader: Reader, kind: type[Kind], name: str, namespace: str = "") -> Kind | None:
    try:
        return reader.get(kind, name, namespace)
    except NotFound:
        return None


def _created_by(raw: Raw) -> object:
    metadata = raw.get("metadata")
    annotations = metadata.get("annotations") if isinstance(metadata, dict) else None
    return annotations.get(CREATED_BY) if isinstance(annotations, dict) else None


def _denial(error: NodeobsError, request: AdmissionRequest) -> Denial:
    code, reason, cause, field = next(_REASONS[kind] for kind in type(error).__mro__ if kind in _REASONS)
    message = str(error)
    if isinstance(error, InvalidInput):
        field, message = _field_path(error.pointer), error.detail
    elif isinstance(error, RunInProgress):
        field = error.holder
    raw = request.object or {}
    metadata = raw.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return Denial(
        code=code,
        reason=reason,
        message=f"{field}: {message}" if isinstance(error, InvalidInput) and field else message,
        details=DenialDetails(
            name=str(name or request.name),
            group=request.resource.group,
            kind=str(raw.get("kind") or request.resource.resource),
            causes=(DenialCause(reason=cause, message=message, field=field),),
        ),
    )


def _field_path(pointer: str) -> str:
    """A JSON pointer as Kubernetes writes it: ``spec.targets[0].url``."""
    steps = pointer.split("/")[1:]
    return "".join(f"[{step}]" if step.isdecimal() else f".{step}" for step in steps).removeprefix(".")
