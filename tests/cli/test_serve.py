"""``nodeobs serve`` before it becomes gunicorn."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cli.conftest import Invoke


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_an_address_that_is_in_use_is_told_at_once_and_what_to_do(nodeobs: Invoke, tmp_path: Path, host: str) -> None:
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    with socket.create_server((host.strip("[]"), 0), family=family) as taken:
        address = f"{host}:{taken.getsockname()[1]}"
        result = nodeobs("serve", "--bind", address)
    assert result.exit_code == 2
    assert f"cannot listen at {address}: Address already in use" in result.stderr
    assert "NODEOBS_BIND" in result.stderr
