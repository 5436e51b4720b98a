"""What the API server asks before it stores a change, and what it is answered.

Source: admission.k8s.io/v1 AdmissionReview, meta/v1 Status.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from nodeobs.kube.reviews import UserInfo
from nodeobs.model import Document


class ResourceName(Document, frozen=True, kw_only=True):
    """Which kind of objects it is about (metav1.GroupVersionResource)."""

    group: str = ""
    version: str = ""
    resource: str = ""


class AdmissionRequest(Document, frozen=True, kw_only=True):
    """What the API server is about to do, and for whom."""

    uid: Annotated[str, Meta(min_length=1, max_length=256)]
    resource: ResourceName
    sub_resource: str = ""
    operation: str
    """CREATE, UPDATE, DELETE or CONNECT."""
    name: str = ""
    """May be empty where the API server makes the name up; the object has it."""
    user_info: UserInfo = UserInfo()
    object: dict[str, Any] | None = None
    """The object as it is to be stored, in the version that the webhook is registered for."""
    old_object: dict[str, Any] | None = None
    """The object as it is stored."""


class AdmissionQuestion(Document, frozen=True, kw_only=True):
    """An AdmissionReview as it comes in."""

    api_version: Literal["admission.k8s.io/v1"]
    kind: Literal["AdmissionReview"]
    request: AdmissionRequest


class DenialCause(Document, frozen=True, kw_only=True):
    """What is wrong, for programs (metav1.StatusCause)."""

    reason: str
    message: str
    field: str


class DenialDetails(Document, frozen=True, kw_only=True):
    """What it is wrong with (metav1.StatusDetails)."""

    name: str
    group: str
    kind: str
    causes: tuple[DenialCause, ...]


class Denial(Document, frozen=True, kw_only=True):
    """Why it may not be done (metav1.Status); the API server passes it on to its caller."""

    status: Literal["Failure"] = "Failure"
    code: int
    """HTTP status of the answer to the caller."""
    reason: str
    message: str
    details: DenialDetails


class AdmissionResponse(Document, frozen=True, kw_only=True):
    """Whether it may be done. ``warnings`` are shown to the user; over 120 characters they may be cut."""

    uid: str
    allowed: bool
    status: Denial | UnsetType = UNSET
    warnings: tuple[str, ...] | UnsetType = UNSET


class AdmissionAnswer(Document, frozen=True, kw_only=True):
    """An AdmissionReview as it goes out."""

    api_version: Literal["admission.k8s.io/v1"] = "admission.k8s.io/v1"
    kind: Literal["AdmissionReview"] = "AdmissionReview"
    response: AdmissionResponse
