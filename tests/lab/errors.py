"""What can be wrong with a lab."""

from __future__ import annotations


class LabError(Exception):
    """The lab cannot be had; its text says what to do."""


class Missing(LabError):
    """This machine lacks something that a lab needs: a program, root, Linux."""
