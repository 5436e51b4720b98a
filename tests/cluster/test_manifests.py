"""What ``nodeobs manifests`` prints, applied: the admission webhook's reach, and what each role may do and not more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from click.testing import CliRunner

from nodeobs.cli import main
from nodeobs.errors import NodeobsError
from nodeobs.kube.client import KubeClient
from nodeobs.kube.crds import Webhook
from nodeobs.kube.manifests import Part, manifests
from nodeobs.kube.rbac import MACHINE_GROUP, MACHINES, SERVICE, Features, rbac
from nodeobs.kube.reviews import AUTHORIZATION_PATH, Identity, PathRight, ResourceRight, Right, access_review
from nodeobs.model import GROUP, NodeObservability, Run
from tests.api_webhooks import MANAGER, Webhooks, converted, webhooks
from tests.custom_objects import Objects, path
from tests.custom_resources import clear
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

pytestmark = pytest.mark.cluster

CREATED_BY = f"{GROUP}/created-by"
REF = {"nodeObservabilityRef": {"name": "cluster"}}
HOOKS = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
MERGE = "application/merge-patch+json"


@pytest.fixture(scope="module")
def asked() -> Iterator[Webhooks]:
    with webhooks() as found:
        yield found


@pytest.fixture(scope="module")
def admin(api_server: ApiServer, asked: Webhooks) -> Iterator[KubeClient]:
    with closing(api_server.client()) as client, converted(client, asked.webhook):
        yield client


@pytest.fixture(scope="module")
def _roles(api_server: ApiServer, admin: KubeClient) -> None:
    documents = _documents(Webhook(), Part.NAMESPACES, Part.RBAC)
    every = rbac(namespace="nodeobs", agent_namespace="nodeobs-agents", features=Features(openshift=True))
    documents["items"] += [one for one in every if (one["kind"], one["metadata"]["name"]) == ("ClusterRole", MACHINES)]
    api_server.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(documents))


@pytest.fixture
def admission(api_server: ApiServer, admin: KubeClient, asked: Webhooks) -> Iterator[Webhooks]:
    """The validating webhook in force; gone again afterwards."""
    documents = _documents(asked.webhook, Part.WEBHOOKS)
    api_server.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(documents))
    objects = Objects(admin, NodeObservability.KIND, "v1beta1", "")
    asked.decide = lambda request: "probe" if request["name"] == "probe" else ""
    try:
        wait_for("admission is in force", lambda: _refuses(objects))
        asked.admissions.clear()
        yield asked
    finally:
        admin.request("DELETE", f"{HOOKS}/{SERVICE}")
        wait_for("admission is gone", lambda: _accepts(objects))
        asked.decide = lambda request: ""
        clear(admin)


def _documents(webhook: Webhook, *parts: Part) -> dict[str, Any]:
    found = manifests(namespace="nodeobs", agent_namespace="nodeobs-agents", webhook=webhook, parts=parts)
    return {"apiVersion": "v1", "kind": "List", "items": found}


def _refuses(objects: Objects) -> bool:
    try:
        objects.create({}, name="probe")
    except NodeobsError:
        return True
    objects.delete("probe")
    return False


def _accepts(objects: Objects) -> bool:
    return not _refuses(objects)


def test_everything_can_be_applied_and_applied_again(api_server: ApiServer, admin: KubeClient) -> None:
    """Tried, not done: the webhooks' service is not there."""
    printed = CliRunner().invoke(main, ["manifests"]).stdout
    api_server.kubectl("apply", "--server-side", "-f", "-", input=json.dumps(_documents(Webhook(), Part.NAMESPACES)))
    for _ in range(2):
        said = api_server.kubectl(
            "apply", "--server-side", f"--field-manager={MANAGER}", "--dry-run=server", "-f", "-", input=printed
        )
        assert said.count("serverside-applied") == printed.count("\nkind: ")


def test_applying_again_leaves_the_published_authority(api_server: ApiServer, admin: KubeClient) -> None:
    bare = json.dumps(_documents(Webhook(url="https://127.0.0.1:1"), Part.WEBHOOKS))
    api_server.kubectl("apply", "--server-side", "-f", "-", input=bare)
    try:
        found = json.loads(admin.get(f"{HOOKS}/{SERVICE}"))
        authority = Webhook(url="x", ca_bundle=api_server.ca_file.read_bytes()).client_config("")["caBundle"]
        found["webhooks"][0]["clientConfig"]["caBundle"] = authority
        admin.request("PUT", f"{HOOKS}/{SERVICE}", found)
        api_server.kubectl("apply", "--server-side", "-f", "-", input=bare)
        again = json.loads(admin.get(f"{HOOKS}/{SERVICE}"))
        assert again["webhooks"][0]["clientConfig"]["caBundle"] == authority
    finally:
        admin.request("DELETE", f"{HOOKS}/{SERVICE}")


