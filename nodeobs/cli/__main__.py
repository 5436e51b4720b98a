"""``python -m nodeobs.cli`` is ``nodeobs``."""

from __future__ import annotations

from nodeobs.cli import main

main(prog_name="nodeobs")
