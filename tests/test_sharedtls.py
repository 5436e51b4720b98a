"""TLS contexts that many threads use at once."""

from __future__ import annotations

import ssl
import subprocess
import sys
import textwrap
from pathlib import Path

import httpx
import pytest
import trustme

from nodeobs.sharedtls import SharedContext, shared_context


def test_servers_are_verified_by_the_authority_alone(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = shared_context(tmp_path / "ca.pem")
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) == 1
    (tmp_path / "none.pem").touch()
    with pytest.raises(ssl.SSLError):
        shared_context(tmp_path / "none.pem")


def test_what_httpx_does_for_each_connection_leaves_it_alone() -> None:
    assert "set_alpn_protocols" in vars(SharedContext)
    context = shared_context()
    with httpx.Client(verify=context, trust_env=False) as client, pytest.raises(httpx.ConnectError):
        client.get("https://127.0.0.1:1")
    assert context.set_alpn_protocols(["h2"]) is None  # type: ignore[func-returns-value]


def test_many_threads_may_connect_with_one_context() -> None:
    program = """
        import ssl, threading, time
        from nodeobs.sharedtls import shared_context
        context, until = shared_context(), time.monotonic() + 1.5
        def connect():
            while time.monotonic() < until:
                context.set_alpn_protocols(["http/1.1"])
                context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="a")
        threads = [threading.Thread(target=connect) for _ in range(16)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=False, timeout=60)
    assert done.returncode == 0
