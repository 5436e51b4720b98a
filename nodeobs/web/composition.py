"""The composition root: settings become the service's parts, and the parts an application."""

from __future__ import annotations

import os
import secrets
import threading
from contextlib import ExitStack
from functools import partial

import structlog
from flask import Flask
from gunicorn.errors import AppImportError
from prometheus_client import CollectorRegistry

from nodeobs.errors import ConfigurationError, StoreUnavailable
from nodeobs.metrics import Metrics
from nodeobs.outputs.retention import Policy
from nodeobs.outputs.store import OutputStore
from nodeobs.runs.controller import Controller
from nodeobs.runs.driver import Surroundings
from nodeobs.runs.history import History
from nodeobs.runs.housekeeping import Housekeeping
from nodeobs.runs.rules import admit
from nodeobs.runs.rulesfile import RulesFile
from nodeobs.settings import Settings
from nodeobs.web import create_app
from nodeobs.web.clock import utc_now
from nodeobs.web.parts import Parts
from nodeobs.web.services import Services
from nodeobs.web.slots import Slots
from nodeobs.web.standalone import standalone_parts

log = structlog.get_logger(__name__)

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
    rules = RulesFile(settings.triggers_file, metrics=metrics)
    parts = _parts(settings, metrics)
    outputs = OutputStore(settings.output)
    controller = _controller(settings, parts, outputs=outputs, metrics=metrics)
    return Services(
        settings=settings,
        store=parts.store,
        outputs=outputs,
        metrics=metrics,
        rules=rules,
        access=parts.access,
        admission=parts.admission,
        creations=Slots(parts.creations, what="creations of Runs"),
        admit=partial(admit, now=utc_now, vias=parts.vias),
        vias=parts.vias,
        now=utc_now,
        suffix=partial(secrets.token_hex, 4),
        drive=partial(_drive, parts, controller, metrics),
    )


def _parts(settings: Settings, metrics: Metrics) -> Parts:
    if settings.mode == "standalone":
        return standalone_parts(settings)
    # Only here: what speaks to the API server takes 30 MB that a service by itself need not hold.
    from nodeobs.web.clustered import clustered_parts

    return clustered_parts(settings, metrics)


def _controller(settings: Settings, parts: Parts, *, outputs: OutputStore, metrics: Metrics) -> Controller:
    spool = settings.data_dir / "spool"
    surroundings = Surroundings(
        store=parts.store,
        outputs=outputs,
        connector=parts.connector,
        agents=parts.agents,
        node_proxy=parts.node_proxy,
        spool=spool,
        grace_seconds=settings.run_grace_seconds,
        now=utc_now,
        settling_seconds=parts.settling_seconds,
        recorder=parts.recorder,
    )
    history = History(keep=settings.run_history)
    housekeeping = Housekeeping(
        store=parts.store,
        history=history,
        outputs=outputs,
        spool=spool,
        policy=Policy(
            max_age=settings.retention_max_age,
            max_count=settings.retention_max_count,
            max_bytes=settings.retention_max_bytes,
        ),
        metrics=metrics,
        now=utc_now,
    )
    return Controller(
        store=parts.store,
        leadership=parts.leadership,
        surroundings=surroundings,
        history=history,
        beside=(housekeeping.run, *parts.beside_leading),
        metrics=metrics,
        now=utc_now,
    )


def _drive(parts: Parts, controller: Controller, metrics: Metrics, stop: threading.Event) -> None:
    """Body of the controller's thread: whatever nobody foresaw is logged, counted, and tried again."""
    with ExitStack() as stack:
        parts.start(stack, stop)
        while not stop.is_set():
            try:
                controller.run(stop)
            except StoreUnavailable as error:
                log.error("cannot lead now; trying again", error=str(error), seconds=_RESTART_SECONDS)  # noqa: TRY400 the message tells all
                stop.wait(_RESTART_SECONDS)
            except Exception:  # a thread's edge
                log.exception("the controller failed; it starts again", seconds=_RESTART_SECONDS)
                metrics.internal_errors.labels("controller").inc()
                stop.wait(_RESTART_SECONDS)