def test_admission_is_asked_for_what_matters_and_for_nothing_else(
    admin: KubeClient, admission: Webhooks, namespace: str
) -> None:
    at = f"{path(Run.KIND, 'v1beta1', namespace)}/x"

    def asked_by(method: str, where: str, body: Any = None) -> set[str]:
        """Operations; a patch that the API server tries again is asked for again."""
        admission.admissions.clear()
        admin.request(method, where, body, content_type=MERGE)
        return {request["operation"] for request in admission.admissions}

    runs = Objects(admin, Run.KIND, "v1beta1", namespace)
    runs.create(REF)
    assert {request["operation"] for request in admission.admissions} == {"CREATE"}
    quiet: list[dict[str, Any]] = [
        {"metadata": {"labels": {"a": "b"}}},
        {"metadata": {"annotations": {"a": "b"}}},
        {"metadata": {"finalizers": [f"{GROUP}/driven"]}},
        {"metadata": {"finalizers": []}},
        {"metadata": {"annotations": None}},
        {"spec": {"cancel": False}},
    ]
    for patch in quiet:
        assert asked_by("PATCH", at, patch) == set(), patch
    assert asked_by("PATCH", f"{at}/status", {"status": {"phase": "Running"}}) == set()
    assert asked_by("PATCH", at, {"spec": {"cancel": True}}) == {"UPDATE"}
    assert asked_by("PATCH", at, {"metadata": {"annotations": {CREATED_BY: "me"}}}) == {"UPDATE"}
    assert asked_by("PATCH", at, {"metadata": {"annotations": {CREATED_BY: None}}}) == {"UPDATE"}
    assert asked_by("DELETE", at) == set()


def test_admission_sees_the_storage_version_of_old_requests(
    admin: KubeClient, admission: Webhooks, namespace: str
) -> None:
    Objects(admin, Run.KIND, "v1alpha1", namespace).create(REF)
    Objects(admin, NodeObservability.KIND, "v1alpha1", "").create({"labels": {"a": "b"}}, name="old")
    run, observability = (request for request in admission.admissions if request["name"] in ("x", "old"))
    assert run["object"]["apiVersion"] == f"{GROUP}/v1beta1"
    assert run["object"]["spec"]["durationSeconds"] == 30
    assert observability["object"]["spec"]["nodeSelector"] == {"a": "b"}
    assert observability["requestKind"]["version"] == "v1alpha1"


def test_a_refusal_stops_a_creation_and_an_absent_service_does(
    admin: KubeClient, admission: Webhooks, namespace: str
) -> None:
    admission.decide = lambda request: "not today" if request["kind"]["kind"] == Run.KIND else ""
    runs = Objects(admin, Run.KIND, "v1beta1", namespace)
    with pytest.raises(NodeobsError, match="not today"):
        runs.create(REF)
    admission.away.set()
    try:
        with pytest.raises(NodeobsError, match="failed calling webhook"):
            runs.create(REF)
    finally:
        admission.away.clear()
        admission.decide = lambda request: "probe" if request["name"] == "probe" else ""


OURS, BESIDE, OTHER = "nodeobs", "nodeobs-agents", "kube-system"
CRDS, HOOK, ROLES = "apiextensions.k8s.io", "admissionregistration.k8s.io", "rbac.authorization.k8s.io"
RUNS, OBSERVABILITIES = "nodeobservabilityruns", "nodeobservabilities"
MACHINE_CONFIGS = "nodeobservabilitymachineconfigs"

MACHINE_KINDS = {"machineconfigs": "10-crio-nodeobservability", "machineconfigpools": "nodeobservability"}


def right(verb: str, resource: str, *, group: str = "", namespace: str = "", name: str = "") -> ResourceRight:
    resource, _, subresource = resource.partition("/")
    return ResourceRight(
        verb=verb, resource=resource, subresource=subresource, namespace=namespace, name=name, group=group
    )


def own(verb: str, resource: str, namespace: str = OTHER) -> ResourceRight:
    return right(verb, resource, group=GROUP, namespace=namespace if resource.startswith(RUNS) else "")


