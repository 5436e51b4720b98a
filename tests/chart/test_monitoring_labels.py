"""Every series, label and label's value that dashboard and alerts name is one that the service exports."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import pytest
from prometheus_client import CollectorRegistry

from nodeobs.metrics import Metrics
from tests.chart.test_monitoring import DASHBOARD, PANELS, RULES

OF_EVERY_SERIES: Final = frozenset({"instance", "job"})
"""What Prometheus itself gives."""

_LIST = r"\s*\(([^()]*)\)"
_SELECTOR = re.compile(r"\b((?:nodeobs|process)_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')


def _exported() -> dict[str, tuple[frozenset[str], list[Mapping[str, str]]]]:
    """Labels of each series, and those of its samples that are there from the beginning."""
    registry = CollectorRegistry()
    Metrics(registry)
    found: dict[str, tuple[frozenset[str], list[Mapping[str, str]]]] = {}
    for collector in registry._collector_to_names:  # series without samples are nowhere else
        labels = frozenset(getattr(collector, "_labelnames", ()))
        for family in collector.collect():
            names = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            if family.name.startswith("process_"):
                names = ["", "_total"]
            for name in names:
                samples: list[Mapping[str, str]] = [
                    sample.labels for sample in family.samples if sample.name == family.name + name
                ]
                found[family.name + name] = (labels | {"le"} if name == "_bucket" else labels, samples)
    return found


EXPORTED: Final = _exported()


def _labels(name: str) -> frozenset[str]:
    return EXPORTED[name][0] | OF_EVERY_SERIES if name in EXPORTED else OF_EVERY_SERIES


def _argument(text: str) -> str:
    """What is in the parentheses that ``text`` begins with."""
    depth = 0
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if not depth:
            return text[1:index]
    raise ValueError(text)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text))


def _unknown_values(name: str, matchers: str) -> Iterator[str]:
    for label, operator, value in _MATCHER.findall(matchers):
        if label not in _labels(name):
            yield f"{name} has no label {label}"
        known = {sample[label] for sample in EXPORTED[name][1] if label in sample} if name in EXPORTED else set()
        wanted = value.split("|") if "~" in operator else [value]
        if known and not value.startswith("$"):
            yield from (f"{name} has no {label} {each}" for each in wanted if each not in known)


def wrong_in(expression: str, shown: str = "") -> list[str]:
    """What a query, and the legend or the annotations that show its labels, have that is not there."""
    selectors = _SELECTOR.findall(re.sub(rf"\b(?:by|on|group_left)\b{_LIST}", " ", expression))
    names = {name for name, _ in selectors}
    wrong = [f"there is no {name}" for name in sorted(names - EXPORTED.keys())]
    for name, matchers in selectors:
        wrong += _unknown_values(name, matchers)
    left: set[str] = set().union(*map(_labels, names))
    for match in re.finditer(rf"\bby{_LIST}\s*(?=\()", expression):
        inner = _argument(expression[match.end() :])
        known = set().union(*(_labels(name) for name, _ in _SELECTOR.findall(inner)))
        wrong += [f"by: nothing in it has a label {label}" for label in sorted(_words(match[1]) - known)]
    for match in re.finditer(rf"\bon{_LIST}", expression):
        wrong += [f"on: {name} has no such label" for name in sorted(names) if not _words(match[1]) <= _labels(name)]
    for match in re.finditer(rf"\bgroup_left{_LIST}", expression):
        wrong += [f"group_left: nothing has {label}" for label in sorted(_words(match[1]) - left)]
    if aggregated := re.search(rf"\b(?:sum|max|min|avg|count)\b(?:\s+by{_LIST})?", expression):
        left = _words(aggregated[1] or "")
    for label in re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", shown):
        if label not in left - {"le"}:
            wrong.append(f"shown: the result has no label {label}")
    return wrong


@pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])
def test_a_panel_names_what_there_is(panel: Mapping[str, Any]) -> None:
    for target in panel["targets"]:
        assert wrong_in(target["expr"], target.get("legendFormat", "")) == []


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_names_what_there_is(rule: Mapping[str, Any]) -> None:
    assert wrong_in(rule["expr"], " ".join(rule["annotations"].values())) == []


def test_the_dashboards_variables_are_of_a_series_that_there_is() -> None:
    (query,) = (one["query"] for one in DASHBOARD["templating"]["list"] if one["type"] == "query")
    found = re.fullmatch(r"label_values\((\w+), (\w+)\)", query)
    assert found is not None
    assert found[2] in EXPORTED[found[1]][0]


@pytest.mark.parametrize(
    ("expression", "shown", "said"),
    [
        ("sum(nodeobs_leaders)", "", "there is no nodeobs_leaders"),
        ("sum(nodeobs_runs)", "", "there is no nodeobs_runs"),
        ("sum by (results) (nodeobs_runs_total)", "", "by: nothing in it has a label results"),
        ('nodeobs_runs_total{results="Failed"}', "", "nodeobs_runs_total has no label results"),
        ('nodeobs_runs_total{result="failed"}', "", "nodeobs_runs_total has no result failed"),
        ('nodeobs_runs_total{result=~"Failed|Lost"}', "", "nodeobs_runs_total has no result Lost"),
        ("sum by (result) (nodeobs_runs_total)", "{{trigger}}", "shown: the result has no label trigger"),
        ("sum(nodeobs_runs_total)", "{{ $labels.result }}", "shown: the result has no label result"),
        ("sum by (le) (nodeobs_run_duration_seconds)", "", "there is no nodeobs_run_duration_seconds"),
        ("nodeobs_leader * on (pod) nodeobs_leader", "", "on: nodeobs_leader has no such label"),
    ],
)
def test_a_misspelling_is_seen(expression: str, shown: str, said: str) -> None:
    assert said in wrong_in(expression, shown)
