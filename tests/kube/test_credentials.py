"""Who we are to the API server, wherever it is written, and however it is renewed."""

from __future__ import annotations

import base64
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import responses
import time_machine
import trustme
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeobs.errors import ConfigurationError
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import Credentials, load_credentials
from tests.fakes.api_server import Answer, FakeApiServer
from tests.lab.apiserver import ApiServer
from tests.processes import ROOT

SECRET = "s3cr3t-t0ken"
EXEC = "client.authentication.k8s.io/v1"


@dataclass
class Clock:
    """Both clocks, moved by the test."""

    seconds: float = 1000.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def stamp(self, ahead: float) -> str:
        """RFC 3339, so many seconds ahead."""
        return f"{self.now() + timedelta(seconds=ahead):%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture
def clock() -> Clock:
    return Clock()


def write(
    path: Path,
    user: Mapping[str, object],
    *,
    cluster: Mapping[str, object] | None = None,
    server: str = "https://api.test:6443",
    name: str = "x",
) -> Path:
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "clusters": [{"name": name, "cluster": {"server": server, **(cluster or {})}}],
        "users": [{"name": name, "user": dict(user)}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name, "namespace": f"{name}-namespace"}}],
    }
    path.write_text(yaml.safe_dump(document))
    return path


def load(path: Path, clock: Clock, **options: Any) -> Credentials:
    options = {"environ": {}, **options}
    return load_credentials(kubeconfig=path, now=clock.now, monotonic=clock.monotonic, **options)


@pytest.mark.parametrize("token", [f"{SECRET}\n", f"{SECRET}\x01", f"{SECRET}ä"])
def test_a_token_that_cannot_be_sent_is_refused_without_showing_it(tmp_path: Path, clock: Clock, token: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be sent") as caught:
        load(write(tmp_path / "kubeconfig", {"token": token}), clock)
    assert SECRET not in str(caught.value)


# --- the pod's service account


@pytest.fixture
def account(tmp_path: Path) -> Path:
    """A projected volume as the kubelet makes it: what is in it changes by one symbolic link."""
    folder = tmp_path / "serviceaccount"
    folder.mkdir()
    fill_account(folder, "first")
    for name in ("token", "ca.crt", "namespace"):
        (folder / name).symlink_to(f"..data/{name}")
    return folder


def fill_account(folder: Path, token: str, *, authority: bytes | None = None) -> None:
    data = folder / f"..{token}"
    data.mkdir()
    (data / "token").write_text(f"{token}\n")
    (data / "ca.crt").write_bytes(authority or trustme.CA().cert_pem.bytes())
    (data / "namespace").write_text("nodeobs")
    (folder / "new").symlink_to(data.name)
    (folder / "new").replace(folder / "..data")


POD = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}


def in_pod(account: Path, environ: Mapping[str, str] = POD) -> Credentials:
    return load_credentials(environ=environ, service_account=account)


def test_a_pod_is_its_service_account(account: Path) -> None:
    credentials = in_pod(account)
    assert credentials.server == "https://10.96.0.1:443"
    assert credentials.namespace == "nodeobs"
    assert credentials.token() == "Bearer first"
    assert credentials.server_name == ""
    assert credentials.endpoint().proxy == ""
    assert credentials.context().verify_mode is ssl.CERT_REQUIRED


def test_an_ipv6_cluster_is_called_with_brackets(account: Path) -> None:
    assert in_pod(account, POD | {"KUBERNETES_SERVICE_HOST": "fd00::1"}).server == "https://[fd00::1]:443"


def test_a_rotated_service_account_is_read_again(account: Path) -> None:
    authority = trustme.CA().cert_pem.bytes()
    credentials = in_pod(account)
    context = credentials.context()
    fill_account(account, "second", authority=authority)
    assert credentials.token() == "Bearer second"
    changed = credentials.context()
    assert changed is not context
    assert credentials.context() is changed


