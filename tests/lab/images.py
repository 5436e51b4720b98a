"""An image made of busybox: pods' sandboxes are made of it, and it does for pods of tests."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Final

from tests.lab.errors import Missing

BUSYBOX: Final = "localhost/busybox:1"
"""Has /bin/busybox and nothing else; sleeps unless told otherwise."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


def write_busybox(busybox: Path, archive: Path) -> None:
    """Write the image, a docker archive, of this busybox.

    Raises:
        Missing: it needs shared libraries, of which the image has none.
    """
    if b"/ld-" in busybox.read_bytes()[:4096]:  # the name of the loader, which a static program has none of
        raise Missing(f"{busybox} is not static: on Debian and Ubuntu, apt-get install busybox-static")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        layer.add(busybox.resolve(), "/bin/busybox")
    configuration = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Entrypoint": ["/bin/busybox"], "Cmd": ["sleep", "2000000"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(content.getvalue()).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [BUSYBOX], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, mode="w") as image:
        _add(image, "layer.tar", content.getvalue())
        _add(image, "config.json", json.dumps(configuration).encode())
        _add(image, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
