"""Writes what the chart has from the code: definitions, rights, the webhook, and the values in its README.

``python -m charts.generate`` (``make chart``); a test says where it was forgotten.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from nodeobs.kube.crds import Webhook, crds
from nodeobs.kube.manifests import Part, manifests
from nodeobs.kube.rbac import SERVICE, Features, rbac, uninstall_rbac

Json = dict[str, Any]

CHART: Final = Path(__file__).parent / "nodeobs"

_HOME: Final = "{{ .Release.Namespace }}"
_AGENTS: Final = '{{ include "nodeobs.agentsNamespace" . }}'
_NOTE: Final = "{{- /* Written by `make chart` from nodeobs/kube: change it there. */ -}}\n"
_FEATURES: Final[Mapping[str, tuple[Features, str]]] = {
    "apiServerProxy": (Features(via_api_server=True), ".Values.apiServerProxy.enabled"),
    "openshift": (Features(openshift=True), 'eq (include "nodeobs.openshift" .) "true"'),
}
_UNINSTALL: Final = ".Values.uninstall.enabled"
_HOOK: Final[Mapping[str, str]] = {
    "helm.sh/hook": "pre-delete",
    "helm.sh/hook-weight": "-5",  # before the Job that has these rights
    "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded",
}
_LABELS: Final = '\n    {{- include "nodeobs.labels" . | nindent 4 }}'
_TRUST: Final = '\n    {{- include "nodeobs.trustAnnotations" . | nindent 4 }}'
_ACCOUNT: Final = """
  {{- with .Values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}"""
_BEGIN: Final = "<!-- values: written by `make chart` from values.yaml -->\n"
_END: Final = "<!-- end of values -->\n"


class _Dumper(yaml.SafeDumper):
    """Writes what occurs twice twice."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the base class's signature
        return True


def written(chart: Path = CHART) -> dict[Path, str]:
    """Every file that is made, relative to the chart, with its text."""
    files = {
        Path("templates/validatingwebhookconfiguration.yaml"): _template(
            manifests(namespace=_HOME, agent_namespace=_AGENTS, webhook=_webhook(), parts=[Part.WEBHOOKS])[0],
            trust=True,
        ),
        Path("README.md"): _readme(chart),
    }
    for definition in crds(webhook=_webhook()):
        path = Path("templates/crds") / f"{definition['spec']['names']['plural']}.yaml"
        files[path] = _template(definition, trust=True, keep=True)
    for document in uninstall_rbac(namespace=_HOME, agent_namespace=_AGENTS):
        document["metadata"]["annotations"] = dict(_HOOK)
        files[Path("templates/uninstall") / _rbac_name(document)] = _template(document, condition=_UNINSTALL)
    return files | dict(_rights())


def made_before() -> list[Path]:
    """Templates that say that they were made, relative to the chart."""
    templates = (CHART / "templates").rglob("*.yaml")
    return [path.relative_to(CHART) for path in templates if path.read_text(encoding="utf-8").startswith(_NOTE)]


def main() -> None:
    """Write them, and remove what is not made any more."""
    files = written()
    for path in made_before():
        if path not in files:
            (CHART / path).unlink()
    for path, text in files.items():
        (CHART / path).parent.mkdir(exist_ok=True)
        (CHART / path).write_text(text, encoding="utf-8")


def _webhook() -> Webhook:
    return Webhook(namespace=_HOME, service=SERVICE)


def _rights() -> Iterator[tuple[Path, str]]:
    folder = Path("templates/rbac")
    always = rbac(namespace=_HOME, agent_namespace=_AGENTS)
    for document in always:
        yield folder / _rbac_name(document), _template(document)
    for features, condition in _FEATURES.values():
        for document in rbac(namespace=_HOME, agent_namespace=_AGENTS, features=features):
            if document not in always:
                yield folder / _rbac_name(document), _template(document, condition=condition)


def _rbac_name(document: Json) -> str:
    metadata = document["metadata"]
    where = {_HOME: "", _AGENTS: "-beside-agents"}.get(namespace := metadata.get("namespace", ""), f"-{namespace}")
    return f"{document['kind'].lower()}-{metadata['name']}{where if namespace else ''}.yaml"


def _template(document: Json, *, condition: str = "", trust: bool = False, keep: bool = False) -> str:
    """The object as a template: its labels are the chart's, and namespaces are those of the release."""
    metadata = document["metadata"] | {"labels": "LABELS"}
    if trust:
        metadata["annotations"] = "ANNOTATIONS"
    text = yaml.dump(document | {"metadata": metadata}, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)
    if "{{" in text.replace(f"'{_HOME}'", "").replace(f"'{_AGENTS}'", ""):
        raise ValueError(f"{metadata['name']} has braces that Helm would take for its own")
    text = text.replace(" LABELS\n", f"{_LABELS}\n")
    policy = "\n    helm.sh/resource-policy: keep" if keep else ""
    if keep:
        text = text.replace(" ANNOTATIONS\n", f"{policy}{_TRUST}\n")
    else:
        text = text.replace(
            "  annotations: ANNOTATIONS\n",
            f'  {{{{- if ne .Values.certificates.source "selfManaged" }}}}\n  annotations:{_TRUST}\n  {{{{- end }}}}\n',
        )
    if (document["kind"], metadata["name"]) == ("ServiceAccount", SERVICE):
        text = f"{text.rstrip()}{_ACCOUNT}\n"
    return f"{_NOTE}{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n" if condition else f"{_NOTE}{text}"


def _readme(chart: Path) -> str:
    """The README with its table of values anew."""
    head, _, rest = (chart / "README.md").read_text(encoding="utf-8").partition(_BEGIN)
    tail = rest.partition(_END)[2]
    rows = ["| value | default | |", "|---|---|---|"]
    for path, default, words in documented((chart / "values.yaml").read_text(encoding="utf-8")):
        shown = "" if isinstance(default, dict) and default else f"`{json.dumps(default, ensure_ascii=False)}`"
        rows.append(f"| `{path}` | {shown} | {words.replace('|', chr(92) + '|')} |")
    return f"{head}{_BEGIN}" + "\n".join(rows) + f"\n{_END}{tail}"


def documented(text: str) -> Iterator[tuple[str, Any, str]]:
    """Each value with a comment above it: where it is, its default, and the comment."""
    values, words = yaml.safe_load(text), list[str]()
    above: list[tuple[int, str]] = []
    for line in text.splitlines():
        if found := re.fullmatch(r"\s*# ?(.*)", line):
            words.append(found[1])
            continue
        if found := re.match(r"( *)([A-Za-z_][\w-]*):", line):
            indent = len(found[1])
            above = [*(one for one in above if one[0] < indent), (indent, found[2])]
            if words:
                default: Any = values
                for _, key in above:
                    default = default[key]
                yield ".".join(key for _, key in above), default, " ".join(words)
        words = []


if __name__ == "__main__":
    main()
