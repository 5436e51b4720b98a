"""Types with bounds that several documents share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

_LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
_PART = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
"""Kubernetes bounds a subdomain as a whole, and not its parts (k8s.io/apimachinery, IsDNS1123Subdomain)."""

DnsName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=rf"\A{_PART}(\.{_PART})*\Z",
        description="Lower-case RFC 1123 subdomain: letters, digits, '-' and '.'.",
    ),
]
"""Name of a Kubernetes object."""

NamespaceName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=63,
        pattern=rf"\A{_LABEL}\Z",
        description="Lower-case RFC 1123 label: letters, digits and '-'.",
    ),
]

ObjectNamespace = Annotated[
    str,
    Meta(max_length=63, pattern=rf"\A({_LABEL})?\Z", description="Namespace; empty for what is cluster-scoped."),
]
"""One type rather than a union with ``""``: msgspec merges the two and applies the bounds to both."""

NodeName = DnsName

NodeRef = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=rf"\A({_PART}(\.{_PART})*|[0-9a-f]{{0,4}}(:[0-9a-f.]*){{2,8}})\Z",
        description="A node's name, or its IP address as alerts carry it.",
    ),
]
"""What a Run names its nodes by."""

PathSegment = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=253,
        pattern=r"\A[A-Za-z0-9_-][A-Za-z0-9._-]*\Z",
        description="One path segment: letters, digits, '.', '_' and '-', not beginning with '.'.",
    ),
]
"""What may become a part of a path; never '.', '..' or anything with a slash."""

TargetName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=63,
        pattern=r"\A[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z",
        description="Name of a target: lower-case letters, digits and '-'.",
    ),
]

DurationSeconds = Annotated[int, Meta(ge=1, le=3600, description="How long to profile, in seconds (1 to 3600).")]

Port = Annotated[int, Meta(ge=0, le=65535)]

Labels = Annotated[
    dict[
        Annotated[str, Meta(min_length=1, max_length=317)],
        Annotated[str, Meta(max_length=63)],
    ],
    Meta(max_length=64),
]
"""Kubernetes labels, or a selector that asks for exactly these."""
