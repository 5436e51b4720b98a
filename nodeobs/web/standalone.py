"""The parts of a service by itself: a database, a file lock, a token file, agents from the settings."""

from __future__ import annotations

import random
from typing import Final

import structlog

from nodeobs.agents.agent import Agent
from nodeobs.agents.client import AgentConnector
from nodeobs.errors import AlreadyExists, StoreUnavailable
from nodeobs.model import Metadata, NodeObservability, Run
from nodeobs.runs.rules import highest_term
from nodeobs.settings import Settings
from nodeobs.store.base import Store
from nodeobs.store.filelock import FileLeadership
from nodeobs.store.sqlite import SqliteStore
from nodeobs.web.access import LocalAccess
from nodeobs.web.clock import utc_now
from nodeobs.web.parts import Parts
from nodeobs.web.tokens import TokensFile

log = structlog.get_logger(__name__)

FIRST_OBSERVABILITY: Final = "cluster"
"""The only name that the operator nodeobs descends from allowed."""


def standalone_parts(settings: Settings) -> Parts:
    """Parts that need nothing but this machine.

    Raises:
        ConfigurationError: a file or folder that a setting names cannot be used.
        StoreUnavailable: the database is damaged, or its disk is full.
    """
    access = TokensFile(settings.tokens_file) if settings.tokens_file else LocalAccess()
    store = SqliteStore(settings.data_dir / "nodeobs.db", now=utc_now)
    _ensure_observability(store)
    agents = [
        Agent(name=agent.name, host=agent.host, port=agent.port, labels=agent.labels, targets=agent.targets)
        for agent in settings.agents
    ]
    return Parts(
        store=store,
        leadership=FileLeadership(
            settings.data_dir / "leader.lock", known_term=lambda: highest_term(store.list(Run, unfinished=True))
        ),
        access=access,
        connector=AgentConnector(
            tls=settings.agent_tls,
            ca_file=settings.agent_ca_file,
            token_file=settings.agent_token_file,
            server_name=settings.agent_server_name,
            now=utc_now,
            randomness=random.Random(),  # noqa: S311 spreads retries, keeps no secret
        ),
        agents=lambda _observability: agents,
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
