"""``python -m nodeobs.nodeagent``: the agent's process."""

from __future__ import annotations

import os
import sys
import types


def _leave_out_uvicorns_command_line() -> None:
    # Importing any part of uvicorn imports its command line, and with it click and multiprocessing: 2 MB that the
    # agent has no use for.
    unused = types.ModuleType("uvicorn.main")
    vars(unused).update(Server=None, main=None, run=None)
    sys.modules["uvicorn.main"] = unused


def run() -> int:
    """Run the agent with the process's own arguments and environment."""
    _leave_out_uvicorns_command_line()
    from nodeobs.nodeagent.process import main, prepare_process

    prepare_process()
    return main(sys.argv[1:], os.environ)


if __name__ == "__main__":
    sys.exit(run())
