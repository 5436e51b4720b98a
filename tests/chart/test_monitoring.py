"""Dashboard and alerts: each query on a real Prometheus that scrapes a real service; each alert by promtool."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
import yaml

from charts.generate import CHART
from tests.processes import ROOT, Program, free_port, wait_for
from tests.world import Agent, Service, is_ok

DASHBOARD: Final = json.loads((CHART / "dashboards" / "nodeobs.json").read_text(encoding="utf-8"))
RULES_FILE: Final = CHART / "rules" / "nodeobs.yaml"
RULES: Final = yaml.safe_load(RULES_FILE.read_text(encoding="utf-8"))["groups"][0]["rules"]
PANELS: Final = DASHBOARD["panels"]
QUERIES: Final = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]


def program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a Prometheus that scrapes a service which has had Runs, with an agent that is not there."""
    folder = tmp_path_factory.mktemp("monitoring")
    url = f"http://127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        agent = Agent("node-1", folder, targets={"prometheus": f"{url}/debug/pprof"})
        stack.callback(agent.stop)
        gone = {"name": "node-2", "address": f"127.0.0.1:{free_port()}"}
        service = Service(folder / "service", agents=[agent.row, gone], environ={"NODEOBS_RUN_GRACE_SECONDS": "5"})
        stack.callback(service.stop)
        scrape = {
            "job_name": "nodeobs",
            "scrape_interval": "1s",
            "static_configs": [{"targets": [service.url.removeprefix("http://")]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
        argv = [program("prometheus"), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
        argv.append(f"--web.listen-address={url.removeprefix('http://')}")
        running = stack.enter_context(Program("prometheus", argv, log=folder / "prometheus.log"))
        running.wait_until("Prometheus is ready", lambda: is_ok(f"{url}/-/ready"))
        wait_for("the service is scraped", lambda: query(url, "nodeobs_runs_total == 0"))
        for number in (1, 2):  # what a first Run counts has no value before it
            assert service.create_run(f"run-{number}", durationSeconds=1).status_code == 201
            service.wait_run(f"run-{number}")
            ended = f"sum(nodeobs_runs_total) == {number} and on() sum(nodeobs_agent_collections_total) > 0"
            wait_for("the Run is scraped", lambda: query(url, ended))  # noqa: B023
        wait_for("what it left is scraped", lambda: query(url, "nodeobs_last_output_info"))
        yield url


def query(url: str, expression: str) -> list[dict[str, Any]]:
    answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}, trust_env=False)
    assert answer.is_success, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]["result"]
    return rows


def as_grafana(expression: str) -> str:
    """With the dashboard's variables in it."""
    return expression.replace("$nodeobservability", ".*").replace("$__rate_interval", "1m")


@pytest.mark.integration
@pytest.mark.slow
@pytest.mark.parametrize(("title", "expression"), QUERIES, ids=[title for title, _ in QUERIES])
def test_every_panel_shows_something(prometheus: str, title: str, expression: str) -> None:
    rows = query(prometheus, as_grafana(expression))
    assert rows, title
    for name in set(re.findall(r"\b(?:nodeobs|process)_\w+", expression)):
        assert query(prometheus, name), f"there is no {name}"


@pytest.mark.integration
@pytest.mark.slow
def test_of_a_run_with_a_node_missing_that_alone_alerts(prometheus: str) -> None:
    firing = {rule["alert"] for rule in RULES if query(prometheus, rule["expr"])}
    # The service is not in Kubernetes; but it leads, and its Run is over.
    assert firing == {"NodeobsNodesFail"}
    for rule in RULES:
        for name in set(re.findall(r"\bnodeobs_\w+", rule["expr"])):
            assert query(prometheus, name), f"{rule['alert']}: there is no {name}"


def test_the_dashboard_is_one_that_grafana_can_have_anywhere() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}, panel["title"]
    places = [(p["gridPos"]["x"], p["gridPos"]["y"], p["gridPos"]["w"]) for p in PANELS]
    assert all(x + width <= 24 for x, _, width in places)
    assert len({(x, y) for x, y, _ in places}) == len(PANELS)
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "nodeobservability"]


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_every_alert_has_a_page_that_says_what_to_do(rule: Mapping[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert {"summary", "description"} <= rule["annotations"].keys()
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    headings = re.findall(r"^## (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor == rule["alert"].lower()
    assert rule["alert"] in headings


CLUSTER: Final = '{nodeobservability="cluster"}'
CASES: Final[list[tuple[str, dict[str, str], str, int]]] = [
    ("NodeobsNobodyLeads", {"nodeobs_leader": "0x20"}, "10m", 1),
    ("NodeobsNobodyLeads", {"other": "1x20"}, "10m", 1),
    ("NodeobsNobodyLeads", {'nodeobs_leader{pod="a"}': "0x20", 'nodeobs_leader{pod="b"}': "1x20"}, "10m", 0),
    ("NodeobsRunFailed", {'nodeobs_runs_total{result="Failed",trigger="alert"}': "0x5 1x10"}, "10m", 1),
    ("NodeobsRunFailed", {'nodeobs_runs_total{result="Succeeded",trigger="alert"}': "0x5 1x10"}, "10m", 0),
    (
        "NodeobsNodesFail",
        {f"nodeobs_last_run_agents{CLUSTER}": "4x9", f"nodeobs_last_run_failed_agents{CLUSTER}": "1x9"},
        "5m",
        1,
    ),
    (
        "NodeobsNodesFail",
        {f"nodeobs_last_run_agents{CLUSTER}": "9x9", f"nodeobs_last_run_failed_agents{CLUSTER}": "1x9"},
        "5m",
        0,
    ),
    (
        "NodeobsNoSuccess",
        {
            f"nodeobs_last_run_timestamp_seconds{CLUSTER}": "9000x20",
            f"nodeobs_last_success_timestamp_seconds{CLUSTER}": "5000x20",
        },
        "15m",
        1,
    ),
    ("NodeobsNoSuccess", {f"nodeobs_last_run_timestamp_seconds{CLUSTER}": "9000x20"}, "15m", 1),
    (
        "NodeobsNoSuccess",
        {
            f"nodeobs_last_run_timestamp_seconds{CLUSTER}": "9000x20",
            f"nodeobs_last_success_timestamp_seconds{CLUSTER}": "9000x20",
        },
        "15m",
        0,
    ),
    ("NodeobsRunHangs", {f"nodeobs_run_in_progress{CLUSTER}": "1x100"}, "90m", 1),
    ("NodeobsRunHangs", {f"nodeobs_run_in_progress{CLUSTER}": "1x60 0x60"}, "90m", 0),
    (
        "NodeobsRunHangs",
        {
            'nodeobs_run_in_progress{nodeobservability="cluster",pod="a"}': "1x50",
            'nodeobs_run_in_progress{nodeobservability="cluster",pod="b"}': "_x49 1x60",
        },
        "90m",
        1,
    ),
    (  # nobody leads for a moment: the last pod's series end before the next one's begin
        "NodeobsRunHangs",
        {
            'nodeobs_run_in_progress{nodeobservability="cluster",pod="a"}': "1x40 stale",
            'nodeobs_run_in_progress{nodeobservability="cluster",pod="b"}': "_x43 1x60",
        },
        "90m",
        1,
    ),
    (  # one Run after the other, the leader gone in between
        "NodeobsRunHangs",
        {
            'nodeobs_run_in_progress{nodeobservability="cluster",pod="a"}': "1x40 stale",
            'nodeobs_run_in_progress{nodeobservability="cluster",pod="b"}': "_x43 0x4 1x60",
        },
        "90m",
        0,
    ),
    ("NodeobsAlertsNotAnswered", {'nodeobs_alert_notifications_total{outcome="failed"}': "0x5 3x10"}, "10m", 1),
    ("NodeobsAlertsNotAnswered", {'nodeobs_alert_notifications_total{outcome="unmatched"}': "0x5 3x10"}, "10m", 0),
    ("NodeobsTriggersWrong", {"nodeobs_triggers_last_reload_successful": "0x20"}, "10m", 1),
    ("NodeobsTriggersWrong", {"nodeobs_triggers_last_reload_successful": "1x20"}, "10m", 0),
    ("NodeobsInternalErrors", {'nodeobs_internal_errors_total{where="driver"}': "0x5 1x10"}, "10m", 1),
    ("NodeobsInternalErrors", {'nodeobs_internal_errors_total{where="driver"}': "1x15"}, "10m", 0),
    (
        "NodeobsAdmissionSlow",
        {
            'nodeobs_webhook_duration_seconds_bucket{webhook="validate",le="1"}': "0+1x40",
            'nodeobs_webhook_duration_seconds_bucket{webhook="validate",le="10"}': "0+9x40",
            'nodeobs_webhook_duration_seconds_bucket{webhook="validate",le="+Inf"}': "0+9x40",
        },
        "30m",
        1,
    ),
    (
        "NodeobsAdmissionSlow",
        {
            'nodeobs_webhook_duration_seconds_bucket{webhook="validate",le="1"}': "0+9x40",
            'nodeobs_webhook_duration_seconds_bucket{webhook="validate",le="+Inf"}': "0+9x40",
        },
        "30m",
        0,
    ),
    (
        "NodeobsAdmissionUndecided",
        {'nodeobs_admission_requests_total{allowed="false",reason="Unavailable"}': "0x5 2x20"},
        "15m",
        1,
    ),
    (
        "NodeobsAdmissionUndecided",
        {'nodeobs_admission_requests_total{allowed="false",reason="ConcurrentRun"}': "0x5 2x20"},
        "15m",
        0,
    ),
]


def test_every_alert_is_tried_both_ways() -> None:
    tried = {(name, bool(count)) for name, _, _, count in CASES}
    assert tried == {(rule["alert"], fires) for rule in RULES for fires in (True, False)}


@pytest.mark.integration
def test_alerts_fire_when_they_should_and_not_otherwise(tmp_path: Path) -> None:
    """``CASES``: alert, series and their values each minute, when to look, how many alerts."""
    tests = []
    for name, series, at, count in CASES:
        look = f"count(ALERTS{{alertname={json.dumps(name)},alertstate='firing'}}) or vector(0)"
        expected = {"expr": look, "eval_time": at, "exp_samples": [{"labels": "{}", "value": count}]}
        inputs = [{"series": one, "values": values} for one, values in series.items()]
        tests.append({"interval": "1m", "input_series": inputs, "promql_expr_test": [expected]})
    document = {"rule_files": [str(RULES_FILE)], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "tests.yaml").write_text(yaml.safe_dump(document))
    for argv in (["check", "rules", str(RULES_FILE)], ["test", "rules", str(tmp_path / "tests.yaml")]):
        done = subprocess.run([program("promtool"), *argv], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
