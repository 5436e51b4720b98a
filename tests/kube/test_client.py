"""Requests to the API server: what is sent again, what is bounded, and what becomes of open streams."""

from __future__ import annotations

import gc
import json
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import trustme

from nodeobs.errors import (
    AlreadyExists,
    ConfigurationError,
    Conflict,
    InvalidInput,
    NotFound,
    RunInProgress,
    StoreDenied,
    StoreUnavailable,
    WatchExpired,
)
from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.proxies import environment_proxy, without_password
from tests.fakes.api_server import Answer, FakeApiServer, Request, page, status
from tests.fakes.connect_proxy import ConnectProxy
from tests.kube.conftest import Serve
from tests.lab.apiserver import ApiServer
from tests.processes import wait_for

PATH = "/api/v1/nodes"
OK = Answer(body={"ok": True})


def drop(then: str = "close") -> Answer:
    return Answer(status=0, then="reset" if then == "reset" else "close")


# --- answers


def test_a_request_is_json_with_our_token(serve: Serve) -> None:
    server, client = serve(lambda _: OK)
    assert json.loads(client.request("PATCH", PATH, {"a": 1}, params={"x": "y"}, content_type="application/x")) == {
        "ok": True
    }
    (request,) = server.requests
    assert (request.method, request.path, request.query, request.body) == ("PATCH", PATH, {"x": "y"}, b'{"a":1}')
    assert request.headers["authorization"] == "Bearer token"
    assert request.headers["content-type"] == "application/x"
    assert request.headers["user-agent"].startswith("nodeobs/")
    client.get(PATH)
    assert "content-type" not in server.requests[1].headers
    assert server.connections == 1


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Answer(400, status(400, "BadRequest", "told")), InvalidInput),
        (Answer(401, status(401, "Unauthorized", "told")), StoreDenied),
        (Answer(403, status(403, "Forbidden", "told")), StoreDenied),
        (Answer(404, status(404, "NotFound", "told")), NotFound),
        (Answer(409, status(409, "AlreadyExists", "told")), AlreadyExists),
        (Answer(409, status(409, "Conflict", "told")), Conflict),
        (Answer(410, status(410, "Expired", "told")), WatchExpired),
        (Answer(413, b"told"), InvalidInput),
        (Answer(422, status(422, "Invalid", "told")), InvalidInput),
        (Answer(429, status(429, "TooManyRequests", "told")), StoreUnavailable),
        (Answer(500, status(500, "InternalError", "told")), StoreUnavailable),
        (Answer(502, b"told\xff"), StoreUnavailable),
        (Answer(500, b'{"told":' + b"[" * 3000 + b"]" * 3000 + b"}"), StoreUnavailable),
        (Answer(302, b"told", headers={"location": "http://127.0.0.1:9/"}), StoreUnavailable),
    ],
)
def test_a_refusal_is_one_of_our_errors(serve: Serve, answer: Answer, error: type[Exception]) -> None:
    server, client = serve(lambda _: answer)
    with pytest.raises(error, match="told"):
        client.get(PATH)
    with pytest.raises(error, match="told"), client.stream(PATH, silence=5):
        pass
    assert len(server.requests) == 2


def test_our_webhooks_refusal_names_the_holder(serve: Serve) -> None:
    causes = [{"reason": "ConcurrentRun", "message": "one Run at a time", "field": "ns/first"}]
    _, client = serve(lambda _: Answer(409, {**status(409, "Conflict", "denied"), "details": {"causes": causes}}))
    with pytest.raises(RunInProgress, match="one Run at a time") as caught:
        client.request("POST", PATH, {})
    assert caught.value.holder == "ns/first"


def test_a_server_that_is_gone_is_unavailable(serve: Serve) -> None:
    server, client = serve(lambda _: OK)
    server.__exit__(None, None, None)
    with pytest.raises(StoreUnavailable, match=server.url):
        client.get(PATH)
    with pytest.raises(StoreUnavailable, match=server.url), client.stream(PATH, silence=5):
        pass


# --- sent again, or not


@pytest.mark.parametrize("then", ["close", "reset"])
def test_a_get_on_a_connection_that_was_closed_is_sent_once_more(serve: Serve, then: str) -> None:
    server, client = serve(lambda request: drop(then) if len(server.requests) == 2 else OK)
    client.get(PATH)
    assert client.get(PATH) == b'{"ok": true}'
    assert [request.connection for request in server.requests] == [1, 1, 2]


