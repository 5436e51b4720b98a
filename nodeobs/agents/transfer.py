"""Bringing one file from an agent to the spool, whole or not at all."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import httpx

from nodeobs.agents import failures
from nodeobs.agents.client import AgentClient
from nodeobs.agents.spool import MAX_FILE_BYTES, spooled
from nodeobs.errors import AgentError, AgentUnavailable
from nodeobs.model import FileInfo

ATTEMPTS = 5


async def fetch(client: AgentClient, run_uid: str, info: FileInfo, *, folder: Path, naps: Iterator[float]) -> Path:
    """Path of the file in ``folder``; one that is already there with that size and digest is not fetched again.

    ``info.name`` must have been checked against what was asked for. A transfer that breaks is gone on with where it
    broke, after each of ``naps``, with at most ``ATTEMPTS`` requests in all.

    Raises:
        AgentUnavailable: the agent cannot be reached any more.
        AgentError: BadResponse (size or digest are wrong), StorageFull, or Internal (the spool cannot be written).
    """
    if info.bytes > MAX_FILE_BYTES:
        what = f"{info.name} has {info.bytes} bytes; at most {MAX_FILE_BYTES} are fetched"
        raise failures.bad_response(client.agent, what)
    final = folder / info.name
    if not await asyncio.to_thread(_is_there, final, info):
        with spooled(client.agent, final) as file:
            await _Transfer(client, run_uid, info, file).run(naps)
    return final


class _Transfer:
    """One file on its way: what has come so far, and its digest."""

    def __init__(self, client: AgentClient, run_uid: str, info: FileInfo, file: BinaryIO) -> None:
        self._client = client
        self._run_uid = run_uid
        self._info = info
        self._file = file
        self._digest = hashlib.sha256()
        self._received = 0

    async def run(self, naps: Iterator[float]) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                await self._receive()
            except AgentUnavailable:
                if attempt == ATTEMPTS:
                    raise
            if self._received == self._info.bytes:
                break
            if attempt < ATTEMPTS:
                await asyncio.sleep(next(naps))
        self._verify()

    async def _receive(self) -> None:
        headers = {}
        if self._received:
            headers = {"range": f"bytes={self._received}-", "if-range": f'"{self._info.sha256}"'}
        async with self._client.file(self._run_uid, self._info.name, headers=headers) as response:
            if self._received and not self._continues(response):
                self._restart()
            if response.status_code == 416:
                return
            async for chunk in response.aiter_raw():
                self._keep(chunk)

    def _continues(self, response: httpx.Response) -> bool:
        if response.status_code != 206:
            return False
        begin = re.match(r"bytes (\d{1,19})-", response.headers.get("content-range", ""))
        if begin is None or int(begin[1]) != self._received:
            raise self._wrong("it sent another part than was asked for")
        return True

    def _restart(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._digest = hashlib.sha256()
        self._received = 0

    def _keep(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._received > self._info.bytes:
            raise self._wrong(f"it sent more than the {self._info.bytes} bytes it had announced")
        self._digest.update(chunk)
        self._file.write(chunk)

    def _verify(self) -> None:
        if self._received != self._info.bytes:
            raise self._wrong(f"{self._received} of {self._info.bytes} bytes came, in {ATTEMPTS} attempts")
        if self._digest.hexdigest() != self._info.sha256:
            raise self._wrong("its SHA-256 digest is not the one it had announced")

    def _wrong(self, what: str) -> AgentError:
        return failures.bad_response(self._client.agent, f"{self._info.name}: {what}")


def _is_there(path: Path, info: FileInfo) -> bool:
    try:
        with path.open("rb") as file:
            same_size = os.fstat(file.fileno()).st_size == info.bytes
            return same_size and hashlib.file_digest(file, "sha256").hexdigest() == info.sha256
    except OSError:
        return False  # what is wrong with the spool shows when it is written
