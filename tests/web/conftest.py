"""The application with a real store and real outputs, and the service as a real process."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace as replace_services
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient
from prometheus_client import CollectorRegistry

from nodeobs.agents.via import AGENTS
from nodeobs.metrics import Metrics
from nodeobs.model import NodeObservability, Phase, Run, RunStatus, replace
from nodeobs.outputs.store import OutputStore
from nodeobs.runs.rules import admit
from nodeobs.runs.rulesfile import RulesFile
from nodeobs.settings import Settings
from nodeobs.store.sqlite import SqliteStore
from nodeobs.web import create_app
from nodeobs.web.access import LocalAccess
from nodeobs.web.services import Services
from nodeobs.web.tokens import TokensFile
from tests.web.support import TOKENS, TRIGGERS, make_manifest, make_observability, make_run


@pytest.fixture
def triggers_file(tmp_path: Path) -> Path:
    path = tmp_path / "triggers.yaml"
    path.write_text(TRIGGERS)
    return path


@pytest.fixture
def services(tmp_path: Path, triggers_file: Path) -> Iterator[Services]:
    """Everything real but the controller: nothing drives the Runs."""
    settings = Settings.load({"NODEOBS_DATA_DIR": str(tmp_path / "data"), "NODEOBS_TRIGGERS_FILE": str(triggers_file)})
    store = SqliteStore(tmp_path / "data" / "nodeobs.db", now=now)
    metrics = Metrics(CollectorRegistry())
    numbers = itertools.count()
    yield Services(
        settings=settings,
        store=store,
        outputs=OutputStore(settings.output),
        metrics=metrics,
        rules=RulesFile(triggers_file, metrics=metrics),
        access=LocalAccess(),
        admit=partial(admit, now=now, vias=[AGENTS]),
        vias=[AGENTS],
        now=now,
        suffix=lambda: f"{next(numbers):08x}",
        drive=lambda stop: None,
    )
    store.close()


@pytest.fixture
def app(services: Services) -> Flask:
    return create_app(services)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def guarded_app(services: Services, tmp_path: Path) -> Flask:
    """An application with a token file."""
    path = tmp_path / "tokens"
    path.write_text(TOKENS)
    path.chmod(0o600)
    return create_app(replace_services(services, access=TokensFile(path)))


@pytest.fixture
def guarded(guarded_app: Flask) -> FlaskClient:
    """Client of an application with a token file, sending no token by itself."""
    return guarded_app.test_client()


@pytest.fixture
def observability(services: Services) -> NodeObservability:
    """The NodeObservability ``cluster``, stored."""
    return services.store.create(make_observability())


@pytest.fixture
def finished(services: Services, observability: NodeObservability) -> Run:
    """A Run that succeeded, with its output."""
    run = services.store.create(make_run("done"))
    uid = run.metadata.uid
    for name, data in (("node-1/kubelet-cpu.pb.gz", b"0123456789" * 1000), ("merged/kubelet-cpu.pb.gz", b"merged")):
        services.outputs.put_bytes(uid, name, data)
    services.outputs.write_manifest(uid, make_manifest(run))
    status = RunStatus(phase=Phase.SUCCEEDED, output=services.outputs.location(uid))
    return services.store.update(replace(run, status=status))


def now() -> datetime:
    return datetime.now(UTC)
