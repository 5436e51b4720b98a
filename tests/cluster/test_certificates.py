"""The certificate of the webhooks at the real API server, kept with the rights of the service's role."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trustme
from cryptography import x509
from prometheus_client import CollectorRegistry

from nodeobs.errors import AlreadyExists, ConfigurationError, Conflict, NodeobsError, NotFound, StoreUnavailable
from nodeobs.kube.authority import KEPT_FOR, LIFETIME, PUBLISHED_FOR, RENEW_BEFORE
from nodeobs.kube.certificates import SECRETS, CertificateKeeper, ensure_pair
from nodeobs.kube.crds import CRD_NAMES
from nodeobs.kube.paths import CONFIG_MAPS, OBSERVABILITIES
from nodeobs.kube.rbac import CA_CONFIG_MAP, TLS_SECRET
from nodeobs.metrics import Metrics
from nodeobs.model import GROUP
from nodeobs.model.versions import convert_review
from nodeobs.web.certificate import ServedCertificate
from tests.cluster.world import DEFINITIONS, HOOKS, KubeWorld
from tests.processes import wait_for

pytestmark = pytest.mark.cluster


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.time = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(world: KubeWorld, clock: Clock) -> Iterator[Callable[..., CertificateKeeper]]:
    """Makes a keeper that writes to the file of that name."""
    with ExitStack() as stack:

        def keeper(
            name: str = "a.pem", crd_names: tuple[str, ...] = CRD_NAMES, kubeconfig: Path = world.kubeconfig
        ) -> CertificateKeeper:
            client = world.api.client(kubeconfig)
            stack.callback(client.close)
            return CertificateKeeper(
                client,
                namespace=world.namespace,
                service_name="nodeobs",
                webhook_configuration="nodeobs",
                crd_names=crd_names,
                file=world.folder / name,
                metrics=Metrics(CollectorRegistry()),
                now=clock,
                randomness=Random(1),
            )

        yield keeper


def published(world: KubeWorld) -> set[str]:
    """Every bundle that is published somewhere."""
    get = world.admin.get
    hooks = json.loads(get(HOOKS.item("nodeobs")))["webhooks"]
    definitions = [json.loads(get(DEFINITIONS.item(name))) for name in CRD_NAMES]
    configs = [hook["clientConfig"] for hook in hooks]
    configs += [found["spec"]["conversion"]["webhook"]["clientConfig"] for found in definitions]
    bundles = {base64.b64decode(config.get("caBundle", "")).decode() for config in configs}
    config_map = json.loads(get(CONFIG_MAPS.item(CA_CONFIG_MAP, world.namespace)))
    return bundles | {config_map["data"]["ca.crt"]}


def secret(world: KubeWorld) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(world.admin.get(SECRETS.item(TLS_SECRET, world.namespace)))
    return found


def in_secret(world: KubeWorld, key: str) -> str:
    return base64.b64decode(secret(world)["data"][key]).decode()


def served(file: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(file.read_bytes())


class Webhooks(BaseHTTPRequestHandler):
    """Allows everything, and converts."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if body["kind"] == "ConversionReview":
            answer = convert_review(body)
        else:
            answer = {**body, "response": {"uid": body["request"]["uid"], "allowed": True}}
        encoded = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


