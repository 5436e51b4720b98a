"""An output as the service has it: a manifest, its files, and the archive of both."""

from __future__ import annotations

import gzip
import io
import tarfile
from hashlib import sha256
from pathlib import Path

from nodeobs.model import FailureReason, ProfileType, RunSummary, TriggerKind, encode_json, replace
from nodeobs.outputs.manifest import Manifest, ManifestRun, MergedFile, NodeResult, Piece, SkippedInput
from tests.builders import START
from tests.cli.conftest import Answer, FakeService

DATA = Path(__file__).parent.parent / "data"
KUBELET = (DATA / "kubelet-cpu.pb.gz").read_bytes()
HEAP = (DATA / "kubelet-heap.pb.gz").read_bytes()
CRIO = (DATA / "crio-cpu.pb.gz").read_bytes()
RUN = "/api/v1/runs/nodeobs/run-1"

FILES = {
    "node-1/kubelet-cpu.pb.gz": KUBELET,
    "node-1/crio-cpu.pb.gz": CRIO,
    "node-2/kubelet-cpu.pb.gz": KUBELET,
    "merged/crio-cpu.pb.gz": CRIO,
    "merged/kubelet-cpu.pb.gz": KUBELET,
    "merged/kubelet-heap.pb.gz": HEAP,
}


def piece(name: str, data: bytes) -> Piece:
    target, profile = name.split("/")[1].removesuffix(".pb.gz").split("-")
    return Piece(
        target=target, profile=ProfileType(profile), file=name, bytes=len(data), sha256=sha256(data).hexdigest()
    )


def merged(name: str, data: bytes) -> MergedFile:
    one = piece(name, data)
    return MergedFile(
        target=one.target,
        profile=one.profile,
        file=name,
        bytes=one.bytes,
        sha256=one.sha256,
        nodes=("node-1", "node-2"),
    )


def manifest() -> Manifest:
    lacking = Piece(
        target="crio",
        profile=ProfileType.CPU,
        reason=FailureReason.PROFILING_DISABLED,
        message="start CRI-O with --enable-profile-unix-socket",
    )
    first = tuple(piece(name, data) for name, data in FILES.items() if name.startswith("node-1/"))
    second = (piece("node-2/kubelet-cpu.pb.gz", KUBELET), lacking)
    unmerged = MergedFile(target="containerd", profile=ProfileType.CPU, error="no input could be read")
    skipping = SkippedInput(node="node-2", message="types differ")
    files = [merged(name, data) for name, data in FILES.items() if name.startswith("merged/")]
    return Manifest(
        run=ManifestRun(
            namespace="nodeobs",
            name="run-1",
            uid="uid",
            node_observability="cluster",
            trigger=TriggerKind.API,
            profiles=(ProfileType.CPU,),
            duration_seconds=30,
        ),
        finished_at=START,
        summary=RunSummary(nodes=3, failed=1, bytes=sum(map(len, FILES.values()))),
        nodes=(
            NodeResult(name="node-1", pieces=first),
            NodeResult(name="node-2", pieces=second),
            NodeResult(name="node-3", reason=FailureReason.UNREACHABLE, message="connection refused"),
        ),
        merged=(
            *(replace(f, skipped=(skipping,)) if f.target == "crio" else f for f in files),
            unmerged,
        ),
    )


def archive(members: dict[str, bytes], *extra: tarfile.TarInfo) -> bytes:
    """tar.gz of these files below a folder ``uid``, and of entries without content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"uid/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for info in extra:
            tar.addfile(info)
    return gzip.compress(buffer.getvalue(), 1)


def whole_archive() -> bytes:
    return archive({"manifest.json": encode_json(manifest())} | FILES)


def serve_output(service: FakeService, packed: bytes | None = None) -> None:
    """Let the service have this output."""
    service.on("GET", f"{RUN}/output", Answer(200, encode_json(manifest()), {"Content-Type": "application/json"}))
    service.on("GET", f"{RUN}/output.tar.gz", Answer(200, whole_archive() if packed is None else packed))
    for name, data in FILES.items():
        service.on("GET", f"{RUN}/output/{name}", Answer(200, data))
