"""Images without a registry: one made of busybox, for pods' sandboxes and pods of tests, and the project's own."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import platform
import ssl
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.lab.errors import LabError, Missing
from tests.lab.programs import need
from tests.processes import ROOT

BUSYBOX: Final = "localhost/busybox:1"
"""Has /bin/busybox and nothing else; sleeps unless told otherwise."""

PROJECT: Final = "localhost/nodeobs:lab"
"""The project's own, as its Dockerfile makes it of Debian's packages."""

_TAKEN: Final = ("Dockerfile", "LICENSE", "app.py", "gunicorn.conf.py", "image", "nodeobs", "requirements.txt")
_KEPT: Final = 3
"""Images: another clone may be using one."""

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_BASE: Final = "localhost/debian:bookworm"
_PACKAGES: Final = "python3,python3-venv,ca-certificates"


def write_busybox(busybox: Path, archive: Path) -> None:
    """Write the image, a docker archive, of this busybox.

    Raises:
        Missing: it needs shared libraries, of which the image has none.
    """
    if b"/ld-" in busybox.read_bytes()[:4096]:  # the name of the loader, which a static program has none of
        raise Missing(f"{busybox} is not static: on Debian and Ubuntu, apt-get install busybox-static")
    with tempfile.TemporaryDirectory(dir=archive.parent) as made:
        layer = Path(made, "layer.tar")
        with tarfile.open(layer, mode="w") as content:
            content.add(busybox.resolve(), "/bin/busybox")
        _write(archive, BUSYBOX, layer, {"Entrypoint": ["/bin/busybox"], "Cmd": ["sleep", "2000000"]})


def project_image(environ: Mapping[str, str] = os.environ) -> Path:
    """The project's image as its sources are now, a docker archive in the cache; built where it is not there.

    Whoever else wants it meanwhile waits, and finds it.

    Raises:
        Missing, LabError: as :func:`build_project`.
    """
    folder = _cache(environ)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        archive = folder / f"nodeobs-{_sources()}.tar"
        if not archive.exists():
            build_project(archive, environ)
        archive.touch()
        for old in sorted(folder.glob("nodeobs-*.tar"), key=lambda path: path.stat().st_mtime)[:-_KEPT]:
            old.unlink()
    return archive


def build_project(archive: Path, environ: Mapping[str, str] = os.environ) -> None:
    """Build the project's image, a docker archive: half a minute, and as much again the first time. Needs root.

    The base stays in the cache. The same sources give the same image.

    Raises:
        Missing: a program is not there, or this is not root.
        LabError: it cannot be built.
    """
    if os.geteuid() != 0:
        raise Missing("an image of Debian's packages can only be made by root")
    buildah = str(need(["buildah"], environ)["buildah"])
    base = _base(_cache(environ), environ)
    options = ["--no-cache", "--pull-never", f"--timestamp={environ.get('SOURCE_DATE_EPOCH', '0')}"]
    options.append(f"--build-arg=BASE={_BASE}")
    authorities = ssl.get_default_verify_paths().cafile
    if authorities is not None:  # there may be one of this machine's own, between it and the packages
        options += [f"--volume={authorities}:/run/ca.crt:ro", "--build-arg=PIP_CERT=/run/ca.crt"]
    with tempfile.TemporaryDirectory(dir=archive.parent) as made:
        # Works wherever root does: no user namespaces, no overlays, no systemd.
        how = {"STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
        storage = [buildah, f"--root={made}/storage", f"--runroot={made}/run"]
        whole = Path(made, "image.tar")
        for arguments in (
            ["pull", "--quiet", f"docker-archive:{base}"],
            ["build", *options, f"--tag={PROJECT}", str(ROOT)],
            ["push", "--quiet", PROJECT, f"docker-archive:{whole}:{PROJECT}"],
        ):
            _run([*storage, *arguments], {**environ, **how})
        whole.replace(archive)


def _cache(environ: Mapping[str, str]) -> Path:
    folder = Path(environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/root"), ".cache"), "nodeobs", "image")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _sources() -> str:
    """A digest of all that the Dockerfile takes, and of what it is built with."""
    digest = hashlib.sha256()
    for name in (*_TAKEN, "tests/lab/images.py"):
        place = ROOT / name
        files = sorted(place.rglob("*")) if place.is_dir() else [place]
        for path in files:
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)} {path.stat().st_mode:o} {path.stat().st_size}\n".encode())
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def configuration(archive: Path) -> dict[str, Any]:
    """An image's configuration, from its docker archive."""
    with tarfile.open(archive) as image:
        manifest = json.loads(_content(image, "manifest.json"))
        found: dict[str, Any] = json.loads(_content(image, manifest[0]["Config"]))
        return found


def _base(folder: Path, environ: Mapping[str, str]) -> Path:
    """An image of a small Debian with Python, from the cache; made where it is not there."""
    archive = folder / f"debian-bookworm-{platform.machine()}.tar"
    if not archive.exists():
        debootstrap = str(need(["debootstrap"], environ)["debootstrap"])
        with tempfile.TemporaryDirectory(dir=folder) as made:
            system, layer, whole = Path(made, "system"), Path(made, "layer.tar"), Path(made, "image.tar")
            _run([debootstrap, "--variant=minbase", f"--include={_PACKAGES}", "bookworm", str(system)], environ)
            _run(
                ["tar", "-C", str(system), "--exclude=./dev/*", "--exclude=./var/cache", "-cf", str(layer), "."],
                environ,
            )
            _write(whole, _BASE, layer, {"Cmd": ["/bin/sh"]})
            whole.replace(archive)
    return archive


def _write(archive: Path, name: str, layer: Path, how: Mapping[str, Any]) -> None:
    """Write an image of one layer, a docker archive; ``how`` it is run."""
    with layer.open("rb") as content:
        digest = hashlib.file_digest(content, "sha256").hexdigest()
    document = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": how,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    with tarfile.open(archive, mode="w") as image:
        image.add(layer, "layer.tar")
        _add(image, "config.json", json.dumps(document).encode())
        _add(image, "manifest.json", json.dumps(manifest).encode())


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _content(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise LabError(f"no docker archive: {name} in it is no file")
    return file.read()


def _run(argv: list[str], environ: Mapping[str, str]) -> None:
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv)} failed:\n{(done.stdout + done.stderr)[-4000:]}")
