"""Send one picture again and again over a number of connections, and tell how many answers came, and how fast."""

import argparse
import asyncio
import json
import statistics
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path

try:
    import uvloop as loop
except ImportError:  # Windows
    import asyncio as loop  # type: ignore[no-redef]


class Client(asyncio.Protocol):
    """One connection that sends its next request when the answer to the last has come."""

    def __init__(self, request: bytes, until: float, warm: float, times: list[float], states: Counter[str]) -> None:
        self.request, self.until, self.warm, self.times, self.states = request, until, warm, times, states
        self.buffer, self.sent = b"", 0.0
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: asyncio.Transport = transport  # type: ignore[assignment]
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found or len(body) < int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]):
            return
        now, self.buffer = time.perf_counter(), b""
        if self.sent >= self.warm:
            self.times.append(now - self.sent)
            self.states[head[9:12].decode()] += 1
        if now < self.until:
            self.send()
        else:
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if time.perf_counter() < self.until or error:
            self.states["lost"] += 1
        self.closed.set_result(None)


async def load(port: int, kind: str, body: bytes, clients: int, seconds: float) -> dict[str, object]:
    """Return requests per second, their median and 99th percentile in milliseconds, and counts by HTTP status."""
    head = f"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {kind}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    times: list[float] = []
    states: Counter[str] = Counter()
    warm = time.perf_counter() + 0.2 * seconds  # the first answers are slower
    until = warm + seconds
    running = asyncio.get_running_loop()
    make = partial(Client, request, until, warm, times, states)
    connected = await asyncio.gather(*(running.create_connection(make, "127.0.0.1", port) for _ in range(clients)))
    await asyncio.gather(*(client.closed for _, client in connected))
    ordered = sorted(times)
    p50, p99 = (statistics.median(times), ordered[int(0.99 * len(ordered))]) if times else (0.0, 0.0)
    return {"per_s": len(times) / seconds, "p50": 1e3 * p50, "p99": 1e3 * p99, "states": dict(states)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("file", type=Path)
    parser.add_argument("--type", default="application/octet-stream")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3)
    options = parser.parse_args()
    body = options.file.read_bytes()
    found = loop.run(load(options.port, options.type, body, options.clients, options.seconds))
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
