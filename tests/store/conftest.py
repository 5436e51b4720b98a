"""Stores to test: whoever adds one adds it to ``open_store``, and it has to pass the same suite."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nodeobs.store.base import Store
from nodeobs.store.sqlite import SqliteStore


def utc_now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "nodeobs.db"


@pytest.fixture(params=["sqlite"])
def open_store(request: pytest.FixtureRequest, path: Path) -> Iterator[Callable[[], Store]]:
    """Opens the same store again, as another replica would."""
    with ExitStack() as stack:

        def open_one() -> Store:
            assert request.param == "sqlite"
            return stack.enter_context(closing(SqliteStore(path, now=utc_now)))

        yield open_one


@pytest.fixture
def store(open_store: Callable[[], Store]) -> Store:
    return open_store()