def test_while_the_service_account_cannot_be_read_what_was_read_stays(account: Path) -> None:
    credentials = in_pod(account)
    context = credentials.context()
    (account / "..data").unlink()
    assert credentials.token() == "Bearer first"
    assert credentials.context() is context
    fill_account(account, "second")
    assert credentials.token() == "Bearer second"


@pytest.mark.parametrize(
    ("token", "says"), [("", "one token"), ("two words\n", "one token"), ("\x00", "one token"), ("ä", "ASCII")]
)
def test_a_token_file_must_hold_a_token(account: Path, token: str, says: str) -> None:
    (account / "token").resolve().write_text(token, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says):
        in_pod(account)


def test_a_service_account_must_be_whole(account: Path) -> None:
    with pytest.raises(ConfigurationError, match="KUBERNETES_SERVICE_PORT"):
        in_pod(account, {"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    (account / "ca.crt").unlink()
    with pytest.raises(ConfigurationError, match=r"ca\.crt is missing"):
        in_pod(account)


def test_a_pod_does_not_load_the_kubernetes_package(account: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from nodeobs.kube.client import KubeClient; "
        "from nodeobs.kube.credentials import load_credentials; "
        f"KubeClient(load_credentials(environ={POD!r}, service_account=Path({str(account)!r}))).close(); "
        "print([name for name in ('kubernetes', 'requests', 'urllib3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


# --- which kubeconfig


def test_a_kubeconfig_that_is_named_goes_before_the_pod(account: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "config", {"token": "named"})
    named = load_credentials(kubeconfig=path, environ=POD, service_account=account)
    by_environment = load_credentials(environ=POD | {"KUBECONFIG": str(path)}, service_account=account)
    assert {named.token(), by_environment.token()} == {"Bearer named"}


def test_outside_a_pod_it_is_the_users_own(tmp_path: Path) -> None:
    (tmp_path / ".kube").mkdir()
    write(tmp_path / ".kube/config", {"token": "mine"})
    credentials = load_credentials(environ={"HOME": str(tmp_path)}, service_account=tmp_path)
    assert credentials.token() == "Bearer mine"
    assert credentials.namespace == "x-namespace"


def test_several_files_and_contexts_are_one(tmp_path: Path) -> None:
    one = write(tmp_path / "one", {"token": "one"}, name="one", server="https://one.test")
    two = write(tmp_path / "two", {"token": "two"}, name="two", server="https://two.test")
    environ = {"KUBECONFIG": f"{one}{os.pathsep}{tmp_path / 'missing'}{os.pathsep}{two}"}
    chosen = load_credentials(context="one", environ=environ)
    assert (chosen.server, chosen.token(), chosen.namespace) == ("https://one.test", "Bearer one", "one-namespace")
    with pytest.raises(ConfigurationError, match="neither"):
        load_credentials(context="neither", environ=environ)


def test_without_any_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no kubeconfig at .*--kubeconfig or KUBECONFIG"):
        load_credentials(environ={"HOME": str(tmp_path)}, service_account=tmp_path)


# --- who a kubeconfig says we are


@pytest.mark.parametrize(
    ("user", "authorization"),
    [
        ({"token": "abc"}, "Bearer abc"),
        ({"username": "us", "password": "pw"}, "Basic " + base64.b64encode(b"us:pw").decode()),
        ({}, ""),
    ],
)
def test_a_user_has_a_token_a_password_or_nothing(
    tmp_path: Path, clock: Clock, user: dict[str, object], authorization: str
) -> None:
    assert load(write(tmp_path / "config", user), clock).token() == authorization


def test_a_changed_kubeconfig_is_read_again(tmp_path: Path, clock: Clock) -> None:
    path = write(tmp_path / "config", {"token": "one"})
    credentials = load(path, clock)
    context = credentials.context()
    write(path, {"token": "another"})
    assert credentials.token() == "Bearer another"
    assert credentials.context() is context
    write(path, {"token": "another"}, server="https://moved.test:6443")
    assert credentials.context() is not context
    assert credentials.server == "https://moved.test:6443"


def test_a_kubeconfig_that_breaks_later_changes_nothing(tmp_path: Path, clock: Clock) -> None:
    path = write(tmp_path / "config", {"token": "one"})
    credentials = load(path, clock)
    for broken in ("", "{", "users: 1", "[]"):
        path.write_text(broken)
        assert credentials.token() == "Bearer one"
    write(path, {"token": "mended"})
    assert credentials.token() == "Bearer mended"


def test_a_token_file_is_read_again(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "token").write_text("one\n")
    credentials = load(write(tmp_path / "config", {"tokenFile": "token"}), clock)
    assert credentials.token() == "Bearer one"
    (tmp_path / "token").write_text("another\n")
    assert credentials.token() == "Bearer another"


def test_a_client_certificate_is_used_and_read_again(tmp_path: Path, clock: Clock) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.crt")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED

    def issue(name: str) -> None:
        issued = authority.issue_cert(f"{name}.test", common_name=name)
        issued.private_key_pem.write_to_path(tmp_path / "client.key")
        if name == "second":
            # Half-way: the key is new, the certificate is not. What was read before stays.
            assert load_names(credentials)[-1] == "first"
        issued.cert_chain_pems[0].write_to_path(tmp_path / "client.crt")

    def load_names(credentials: Credentials) -> list[str]:
        with closing(KubeClient(credentials)) as client:
            client.get("/")
        return [dict(pair[0] for pair in found["subject"])["commonName"] for found in server.client_certificates]

    with FakeApiServer(lambda _: Answer(body={}), tls=tls) as server:
        authorities = {"certificate-authority": "ca.crt"}
        user = {"client-certificate": "client.crt", "client-key": "client.key"}
        authority.issue_cert("first.test", common_name="first").private_key_pem.write_to_path(tmp_path / "client.key")
        issue("first")
        credentials = load(write(tmp_path / "config", user, cluster=authorities, server=server.url), clock)
        assert load_names(credentials)[-1] == "first"
        assert credentials.token() == ""
        issue("second")
        assert load_names(credentials)[-1] == "second"


def test_certificates_may_be_in_the_kubeconfig_itself(tmp_path: Path, clock: Clock) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("us.test")
    encoded = {
        name: base64.b64encode(pem).decode()
        for name, pem in {
            "certificate-authority-data": authority.cert_pem.bytes(),
            "client-certificate-data": issued.cert_chain_pems[0].bytes(),
            "client-key-data": issued.private_key_pem.bytes(),
        }.items()
    }
    cluster = {name: encoded.pop(name) for name in ("certificate-authority-data",)}
    context = load(write(tmp_path / "config", encoded, cluster=cluster), clock).context()
    assert len(context.get_ca_certs()) == 1


def test_certificates_that_cannot_be_used_are_named(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "ca.crt").write_text("none")
    path = write(tmp_path / "config", {"token": SECRET}, cluster={"certificate-authority": "ca.crt"})
    with pytest.raises(ConfigurationError, match=rf"authority {tmp_path}/ca\.crt"):
        load(path, clock)


def test_a_proxy_and_another_name_at_once_are_refused(tmp_path: Path, clock: Clock) -> None:
    path = write(tmp_path / "config", {"token": SECRET}, cluster={"tls-server-name": "api"})
    with pytest.raises(ConfigurationError, match="tls-server-name api") as caught:
        load(path, clock, environ={"HTTPS_PROXY": "http://us:pw@proxy.test"})
    assert "pw@" not in str(caught.value)
    assert load(path, clock, environ={"HTTPS_PROXY": "http://proxy.test", "NO_PROXY": ".test"}).server_name == "api"


@pytest.mark.parametrize(
    "document",
    [
        "",
        "{",
        f"{{token: {SECRET}",
        f"[{SECRET}]",
        "users: 1",
        "{}",
        {"current-context": "x", "contexts": [{"name": "x", "token": SECRET}]},
        {"current-context": "x", "contexts": [{"name": "x", "context": {"cluster": "x"}}], "clusters": []},
        {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": "https://x"}}],
            "users": [{"name": "x", "user": {"exec": {"env": SECRET}, "token-": SECRET}}],
        },
        {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": "https://x"}}],
            "users": [{"name": "x", "user": {"auth-provider": {"name": "oidc", "config": {"refresh": SECRET}}}}],
        },
        {
            "current-context": "x",
            "contexts": [{"name": "x", "context": {"cluster": "x", "user": "x"}}],
            "clusters": [{"name": "x", "cluster": {"server": "https://x"}}],
            "users": [{"name": "x", "user": {"auth-provider": {"name": "azure", "config": {"token": SECRET}}}}],
        },
    ],
)
def test_a_kubeconfig_that_cannot_be_used_is_named_and_shows_no_secret(
    tmp_path: Path, clock: Clock, document: object
) -> None:
    path = tmp_path / "config"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    with pytest.raises(ConfigurationError, match=str(path)) as caught:
        load(path, clock)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in str(error)
        error = error.__cause__


_VALUES = st.recursive(
    # A secret is one where secrets belong: names are shown.
    st.none() | st.booleans() | st.integers(-9, 9) | st.sampled_from(["x", "https://x"]) | st.just({"token": SECRET}),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["name", "user", "token"]), inner),
    max_leaves=4,
)


@pytest.mark.parametrize(
    "user",
    [1, [1], {"tokenFile": 1}, {"exec": 1}, {"exec": None}, {"auth-provider": 1}, {"auth-provider": {"config": 1}}],
)
def test_a_user_of_another_shape_is_refused(tmp_path: Path, clock: Clock, user: object) -> None:
    path = write(tmp_path / "config", {})
    document = yaml.safe_load(path.read_text())
    document["users"][0]["user"] = user
    path.write_text(yaml.safe_dump(document))
    with pytest.raises(ConfigurationError, match=str(path)):
        load(path, clock)


@settings(max_examples=150, deadline=None)
@given(parts=st.dictionaries(st.sampled_from(["users", "clusters", "contexts", "current-context"]), _VALUES))
def test_no_kubeconfig_does_worse_than_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[str, object]
) -> None:
    path = write(tmp_path_factory.mktemp("kubeconfig") / "config", {"token": SECRET})
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **parts}))
    try:
        load_credentials(kubeconfig=path, environ={})
    except ConfigurationError as error:
        assert SECRET not in str(error)  # noqa: PT017 - it may also load


