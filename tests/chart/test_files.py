"""The chart's files agree with the code and with each other; none of these needs helm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from charts.generate import CHART, documented, made_before, written
from nodeobs import __version__
from nodeobs.errors import ConfigurationError
from nodeobs.model import ProfileType
from nodeobs.runs.rulesfile import load_rules
from nodeobs.settings import Settings

VALUES = (CHART / "values.yaml").read_text(encoding="utf-8")
SCHEMA = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))

BY_OTHER_VALUES = {
    *("mode", "namespace", "bind", "data_dir", "output", "triggers_file", "tls_cert_file", "tls_key_file"),
    *("agent_namespace", "agent_token_file", "agent_image", "agent_image_pull_policy", "agent_image_pull_secrets"),
    *("agent_socket_folders", "agent_url_hosts", "agent_host_network", "agent_storage_limit", "kubelet_ca_file"),
    "openshift",
}
NOT_IN_A_CHART = {
    *("kubeconfig", "tokens_file", "agents", "service_name", "webhook_configuration"),
    # Of agents that somebody else makes.
    *("agent_tls", "agent_ca_file", "agent_server_name", "agent_service"),
}


@pytest.mark.parametrize(("path", "text"), written().items(), ids=[str(path) for path in written()])
def test_what_is_made_from_the_code_is_as_the_code_has_it(path: Path, text: str) -> None:
    assert (CHART / path).read_text(encoding="utf-8") == text, "make chart"


def test_nothing_is_left_of_what_is_not_made_any_more() -> None:
    assert set(made_before()) <= set(written()), "make chart"


def test_the_chart_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    assert chart["appVersion"] == __version__


def test_every_setting_has_its_place() -> None:
    listed = set(SCHEMA["properties"]["config"]["properties"])
    assert listed | BY_OTHER_VALUES | NOT_IN_A_CHART == set(Settings.model_fields)
    assert not listed & (BY_OTHER_VALUES | NOT_IN_A_CHART)


def test_every_value_is_explained_and_in_the_schema() -> None:
    explained = {path for path, _, _ in documented(VALUES)}
    for path, schema in _leaves(yaml.safe_load(VALUES), SCHEMA):
        assert schema is not None, f"{path} is not in values.schema.json"
        assert path in explained, f"{path} has no comment"


def _leaves(values: dict[str, Any], schema: dict[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        path = f"{above}{key}"
        inner = schema["properties"].get(key)
        if isinstance(value, dict) and value and inner and "properties" in inner and path != "resources":
            yield from _leaves(value, inner, f"{path}.")
        else:
            yield path, inner


def test_every_value_of_the_schema_has_a_default() -> None:
    def compare(values: dict[str, Any], schema: dict[str, Any], above: str) -> None:
        for key, inner in schema["properties"].items():
            path = f"{above}{key}"
            if path in ("global", "enabled", "resources"):
                continue
            assert key in values, f"{path} is not in values.yaml"
            if "properties" in inner:
                compare(values[key], inner, f"{path}.")

    compare(yaml.safe_load(VALUES), SCHEMA, "")


def test_the_schema_lets_no_typo_through() -> None:
    def check(schema: Any, path: str) -> None:
        if isinstance(schema, list):
            for item in schema:
                check(item, path)
        elif isinstance(schema, dict):
            if "properties" in schema:
                assert schema.get("additionalProperties") is False, path
            for key, inner in schema.items():
                check(inner, f"{path}.{key}")

    check(SCHEMA, "")


def test_triggers_are_what_the_service_reads() -> None:
    known = set(SCHEMA["properties"]["triggers"]["items"]["properties"])
    said = re.search(r"with the keys (.+)$", _refusal("triggers: [1]"))
    assert said is not None
    assert known == set(said[1].split(", "))
    profiles = SCHEMA["properties"]["triggers"]["items"]["properties"]["profiles"]["items"]["enum"]
    assert profiles == list(ProfileType)


def _refusal(text: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_rules(text, source="x")
    return str(caught.value)
