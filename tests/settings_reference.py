"""The reference of all settings, as ``docs/configuration.md`` has it; run as a program, it prints it."""

from __future__ import annotations

import sys

from pydantic.fields import FieldInfo

from nodeobs.setting_kinds import DefaultIs, allowed_of
from nodeobs.settings import PREFIX, Settings


def settings_reference() -> str:
    """Markdown table of every setting, as ``docs/configuration.md`` has it."""
    rows = ["| setting | environment variable | default | allowed |", "|---|---|---|---|"]
    details = []
    for name, field in Settings.model_fields.items():
        rows.append(f"| `{name}` | `{PREFIX}{name.upper()}` | {_default_of(field)} | {allowed_of(field)} |")
        details.append(f"- **`{name}`**: {' '.join((field.description or '').split())}")
    return "\n".join([*rows, "", *details]) + "\n"


def _default_of(field: FieldInfo) -> str:
    words = [mark.text for mark in field.metadata if isinstance(mark, DefaultIs)]
    if words:
        return words[0]
    if field.default is None:
        return "none"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


if __name__ == "__main__":
    sys.stdout.write(settings_reference())
