#!/usr/bin/env python
"""Load test of `study serve`: clients on the same machine, which ask again as soon as they have an answer.

Each request sends one JPEG. Printed: answers a second, the median and 99th percentile of their times, refusals and
errors, and the server's memory (RSS) during the test. Then come malformed uploads, each of which must get a 4xx with a
sentence; and the time until a new server answers after a SIGKILL.

Usage: python scripts/bench/serve.py MODEL IMAGES [--clients 200] [--seconds 60] [--json]   (two minutes)
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import aiohttp
from harness import Cell, Row, run, turned

from study.use.predict import find_images

FORM, PART = "multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data; %b\r\n\r\n%b\r\n--x--\r\n"


class Server:
    """Server: `study serve` in a process of its own."""

    def __init__(self, model: Path) -> None:
        start = time.perf_counter()
        command = [sys.executable, "-m", "study", "serve", str(model), "--port", "0"]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        self.address = self._process.stderr.readline().strip()
        if not self.address.startswith("http"):
            raise SystemExit(f"the server did not start: {self.address}")
        self.start_seconds = start

    def memory(self) -> float:
        """Return the resident memory (RSS) of the server in MB."""
        lines = Path(f"/proc/{self._process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


async def healthy(server: Server) -> float:
    """Measure the seconds from the start of the server until it answers."""
    async with aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(server.address + "health") as answer:
                    assert answer.status == 200
                    return time.perf_counter() - server.start_seconds
            except aiohttp.ClientConnectionError:
                await asyncio.sleep(0.02)


async def load(server: Server, images: list[bytes], clients: int, seconds: float) -> Row:
    took: list[float] = []
    statuses: Counter[str] = Counter()
    memory = [server.memory()]
    end = time.perf_counter() + seconds

    async def client(session: aiohttp.ClientSession, rng: random.Random) -> None:
        while time.perf_counter() < end:
            start = time.perf_counter()
            try:
                headers = {"Content-Type": "image/jpeg"}
                async with session.post(server.address + "predict", data=rng.choice(images), headers=headers) as answer:
                    await answer.read()
                    statuses[str(answer.status)] += 1
            except aiohttp.ClientError as error:
                statuses[type(error).__name__] += 1
            took.append(time.perf_counter() - start)

    async def watch() -> None:
        while time.perf_counter() < end:
            await asyncio.sleep(seconds / 6)
            memory.append(server.memory())

    connector = aiohttp.TCPConnector(limit=clients)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        await asyncio.gather(watch(), *(client(session, random.Random(number)) for number in range(clients)))
    cuts = statistics.quantiles(took, n=100)
    return {
        "answers": len(took),
        "a second": round(len(took) / seconds, 1),
        "p50 ms": round(1000 * cuts[49]),
        "p99 ms": round(1000 * cuts[98]),
        "statuses": dict(statuses),
        "memory MB": [round(one) for one in memory],
    }


async def malformed(server: Server, image: bytes, count: int) -> Row:
    """Send broken uploads of many kinds, and count the answers."""
    rng = random.Random(0)
    statuses: Counter[int] = Counter()
    silent = 0
    async with aiohttp.ClientSession() as session:
        for number in range(count):
            cut = image[: rng.randrange(1, max(2, len(image) // 3))]
            noise = rng.randbytes(rng.randrange(1, 5000))
            body, kind = (
                (cut, "image/jpeg"),
                (noise, "image/png"),
                (b"", "image/jpeg"),
                (image, "text/plain"),
                (noise, "multipart/form-data"),
                (noise, FORM),
                (PART % (b'name="images"; filename="a"', b"hello"), FORM),
                (b"GIF89a" + noise, "image/gif"),
                (PART % (b'name="a"', b"1"), FORM),
                (b"{}", "application/json"),
            )[number % 10]
            async with session.post(server.address + "predict", data=body, headers={"Content-Type": kind}) as answer:
                statuses[answer.status] += 1
                detail = (await answer.json()).get("detail")
                silent += not (isinstance(detail, str) and len(detail.split()) > 2)
    return {"malformed": dict(statuses), "without a sentence": silent}


async def measure(given: argparse.Namespace) -> Row:
    images = [path.read_bytes() for path in find_images([given.images], list)[:500]]
    server = Server(given.model)
    found: Row = {"start s": round(await healthy(server), 2)}
    await load(server, images, given.clients, min(5.0, given.seconds))  # warm
    found |= await load(server, images, given.clients, given.seconds)
    found |= await malformed(server, images[0], 100)
    server.kill()
    again = Server(given.model)
    found["start after a kill s"] = round(await healthy(again), 2)
    again.kill()
    return found


def cells(given: argparse.Namespace) -> Iterator[Cell]:
    yield f"{given.clients} clients", lambda: asyncio.run(measure(given))


if __name__ == "__main__":
    run(__doc__ or "", cells, {"model": Path, "images": Path, "--clients": 200, "--seconds": 60.0}, turned)
