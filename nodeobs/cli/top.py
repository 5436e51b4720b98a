"""``nodeobs top``: the functions that used most, of a Run's output or of a file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import click

from nodeobs.cli.archive import expected_files
from nodeobs.cli.choosing import choose
from nodeobs.cli.failures import ExitCode, Failure
from nodeobs.cli.following import Latest, find
from nodeobs.cli.helptext import examples
from nodeobs.cli.naming import complete_run_or_file, namespace_option
from nodeobs.cli.ranking import document, text_of
from nodeobs.cli.session import Session, client_command
from nodeobs.cli.text import clean
from nodeobs.errors import ProfileError
from nodeobs.model import ProfileType
from nodeobs.pprof import read
from nodeobs.pprof import top as rank
from nodeobs.pprof.ranking import Order

MAX_FILE_BYTES = 512 * 1024 * 1024


class _Count(click.IntRange):
    """So many functions: ``-n``, which with every other command is the namespace."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The number; what is none may have been meant as a namespace."""
        if not str(value).lstrip("-").isdecimal():
            self.fail(f"{value!r} is no number of functions; a namespace is given with --namespace", param, ctx)
        return super().convert(value, param, ctx)


class Loaded(NamedTuple):
    """A profile's bytes, and what it is of."""

    data: bytes
    title: str
    others: tuple[str, ...] = ()
    """What could be asked for instead."""
    tags: Mapping[str, str] = {}


@click.command(
    epilog=examples(
        "nodeobs top latest",
        "nodeobs top latest --target crio --node worker-2 --by cum -n 40",
        "nodeobs top kubelet-slow-1f2e3d4c5b --profile heap --sample-type inuse_objects",
        "nodeobs top ./slow/merged/kubelet-cpu.pb.gz",
    )
)
@click.argument("what", metavar="RUN|FILE", shell_complete=complete_run_or_file)
@namespace_option("--namespace")
@click.option("--target", metavar="NAME", help="Of this target. [default: kubelet where there is one, else the first]")
@click.option(
    "--profile",
    type=click.Choice([kind.value for kind in ProfileType if kind is not ProfileType.TRACE]),
    help="Of this type. [default: cpu where there is one, else the first]",
)
@click.option("--node", metavar="NAME", help="Of this node alone. [default: merged over all nodes]")
@click.option("-n", "limit", type=_Count(1, 100_000), default=20, show_default=True, help="So many functions.")
@click.option(
    "--by", type=click.Choice(["flat", "cum"]), default="flat", show_default=True, help="Sort by this column."
)
@click.option(
    "--sample-type", metavar="TYPE", help="What is counted, for example alloc_space. [default: the profile's own]"
)
@client_command
def top(
    session: Session, *, what: str, namespace: str, limit: int, by: Order, sample_type: str | None, **wishes: Any
) -> None:
    """Show the functions that used most, of a Run or of a file.

    The table is that of `go tool pprof -top`. RUN is NAMESPACE/NAME, a NAME, or `latest` for the newest Run that
    delivered anything. What names an existing file is taken as a pprof FILE; of a merged one, --node shows that
    node's part.
    """
    is_file = os.path.isfile(what)  # noqa: PTH113 Path's raises for long names and in folders that may not be read
    if not is_file and (what.startswith(("/", ".")) or what.count("/") > 1):
        raise Failure(f"there is no file {what}", exit_code=ExitCode.NOT_FOUND)
    loaded = _from_file(Path(what), **wishes) if is_file else _from_run(session, what, namespace, **wishes)
    try:
        table = rank(read(loaded.data), limit=limit, by=by, sample_type=sample_type, tags=loaded.tags)
    except ProfileError as error:
        raise Failure(f"{loaded.title}: {error}") from error
    session.answer({"profile": loaded.title} | document(table), lambda: f"{clean(loaded.title)}\n{text_of(table)}")
    if loaded.others:
        session.note(f"There is also {clean(', '.join(loaded.others))}: see --target and --profile.")


def _from_run(
    session: Session, run: str, namespace: str, *, target: str | None, profile: str | None, node: str | None
) -> Loaded:
    with session.connect() as service:
        ref = find(service, run, namespace, latest=Latest.DELIVERED, listing=session.command("run list"))
        outputs = service.outputs()
        manifest = outputs.manifest(ref)
        chosen = choose(manifest, target=target, profile=profile, node=node)
        expected = expected_files(manifest)[chosen.name]
        data = outputs.file(ref, chosen.name, max_bytes=min(expected.bytes, MAX_FILE_BYTES))
    if sha256(data).hexdigest() != expected.sha256:
        raise Failure(f"{chosen.name} is not the file that its manifest describes", hint="try again")
    return Loaded(data, f"Run {ref}: {chosen.title}", chosen.others)


def _from_file(path: Path, *, target: str | None, profile: str | None, node: str | None) -> Loaded:
    if target or profile:
        raise Failure(
            f"--target and --profile choose among a Run's files, and {path} is a file", exit_code=ExitCode.USAGE
        )
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise Failure(f"cannot read {path}: {error}") from error
    if len(data) > MAX_FILE_BYTES:
        raise Failure(f"{path} is larger than {MAX_FILE_BYTES} bytes, which is the most that is read")
    return Loaded(data, str(path), tags={"node": node} if node else {})