# --- exec plugins


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    """A plugin that says what ``answer`` holds, and counts its runs in ``runs``."""
    script = tmp_path / "plugin"
    script.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\ncat {tmp_path}/answer\n")
    script.chmod(0o755)
    write(tmp_path / "config", {"exec": {"apiVersion": EXEC, "command": str(script), "args": []}})
    return tmp_path


def answer(folder: Path, **status: str) -> None:
    (folder / "answer").write_text(json.dumps({"apiVersion": EXEC, "kind": "ExecCredential", "status": status}))


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text().split())


def test_a_plugins_token_is_renewed_before_it_expires(plugin: Path, clock: Clock) -> None:
    answer(plugin, token="one", expirationTimestamp=clock.stamp(600))
    credentials = load(plugin / "config", clock)
    for _ in range(5):
        assert credentials.token() == "Bearer one"
    assert runs(plugin) == 1
    answer(plugin, token="two", expirationTimestamp=clock.stamp(1200))
    clock.seconds += 539
    assert credentials.token() == "Bearer one"
    clock.seconds += 2
    assert credentials.token() == "Bearer two"
    assert runs(plugin) == 2


def test_a_plugin_is_not_run_for_every_request(plugin: Path, clock: Clock) -> None:
    answer(plugin, token="short", expirationTimestamp=clock.stamp(30))
    credentials = load(plugin / "config", clock)
    for _ in range(20):
        credentials.token()
    clock.seconds += 5
    credentials.token()
    assert runs(plugin) == 2