def test_what_may_have_been_done_is_not_sent_again(serve: Serve) -> None:
    server, client = serve(lambda _: drop())
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        server.requests.clear()
        with pytest.raises(StoreUnavailable):
            client.request(method, PATH, {})
        assert len(server.requests) == 1
    server.requests.clear()
    with pytest.raises(StoreUnavailable):
        client.get(PATH)
    assert len(server.requests) == 2


def test_connections_closed_while_they_were_kept_are_not_used(serve: Serve) -> None:
    server, client = serve(lambda _: OK)
    client.get(PATH)
    server.drop_connections()
    wait_for("they are closed", lambda: not server.open, seconds=5)
    client.request("POST", PATH, {})
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [429, 503])
def test_refused_for_a_moment_it_is_sent_again(tmp_path: Path, code: int) -> None:
    waits: list[float] = []
    busy = Answer(code, status(code, "", "busy"), headers={"retry-after": "2"})
    with FakeApiServer(lambda _: busy if len(server.requests) < 3 else OK) as server:
        credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "config"), environ={})
        with closing(KubeClient(credentials, pause=waits.append)) as client:
            assert client.request("POST", PATH, {}) == b'{"ok": true}'
            assert waits == [2, 2]
            server.respond = lambda _: busy
            with pytest.raises(StoreUnavailable, match="busy"):
                client.request("POST", PATH, {})
            assert len(server.requests) == 6
            with pytest.raises(StoreUnavailable, match="busy"):
                client.get(PATH, seconds=0.25)  # it would wait for longer than the answer may take
            assert len(server.requests) == 7


# --- bounds


def test_an_endless_answer_is_given_up(tmp_path: Path) -> None:
    with FakeApiServer(lambda _: Answer(lines=(b"x" * 1000 for _ in range(10**9)))) as server:
        credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "config"), environ={})
        with closing(KubeClient(credentials, max_answer=100_000)) as client:
            with pytest.raises(StoreUnavailable, match="longer than 100000 bytes"):
                client.get(PATH)
            wait_for("the connection is closed", lambda: not server.open, seconds=5)


def test_an_answer_that_dribbles_is_given_up(serve: Serve) -> None:
    def dribble() -> Iterator[bytes]:
        for _ in range(1000):
            time.sleep(0.05)
            yield b"x"

    _, client = serve(lambda _: Answer(lines=dribble()))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable, match="does not come to an end"):
        client.get(PATH, seconds=0.25)
    assert time.monotonic() - began < 5


def test_a_line_without_end_is_given_up(serve: Serve) -> None:
    _, client = serve(lambda _: Answer(body=b"x" * (40 << 20)))
    with pytest.raises(StoreUnavailable, match="longer than 32 MiB"), client.stream(PATH, silence=5) as stream:
        list(stream.lines())


def test_five_thousand_nodes_are_no_endless_answer(serve: Serve) -> None:
    nodes = page(7, *(f"node-{number}-{'x' * 2000}" for number in range(5000)))
    _, client = serve(lambda _: Answer(body=nodes))
    assert len(json.loads(client.get(PATH))["items"]) == 5000


def test_a_server_that_hangs_is_unavailable_in_time(serve: Serve) -> None:
    server, client = serve(lambda _: Answer(status=0, then="hang"))
    began = time.monotonic()
    with pytest.raises(StoreUnavailable):
        client.get(PATH, seconds=0.2)
    assert time.monotonic() - began < 2
    assert len(server.requests) == 1


# --- streams, and credentials that change


