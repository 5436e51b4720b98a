"""What comes out of the chart, for every file in ci/ and for values that do not go together."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from click.testing import CliRunner

from charts.generate import CHART
from nodeobs.cli import main
from nodeobs.runs.rulesfile import load_rules
from tests.chart.rendering import (
    AGENTS,
    CASES,
    NAMESPACE,
    Object,
    helm,
    identity,
    is_hook,
    load,
    objects,
    one,
    pods,
    render,
    settings_text,
)

pytestmark = [pytest.mark.cluster, pytest.mark.usefixtures("helm_there")]

every_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.removesuffix("-values.yaml"))


@every_case
def test_every_case_renders_the_same_each_time(case: Path) -> None:
    first = render(case=case)
    assert first == render(case=case), "an upgrade with the same values changes nothing"
    assert len({identity(item) for item in objects(first)}) == len(objects(first))
    for item in objects(first):
        assert item["metadata"]["labels"]["app.kubernetes.io/part-of"] == "nodeobs", identity(item)


@every_case
def test_lint_has_nothing_to_say(case: Path) -> None:
    said = helm("lint", "--strict", CHART, "--values", case)
    assert "WARNING" not in said
    assert "ERROR" not in said


@every_case
def test_the_service_takes_its_settings_and_triggers(case: Path, tmp_path: Path) -> None:
    found = objects(render(case=case))
    settings = load(settings_text(found), tmp_path)
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert settings.mode == "kubernetes"
    assert settings.agent_image == container["image"]
    assert settings.bind_port == container["ports"][0]["containerPort"]
    load_rules(one(found, "ConfigMap", "nodeobs-triggers")["data"]["triggers.yaml"], source=case.name)


@every_case
def test_what_the_settings_name_is_mounted(case: Path) -> None:
    found = objects(render(case=case))
    pod = one(found, "Deployment")["spec"]["template"]["spec"]
    mounts = {mount["mountPath"]: mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert set(mounts.values()) == {volume["name"] for volume in pod["volumes"]}
    for path in re.findall(r'^\w+: "?(/[\w./-]+)"?$', settings_text(found), re.MULTILINE):
        assert any(path == mount or path.startswith(f"{mount}/") for mount in mounts), path


def printed(*options: str) -> list[Object]:
    """What ``nodeobs manifests`` prints for the namespaces of the tests."""
    done = CliRunner().invoke(main, ["manifests", "--namespace", NAMESPACE, *options])
    assert done.exit_code == 0, done.output
    return list(yaml.safe_load_all(done.stdout))


def bare(item: Object) -> Object:
    """Without what only the chart has: labels, annotations."""
    metadata = {key: value for key, value in item["metadata"].items() if key not in ("labels", "annotations")}
    return {**item, "metadata": metadata}


@pytest.mark.parametrize(
    ("values", "options"),
    [
        ([], []),
        (["apiServerProxy.enabled=true"], ["--via-api-server"]),
        (["openshift=true"], ["--openshift"]),
        (["openshift=true", "apiServerProxy.enabled=true"], ["--openshift", "--via-api-server"]),
    ],
    ids=["as it comes", "through the API server", "OpenShift", "both"],
)
def test_the_rights_are_those_that_the_command_prints_and_nothing_more(values: list[str], options: list[str]) -> None:
    kinds = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")
    rendered = objects(render(*(part for value in values for part in ("--set", value))))
    ours = {identity(item): bare(item) for item in rendered if item["kind"] in kinds and not is_hook(item)}
    assert ours == {identity(item): bare(item) for item in printed("--only", "rbac", *options)}


@pytest.mark.parametrize("part", ["crds", "webhooks", "services"])
def test_everything_else_is_what_the_command_prints(part: str) -> None:
    rendered = {identity(item): bare(item) for item in objects(render())}
    for item in printed("--only", part):
        ours = rendered[identity(item)]
        if part == "services":
            ours["spec"].pop("type")
        assert ours == bare(item)


def test_the_agents_namespace_lets_them_have_a_socket() -> None:
    namespace = one(objects(render()), "Namespace", AGENTS)
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "privileged"
    elsewhere = objects(render(case=CHART / "ci/existing-claim-values.yaml"))
    assert not [item for item in elsewhere if item["kind"] == "Namespace"]
    assert one(elsewhere, "Role", "nodeobs-deploy")["metadata"]["namespace"] == "profilers"


def test_definitions_and_outputs_stay() -> None:
    kept = {
        item["kind"]
        for item in objects(render())
        if item["metadata"].get("annotations", {}).get("helm.sh/resource-policy") == "keep"
    }
    assert kept == {"CustomResourceDefinition", "PersistentVolumeClaim"}


def test_several_replicas_are_spread_and_not_all_evicted_at_once() -> None:
    found = objects(render(case=CHART / "ci/replicas-object-store-values.yaml"))
    spec = one(found, "Deployment")["spec"]
    assert one(found, "PodDisruptionBudget")["spec"]["selector"] == spec["selector"]
    assert spec["strategy"]["type"] == "RollingUpdate"
    keys = {each["topologyKey"] for each in spec["template"]["spec"]["topologySpreadConstraints"]}
    assert keys == {"kubernetes.io/hostname", "topology.kubernetes.io/zone"}
    assert not [item for item in found if item["kind"] == "PersistentVolumeClaim"]


def test_one_replica_gives_its_volume_up_before_the_next_takes_it() -> None:
    found = objects(render())
    assert one(found, "Deployment")["spec"]["strategy"] == {"type": "Recreate"}
    assert not [item for item in found if item["kind"] == "PodDisruptionBudget"]


def test_an_object_store_is_reached_with_what_values_say() -> None:
    found = objects(render(case=CHART / "ci/replicas-object-store-values.yaml"))
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    env = {each["name"]: each["value"] for each in container["env"]}
    assert env["AWS_ENDPOINT_URL"] == "http://minio.storage.svc:9000"
    assert env["AWS_ALLOW_HTTP"] == "true"
    assert env["AWS_REGION"] == "us-east-1"
    assert container["envFrom"] == [{"secretRef": {"name": "bucket"}}]
    names = ("AWS_REGION", "AWS_ALLOW_HTTP", "AWS_ENDPOINT_URL")
    again = [part for name in names for part in ("--set-string", f"outputs.objectStore.environment.{name}=mine")]
    found = objects(render(*again, case=CHART / "ci/replicas-object-store-values.yaml"))
    (container,) = one(found, "Deployment")["spec"]["template"]["spec"]["containers"]
    # The API server refuses a variable that is given twice.
    assert sorted(each["name"] for each in container["env"] if each["value"] == "mine") == sorted(names)
    assert len({each["name"] for each in container["env"]}) == len(container["env"])
    given = objects(render(case=CHART / "ci/object-store-credentials-values.yaml"))
    assert set(one(given, "Secret", "nodeobs-object-store")["data"]) == {
        "AZURE_STORAGE_ACCOUNT_NAME",
        "AZURE_STORAGE_ACCOUNT_KEY",
    }
    assert "c2VjcmV0" not in str(one(given, "Deployment"))


CERTIFICATES: list[tuple[str, Callable[[Object], Any]]] = [
    ("cert-manager", lambda notes: notes["cert-manager.io/inject-ca-from"] == f"{NAMESPACE}/nodeobs"),
    ("openshift", lambda notes: notes["service.beta.openshift.io/inject-cabundle"] == "true"),
]


@pytest.mark.parametrize(("case", "trusted"), CERTIFICATES, ids=[case for case, _ in CERTIFICATES])
def test_somebody_else_makes_the_certificate(case: str, trusted: Callable[[Object], Any]) -> None:
    found = objects(render(case=CHART / f"ci/{case}-values.yaml"))
    asked = [item for item in found if item["kind"] in ("CustomResourceDefinition", "ValidatingWebhookConfiguration")]
    assert len(asked) == 4
    assert all(trusted(item["metadata"]["annotations"]) for item in asked)
    settings = yaml.safe_load(settings_text(found))
    volumes = one(found, "Deployment")["spec"]["template"]["spec"]["volumes"]
    (secret,) = (volume["secret"]["secretName"] for volume in volumes if volume["name"] == "certificate")
    assert settings["tls_cert_file"] == "/etc/nodeobs/tls/tls.crt"
    if case == "openshift":
        notes = one(found, "Service")["metadata"]["annotations"]
        assert notes["service.beta.openshift.io/serving-cert-secret-name"] == secret
    else:
        certificate = one(found, "Certificate")["spec"]
        assert certificate["secretName"] == secret
        assert f"nodeobs.{NAMESPACE}.svc" in certificate["dnsNames"]


def test_the_service_makes_its_own_certificate_by_default() -> None:
    found = objects(render())
    assert "tls_cert_file" not in settings_text(found)
    assert "inject" not in render()


def test_openshift_is_known_by_its_api_or_by_a_value() -> None:
    for case, expected in (
        ("openshift", True),
        ("openshift-by-hand", True),
        ("not-openshift", False),
        ("default", False),
    ):
        found = objects(render(case=CHART / f"ci/{case}-values.yaml"))
        constraints = [item for item in found if item["kind"] == "SecurityContextConstraints"]
        assert bool(constraints) is expected, case
        assert yaml.safe_load(settings_text(found))["openshift"] is expected
        user = one(found, "Deployment")["spec"]["template"]["spec"]["securityContext"].get("runAsUser")
        assert user == (None if expected else 65532), "OpenShift gives each namespace a user of its own"
        for item in constraints:
            assert item["groups"] == [f"system:serviceaccounts:{AGENTS}"]
            assert item["allowPrivilegedContainer"] is False


def test_a_policy_lets_helms_test_reach_the_service() -> None:
    found = objects(render(case=CHART / "ci/network-policy-values.yaml"))
    (rule,) = one(found, "NetworkPolicy")["spec"]["ingress"]
    allowed, *_ = (peer["podSelector"]["matchLabels"] for peer in rule["from"] if "podSelector" in peer)
    assert allowed.items() <= one(found, "Pod", "nodeobs-test")["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        *(("http://minio:9000", 9000), ("https://minio.example", 443), ("http://minio/path", 80)),
        *(("https://[fd00::1]:9443/", 9443), ("https://[fd00::1]", 443)),
    ],
)
def test_a_policy_lets_the_service_reach_its_object_store(endpoint: str, port: int) -> None:
    values = f"networkPolicy.enabled=true,outputs.objectStore.url=s3://x,outputs.objectStore.endpoint={endpoint}"
    *_, rule = one(objects(render("--set", values)), "NetworkPolicy")["spec"]["egress"]
    assert [each["port"] for each in rule["ports"]] == [443, 6443, *({port} - {443})]


def test_pods_are_not_for_nodes_of_another_system() -> None:
    infra = CHART / "ci/placement-values.yaml"
    for case in (None, infra):
        for pod in pods(objects(render(case=case))):
            assert pod["spec"]["nodeSelector"]["kubernetes.io/os"] == "linux"


def test_roles_are_given_to_whom_values_name() -> None:
    found = objects(render(case=CHART / "ci/network-policy-values.yaml"))
    subjects = {
        name: one(found, "ClusterRoleBinding", f"nodeobs-access-{name}")["subjects"]
        for name in ("viewer", "runner", "admin")
    }
    rbac = "rbac.authorization.k8s.io"
    assert subjects["viewer"] == [{"kind": "Group", "name": "developers", "apiGroup": rbac}]
    assert subjects["admin"] == [{"kind": "ServiceAccount", "name": "deployer", "namespace": NAMESPACE}]
    assert not [item for item in objects(render()) if item["metadata"]["name"].startswith("nodeobs-access")]


def test_alertmanager_gets_a_token_for_alerts_alone() -> None:
    found = objects(render("--set", "alertmanager.token=true"))
    secret = one(found, "Secret", "nodeobs-alertmanager-token")
    assert secret["metadata"]["annotations"] == {"kubernetes.io/service-account.name": "nodeobs-alertmanager"}
    binding = one(found, "ClusterRoleBinding", "nodeobs-access-alerts")
    assert binding["roleRef"]["name"] == "nodeobs-alerts"
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "nodeobs-alertmanager", "namespace": NAMESPACE}]
    assert not [item for item in objects(render()) if item["kind"] == "Secret"]


@pytest.mark.parametrize(
    ("source", "authority"),
    [
        ("selfManaged", {"configMap": {"name": "nodeobs-ca", "key": "ca.crt"}}),
        ("certManager", {"secret": {"name": "nodeobs-serving-cert", "key": "ca.crt"}}),
        ("openshift", {"configMap": {"name": "nodeobs-service-ca", "key": "service-ca.crt"}}),
    ],
)
def test_prometheus_and_helms_test_trust_whoever_makes_the_certificate(source: str, authority: Object) -> None:
    case = CHART / "ci/monitoring-values.yaml"
    found = objects(render("--set", f"certificates.source={source}", case=case))
    (endpoint,) = one(found, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["tlsConfig"] == {"serverName": f"nodeobs.{NAMESPACE}.svc", "ca": authority}
    assert one(found, "Secret", endpoint["authorization"]["credentials"]["name"])["type"].endswith(
        "service-account-token"
    )
    subjects = [each["name"] for each in one(found, "ClusterRoleBinding", "nodeobs-access-metrics")["subjects"]]
    assert subjects == ["prometheus", "nodeobs-metrics"]
    (volume,) = one(found, "Pod", "nodeobs-test")["spec"]["volumes"]
    ((kind, reference),) = authority.items()
    assert volume[kind]["items"] == [{"key": reference["key"], "path": "ca.crt"}]
    assert reference["name"] in volume[kind].values()


def test_what_cleans_up_comes_and_goes_with_its_rights() -> None:
    hooks = [
        item
        for item in objects(render())
        if item["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-delete"
    ]
    weights = {item["kind"]: int(item["metadata"]["annotations"]["helm.sh/hook-weight"]) for item in hooks}
    assert weights.pop("Job") > max(weights.values())
    assert set(weights) == {"ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
    for item in hooks:
        policy = item["metadata"]["annotations"]["helm.sh/hook-delete-policy"]
        assert policy == "before-hook-creation,hook-succeeded", identity(item)
    (container,) = one(hooks, "Job", "nodeobs-uninstall")["spec"]["template"]["spec"]["containers"]
    words = [*container["command"][1:], *container["args"]]
    with click.Context(main) as context:
        command = main.get_command(context, words[0])
        assert command is not None
        told = command.make_context("uninstall", words[1:]).params
    assert (told["namespace"], told["agent_namespace"], told["yes"]) == (NAMESPACE, AGENTS, True)
    without = objects(render("--set", "uninstall.enabled=false"))
    assert [item["kind"] for item in without if is_hook(item)] == ["Pod"]
