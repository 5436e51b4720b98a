"""Brings the programs of a lab into the cache: each that is missing, and no other."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.lab.cluster import CNI
from tests.lab.errors import LabError, Missing
from tests.lab.programs import KUBERNETES, cache, find

_KUBERNETES: Final = (
    *("kube-apiserver", "kubectl", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"),
)
_OTHERS: Final = {
    "coredns": "github.com/coredns/coredns@v1.15.0",
    "helm": "helm.sh/helm/v4/cmd/helm@v4.3.1",
    "versitygw": "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
}
_PACKAGES: Final = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "runc": "runc",
    "ip": "iproute2",
    "iptables": "iptables",
    "nft": "nftables",
    "busybox": "busybox-static",
    "nsenter": "util-linux",
    "buildah": "buildah",
    "debootstrap": "debootstrap",
}
"""Debian's package of each program."""

_POLICY: Final = Path("/usr/sbin/policy-rc.d")

Say = Callable[[str], None]


def build(say: Say, environ: Mapping[str, str] = os.environ) -> None:
    """Build every program that is not in the cache.

    Raises:
        Missing: there is no Go that can do it.
        LabError: one cannot be built; those that were finished before stay.
    """
    folder = cache(environ)
    wanted = [name for name in (*_KUBERNETES, *_OTHERS) if not (folder / "bin" / name).exists()]
    if wanted:
        go = _Go(folder, environ)
        say(f"Building {len(wanted)} programs into {folder / 'bin'}; all together take 10 to 20 minutes, once.")
        for number, name in enumerate(wanted, start=1):
            say(f"[{number}/{len(wanted)}] {name}: building ...")
            began = time.monotonic()
            go.build(name)
            say(f"[{number}/{len(wanted)}] {name}: {time.monotonic() - began:.0f} s")
    say(f"In {folder / 'bin'} is everything that is built.")


def install(say: Say) -> None:
    """Install Debian's packages of the programs that are missing.

    Raises:
        Missing: some are, and this is not root, or not Debian.
        LabError: apt-get failed.
    """
    missing = {package for program, package in _PACKAGES.items() if find(program) is None}
    missing |= {"containernetworking-plugins"} if not CNI.is_dir() else set()
    if not missing:
        return
    command = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", *sorted(missing)]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(f"on this machine there is no {', '.join(sorted(missing))}: as root, {' '.join(command)}")
    say(f"installing {', '.join(sorted(missing))} ...")
    with _no_services():
        _run(["apt-get", "update", "--quiet"], {**os.environ})
        _run(command, {**os.environ, "DEBIAN_FRONTEND": "noninteractive"})


class _Go:
    """Builds programs into the cache."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        go = shutil.which("go", path=f"{environ.get('PATH', '')}{os.pathsep}/usr/local/go/bin")
        if go is None:
            raise Missing("there is no Go to build the programs with: install 1.21 or newer (https://go.dev/dl)")
        version = _run([go, "env", "GOVERSION"], environ, cwd="/").strip()
        number = re.match(r"go1\.(\d+)", version)
        if number and int(number[1]) < 21:  # from there on, one fetches the Go that Kubernetes wants
            raise Missing(f"{go} is {version}: install 1.21 or newer (https://go.dev/dl)")
        self._go = go
        self._folder = folder
        self._environ = {**environ, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-mod=mod"}
        self._bin = folder / "bin"
        self._source = folder / "src"

    def build(self, name: str) -> None:
        """Build a program; it is there once it is whole.

        Raises:
            LabError: it cannot be built.
        """
        self._bin.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._folder) as made:
            if name in _OTHERS:
                self._run("install", "-ldflags", "-s -w", _OTHERS[name], cwd=made, GOBIN=made, GOFLAGS="")
            else:
                self._describe_kubernetes()
                target = f"k8s.io/kubernetes/cmd/{name}"
                self._run("build", "-ldflags", _ldflags(), "-o", f"{made}/{name}", target, cwd=self._source)
            (Path(made) / name).replace(self._bin / name)

    def _describe_kubernetes(self) -> None:
        """Write a module that requires Kubernetes, which for itself can only be built from a clone of its repository.

        It requires its own staging modules at v0.0.0: each must be replaced by what was published.
        """
        self._source.mkdir(exist_ok=True)
        description = self._source / "go.mod"
        if description.exists():
            return
        with tempfile.TemporaryDirectory(dir=self._folder) as empty:
            said = self._run("mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}", cwd=empty, GOFLAGS="")
        module = Path(json.loads(said)["GoMod"]).read_text(encoding="utf-8")
        lines = ["module nodeobs/lab", *re.findall(r"^go .*$", module, re.MULTILINE)]
        lines.append(f"require k8s.io/kubernetes v{KUBERNETES}")
        staging = re.findall(r"^\s+(k8s\.io/\S+) v0\.0\.0$", module, re.MULTILINE)
        lines += [f"replace {each} => {each} v0.{KUBERNETES.partition('.')[2]}" for each in staging]
        description.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def _run(self, *arguments: str, cwd: Path | str, **environ: str) -> str:
        return _run([self._go, *arguments], {**self._environ, **environ}, cwd=cwd)


def _run(argv: list[str], environ: Mapping[str, str], *, cwd: Path | str | None = None) -> str:
    done = subprocess.run(argv, cwd=cwd, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LabError(f"{' '.join(argv)} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def _ldflags() -> str:
    major, minor, _ = KUBERNETES.split(".")
    values = {"gitVersion": f"v{KUBERNETES}", "gitMajor": major, "gitMinor": minor}
    return "-s -w " + " ".join(f"-X k8s.io/component-base/version.{name}={value}" for name, value in values.items())


@contextmanager
def _no_services() -> Iterator[None]:
    """Keep Debian from starting what it installs: a lab starts its own."""
    if _POLICY.exists():
        yield
        return
    _POLICY.write_text("#!/bin/sh\nexit 101\n", encoding="ascii")
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()