def url(verb: str, at: str) -> PathRight:
    return PathRight(verb=verb, path=at)


SERVICE_MAY: list[Right] = [
    *(own(verb, RUNS) for verb in ("get", "list", "watch", "create", "update", "delete")),
    *(own(verb, OBSERVABILITIES) for verb in ("get", "list", "watch", "create", "update", "delete")),
    own("update", f"{RUNS}/status"),
    own("update", f"{OBSERVABILITIES}/status"),
    *(right(verb, MACHINE_CONFIGS, group=GROUP) for verb in ("list", "watch", "update")),
    right("update", f"{MACHINE_CONFIGS}/status", group=GROUP),
    right("create", "events", namespace=OTHER),
    right("list", "nodes"),
    right("watch", "nodes"),
    *(
        right(verb, "daemonsets", group="apps", namespace=BESIDE)
        for verb in ("list", "watch", "create", "patch", "delete")
    ),
    *(right("patch", kind, namespace=BESIDE) for kind in ("serviceaccounts", "secrets", "configmaps", "services")),
    right("create", "clusterrolebindings", group=ROLES),
    right("patch", "clusterrolebindings", group=ROLES),
    right("bind", "clusterroles", group=ROLES, name="nodeobs-agent"),
    right("create", "tokenreviews", group="authentication.k8s.io"),
    right("create", "subjectaccessreviews", group="authorization.k8s.io"),
    right("patch", "customresourcedefinitions", group=CRDS, name=f"{RUNS}.{GROUP}"),
    right("patch", "customresourcedefinitions/status", group=CRDS, name=f"{RUNS}.{GROUP}"),
    right("patch", "validatingwebhookconfigurations", group=HOOK, name="nodeobs"),
    right("update", "leases", group="coordination.k8s.io", namespace=OURS, name="nodeobs"),
    right("create", "leases", group="coordination.k8s.io", namespace=OURS),
    right("patch", "secrets", namespace=OURS, name="nodeobs-tls"),
    right("get", "secrets", namespace=OURS, name="nodeobs-tls"),
    right("update", "configmaps", namespace=OURS, name="nodeobs-trigger-x"),
    right("list", "endpointslices", group="discovery.k8s.io", namespace=BESIDE),
    right("list", "pods", namespace=BESIDE),
    url("post", "/v1/collections"),
    url("delete", "/v1/collections/x"),
    url("get", "/node-observability-pprof"),
]
SERVICE_MAY_NOT: list[Right] = [
    right("get", "secrets", namespace=OURS, name="other"),
    right("list", "secrets", namespace=OURS),
    right("get", "secrets", namespace=OTHER),
    right("create", "daemonsets", group="apps", namespace=OURS),
    right("create", "daemonsets", group="apps", namespace=OTHER),
    right("create", "deployments", group="apps", namespace=BESIDE),
    right("delete", "configmaps", namespace=OURS, name="x"),
    right("get", "configmaps", namespace=OTHER, name="x"),
    right("update", "leases", group="coordination.k8s.io", namespace=OTHER, name="nodeobs"),
    right("list", "pods", namespace=OTHER),
    right("list", "pods", namespace=OURS),
    right("create", "pods", namespace=BESIDE),
    right("create", "pods/exec", namespace=BESIDE),
    right("get", "nodes/proxy"),
    right("update", "nodes"),
    right("patch", "nodes"),
    *(right(verb, MACHINE_CONFIGS, group=GROUP) for verb in ("create", "patch", "delete")),
    *(right(verb, "machineconfigs", group=MACHINE_GROUP) for verb in ("list", "create", "patch")),
    right("create", "serviceaccounts/token", namespace=BESIDE),
    right("patch", "customresourcedefinitions", group=CRDS, name="others.example.com"),
    right("create", "customresourcedefinitions", group=CRDS),
    right("delete", "customresourcedefinitions", group=CRDS, name=f"{RUNS}.{GROUP}"),
    right("patch", "validatingwebhookconfigurations", group=HOOK, name="other"),
    right("delete", "clusterrolebindings", group=ROLES),
    right("bind", "clusterroles", group=ROLES),
    right("bind", "clusterroles", group=ROLES, name="cluster-admin"),
    right("escalate", "clusterroles", group=ROLES, name="nodeobs-agent"),
    right("patch", "clusterroles", group=ROLES, name="nodeobs-agent"),
    right("impersonate", "users"),
    own("use", OBSERVABILITIES),
    url("get", "/metrics"),
    url("get", "/node-observability-scripting"),
    url("post", "/webhooks/alertmanager"),
]
MACHINES_MAY: list[Right] = [
    right("patch", "nodes"),
    right("watch", "nodes"),
    *(right(verb, kind, group=MACHINE_GROUP) for verb in ("get", "list", "watch") for kind in MACHINE_KINDS),
    *(
        right(verb, kind, group=MACHINE_GROUP, name=name)
        for verb in ("create", "patch", "delete")
        for kind, name in MACHINE_KINDS.items()
    ),
]
MACHINES_MAY_NOT: list[Right] = [
    *(right(verb, kind, group=MACHINE_GROUP) for verb in ("create", "patch", "delete") for kind in MACHINE_KINDS),
    *(right(verb, kind, group=MACHINE_GROUP, name="worker") for verb in ("patch", "delete") for kind in MACHINE_KINDS),
    right("patch", "machineconfigpools/status", group=MACHINE_GROUP, name="nodeobservability"),
    right("update", "nodes"),
    right("create", "nodes"),
    right("delete", "nodes"),
    right("patch", "nodes/status"),
]
AGENT_MAY: list[Right] = [
    right("get", "nodes/proxy"),
    right("create", "tokenreviews", group="authentication.k8s.io"),
    right("create", "subjectaccessreviews", group="authorization.k8s.io"),
]
AGENT_MAY_NOT: list[Right] = [
    right("create", "nodes/proxy"),
    right("get", "nodes"),
    right("get", "secrets", namespace=BESIDE),
    right("list", "pods", namespace=BESIDE),
    own("get", RUNS),
    url("post", "/v1/collections"),
]
VIEWER_MAY: list[Right] = [
    own("list", RUNS),
    own("get", f"{RUNS}/output"),
    own("watch", OBSERVABILITIES),
    url("get", "/"),
]
RUNNER_MAY: list[Right] = [
    *VIEWER_MAY,
    own("create", RUNS),
    own("patch", RUNS),
    own("use", OBSERVABILITIES),
    url("post", "/webhooks/alertmanager"),
]
ADMIN_MAY: list[Right] = [*RUNNER_MAY, own("create", OBSERVABILITIES), url("get", "/debug/pprof/profile")]
NOBODY_MAY: list[Right] = [
    own("update", f"{RUNS}/status"),
    right("get", "secrets", namespace=OURS),
    url("post", "/v1/collections"),
]


