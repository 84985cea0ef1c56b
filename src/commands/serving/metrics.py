"""Counters of all worker processes, as text for Prometheus."""

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path

import numpy as np

STATUSES = (200, 400, 401, 404, 405, 408, 413, 415, 422, 431, 499, 500, 503)  # 499: the client left
SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)  # upper bounds of bins
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
HELP = {
    "requests_total": "Answers by status; 499: the client left before its answer.",
    "request_seconds": "Seconds from the whole body of a picture to its answer.",
    "batch_size": "Pictures in one call of the model.",
    "failures_total": "Requests on which a model failed.",
    "in_flight": "Pictures that are decoded or predicted now.",
    "connections": "Open connections.",
    "version": "The current version of the model.",
    "candidate": "The version that a share of the requests gets, 0 for none.",
    "records_lost_total": "Records and feedback that could not be written.",
    "drift_checked_total": "Pictures compared with the reference of the export.",
    "drifting": "How many properties of the pictures or predictions of the current version have drifted.",
}
GAUGES = ("in_flight", "connections", "version", "candidate", "drifting")  # one value for each worker
COUNTERS = ("failures_total", "records_lost_total", "drift_checked_total")
REQUESTS = {status: i for i, status in enumerate(STATUSES)}
LATENCY = len(STATUSES)  # the place of the first bin; after the last come those without bound and the sum
BATCH = LATENCY + len(SECONDS) + 2
OTHERS = {name: BATCH + len(SIZES) + 2 + i for i, name in enumerate((*GAUGES, *COUNTERS))}
PLACES = BATCH + len(SIZES) + 2 + len(OTHERS)


class Metrics:
    """The counters of one worker: its row of a table that all workers have mapped into memory."""

    def __init__(self, worker: int = 0, file: Path | None = None) -> None:
        self.all = np.zeros((1, PLACES)) if file is None else np.memmap(file, np.float64, "r+").reshape(-1, PLACES)
        self.own = self.all[worker]
        for name in GAUGES:
            self.set(name, 0)  # of a process that died

    @staticmethod
    def allocate(file: Path, workers: int) -> None:
        file.write_bytes(bytes(8 * workers * PLACES))

    def request(self, status: int) -> None:
        self.own[REQUESTS[status]] += 1

    def predicted(self, seconds: float) -> None:
        self.own[LATENCY + bisect_left(SECONDS, seconds)] += 1
        self.own[LATENCY + len(SECONDS) + 1] += seconds

    def batch(self, size: int) -> None:
        self.own[BATCH + bisect_left(SIZES, size)] += 1
        self.own[BATCH + len(SIZES) + 1] += size

    def add(self, name: str, number: float = 1) -> None:
        self.own[OTHERS[name]] += number

    def set(self, name: str, number: float) -> None:
        self.own[OTHERS[name]] = number

    def text(self) -> str:
        """Return all metrics in Prometheus' text format: counters of all workers, gauges of each."""
        return "".join(f"{line}\n" for line in self.lines())

    def lines(self) -> Iterator[str]:
        total = self.all.sum(0).tolist()
        yield from head("requests_total", "counter")
        for status, i in REQUESTS.items():
            yield f'serve_requests_total{{status="{status}"}} {total[i]:.0f}'
        for name, bounds, start in (("request_seconds", SECONDS, LATENCY), ("batch_size", SIZES, BATCH)):
            yield from head(name, "histogram")
            counts = np.cumsum(total[start : start + len(bounds) + 1])
            for bound, count in zip((*bounds, "+Inf"), counts, strict=True):
                yield f'serve_{name}_bucket{{le="{bound}"}} {count:.0f}'
            yield f"serve_{name}_sum {total[start + len(bounds) + 1]!r}"
            yield f"serve_{name}_count {counts[-1]:.0f}"
        for name in COUNTERS:
            yield from head(name, "counter")
            yield f"serve_{name} {total[OTHERS[name]]:.0f}"
        for name in GAUGES:
            yield from head(name, "gauge")
            for worker, row in enumerate(self.all):
                yield f'serve_{name}{{worker="{worker}"}} {row[OTHERS[name]]:.0f}'


def head(name: str, kind: str) -> Iterator[str]:
    yield f"# HELP serve_{name} {HELP[name]}"
    yield f"# TYPE serve_{name} {kind}"
