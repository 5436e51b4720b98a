"""``nodeobs completion``: click's own completion scripts."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from nodeobs.cli.helptext import examples


@click.command(
    epilog=examples(
        "source <(nodeobs completion bash)                                     # this shell",
        "nodeobs completion bash > /etc/bash_completion.d/nodeobs              # every bash",
        'nodeobs completion zsh > "${fpath[1]}/_nodeobs"',
        "nodeobs completion fish > ~/.config/fish/completions/nodeobs.fish",
    )
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, *, shell: str) -> None:
    """Print the script for tab completion.

    With it, the Tab key completes commands, options and values.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"this click has no completion for {shell}")
    script = kind(ctx.find_root().command, {}, "nodeobs", "_NODEOBS_COMPLETE")
    # source() first runs the shell to look at its version; the person may want the script for another machine.
    click.echo(script.source_template % script.source_vars())