def test_a_plugin_that_fails_later_is_told_of_once_the_token_is_no_good(plugin: Path, clock: Clock) -> None:
    answer(plugin, token=SECRET, expirationTimestamp=clock.stamp(100))
    credentials = load(plugin / "config", clock)
    (plugin / "answer").unlink()
    clock.seconds += 50
    assert credentials.token() == f"Bearer {SECRET}"
    clock.seconds += 60
    with pytest.raises(ConfigurationError, match=r"expired at .*log in again") as caught:
        credentials.token()
    assert SECRET not in str(caught.value)
    answer(plugin, token="new", expirationTimestamp=clock.stamp(600))
    clock.seconds += 11
    assert credentials.token() == "Bearer new"


@pytest.mark.parametrize("said", ["", "rubbish", '{"kind": "ExecCredential"}'])
def test_a_plugin_that_gives_nothing_is_named(plugin: Path, clock: Clock, said: str) -> None:
    (plugin / "answer").write_text(said)
    with pytest.raises(ConfigurationError, match=rf"exec plugin '{plugin}/plugin' failed.*run it by hand"):
        load(plugin / "config", clock)


def test_a_plugin_may_give_a_certificate(plugin: Path, clock: Clock) -> None:
    issued = trustme.CA().issue_cert("us.test")
    certificate, key = issued.cert_chain_pems[0].bytes().decode(), issued.private_key_pem.bytes().decode()
    answer(plugin, clientCertificateData=certificate, clientKeyData=key)
    credentials = load(plugin / "config", clock)
    assert credentials.token() == ""
    assert credentials.context() is not None


