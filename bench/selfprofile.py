"""What the process's own profiler costs: the share of a CPU that it takes while 32 threads run or wait."""

from __future__ import annotations

import json
import threading
import time

from nodeobs.selfprofile import SelfProfiler

SECONDS = 5.0
WAITING = 30


def main() -> None:
    stop = threading.Event()
    threads = [threading.Thread(target=_work, args=(stop,)) for _ in range(2)]
    threads += [threading.Thread(target=stop.wait) for _ in range(WAITING)]
    for thread in threads:
        thread.start()
    before = time.thread_time()
    size = len(SelfProfiler().profile(SECONDS))
    share = (time.thread_time() - before) / SECONDS
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps({"bench": "selfprofile", "seconds": SECONDS, "cpu_share": round(share, 4), "bytes": size}))


def _work(stop: threading.Event) -> None:
    while not stop.is_set():
        sum(range(2000))


if __name__ == "__main__":
    main()