def account(namespace: str, name: str) -> Identity:
    groups = ("system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{namespace}")
    return Identity(f"system:serviceaccount:{namespace}:{name}", groups=groups)


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        ("", SERVICE_MAY, SERVICE_MAY_NOT),
        ("nodeobs-agent", AGENT_MAY, AGENT_MAY_NOT),
        (MACHINES, MACHINES_MAY, MACHINES_MAY_NOT),
        ("nodeobs-metrics", [url("get", "/metrics")], [*VIEWER_MAY, *NOBODY_MAY]),
        ("nodeobs-alerts", [url("post", "/webhooks/alertmanager")], [*VIEWER_MAY, *NOBODY_MAY]),
        ("nodeobs-viewer", VIEWER_MAY, [*RUNNER_MAY[len(VIEWER_MAY) :], *NOBODY_MAY]),
        ("nodeobs-runner", RUNNER_MAY, [*ADMIN_MAY[len(RUNNER_MAY) :], *NOBODY_MAY]),
        ("nodeobs-admin", ADMIN_MAY, NOBODY_MAY),
    ],
)
@pytest.mark.usefixtures("_roles")
def test_a_role_is_enough_and_not_more(admin: KubeClient, role: str, may: list[Right], may_not: list[Right]) -> None:
    who = account(OURS, SERVICE)
    if role:
        who = Identity(f"somebody-with-{role}")
        _bind(admin, role, who.user)

    def allowed(asked: Right) -> bool:
        answer = admin.request("POST", AUTHORIZATION_PATH, access_review(who, asked))
        return bool(json.loads(answer)["status"]["allowed"])

    wait_for("the authorizer knows the binding", lambda: allowed(may[0]), seconds=15)
    assert [str(asked) for asked in may if not allowed(asked)] == []
    assert [str(asked) for asked in may_not if allowed(asked)] == []


def _bind(admin: KubeClient, role: str, user: str) -> None:
    binding = {
        "metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}],
    }
    admin.request("POST", "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
