"""The composition root: settings become the service's parts, and the parts an application."""

from __future__ import annotations

import os
import random
import secrets
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Final

import structlog
from flask import Flask
from gunicorn.errors import AppImportError
from prometheus_client import CollectorRegistry

from nodeobs.agents.agent import Agent
from nodeobs.agents.client import AgentConnector
from nodeobs.errors import AlreadyExists, ConfigurationError, StoreUnavailable
from nodeobs.metrics import Metrics
from nodeobs.model import Metadata, NodeObservability, Run
from nodeobs.outputs.retention import Policy
from nodeobs.outputs.store import OutputStore
from nodeobs.runs.controller import Controller
from nodeobs.runs.driver import Surroundings
from nodeobs.runs.history import History
from nodeobs.runs.housekeeping import Housekeeping
from nodeobs.runs.rules import admit, highest_term
from nodeobs.runs.rulesfile import RulesFile
from nodeobs.settings import Settings
from nodeobs.store.base import Store
from nodeobs.store.filelock import FileLeadership
from nodeobs.store.sqlite import SqliteStore
from nodeobs.web import create_app
from nodeobs.web.access import LocalAccess
from nodeobs.web.services import Services
from nodeobs.web.tokens import TokensFile

log = structlog.get_logger(__name__)

FIRST_OBSERVABILITY: Final = "cluster"
"""The only name that the operator nodeobs descends from allowed."""

_RESTART_SECONDS = 5.0


def application() -> Flask:
    """The application as the environment configures it: what gunicorn imports.

    Raises:
        AppImportError: the configuration, or the database, cannot be used; gunicorn prints it and ends.
    """
    try:
        return create_app(build(Settings.load(os.environ)))
    except (ConfigurationError, StoreUnavailable) as error:
        raise AppImportError(f"nodeobs: {error}") from error


def build(settings: Settings) -> Services:
    """Every part of the service. Starts nothing.

    Raises:
        ConfigurationError: a file or folder that a setting names cannot be used.
        StoreUnavailable: the database is damaged, or its disk is full.
    """
    metrics = Metrics(CollectorRegistry())
    access = TokensFile(settings.tokens_file) if settings.tokens_file else LocalAccess()
    rules = RulesFile(settings.triggers_file, metrics=metrics)
    store = SqliteStore(settings.data_dir / "nodeobs.db", now=_now)
    _ensure_observability(store)
    outputs = OutputStore(settings.output)
    controller = _controller(settings, store=store, outputs=outputs, metrics=metrics)
    return Services(
        settings=settings,
        store=store,
        outputs=outputs,
        metrics=metrics,
        rules=rules,
        access=access,
        admit=partial(admit, now=_now),
        now=_now,
        suffix=partial(secrets.token_hex, 4),
        drive=partial(_drive, controller.run, metrics),
    )


def _ensure_observability(store: Store) -> None:
    """Have one NodeObservability, over all agents and with all their targets, where there is none."""
    try:
        if not store.list(NodeObservability):
            store.create(NodeObservability(metadata=Metadata(name=FIRST_OBSERVABILITY)))
    except AlreadyExists:
        return  # by another process, just now
    except StoreUnavailable as error:
        log.warning("cannot look for a NodeObservability; create one by hand", error=str(error))


def _controller(settings: Settings, *, store: Store, outputs: OutputStore, metrics: Metrics) -> Controller:
    spool = settings.data_dir / "spool"
    surroundings = Surroundings(
        store=store,
        outputs=outputs,
        connector=AgentConnector(
            tls=settings.agent_tls,
            ca_file=settings.agent_ca_file,
            token_file=settings.agent_token_file,
            now=_now,
            randomness=random.Random(),  # noqa: S311 spreads retries, keeps no secret
        ),
        agents=partial(_agents, settings),
        spool=spool,
        grace_seconds=settings.run_grace_seconds,
        now=_now,
    )
    history = History(keep=settings.run_history)
    housekeeping = Housekeeping(
        store=store,
        history=history,
        outputs=outputs,
        spool=spool,
        policy=Policy(
            max_age=settings.retention_max_age,
            max_count=settings.retention_max_count,
            max_bytes=settings.retention_max_bytes,
        ),
        metrics=metrics,
        now=_now,
    )
    return Controller(
        store=store,
        leadership=FileLeadership(
            settings.data_dir / "leader.lock", known_term=lambda: highest_term(store.list(Run, unfinished=True))
        ),
        surroundings=surroundings,
        history=history,
        housekeeping=housekeeping,
        metrics=metrics,
        now=_now,
    )


def _drive(run: Callable[[threading.Event], None], metrics: Metrics, stop: threading.Event) -> None:
    """Body of the controller's thread: whatever nobody foresaw is logged, counted, and tried again."""
    while not stop.is_set():
        try:
            run(stop)
        except StoreUnavailable as error:
            log.error("cannot lead now; trying again", error=str(error), seconds=_RESTART_SECONDS)  # noqa: TRY400 the message tells all
            stop.wait(_RESTART_SECONDS)
        except Exception:  # a thread's edge
            log.exception("the controller failed; it starts again", seconds=_RESTART_SECONDS)
            metrics.internal_errors.labels("controller").inc()
            stop.wait(_RESTART_SECONDS)


def _agents(settings: Settings) -> list[Agent]:
    return [
        Agent(name=agent.name, host=agent.host, port=agent.port, labels=agent.labels, targets=agent.targets)
        for agent in settings.agents
    ]


def _now() -> datetime:
    return datetime.now(UTC)
