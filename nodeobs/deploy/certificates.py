"""The certificates of the agents, kept in a Secret for each NodeObservability, and the authorities to trust them by."""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Final

import structlog

from nodeobs.deploy.children import PATHS, agent_name, secret_name, server_names
from nodeobs.deploy.drift import Held
from nodeobs.errors import ConfigurationError
from nodeobs.kube.authority import Material, material_from, mend, rotate
from nodeobs.kube.client import KubeClient
from nodeobs.kube.watch import Reflector
from nodeobs.model import decode_json

log = structlog.get_logger(__name__)

_CERTIFICATES: Final = {"labelSelector": "app.kubernetes.io/managed-by=nodeobs,app.kubernetes.io/component=agent"}


class Certificates:
    """What is to be in the Secrets. What was made is remembered until memory of the cluster has it."""

    def __init__(self, *, namespace: str, now: Callable[[], datetime]) -> None:
        self._namespace = namespace
        self._now = now
        self._made: dict[str, Material] = {}

    def of(self, observability: str, held: Held | None) -> Material:
        """The certificate of that NodeObservability's agents, renewed where it is time; ``held`` is the Secret."""
        stored, made = read_material(held), self._made.get(observability)
        names, now = server_names(observability, self._namespace), self._now()
        # What is of a time to come was made by a clock that has been set back.
        newer = made is not None and (stored is None or made.since > stored.since or stored.since > now)
        current = made if newer else stored
        mended = mend(current, names=names, now=now)
        if mended is not current and made is not None and mend(made, names=names, now=now) is made:
            mended = made  # somebody damaged the Secret: agents that run serve this one
        # What the Secret does not have yet is not published: a further step would leave callers without trust.
        published = mended is stored
        self._made[observability] = rotate(mended, names=names, now=now) if published else mended
        return self._made[observability]

    def forget_others(self, observabilities: Collection[str]) -> None:
        """Forget what was made for NodeObservabilities that are gone."""
        self._made = {name: made for name, made in self._made.items() if name in observabilities}

    @staticmethod
    def secret(observability: str) -> str:
        """Name of the Secret."""
        return secret_name(agent_name(observability))


def read_material(secret: Held | None) -> Material | None:
    """What a Secret holds; None where it is nothing to go on with."""
    try:
        data = {key: base64.b64decode(text, validate=True) for key, text in ((secret and secret.data) or {}).items()}
    except (binascii.Error, ValueError):
        return None
    return material_from(data)


class AgentAuthorities:
    """A file with the authorities of all agents' certificates, for whoever calls agents: every replica keeps its own.

    Until an agent has a certificate the file holds an authority that nobody's is of.
    """

    def __init__(
        self, client: KubeClient, *, namespace: str, file: Path, now: Callable[[], datetime], randomness: Random
    ) -> None:
        """Writes the file, so that it can be read at once.

        Raises:
            ConfigurationError: it cannot be written.
        """
        self._file = file
        nobody = mend(None, names=("nobody",), now=now()).bundle
        self._nobody = nobody
        if not file.exists():
            _write(file, nobody)
        self._reflector = Reflector(
            client,
            PATHS["Secret"].collection(namespace),
            _decode,
            params=_CERTIFICATES,
            randomness=randomness,
            changed=self._changed,
        )

    def start(self) -> None:
        """Begin to follow; returns at once."""
        self._reflector.start()

    def close(self) -> None:
        """End the thread."""
        self._reflector.close()

    def _changed(self) -> None:
        bundles = {material.bundle for secret in self._reflector.items() if (material := read_material(secret))}
        whole = b"".join(sorted(bundles)) or self._nobody
        if self._file.exists() and self._file.read_bytes() == whole:
            return
        _write(self._file, whole)
        log.info("authorities of the agents written", file=str(self._file), certificates=len(bundles))


def _decode(raw: bytes) -> Held:
    return decode_json(raw, Held)


def _write(file: Path, content: bytes) -> None:
    temporary = file.with_name(f"{file.name}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with temporary.open("wb") as opened:
            opened.write(content)
            opened.flush()
            os.fsync(opened.fileno())
        temporary.replace(file)
    except OSError as error:
        raise ConfigurationError(f"the agents' authorities cannot be written to {file}: {error}") from error
