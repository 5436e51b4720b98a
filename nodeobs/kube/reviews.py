"""Who calls and what they may do, as the API server knows it: the documents of its two reviews, and a memory of them.

No I/O, and no other package than msgspec: the service and the agent each ask in their own way.

Source: authentication.k8s.io/v1 TokenReview, authorization.k8s.io/v1 SubjectAccessReview.
"""

from __future__ import annotations

import hashlib
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from nodeobs.errors import AccessUnknown
from nodeobs.model import GROUP
from nodeobs.typed import decode

AUTHENTICATION_PATH: Final = "/apis/authentication.k8s.io/v1/tokenreviews"
AUTHORIZATION_PATH: Final = "/apis/authorization.k8s.io/v1/subjectaccessreviews"

ALLOWED_SECONDS: Final = 60.0
"""How long a token that was accepted, or a right that was found, is relied upon."""
REFUSED_SECONDS: Final = 10.0
"""How long a refusal is: whoever was just given a right should not wait for a minute."""
ENTRIES: Final = 1000

_TOKEN: Final = re.compile(r"[\x21-\x7e]{1,16384}")
_LONGEST_REASON: Final = 300

K = TypeVar("K")


class Identity(msgspec.Struct, frozen=True):
    """A user as the API server authenticated them."""

    user: str
    uid: str = ""
    groups: tuple[str, ...] = ()
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


class UserInfo(msgspec.Struct, frozen=True):
    """The same as it is written in reviews (authentication.k8s.io/v1 UserInfo), admission's included."""

    username: str = ""
    uid: str = ""
    groups: tuple[str, ...] | None = None
    extra: dict[str, tuple[str, ...]] | None = None

    def identity(self) -> Identity:
        """What can be compared, and be a key."""
        return Identity(self.username, self.uid, self.groups or (), tuple(sorted((self.extra or {}).items())))


class ResourceRight(msgspec.Struct, frozen=True, kw_only=True):
    """A verb on a resource. No name: on any; no namespace: in all of them, or the resource has none."""

    verb: str
    resource: str
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    group: str = GROUP

    def __str__(self) -> str:
        resource = f"{self.resource}/{self.subresource}" if self.subresource else self.resource
        name = f" {self.name!r}" if self.name else ""
        namespace = f" in namespace {self.namespace!r}" if self.namespace else ""
        return f"{self.verb} {resource}.{self.group}{name}{namespace}"


class PathRight(msgspec.Struct, frozen=True, kw_only=True):
    """A verb, which is an HTTP method in lower case, on a path that is no resource's."""

    verb: str
    path: str

    def __str__(self) -> str:
        return f"{self.verb} the path {self.path}"


Right = ResourceRight | PathRight


class Verdict(msgspec.Struct, frozen=True):
    """What a review found: whether the token, or the access, is accepted, and why not."""

    allowed: bool
    reason: str = ""
    identity: Identity | None = None
    """Whose token it is."""


def may_be_token(text: str) -> bool:
    """Whether it is worth asking about: printable ASCII of a bounded length."""
    return _TOKEN.fullmatch(text) is not None


def digest(token: str) -> bytes:
    """What a token is remembered by."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def unknown(problem: str) -> AccessUnknown:
    """The error for a review that could not be made."""
    return AccessUnknown(f"callers cannot be checked now: {problem}")


def token_review(token: str, *, audiences: Sequence[str] = ()) -> dict[str, Any]:
    """Document that asks whose ``token`` it is; without ``audiences`` it must be one for the API server itself."""
    spec = {"token": token, "audiences": list(audiences)} if audiences else {"token": token}
    return {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}


def access_review(identity: Identity, right: Right) -> dict[str, Any]:
    """Document that asks whether the user has the right."""
    spec: dict[str, Any] = {"user": identity.user}
    if identity.uid:
        spec["uid"] = identity.uid
    if identity.groups:
        spec["groups"] = identity.groups
    if identity.extra:
        spec["extra"] = dict(identity.extra)
    kind = "nonResourceAttributes" if isinstance(right, PathRight) else "resourceAttributes"
    attributes = {name: text for name, text in msgspec.structs.asdict(right).items() if text}
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {**spec, kind: attributes},
    }


class _TokenStatus(msgspec.Struct, frozen=True):
    authenticated: bool = False
    user: UserInfo = UserInfo()
    audiences: tuple[str, ...] | None = None
    error: str = ""


class _TokenAnswer(msgspec.Struct, frozen=True):
    status: _TokenStatus


class _AccessStatus(msgspec.Struct, frozen=True, rename="camel"):
    allowed: bool
    denied: bool = False
    reason: str = ""
    evaluation_error: str = ""


class _AccessAnswer(msgspec.Struct, frozen=True):
    status: _AccessStatus


def read_token_review(answer: bytes | str, *, audiences: Sequence[str] = ()) -> Verdict:
    """The API server's verdict on a token.

    Raises:
        AccessUnknown: the answer is not one.
    """
    status = _decode(answer, _TokenAnswer).status
    if not status.authenticated:
        return Verdict(False, _reason(status.error))
    # A server that knows nothing of audiences authenticates any token: the answer says which it found.
    if audiences and not set(audiences) & set(status.audiences or ()):
        return Verdict(False, f"it is not meant for {' or '.join(audiences)}")
    if not status.user.username:
        raise unknown("the API server accepted a token without naming its user")
    return Verdict(True, identity=status.user.identity())


def read_access_review(answer: bytes | str) -> Verdict:
    """The API server's verdict on an access.

    Raises:
        AccessUnknown: the answer is not one, or its authorizers failed.
    """
    status = _decode(answer, _AccessAnswer).status
    if not status.allowed and not status.denied and status.evaluation_error:
        raise unknown(f"the API server's authorizers failed: {_reason(status.evaluation_error)}")
    return Verdict(status.allowed, _reason(status.reason))


class Memory(Generic[K]):
    """Verdicts of the last minute. Not safe to be used from several threads at once.

    Accepted and refused ones each have a bounded number of places, the longest unused giving way: a flood of wrong
    tokens pushes nobody else's out.
    """

    def __init__(self, *, entries: int = ENTRIES) -> None:
        self._entries = entries
        self._known: dict[bool, OrderedDict[K, tuple[float, Verdict]]] = {True: OrderedDict(), False: OrderedDict()}

    def get(self, key: K, *, now: float) -> Verdict | None:
        """The verdict, if it may still be relied upon at ``now`` (monotonic seconds)."""
        for known in self._known.values():
            if key in known:
                until, verdict = known[key]
                if now < until:
                    known.move_to_end(key)
                    return verdict
                del known[key]
        return None

    def put(self, key: K, verdict: Verdict, *, asked: float) -> None:
        """Remember a verdict that was asked for at ``asked``."""
        for known in self._known.values():
            known.pop(key, None)
        places = self._known[verdict.allowed]
        places[key] = (asked + (ALLOWED_SECONDS if verdict.allowed else REFUSED_SECONDS), verdict)
        if len(places) > self._entries:
            places.popitem(last=False)


D = TypeVar("D")


def _decode(answer: bytes | str, kind: type[D]) -> D:
    try:
        return decode(answer, kind)
    except msgspec.DecodeError as error:
        raise unknown(f"the API server answered a review with something else: {error}") from error


def _reason(text: str) -> str:
    """Somebody else's text, fit for a log and a message."""
    return "".join(char if char.isprintable() else " " for char in text[:_LONGEST_REASON]).strip()
