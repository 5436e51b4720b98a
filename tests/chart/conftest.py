"""Helm is needed by most; tests are skipped by its name where it is not there."""

from __future__ import annotations

import pytest

from tests.lab.errors import Missing
from tests.lab.programs import need


@pytest.fixture(scope="session")
def helm_there() -> None:
    """Skip without helm."""
    try:
        need(["helm"])
    except Missing as error:
        pytest.skip(str(error))
