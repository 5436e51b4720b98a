"""The merging process: ``python -m nodeobs.pprof.merge``, see ``nodeobs.pprof.process`` for the calling side.

Reads one JSON document from its standard input and prints one JSON line for each merge as it is done::

    {"merges": [{"output": path, "inputs": [{"path": path, "labels": {"node": "n1"}}]}]}

    {"output": path, "bytes": 1, "sha256": "…", "inputs": 1, "skipped": [{"path": path, "message": "…"}]}
    {"output": path, "inputs": 0, "skipped": […], "error": "…"}

An input that cannot be used is skipped and named. Exit codes: 0 all outputs written, 1 not all, 2 not such a document.
"""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import os
import resource
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from nodeobs.errors import ProfileError
from nodeobs.pprof.decode import DEFAULT_MAX_BYTES, Reader
from nodeobs.pprof.encode import write
from nodeobs.pprof.merging import Merger
from nodeobs.pprof.profile import Profile

_PR_SET_PDEATHSIG: Final = 1
_NICENESS: Final = 10
# 500 kubelet profiles with no stack in common take a tenth of it; but a small file can unpack to what
# would take all that the machine has, and the service with it.
_MOST_MEMORY: Final = 2 << 30


def main(arguments: Sequence[str]) -> int:
    """Do what standard input asks for; ``--parent PID`` makes the process end with that one."""
    if arguments:
        _end_with(int(arguments[1]))
    os.nice(_NICENESS)
    _bound_memory()
    # Merging makes no reference cycles, and looking for them in all that it holds would take a third of its time.
    gc.disable()
    try:
        merges = [
            (Path(merge["output"]), [(Path(given["path"]), dict(given["labels"])) for given in merge["inputs"]])
            for merge in json.load(sys.stdin)["merges"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"standard input is not a document of merges: {error!r}\n")
        return 2
    failed = False
    for output, inputs in merges:
        answer = _merge(output, inputs)
        failed = failed or "error" in answer
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    return 1 if failed else 0


def _end_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, even by ``kill -9``."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(f"the parent process {parent} is gone")


def _bound_memory() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _MOST_MEMORY if hard == resource.RLIM_INFINITY else min(hard, _MOST_MEMORY)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _merge(output: Path, inputs: Sequence[tuple[Path, dict[str, str]]]) -> dict[str, Any]:
    try:
        return _merge_within_memory(output, inputs)
    except MemoryError:
        error = "the profiles take more memory together than merging may have"
        return {"output": str(output), "inputs": 0, "skipped": [], "error": error}


def _merge_within_memory(output: Path, inputs: Sequence[tuple[Path, dict[str, str]]]) -> dict[str, Any]:
    reader, merger = Reader(), Merger()
    skipped = []
    for path, labels in inputs:
        try:
            merger.add(_read(reader, path), labels)
        except (ProfileError, OSError) as error:
            skipped.append({"path": str(path), "message": str(error)})
    answer: dict[str, Any] = {"output": str(output), "inputs": len(inputs) - len(skipped), "skipped": skipped}
    if len(skipped) == len(inputs):
        return answer | {"error": f"none of the {len(inputs)} profiles can be merged"}
    data = write(merger.result())
    try:
        _store(output, data)
    except OSError as error:
        return answer | {"error": f"cannot write {output}: {error.strerror or error}"}
    return answer | {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def _read(reader: Reader, path: Path) -> Profile:
    try:
        return reader.read(_contents(path))
    except MemoryError:
        raise ProfileError("it takes more memory than merging may have") from None


def _contents(path: Path) -> bytes:
    if path.stat().st_size > DEFAULT_MAX_BYTES:
        raise ProfileError(f"larger than the {DEFAULT_MAX_BYTES} bytes that can be merged")
    return path.read_bytes()


def _store(output: Path, data: bytes) -> None:
    """Write the file; under its own name it is there only when it is whole."""
    with tempfile.NamedTemporaryFile(prefix=f".{output.name}.", dir=output.parent, delete=False) as file:
        temporary = Path(file.name)
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(output)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
