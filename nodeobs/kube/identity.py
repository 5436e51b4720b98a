"""Who the API server takes this process for."""

from __future__ import annotations

from typing import Final

import msgspec

from nodeobs.errors import StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.typed import decode

_PATH: Final = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
_ANSWER_SECONDS: Final = 2.0
"""It is asked within admission, for which the API server waits."""


class _User(msgspec.Struct, frozen=True):
    username: str


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    user_info: _User


class _Review(msgspec.Struct, frozen=True):
    status: _Status


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
            try:
                self._name = decode(answer, _Review).status.user_info.username
            except msgspec.DecodeError as error:
                raise StoreUnavailable(f"the API server's SelfSubjectReview cannot be read: {error}") from error
        return self._name
