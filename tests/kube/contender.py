"""Another replica, that leads or tries to until it is killed.

``python -m tests.kube.contender KUBECONFIG NAMESPACE DURATION RENEW`` writes a line when it acquires
(``leads TERM``) and when it loses (``lost``).
"""

from __future__ import annotations

import os
import random
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from nodeobs.kube.client import KubeClient
from nodeobs.kube.credentials import load_credentials
from nodeobs.kube.lease import LeaseLeadership


def main() -> None:
    kubeconfig, namespace, duration, renew = sys.argv[1:]
    leadership = LeaseLeadership(
        KubeClient(load_credentials(kubeconfig=Path(kubeconfig), environ={})),
        namespace=namespace,
        name="nodeobs",
        holder=f"contender-{os.getpid()}",
        known_term=lambda: 0,
        now=lambda: datetime.now(UTC),
        monotonic=time.monotonic,
        randomness=random.Random(),
        duration=float(duration),
        renew=float(renew),
    )
    held = False
    while True:
        term = leadership.try_acquire()
        if (term is not None) != held:
            held = not held
            sys.stdout.write(f"leads {term}\n" if held else "lost\n")
            sys.stdout.flush()
        time.sleep(0.1)


if __name__ == "__main__":
    main()
