"""Places for outputs: a folder and a bucket."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nodeobs.model import ProfileType, RunSummary, TriggerKind
from nodeobs.outputs.manifest import Manifest, ManifestRun
from nodeobs.outputs.store import OutputStore
from tests.outputs.buckets import Bucket, bucket

UID = "0b7e2c1c-9a55-4b1f-8f0f-2f3f1f0e9d01"
OTHER = "9b7e2c1c-9a55-4b1f-8f0f-2f3f1f0e9d02"


def make_manifest(uid: str = UID, *, parent: str = "cluster", finished_at: datetime | None = None) -> Manifest:
    return Manifest(
        run=ManifestRun(
            namespace="nodeobs",
            name="run-1",
            uid=uid,
            node_observability=parent,
            trigger=TriggerKind.API,
            profiles=(ProfileType.CPU,),
            duration_seconds=30,
        ),
        finished_at=finished_at or datetime(2026, 1, 1, 3, 0, tzinfo=UTC),
        summary=RunSummary(nodes=1, bytes=1),
    )


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    with bucket() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "access")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        yield server


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def folder(root: Path) -> OutputStore:
    return OutputStore(str(root))


@pytest.fixture(params=["folder", "s3"])
def store(request: pytest.FixtureRequest, root: Path) -> OutputStore:
    """The same behaviour is asked of both."""
    if request.param == "folder":
        return OutputStore(str(root))
    request.getfixturevalue("server")
    return OutputStore("s3://profiles/some/prefix")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file to store, larger than one chunk of a read and one part of an upload."""
    path = tmp_path / "source.pb.gz"
    path.write_bytes(bytes(range(256)) * (6 * 4096) + b"end")
    return path
