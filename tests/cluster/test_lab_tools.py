"""How the programs of a lab are brought and found; needs none of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.lab import place, tools
from tests.lab.cluster import requirements
from tests.lab.errors import LabError, Missing
from tests.lab.images import write_busybox
from tests.lab.network import MAX_NODES, Network
from tests.lab.place import LABS, claim
from tests.lab.programs import cache, find, need

FAKE_GO = """#!/bin/sh
echo "$@" >> "{folder}/asked"
case "$1" in
env) echo {version} ;;
mod) echo '{{"GoMod": "{folder}/published.mod"}}' ;;
install) name=${{4%@*}}; echo built > "$GOBIN/${{name##*/}}" ;;
build) [ "$6" != k8s.io/kubernetes/cmd/{broken} ] || {{ echo "does not compile" >&2; exit 1; }}; echo built > "$5" ;;
esac
"""
PUBLISHED = "module k8s.io/kubernetes\n\ngo 1.26.0\n\nrequire (\n\tk8s.io/api v0.0.0\n\tgithub.com/x/y v1.2.3\n)\n"


def program(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def go(folder: Path, *, broken: str = "none", version: str = "go1.26.0") -> dict[str, str]:
    """An environment with a Go that builds at once."""
    (folder / "published.mod").write_text(PUBLISHED)
    program(folder / "path", "go").write_text(FAKE_GO.format(folder=folder, broken=broken, version=version))
    return {"XDG_CACHE_HOME": str(folder / "cache"), "PATH": f"{folder / 'path'}:/usr/bin:/bin"}


def test_everything_is_built_once_and_only_what_is_missing_again(tmp_path: Path) -> None:
    environ = go(tmp_path)
    said: list[str] = []
    tools.build(said.append, environ)
    built = {path.name for path in (cache(environ) / "bin").iterdir()}
    assert {"kube-apiserver", "kubelet", "kubectl", "kube-proxy", "coredns", "helm", "versitygw"} <= built
    assert any("[1/9] kube-apiserver" in line for line in said)
    assert "replace k8s.io/api => k8s.io/api v0.36.3" in (cache(environ) / "src" / "go.mod").read_text()
    (tmp_path / "asked").unlink()
    (cache(environ) / "bin" / "kubelet").unlink()
    tools.build(said.append, environ)
    assert [line.split()[0] for line in (tmp_path / "asked").read_text().splitlines()] == ["env", "build"]
    (tmp_path / "asked").unlink()
    tools.build(said.append, environ)
    assert not (tmp_path / "asked").exists()


def test_what_cannot_be_built_is_said_and_what_was_built_stays(tmp_path: Path) -> None:
    environ = go(tmp_path, broken="kubelet")
    with pytest.raises(LabError, match=r"cmd/kubelet failed:\ndoes not compile"):
        tools.build(lambda _: None, environ)
    assert "kube-apiserver" in {path.name for path in (cache(environ) / "bin").iterdir()}
    assert {path.name for path in cache(environ).iterdir()} == {"bin", "src"}


def test_a_go_that_is_too_old_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Missing, match=r"is go1\.19\.8: install 1\.21 or newer"):
        tools.build(lambda _: None, go(tmp_path, version="go1.19.8"))


def test_programs_are_looked_for_in_the_assets_then_the_cache_then_the_path(tmp_path: Path) -> None:
    environ = {"KUBEBUILDER_ASSETS": str(tmp_path / "a"), "XDG_CACHE_HOME": str(tmp_path / "b"), "PATH": str(tmp_path)}
    assert find("kube-apiserver", environ) is None
    for folder in (tmp_path, cache(environ) / "bin", tmp_path / "a"):
        made = program(folder, "kube-apiserver")
        assert find("kube-apiserver", environ) == made


def test_all_that_is_missing_is_named(tmp_path: Path) -> None:
    program(tmp_path, "kubelet")
    environ = {"PATH": str(tmp_path), "HOME": str(tmp_path)}
    with pytest.raises(Missing, match=r"no-such-thing, nor-this \(make cluster-tools"):
        need(["kubelet", "no-such-thing", "nor-this"], environ)
    assert need(["kubelet"], environ) == {"kubelet": tmp_path / "kubelet"}


def test_a_busybox_that_needs_libraries_makes_no_image(tmp_path: Path) -> None:
    (tmp_path / "busybox").write_bytes(b"\x7fELF...\0/lib64/ld-linux-x86-64.so.2\0")
    with pytest.raises(Missing, match="busybox-static"):
        write_busybox(tmp_path / "busybox", tmp_path / "image.tar")
    assert not (tmp_path / "image.tar").exists()


@pytest.mark.parametrize("nodes", [0, MAX_NODES + 1])
def test_a_cluster_has_a_bounded_number_of_nodes(nodes: int) -> None:
    with pytest.raises(LabError, match=f"1 to {MAX_NODES} nodes, not {nodes}"):
        requirements(nodes)


def test_no_two_clusters_share_an_address() -> None:
    networks = [Network(index) for index in range(LABS)]
    ranges = [
        part for each in networks for part in (each.nodes, each.services, *map(each.pods, range(1, MAX_NODES + 1)))
    ]
    assert not any(one.overlaps(other) for number, one in enumerate(ranges) for other in ranges[:number])


def test_places_are_ones_own_and_gone_when_left() -> None:
    one, other = claim("test"), claim("test")
    try:
        assert one.folder != other.folder
        assert not list(place.abandoned("test"))
        (one.folder / "file").write_text("x")
    finally:
        for each in (one, other):
            each.clear()
            each.leave()
    assert not one.folder.exists()
    assert not other.folder.exists()
