"""What a local folder of outputs needs beyond an object store: durability, and no way out by symbolic links."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

_STAGED = re.compile(r"\.(gz|trace|json)#\d+\Z")
"""obstore writes ``name#1`` and renames it; a killed process leaves it."""


class LocalFolder:
    """The folder ``root``, created for its owner only. All methods raise OSError."""

    def __init__(self, root: Path) -> None:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.root = root.resolve(strict=True)

    def has(self, key: str) -> bool:
        """Whether ``key`` is free of symbolic links on its way: what they lead to is not ours to show or to delete."""
        path = self.root / key
        return not any(step.is_symlink() for step in (path, *path.parents) if self.root in step.parents)

    def files(self, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
        """Key and status of every whole file; links are neither followed nor listed."""
        for path in self._walk(prefix):
            if _STAGED.search(path.name) is None:
                with contextlib.suppress(FileNotFoundError):
                    yield path.relative_to(self.root).as_posix(), path.stat(follow_symlinks=False)

    def sync_file(self, key: str) -> None:
        """Put a file's content on the disk."""
        _sync(self.root / key)

    def sync_folders(self, prefix: str) -> None:
        """Put the names of all files below on the disk."""
        for folder, _, _ in os.walk(self.root / prefix):
            _sync(Path(folder))
        _sync(self.root)

    def write(self, key: str, data: bytes) -> None:
        """Write a small file; once it is seen under its name, it is whole and on the disk."""
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        staged = path.with_name(f"{path.name}#0")
        try:
            with staged.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            staged.replace(path)
        except OSError:
            staged.unlink(missing_ok=True)
            raise
        _sync(path.parent)

    def remove(self, prefix: str) -> None:
        """Remove a folder with all that is in it; of a link, only the link."""
        path = self.root / prefix
        with contextlib.suppress(FileNotFoundError):
            if path.is_symlink():
                path.unlink()
            else:
                shutil.rmtree(path)

    def remove_staged(self, before: datetime) -> int:
        """Remove what is half written and was last written ``before``; the number of such files."""
        staged = [path for path in self._walk("") if _STAGED.search(path.name) and _modified(path) < before.timestamp()]
        for path in staged:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root or any(folder.iterdir()):
                    break
                folder.rmdir()
        return len(staged)

    def _walk(self, prefix: str) -> Iterator[Path]:
        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        if not self.has(prefix):
            return
        for folder, _, names in os.walk(self.root / prefix, onerror=fail):
            for name in names:
                path = Path(folder, name)
                if not path.is_symlink():
                    yield path


def _modified(path: Path) -> float:
    try:
        return path.stat(follow_symlinks=False).st_mtime
    except FileNotFoundError:  # it has just become whole
        return math.inf


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
