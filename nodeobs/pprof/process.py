"""Merging in a process of its own, so that this one's threads go on undisturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

_LOOK_SECONDS: Final = 0.1
_LONGEST_COMPLAINT: Final = 2000


@dataclass(frozen=True, kw_only=True)
class MergeInput:
    """One profile to merge, and the labels to put on its samples."""

    path: Path
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class MergeJob:
    """Profiles to be merged into ``output``, whose folder exists."""

    output: Path
    inputs: Sequence[MergeInput]


@dataclass(frozen=True, kw_only=True)
class MergeResult:
    """What became of a job: with an ``error``, no file was written."""

    output: Path
    bytes: int = 0
    sha256: str = ""
    inputs: int = 0
    """How many profiles were merged."""
    skipped: tuple[tuple[Path, str], ...] = ()
    """Those that were not, and why."""
    error: str = ""


def merge_in_process(
    jobs: Sequence[MergeJob], *, timeout: float, stop: threading.Event | None = None
) -> list[MergeResult]:
    """Merge each of ``jobs``; the results are in their order.

    The process runs at low priority, inherits no open files, and is killed when ``timeout`` seconds are over, when
    ``stop`` is set, and by the kernel when the calling thread ends. Never raises for a merge that fails.
    """
    command = [sys.executable, "-m", "nodeobs.pprof.merge", "--parent", str(os.getpid())]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        return [MergeResult(output=job.output, error=f"cannot start the merging process: {error}") for job in jobs]
    with process:
        try:
            printed, complaint, reason = _talk(process, _document(jobs), time.monotonic() + timeout, stop)
        finally:
            process.kill()
    reason = reason or f"the merging process ended with status {process.returncode}: {complaint.strip()}"
    answers = {answer["output"]: answer for answer in _answers(printed)}
    return [_result(job, answers.get(str(job.output)), reason) for job in jobs]


def _talk(
    process: subprocess.Popen[str], document: str, deadline: float, stop: threading.Event | None
) -> tuple[str, str, str]:
    """What the process printed, what it complained of, and why it was killed, if it was."""
    reason = ""
    unsent: str | None = document
    while True:
        try:
            printed, complaint = process.communicate(unsent, timeout=_LOOK_SECONDS)
        except subprocess.TimeoutExpired:
            unsent = None
            if time.monotonic() > deadline:
                reason = "merging took too long and was ended"
            elif stop is not None and stop.is_set():
                reason = "merging was stopped"
            if reason:
                process.kill()
        else:
            return printed, complaint[-_LONGEST_COMPLAINT:], reason


def _document(jobs: Sequence[MergeJob]) -> str:
    merges = [
        {
            "output": str(job.output),
            "inputs": [{"path": str(given.path), "labels": dict(given.labels)} for given in job.inputs],
        }
        for job in jobs
    ]
    return json.dumps({"merges": merges})


def _answers(printed: str) -> list[dict[str, Any]]:
    """Whole lines only: a killed process can leave a part of one."""
    return [json.loads(line) for line in printed.splitlines(keepends=True) if line.endswith("\n")]


def _result(job: MergeJob, answer: dict[str, Any] | None, reason: str) -> MergeResult:
    if answer is None:
        return MergeResult(output=job.output, error=reason)
    skipped = tuple((Path(skip["path"]), skip["message"]) for skip in answer.pop("skipped"))
    return MergeResult(skipped=skipped, **answer | {"output": job.output})
