"""A real kube-apiserver with its etcd."""

from __future__ import annotations

import json
import secrets
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import httpx

from nodeobs.errors import NodeobsError, StoreUnavailable
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from tests.lab import audit, tokens
from tests.lab.errors import LabError
from tests.lab.namespaces import remove_namespace
from tests.lab.pki import Authority
from tests.lab.place import Place
from tests.processes import Program, wait_for

PROGRAMS: Final = ("etcd", "kube-apiserver", "kubectl")
NAMES: Final = ("kubernetes", "kubernetes.default", "kubernetes.default.svc", "localhost")


_SERVICES: Final = IPv4Network("10.0.0.0/24")


@dataclass(frozen=True)
class Listen:
    """Where an API server and its etcd listen: an address and three ports of it; and the range of Services."""

    address: str
    api: int
    etcd: int
    peer: int
    services: IPv4Network = _SERVICES


class ApiServer:
    """A kube-apiserver and its etcd, running until their place is cleared.

    RBAC is on, and every request is in an audit log. There are no controllers unless somebody starts them: no
    namespace gets a ``default`` ServiceAccount (pods may be created without), nothing is garbage-collected, the
    aggregated ClusterRoles (``view``, ``edit``, ``admin``) are empty, and a deleted namespace is emptied by
    :meth:`remove_namespace` only. A new Role or binding is in force a moment after it was made: wait for it with
    :meth:`wait_allowed`.
    """

    def __init__(
        self,
        here: Place,
        authority: Authority,
        listen: Listen,
        programs: Mapping[str, Path],
        *,
        flags: Sequence[str | Path] = (),
        prefix: Sequence[str] = (),
    ) -> None:
        self.folder = here.folder
        self.url = f"https://{listen.address}:{listen.api}"
        self.listen = listen
        self.programs = programs
        self.authority = authority
        self.ca_file = authority.certificate
        self.admin_kubeconfig = self.folder / "admin.kubeconfig"
        self._here = here
        self._flags = flags
        self._prefix = prefix
        self._admin_token = secrets.token_hex(16)
        self._prepare()
        self._start_etcd()
        self._api = self._start_api()
        self._client = self.client()

    def kubectl(self, *arguments: str | Path, input: str | None = None) -> str:  # noqa: A002 # as subprocess has it
        """What kubectl printed, run as admin.

        Raises:
            LabError: it failed; has what it said.
        """
        # What kubectl remembers of the versions that are served, others change: the next call is not to go by it.
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            options = ["--kubeconfig", self.admin_kubeconfig, "--cache-dir", cache]
            argv = [str(part) for part in (self.programs["kubectl"], *options, *arguments)]
            done = subprocess.run(argv, input=input, capture_output=True, text=True, timeout=120, check=False)
        if done.returncode:
            raise LabError(f"kubectl {' '.join(map(str, arguments))} failed ({done.returncode}): {done.stderr.strip()}")
        return done.stdout

    def client(self, kubeconfig: Path | None = None) -> KubeClient:
        """A client, as admin or with that kubeconfig; the caller closes it."""
        return KubeClient(load_credentials(kubeconfig=kubeconfig or self.admin_kubeconfig, environ={}))

    def token(self, namespace: str, service_account: str, audience: str | None = None, seconds: int = 3600) -> str:
        """A bound token of that ServiceAccount, which must exist. The API server gives none for under 600 s."""
        spec: dict[str, Any] = {"expirationSeconds": seconds, **({"audiences": [audience]} if audience else {})}
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        answer = json.loads(self._client.request("POST", path, body))
        return str(answer["status"]["token"])

    def expired_token(self, namespace: str, service_account: str, audience: str | None = None) -> str:
        """A token of that ServiceAccount as :meth:`token` gives it, that expired a minute ago."""
        fresh = self.token(namespace, service_account, audience)
        return tokens.expired(fresh, self.service_account_key, now=datetime.now(UTC) - timedelta(minutes=1))

    def kubeconfig_for(self, namespace: str, service_account: str, folder: Path) -> Path:
        """A kubeconfig with a bound token of that ServiceAccount, good for an hour."""
        path = folder / f"{namespace}-{service_account}.kubeconfig"
        user = {"token": self.token(namespace, service_account)}
        write_kubeconfig(path, self.url, self.ca_file, user, namespace=namespace)
        return path

    def requests(self, user: str | None = None) -> list[audit.Request]:
        """Requests answered so far (a watch counts when it begins), all or those of a user.

        A ServiceAccount's user is ``system:serviceaccount:NAMESPACE:NAME``, the admin's ``admin``.
        """
        return [request for request in audit.read(self._audit_log) if user is None or request.user == user]

    def wait_allowed(self, user: str, verb: str, resource: str, namespace: str) -> None:
        """Return when that user may do that: the API server's authorizer follows new bindings by a watch."""
        attributes = {"verb": verb, "resource": resource, "namespace": namespace}
        body = {"spec": {"user": user, "resourceAttributes": attributes}}

        def allowed() -> bool:
            answer = self._client.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
            return bool(json.loads(answer)["status"]["allowed"])

        wait_for(f"{user} may {verb} {resource} in {namespace}", allowed, seconds=15)

    def add_namespace(self, name: str) -> None:
        """Create a namespace."""
        self._client.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})

    def remove_namespace(self, name: str) -> None:
        """Delete a namespace with all that is in it, finalizers or not, as far as it goes."""
        with suppress(NodeobsError):  # a test may have left the API server, or a webhook of it, out of order
            remove_namespace(self._client, name)

    def stop_api(self, *, kill: bool = False) -> None:
        """End the API server, with SIGTERM or (``kill``) SIGKILL; etcd stays."""
        if kill:
            self._api.kill()
        else:
            self._api.terminate(seconds=60)

    def start_api(self) -> None:
        """Start the API server again, on its port and etcd; ready when this returns."""
        if self._api.process.poll() is None:
            raise LabError("the API server is running: stop it first")
        self._api = self._start_api()

    def etcd_compact(self) -> None:
        """Forget everything before now: a watch or list from a revision before this gets 410.

        The API server is killed and started again, since its watch cache would remember. Open watches break.
        """
        self.stop_api(kill=True)
        url = f"http://{self.listen.address}:{self.listen.etcd}/v3"
        with httpx.Client(trust_env=False, timeout=30) as http:
            # What was written last stays in reach of a compaction up to it: write one more.
            answer = http.post(f"{url}/kv/put", json={"key": "bGFi", "value": "bGFi"}).raise_for_status()
            revision = answer.json()["header"]["revision"]
            http.post(f"{url}/kv/compaction", json={"revision": revision, "physical": True}).raise_for_status()
        self.start_api()

    def close(self) -> None:
        """Close the connections. What runs ends with its place."""
        self._client.close()

    def _prepare(self) -> None:
        addresses = {"127.0.0.1", self.listen.address, str(self.listen.services[1])}
        self._serving = self.authority.issue("apiserver", *NAMES, *sorted(addresses), common_name="kube-apiserver")
        self.service_account_key = self.authority.issue("service-accounts", "service-accounts").key
        self._token_file = self.folder / "tokens.csv"
        self._token_file.touch(mode=0o600)
        self._token_file.write_text(f'{self._admin_token},admin,admin,"system:masters"\n', encoding="utf-8")
        self._audit_log = self.folder / "audit.log"
        self._audit_policy = self.folder / "audit.json"
        self._audit_policy.write_text(json.dumps(audit.POLICY), encoding="utf-8")
        write_kubeconfig(self.admin_kubeconfig, self.url, self.ca_file, {"token": self._admin_token})

    def _start_etcd(self) -> None:
        at = self.listen
        clients, peers = f"http://{at.address}:{at.etcd}", f"http://{at.address}:{at.peer}"
        argv: list[str | Path] = [*self._prefix, self.programs["etcd"], "--data-dir", self.folder / "etcd"]
        argv += ["--listen-client-urls", clients, "--advertise-client-urls", clients]
        argv += ["--listen-peer-urls", peers, "--initial-advertise-peer-urls", peers]
        argv += ["--initial-cluster", f"default={peers}"]
        self._here.start("etcd", argv).wait_until("etcd is ready", lambda: _answers(f"{clients}/health"))

    def _start_api(self) -> Program:
        argv: list[str | Path] = [
            *self._prefix,
            self.programs["kube-apiserver"],
            f"--etcd-servers=http://{self.listen.address}:{self.listen.etcd}",
            f"--bind-address={self.listen.address}",
            f"--advertise-address={self.listen.address}",
            f"--secure-port={self.listen.api}",
            f"--service-cluster-ip-range={self.listen.services}",
            f"--tls-cert-file={self._serving.certificate}",
            f"--tls-private-key-file={self._serving.key}",
            f"--client-ca-file={self.ca_file}",
            f"--token-auth-file={self._token_file}",
            f"--service-account-key-file={self.service_account_key}",
            f"--service-account-signing-key-file={self.service_account_key}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            "--authorization-mode=Node,RBAC",
            "--allow-privileged=true",
            f"--audit-log-path={self._audit_log}",
            f"--audit-policy-file={self._audit_policy}",
            *self._flags,
        ]
        program = self._here.start("kube-apiserver", argv)
        client = self.client()
        try:
            return program.ready("the API server is ready", lambda: _ready(client))
        finally:
            client.close()


def write_kubeconfig(
    path: Path, server: str, ca_file: Path, user: Mapping[str, str], namespace: str = "default"
) -> None:
    """Write a kubeconfig for that API server; ``user`` is a token, or a client's certificate and key."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": {"server": server, "certificate-authority": str(ca_file)}}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab", "namespace": namespace}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).is_success
    except httpx.TransportError:
        return False


def _ready(client: KubeClient) -> bool:
    try:
        return client.get("/readyz", seconds=2) == b"ok"
    except StoreUnavailable:
        return False
