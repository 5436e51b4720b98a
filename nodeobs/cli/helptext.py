"""How ``--help`` shows examples."""

from __future__ import annotations


def examples(*lines: str) -> str:
    """Epilog of a command; the lines stay as they are."""
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in lines)])