class Rotating:
    """A TLS server's authority file and kubeconfig that a test changes."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.authority = trustme.CA()
        self.file = folder / "ca.crt"
        self.trusted = {"certificate-authority": str(self.file)}
        self.authority.cert_pem.write_to_path(self.file)
        self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.authority.issue_cert(*names).configure_cert(self.tls)

    def change(self) -> None:
        """As when a second authority is published beside the first."""
        trustme.CA().cert_pem.write_to_path(self.file, append=True)


def test_streams_outlive_changed_certificates_and_nothing_leaks(tmp_path: Path) -> None:
    rotating = Rotating(tmp_path, "127.0.0.1")
    more = threading.Event()

    def lines() -> Iterator[bytes]:
        yield b"first"
        more.wait(10)
        yield b"last"

    def respond(request: Request) -> Answer:
        return Answer(lines=lines()) if request.path == "/watch" else OK

    with FakeApiServer(respond, tls=rotating.tls) as server:
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster=rotating.trusted)
        with closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as client:
            with client.stream("/watch", silence=10) as stream:
                read = stream.lines()
                assert next(read) == b"first"
                for _ in range(3):
                    rotating.change()
                    client.get(PATH)
                assert server.connections == 4
                wait_for("only the stream's and the newest are open", lambda: len(server.open) == 2, seconds=5)
                more.set()
                assert list(read) == [b"last"]
            wait_for("the stream's is closed", lambda: len(server.open) == 1, seconds=5)
            client.get(PATH)
            assert server.connections == 4
        wait_for("all are closed", lambda: not server.open, seconds=5)
    gc.collect()  # what was left open would warn, and a warning is an error


def test_a_new_token_keeps_the_connections(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    with FakeApiServer(lambda _: OK) as server:
        kubeconfig = server.kubeconfig(tmp_path / "config", user={"tokenFile": "token"})
        with closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as client:
            client.get(PATH)
            token.write_text("another\n")
            client.get(PATH)
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer one", "Bearer another"]
        assert server.connections == 1


def test_a_stream_can_be_hung_up_from_another_thread(tmp_path: Path) -> None:
    rotating = Rotating(tmp_path, "127.0.0.1")
    with FakeApiServer(lambda _: Answer(lines=[b"first"], then="hang"), tls=rotating.tls) as server:
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster=rotating.trusted)
        with (
            closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as client,
            client.stream(PATH, silence=60) as stream,
        ):
            timer = threading.Timer(0.2, stream.hang_up)
            timer.start()
            began = time.monotonic()
            assert list(stream.lines()) == [b"first"]
            assert time.monotonic() - began < 1
            stream.hang_up()


def test_refused_credentials_are_read_again(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text(
        "#!/bin/sh\necho run >> runs\n"
        'n=$(wc -l < runs); echo "{\\"apiVersion\\": \\"client.authentication.k8s.io/v1\\", '
        '\\"kind\\": \\"ExecCredential\\", \\"status\\": {\\"token\\": \\"token-$((n))\\"}}"\n'
    )
    plugin.chmod(0o755)

    def respond(request: Request) -> Answer:
        accepted = request.headers["authorization"] == "Bearer token-2"
        return OK if accepted else Answer(401, status(401, "Unauthorized", "who is that"))

    user = {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin), "args": []}}
    with FakeApiServer(respond) as server:
        credentials = load_credentials(kubeconfig=server.kubeconfig(tmp_path / "config", user=user), environ={})
        with closing(KubeClient(credentials)) as client:
            client.request("POST", PATH, {})
            server.respond = lambda _: Answer(401, status(401, "Unauthorized", "who is that"))
            for _ in range(5):
                with pytest.raises(StoreDenied, match="who is that"):
                    client.get(PATH)
        assert len((tmp_path / "runs").read_text().split()) == 2  # it is not run for every refusal
        assert len(server.requests) == 2 + 5


def test_a_closed_client_says_so(serve: Serve) -> None:
    _, client = serve(lambda _: OK)
    client.get(PATH)
    client.close()
    client.close()
    with pytest.raises(StoreUnavailable, match="closed"):
        client.get(PATH)


# --- addresses, names, proxies


def test_an_ipv6_address_is_called_and_verified(tmp_path: Path) -> None:
    rotating = Rotating(tmp_path, "::1")
    with FakeApiServer(lambda _: OK, tls=rotating.tls, host="::1") as server:
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster=rotating.trusted)
        with closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as client:
            assert client.get(PATH) == b'{"ok": true}'


def test_a_certificate_with_another_name_is_accepted_only_where_it_is_told(tmp_path: Path) -> None:
    rotating = Rotating(tmp_path, "kubernetes.default.svc")
    with FakeApiServer(lambda _: OK, tls=rotating.tls) as server:
        told: list[dict[str, object]] = [
            {"tls-server-name": "kubernetes.default.svc"},
            {"insecure-skip-tls-verify": True},
        ]
        for named in told:
            kubeconfig = server.kubeconfig(tmp_path / "config", cluster={**rotating.trusted, **named})
            with closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as client:
                assert client.get(PATH) == b'{"ok": true}'
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster=rotating.trusted)
        with (
            closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as client,
            pytest.raises(StoreUnavailable, match="certificate") as caught,
        ):
            client.get(PATH)
        assert "_ssl.c" not in str(caught.value)


def test_a_server_below_a_path_is_called_there(serve: Serve, tmp_path: Path) -> None:
    server, _ = serve(lambda _: OK)
    kubeconfig = server.kubeconfig(tmp_path / "config", cluster={"server": f"{server.url}/k8s/clusters/c-1/"})
    with closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))) as client:
        client.get(PATH)
    assert server.requests[-1].path == f"/k8s/clusters/c-1{PATH}"


@pytest.mark.parametrize("named", ["proxy-url", "HTTPS_PROXY"])
def test_a_proxy_is_gone_through(tmp_path: Path, named: str) -> None:
    rotating = Rotating(tmp_path, "api.example.test")
    with FakeApiServer(lambda _: OK, tls=rotating.tls) as server, ConnectProxy(to_port=server.port) as proxy:
        url = f"http://us:pw@{proxy.address}"
        cluster = {"server": "https://api.example.test:6443", "certificate-authority": str(rotating.file)}
        cluster |= {"proxy-url": url} if named == "proxy-url" else {}
        environ = {"NO_PROXY": "api.example.test"} if named == "proxy-url" else {"HTTPS_PROXY": url}
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster=cluster)
        with closing(KubeClient(load_credentials(kubeconfig=kubeconfig, environ=environ))) as client:
            assert client.get(PATH) == b'{"ok": true}'
            (head,) = proxy.asked
            assert head.startswith("CONNECT api.example.test:6443 ")
            assert "proxy-authorization: basic" in head.lower()
            assert "Bearer" not in head


@pytest.mark.parametrize("proxy", ["socks5://us:pw@127.0.0.1:1", "gopher://us:pw@127.0.0.1:1"])
def test_a_proxy_of_another_kind_is_refused_without_showing_its_password(tmp_path: Path, proxy: str) -> None:
    with FakeApiServer(lambda _: OK) as server:
        kubeconfig = server.kubeconfig(tmp_path / "config", cluster={"proxy-url": proxy})
        with pytest.raises(ConfigurationError, match="proxy") as caught:
            KubeClient(load_credentials(kubeconfig=kubeconfig, environ={}))
        assert "pw" not in str(caught.value)


@pytest.mark.parametrize(
    ("server", "no_proxy", "proxied"),
    [
        ("https://10.0.0.1:6443", "", True),
        ("https://172.30.0.1:443", "10.0.0.0/8,172.30.0.0/16", False),
        ("https://172.31.0.1:443", "172.30.0.0/16,rubbish/99", True),
        ("https://[fd00::1]:443", "fd00::/8", False),
        ("https://[fd00::1]:443", "[fd00::1]", False),
        ("https://10.0.0.1:6443", "10.0.0.1:6443", False),
        ("https://10.0.0.1:6443", "10.0.0.1:443", True),
        ("https://10.0.0.1", "10.0.0.1:443", False),
        ("https://api.example.com", "example.com", False),
        ("https://example.com", "example.com", False),
        ("https://notexample.com", "example.com", True),
        ("https://api.example.com", " .Example.com ", False),
        ("https://example.com", ".example.com", True),
        ("https://api.example.com", "*.example.com", False),
        ("https://api.example.com", "*", False),
        ("https://localhost:6443", "", False),
        ("https://127.0.0.1:6443", "", False),
        ("https://[::1]:6443", "", False),
        ("http://10.0.0.1:8001", "", False),
    ],
)
def test_the_environments_proxy_is_found_as_go_programs_find_it(server: str, no_proxy: str, proxied: bool) -> None:
    found = environment_proxy(server, {"https_proxy": "proxy.test:3128", "NO_PROXY": no_proxy})
    assert found == ("http://proxy.test:3128" if proxied else "")


def test_a_proxys_password_is_not_shown() -> None:
    assert without_password("http://us:p@w@proxy.test:3128") == "http://...@proxy.test:3128"
    assert without_password("http://proxy.test:3128") == "http://proxy.test:3128"


# --- a real API server


@pytest.mark.cluster
def test_a_real_api_servers_restart_costs_a_reader_nothing(api_server: ApiServer, namespace: str) -> None:
    with closing(api_server.client()) as client:
        path = f"/api/v1/namespaces/{namespace}"
        assert json.loads(client.get(path))["metadata"]["name"] == namespace
        api_server.stop_api(kill=True)
        try:
            with pytest.raises(StoreUnavailable, match="cannot be reached"):
                client.get(path)
        finally:
            api_server.start_api()
        assert json.loads(client.get(path))["metadata"]["name"] == namespace
        with pytest.raises(AlreadyExists):
            client.request("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        with pytest.raises(InvalidInput):
            client.request("POST", "/api/v1/namespaces", {"metadata": {"name": "No_Name"}})
        with pytest.raises(NotFound):
            client.get("/apis/nothing.example/v1/things")
