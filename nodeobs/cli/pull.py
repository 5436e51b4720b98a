"""``nodeobs pull``: a Run's output as a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from nodeobs.cli.archive import expected_files, unpack
from nodeobs.cli.following import Latest, find
from nodeobs.cli.helptext import examples
from nodeobs.cli.naming import namespace_option, run_argument
from nodeobs.cli.session import Session, client_command
from nodeobs.cli.text import clean, plural, size


@click.command(
    epilog=examples(
        "nodeobs pull latest",
        "nodeobs pull nodeobs/kubelet-slow-1f2e3d4c5b --into /tmp/slow",
        "nodeobs pull latest --context staging --namespace sre",
        "nodeobs pull latest && go tool pprof -http=: */merged/kubelet-cpu.pb.gz",
    )
)
@run_argument
@namespace_option("-n", "--namespace")
@click.option(
    "--into", type=click.Path(path_type=Path), metavar="DIR", help="New folder for the files. [default: the Run's name]"
)
@client_command
def pull(session: Session, *, run: str, namespace: str, into: Path | None) -> None:
    """Download a Run's output.

    That is every node's files, the merged profiles and the manifest. RUN is NAMESPACE/NAME, a NAME, or `latest` for
    the newest Run that delivered anything. Every file is compared with the digest in the manifest. The folder
    appears when it is complete, and never replaces one that is there.
    """
    with session.connect() as service:
        ref = find(service, run, namespace, latest=Latest.DELIVERED, listing=session.command("run list"))
        outputs = service.outputs()
        manifest = outputs.manifest(ref)
        files = expected_files(manifest)
        folder = into or Path(ref.name)
        total = sum(file.bytes for file in files.values())
        with outputs.archive(ref) as chunks, _shown(session, str(ref), total) as progress:
            unpack(chunks, files, folder, top=manifest.run.uid, progress=progress)
    document = {"run": str(ref), "folder": str(folder), "bytes": total, "files": sorted(files)}
    session.answer(document, lambda: clean(f"{plural(len(files), 'file')}, {size(total)}, in {folder}"))


@contextmanager
def _shown(session: Session, title: str, total: int) -> Iterator[Callable[[int], None]]:
    console = Console(stderr=True)
    if session.json or session.quiet or not console.is_terminal:
        yield lambda _count: None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=total)
        yield lambda count: bar.advance(task, count)
