"""Bothers the edge from a container of its network until standard input closes; needs Python alone.

Connections that are closed on us are opened again at once, so that their number holds.
Prints one line of JSON when all are open, and one at the end with the counts and the averages.
Usage: nuisances.py HOST IDLE GARBAGE SLOW
"""

import asyncio
import json
import random
import ssl
import sys
from collections import Counter

DICOM_PORT, HTTPS_PORT = 4242, 8443
HIGHEST_PORT = 65535
SCANNERS = 4
REST_SECONDS = 0.2


class Nuisances:
    """Everything that bothers, and how often it did."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.counts: Counter[str] = Counter()
        self.up: Counter[str] = Counter()
        """Open connections of each kind now."""
        self.samples: list[Counter[str]] = []
        # Whose certificate it is does not matter to a nuisance.
        self._context = ssl.create_default_context()
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE

    async def watch(self) -> None:
        """Note how many connections are open, again and again."""
        while True:
            self.samples.append(Counter(self.up))
            await asyncio.sleep(REST_SECONDS)

    def average(self) -> dict[str, int]:
        """Return how many connections of each kind were open on average."""
        return {kind: sum(seen[kind] for seen in self.samples) // len(self.samples) for kind in self.up}

    async def idle(self) -> None:
        """Connect to the DICOM port and say nothing."""
        while True:
            reader, writer = await self._connect(DICOM_PORT, "idle")
            await self._until_closed(reader)
            await self._gone(writer, "idle")

    async def garbage(self) -> None:
        """Send random bytes to the DICOM port, some of them behind the first byte of a request."""
        randomness = random.Random()
        while True:
            _, writer = await self._connect(DICOM_PORT, "garbage")
            try:
                writer.write(randomness.choice((b"", b"\x01\x00")))
                for _ in range(randomness.randrange(1, 50)):
                    writer.write(randomness.randbytes(randomness.randrange(1, 4000)))
                    await writer.drain()
                    await asyncio.sleep(REST_SECONDS)
            except OSError:
                self.counts["garbage refused"] += 1
            await self._gone(writer, "garbage")

    async def slow(self) -> None:
        """Send an HTTP header byte by byte, one a second."""
        while True:
            _, writer = await self._connect(HTTPS_PORT, "slow", self._context)
            try:
                for byte in b"GET / HTTP/1.1\r\nHost: edge\r\nX-Slow: " + b"x" * 1000:
                    writer.write(bytes([byte]))
                    await writer.drain()
                    await asyncio.sleep(1)
            except OSError:
                self.counts["slow refused"] += 1
            await self._gone(writer, "slow")

    async def scan(self, first: int) -> None:
        """Connect to every port in turn, and to the two published ones between any hundred."""
        while True:
            for port in range(first, HIGHEST_PORT, SCANNERS):
                for target in (port, DICOM_PORT, HTTPS_PORT) if port % 100 < SCANNERS else (port,):
                    self.counts["scanned"] += 1
                    try:
                        _, writer = await asyncio.open_connection(self._host, target)
                    except OSError:
                        continue
                    self.counts["scanned open"] += 1
                    writer.close()
            self.counts["scans"] += 1

    async def _connect(
        self, port: int, kind: str, context: ssl.SSLContext | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:
            try:
                opened = await asyncio.open_connection(self._host, port, ssl=context)
            except OSError:
                self.counts[f"{kind} not connected"] += 1
                await asyncio.sleep(REST_SECONDS)
                continue
            self.counts[kind] += 1
            self.up[kind] += 1
            return opened

    async def _until_closed(self, reader: asyncio.StreamReader) -> None:
        try:
            while await reader.read(1000):
                self.counts["answered"] += 1
        except OSError:
            self.counts["reset"] += 1

    async def _gone(self, writer: asyncio.StreamWriter, kind: str) -> None:
        self.up[kind] -= 1
        writer.transport.abort()
        # A refusal at once must not become a busy loop.
        await asyncio.sleep(0)


async def main() -> None:
    """Start everything, say when it is up, and go on until standard input closes."""
    host, idle, garbage, slow = sys.argv[1], *map(int, sys.argv[2:5])
    wanted = {"idle": idle, "garbage": garbage, "slow": slow}
    nuisances = Nuisances(host)
    tasks = [
        *(asyncio.create_task(nuisances.idle()) for _ in range(idle)),
        *(asyncio.create_task(nuisances.garbage()) for _ in range(garbage)),
        *(asyncio.create_task(nuisances.slow()) for _ in range(slow)),
    ]
    # How many are open at one moment varies: the edge ends them all the time.
    while any(nuisances.counts[kind] < number for kind, number in wanted.items()):
        await asyncio.sleep(REST_SECONDS)
    tasks.append(asyncio.create_task(nuisances.watch()))
    tasks += [asyncio.create_task(nuisances.scan(1 + number)) for number in range(SCANNERS)]
    print(json.dumps({"up": nuisances.up}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    print(json.dumps({"counts": nuisances.counts, "up": nuisances.average()}), flush=True)
    for task in tasks:
        task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
