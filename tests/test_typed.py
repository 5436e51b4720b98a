"""Types that many threads meet for the first time at once."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import msgspec
import pytest

from nodeobs.model import Run
from nodeobs.typed import convert, decode

_PROCESSES = 12
"""Without the lock, one in three ended with SIGSEGV."""


@pytest.mark.parametrize("how", ["decode_json(json.dumps(document), Run)", "from_builtins(document, Run)"])
def test_many_threads_may_decode_a_type_that_none_has_met(how: str) -> None:
    program = f"""
        import json, sys, threading
        sys.setswitchinterval(1e-6)
        from nodeobs.model import Run, decode_json, from_builtins
        trigger = {{"kind": "alert", "alerts": [{{"fingerprint": "a", "startsAt": "2026-01-01T00:00:00Z"}}]}}
        owner = {{"apiVersion": "a", "kind": "b", "name": "c", "uid": "d"}}
        document = {{
            "metadata": {{"name": "a", "ownerReferences": [owner]}},
            "spec": {{"nodeObservabilityRef": {{"name": "a"}}, "trigger": trigger}},
            "status": {{"agents": [{{"name": "a"}}], "conditions": [{{"type": "a", "status": "True"}}]}},
        }}
        barrier, names = threading.Barrier(50), []
        def meet():
            barrier.wait()
            names.append(({how}).metadata.name)
        threads = [threading.Thread(target=meet) for _ in range(50)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert names == ["a"] * 50
    """
    running = [subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)]) for _ in range(_PROCESSES)]
    assert [process.wait(60) for process in running] == [0] * _PROCESSES


def test_what_does_not_fit_is_an_error() -> None:
    with pytest.raises(msgspec.ValidationError):
        decode(b"{}", Run)
    with pytest.raises(msgspec.ValidationError):
        convert({}, Run)


@pytest.mark.parametrize("data", [b'"\xff"', b"[" * 100_000, b"{"], ids=["not UTF-8", "too deep", "no end"])
def test_what_is_no_json_is_one_error(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode(data)


class Deep(msgspec.Struct):
    a: Deep | None = None


def test_what_is_nested_too_deep_does_not_fit() -> None:
    deep: object = {}
    for _ in range(100_000):
        deep = {"a": deep}
    with pytest.raises(msgspec.ValidationError):
        convert(deep, Deep)