# --- OpenID Connect


def id_token(expires: datetime) -> str:
    def encode(part: dict[str, object]) -> str:
        return base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")

    return f"{encode({'alg': 'none'})}.{encode({'exp': int(expires.timestamp())})}.c2ln"


def granted(token: str, refresh_token: str) -> dict[str, str]:
    return {"access_token": "a", "token_type": "bearer", "id_token": token, "refresh_token": refresh_token}


class IdentityProvider:
    """Its discovery document comes from a real server; the package fetches that with urllib3, unlike the tokens."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "idp.crt")
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
        document = {"token_endpoint": "https://idp.test/token"}
        self.server = FakeApiServer(lambda _: Answer(body=document), tls=tls)
        self.folder = folder

    def kubeconfig(self, token: str, **config: str) -> Path:
        given = {
            "client-id": "nodeobs",
            "client-secret": SECRET,
            "id-token": token,
            "idp-certificate-authority": str(self.folder / "idp.crt"),
            "idp-issuer-url": self.server.url,
            "refresh-token": "refresh-1",
        }
        return write(self.folder / "config", {"auth-provider": {"name": "oidc", "config": {**given, **config}}})


def test_an_oidc_token_is_renewed_and_kept(tmp_path: Path) -> None:
    start = datetime.now(UTC).replace(microsecond=0)
    first, second, third = (id_token(start + timedelta(minutes=minutes)) for minutes in (30, 90, 150))
    provider = IdentityProvider(tmp_path)
    with (
        provider.server,
        responses.RequestsMock() as endpoint,
        time_machine.travel(start, tick=False) as travel,
    ):
        for number, token in ((2, second), (3, third)):
            endpoint.post("https://idp.test/token", json=granted(token, f"refresh-{number}"))
        path = provider.kubeconfig(first)
        path.chmod(0o640)
        credentials = load_credentials(
            kubeconfig=path, environ={}, monotonic=lambda: (datetime.now(UTC) - start).total_seconds()
        )
        assert credentials.token() == f"Bearer {first}"
        travel.shift(timedelta(minutes=28))
        assert credentials.token() == f"Bearer {first}"
        assert not endpoint.calls
        travel.shift(timedelta(minutes=1.5))
        assert credentials.token() == f"Bearer {second}"
        travel.shift(timedelta(minutes=60))
        assert credentials.token() == f"Bearer {third}"
        sent = [str(call.request.body) for call in endpoint.calls]
        assert ["refresh_token=refresh-1" in sent[0], "refresh_token=refresh-2" in sent[1]] == [True, True]
        kept = yaml.safe_load(path.read_text())["users"][0]["user"]["auth-provider"]["config"]
        assert (kept["id-token"], kept["refresh-token"]) == (third, "refresh-3")
        assert path.stat().st_mode & 0o777 == 0o640
        assert [request.path for request in provider.server.requests] == ["/.well-known/openid-configuration"] * 2
        # Another process goes on from there.
        assert load_credentials(kubeconfig=path, environ={}).token() == f"Bearer {third}"


def test_an_oidc_token_that_cannot_be_kept_serves_this_process(tmp_path: Path) -> None:
    start = datetime.now(UTC)
    old, new = id_token(start - timedelta(hours=1)), id_token(start + timedelta(hours=1))
    provider = IdentityProvider(tmp_path)
    with provider.server, responses.RequestsMock() as endpoint, provider.kubeconfig(old).open() as opened:
        endpoint.post("https://idp.test/token", json=granted(new, "refresh-2"))
        (tmp_path / "config").unlink()  # there is no file to keep it in, as with a shell's <(...)
        credentials = load_credentials(kubeconfig=Path(f"/proc/self/fd/{opened.fileno()}"), environ={})
        assert credentials.token() == f"Bearer {new}"
        assert credentials.token() == f"Bearer {new}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["idp.crt"]


@pytest.mark.parametrize("code", [400, 500])
def test_an_identity_provider_that_refuses_is_told_of(tmp_path: Path, code: int) -> None:
    old = id_token(datetime.now(UTC) - timedelta(hours=1))
    provider = IdentityProvider(tmp_path)
    with provider.server, responses.RequestsMock() as endpoint:
        endpoint.post("https://idp.test/token", json={"error": "invalid_grant"}, status=code)
        with pytest.raises(ConfigurationError, match="cannot be used") as caught:
            load_credentials(kubeconfig=provider.kubeconfig(old), environ={}).token()
        assert SECRET not in str(caught.value)


def test_an_identity_provider_that_nobody_vouches_for_gets_no_secret(tmp_path: Path) -> None:
    old = id_token(datetime.now(UTC) - timedelta(hours=1))
    provider = IdentityProvider(tmp_path)
    with provider.server, responses.RequestsMock():  # a call of the token endpoint would fail the test
        path = provider.kubeconfig(old)
        document = yaml.safe_load(path.read_text())
        del document["users"][0]["user"]["auth-provider"]["config"]["idp-certificate-authority"]
        path.write_text(yaml.safe_dump(document))
        with pytest.raises(ConfigurationError, match="CERTIFICATE_VERIFY_FAILED"):
            load_credentials(kubeconfig=path, environ={}).token()
    assert not provider.server.requests


# --- a real API server


@pytest.mark.cluster
def test_a_bound_token_is_taken_from_its_file_again(api_server: ApiServer, namespace: str, tmp_path: Path) -> None:
    admin = api_server.client()
    for name in ("one", "two"):
        admin.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
    admin.close()
    folder = tmp_path / "account"
    folder.mkdir()
    fill = api_server.token(namespace, "one"), api_server.token(namespace, "two")
    (folder / "token").write_text(fill[0])
    (folder / "ca.crt").write_bytes(api_server.ca_file.read_bytes())
    host, port = api_server.url.removeprefix("https://").split(":")
    environ = {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    with closing(KubeClient(load_credentials(environ=environ, service_account=folder))) as client:
        for name, token in zip(("one", "two"), fill, strict=True):
            (folder / "token").write_text(token)
            answered = json.loads(client.request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", review))
            assert answered["status"]["userInfo"]["username"] == f"system:serviceaccount:{namespace}:{name}"
