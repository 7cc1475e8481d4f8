"""A known device that stores small images one after another until its standard input closes.

Runs in a container of its own; prints one line of JSON: the number of stores, those that were not
answered with success, and the seconds of the slowest one.
Usage: python -m tests.adversary.witness --host edge --calling CT1 --seed NAME
"""

import argparse
import json
import socket
import sys
import threading
import time

from tests import hostile
from tests.integration import raw_store

PAUSE_SECONDS = 0.2
PATIENCE = 20.0


def main() -> int:
    """Store until nobody listens any more, and tell how that went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="edge")
    parser.add_argument("--calling", default="CT1")
    parser.add_argument("--seed", default="witness")
    arguments = parser.parse_args()
    over = threading.Event()

    def wait() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait, daemon=True).start()
    # Once: a question to Docker's name server that is lost waits for seconds, and the edge keeps its address.
    address = (socket.gethostbyname(arguments.host), 4242)
    seconds: list[float] = []
    failed: list[str] = []
    stored: list[str] = []
    print("ready", flush=True)
    while not over.is_set():
        item = hostile.good(f"{arguments.seed}/{len(seconds)}")
        began = time.monotonic()
        answer = raw_store.store(address, item, patience=PATIENCE, calling=arguments.calling)
        seconds.append(time.monotonic() - began)
        if answer.status == 0:
            stored.append(item.uid)
        else:
            failed.append(f"{answer.text} after {seconds[-1]:.1f} s")
        over.wait(PAUSE_SECONDS)
    told = {
        "stores": len(seconds),
        "failed": failed[:10],
        "slowest_seconds": round(max(seconds, default=0.0), 2),
        "stored": stored,
    }
    print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
