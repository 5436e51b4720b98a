"""Who the API server takes this process for, and what it lets it do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from nodeobs.kube.client import KubeClient, read_answer

_PATH: Final = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_ACCESS_PATH: Final = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
_WHAT: Final = "review of ourselves"
_HELD_SECONDS: Final = 600.0
_LACKED_SECONDS: Final = 30.0
_ANSWER_SECONDS: Final = 2.0
"""It is asked within admission, for which the API server waits."""


class _User(msgspec.Struct, frozen=True):
    username: str


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    user_info: _User


class _Review(msgspec.Struct, frozen=True):
    status: _Status


class _Verdict(msgspec.Struct, frozen=True):
    allowed: bool


class _AccessReview(msgspec.Struct, frozen=True):
    status: _Verdict


class OwnRight:
    """Whether this process may do something; the answer is remembered for minutes. For one thread."""

    def __init__(
        self, client: KubeClient, *, verb: str, resource: str, subresource: str, monotonic: Callable[[], float]
    ) -> None:
        self._client = client
        self._attributes = {"verb": verb, "resource": resource, "subresource": subresource}
        self._monotonic = monotonic
        self._held = False
        self._until = 0.0

    def __call__(self) -> bool:
        """Ask, where the last answer is too old.

        Raises:
            StoreUnavailable: the API server cannot be asked now.
        """
        if self._monotonic() >= self._until:
            body = {
                "apiVersion": "authorization.k8s.io/v1",
                "kind": "SelfSubjectAccessReview",
                "spec": {"resourceAttributes": self._attributes},
            }
            answer = self._client.request("POST", _ACCESS_PATH, body)
            self._held = read_answer(answer, _AccessReview, _WHAT).status.allowed
            self._until = self._monotonic() + (_HELD_SECONDS if self._held else _LACKED_SECONDS)
        return self._held


class OwnUser:
    """The process's own user name, asked for until it is known. Safe to be used from many threads.

    Each asks for itself: an API server that hangs must not have them wait one after the other.
    """

    def __init__(self, client: KubeClient) -> None:
        self._client = client
        self._name = ""

    def __call__(self) -> str:
        """Such as ``system:serviceaccount:nodeobs:nodeobs``.

        Raises:
            StoreUnavailable: the API server cannot be asked now.
        """
        if not self._name:
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
            answer = self._client.request("POST", _PATH, body, seconds=_ANSWER_SECONDS)
            self._name = read_answer(answer, _Review, _WHAT).status.user_info.username
        return self._name
