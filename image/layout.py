"""Lays out what the image consists of. Runs in the build stage of the Dockerfile, with the Python of its base.

The image is not made on top of the base, but of those of its files that Python loads: a shell or a package manager
that is not there helps no intruder, and need not be carried to every node.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import re
import shutil
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

USER: Final = 65532
"""Who writes to the folders. Their group is 0: that of a user whom the image does not know, as OpenShift gives one."""
FOLDERS: Final = ("var/lib/nodeobs", "run/node-observability")

COMMANDS: Final = ("gunicorn", "nodeobs", "python", "python3")
UNUSED_PACKAGES: Final = ("pip", "setuptools", "pkg_resources", "_distutils_hack", "distutils-precedence.pth")
UNUSED_FOLDERS: Final = ("kubernetes/aio",)
"""Kubernetes' client once more, for asyncio; nothing imports it."""
NOT_COMPILED: Final = re.compile(r"/kubernetes/client/(models|api)/(?!__init__)")
"""Of Kubernetes' client we use what reads a kubeconfig."""
UNUSED_MODULES: Final = (
    *("distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "test", "tkinter", "turtledemo", "venv"),
    *("__pycache__", "config-*", "dist-packages", "site-packages", "sitecustomize.py"),
    # With libraries that nothing else needs, or that a slim base does not even have.
    *("_curses*", "_dbm.*", "_gdbm.*", "_test*", "_tkinter.*", "nis.*", "readline.*"),
)
LOADED_BY_NAME: Final = "libgcc_s.so.1"
"""What the C library loads to end a thread; no program says that it needs it."""
SETTINGS: Final = ("/etc/ssl", "/etc/nsswitch.conf", "/etc/os-release", "/etc/ld.so.conf", "/etc/ld.so.conf.d")

_START: Final = """#!{folder}/bin/python3
import sys
from nodeobs.cli import main
sys.exit(main())
"""


def packages(folder: Path, application: Path) -> None:
    """Leave of a virtual environment what runs the application, and compile it."""
    site = next(folder.glob("lib/python3.*/site-packages"))
    for name in UNUSED_PACKAGES:
        for path in (site / name, *site.glob(f"{name}-*.dist-info")):
            _remove(path)
    for name in UNUSED_FOLDERS:
        _remove(site / name)
    for path in [*(folder / "bin").iterdir(), *folder.iterdir()]:
        if path.name not in (*COMMANDS, "bin", "lib", "pyvenv.cfg"):
            _remove(path)
    (site / "nodeobs.pth").write_text(f"{application}\n", encoding="utf-8")
    start = folder / "bin" / "nodeobs"
    start.write_text(_START.format(folder=folder), encoding="utf-8")
    start.chmod(0o755)
    for each in (folder, application):
        _compile(each)
        _let_all_read(each)


def base(folder: Path, image: Path) -> None:
    """Fill the image with what the packages in the folder need of the base, a user, and folders to write to."""
    modules = Path(sysconfig.get_path("stdlib"))
    taken = _Taken(image)
    taken.take(Path(sys.executable), (folder / "bin" / "python3").readlink())
    taken.take_modules(modules)
    programs = [path for top in (folder, image) for path in sorted(top.rglob("*")) if _is_program(path)]
    libraries = {*_libraries(programs), *_libraries_by_name(LOADED_BY_NAME)}
    taken.take(*sorted(path for path in libraries if not path.is_relative_to(folder)))
    paths = ssl.get_default_verify_paths()
    ssl_folder = Path(paths.openssl_cafile).parent
    taken.take(*map(Path, SETTINGS), Path(paths.openssl_cafile), Path(paths.openssl_capath), ssl_folder / "openssl.cnf")
    _name_packages(taken)
    subprocess.run(["ldconfig", "-r", str(image)], check=True)
    _remove(image / "var/cache")
    _compile(taken.place(modules), below=image)
    _let_all_read(image)
    _add_user(image)


class _Taken:
    """Files of the base that are in the image as well."""

    def __init__(self, image: Path) -> None:
        self.image = image
        self.files: set[Path] = set()
        for path in Path("/").iterdir():
            if path.is_symlink():  # /lib and its like, where they are links to what is below /usr
                self._link(path)

    def place(self, path: Path) -> Path:
        """Where it is in the image, in a folder that exists."""
        place = self.image / path.relative_to("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def take(self, *paths: Path) -> None:
        """Copy them, folders with all that is in them, links with what they lead to; what does not exist is left."""
        for path in paths:
            real = path.parent.resolve() / path.name
            if real in self.files or not real.exists():
                continue
            if real.is_symlink():
                self.files.add(real)
                self._link(real)
                self.take(real.parent / real.readlink())
            elif real.is_dir():
                self.place(real).mkdir(exist_ok=True)
                self.take(*sorted(real.iterdir()))
            else:
                self.files.add(real)
                shutil.copy2(real, self.place(real))

    def take_modules(self, folder: Path) -> None:
        """Copy the modules of Python, without those that are not used."""
        copies = shutil.copytree(folder, self.place(folder), ignore=shutil.ignore_patterns(*UNUSED_MODULES))
        self.files.update(folder / path.relative_to(copies) for path in copies.rglob("*") if path.is_file())

    def _link(self, path: Path) -> None:
        place = self.place(path)
        place.symlink_to(path.readlink())
        if path.is_dir():
            (self.image / path.resolve().relative_to("/")).mkdir(parents=True, exist_ok=True)


def _is_program(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """What the loader loads for them."""
    for program in programs:
        said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False).stdout
        if "not found" in said:
            raise SystemExit(f"{program} needs what the base does not have:\n{said}")
        yield from map(Path, re.findall(r"(/\S+) \(0x", said))


def _libraries_by_name(name: str) -> Iterator[Path]:
    said = subprocess.run(["ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    yield from map(Path, re.findall(rf"{re.escape(name)} .* => (\S+)", said))


def _name_packages(taken: _Taken) -> None:
    """Say which packages of Debian the files are from, with their licences, where programs that look for flaws look."""
    if shutil.which("dpkg-query") is None:
        return
    # What is below /usr now may be known by the name that it had before.
    names = [name for path in sorted(taken.files) for name in (str(path), str(path).removeprefix("/usr"))]
    said = subprocess.run(["dpkg-query", "--search", *names], capture_output=True, text=True, check=False).stdout
    owners = {owner for line in said.splitlines() for owner in line.rpartition(": ")[0].split(", ")}
    notes = taken.place(Path("/var/lib/dpkg/status.d"))
    notes.mkdir()
    for owner in sorted(owners):
        name = owner.partition(":")[0]
        said = subprocess.run(["dpkg-query", "--status", owner], capture_output=True, text=True, check=True).stdout
        (notes / name).write_text(said, encoding="utf-8")
        taken.take(Path(f"/usr/share/doc/{name}/copyright"))


def _compile(folder: Path, *, below: Path | None = None) -> None:
    """Compile modules once and for all: no time of a file is in what is made, and none is looked at when it is used.

    They remember where they are; ``below`` is what will be the root folder.
    """
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    root = "/" if below else None
    if not compileall.compile_dir(
        folder, maxlevels=20, quiet=1, rx=NOT_COMPILED, invalidation_mode=mode, stripdir=below, prependdir=root
    ):
        raise SystemExit(f"not everything in {folder} compiles")


def _let_all_read(folder: Path) -> None:
    """Have the same modes whatever the umask was where the files come from."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)


def _add_user(image: Path) -> None:
    users = f"root:x:0:0::/:/nologin\nnodeobs:x:{USER}:{USER}::/var/lib/nodeobs:/nologin\n"
    (image / "etc/passwd").write_text(users, encoding="ascii")
    (image / "etc/group").write_text(f"root:x:0:\nnodeobs:x:{USER}:\n", encoding="ascii")
    for name in FOLDERS:
        (image / name).mkdir(parents=True)
        os.chown(image / name, USER, 0)
        (image / name).chmod(0o770)
    (image / "tmp").mkdir()
    (image / "tmp").chmod(0o1777)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    environment, application, root = map(Path, sys.argv[1:])
    packages(environment, application)
    base(environment, root)