class Serving(ThreadingHTTPServer):
    """Serves with the certificate of a file, as the service does: each connection with what is there by then."""

    daemon_threads = True

    def __init__(self, address: str, file: Path) -> None:
        super().__init__((address, 0), Webhooks)
        self.name = "certificates"
        self.port = self.server_port
        self.refused = 0
        """Connections on which the client did not like the certificate."""
        self._certificate = ServedCertificate(file, file)

    def get_request(self) -> tuple[Any, Any]:
        connection, address = super().get_request()
        connection.settimeout(5)
        try:
            return self._certificate.context().wrap_socket(connection, server_side=True), address
        except ssl.SSLError:
            self.refused += 1
            raise

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust it hangs up."""


@contextmanager
def serving(world: KubeWorld, file: Path) -> Iterator[Serving]:
    server = Serving(world.address, file)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        world.publish(server)
        yield server
    finally:
        world.withdraw(server)
        server.shutdown()
        server.server_close()
        thread.join()


def is_called(world: KubeWorld) -> bool:
    """Whether the API server trusts the server of both webhooks, on a connection that it opens now."""
    document = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "NodeObservability", "metadata": {"name": "x"}}
    try:
        world.admin.request(
            "POST",
            OBSERVABILITIES.collection().replace("v1beta1", "v1alpha1"),
            document | {"spec": {"labels": {"a": "b"}}},
            params={"dryRun": "All"},
        )
    except NodeobsError:
        return False
    return True


def test_replicas_share_one_certificate_and_publish_its_authority(
    world: KubeWorld, make: Callable[..., CertificateKeeper]
) -> None:
    keepers = [make(f"{number}.pem") for number in range(4)]
    assert not any(keeper.ready for keeper in keepers)
    barrier = threading.Barrier(len(keepers))

    def begin(keeper: CertificateKeeper) -> None:
        barrier.wait()
        while not keeper.ready:
            try:
                keeper.keep()
            except (AlreadyExists, Conflict, StoreUnavailable):
                continue

    with ThreadPoolExecutor(len(keepers)) as pool:
        list(pool.map(begin, keepers))
    assert all(keeper.ready for keeper in keepers)
    assert published(world) == {in_secret(world, "ca.crt")}
    assert secret(world)["type"] == "kubernetes.io/tls"
    assert len({(world.folder / f"{number}.pem").read_bytes() for number in range(4)}) == 1
    assert in_secret(world, "tls.crt") in (world.folder / "0.pem").read_text()
    assert "since" in secret(world)["data"]


def test_what_somebody_takes_away_is_put_back_and_a_quiet_round_only_reads(
    world: KubeWorld, make: Callable[..., CertificateKeeper]
) -> None:
    keeper = make()
    keeper.keep()
    bundle = published(world)
    hooks = json.loads(world.admin.get(HOOKS.item("nodeobs")))["webhooks"]
    hooks[0]["clientConfig"]["caBundle"] = ""
    world.patch(HOOKS.item("nodeobs"), {"webhooks": hooks})
    empty = {"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": None}}}}}
    world.patch(DEFINITIONS.item(CRD_NAMES[1]), empty)
    world.patch(CONFIG_MAPS.item(CA_CONFIG_MAP, world.namespace), {"data": {"ca.crt": "x"}})
    assert published(world) != bundle
    keeper.keep()
    assert published(world) == bundle
    world.admin.request("DELETE", CONFIG_MAPS.item(CA_CONFIG_MAP, world.namespace))
    keeper.keep()
    assert published(world) == bundle

    user = f"system:serviceaccount:{world.namespace}:nodeobs"
    before = len(world.api.requests(user))
    keeper.keep()
    made = wait_for("the round is on record", lambda: world.api.requests(user)[before:])
    assert {request.verb for request in made} == {"get"}
    assert len(made) == 3 + len(CRD_NAMES)


def test_at_every_step_of_a_renewal_the_api_server_trusts_every_replica(
    world: KubeWorld, make: Callable[..., CertificateKeeper], clock: Clock
) -> None:
    now = clock.time
    clock.time = now - (LIFETIME - RENEW_BEFORE) - timedelta(minutes=1)
    first, second = make("first.pem"), make("second.pem")
    first.keep()
    second.keep()
    old = served(world.folder / "first.pem")
    files = [world.folder / "first.pem", world.folder / "second.pem"]

    def is_trusted() -> bool:
        for file in files:
            with serving(world, file):
                wait_for(f"the API server trusts {file.name}", lambda: is_called(world), seconds=20)
        return True

    assert is_trusted()
    clock.time = now
    first.keep()  # makes the successor
    assert in_secret(world, "next.crt")
    second.keep()  # publishes its authority
    assert in_secret(world, "ca.crt").count("BEGIN") == 2
    assert published(world) == {in_secret(world, "ca.crt")}
    assert [served(file) for file in files] == [old, old]
    assert is_trusted()
    clock.time = now + PUBLISHED_FOR
    second.keep()  # takes it over
    second.keep()
    assert served(files[0]) == old
    assert served(files[1]) != old
    assert "next.crt" not in secret(world)["data"]
    assert is_trusted()
    first.keep()
    assert served(files[0]) == served(files[1])
    clock.time += KEPT_FOR
    first.keep()
    second.keep()
    assert in_secret(world, "ca.crt").count("BEGIN") == 1
    assert published(world) == {in_secret(world, "ca.crt")}
    assert is_trusted()


def test_a_secret_of_somebody_else_is_left_alone(world: KubeWorld, make: Callable[..., CertificateKeeper]) -> None:
    theirs = {"metadata": {"name": TLS_SECRET}, "data": {"tls.crt": "eA==", "tls.key": "eA=="}}
    world.create(SECRETS.collection(world.namespace), theirs | {"type": "kubernetes.io/tls"})
    keeper = make()
    with pytest.raises(ConfigurationError, match=r"not made by nodeobs .* NODEOBS_TLS_CERT_FILE"):
        keeper.keep()
    assert not keeper.ready
    assert secret(world)["data"] == theirs["data"]
    assert not (world.folder / "a.pem").exists()


def test_a_deleted_secret_begins_anew(world: KubeWorld, make: Callable[..., CertificateKeeper]) -> None:
    keeper = make()
    keeper.keep()
    old = served(world.folder / "a.pem")
    world.admin.request("DELETE", SECRETS.item(TLS_SECRET, world.namespace))
    keeper.keep()
    assert served(world.folder / "a.pem") != old
    assert published(world) == {in_secret(world, "ca.crt")}


def test_what_does_not_exist_needs_no_authority(world: KubeWorld, make: Callable[..., CertificateKeeper]) -> None:
    world.admin.request("DELETE", HOOKS.item("nodeobs"))
    keeper = make(crd_names=("others.example.com",), kubeconfig=world.api.admin_kubeconfig)
    keeper.keep()
    assert keeper.ready


def test_it_is_not_ready_where_it_cannot_publish_and_tries_again(
    world: KubeWorld, make: Callable[..., CertificateKeeper]
) -> None:
    binding = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings/nodeobs"
    bound = json.loads(world.admin.get(binding))
    world.admin.request("DELETE", binding)
    keeper, stop = make(), threading.Event()
    user = f"system:serviceaccount:{world.namespace}:nodeobs"
    with ThreadPoolExecutor(1) as pool:
        pool.submit(keeper.run, stop)
        try:
            wait_for("it was refused", lambda: any(request.code == 403 for request in world.api.requests(user)))
            assert not keeper.ready
            for key in ("resourceVersion", "uid", "creationTimestamp"):
                del bound["metadata"][key]
            world.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", bound)
            wait_for("it is ready", lambda: keeper.ready)
        finally:
            stop.set()


def test_the_first_certificate_is_trusted_by_nobody(
    world: KubeWorld, make: Callable[..., CertificateKeeper], clock: Clock
) -> None:
    file = world.folder / "own.pem"
    ensure_pair(file, service_name="nodeobs", namespace=world.namespace, now=clock.time)
    make("shared.pem").keep()
    with serving(world, world.folder / "shared.pem"):
        wait_for("the API server trusts the shared one", lambda: is_called(world), seconds=20)
    with serving(world, file) as server:
        wait_for("the API server has been here", lambda: is_called(world) or server.refused, seconds=20)
        assert server.refused
        assert not is_called(world)


def test_a_certificate_of_somebody_else_is_served_and_nothing_is_touched(world: KubeWorld) -> None:
    authority = trustme.CA()
    bundle = base64.b64encode(authority.cert_pem.bytes()).decode()
    file = world.folder / "mounted.pem"
    name = f"nodeobs.{world.namespace}.svc"

    def mount() -> bytes:
        made = authority.issue_cert(name)
        made.private_key_and_cert_chain_pem.write_to_path(str(file))
        return ssl.PEM_cert_to_DER_cert(made.cert_chain_pems[0].bytes().decode())

    hooks = json.loads(world.admin.get(HOOKS.item("nodeobs")))["webhooks"]
    hooks[0]["clientConfig"]["caBundle"] = bundle
    world.patch(HOOKS.item("nodeobs"), {"webhooks": hooks})
    conversion = {"spec": {"conversion": {"webhook": {"clientConfig": {"caBundle": bundle}}}}}
    for definition in CRD_NAMES:
        world.patch(DEFINITIONS.item(definition), conversion)

    def shown() -> bytes | None:
        context = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        address = (world.address, world.replicas[0].port)
        with socket.create_connection(address) as plain, context.wrap_socket(plain, server_hostname=name) as connection:
            return connection.getpeercert(binary_form=True)

    first = mount()
    world.start(NODEOBS_TLS_CERT_FILE=str(file), NODEOBS_TLS_KEY_FILE=str(file))
    assert is_called(world)
    assert shown() == first
    assert mount() == shown()
    user = f"system:serviceaccount:{world.namespace}:nodeobs"
    touched = ("/secrets", "/configmaps/nodeobs-ca", "/customresourcedefinitions/", "/validatingwebhookconfigurations/")
    changes = [request for request in world.api.requests(user) if request.verb in ("create", "patch", "update")]
    found = [request.uri for request in changes if any(part in request.uri for part in touched)]
    assert not [uri for uri in found if "/status" not in uri], "the versions that are stored are another matter"
    with pytest.raises(NotFound):
        secret(world)
