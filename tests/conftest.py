"""Fixtures and rules for all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes tells about the machine, and about the first one in a new clone, which fills a cache.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

pytest_plugins = ("tests.lab.fixtures",)

NO_SKIPS = os.environ.get("ALLOW_NO_SKIPPED_TESTS") == "1"


def pytest_configure() -> None:
    """Let programs under test hear SIGINT: a script that starts the tests with ``&`` has them all ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one where everything that tests need is meant to be there."""
    report = yield
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and ALLOW_NO_SKIPPED_TESTS=1 allows no skips: {report.longrepr}"
    return report
