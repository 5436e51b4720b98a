"""The token file."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from nodeobs.errors import ConfigurationError
from nodeobs.web.access import Role, RoleCaller
from nodeobs.web.tokens import TokensFile, parse_tokens
from tests.web.support import ADMIN, RUNNER, TOKENS, VIEWER


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(TOKENS)
    path.chmod(0o600)
    return path


def test_each_token_has_its_caller(path: Path) -> None:
    tokens = TokensFile(path)
    assert tokens.find(VIEWER) == RoleCaller("vera", Role.VIEWER)
    assert tokens.find(RUNNER) == RoleCaller("rupert", Role.RUNNER)
    assert tokens.find(ADMIN) == RoleCaller("ada", Role.ADMIN)
    assert tokens.find("other") is None
    assert tokens.find("") is None


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("secret-token\n", ["line 1", "token,user,role"]),
        ("# fine\n\nsecret-token,user\n", ["line 3"]),
        ("secret-token,,viewer\n", ["line 1"]),
        (",user,viewer\n", ["line 1"]),
        ("secret-token,user,\n", ["line 1", "allowed are viewer, runner, admin"]),
        ("secret-token,user,root\n", ["'root'", "viewer, runner, admin"]),
        ("secret-token,a,viewer\nsecret-token,b,admin\n", ["line 2", "earlier line"]),
        ("# nothing\n", ["no token"]),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(path: Path, text: str, words: list[str]) -> None:
    path.write_text(text)
    with pytest.raises(ConfigurationError) as caught:
        TokensFile(path)
    assert "secret-token" not in str(caught.value)
    assert str(path) in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_not_there_or_not_text(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="NODEOBS_TOKENS_FILE"):
        TokensFile(tmp_path / "nothing")
    path.write_bytes(b"\xff\xfe,user,viewer")
    with pytest.raises(ConfigurationError, match="cannot read"):
        TokensFile(path)


def test_a_changed_file_is_read_again(path: Path) -> None:
    tokens = TokensFile(path)
    replace(path, "new-token,nora,admin\n")
    assert tokens.find("new-token") == RoleCaller("nora", Role.ADMIN)
    assert tokens.find(VIEWER) is None


def test_a_file_that_becomes_wrong_changes_nothing_and_is_logged_once(path: Path) -> None:
    tokens = TokensFile(path)
    replace(path, "secret-token\n")
    with capture_logs() as logged:
        assert tokens.find(VIEWER) is not None
        assert tokens.find(ADMIN) is not None
    assert [entry["log_level"] for entry in logged] == ["error"]
    assert "secret-token" not in str(logged)
    path.unlink()
    assert tokens.find(VIEWER) is not None
    replace(path, "new-token,nora,admin\n")
    assert tokens.find(VIEWER) is None


def test_a_file_that_everybody_can_read_is_warned_of(path: Path) -> None:
    path.chmod(0o644)
    with capture_logs() as logged:
        TokensFile(path)
    assert [entry["log_level"] for entry in logged] == ["warning"]


@given(st.text(max_size=200))
def test_any_text_is_taken_or_refused(text: str) -> None:
    try:
        callers = parse_tokens(text, source="tokens")
    except ConfigurationError:
        return
    assert callers


def replace(path: Path, text: str) -> None:
    """Put a new file in the place of the old one, as `kubectl` and editors do."""
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.replace(path)
