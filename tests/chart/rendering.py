"""The chart, rendered by helm, as its tests look at it."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from charts.generate import CHART
from nodeobs.settings import Settings
from tests.lab.programs import need

Object = dict[str, Any]

CASES: Final = sorted((CHART / "ci").glob("*-values.yaml"))
NAMESPACE: Final = "profiling"
AGENTS: Final = "profiling-agents"

_SECONDS: Final = 300


class Refused(Exception):
    """What helm said when it did not do what it was asked."""


def helm(*arguments: str | Path, kubeconfig: Path | None = None) -> str:
    """What helm printed.

    Raises:
        Refused: it failed.
        Missing: it is not there.
    """
    program = need(["helm"])["helm"]
    environ = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
    environ["KUBECONFIG"] = str(kubeconfig or "/dev/null")
    argv = [str(part) for part in (program, *arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=_SECONDS, check=False, env=environ)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def render(*options: str | Path, case: Path | None = None, namespace: str = NAMESPACE) -> str:
    """The manifests of a release ``nodeobs``; with the values and the API versions of a file in ``ci/``."""
    given = [option for one in api_versions(case) for option in ("--api-versions", one)] if case else []
    values: list[str | Path] = ["--values", case] if case else []
    return helm("template", "nodeobs", CHART, "--namespace", namespace, *given, *values, *options)


def api_versions(case: Path) -> Sequence[str]:
    """What its comment says that the cluster serves."""
    found = re.search(r"^# api-versions: (.+)$", case.read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].split() if found else ()


def objects(text: str) -> list[Object]:
    """The objects of rendered manifests."""
    return [document for document in yaml.safe_load_all(text) if document]


def one(found: Sequence[Object], kind: str, name: str = "nodeobs") -> Object:
    """The only object of that kind and name."""
    (only,) = (item for item in found if item["kind"] == kind and item["metadata"]["name"] == name)
    return only


def identity(item: Mapping[str, Any]) -> tuple[str, str, str]:
    """By which an object is known."""
    return item["kind"], item["metadata"].get("namespace", ""), item["metadata"]["name"]


def is_hook(item: Mapping[str, Any]) -> bool:
    """Whether it is there for a moment only."""
    return "helm.sh/hook" in item["metadata"].get("annotations", {})


def pods(found: Sequence[Object]) -> Iterator[Object]:
    """A pod for each template of one, and those that are there."""
    for item in found:
        if item["kind"] == "Pod":
            yield item
        elif template := item.get("spec", {}).get("template", {}):
            metadata = {**template["metadata"], "name": item["metadata"]["name"], "namespace": NAMESPACE}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}


def settings_text(found: Sequence[Object]) -> str:
    """The settings file of the service."""
    text: str = one(found, "ConfigMap", "nodeobs-config")["data"]["nodeobs.yaml"]
    return text


def load(text: str, folder: Path) -> Settings:
    """The settings as the service reads them, with the files of its pod below ``folder``."""
    document = yaml.safe_load(text)
    for key, value in document.items():
        if key.endswith(("_file", "_dir")) or str(value).startswith("/"):
            document[key] = str(folder / value.lstrip("/"))
        if key.endswith("_file"):
            Path(document[key]).parent.mkdir(parents=True, exist_ok=True)
            Path(document[key]).touch()
    file = folder / "nodeobs.yaml"
    file.write_text(yaml.safe_dump(document), encoding="utf-8")
    return Settings.load({"NODEOBS_CONFIG": str(file)})
