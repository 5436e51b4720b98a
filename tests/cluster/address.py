"""An address of this machine that the API server accepts in EndpointSlices, which loopback's are not."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Final

from tests.lab.errors import Missing

ALIAS: Final = "10.255.254.253"
"""Given to the loopback interface where the machine has no other address."""


def own_address() -> str:
    """The machine's first address, or an alias on its loopback.

    Raises:
        Missing: there is none, and only root can make one.
    """
    found = _addresses("-4", "address", "show", "scope", "global", "up")
    if found:
        return found[0]
    if os.geteuid() != 0:
        raise Missing("this machine has no address but loopback's, and only root can give it one")
    subprocess.run(["ip", "address", "replace", f"{ALIAS}/32", "dev", "lo"], check=True)
    return ALIAS


def _addresses(*arguments: str) -> list[str]:
    shown = subprocess.run(["ip", "-json", *arguments], capture_output=True, text=True, check=True).stdout
    return [
        info["local"] for link in json.loads(shown or "[]") for info in link.get("addr_info", ()) if "local" in info
    ]
