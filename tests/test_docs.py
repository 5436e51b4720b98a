"""The documentation says what there is, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from nodeobs.metrics import Metrics
from nodeobs.model import FailureReason, Phase, ProfileType
from tests.processes import ROOT

PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def test_every_series_is_documented_and_no_other() -> None:
    metrics = Metrics(CollectorRegistry())
    exported = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in metrics.registry.collect()
        if family.name.startswith("nodeobs_")
    }
    documented = set(re.findall(r"^\| `(nodeobs_\w+)`", page("metrics.md"), re.MULTILINE))
    assert documented == exported


def test_every_reason_and_phase_is_explained() -> None:
    text = page("runs.md")
    rows = set(re.findall(r"^\| `([A-Z]\w+)` \|", text, re.MULTILINE))
    assert rows == {reason.value for reason in FailureReason} | {phase.value for phase in Phase}
    for profile in ProfileType:
        assert f"`{profile}`" in text


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_pages_are_reached_from_the_readme(path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    assert path.name in ("README.md", "CHANGELOG.md") or f"docs/{path.name}" in readme


def test_the_readme_names_commands_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", (ROOT / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
